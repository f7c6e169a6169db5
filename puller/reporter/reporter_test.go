package reporter_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/later"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/report"
	"makenot.work/sando/puller/reporter"
)

// machine is one that reports as node alpha, to a bucket in a directory.
type machine struct {
	t      *testing.T
	base   string // of the bucket
	w      *reporter.Reporter
	now    time.Time
	chance float64
	bucket *counting
	log    bytes.Buffer
	events []node.Event
	said   report.Report
}

// counting is a bucket that counts what is asked of it, and fails on demand.
type counting struct {
	bucket.Bucket
	asked   int
	replace func(ctx context.Context) error // instead; nil: nothing
	after   func() error                    // when it was done; nil: nothing
}

func (c *counting) Replace(ctx context.Context, key string, data []byte, version string) (string, error) {
	c.asked++
	if c.replace != nil {
		if err := c.replace(ctx); err != nil {
			return "", err
		}
	}
	now, err := c.Bucket.Replace(ctx, key, data, version)
	if err == nil && c.after != nil {
		return "", c.after()
	}
	return now, err
}

func (c *counting) Poll(ctx context.Context, key, version string, max int64) ([]byte, string, error) {
	c.asked++
	return c.Bucket.Poll(ctx, key, version, max)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const heartbeat = 15 * time.Minute

func newMachine(t *testing.T) *machine {
	t.Helper()
	return joined(t, t.TempDir())
}

// joined returns a machine with a disk of its own that reports to the bucket in base.
func joined(t *testing.T, base string) *machine {
	t.Helper()
	b, err := bucket.Open(t.Context(), bucket.Config{URL: "file://" + base})
	must(t, err)
	dir, err := node.Open(t.TempDir() + "/root")
	must(t, err)
	m := &machine{t: t, base: base, now: time.Date(2026, 6, 3, 3, 0, 0, 0, time.UTC), bucket: &counting{Bucket: b}}
	m.w = &reporter.Reporter{
		Bucket: m.bucket, Where: "here", Ready: func() error { return nil }, Dir: dir, Heartbeat: heartbeat, Log: slog.New(slog.NewTextHandler(&m.log, nil)),
		Now: func() time.Time { return m.now }, Chance: func() float64 { return m.chance },
		Record: func(e node.Event) { m.events = append(m.events, e) },
	}
	m.said = report.Report{App: "mnw", Node: "alpha", Tier: "b", Platform: "linux/amd64", Puller: "test", Reason: reason.Current, Blocked: []report.Release{}}
	return m
}

// cycle lets time pass, reports, and returns how long it is until the next report, and how
// many requests that took.
func (m *machine) cycle(after time.Duration) (next time.Duration, asked int) {
	m.t.Helper()
	m.now = m.now.Add(after)
	before := m.bucket.asked
	r := m.said
	at := m.w.Report(m.t.Context(), &r)
	return at.Sub(m.now), m.bucket.asked - before
}

// demand is cycle, of which a number of requests is expected.
func (m *machine) demand(after time.Duration, asked int) time.Duration {
	m.t.Helper()
	next, got := m.cycle(after)
	if got != asked {
		m.t.Fatalf("%d requests, want %d\n%s", got, asked, m.log.String())
	}
	return next
}

// object returns what is in the bucket.
func (m *machine) object() *report.Report {
	m.t.Helper()
	data, err := os.ReadFile(filepath.Join(m.base, "mnw/reports/alpha.json"))
	must(m.t, err)
	r, err := report.Parse(data, report.Want{App: "mnw", Node: "alpha", Now: m.now})
	must(m.t, err)
	return r
}

func (m *machine) state() *node.Reporting {
	m.t.Helper()
	st, err := m.w.Dir.Reporting()
	must(m.t, err)
	return st
}

// alone demands that nothing was said of another machine.
func (m *machine) alone() {
	m.t.Helper()
	if m.events != nil || m.state().Namesake != nil {
		m.t.Errorf("events are %+v, namesake %+v", m.events, m.state().Namesake)
	}
}

// TestWhen: at once, when something changed, and on the heartbeat.
func TestWhen(t *testing.T) {
	m := newMachine(t)
	if next := m.demand(0, 1); next != heartbeat {
		t.Errorf("the next is due in %s", next)
	}
	first := m.object()
	if first.Instance != m.state().Instance || first.Heartbeat != 900 || !first.Written.Equal(m.now) {
		t.Errorf("it says %+v", first)
	}
	m.demand(time.Minute, 0)
	m.said.Message, m.said.Disk.Free = "in other words", 7
	m.demand(time.Minute, 0)
	m.said.Reason = reason.Blocked
	m.chance = 0.5
	if next := m.demand(time.Minute, 1); next != heartbeat*9/10 {
		t.Errorf("the next is due in %s", next)
	}
	if r := m.object(); r.Reason != reason.Blocked || r.Message != "in other words" || r.Disk.Free != 7 {
		t.Errorf("it says %+v", r)
	}
	m.demand(heartbeat*9/10-time.Second, 0)
	m.demand(time.Second, 1)
	if r := m.object(); !r.Written.Equal(m.now) || r.Instance != first.Instance {
		t.Errorf("it says %+v", r)
	}
	m.alone()
}

// TestClock: one that is set back does not silence a node.
func TestClock(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	m.demand(-24*time.Hour, 1)
	m.demand(time.Minute, 0)
	m.bucket.replace = func(context.Context) error { return errors.New("no route") }
	m.demand(heartbeat, 1)
	m.bucket.replace = nil
	m.demand(-24*time.Hour, 1)
	m.alone()
}

// TestProblem: what cannot be written is tried again later each time, said once, and kept.
func TestProblem(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	m.bucket.replace = func(context.Context) error { return errors.New("no route to host") }
	m.said.Reason = reason.Window
	began := m.now.Add(time.Minute)
	for n, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, heartbeat, heartbeat} {
		next := m.demand(time.Minute, 1)
		if next != want {
			t.Fatalf("after %d failures it is tried again in %s, want %s", n+1, next, want)
		}
		m.demand(next-time.Second, 0)
		m.now = m.now.Add(time.Second - time.Minute)
	}
	p := m.state().Problem
	if p == nil || p.Count != 6 || !p.Since.Equal(began) || p.Code != reason.IO || !strings.Contains(p.Cause, "no route to host") {
		t.Fatalf("problem is %+v", p)
	}
	m.bucket.replace = nil
	m.demand(time.Minute, 1)
	if st := m.state(); st.Problem != nil || len(st.Pending) != 0 {
		t.Errorf("state is %+v", st)
	}
	if n := strings.Count(m.log.String(), "is not written"); n != 1 || strings.Count(m.log.String(), "is written again") != 1 {
		t.Errorf("said %d times:\n%s", n, m.log.String())
	}
	m.alone()
}

// TestRetryAfter: a server may ask for a longer pause, up to the heartbeat.
func TestRetryAfter(t *testing.T) {
	for wish, want := range map[time.Duration]time.Duration{0: time.Minute, 5 * time.Minute: 5 * time.Minute, 24 * time.Hour: heartbeat} {
		m := newMachine(t)
		m.bucket.replace = func(context.Context) error { return &later.Wish{Err: errors.New("503"), After: wish} }
		if next := m.demand(0, 1); next != want {
			t.Errorf("with Retry-After %s it is tried again in %s, want %s", wish, next, want)
		}
	}
}

// TestHangs: a server that does not answer costs the deadline, and no more.
func TestHangs(t *testing.T) {
	m := newMachine(t)
	synctest.Test(t, func(t *testing.T) {
		m.t = t
		m.bucket.replace = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
		begin := time.Now()
		if next := m.demand(0, 1); next != time.Minute || time.Since(begin) != reporter.Deadline {
			t.Errorf("it took %s, and is tried again in %s", time.Since(begin), next)
		}
		if p := m.state().Problem; p == nil || p.Code != reason.IO || !strings.Contains(p.Cause, "it took longer than 10s") {
			t.Errorf("problem is %+v", p)
		}
	})
}

// TestInterrupted: an order, or the end, is no failure.
func TestInterrupted(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	ctx, cancel := context.WithCancel(t.Context())
	m.bucket.replace = func(context.Context) error { cancel(); return ctx.Err() }
	m.said.Reason = reason.Pinned
	r := m.said
	if next := m.w.Report(ctx, &r); next.Sub(m.now) != time.Minute {
		t.Errorf("it is tried again in %s", next.Sub(m.now))
	}
	if p := m.state().Problem; p != nil {
		t.Errorf("problem is %+v", p)
	}
	m.bucket.replace = nil
	m.demand(time.Second, 1)
	m.alone()
}

// TestUnheard: what was stored although nobody heard of it is this node's own.
func TestUnheard(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	m.said.Reason = reason.Window
	m.bucket.after = func() error { return errors.New("connection reset") }
	m.demand(time.Minute, 1) // stored
	m.bucket.after, m.bucket.replace = nil, func(context.Context) error { return errors.New("no route") }
	m.said.Reason = reason.Current
	m.demand(time.Minute, 1) // not stored
	m.bucket.replace = nil
	m.demand(2*time.Minute, 3)
	if r := m.object(); r.Reason != reason.Current {
		t.Errorf("it says %+v", r)
	}
	m.alone()
}

// TestRemoved: an object that somebody removed is made again.
func TestRemoved(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	must(t, os.Remove(filepath.Join(m.base, "mnw/reports/alpha.json")))
	m.demand(heartbeat, 3)
	m.demand(heartbeat, 1)
	m.alone()
}

// denied is how a server answers for an object that is not there, where nobody may list.
type denied struct{ error }

func (denied) Forbidden() bool { return true }

func TestRemovedAndDenied(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	must(t, os.Remove(filepath.Join(m.base, "mnw/reports/alpha.json")))
	times := 0
	m.bucket.replace = func(context.Context) error {
		if times++; times == 1 {
			return denied{errors.New("403 AccessDenied")}
		}
		return nil
	}
	m.demand(heartbeat, 3)
	if r := m.object(); !r.Written.Equal(m.now) {
		t.Errorf("it says %+v", r)
	}
	m.alone()
}

func TestDenied(t *testing.T) {
	m := newMachine(t)
	m.bucket.replace = func(context.Context) error { return denied{errors.New("403 AccessDenied")} }
	m.demand(0, 1)
	const want = `403 AccessDenied; the credential of [report] must have s3:GetObject and s3:PutObject on "mnw/reports/alpha.json"`
	if p := m.state().Problem; p == nil || p.Cause != want {
		t.Errorf("problem is %+v, want %s", p, want)
	}
}

// TestRestored: a disk from a backup, or a .sando/ that was removed, takes over. That is
// noted once, and is no other machine.
func TestRestored(t *testing.T) {
	for _, name := range []string{"restored", "removed"} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			m.demand(0, 1)
			file := m.w.Dir.Path("report.json")
			old, err := os.ReadFile(file)
			must(t, err)
			m.demand(heartbeat, 1)
			m.demand(heartbeat, 1)
			must(t, os.Remove(file))
			if name == "restored" {
				must(t, os.WriteFile(file, old, 0o600))
			}
			m.demand(heartbeat, 3)
			for range 10 {
				m.demand(heartbeat, 1)
			}
			if len(m.events) != 1 || m.events[0].Event != "report taken over" || !strings.Contains(m.events[0].Message, "was not the one that it wrote last") {
				t.Errorf("events are %+v", m.events)
			}
			if st := m.state(); st.Namesake != nil || m.object().Instance != st.Instance {
				t.Errorf("state is %+v", st)
			}
		})
	}
}

// TestNamesake: two machines under one name. Both find out, say it once, and write on their
// heartbeats only; after one is renamed it is forgotten.
func TestNamesake(t *testing.T) {
	for _, clone := range []bool{false, true} {
		t.Run(fmt.Sprintf("clone %v", clone), func(t *testing.T) {
			a := newMachine(t)
			b := joined(t, a.base)
			b.said.Platform = "linux/arm64"
			a.demand(0, 1)
			if clone {
				data, err := os.ReadFile(a.w.Dir.Path("report.json"))
				must(t, err)
				must(t, os.WriteFile(b.w.Dir.Path("report.json"), data, 0o600))
			}
			for range 3 {
				b.cycle(heartbeat)
				a.cycle(heartbeat)
			}
			for who, m := range map[string]*machine{"a": a, "b": b} {
				var got []string
				for _, e := range m.events {
					got = append(got, e.Event)
				}
				if want := "report taken over duplicate node"; strings.Join(got, " ") != want {
					t.Errorf("%s: events are %q, want %q", who, got, want)
				}
				n := m.state().Namesake
				if !n.IsThere(m.now) {
					t.Fatalf("%s: namesake is %+v", who, n)
				}
				text := reporter.Shared("alpha", n)
				if !strings.Contains(text, "set `node` in the configuration of one of them") || strings.Count(m.log.String(), "another machine reports as") != 1 {
					t.Errorf("%s: it says %s, and the log\n%s", who, text, m.log.String())
				}
			}
			// What changes waits for the heartbeat.
			a.said.Reason = reason.Window
			a.demand(time.Minute, 0)
			a.demand(heartbeat, 1)

			// b is renamed: a is alone again.
			for range 6 {
				a.cycle(heartbeat)
			}
			if n := a.state().Namesake; n.IsThere(a.now) || n != nil {
				t.Errorf("namesake is %+v", n)
			}
			a.said.Reason = reason.Current
			a.demand(time.Minute, 1)
		})
	}
}

// TestSlowNamesake: the other machine promises to report seldom, and is waited for.
func TestSlowNamesake(t *testing.T) {
	a := newMachine(t)
	b := joined(t, a.base)
	b.w.Heartbeat = 12 * time.Hour
	a.demand(0, 1)
	for day := range 2 {
		b.cycle(12 * time.Hour)
		for range 12 * 4 {
			a.cycle(heartbeat)
		}
		if got := a.state().Namesake.IsThere(a.now); got != (day > 0) {
			t.Errorf("after %d reports of the other: %v", day+1, got)
		}
	}
}

// TestGarbage: whatever is in the object, this node's report takes its place.
func TestGarbage(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	must(t, os.WriteFile(filepath.Join(m.base, "mnw/reports/alpha.json"), []byte("\x1b[2J"), 0o644))
	m.demand(heartbeat, 3)
	if r := m.object(); !r.Written.Equal(m.now) {
		t.Errorf("it says %+v", r)
	}
	if len(m.events) != 1 || !strings.Contains(m.events[0].Message, "it cannot be read") || canon.Text(m.events[0].Message, false) != nil {
		t.Errorf("events are %+v", m.events)
	}
}

// TestBusy: two pullers of one node do not write at the same time.
func TestBusy(t *testing.T) {
	m := newMachine(t)
	unlock, err := m.w.Dir.LockReport()
	must(t, err)
	m.demand(0, 0)
	unlock()
	m.demand(time.Minute, 1)
}

// TestMoved: in another place nothing of it is known.
func TestMoved(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	id := m.state().Instance
	b, err := bucket.Open(t.Context(), bucket.Config{URL: "file://" + t.TempDir()})
	must(t, err)
	m.bucket.Bucket, m.w.Where = b, "there"
	m.demand(time.Minute, 1)
	if m.state().Instance == id {
		t.Error("it is the same instance")
	}
	m.alone()
}

// TestBroken: a file that cannot be read makes another instance, a newer one nothing.
func TestBroken(t *testing.T) {
	m := newMachine(t)
	m.demand(0, 1)
	must(t, os.WriteFile(m.w.Dir.Path("report.json"), []byte("{}"), 0o600))
	m.demand(time.Minute, 3)
	must(t, os.WriteFile(m.w.Dir.Path("report.json"), []byte(`{"version":2}`), 0o600))
	m.demand(time.Hour, 0)
	if !strings.Contains(m.log.String(), "a newer puller wrote it") {
		t.Errorf("the log says\n%s", m.log.String())
	}
}

// TestFullDisk: a daemon reports all the same, and remembers; a single cycle does not, since
// the next would take its report for somebody else's.
func TestFullDisk(t *testing.T) {
	for _, once := range []bool{true, false} {
		m := newMachine(t)
		must(t, os.Mkdir(m.w.Dir.Path("report.json"), 0o700)) // so nothing can be put there
		m.w.Once = once
		want := 1
		if once {
			want = 0
		}
		m.demand(0, want)
		m.demand(time.Minute, 0)
		m.demand(heartbeat, want)
		if m.events != nil || !strings.Contains(m.log.String(), "report.json") {
			t.Errorf("events are %+v, the log says\n%s", m.events, m.log.String())
		}
	}
}

// TestKey: reports of one app are beside one another.
func TestKey(t *testing.T) {
	if got := layout.ReportKey("mnw", "alpha"); got != "mnw/reports/alpha.json" {
		t.Errorf("key is %q", got)
	}
}
