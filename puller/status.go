package puller

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
)

// Status is what is known of this node without asking anybody.
type Status struct {
	App       string         `json:"app"`
	Node      string         `json:"node"`
	Tier      string         `json:"tier"`
	Root      string         `json:"root"`
	Reason    reason.Code    `json:"reason"`
	Message   string         `json:"message"` // why, and what happens next
	Running   *node.Release  `json:"running,omitempty"`
	Wanted    *Wanted        `json:"wanted,omitempty"`
	Channel   *ChannelStatus `json:"channel,omitempty"`
	Pin       *node.Pin      `json:"pin,omitempty"`       // the order in force
	EndedPin  *node.Pin      `json:"ended_pin,omitempty"` // one whose time is over
	Window    *WindowStatus  `json:"window,omitempty"`    // with schedule.window
	Intent    *node.Intent   `json:"intent,omitempty"`
	LastGood  *node.Release  `json:"last_good,omitempty"`
	Previous  *node.Release  `json:"previous,omitempty"`
	Retry     *node.Retry    `json:"retry,omitempty"`
	Unit      *UnitStatus    `json:"unit,omitempty"` // with service.unit
	Refused   *node.Refused  `json:"refused,omitempty"`
	Blocked   []node.Block   `json:"blocked"`
	Releases  []string       `json:"releases"`
	Trust     int64          `json:"trust,omitempty"` // version of the newest trust held
	Rewritten bool           `json:"rewritten,omitempty"`
	Daemon    *node.Daemon   `json:"daemon,omitempty"`  // the one that is at work
	Timer     string         `json:"timer,omitempty"`   // the one that runs the puller, where no daemon is at work
	AtWork    string         `json:"at_work,omitempty"` // who holds the lock: a cycle that goes on
	Pending   bool           `json:"pending,omitempty"` // the cycle that goes on, or the next, activates what is wanted
	Report    *ReportStatus  `json:"report,omitempty"`  // unless reports are off
	LastCycle canon.Time     `json:"last_cycle,omitzero"`
	Last      node.Outcome   `json:"last"`
	Warnings  []string       `json:"warnings,omitempty"`
}

// Wanted is what should run.
type Wanted struct {
	Version  string        `json:"version"`
	Manifest layout.Digest `json:"manifest,omitempty"`
	By       string        `json:"by"` // "pin", "channel", or "hand": it will be a pin
}

// ChannelStatus is the last accepted state of the tier's channel.
type ChannelStatus struct {
	Version string     `json:"version"`
	Seq     int64      `json:"seq"`
	Issued  canon.Time `json:"issued"`
	Expires canon.Time `json:"expires,omitzero"`
	Rollout int64      `json:"rollout"`
	Hotfix  string     `json:"hotfix,omitempty"`
}

// Status reads the node's own files, and asks systemd about the unit. It changes nothing,
// waits for no other puller, and needs no lock; so what it shows may be in the middle of
// a cycle.
func (p *Puller) Status(ctx context.Context) (Status, error) {
	c := &cycle{Puller: p, dry: true}
	s := Status{App: p.cfg.App, Node: p.cfg.Node, Tier: p.cfg.Tier, Root: p.cfg.Root, Blocked: []node.Block{}, Releases: []string{}}
	if err := c.load(); err != nil {
		return s, err
	}
	pinErr := c.loadPin()
	if err := c.loadTrust(); err != nil {
		c.warn("%s", err)
	} else {
		s.Trust = c.trust.Version
	}
	if err := c.loadChannel(); err != nil {
		return s, err
	}
	if err := c.describe(&s); err != nil {
		return s, err
	}
	c.describeUnit(ctx, &s)
	c.describeReport(&s)
	if s.Daemon == nil {
		s.Timer = c.activeTimer(ctx)
	}
	if err := c.dir.Space(0, 0, c.cfg.reserve); reason.Of(err) == reason.Disk {
		c.warn("%s: what is not on disk yet is not fetched before there is room", err)
	}
	s.Reason, s.Message = c.headline(&s, pinErr)
	s.Warnings = c.warnings
	return s, nil
}

func (c *cycle) describe(s *Status) error {
	st := c.st
	if c.cur.Version != "" {
		s.Running = c.release(c.cur.Version)
		if r := st.Running; r == nil || r.Version != c.cur.Version {
			live := *s.Running
			live.Since = canon.At(c.cur.Changed)
			s.Running = &live
		} else if st.Degraded != nil && r.Forced != 0 {
			live := *r
			live.Forced = 0 // it was left by a way back that failed
			s.Running = &live
		}
	}
	s.AtWork = c.dir.Busy()
	s.Pin, s.Intent, s.LastGood, s.Previous, s.Retry = c.pin, st.Intent, st.LastGood, st.Previous, st.Retry
	s.Window = c.windowStatus()
	s.Blocked, s.Rewritten, s.Last = st.Blocked, st.Rewritten, st.Last
	if ch := c.channel; ch != nil {
		s.Wanted = &Wanted{ch.Version, ch.Manifest, "channel"}
		s.Channel = channelStatus(ch.Channel)
	}
	if c.pin == nil {
		s.EndedPin = c.order
	}
	if c.pin != nil {
		s.Wanted = &Wanted{c.pin.Release, c.pin.Manifest, "pin"}
	}
	if r := st.Refused; r != nil && (c.pin != nil && r.Order == c.pin.At || c.pin == nil && c.channel != nil && r.Order == c.channel.Seq) {
		s.Refused = r
	}
	if t := c.dir.LastCycle(); !t.IsZero() {
		s.LastCycle = canon.At(t)
	}
	var err error
	if s.Daemon, err = c.dir.Daemon(); err != nil {
		return err
	}
	versions, err := c.dir.Releases()
	s.Releases = append(s.Releases, versions...)
	return err
}

func channelStatus(ch *channels.Channel) *ChannelStatus {
	return &ChannelStatus{ch.Version, ch.Seq, ch.Issued, ch.Expires, int64(ch.Rollout), ch.Hotfix}
}

// headline says in one code and one sentence how this node is.
func (c *cycle) headline(s *Status, pinErr error) (reason.Code, string) {
	code, message := c.situation(s, pinErr)
	if code.Exit() < reason.Config.Exit() && c.dir.ReadOnly() {
		// How cycles end cannot be written down, so state.json still says that all is well.
		return reason.IO, fmt.Sprintf("%s is on a filesystem that is read-only, so nothing can be updated, nor written down; `dmesg` tells why, if a fault made it so; before that: %s", c.dir.Root(), message)
	}
	return code, message
}

// situation is the headline as far as the files of the node know it.
func (c *cycle) situation(s *Status, pinErr error) (reason.Code, string) {
	switch f := diagnose(c.st, c.cur); f {
	case fine:
	case odd:
		return reason.Config, c.cur.Odd
	case repairing:
		return reason.IO, fmt.Sprintf("a repair of %s was stopped: if it is whole now the next `puller` starts it again", c.st.Repair)
	case switched, goingBack:
		return c.unfinished(s)
	case byHand:
		s.Wanted = &Wanted{Version: c.cur.Version, By: "hand"}
		return reason.Pinned, fmt.Sprintf("`current` was changed to %s by hand: the next `puller` keeps it and holds it as a pin", c.cur.Version)
	case lost:
		return reason.IO, string(f) + ": the next `puller` makes the last release that is whole current again"
	default:
		s.Pending, s.Intent = true, nil
		return reason.IO, string(f) + ": the next `puller` decides anew"
	}
	if pinErr != nil {
		return reason.Of(pinErr), pinErr.Error()
	}
	if c.dir.LastCycle().IsZero() && c.pin == nil {
		if c.cur.Version == "" {
			return reason.Stale, "no cycle ever ran on this node: run `puller`"
		}
		return reason.Stale, fmt.Sprintf("%s is live, and nothing more is known: no cycle ever ran here, or .sando/ was removed; run `puller`", c.cur.Version)
	}
	if c.st.Last.Reason == "" && c.channel == nil && c.pin == nil && c.cur.Version == "" {
		return reason.Stale, "no cycle has come to an end on this node: the first one is at work, or was stopped; look again, or run `puller`"
	}
	return c.decided(s)
}

// decided says what a cycle would decide now, or why the last one came to nothing.
func (c *cycle) decided(s *Status) (reason.Code, string) {
	d := decide(c.facts())
	if d.Warning != "" {
		c.warn("%s", d.Warning)
	}
	last := c.st.Last
	if last.Reason.Exit() != 0 && last.Reason != "" && (d.Act || d.Reason.Exit() == 0 || d.Reason == reason.Stale) {
		next := ""
		if last.Reason.Exit() == 1 {
			next = "; the next cycle tries again"
		}
		return last.Reason, last.Message + next
	}
	switch {
	case d.Act && s.AtWork != "":
		s.Pending = true
		return reason.IO, fmt.Sprintf("%s is wanted and does not run yet: a puller is at work on it", d.Target.Version)
	case d.Act:
		s.Pending = true
		return reason.IO, fmt.Sprintf("%s is wanted and does not run yet: the next `puller` activates it", d.Target.Version)
	}
	switch {
	case d.Await && c.isReady(d.Target):
		d.Message += "; it is fetched and checked"
	case d.Await:
		d.Message += "; it is not on disk yet: the next `puller` fetches it"
	}
	if at := c.unblockedAt(d.Target.Version); d.Await && at != "" {
		d.Message += fmt.Sprintf("; it failed here before, and was unblocked at %s: it is tried when the window opens", at)
	}
	return d.Reason, d.Message
}

// unblockedAt says when a person unblocked a version that was not tried since; "" if nobody did.
func (c *cycle) unblockedAt(v string) string {
	events, err := c.dir.History(50)
	if err != nil {
		return "" // it is for people, and status says enough without it
	}
	for _, e := range slices.Backward(events) {
		switch {
		case e.Event == "unblocked" && e.To == v:
			return e.At.Format(canon.TimeLayout)
		case e.Event == "updated" && e.To == v, e.Event == "rolled back" && e.From == v, e.Event == "degraded" && e.From == v:
			return ""
		}
	}
	return ""
}

// unfinished is about an activation after its swap.
func (c *cycle) unfinished(s *Status) (reason.Code, string) {
	i, last := c.st.Intent, c.st.Last
	if s.AtWork == "" && (last.Reason.Exit() == 1 || last.Reason.Exit() == 2) && !last.Since.Before(i.Started.Time) {
		return last.Reason, last.Message // why it was not gone on with
	}
	next := "; no puller is at work: the next `puller` goes on"
	if s.AtWork != "" {
		next = ""
	}
	if i.Phase == node.RollingBack {
		return reason.Probation, fmt.Sprintf("%s failed, and %s is being started again%s; it failed with: %s", i.To, i.From, next, i.Cause)
	}
	h := c.cfg.Health
	fails := fmt.Sprintf("%s is started again", i.From)
	if i.From == "" {
		fails = "it stays and is started again later: there is nothing to go back to"
	}
	until := ""
	if good := i.Started.Add(h.StableFor); good.After(c.now()) {
		until = fmt.Sprintf("; that is at %s at the earliest", good.Format(canon.TimeLayout))
	}
	if late := i.Started.Add(h.StartTimeout); late.After(c.now()) && !i.Force && s.AtWork != "" {
		until += fmt.Sprintf("; it is given up at about %s if it is not well by then", late.Format(canon.TimeLayout))
	}
	return reason.Probation, fmt.Sprintf("%s was swapped in %s and has to prove itself: well within %s, and then for %s%s; if it fails, %s%s",
		i.To, c.age(i.Started), h.StartTimeout, h.StableFor, until, fails, next)
}

func (c *cycle) age(t canon.Time) string {
	return fmt.Sprintf("%s ago", c.now().Sub(t.Time).Round(time.Second))
}

// History returns the last n events of this node, oldest first.
func (p *Puller) History(n int) ([]node.Event, error) { return p.dir.History(n) }

// Verified is what Verify found of one release.
type Verified struct {
	Version string        `json:"version"`
	Current bool          `json:"current,omitempty"`
	Reason  reason.Code   `json:"reason"` // "current" when whole
	Message string        `json:"message,omitempty"`
	Digest  layout.Digest `json:"manifest,omitempty"`
	Bytes   int64         `json:"bytes,omitempty"`
	Entries int64         `json:"entries,omitempty"`
	// Repaired says that it was damaged, as Message says, and was fetched again.
	Repaired bool `json:"repaired,omitempty"`

	damage error
}

// Verify hashes the releases of this node, all of them or those of the given versions,
// and compares each with its manifest. A release of another deployer is listed with
// nothing to compare. The error is the first damage.
func (p *Puller) Verify(ctx context.Context, versions []string) ([]Verified, error) {
	cur, err := p.dir.Current()
	if err != nil {
		return nil, err
	}
	if len(versions) == 0 {
		if versions, err = p.dir.Releases(); err != nil {
			return nil, err
		}
	}
	found := []Verified{}
	var first error
	for _, v := range versions {
		if err := layout.CheckVersion(v); err != nil {
			return nil, reason.Wrap(reason.Config, err)
		}
		if has, err := p.dir.Has(v); err == nil && !has {
			return nil, reason.Errorf(reason.Config, "version %s is not on disk; `puller status` lists what is", v)
		}
		rel, err := p.dir.Verify(ctx, v)
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		r := Verified{Version: v, Current: v == cur.Version, Reason: reason.Current}
		switch {
		case errors.Is(err, node.ErrForeign):
			r.Message = "made by another deployer: nothing to compare it with"
		case err != nil:
			r.Reason, r.Message, r.damage = reason.Of(err), err.Error()+mend(r.Current), err
			if first == nil {
				first = err
			}
		default:
			r.Digest, r.Bytes, r.Entries = rel.Digest, rel.Bundle.Unpacked, rel.Bundle.Entries
		}
		found = append(found, r)
	}
	return found, first
}

// mend says how a damaged release is made whole.
func mend(current bool) string {
	if current {
		return "; `puller verify --repair` fetches it again, and restarts the app"
	}
	return "; it is fetched again when it is wanted, or by `puller verify --repair`"
}
