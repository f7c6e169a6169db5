package repo

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/channels/repo/remote"
	"makenot.work/sando/internal/reason"
)

// Config says where the channel repo is.
type Config struct {
	URL    string // https://host/path, ssh://user@host/path or file:///dir
	Branch string // the one that decides, "main"
	Path   string // of the directory with channels/, trust/ and fleet.toml; "" is the root

	// By what the host and this side are known; see package transport.
	TokenFile, CAFile  string // https
	SSHKey, KnownHosts string // ssh

	// OwnsMirror says that nobody else has a use for the directory of the mirror:
	// whatever is found in its place is removed.
	OwnsMirror bool
}

// Repo is the channel repo, seen through its mirror. It is not for several goroutines.
type Repo struct {
	c      Config
	remote remote.Remote
	m      *mirror
	head   plumbing.Hash // in the mirror and verified; zero: not known
	past   past
	news   int64                                    // bytes that Branches may bring
	wait   func(ctx context.Context, try int) error // between two tries to push
}

// past is the last answer to the question whether a history was rewritten.
type past struct {
	last, head plumbing.Hash
	rewritten  bool
}

// Open opens the channel repo with its mirror in dir, which is made when it is missing
// and made anew when it is broken. It does not look at the repo itself. A directory
// that holds anything but a mirror is refused, unless Config.OwnsMirror.
func Open(dir string, c Config) (*Repo, error) {
	if err := Check(c); err != nil {
		return nil, err
	}
	at, err := remote.Open(c.remote())
	if err != nil {
		return nil, fmt.Errorf("open channel repo: %w", err)
	}
	m, err := openMirror(dir, c.OwnsMirror)
	if err != nil {
		return nil, err
	}
	return &Repo{c: c, remote: at, m: m, news: maxBranchesNews, wait: remote.Pause}, nil
}

// Close ends idle connections. A Repo that lives on keeps one, so that a poll is a request.
func (r *Repo) Close() error { return r.remote.Close() }

func (c Config) remote() remote.Config {
	return remote.Config{URL: c.URL, TokenFile: c.TokenFile, CAFile: c.CAFile, SSHKey: c.SSHKey, KnownHosts: c.KnownHosts}
}

// Check judges a configuration by itself: the URL, that the settings fit together, branch and
// path. Files are looked at by Open. Errors have the reason "config".
func Check(c Config) error {
	if err := remote.Check(c.remote()); err != nil {
		return err
	}
	if err := checkBranch(c.Branch); err != nil {
		return err
	}
	if c.Path == "" {
		return nil
	}
	if err := objects.CheckPath(c.Path); err != nil {
		return reason.Errorf(reason.Config, "%w", err)
	}
	return nil
}

func checkBranch(name string) error {
	ref := plumbing.NewBranchReferenceName(name)
	if err := ref.Validate(); err != nil || name == "" || strings.HasPrefix(name, "-") {
		return reason.Errorf(reason.Config, "branch %q is not a name that git allows", name)
	}
	return nil
}

// Fetch returns the newest state of the branch. last is the commit seen before, or "";
// whether the new one descends from it is reported, never refused. Errors have the
// reason "stale" when there is no such branch, "format" when it names no commit,
// "limit" when the commit is too big, "io" or "disk" otherwise.
//
// When nothing is new, one Repo looks at nothing but the branch.
func (r *Repo) Fetch(ctx context.Context, last string) (*Snapshot, error) {
	s, err := r.fetch(ctx, last)
	for try := 1; errors.Is(err, remote.ErrMoved) && try <= maxMoved; try++ {
		if werr := r.wait(ctx, try); werr != nil {
			return nil, errors.Join(err, werr)
		}
		s, err = r.fetch(ctx, last)
	}
	if errors.Is(err, errBroken) {
		if err := r.drop(); err != nil {
			return nil, err
		}
		s, err = r.fetch(ctx, last)
	}
	if err != nil {
		return nil, fmt.Errorf("fetch channel repo: %w", err)
	}
	return s, nil
}

// maxMoved bounds how often a branch is looked at again that moved while it was fetched.
const maxMoved = 5

// drop throws the mirror away.
func (r *Repo) drop() error {
	r.head = plumbing.ZeroHash
	return r.m.empty()
}

func (r *Repo) fetch(ctx context.Context, last string) (*Snapshot, error) {
	head, err := r.remote.Branch(ctx, r.c.Branch)
	if err != nil {
		return nil, err
	}
	if head != r.head {
		// Not while branches are read, whose snapshots are in it.
		if err := r.makeRoom(head); err != nil {
			return nil, err
		}
		if err := r.take(ctx, newVerification(), head); err != nil {
			return nil, err
		}
		if err := r.m.setHead(head); err != nil {
			return nil, err
		}
		r.head = head
	}
	s, err := r.snapshot(head)
	if err != nil {
		return nil, err
	}
	s.Rewritten, err = r.rewritten(ctx, last, head)
	return s, err
}

// makeRoom throws a crowded mirror away, unless it has the commit.
func (r *Repo) makeRoom(commit plumbing.Hash) error {
	have, err := r.m.Has(commit)
	if err != nil || have || !r.m.crowded() {
		return err
	}
	return r.drop()
}

// take makes sure that the commit is in the mirror, whole.
func (r *Repo) take(ctx context.Context, v *verification, commit plumbing.Hash) error {
	have, err := r.m.Has(commit)
	if err != nil {
		return err
	}
	if !have {
		err := r.remote.Fetch(ctx, r.m, commit)
		if reason.Of(err) == reason.Disk {
			// What has come of it may be what the disk is full of, and would stay.
			return errors.Join(err, r.drop())
		}
		if err != nil {
			return err
		}
	}
	return r.m.verify(ctx, v, commit, r.c.Path)
}

// rewritten reports whether last is not in the history of head.
func (r *Repo) rewritten(ctx context.Context, last string, head plumbing.Hash) (bool, error) {
	if last == "" {
		return false, nil
	}
	if !plumbing.IsHash(last) {
		return false, reason.Errorf(reason.Format, "last commit %q is not an object name", last)
	}
	old := plumbing.NewHash(last)
	if r.past.last != old || r.past.head != head {
		found, err := r.remote.Contains(ctx, r.m, old, head)
		if err != nil {
			return false, err
		}
		r.past = past{last: old, head: head, rewritten: !found}
	}
	return r.past.rewritten, nil
}

// Bounds on what Branches looks at.
const (
	maxBranches     = 1000
	maxBranchesNews = 128 << 20 // bytes that are not in the mirror
)

// Branches returns the newest state of each branch with a name that begins with prefix.
// Branches that hold no commit, or have names that git does not allow, are left out.
func (r *Repo) Branches(ctx context.Context, prefix string) (map[string]*Snapshot, error) {
	heads, err := r.remote.Branches(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list branches %q: %w", prefix+"*", err)
	}
	if len(heads) > maxBranches {
		return nil, reason.Errorf(reason.Limit, "list branches %q: %d are more than %d; delete old ones", prefix+"*", len(heads), maxBranches)
	}
	found := make(map[string]*Snapshot, len(heads))
	v := newVerification()
	before := r.m.written
	for name, head := range heads {
		if checkBranch(name) != nil {
			continue
		}
		s, err := r.branch(ctx, v, head)
		if errors.Is(err, errBroken) {
			if err := r.drop(); err != nil {
				return nil, err
			}
			v = newVerification()
			s, err = r.branch(ctx, v, head)
		}
		if r.m.written-before > r.news {
			return nil, reason.Errorf(reason.Limit, "fetch branches %q: they hold more than %d new bytes; delete old ones", prefix+"*", r.news)
		}
		if reason.Of(err) == reason.Format {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("fetch branch %q: %w", name, err)
		}
		found[name] = s
	}
	return found, nil
}

func (r *Repo) branch(ctx context.Context, v *verification, head plumbing.Hash) (*Snapshot, error) {
	if err := r.take(ctx, v, head); err != nil {
		return nil, err
	}
	return r.snapshot(head)
}

// Merged reports whether the commit is in the history of head. It is not when it was
// squashed or rebased: compare what the commits hold to find that out.
func (r *Repo) Merged(ctx context.Context, commit string, head *Snapshot) (bool, error) {
	rewritten, err := r.rewritten(ctx, commit, head.hash)
	if err != nil {
		return false, fmt.Errorf("look for commit %s in the channel repo: %w", commit, err)
	}
	return !rewritten, nil
}
