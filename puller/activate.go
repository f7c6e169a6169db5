package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
	"makenot.work/sando/puller/service"
)

// errOrder says that a new pin ended a wait. The intent is still open.
var errOrder = errors.New("a new order came")

// act does what was decided.
func (c *cycle) act(ctx context.Context, d decision) (Result, error) {
	if d.Warning != "" {
		c.warn("%s", d.Warning)
	}
	if d.Await {
		return c.await(ctx, d)
	}
	if !d.Act {
		if d.Reason.Exit() != 0 {
			return Result{}, reason.Errorf(d.Reason, "%s", d.Message)
		}
		return Result{Reason: d.Reason, Message: d.Message}, nil
	}
	began := c.now()
	t, err := c.provide(ctx, d.Target)
	if err != nil {
		return Result{}, fmt.Errorf("%w; %s", err, c.facts().keeps())
	}
	if c.opts.Prepare {
		return Result{Reason: reason.Current, Message: t.Version + " is on disk and verified", Ready: t.Version}, nil
	}
	if err := c.reconsider(ctx, d, began); err != nil {
		return Result{}, err
	}
	from := c.goingBackTo(t.Version)
	if t.Version == c.cur.Version && !unproven(c.st) && c.st.Intent == nil {
		if !c.opts.Start {
			return c.takeOver(t)
		}
		from = "" // there is another way back than to itself, or none
	}
	if err := c.ready(ctx, t); err != nil {
		return Result{}, err
	}
	return c.activate(ctx, t, from)
}

// takeOver notes that the running release has another manifest now, over the same tree.
func (c *cycle) takeOver(t target) (Result, error) {
	was := c.st.Running
	c.st.Running = &node.Release{Version: t.Version, Manifest: t.Manifest, Since: c.since(t.Version)}
	if was != nil && was.Version == t.Version {
		c.st.Running.Downtime = was.Downtime
	}
	if was != nil && was.Version == t.Version && c.st.RanWell(t.Version, was.Manifest) {
		c.st.Prove(*c.st.Running) // it is the same tree
	}
	if g := c.st.LastGood; g != nil && g.Version == t.Version {
		c.st.LastGood = c.st.Running
	}
	if err := c.save(); err != nil {
		return Result{}, err
	}
	message := fmt.Sprintf("%s has a new manifest over the same tree: taken over, nothing was restarted", t.Version)
	c.record(node.Event{Event: "manifest taken over", To: t.Version, Digest: t.Manifest, Message: message})
	code := reason.Current
	if t.Pin {
		code = reason.Pinned
	}
	return Result{Reason: code, Message: message}, nil
}

// since returns since when version runs, now if it does not.
func (c *cycle) since(version string) canon.Time {
	if r := c.st.Running; r != nil && r.Version == version {
		return r.Since
	}
	return canon.At(c.now())
}

// activate makes t live: intent, swap, restart, health, result or the way back to from.
// The release is on disk, whole and durable.
func (c *cycle) activate(ctx context.Context, t target, from string) (Result, error) {
	if err := c.startable(ctx); err != nil {
		return Result{}, err
	}
	if c.ordered(t.Version) || t.Pin && c.unpinned() {
		return Result{}, errOrder
	}
	if err := c.handover(ctx); err != nil {
		return Result{}, err
	}
	i := &node.Intent{
		Phase: node.Switching, From: from, Via: c.cur.Version, To: t.Version,
		Manifest: t.Manifest, Attempt: t.Attempt, Pin: t.Pin, Force: t.Force, Started: canon.At(c.now()),
		Invocation: c.invocation(ctx),
	}
	if over := c.st.Intent; over != nil {
		i.Over = over
		over.Over = nil
	}
	c.st.Intent = i
	c.st.Repair = "" // whatever was exchanged, something is started now
	c.acting = true
	if err := c.save(); err != nil {
		// Whether the intent is on disk is not known; the next start looks.
		return Result{}, err
	}
	c.log.Info("swap", "from", c.cur.Version, "to", t.Version)
	if c.cur.Version != t.Version {
		if err := c.swap(t.Version); err != nil {
			return Result{}, err
		}
	}
	return c.settle(ctx, c.start)
}

// handover makes room for the app.
func (c *cycle) handover(ctx context.Context) error {
	c.handed = true
	if c.opts.Handover == nil {
		return nil
	}
	c.begin(Restarting, service.StopTime+shortly)
	return c.opts.Handover(ctx)
}

// startable reports what keeps the app from being started, whatever the release.
func (c *cycle) startable(ctx context.Context) error {
	err := c.service.Check(ctx)
	if err == nil {
		return nil
	}
	code := reason.Config
	if e := (*reason.Error)(nil); errors.As(err, &e) {
		code = e.Code
	}
	return reason.Errorf(code, "%w: nothing was changed; %s", err, c.facts().keeps())
}

// goingBackTo returns what a new intent goes back to: what ran before; during a
// probation what ran before that. What runs and never proved itself is nothing to go back to:
// neither a first install, nor what was forced or failed, as long as there is something that
// did.
func (c *cycle) goingBackTo(target string) string {
	r, first := c.st.Running, c.st.Retry != nil
	switch {
	case c.st.Intent != nil:
		return c.st.Intent.From
	case !first && (r == nil || !c.st.Suspect(r)):
		return c.cur.Version
	}
	for _, v := range []string{version(c.st.LastGood), version(c.st.Previous)} {
		if v != "" && v != target && v != c.cur.Version {
			return v
		}
	}
	if first || c.cur.Version == target {
		return ""
	}
	return c.cur.Version
}

// notePrevious remembers what ran before to, as the next best to go back to. What was forced,
// or failed, is that only where nothing ran well.
func (c *cycle) notePrevious(to string) {
	r := c.st.Running
	if r == nil || r.Version == to || c.st.Retry != nil {
		return
	}
	if g := c.st.LastGood; g != nil && c.st.Suspect(r) {
		if g.Version == to {
			return
		}
		r = g
	}
	c.st.Previous = r
}

func (c *cycle) swap(version string) error {
	err := c.dir.Swap(version)
	if lerr := c.look(); err == nil {
		err = lerr
	}
	return err
}

// settle lets the release that the open intent switched to prove itself, by start or by
// watch, and writes the result.
func (c *cycle) settle(ctx context.Context, prove func(context.Context, trial) error) (Result, error) {
	i := c.st.Intent
	if i.Force {
		return c.settleForced(ctx)
	}
	c.seen, c.downtime = "", 0
	err := prove(ctx, trial{version: i.To, before: i.Invocation, bears: i.From == ""})
	switch {
	case err == nil:
		res, err := c.good()
		if err == nil {
			c.afterHealthy(ctx, i)
		}
		return res, err
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("interrupted while %s proves itself, the next cycle goes on: %w", i.To, ctx.Err())
	case errors.Is(err, service.ErrGoingDown):
		return Result{}, fmt.Errorf("interrupted while %s proves itself, the next cycle goes on: %w", i.To, err)
	case errors.Is(err, service.ErrHindered):
		return Result{}, fmt.Errorf("%s is live and not judged yet, the next cycle goes on; %w", i.To, err)
	case errors.Is(err, errOrder):
		return Result{}, err
	}
	return c.goBack(ctx, err)
}

// good writes that the open intent's release proved itself.
func (c *cycle) good() (Result, error) {
	i := c.st.Intent
	c.notePrevious(i.To)
	rel := &node.Release{Version: i.To, Manifest: i.Manifest, Since: canon.At(c.now()), Downtime: c.downtime}
	c.st.Running, c.st.LastGood = rel, rel
	c.st.Intent, c.st.Retry, c.st.Degraded = nil, nil, nil
	c.st.Unblock(i.To, i.Manifest)
	c.st.Prove(*rel)
	if err := c.save(); err != nil {
		return Result{}, err
	}
	message := fmt.Sprintf("runs %s%s", i.To, before(i))
	if i.Pin {
		message += "; held by the pin, `puller --unpin` follows the channel again"
	}
	c.record(node.Event{Event: "updated", Reason: reason.Updated, From: ranBefore(i), To: i.To, Digest: i.Manifest, Message: c.by(i), Downtime: c.downtime})
	return Result{Reason: reason.Updated, Message: message, From: ranBefore(i)}, nil
}

// goBack ends the open intent, whose release failed because of cause: back to what
// ran before it, or to the next best that is whole, or nowhere.
func (c *cycle) goBack(ctx context.Context, cause error) (Result, error) {
	i := c.st.Intent
	c.log.Warn("release failed", "version", i.To, "cause", cause)
	if i.From == "" {
		return c.stay(ctx, cause)
	}
	to, passed := c.wayBack(ctx, i)
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	i.Cause = node.Line(cause.Error() + passed)
	i.Invocation = c.failedRun(ctx, i)
	c.block(i).Output = c.earlyOutput(ctx, cause)
	if to == "" {
		return c.degrade(ctx, fmt.Errorf("no other release is whole"))
	}
	i.Phase, i.From, i.Tries = node.RollingBack, to, 0
	if err := c.save(); err != nil {
		return Result{}, err
	}
	return c.settleBack(ctx)
}

// wayBack returns the first release to go back to whose tree holds, "" if there is none; and,
// to be added to a cause, what is wrong with those that were passed over.
func (c *cycle) wayBack(ctx context.Context, i *node.Intent) (to, passed string) {
	var seen []string
	for _, v := range []string{i.From, version(c.st.LastGood), version(c.st.Previous)} {
		if v == "" || v == i.To || slices.Contains(seen, v) {
			continue
		}
		seen = append(seen, v)
		err := c.holds(ctx, v)
		if err == nil {
			return v, passed
		}
		c.log.Warn("cannot go back to it", "version", v, "cause", err)
		passed += "; " + passedOver(v, err)
	}
	return "", passed
}

// passedOver says why a release was not gone back to, and what mends that.
func passedOver(v string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%s, which ran before, is not on disk: `puller --pin %[1]s` fetches it", v)
	case reason.Of(err) == reason.Mismatch || reason.Of(err) == reason.Format:
		return fmt.Sprintf("%s, which ran before, is damaged: `puller --pin %[1]s` fetches it again", v)
	}
	return fmt.Sprintf("%s, which ran before, cannot be read: %s", v, err)
}

// holds reports whether a release is on disk and whole. Of a foreign one nothing is
// known but that it is there.
func (c *cycle) holds(ctx context.Context, v string) error {
	c.beginBulk(Hashing)
	_, err := c.dir.Verify(ctx, v)
	if errors.Is(err, node.ErrForeign) {
		return nil
	}
	return err
}

func version(r *node.Release) string {
	if r == nil {
		return ""
	}
	return r.Version
}

// block notes that the open intent's release failed.
func (c *cycle) block(i *node.Intent) *node.Block {
	if b := c.st.IsBlocked(i.To, i.Manifest, i.Attempt); b != nil {
		return b
	}
	return c.addBlock(node.Block{Version: i.To, Manifest: i.Manifest, Attempt: i.Attempt, Cause: i.Cause})
}

func (c *cycle) addBlock(b node.Block) *node.Block {
	b.At = canon.At(c.now())
	c.st.Blocked = append(c.st.Blocked, b)
	if n := len(c.st.Blocked); n > maxBlocked {
		c.st.Blocked = append([]node.Block{}, c.st.Blocked[n-maxBlocked:]...)
	}
	return &c.st.Blocked[len(c.st.Blocked)-1]
}

// failedRun names the run in which the open intent's release failed; "" when none of it is
// known.
func (c *cycle) failedRun(ctx context.Context, i *node.Intent) string {
	if c.seen != "" {
		return c.seen
	}
	if run := c.invocation(ctx); run != i.Invocation && run != service.Never {
		return run
	}
	return ""
}

// earlyOutput returns what a failed release printed, where its next start destroys that.
func (c *cycle) earlyOutput(ctx context.Context, cause error) []string {
	if out := hookOutput(cause); out != nil {
		return out
	}
	if _, ok := c.service.(service.Manager); ok {
		return nil // going back does not wait for it
	}
	return c.output(ctx, "")
}

func (c *cycle) output(ctx context.Context, run string) []string {
	if w, ok := c.service.(service.Witness); ok {
		return w.Output(ctx, run)
	}
	return nil
}

// testify adds what the failed release printed to its block, and returns it. It may take a
// while, so the result is on disk already: whatever happens now, nothing is started again.
func (c *cycle) testify(ctx context.Context, i *node.Intent) []string {
	b := c.block(i)
	if _, ok := c.service.(service.Manager); !ok || len(b.Output) > 0 {
		return b.Output
	}
	if b.Output = c.output(ctx, i.Invocation); len(b.Output) > 0 {
		if d := c.st.Degraded; d != nil && d.Manifest == b.Manifest && d.Attempt == b.Attempt {
			d.Output = b.Output
		}
		if err := c.write(); err != nil {
			c.log.Warn("what it printed is kept in the history only", "error", err)
		}
	}
	return b.Output
}

// maxBlocked is how many failures are remembered; the oldest are forgotten.
const maxBlocked = 100

// settleBack finishes an intent that rolls back: swap, restart, health, result.
func (c *cycle) settleBack(ctx context.Context) (Result, error) {
	i := c.st.Intent
	c.acting = true
	c.log.Info("going back", "from", i.To, "to", i.From)
	prove, before := c.start, ""
	switch {
	case c.cur.Version != i.From:
		if err := c.swap(i.From); err != nil {
			return Result{}, err
		}
	case len(c.hooksOf(hook.AfterSwap)) == 0 && c.startedSince(ctx, i.Invocation):
		c.log.Info("not restarted again: it was started since the swap", "version", i.From)
		prove, before = c.watch, i.Invocation
	}
	if before == "" {
		before = c.invocation(ctx)
	}
	c.downtime = 0
	err := prove(ctx, trial{version: i.From, before: before, bears: true})
	switch {
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("interrupted on the way back to %s, the next cycle goes on: %w", i.From, ctx.Err())
	case errors.Is(err, service.ErrGoingDown):
		return Result{}, fmt.Errorf("interrupted on the way back to %s, the next cycle goes on: %w", i.From, err)
	case errors.Is(err, service.ErrHindered):
		return Result{}, fmt.Errorf("the way back to %s is not finished, the next cycle goes on; %w", i.From, err)
	case errors.Is(err, errOrder):
		return Result{}, err
	case err != nil:
		return c.degrade(ctx, err)
	}
	again := *c.release(i.From)
	again.Since, again.Forced, again.Downtime = canon.At(c.now()), 0, c.downtime
	c.st.Running = &again
	c.st.Intent, c.st.Retry, c.st.Degraded = nil, nil, nil
	c.block(i)
	if err := c.save(); err != nil {
		return Result{}, err
	}
	out := c.testify(ctx, i)
	c.record(node.Event{Event: "rolled back", Reason: reason.Unhealthy, From: i.To, To: i.From, Digest: i.Manifest, Message: i.Cause, Output: out, Downtime: c.downtime})
	return Result{From: i.To}, reason.Errorf(reason.Unhealthy, "%s failed and is not tried again: runs %s again%s; it failed with: %s", i.To, i.From, c.stillHeld(i.Pin), i.Cause)
}

// release describes a version that is on disk and becomes what runs.
func (c *cycle) release(v string) *node.Release {
	for _, r := range []*node.Release{c.st.Running, c.st.LastGood, c.st.Previous} {
		if r != nil && r.Version == v {
			return r
		}
	}
	r := &node.Release{Version: v, Since: canon.At(c.now())}
	if rel, err := c.dir.Release(v); err == nil {
		r.Manifest = rel.Digest
	}
	return r
}

// degrade ends an intent whose way back failed as well: what runs stays, until another
// target or an order comes.
func (c *cycle) degrade(ctx context.Context, cause error) (Result, error) {
	i := c.st.Intent
	failed := *c.block(i)
	failed.Cause = node.Line(fmt.Sprintf("%s; the way back with: %s", i.Cause, cause))
	c.st.Degraded = &failed
	if c.cur.Version != "" {
		live := *c.release(c.cur.Version)
		if live.Version == i.From {
			live.Since, live.Downtime = canon.At(c.now()), 0 // the way back started it
		}
		c.st.Running = &live
	}
	c.st.Intent = nil
	if err := c.save(); err != nil {
		return Result{}, err
	}
	out := c.testify(ctx, i)
	c.record(node.Event{Event: "degraded", Reason: reason.Degraded, From: i.To, To: c.cur.Version, Digest: i.Manifest, Message: cause.Error(), Output: out})
	return Result{}, reason.Errorf(reason.Degraded, "%s failed, and so did the way back: %s stays, and nothing more is tried until the channel names another release or `puller --pin VERSION` orders one, also the same again%s; %s failed with: %s; the way back with: %w", i.To, c.cur.Version, c.stillHeld(i.Pin), i.To, i.Cause, cause)
}

// stay ends the intent of a first install that failed: there is nothing to go back to.
// It is not blocked but started again later, each time after a longer while.
func (c *cycle) stay(ctx context.Context, cause error) (Result, error) {
	i := c.st.Intent
	r := &node.Retry{Count: 1, Output: hookOutput(cause)}
	if r.Output == nil {
		r.Output = c.output(ctx, c.failedRun(ctx, i))
	}
	if last := c.st.Retry; last != nil && version(c.st.Running) == i.To {
		r.Count = last.Count + 1
	}
	wait := min(time.Minute<<min(r.Count-1, 10), maxWait)
	r.Next, r.Cause = canon.At(c.now().Add(wait)), node.Line(cause.Error())
	if i.Pin {
		r.Order = i.Attempt
	}
	c.st.Retry = r
	c.st.Running = &node.Release{Version: i.To, Manifest: i.Manifest, Since: c.since(i.To)}
	c.st.Intent, c.st.Degraded = nil, nil
	if err := c.save(); err != nil {
		return Result{}, err
	}
	c.record(node.Event{Event: "unhealthy", Reason: reason.Unhealthy, To: i.To, Digest: i.Manifest, Message: cause.Error(), Output: r.Output})
	return Result{}, reason.Errorf(reason.Unhealthy, "%s is not healthy, and there is nothing to go back to: it stays, and is started again at %s (tried %s so far); it failed with: %w", i.To, r.Next.Format(canon.TimeLayout), times(r.Count), cause)
}
