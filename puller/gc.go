package puller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
)

// held is one release on disk, as the choice of what to keep sees it.
type held struct {
	Version string
	At      time.Time // when it was put in place
	Foreign bool
	Good    bool // it ran well here, or is what the channel names, and has not failed
}

// superfluous returns the releases that may go, those that never ran well first and then the
// oldest: all but the last retain in this order, and never one that keep names or that
// another deployer made.
func superfluous(releases []held, keep map[string]bool, retain int) []string {
	own := slices.DeleteFunc(slices.Clone(releases), func(r held) bool { return r.Foreign })
	slices.SortStableFunc(own, func(a, b held) int {
		switch {
		case a.Good == b.Good:
			return a.At.Compare(b.At)
		case b.Good:
			return -1
		}
		return 1
	})
	var out []string
	for _, r := range own[:max(0, len(own)-retain)] {
		if !keep[r.Version] {
			out = append(out, r.Version)
		}
	}
	return out
}

const (
	// maxCollected is how many releases one cycle takes away while there is room.
	maxCollected = 20
	// maxDeleted is how many files one cycle deletes of what was taken away or left over.
	maxDeleted = 100_000
)

// tidy takes away releases that are needed for nothing. What is too much for one cycle goes
// in the next ones. Nothing depends on it: what cannot be taken away is reported.
func (c *cycle) tidy(ctx context.Context) {
	if c.st.Intent != nil || c.cur.Version == "" || ctx.Err() != nil {
		return
	}
	if err := c.collect(ctx); err != nil {
		c.warn("old releases: %s", err)
	}
}

// clean deletes what was taken away, and what cycles that died left behind.
func (c *cycle) clean(ctx context.Context) {
	if err := c.dir.Clean(c.upTo(ctx, maxDeleted)); err != nil {
		c.warn("leftovers: %s", err)
	}
}

// ballast makes sure that the next way back finds space.
func (c *cycle) ballast() {
	if c.st.Intent != nil {
		return // its way back may need what room there is
	}
	err := c.dir.Ballast(c.cfg.reserve)
	if reason.Of(err) == reason.Disk {
		// Without figures: they change at every poll, and it would be news each time.
		err = fmt.Errorf("the filesystem of %s has no room for it beside the reserve (limits.reserve); `df` tells what is free", c.cfg.Root)
	}
	if err != nil {
		c.warn("no ballast, so that going back on a full disk may fail: %s", err)
	}
}

// upTo says yes n times. It tells the beat, so that slow disks are not taken for a hang.
func (c *cycle) upTo(ctx context.Context, n int) func() bool {
	return func() bool {
		if n%1000 == 0 {
			c.begin(Tidying, tidyTime)
		}
		n--
		return n >= 0 && ctx.Err() == nil
	}
}

// collect takes away releases that are needed for nothing, those that never ran well
// first and then the oldest, until `retain` are left. Their files are deleted by Clean.
func (c *cycle) collect(ctx context.Context) error {
	versions, err := c.dir.Releases()
	if err != nil || len(versions) <= c.cfg.Retain {
		return err
	}
	releases, err := c.held(versions)
	if err != nil {
		return err
	}
	old := superfluous(releases, c.needed(), c.cfg.Retain)
	for _, v := range old[:min(len(old), maxCollected)] {
		if err := c.discard(v); err != nil || ctx.Err() != nil {
			return err
		}
	}
	return nil
}

// held describes releases by when they were put in place. What is damaged in them does not
// matter: when it is needed for nothing it goes like the others.
func (c *cycle) held(versions []string) ([]held, error) {
	var releases []held
	for _, v := range versions {
		at, own, err := c.dir.Placed(v)
		if err != nil {
			return nil, err
		}
		releases = append(releases, held{Version: v, At: at, Foreign: !own, Good: c.st.RanWell(v, "") || c.isNext(v)})
	}
	return releases, nil
}

// isNext reports whether the channel names v, and it has not failed here: with a pin in force it
// waits for the end of that.
func (c *cycle) isNext(v string) bool {
	ch := c.channel
	return ch != nil && ch.Version == v && c.st.IsBlocked(v, ch.Manifest, ch.Attempt) == nil
}

// discard takes a release away, unless an order named it just now: a pin is given without
// the lock.
func (c *cycle) discard(v string) error {
	c.begin(Tidying, tidyTime)
	switch p, err := c.dir.Pin(); {
	case err != nil:
		return err // which release is pinned is not known
	case p != nil && p.Release == v:
		return nil
	}
	if err := c.dir.Trash(v); err != nil {
		return err
	}
	c.log.Info("removed an old release", "version", v)
	return nil
}

// fit makes sure that so many bytes and inodes fit on the disk, beside the reserve. When
// they do not, all that is needed for nothing goes first, the oldest release before others,
// also those that are retained for going back to further, until it fits.
func (c *cycle) fit(ctx context.Context, bytes, inodes int64) error {
	short := c.dir.Space(bytes, inodes, c.cfg.reserve)
	if reason.Of(short) != reason.Disk {
		return short
	}
	old, err := c.expendable()
	if err != nil {
		return err
	}
	// What was begun is the first thing to go; it may be all that it takes.
	for _, v := range append([]string{""}, old...) {
		if err := c.giveUp(ctx, v); err != nil {
			return err
		}
		if short = c.dir.Space(bytes, inodes, c.cfg.reserve); reason.Of(short) != reason.Disk {
			return short
		}
	}
	return reason.Errorf(reason.Disk, "%w: no release is left that could be taken away for it; make room there, or lower limits.reserve", short)
}

// free takes away all that is needed for nothing, and reports whether there was anything.
func (c *cycle) free(ctx context.Context) (bool, error) {
	old, err := c.expendable()
	for _, v := range old {
		if err := c.giveUp(ctx, v); err != nil {
			return false, err
		}
	}
	return len(old) > 0, err
}

// expendable returns all releases that are needed for nothing, the oldest first.
func (c *cycle) expendable() ([]string, error) {
	versions, err := c.dir.Releases()
	if err != nil {
		return nil, err
	}
	releases, err := c.held(versions)
	return superfluous(releases, c.needed(), 0), err
}

// giveUp takes a release away, if v is one, and waits until its space is free.
func (c *cycle) giveUp(ctx context.Context, v string) error {
	if v != "" {
		if err := c.discard(v); err != nil {
			return err
		}
	}
	if err := c.dir.Reclaim(c.upTo(ctx, never)); err != nil {
		return err
	}
	return ctx.Err()
}

// never is a bound that no directory reaches.
const never = 1 << 62

// needed returns the versions that are never taken away: what runs, ran well or before, what
// the pin or else the channel names, what an intent names, and what was repaired.
func (c *cycle) needed() map[string]bool {
	keep := map[string]bool{c.cur.Version: true, c.st.Repair: true, c.wanted(): true}
	for _, r := range []*node.Release{c.st.Running, c.st.LastGood, c.st.Previous} {
		keep[version(r)] = true
	}
	for i := c.st.Intent; i != nil; i = i.Over {
		keep[i.From], keep[i.Via], keep[i.To] = true, true, true
	}
	return keep
}
