package puller

import (
	"context"
	"errors"
	"fmt"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
)

// finding is what a start finds on disk.
type finding string

const (
	fine       finding = "nothing to recover"
	odd        finding = "`current` is nothing that Sando made"
	lost       finding = "`current` is missing or names a release that is not on disk"
	byHand     finding = "`current` was changed by hand"
	notSwapped finding = "an activation stopped before the swap"
	switched   finding = "an activation stopped after the swap"
	goingBack  finding = "a way back was not finished"
	repairing  finding = "a repair of the live release was not finished"
)

// maxTries is how often one intent is resumed.
const maxTries = 3

// diagnose compares the state with `current`. It is pure; every line is a row of the
// recovery table in docs/design.md.
func diagnose(st *node.State, cur node.Current) finding {
	i := st.Intent
	switch {
	case cur.Odd != "":
		return odd
	case cur.Version == "" && i == nil && st.Running == nil && cur.Dangling == "":
		return fine
	case cur.Version == "":
		return lost
	case i == nil && st.Repair == cur.Version:
		return repairing
	case i == nil && (st.Running == nil || st.Running.Version == cur.Version):
		return fine
	case i == nil:
		return byHand
	case i.Phase == node.RollingBack && (cur.Version == i.To || cur.Version == i.From || cur.Version == i.Via):
		return goingBack
	case i.Phase == node.Switching && cur.Version == i.To:
		return switched
	case i.Phase == node.Switching && (cur.Version == i.From || cur.Version == i.Via):
		return notSwapped
	}
	return byHand
}

// look reads `current` again.
func (c *cycle) look() (err error) {
	c.cur, err = c.dir.Current()
	return err
}

// load reads what is on disk. A broken state file is set aside and rebuilt from what
// the disk shows.
func (c *cycle) load() error {
	if err := c.look(); err != nil {
		return err
	}
	st, err := c.dir.State()
	switch {
	case errors.Is(err, node.ErrBroken):
		c.warn("%s; it was set aside as state.json.broken, and rebuilt from what is on disk", err)
		if !c.dry {
			if err := c.dir.SetAside("state.json"); err != nil {
				return err
			}
		}
		st = nil
	case err != nil:
		return err
	}
	if st != nil {
		c.st, c.open = st, st.Intent != nil
		return nil
	}
	c.st = node.NewState()
	lost := false
	if c.cur.Version != "" {
		// Whether it runs well is not known, so it is no release to go back to.
		c.st.Running = c.release(c.cur.Version)
		if err == nil && c.st.Running.Manifest != "" {
			c.warn("state.json is missing although %s is live: rebuilt from what is on disk; a pin or a counter that was lost with it counts no more: this node %s", c.cur.Version, c.believes())
			lost = true
		}
	}
	if err := c.saveUrgently(); err != nil {
		return err
	}
	if lost {
		c.record(node.Event{Event: "state lost", To: c.cur.Version})
	}
	return nil
}

// recover finishes or undoes what a cycle that died left open. A result with a reason
// says that it activated something or went back.
func (c *cycle) recover(ctx context.Context) (Result, error) {
	pinErr := c.loadPin()
	res, err := c.mend(ctx)
	if errors.Is(err, errOrder) {
		c.opts.Order = true
		return res, c.obey()
	}
	if err == nil {
		err = pinErr
	}
	return res, err
}

func (c *cycle) mend(ctx context.Context) (Result, error) {
	for {
		f := diagnose(c.st, c.cur)
		if f != fine {
			c.log.Info("recover", "found", string(f))
		}
		switch f {
		case fine:
			return Result{}, nil
		case odd:
			return Result{}, reason.Errorf(reason.Config, "%s", c.cur.Odd)
		case byHand:
			return Result{}, c.acceptByHand()
		case lost:
			return c.restore(ctx)
		case notSwapped:
			// An intent that ended a probation gives way to that probation again.
			c.st.Intent = c.st.Intent.Over
			if err := c.save(); err != nil {
				return Result{}, err
			}
			if c.st.Intent == nil {
				return Result{}, nil
			}
		case repairing:
			return c.finishRepair(ctx)
		case switched, goingBack:
			if c.overruled() {
				c.opts.Order = true // the pin ends the probation at once; see follow
				return Result{}, nil
			}
			return c.resume(ctx)
		}
	}
}

// overruled reports whether a pin asks for something else than the open intent leads to.
func (c *cycle) overruled() bool {
	i, p := c.st.Intent, c.pin
	switch {
	case p == nil || i.Pin && i.Attempt == p.At:
		return false
	case p.Release == i.To:
		return p.Force && (!i.Force || i.Phase == node.RollingBack)
	case i.Phase == node.RollingBack && p.Release == i.From:
		return false // going back is what the pin wants
	}
	return true
}

// resume goes on with the open intent, as soon as something can be started at all. Each time
// counts as a try, on disk before anything restarts.
func (c *cycle) resume(ctx context.Context) (Result, error) {
	if err := c.startable(ctx); err != nil {
		return Result{}, err
	}
	if err := c.handover(ctx); err != nil {
		return Result{}, err
	}
	i := c.st.Intent
	i.Tries++
	if err := c.save(); err != nil {
		return Result{}, err
	}
	if i.Phase == node.RollingBack {
		if i.Tries > maxTries {
			return c.degrade(ctx, fmt.Errorf("the way back was interrupted %d times", maxTries))
		}
		return c.resumeBack(ctx)
	}
	if i.Tries > maxTries && i.Force {
		return c.forced(fmt.Errorf("it was interrupted %d times", maxTries))
	}
	if i.Tries > maxTries {
		return c.goBack(ctx, fmt.Errorf("its activation was interrupted %d times", maxTries))
	}
	if err := c.holds(ctx, i.To); err != nil {
		if ctx.Err() != nil {
			return Result{}, ctx.Err()
		}
		return c.goBack(ctx, err)
	}
	// Who started it did not wait for the hooks that come before.
	if (i.Hooked || len(c.hooksOf(hook.AfterSwap)) == 0) && c.startedSince(ctx, i.Invocation) {
		c.log.Info("not restarted again: it was started since the swap", "version", i.To)
		if i.Force {
			return c.forced(nil)
		}
		return c.settle(ctx, c.watch)
	}
	return c.settle(ctx, c.start)
}

// resumeBack goes on with a way back, to another release if that one does not hold.
func (c *cycle) resumeBack(ctx context.Context) (Result, error) {
	i := c.st.Intent
	to, passed := c.wayBack(ctx, i)
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	if to == "" {
		return c.degrade(ctx, fmt.Errorf("no other release is whole%s", passed))
	}
	if to != i.From {
		i.From = to
		if err := c.save(); err != nil {
			return Result{}, err
		}
	}
	return c.settleBack(ctx)
}

// acceptByHand takes what a person made `current` for an order. A pin that is younger
// than the change is the later order and stays.
func (c *cycle) acceptByHand() error {
	c.st.Intent, c.st.Retry, c.st.Degraded, c.st.Repair = nil, nil, nil, ""
	if r := c.st.Running; r != nil && r.Version != c.cur.Version {
		c.st.Previous = r
	}
	c.st.Running = c.release(c.cur.Version)
	if err := c.pinByHand(); err != nil {
		return err
	}
	if err := c.saveUrgently(); err != nil {
		return err
	}
	c.record(node.Event{Event: "changed by hand", To: c.cur.Version})
	return nil
}

// pinByHand makes a pin of what a person made `current`, unless the same person takes pins
// back now. A pin that cannot be read holds the node already, and is the operator's to mend.
func (c *cycle) pinByHand() error {
	// Again: an order that came just now must not be lost.
	if err := c.loadPin(); err != nil || c.opts.unpin {
		c.warn("`current` was changed to %s by hand: kept, and not held as a pin", c.cur.Version)
		return nil
	}
	if c.pin == nil || c.pin.Release != c.cur.Version && c.pin.Time().Before(c.cur.Changed) {
		pin := node.Pin{Release: c.cur.Version, At: c.now().UnixMilli(), Reason: "changed by hand"}
		if !c.dry {
			if err := c.dir.SavePin(pin); err != nil {
				return err
			}
		}
		c.order, c.pin = &pin, &pin
	}
	c.warn("`current` was changed to %s by hand: kept, and held as a pin; `puller --unpin` follows the channel again", c.cur.Version)
	return nil
}

// whole returns those of the versions whose trees hold, each once.
func (c *cycle) whole(ctx context.Context, versions []string) []string {
	var found []string
	tried := map[string]bool{"": true}
	for _, v := range versions {
		if tried[v] {
			continue
		}
		tried[v] = true
		if err := c.holds(ctx, v); err != nil {
			c.log.Warn("cannot restore it", "version", v, "cause", err)
			continue
		}
		found = append(found, v)
	}
	return found
}

// pinRestores reports whether what is lost is restored by the pin: the emergency exit does not
// wait until another release is back. One that did not run well here before is for the cycle,
// which prepares for it.
func (c *cycle) pinRestores() bool {
	p := c.pin
	if p == nil || !p.Force && !c.st.RanWell(p.Release, p.Manifest) || c.st.IsBlocked(p.Release, p.Manifest, p.At) != nil {
		return false
	}
	m := c.release(p.Release).Manifest
	return (p.Manifest == "" || p.Manifest == m) && c.st.IsBlocked(p.Release, m, p.At) == nil
}

// restore makes the first whole release `current` again that ran here. If there is
// none, the node is as before its first install.
func (c *cycle) restore(ctx context.Context) (Result, error) {
	candidates := []string{"", version(c.st.Running), "", version(c.st.LastGood), version(c.st.Previous)}
	if c.st.Intent != nil {
		candidates[2] = c.st.Intent.From
	}
	if c.pinRestores() {
		candidates[0] = c.pin.Release
	}
	whole := c.whole(ctx, candidates)
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	pinned := len(whole) > 0 && whole[0] == candidates[0]
	if len(whole) > 0 {
		v, next := whole[0], ""
		if len(whole) > 1 {
			next = whole[1]
		}
		c.warn("`current` was missing or named a release that is gone: %s was made current again", v)
		c.st.Intent = nil
		t := target{Version: v, Manifest: c.release(v).Manifest}
		if pinned {
			t.Attempt, t.Pin, t.Force = c.pin.At, true, c.pin.Force
		}
		return c.activate(ctx, t, next)
	}
	if c.st.Running != nil || c.st.Intent != nil {
		c.warn("`current` is missing, and no release that ran here is whole: goes on as a first install")
		c.st.Running, c.st.LastGood, c.st.Previous, c.st.Intent, c.st.Retry = nil, nil, nil, nil, nil
		if err := c.saveUrgently(); err != nil {
			return Result{}, err
		}
		c.record(node.Event{Event: "nothing left", At: canon.At(c.now())})
	}
	return Result{}, nil
}
