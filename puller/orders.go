package puller

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
)

// Pin orders this node to run exactly what o says, and to hold it. The order is on disk
// before anything waits: a cycle that is under way sees it and gives way. Then Pin carries
// it out; when that fails the order stays. When a later order took its place meanwhile, that
// one was carried out, and Pin says so; the reason is then "stale" unless it is worse.
func (p *Puller) Pin(ctx context.Context, o Order, opts Options) (Result, error) {
	pin, err := p.savePin(o)
	if err != nil {
		return p.result(reason.Of(err), err.Error()), err
	}
	opts.Order = true
	c, res, err := p.once(ctx, opts, func(*cycle) error { return nil })
	now := c.order
	switch {
	case !c.heard || pin.Same(now):
		return res, err
	case now == nil:
		return instead(res, err, fmt.Sprintf("the order of %s was taken back meanwhile", o.Version))
	case now.Release == pin.Release && now.Force == pin.Force:
		return res, err // somebody else wants the same
	}
	return instead(res, err, fmt.Sprintf("the order of %s gave way to a later one, of %s%s", o.Version, now.Release, because(now.Reason)))
}

// savePin puts an order on disk.
func (p *Puller) savePin(o Order) (node.Pin, error) {
	pin := node.Pin{Release: o.Version, Manifest: o.Manifest, At: p.now().UnixMilli(), Until: o.Until, Force: o.Force, Reason: node.Line(o.Reason)}
	dir, err := node.Open(p.cfg.Root)
	if err != nil {
		return pin, err
	}
	if last, err := dir.Pin(); err == nil && last != nil && last.At == pin.At {
		pin.At++ // in the same millisecond, and another order all the same
	}
	if err := dir.SavePin(pin); err != nil {
		return pin, err
	}
	p.note(dir, node.Event{Event: "pin ordered", To: o.Version, Digest: o.Manifest, Message: terms(o)})
	return pin, nil
}

// removePin takes back the order on disk, and reports whether there was one.
func (p *Puller) removePin() (was bool, err error) {
	dir, err := node.Open(p.cfg.Root)
	if err != nil {
		return false, err
	}
	if pin, err := dir.Pin(); err == nil && pin == nil {
		return false, nil
	}
	if err := dir.RemovePin(); err != nil {
		return true, err
	}
	p.note(dir, node.Event{Event: "pin taken back"})
	return true, nil
}

// terms says for the history what was ordered besides the version.
func terms(o Order) string {
	var terms []string
	if o.Force {
		terms = append(terms, "by force")
	}
	if !o.Until.IsZero() {
		terms = append(terms, "until "+o.Until.Format(canon.TimeLayout))
	}
	if o.Reason != "" {
		terms = append(terms, o.Reason)
	}
	return strings.Join(terms, ", ")
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return " (" + why + ")"
}

// instead is the answer to who gave an order that was not carried out, because of another.
func instead(res Result, err error, what string) (Result, error) {
	if err == nil {
		err = reason.Errorf(reason.Stale, "%s: %s", what, res.Message)
	} else {
		err = fmt.Errorf("%s: %w", what, err)
	}
	res.Reason, res.Message = reason.Of(err), err.Error()
	return res, err
}

// Unpin takes the order back and follows the channel again.
func (p *Puller) Unpin(ctx context.Context, opts Options) (Result, error) {
	was, err := p.removePin()
	if err != nil {
		return p.result(reason.Of(err), err.Error()), err
	}
	opts.unpin = true
	c, res, err := p.once(ctx, opts, func(*cycle) error { return nil })
	if c.order == nil {
		if !was && err == nil {
			res.Message = "no order was in force; " + res.Message
		}
		return res, err
	}
	return instead(res, err, fmt.Sprintf("another order came meanwhile, of %s%s", c.order.Release, because(c.order.Reason)))
}

// Unblock forgets that a version failed here, whatever the attempt, and does a cycle. The
// reason is "config" when nothing is known against it.
func (p *Puller) Unblock(ctx context.Context, version string, opts Options) (Result, error) {
	if err := layout.CheckVersion(version); err != nil {
		err = reason.Wrap(reason.Config, err)
		return p.result(reason.Config, err.Error()), err
	}
	_, res, err := p.once(ctx, opts, func(c *cycle) error { return c.unblock(version) })
	if err == nil && res.Reason == reason.Window {
		res.Message = fmt.Sprintf("%s is not blocked any more, and is tried when the window opens, or at once by `puller --now`: %s", version, res.Message)
	}
	return res, err
}

func (c *cycle) unblock(v string) error {
	st, err := c.dir.State()
	if err != nil && !errors.Is(err, node.ErrBroken) {
		return err
	}
	if st == nil {
		st = node.NewState()
	}
	n := st.Forget(v)
	if r := st.Refused; r != nil && isTarball(r.Object, c.cfg.App, v) {
		st.Refused = nil
		n++
	}
	if n == 0 {
		return reason.Errorf(reason.Config, "version %s is not blocked here: %s", v, blockedAre(st.Failed()))
	}
	if err := c.dir.SaveState(st); err != nil {
		return err
	}
	c.record(node.Event{Event: "unblocked", To: v})
	return nil
}

// isTarball reports whether name is that of a tarball of version for this machine.
func isTarball(name, app, version string) bool {
	for _, platform := range []string{runtime.GOOS + "-" + runtime.GOARCH, "any"} {
		if strings.HasPrefix(name, fmt.Sprintf("%s-%s-%s-", app, version, platform)) {
			return true
		}
	}
	return false
}

func blockedAre(versions []string) string {
	if len(versions) == 0 {
		return "nothing is"
	}
	return strings.Join(versions, ", ") + " failed here"
}

// Failed returns the versions that are blocked on this node, for completion.
func (p *Puller) Failed() []string {
	st, err := p.dir.State()
	if err != nil || st == nil {
		return nil
	}
	return st.Failed()
}

// Releases returns the versions on disk, for completion.
func (p *Puller) Releases() []string {
	versions, err := p.dir.Releases()
	if err != nil {
		return nil
	}
	return versions
}

func (p *Puller) note(dir *node.Dir, e node.Event) {
	e.At = canon.At(p.now())
	if err := dir.Record(e); err != nil {
		p.log.Warn("history", "error", err)
	}
}

// Plan is what a cycle would do now.
type Plan struct {
	Reason   reason.Code   `json:"reason"`
	App      string        `json:"app"`
	Node     string        `json:"node"`
	Tier     string        `json:"tier"`
	Running  string        `json:"running,omitempty"`
	Act      bool          `json:"act"`
	Version  string        `json:"version,omitempty"`
	Manifest layout.Digest `json:"manifest,omitempty"`
	Steps    []string      `json:"steps"`
	Hooks    []string      `json:"hooks,omitempty"` // all of the configuration, and as whom they run
	Warnings []string      `json:"warnings,omitempty"`
}

// Plan says what a cycle would do, and why. It writes nothing on the node: not the
// state, not even what it accepts; the channel repo is fetched to a temporary place.
// The error is the one that would end such a cycle, or one that activates something: what
// every activation needs is looked at whether one is due or not.
func (p *Puller) Plan(ctx context.Context, opts Options) (Plan, error) {
	c := &cycle{Puller: p, opts: opts, dry: true}
	plan := Plan{App: p.cfg.App, Node: p.cfg.Node, Tier: p.cfg.Tier, Steps: []string{}}
	t, err := c.plan(ctx, &plan)
	if ctx.Err() == nil {
		err = c.inspect(ctx, &plan, t, err)
	}
	plan.Running, plan.Warnings = c.cur.Version, c.warnings
	if err != nil {
		plan.Reason = reason.Of(err)
	}
	return plan, err
}

// plan returns what would be activated, now or when the window opens.
func (c *cycle) plan(ctx context.Context, plan *Plan) (t target, err error) {
	if err := c.dir.Check(); err != nil {
		return t, err
	}
	if err := c.load(); err != nil {
		return t, err
	}
	if err := c.loadPin(); err != nil {
		return t, err
	}
	if err := c.planRecovery(plan); err != nil {
		return t, err
	}
	pollErr := c.loadTrust()
	if err := c.loadChannel(); err != nil {
		return t, err
	}
	if pollErr == nil {
		pollErr = c.poll(ctx)
	}
	c.judgePin()
	d := decide(c.facts())
	if d.Warning != "" {
		c.warn("%s", d.Warning)
	}
	plan.Act, plan.Reason = d.Act, d.Reason
	if d.Act || d.Await {
		t = d.Target
		if err := c.planAudit(d.Target); err != nil {
			plan.Act, plan.Steps = false, append(plan.Steps, err.Error())
			return t, err
		}
	}
	if d.Await {
		plan.Version, plan.Manifest = d.Target.Version, d.Target.Manifest
		plan.Steps = append(plan.Steps, c.preparation(d)...)
	}
	if !d.Act {
		plan.Steps = append(plan.Steps, d.Message)
		if pollErr == nil && d.Reason.Exit() != 0 {
			return t, reason.Errorf(d.Reason, "%s", d.Message)
		}
		return t, pollErr
	}
	plan.Reason, plan.Version, plan.Manifest = reason.Updated, d.Target.Version, d.Target.Manifest
	plan.Steps = append(plan.Steps, c.steps(ctx, d)...)
	return t, pollErr
}

func (c *cycle) planRecovery(plan *Plan) error {
	f := diagnose(c.st, c.cur)
	if f == fine {
		return nil
	}
	if f == odd {
		return reason.Errorf(reason.Config, "%s", c.cur.Odd)
	}
	step := "recover first: " + string(f)
	switch f {
	case byHand:
		step += "; it is kept, and held as a pin"
		if err := c.acceptByHand(); err != nil {
			return err
		}
	case switched:
		step += fmt.Sprintf("; %s is started again and must prove itself", c.st.Intent.To)
	case repairing:
		step += fmt.Sprintf("; if %s is whole now it is started again", c.st.Repair)
	case goingBack:
		step += fmt.Sprintf("; %s is started again", c.st.Intent.From)
	case notSwapped:
		step += "; it is decided anew"
		c.st.Intent = c.st.Intent.Over
	}
	plan.Steps = append(plan.Steps, step)
	return nil
}

// preparation says what is done before the target of d can be activated.
func (c *cycle) preparation(d decision) []string {
	t := d.Target
	by := fmt.Sprintf("channel %q", c.cfg.Tier)
	if t.Pin {
		by = "the pin"
	}
	step := "fetch its manifest and bundle, verify, unpack"
	if has, err := c.dir.Has(t.Version); err == nil && has {
		step = "it is on disk: hash it"
		if d.Await && c.isReady(t) {
			step = "it is on disk: it is hashed when it is activated"
		}
	}
	return []string{fmt.Sprintf("%s names %s", by, t.Version), step}
}

func (c *cycle) steps(ctx context.Context, d decision) []string {
	t, steps := d.Target, c.preparation(d)
	if t.Version != c.cur.Version {
		steps = append(steps, c.readySteps(ctx, t)...)
		steps = append(steps, fmt.Sprintf("swap current from %s to %s", orNone(c.cur.Version), t.Version))
	}
	steps = append(steps, c.hookSteps(ctx, t, hook.AfterSwap)...)
	well := c.cfg.Health.URL
	switch s := c.cfg.Service; {
	case s.Unit != "":
		steps = append(steps, fmt.Sprintf("%s %s", s.Action, s.Unit))
		if well == "" {
			well = s.Unit
		}
	case len(s.Command) > 0:
		steps = append(steps, "run "+strings.Join(s.Command, " "))
	}
	if well != "" {
		steps = append(steps, fmt.Sprintf("wait until %s is well for %s", well, c.cfg.Health.StableFor))
	}
	return append(steps, c.hookSteps(ctx, t, hook.AfterHealthy)...)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func orNone(v string) string {
	if v == "" {
		return "nothing"
	}
	return v
}
