package puller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/report"
	"makenot.work/sando/puller/reporter"
	"makenot.work/sando/puller/service"
)

// openReports makes what writes the reports of this node, unless they are off.
func (p *Puller) openReports(ctx context.Context) error {
	if !p.cfg.Report.Enabled {
		return nil
	}
	b, err := p.cfg.reports(ctx)
	if err != nil {
		return fmt.Errorf("open storage for reports: %w", err)
	}
	p.reporter = &reporter.Reporter{
		Bucket: b, Dir: p.dir, Heartbeat: p.cfg.Report.Heartbeat, Log: p.log,
		Where: fmt.Sprintf("%s %s %s", p.cfg.Storage.URL, p.cfg.Storage.Endpoint, layout.ReportKey(p.cfg.App, p.cfg.Node)),
		Ready: p.reportable,
		Now:   func() time.Time { return p.now() }, Chance: rand.Float64, Record: func(e node.Event) { p.note(p.dir, e) },
	}
	return nil
}

// reportable refuses a bucket that is a directory of somebody else's: where root made a file or
// a directory, its owner could not write any more.
func (p *Puller) reportable() error {
	u, err := url.Parse(p.cfg.Storage.URL)
	if err != nil || u.Scheme != "file" {
		return nil // openReports has refused what is no URL
	}
	info, err := os.Stat(u.Path)
	if err != nil {
		return reason.Errorf(reason.IO, "the bucket is not there: %w", err)
	}
	if owner := info.Sys().(*syscall.Stat_t).Uid; int(owner) != os.Geteuid() {
		return reason.Errorf(reason.Config, "the bucket %s belongs to uid %d, and this puller runs as uid %d: what it wrote there would be in its owner's way; "+
			"give it to the puller's user, who may be the builder's too, or set report.enabled = false", u.Path, owner, os.Geteuid())
	}
	return nil
}

// Report tells the bucket how this node is by the last cycle, if that is due, and returns when
// it is due next; the zero time when reports are off. It takes reporter.Deadline at most, holds
// nothing up, and fails in the log and in Status only. A new order ends it at once.
func (p *Puller) Report(ctx context.Context, beat Beat) time.Time {
	if p.reporter == nil || p.said == nil {
		return time.Time{}
	}
	if beat != nil {
		beat(Reporting, reporter.Deadline+shortly)
	}
	ctx, stop := p.untilOrder(ctx)
	defer stop()
	p.said.Disk = p.room()
	return p.reporter.Report(ctx, p.said)
}

// ReportOnce is Report for who ends now, if it did a cycle. A daemon that is at work reports
// itself what came of it.
func (p *Puller) ReportOnce(ctx context.Context) {
	if p.reporter == nil || p.said == nil {
		return
	}
	if d, err := p.dir.Daemon(); err == nil && d == nil {
		p.reporter.Once = true
		p.Report(ctx, nil)
	}
}

// lookForOrders is how often a report looks whether there is a new order.
const lookForOrders = 250 * time.Millisecond

// untilOrder returns a context that ends when an order comes. stop must be called.
func (p *Puller) untilOrder(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	before := p.Orders()
	var watcher sync.WaitGroup
	watcher.Go(func() {
		t := time.NewTicker(lookForOrders)
		defer t.Stop()
		for p.Orders() == before {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
		}
		cancel()
	})
	return ctx, func() { cancel(); watcher.Wait() }
}

// room is what the report says of the disk; nothing when it cannot be looked at.
func (p *Puller) room() report.Disk {
	room, err := p.dir.Room()
	if err != nil {
		p.log.Debug("for the report", "error", err)
	}
	return report.Disk{Free: room.Free, Total: room.Total, Inodes: room.Inodes}
}

// say says how this node is at the end of a cycle; nil when that came to no end.
func (c *cycle) say(res Result, err error) *report.Report {
	if c.reporter == nil || errors.Is(err, context.Canceled) || errors.Is(err, service.ErrGoingDown) {
		return nil
	}
	r := &report.Report{
		App: c.cfg.App, Node: c.cfg.Node, Tier: c.cfg.Tier, Platform: runtime.GOOS + "/" + runtime.GOARCH, Puller: program(),
		Reason: res.Reason, Message: clip(res.Message), Blocked: []report.Release{},
	}
	if c.cur.Version != "" {
		r.Running = &report.Release{Version: c.cur.Version, Since: canon.At(c.cur.Changed)}
	}
	if c.st == nil {
		return r // the state could not be read
	}
	if last := c.st.Last; last.Reason != "" {
		// As status has it: that something was activated in this cycle is no news in the next.
		r.Reason, r.Message = last.Reason, clip(last.Message)
	}
	if live := c.st.Running; live != nil && live.Version == c.cur.Version {
		r.Running, r.Downtime = released(live), live.Downtime
	}
	r.LastGood, r.Healthy, r.Rewritten = released(c.st.LastGood), c.healthy(), c.st.Rewritten
	if ch := c.channel; ch != nil {
		r.Desired = &report.Release{Version: ch.Version, Manifest: ch.Manifest}
		r.Counter = &report.Counter{Trust: ch.Trust, Seq: ch.Seq}
	}
	if pin := c.pin; pin != nil {
		r.Desired = &report.Release{Version: pin.Release, Manifest: pin.Manifest}
		if live := r.Running; pin.Manifest == "" && live != nil && live.Version == pin.Release {
			r.Desired.Manifest = live.Manifest // whichever is on disk
		}
		r.Pin = &report.Pin{Version: pin.Release, Reason: clip(pin.Reason), Since: canon.At(pin.Time()), Until: pin.Until}
	}
	blocked := c.st.Blocked
	for _, b := range blocked[max(0, len(blocked)-report.MaxBlocked):] {
		r.Blocked = append(r.Blocked, report.Release{Version: b.Version, Manifest: b.Manifest, Since: b.At})
	}
	r.Failure = c.failure()
	return r
}

// healthy reports whether what is live has proved itself, and nothing is under way.
func (c *cycle) healthy() bool {
	r := c.st.Running
	return r != nil && r.Version == c.cur.Version && c.st.Intent == nil && !unproven(c.st) && c.st.RanWell(r.Version, r.Manifest)
}

// failure is what failed here last.
func (c *cycle) failure() *report.Failure {
	st := c.st
	switch n := len(st.Blocked); {
	case st.Retry != nil && st.Running != nil:
		return &report.Failure{Version: st.Running.Version, At: st.Running.Since, Cause: clip(st.Retry.Cause)}
	case st.Degraded != nil:
		return &report.Failure{Version: st.Degraded.Version, At: st.Degraded.At, Cause: clip(st.Degraded.Cause)}
	case n > 0:
		return &report.Failure{Version: st.Blocked[n-1].Version, At: st.Blocked[n-1].At, Cause: clip(st.Blocked[n-1].Cause)}
	}
	return nil
}

func released(r *node.Release) *report.Release {
	if r == nil {
		return nil
	}
	return &report.Release{Version: r.Version, Manifest: r.Manifest, Since: r.Since}
}

// clip makes text fit for a report. What programs printed stays here: a bucket is read by many,
// and there may be a password in it.
func clip(s string) string {
	const more = " …"
	if before, _, ok := strings.Cut(s, node.Said); ok {
		s = strings.TrimRight(before, ";: ") + "; what it said is in the node's history"
	}
	if s = node.Line(s); len(s) > report.MaxText {
		s = strings.ToValidUTF8(s[:report.MaxText-len(more)], "") + more
	}
	return s
}

// program is the version of this program.
func program() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// ReportStatus is what is known of the reports of this node.
type ReportStatus struct {
	Written  canon.Time       `json:"written,omitzero"`   // the last one
	Next     canon.Time       `json:"next,omitzero"`      // at the latest
	Problem  *node.Unreported `json:"problem,omitempty"`  // why it is not written
	Namesake *node.Namesake   `json:"namesake,omitempty"` // another machine with this node's name
}

// describeReport adds what is known of reports.
func (c *cycle) describeReport(s *Status) {
	if !c.cfg.Report.Enabled {
		return
	}
	s.Report = new(ReportStatus)
	st, err := c.dir.Reporting()
	if err != nil {
		c.warn("what was reported is not known: %s", err)
		return
	}
	if st == nil {
		return
	}
	s.Report.Written, s.Report.Next, s.Report.Problem = st.Written, st.Due, st.Problem
	if st.Problem != nil {
		s.Report.Next = st.Problem.Next
	}
	if st.Namesake.IsThere(c.now()) {
		s.Report.Namesake = st.Namesake
		c.warn("%s", reporter.Shared(c.cfg.Node, st.Namesake))
	}
}
