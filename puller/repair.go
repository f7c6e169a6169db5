package puller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/tree"
)

// Repair makes damaged releases whole again, those of the given versions or all. What holds
// is left alone. One that is not live is thrown away and fetched again. The live one is
// fetched beside it and exchanged in one step; then the app is restarted and must prove
// itself, else the node goes back to another release, as after any activation.
//
// What was found, and what became of it, is returned as Verify does. The error is the
// first damage that is left, or how the restart ended.
func (p *Puller) Repair(ctx context.Context, versions []string) ([]Verified, error) {
	dir, err := node.Open(p.cfg.Root)
	if err != nil {
		return nil, err
	}
	c := &cycle{Puller: p, opts: Options{Now: true}}
	unlock, err := c.lock(ctx, dir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	found, err := c.repair(ctx, versions)
	c.clean(ctx)
	for _, w := range c.warnings {
		c.log.Warn(w)
	}
	return found, err
}

func (c *cycle) repair(ctx context.Context, versions []string) ([]Verified, error) {
	if err := c.load(); err != nil {
		return nil, err
	}
	if err := c.hooks.Clear(ctx); err != nil {
		return nil, err
	}
	if res, err := c.recover(ctx); err != nil {
		_, err = c.end(res, err)
		return nil, fmt.Errorf("what was left open comes before a repair: %w", err)
	}
	if i := c.st.Intent; i != nil {
		return nil, reason.Errorf(reason.IO, "the activation of %s has not come to an end: run `puller` first", i.To)
	}
	if err := c.loadChannel(); err != nil {
		return nil, err
	}
	found, err := c.Verify(ctx, versions)
	if found == nil {
		return nil, err
	}
	var first error
	live := -1
	for i := range found {
		switch {
		case found[i].Reason.Exit() == 0:
		case found[i].Current:
			live = i // the last one: so there is something to go back to
		default:
			first = errors.Join(first, c.mended(ctx, &found[i], c.repairOther))
		}
	}
	if live >= 0 && ctx.Err() == nil {
		first = errors.Join(first, c.mended(ctx, &found[live], c.repairLive))
	}
	return found, first
}

// mended repairs one release, and notes in v what came of it.
func (c *cycle) mended(ctx context.Context, v *Verified, repair func(ctx context.Context, t target, damage error) error) error {
	damage := v.damage
	t := target{Version: v.Version, Manifest: c.manifestOf(v.Version)}
	err := repair(ctx, t, damage)
	v.Current = v.Version == c.cur.Version
	if errors.Is(err, errOrder) {
		err = reason.Errorf(reason.IO, "an order came and goes first: run `puller`, and then this again")
	}
	if err != nil {
		v.Reason, v.Message = reason.Of(err), fmt.Sprintf("%s; %s", damage, err)
		return err
	}
	rel, err := c.dir.Verify(ctx, v.Version)
	if err != nil {
		return err
	}
	v.Reason, v.Repaired, v.Message = reason.Current, true, damage.Error()
	v.Digest, v.Bytes, v.Entries = rel.Digest, rel.Bundle.Unpacked, rel.Bundle.Entries
	return nil
}

// manifestOf returns the manifest of a version on disk: as it is on record, else as the
// release says itself; "" when neither is known.
func (c *cycle) manifestOf(v string) layout.Digest {
	recorded := []*node.Release{c.st.Running, c.st.LastGood, c.st.Previous}
	for i := len(c.st.Proven) - 1; i >= 0; i-- {
		recorded = append(recorded, &c.st.Proven[i])
	}
	for _, r := range recorded {
		if version(r) == v && r.Manifest != "" {
			return r.Manifest
		}
	}
	if rel, err := c.dir.Release(v); err == nil {
		return rel.Digest
	}
	return ""
}

// known refuses to repair what nobody knows any more: with the manifest gone, and no record
// of it, the bucket alone would say what the release is.
func known(t target) error {
	if t.Manifest != "" {
		return nil
	}
	return reason.Errorf(reason.Mismatch, "its manifest is damaged and on no record, so that what it held is not known: `puller --pin %[1]s@sha256:DIGEST` fetches it anew when another release runs, and `builder verify %[1]s` says the digest", t.Version)
}

// repairOther fetches a damaged release again that is not live.
func (c *cycle) repairOther(ctx context.Context, t target, damage error) error {
	if err := known(t); err != nil {
		return err
	}
	if _, err := c.replace(ctx, t, damage); err != nil {
		return err
	}
	c.record(node.Event{Event: "repaired", To: t.Version, Digest: t.Manifest, Message: wasDamaged(damage)})
	return nil
}

// wasDamaged says of a release that is whole now what was wrong with it. The digests of the
// two trees are in the log.
func wasDamaged(damage error) string {
	text, _, _ := strings.Cut(strings.Replace(damage.Error(), "is damaged", "was damaged", 1), "; tree is sha256:")
	return text
}

// repairLive exchanges the live release for a whole one, and restarts the app.
func (c *cycle) repairLive(ctx context.Context, t target, damage error) error {
	if err := known(t); err != nil {
		return err
	}
	if err := c.startable(ctx); err != nil {
		return err
	}
	p, err := c.prepare(ctx, t)
	if err != nil {
		return err
	}
	announce := func() error {
		// Should this be the last that is heard of it, the next cycle looks which of the
		// two is in place, and starts the app if it is the whole one.
		c.st.Repair = t.Version
		return c.save()
	}
	_, err = c.unpack(ctx, t, p, func(s *node.Stage, meta node.Meta, entries []tree.Entry) error {
		return s.Exchange(t.Version, meta, entries, announce)
	})
	if errors.Is(err, node.ErrNoExchange) {
		c.st.Repair = ""
		return errors.Join(reason.Errorf(reason.Config, "%w: pin another version, and unpin again; it is fetched anew then", err), c.save())
	}
	if err != nil {
		return err
	}
	c.record(node.Event{Event: "repaired", To: t.Version, Digest: t.Manifest, Message: wasDamaged(damage)})
	res, err := c.startRepaired(ctx)
	_, err = c.end(res, err)
	return err
}

// startRepaired starts the live release, which was exchanged, anew.
func (c *cycle) startRepaired(ctx context.Context) (Result, error) {
	v := c.st.Repair
	t := target{Version: v, Manifest: c.manifestOf(v)}
	// If it fails, it is by this order that it is not tried again.
	switch ch := c.channel; {
	case c.pin != nil && c.pin.Release == v:
		t.Attempt, t.Pin, t.Force = c.pin.At, true, c.pin.Force
	case c.pin == nil && ch != nil && ch.Version == v && ch.Manifest == t.Manifest:
		t.Attempt = ch.Attempt
	}
	from := ""
	for _, r := range []*node.Release{c.st.LastGood, c.st.Previous} {
		if o := version(r); o != v && from == "" {
			from = o
		}
	}
	return c.activate(ctx, t, from)
}

// finishRepair goes on with a repair that was cut short around its exchange.
func (c *cycle) finishRepair(ctx context.Context) (Result, error) {
	v := c.st.Repair
	if c.pin != nil && c.pin.Release != v {
		c.opts.Order = true // the pin goes first, and makes this needless
		return Result{}, nil
	}
	err := c.holds(ctx, v)
	switch {
	case ctx.Err() != nil:
		return Result{}, ctx.Err()
	case err != nil:
		c.warn("a repair was stopped before it was done; `puller verify --repair` does it again: %s", err)
		c.st.Repair = ""
		return Result{}, c.saveUrgently()
	}
	if err := c.loadChannel(); err != nil {
		return Result{}, err
	}
	return c.startRepaired(ctx)
}
