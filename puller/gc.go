package puller

import (
	"slices"
	"time"

	"makenot.work/sando/layout/node"
)

// held is one release on disk, as the choice of what to keep sees it.
type held struct {
	Version string
	At      time.Time // when it was put in place
	Foreign bool
}

// superfluous returns the releases that may go, oldest first: all but the newest
// retain, and never one that keep names or that another deployer made.
func superfluous(releases []held, keep map[string]bool, retain int) []string {
	own := slices.DeleteFunc(slices.Clone(releases), func(r held) bool { return r.Foreign })
	slices.SortStableFunc(own, func(a, b held) int { return a.At.Compare(b.At) })
	var out []string
	for _, r := range own[:max(0, len(own)-retain)] {
		if !keep[r.Version] {
			out = append(out, r.Version)
		}
	}
	return out
}

// maxCollected bounds what one cycle deletes.
const maxCollected = 20

// collect takes away releases that are needed for nothing. What runs, what ran well or
// before, what a pin or an intent names stays.
func (c *cycle) collect() error {
	c.begin(Tidying, tidyTime)
	versions, err := c.dir.Releases()
	if err != nil {
		return err
	}
	if len(versions) <= c.cfg.Retain {
		return nil
	}
	var releases []held
	for _, v := range versions {
		rel, err := c.dir.Release(v)
		if err != nil {
			releases = append(releases, held{Version: v, Foreign: true}) // or damaged: a person may want to look
			continue
		}
		releases = append(releases, held{Version: v, At: rel.At})
	}
	old := superfluous(releases, c.needed(), c.cfg.Retain)
	for _, v := range old[:min(len(old), maxCollected)] {
		if err := c.dir.Trash(v); err != nil {
			return err
		}
		c.log.Info("removed an old release", "version", v)
	}
	return c.dir.EmptyTrash()
}

// needed returns the versions that are never taken away.
func (c *cycle) needed() map[string]bool {
	keep := map[string]bool{c.cur.Version: true}
	for _, r := range []*node.Release{c.st.Running, c.st.LastGood, c.st.Previous} {
		keep[version(r)] = true
	}
	for i := c.st.Intent; i != nil; i = i.Over {
		keep[i.From], keep[i.Via], keep[i.To] = true, true, true
	}
	if c.pin != nil {
		keep[c.pin.Release] = true
	}
	return keep
}
