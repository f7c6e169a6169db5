package puller

import (
	"context"
	"errors"
	"fmt"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/tree"
)

// A release of another deployer is something to go back to, and nothing more: what it should
// hold is not known. Under the name of a version that a channel names it is in the way, until a
// person has it taken over (Options.Adopt).

// foreign is about a release that another deployer made under the target's name. A pin
// may go back to it; a channel names content, and of this one nothing is known.
func (c *cycle) foreign(ctx context.Context, t target) (target, error) {
	switch {
	case t.Pin && t.Manifest == "":
		return t, nil
	case c.opts.Adopt && c.st.Intent == nil:
		return c.takeOverForeign(ctx, t)
	}
	what, away := "is on disk and was made by another deployer", "move it away, or "
	if t.Version == c.cur.Version {
		what, away = "is live, and was made by another deployer or has lost its .sando/", ""
	}
	return t, reason.Errorf(reason.Mismatch, "release %q %s: what it holds is not known; %srelease under a new version, or run here what `builder enroll %s --tier %s -- --adopt` prints, which takes it over: %w",
		t.Version, what, away, c.cfg.Node, c.cfg.Tier, node.ErrForeign)
}

// takeOverForeign makes a foreign release one of Sando's, if it holds what the manifest says and nobody
// else can change that.
// Another one gets another name, under which it is kept, and the target is installed.
func (c *cycle) takeOverForeign(ctx context.Context, t target) (target, error) {
	p, err := c.prepare(ctx, t)
	if err != nil {
		return t, err
	}
	c.beginBulk(Hashing)
	entries, err := c.dir.Tree(ctx, t.Version)
	if err != nil && !errors.Is(err, tree.ErrTree) {
		return t, err
	}
	same := err == nil && tree.Hash(entries) == p.bundle.Tree
	exposed, err := c.dir.Exposed(t.Version)
	if err != nil {
		return t, err
	}
	if same && exposed != "" {
		c.warn("%s could be changed by others than root: release %s is fetched anew", exposed, t.Version)
	}
	if same && exposed == "" {
		c.beginBulk(Installing)
		if err := c.dir.Own(t.Version, p.meta, entries); err != nil {
			return t, err
		}
		c.warn("release %s of another deployer holds what its manifest says: taken over", t.Version)
		return c.provide(ctx, t)
	}
	if err := c.aside(t.Version, same); err != nil {
		return t, err
	}
	return c.unpack(ctx, t, p, install(t))
}

// aside gives a foreign release another name. What is live stays live, and nothing is
// restarted. Meanwhile the state says that it is not known what ran, so that a puller after a
// crash neither takes the change for one by hand nor restores anything.
func (c *cycle) aside(v string, same bool) error {
	name, err := c.dir.AsideName(v)
	if err != nil {
		return err
	}
	if c.cur.Version == v {
		running, good, previous := c.st.Running, c.st.LastGood, c.st.Previous
		c.st.Running, c.st.LastGood, c.st.Previous = nil, nil, nil
		if err := c.save(); err != nil {
			return err
		}
		c.st.Running, c.st.LastGood, c.st.Previous = running, good, previous
	}
	if err := c.dir.Aside(v, name); err != nil {
		return err
	}
	if err := c.look(); err != nil {
		return err
	}
	c.st.Aside(v, name)
	if c.cur.Version == name && version(c.st.Running) != name {
		c.st.Running = &node.Release{Version: name, Since: canon.At(c.now())}
	}
	if err := c.save(); err != nil {
		return err
	}
	why := "holds something else than the version of that name"
	if same {
		why = "could be changed by others"
	}
	message := fmt.Sprintf("release %s of another deployer %s: it is called %s now, and kept to go back to", v, why, name)
	c.warn("%s; `puller --pin %s` does", message, name)
	c.record(node.Event{Event: "renamed", From: v, To: name, Message: message})
	return nil
}

// finishAside finishes a renaming that was interrupted.
func (c *cycle) finishAside(t target) error {
	if !c.opts.Adopt || c.dry {
		return nil
	}
	return c.dir.FinishAside(t.Version)
}
