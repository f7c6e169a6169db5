package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"makenot.work/sando/channels/mirror"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/signing"
)

// Values of channels.source.
const (
	sourceGit    = "git"
	sourceBucket = "bucket"
)

// ErrNotPromoted is matched where there is no channel of this node's tier at all: nothing went
// wrong, as long as none was ever accepted.
var ErrNotPromoted = errors.New("nothing was promoted")

// notMirrored is that of a mirror.
type notMirrored struct{}

func (notMirrored) Error() string        { return "nothing was mirrored" }
func (notMirrored) Is(target error) bool { return target == ErrNotPromoted }

// news is the signed documents that one poll found. They are judged by the same rules
// wherever they come from.
type news interface {
	// walk follows the trust chain from held; see channels.Walk.
	walk(ctx context.Context, held *signing.Trust, accept func(*signing.Trust, signing.Signed) error) (*signing.Trust, error)

	// channel returns the tier's channel document with those signatures by kids that are
	// there. The error has the reason "stale" when there is none.
	channel(ctx context.Context, kids []string) (signing.Signed, error)

	// refused says what a refusal of channels.Accept means for what came from here.
	refused(err error, s signing.Signed, kids []string) error

	// taken remembers that everything in it was accepted.
	taken() error
}

// ask asks where the configuration says for news. There is nothing but what is known when
// both results are nil. done ends the use of the news.
func (c *cycle) ask(ctx context.Context) (n news, done func(), err error) {
	if c.cfg.Channels.Source == sourceBucket {
		n, err = c.askMirror(ctx)
		return n, func() {}, err
	}
	return c.askRepo(ctx)
}

// commit is news from the channel repo.
type commit struct {
	*cycle
	snap *repo.Snapshot
}

func (c *cycle) askRepo(ctx context.Context) (news, func(), error) {
	r, done, err := c.repo()
	if err != nil {
		return nil, done, err
	}
	snap, err := r.Fetch(ctx, c.st.Head)
	if err != nil {
		return nil, done, err
	}
	if snap.Rewritten {
		c.warn("the history of the channel repo was rewritten since commit %s; the signed counters still hold", c.st.Head)
	}
	return &commit{c, snap}, done, nil
}

// repo returns the channel repo, seen through a mirror that is kept from cycle to cycle;
// a dry run has one of its own, and done takes it away.
func (c *cycle) repo() (r *repo.Repo, done func(), err error) {
	done = func() {}
	if c.dry {
		tmp, err := os.MkdirTemp("", "puller-dry-run-")
		if err != nil {
			return nil, done, err
		}
		done = func() { os.RemoveAll(tmp) }
		if r, err = repo.Open(tmp, c.cfg.repo()); err != nil {
			return nil, done, err
		}
		return r, func() {
			r.Close() // nothing is written through it
			os.RemoveAll(tmp)
		}, nil
	}
	if c.mirror == nil {
		r, err := repo.Open(c.dir.Path("git"), c.cfg.repo())
		if err != nil {
			return nil, done, err
		}
		c.mirror = r
	}
	return c.mirror, done, nil
}

func (n *commit) walk(_ context.Context, held *signing.Trust, accept func(*signing.Trust, signing.Signed) error) (*signing.Trust, error) {
	return n.snap.Walk(held, accept)
}

func (n *commit) channel(_ context.Context, kids []string) (signing.Signed, error) {
	path := repo.ChannelFile(n.cfg.Tier)
	s, err := n.snap.Signed(path, kids, layout.MaxChannel)
	if errors.Is(err, fs.ErrNotExist) {
		return s, reason.Errorf(reason.Stale, "the channel repo has no %s: %w to tier %q yet, or somebody removed it; what runs stays; `builder promote %s` makes one, if fleet.toml has that tier", path, ErrNotPromoted, n.cfg.Tier, n.cfg.Tier)
	}
	if err != nil {
		return s, fmt.Errorf("read channel %q: %w", n.cfg.Tier, err)
	}
	return s, nil
}

func (n *commit) refused(err error, _ signing.Signed, _ []string) error { return err }

// taken remembers the commit, and whether its history was rewritten. A rewritten history
// is reported, not refused: the signed counter decides.
func (n *commit) taken() error {
	if n.snap.Rewritten {
		n.record(node.Event{Event: "history rewritten", Message: fmt.Sprintf("%s is no ancestor of %s", n.st.Head, n.snap.Commit)})
	}
	if n.st.Head == n.snap.Commit {
		return nil
	}
	n.st.Head, n.st.Rewritten = n.snap.Commit, n.snap.Rewritten
	return n.save()
}

// object is news from the mirror in the bucket.
type object struct {
	*cycle
	m    mirror.Mirror
	copy *mirror.Copy
}

func (c *cycle) askMirror(ctx context.Context) (news, error) {
	m := mirror.Mirror{Bucket: c.bucket, App: c.cfg.App}
	found, err := m.Poll(ctx, c.cfg.Tier, c.mirrored())
	switch {
	case errors.Is(err, bucket.ErrSame):
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, reason.Errorf(reason.Stale, "%w: %w for tier %q yet, or somebody removed it; what runs stays; `builder mirror %s` copies it from the channel repo",
			err, notMirrored{}, c.cfg.Tier, c.cfg.Tier)
	case err != nil:
		return nil, err
	}
	return &object{c, m, found}, nil
}

// mirrored returns the version of the channel object that has nothing new for this node.
// There is none unless the state that was read from it is still the accepted one, and
// still good under the newest trust: a signature may have come that makes it so.
func (c *cycle) mirrored() string {
	seen := c.st.Mirror
	if seen == nil || c.channel == nil || layout.Sum(c.channel.doc) != seen.Channel || c.checkChannel() != nil {
		return ""
	}
	return seen.Version
}

func (n *object) walk(ctx context.Context, held *signing.Trust, accept func(*signing.Trust, signing.Signed) error) (*signing.Trust, error) {
	return n.m.Walk(ctx, held, accept)
}

func (n *object) channel(ctx context.Context, kids []string) (signing.Signed, error) {
	return n.copy.Signed(ctx, kids)
}

func (n *object) refused(err error, s signing.Signed, kids []string) error {
	return mirror.Refused(err, s, kids)
}

// maxVersion is the length of the longest version of an object that is remembered.
const maxVersion = 256

// taken remembers the version of the object. A server that makes versions which state.json
// cannot hold is asked for the whole object each time.
func (n *object) taken() error {
	seen := node.Mirror{Version: n.copy.Version, Channel: layout.Sum(n.copy.Doc)}
	if was := n.st.Mirror; was != nil && *was == seen {
		return nil
	}
	if seen.Version == "" || len(seen.Version) > maxVersion || canon.Text(seen.Version, false) != nil {
		return nil
	}
	n.st.Mirror = &seen
	return n.save()
}
