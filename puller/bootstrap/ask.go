package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/puller"
)

// askLimit is how long each of those who are asked before the first change may take.
const askLimit = 30 * time.Second

const unchanged = "nothing was changed"

// ask asks the channel repo and the storage, before the first change, whether these flags can
// be meant: a slip of the pen in one of them is to be seen before it is in a file. A dry run
// that has no credentials asks nobody.
func (n *Node) ask(ctx context.Context) error {
	if n.creds.unwritten() {
		return nil
	}
	if n.o.Channels.URL != Bucket {
		if err := n.askFleet(ctx); err != nil {
			return err
		}
	}
	if _, err := os.Stat(n.o.configFile()); err == nil {
		return nil // that one counts, and doctor tells of it
	}
	return n.askStorage(ctx)
}

// askFleet refuses a tier that fleet.toml does not have. That it cannot be read is a note: it
// is not signed, and needed for nothing else here.
func (n *Node) askFleet(ctx context.Context) error {
	fleet, err := n.readFleet(ctx)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		n.note("nobody looked whether the fleet has a tier %q: %s", n.o.Tier, err)
		return nil
	}
	tier, err := fleet.Tier(n.o.Tier)
	if err != nil {
		return fmt.Errorf("--tier: %w; %s", err, unchanged)
	}
	if !tier.Provisioned {
		n.note("tier %q is not provisioned: nothing is promoted to it before fleet.toml says otherwise", tier.Name)
	}
	return nil
}

func (n *Node) readFleet(ctx context.Context) (*channels.Fleet, error) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	c, done, err := n.usable()
	if err != nil {
		return nil, err
	}
	defer done()
	tmp, err := os.MkdirTemp("", "puller-fleet-")
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	defer os.RemoveAll(tmp)
	r, err := repo.Open(tmp, n.channelRepo(c))
	if err != nil {
		return nil, err
	}
	defer r.Close() // nothing is written through it
	snap, err := r.Fetch(ctx, "")
	if err != nil {
		return nil, err
	}
	data, err := snap.Read("fleet.toml", channels.MaxFleet)
	if err != nil {
		return nil, err
	}
	return channels.ParseFleet(data)
}

// channelRepo is where the flags say that channels are.
func (n *Node) channelRepo(c credentials) repo.Config {
	r := n.o.Channels
	r.TokenFile, r.SSHKey, r.KnownHosts, r.OwnsMirror = c.token.file, c.sshKey, c.knownHosts, true
	return r
}

// askStorage looks as a dry run of the puller does. What it refuses is what no wait mends by
// itself, or what would be there if the place were the right one; what was signed wrongly, or
// was not promoted yet, is told by the first update.
func (n *Node) askStorage(ctx context.Context) error {
	cfg, done, err := n.load(n.o.Root)
	if err != nil {
		return err
	}
	defer done()
	p, err := puller.New(ctx, cfg, slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	defer p.Close() // nothing was written
	s := p.Survey(ctx, askLimit)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case s.Poll != nil && mistaken(s.Poll) && n.o.Channels.URL != Bucket:
		return fmt.Errorf("--channels: %w; see that it is the builder's; %s", s.Poll, unchanged)
	case s.Poll != nil && mistaken(s.Poll):
		return n.strange(s.Poll)
	case s.Manifest != nil && mistaken(s.Manifest):
		return n.strange(s.Manifest)
	case s.Channel == nil:
		return n.askBucket(ctx)
	}
	return nil
}

// mistaken reports whether an error may be that of asking in the wrong place, or with the wrong
// credentials.
func mistaken(err error) bool {
	return !errors.Is(err, puller.ErrNotPromoted) && reason.Of(err).Exit() <= reason.Config.Exit() || errors.Is(err, bucket.ErrNoBucket)
}

// askBucket asks for what is in every bucket that has a mirror. That it is not there means
// nothing, unless the bucket is not, or does not know these credentials.
func (n *Node) askBucket(ctx context.Context) error {
	c, done, err := n.usable()
	if err != nil {
		return err
	}
	defer done()
	at := n.o.Storage
	at.AccessKeyFile, at.SecretKeyFile = c.access.file, c.secret.file
	b, err := bucket.Open(ctx, at)
	if err != nil {
		return n.strange(err)
	}
	limited, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	_, err = b.Stat(limited, layout.TrustKey(n.o.App, 1))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err == nil, errors.Is(err, fs.ErrNotExist) && !errors.Is(err, bucket.ErrNoBucket):
		return nil
	}
	return n.strange(err)
}

// strange is a storage that these flags cannot mean.
func (n *Node) strange(err error) error {
	flags := []string{"--storage"}
	if n.o.Storage.Endpoint != "" {
		flags = append(flags, "--endpoint")
	}
	if n.creds.access.file != "" {
		flags = append(flags, n.creds.access.file, n.creds.secret.file)
	}
	return fmt.Errorf("--storage: %w; see that the builder means the same by %s; %s", err, strings.Join(flags, ", "), unchanged)
}

func (n *Node) note(format string, args ...any) {
	n.notes = append(n.notes, fmt.Sprintf(format, args...))
}

// Notes returns what a person should know of what was asked.
func (n *Node) Notes() []string { return n.notes }
