package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket/download"
)

// fetch downloads a tarball to its file in fetch/, going on with what an earlier cycle
// left there. The file is returned at its beginning; its hash is the one in the manifest,
// and nothing in it was looked at. A new order ends it with errOrder.
func (c *cycle) fetch(ctx context.Context, t target, b layout.Bundle) (*os.File, error) {
	f, err := c.dir.Fetched(b.Name)
	if err != nil {
		return nil, err
	}
	if err := c.download(ctx, f, t, b); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func (c *cycle) download(ctx context.Context, f *os.File, t target, b layout.Bundle) error {
	info, err := f.Stat()
	if err != nil {
		return reason.OnDisk(err)
	}
	have := min(info.Size(), b.Size, info.Sys().(*syscall.Stat_t).Blocks*512)
	if err := c.room(ctx, b, have); err != nil {
		return err
	}
	if have > 0 {
		c.log.Info("fetching on", "object", b.Name, "bytes", b.Size, "there", have)
	}
	add, done := c.meter("fetch", b.Size)
	defer done()
	// A pin for another release, or the taking back of the one that t is by.
	watched, stop := until(ctx, func() bool { return c.ordered(t.Version) || t.Pin && c.unpinned() })
	key := layout.ReleaseKey(c.cfg.App, t.Version, b.Name)
	err = download.File(watched, c.bucket, key, f, download.Want{Size: b.Size, SHA256: b.SHA256}, download.Options{Progress: add})
	ordered := stop()
	switch {
	case err != nil && ordered && ctx.Err() == nil:
		return errOrder
	case errors.Is(err, fs.ErrNotExist):
		return reason.Errorf(reason.IO, "it is not in the storage (%v)", err)
	}
	return err
}

// until returns a context that ends when there is an order: the emergency exit does not wait
// for the network. stop ends the watching, and says whether there was one.
func until(ctx context.Context, order func() bool) (_ context.Context, stop func() bool) {
	ctx, cancel := context.WithCancel(ctx)
	ordered := make(chan bool, 1)
	go func() {
		defer cancel()
		for sleep(ctx, time.Second) == nil {
			if order() {
				ordered <- true
				return
			}
		}
		ordered <- false
	}()
	return ctx, func() bool {
		cancel()
		return <-ordered
	}
}

// room makes sure that what is missing of the tarball, and what it unpacks to, fit on
// the disk beside the reserve, taking away what is needed for nothing when they do not.
func (c *cycle) room(ctx context.Context, b layout.Bundle, have int64) error {
	bytes, inodes := missing(b, have)
	return c.fit(ctx, bytes, inodes)
}

// missing returns how many more bytes and inodes it takes to fetch and unpack b when have
// bytes of its tarball are on disk.
func missing(b layout.Bundle, have int64) (bytes, inodes int64) {
	const block = 4096
	return b.Size - have + b.Unpacked + (b.Entries+16)*block, b.Entries + 16
}

// dropFetched deletes what was fetched of a tarball, unless a later cycle goes on with it:
// one of the release that is still wanted, when what ended this cycle passes by itself.
// When the disk is full, space is worth more than a transfer.
func (c *cycle) dropFetched(code reason.Code) {
	if c.dry {
		return
	}
	version := ""
	switch code {
	case reason.IO, reason.Rollout, reason.Halted: // what waits for the window is unpacked
		version = c.wanted()
	}
	prefix := ""
	if version != "" {
		prefix = fmt.Sprintf("%s-%s-", c.cfg.App, version)
	}
	if err := c.dir.DropFetched(prefix); err != nil {
		c.warn("%s", err)
	}
}

// wanted returns the version that should run, "" when none was ever named.
func (c *cycle) wanted() string {
	switch {
	case c.pin != nil:
		return c.pin.Release
	case c.channel != nil:
		return c.channel.Version
	}
	return ""
}
