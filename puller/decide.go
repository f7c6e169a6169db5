package puller

import (
	"fmt"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/schedule"
)

// target is a release that should run.
type target struct {
	Version  string
	Manifest layout.Digest // "" when a pin leaves it open
	Attempt  int64
	Pin      bool
	Force    bool // it need not prove itself: see node.Intent
}

// facts are all that a decision depends on.
type facts struct {
	Now     time.Time
	Node    string
	Tier    string
	Ignore  bool // window, rollout and backoff
	Window  schedule.Window
	Pin     *node.Pin
	Channel *channels.Channel // the last accepted state; nil if none
	Current string            // the live version; "" if none
	State   *node.State
	Revoked func(layout.Digest) bool
}

// decision is what to do now, and why.
type decision struct {
	Act     bool
	Await   bool // not now, but it is to be made ready: on disk, verified
	Target  target
	Reason  reason.Code // when not acting
	Message string
	Warning string
}

func (c *cycle) facts() facts {
	f := facts{
		Now: c.now(), Node: c.cfg.Node, Tier: c.cfg.Tier, Ignore: c.opts.Now,
		Window: c.cfg.window,
		Pin:    c.pin, Current: c.cur.Version, State: c.st,
		Revoked: func(d layout.Digest) bool { return c.trust != nil && c.trust.IsRevoked(d) },
	}
	if c.channel != nil {
		f.Channel = c.channel.Channel
	}
	return f
}

// restarts is d where what is live is to be started although it is what should run, and this
// cycle did not start anything yet.
func (c *cycle) restarts(d decision) decision {
	if r := c.st.Running; c.opts.Start && !c.handed && !d.Act && d.Reason == reason.Current && r != nil && r.Version == c.cur.Version {
		return decision{Act: true, Target: target{Version: r.Version, Manifest: r.Manifest, Attempt: c.channel.Attempt}, Warning: d.Warning}
	}
	return d
}

// decide compares what should run with what runs. It is pure.
func decide(f facts) decision {
	if f.Pin != nil {
		return decidePin(f)
	}
	if f.Channel == nil {
		return hold(reason.Stale, "no state of channel %q was accepted on this node yet: the next `puller` asks for one; if nothing was promoted to the tier yet, `builder promote %s` does it", f.Tier, f.Tier)
	}
	t := target{Version: f.Channel.Version, Manifest: f.Channel.Manifest, Attempt: f.Channel.Attempt}
	if b := f.degraded(t); b != nil {
		return blocked(f, b, "promote another version, or `puller --pin VERSION`")
	}
	if f.runs(t) {
		d := f.proven(t)
		if b := f.State.IsBlocked(t.Version, t.Manifest, t.Attempt); d.Act && b != nil {
			return blocked(f, b, f.tryAgain(t))
		}
		if d.Act {
			return decideNew(f, t)
		}
		if f.Revoked(t.Manifest) {
			d.Warning = fmt.Sprintf("%s, which runs here, is revoked by the trust in force: promote another version", t.Version)
		} else if f.Channel.Expired(f.Now) {
			d.Warning = fmt.Sprintf("channel %q expired at %s: nothing new would be activated; `builder promote %s --version %s` renews it, or promote again", f.Tier, f.Channel.Expires.Format(canon.TimeLayout), f.Tier, t.Version)
		}
		return d
	}
	if b := f.State.IsBlocked(t.Version, t.Manifest, t.Attempt); b != nil {
		return blocked(f, b, f.tryAgain(t))
	}
	return decideNew(f, t)
}

// decideNew is about a target that the node does not run and has not tried.
func decideNew(f facts, t target) decision {
	switch {
	case f.Revoked(t.Manifest):
		return hold(reason.Policy, "%s %s is revoked by the trust in force: it is not activated any more; promote another version", t.Version, t.Manifest)
	case f.Channel.Rollout == 0:
		return hold(reason.Halted, "the rollout of %s is halted: %s", t.Version, f.keeps())
	case f.Current != "" && f.State.Retry == nil && !f.Ignore && !channels.TakesPart(f.Node, t.Version, int(f.Channel.Rollout)):
		return hold(reason.Rollout, "%s is at %d %% of the nodes, and this one is not among them yet: %s; `puller --now` does not wait", t.Version, f.Channel.Rollout, f.keeps())
	case f.Channel.Expired(f.Now):
		return hold(reason.Stale, "channel %q expired at %s: %s is not activated; `builder promote %s --version %s` renews it, or promote again", f.Tier, f.Channel.Expires.Format(canon.TimeLayout), t.Version, f.Tier, t.Version)
	}
	if !f.mayRestart(t) {
		d := hold(reason.Window, "%s waits for the maintenance window, which opens at %s: %s; `puller --now` does not wait", t.Version, f.Window.Say(f.Window.Next(f.Now)), f.keeps())
		d.Await, d.Target = true, t
		return d
	}
	return decision{Act: true, Target: t}
}

// mayRestart reports whether the maintenance window lets t be activated now: it is open, or
// t does not have to wait for it.
func (f facts) mayRestart(t target) bool {
	switch {
	case f.Window.Open(f.Now), f.Ignore:
		return true
	case f.Current == "" || f.State.Retry != nil || f.State.Degraded != nil:
		return true // nothing runs, or what does is not well: there is nothing to protect
	case f.Channel.Hotfix != "":
		return true
	case t.Version == f.Current && !unproven(f.State):
		return true // another manifest over the same tree: nothing is restarted
	}
	return f.State.RanWell(t.Version, t.Manifest)
}

func decidePin(f facts) decision {
	t := target{Version: f.Pin.Release, Manifest: f.Pin.Manifest, Attempt: f.Pin.At, Pin: true, Force: f.Pin.Force}
	if b := f.degraded(t); b != nil {
		return blocked(f, b, "`puller --pin VERSION`, also this one, tries again")
	}
	if f.runs(t) {
		return f.proven(t)
	}
	if b := f.State.IsBlocked(t.Version, t.Manifest, t.Attempt); b != nil {
		return blocked(f, b, fmt.Sprintf("`puller --pin %s` tries once more, `puller --unpin` follows the channel", t.Version))
	}
	return decision{Act: true, Target: t}
}

// tryAgain says what a person can do about a target that failed.
func (f facts) tryAgain(t target) string {
	return fmt.Sprintf("promote another version, or try it once more: here with `puller unblock %s`, on the whole tier with `builder promote %s --retry`", t.Version, f.Tier)
}

// runs reports whether t is live, as far as t says which content it means.
func (f facts) runs(t target) bool {
	r := f.State.Running
	return r != nil && f.Current == t.Version && r.Version == t.Version && (t.Manifest == "" || r.Manifest == t.Manifest)
}

// degraded returns the failure that left this node without a way back, if t is what
// failed then. Another target, or another order of the same, is tried.
func (f facts) degraded(t target) *node.Block {
	if f.State.Degraded == nil {
		return nil
	}
	d := node.State{Blocked: []node.Block{*f.State.Degraded}}
	return d.IsBlocked(t.Version, t.Manifest, t.Attempt)
}

// maxWait is the longest time between two starts of a first install.
const maxWait = time.Hour

// proven is about a target that is live: all is well, unless it is a first install that
// never became healthy and has nothing to go back to, or what was left when the way back
// failed, or what was forced, for whom proof counts again.
func (f facts) proven(t target) decision {
	if isForced(f.State) {
		if t.Force && f.State.Running.Forced == t.Attempt {
			return hold(reason.Pinned, "runs %s by force, which never proved itself, and holds it%s; %s", t.Version, f.until(), forcedWays(t.Version))
		}
		return decision{Act: true, Target: t}
	}
	if f.State.Degraded != nil {
		return decision{Act: true, Target: t}
	}
	if r := f.State.Retry; r != nil {
		// A time that is too far away was set by a clock that was wrong.
		wait := r.Next.Sub(f.Now)
		fresh := t.Pin && r.Order != t.Attempt // an order does not wait, once
		if wait > 0 && wait <= maxWait && !f.Ignore && !t.Force && !fresh {
			return hold(reason.Unhealthy, "%s was installed first on this node and is not healthy; there is nothing to go back to; started again at %s, or at once by `puller --now`; it failed with: %s", t.Version, r.Next.Format(canon.TimeLayout), r.Cause)
		}
		return decision{Act: true, Target: t}
	}
	if t.Pin {
		return hold(reason.Pinned, "runs %s and holds it%s; `puller --unpin` follows the channel again", t.Version, f.until())
	}
	return hold(reason.Current, "runs %s, as channel %q says", t.Version, f.Tier)
}

func blocked(f facts, b *node.Block, way string) decision {
	if d := f.State.Degraded; d != nil && d.Manifest == b.Manifest && d.Attempt == b.Attempt {
		return hold(reason.Degraded, "%s failed here and so did the way back: %s, and nothing more is tried; look at the app itself, then %s; it failed with: %s", b.Version, f.keeps(), way, d.Cause)
	}
	return hold(reason.Blocked, "%s failed here at %s and is not tried again: %s; %s; it failed with: %s", b.Version, b.At.Format(canon.TimeLayout), f.keeps(), way, b.Cause)
}

// until says when the pin ends, if it does.
func (f facts) until() string {
	if f.Pin.Until.IsZero() {
		return ""
	}
	return " until " + f.Pin.Until.Format(canon.TimeLayout)
}

func (f facts) keeps() string {
	if f.Current == "" {
		return "nothing runs"
	}
	return f.Current + " stays"
}

func hold(code reason.Code, format string, args ...any) decision {
	return decision{Reason: code, Message: fmt.Sprintf(format, args...)}
}
