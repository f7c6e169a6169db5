package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/later"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/schedule"
)

// bench is a daemon with a puller that does what a test says, in the time of a bubble.
type bench struct {
	t      *testing.T
	base   string
	start  time.Time
	log    logged
	told   *told
	jump   atomic.Int64 // of the clock
	cancel context.CancelFunc
	reload chan os.Signal
	ended  chan error
	stops  atomic.Int32
	closed atomic.Int32
	fails  error // how the daemon ends; nil: as it was told

	mu      sync.Mutex
	at      []string // when each cycle began, and what it was asked for
	orders  string
	reports []string                  // when the report was asked for
	due     func(n int) time.Duration // from then until the next; nil: reports are off
	step    func(ctx context.Context, n int, opts puller.Options) (puller.Result, error)
}

// logged is a log that can be read while it is written.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// told is a Manager that remembers.
type told struct {
	mu    sync.Mutex
	start time.Time
	dog   time.Duration
	lines []string
}

func (m *told) note(line string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.lines = append(m.lines, fmt.Sprintf("%s %s", time.Since(m.start), line))
	return nil
}

func (m *told) Ready() error                     { return m.note("READY") }
func (m *told) Reloading() error                 { return m.note("RELOADING") }
func (m *told) Stopping() error                  { return m.note("STOPPING") }
func (m *told) Status(text string) error         { return m.note("STATUS " + text) }
func (m *told) Alive() error                     { return m.note("ALIVE") }
func (m *told) Patience(d time.Duration) error   { return m.note("PATIENCE " + d.String()) }
func (m *told) Watchdog() (time.Duration, error) { return m.dog, nil }

// heard returns the lines that begin with one of words, of all that was told.
func (m *told) heard(words ...string) (found []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.lines {
		for _, w := range words {
			if _, line, _ := strings.Cut(l, " "); strings.HasPrefix(line, w) {
				found = append(found, l)
			}
		}
	}
	return found
}

func (b *bench) Step(ctx context.Context, opts puller.Options) (puller.Result, error) {
	b.mu.Lock()
	n := len(b.at)
	what := time.Since(b.start).String()
	if opts.Order {
		what += " order"
	}
	b.at = append(b.at, what)
	b.mu.Unlock()
	return b.step(ctx, n, opts)
}

func (b *bench) Orders() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.orders
}

func (b *bench) Report(_ context.Context, beat puller.Beat) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.due == nil {
		return time.Time{}
	}
	beat(puller.Reporting, time.Minute)
	b.reports = append(b.reports, time.Since(b.start).String())
	return time.Now().Add(b.due(len(b.reports)))
}

func (b *bench) order(stamp string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.orders = stamp
}

func (b *bench) Close() error { b.closed.Add(1); return nil }

func (b *bench) config(text string) {
	b.t.Helper()
	head := fmt.Sprintf("app = \"mnw\"\ntier = \"b\"\nnode = \"alpha\"\nroot = \"%s/node\"\n", b.base)
	if err := os.WriteFile(b.base+"/mnw.toml", []byte(head+text+"\n[channels]\nrepo = \"file:///none\"\n[storage]\nurl = \"file:///none\"\n"), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) load() (*puller.Config, error) { return puller.LoadConfig(b.base+"/mnw.toml", nil) }

// run starts a daemon in a bubble and calls do; then the daemon is told to stop.
func run(t *testing.T, config string, step func(ctx context.Context, n int, opts puller.Options) (puller.Result, error), do func(b *bench)) {
	t.Helper()
	base := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, base: base, start: time.Now(), reload: make(chan os.Signal, 1), ended: make(chan error, 1), step: step}
		b.told = &told{start: b.start, dog: time.Minute}
		b.config(config)
		d := &daemon{
			Options: Options{
				Load: b.load, File: b.base + "/mnw.toml", Manager: b.told,
				Open: func(context.Context, *puller.Config) (Puller, error) { return b, nil },
				Log:  slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{ReplaceAttr: noTime})),
			},
			reload: b.reload, wall: func() time.Time { return time.Now().Add(time.Duration(b.jump.Load())) },
			chance: func() float64 { return 0.5 }, stopping: func() { b.stops.Add(1) },
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		b.cancel = cancel
		go func() { b.ended <- d.run(ctx) }()
		do(b)
		cancel()
		if err := <-b.ended; fmt.Sprint(err) != fmt.Sprint(b.fails) {
			t.Errorf("run: %v, want %v", err, b.fails)
		}
		if b.closed.Load() == 0 || b.fails == nil && b.stops.Load() != 1 {
			t.Errorf("closed %d times, stopping %d times", b.closed.Load(), b.stops.Load())
		}
	})
}

func noTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}

// after lets that much time pass.
func (b *bench) after(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (b *bench) began(want ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if diff := cmp.Diff(want, b.at); diff != "" {
		b.t.Errorf("cycles (-want +got)\n%s", diff)
	}
}

func (b *bench) cycles() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.at)
}

func current(context.Context, int, puller.Options) (puller.Result, error) {
	return puller.Result{Reason: reason.Current, Message: "runs 1.0", Running: "1.0"}, nil
}

func failed(context.Context, int, puller.Options) (puller.Result, error) {
	return puller.Result{Reason: reason.IO, Message: "connection refused"}, errors.New("connection refused")
}

const minutely = "[schedule]\npoll = \"@every 60s\"\njitter = \"10%\"\n"

// first is when the node of these tests looks for the second time.
func first(interval time.Duration) time.Duration {
	return interval + time.Duration((schedule.Offset("mnw", "alpha")-1)*float64(interval))
}

func TestSchedule(t *testing.T) {
	run(t, minutely, current, func(b *bench) {
		b.after(10 * time.Minute)
		f := first(time.Minute)
		want := []string{"0s"}
		for i := range 10 {
			want = append(want, (f + time.Duration(i)*time.Minute).String())
		}
		b.began(want...)
		if got := b.log.String(); strings.Count(got, "runs 1.0") != 1 || strings.Count(got, "\n") != 2 {
			t.Errorf("an idle daemon logs %s", got)
		}
	})
}

func TestBackoff(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		if n == 3 {
			return current(ctx, n, opts)
		}
		return failed(ctx, n, opts)
	}, func(b *bench) {
		b.after(100 * time.Second)
		b.began("0s", "9s", "27s", "1m3s")
		b.after(3 * time.Minute)
		// From then on by the schedule; it fails again, and the wait begins anew.
		b.began("0s", "9s", "27s", "1m3s", "2m3s", "2m12s", "2m30s", "3m6s", "4m18s")
	})
}

// Both codes that exit 1 do, and nothing else: a refusal costs its servers nothing.
func TestBackoffByReason(t *testing.T) {
	for _, code := range reason.All() {
		run(t, hourly, func(context.Context, int, puller.Options) (puller.Result, error) {
			return puller.Result{Reason: code, Message: "x"}, nil
		}, func(b *bench) {
			b.after(19 * time.Second)
			if backs := code == reason.IO || code == reason.Disk; backs != (b.cycles() == 2) {
				t.Errorf("%s: %d cycles", code, b.cycles())
			}
		})
	}
}

// A server that says when to come again is asked then, if that is within reason.
func TestRetryAfter(t *testing.T) {
	for _, c := range []struct {
		wish time.Duration
		want string
	}{
		{time.Second, "9s"}, {2 * time.Minute, "2m0s"}, {365 * 24 * time.Hour, "15m0s"},
	} {
		run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
			if n > 0 {
				return current(ctx, n, opts)
			}
			err := fmt.Errorf("poll: %w", &later.Wish{Err: errors.New("status 429"), After: c.wish})
			return puller.Result{Reason: reason.IO, Message: err.Error()}, err
		}, func(b *bench) {
			b.after(15*time.Minute + 10*time.Second)
			b.mu.Lock()
			defer b.mu.Unlock()
			if b.at[1] != c.want {
				t.Errorf("%s: asks again after %s", c.wish, b.at[1])
			}
		})
	}
}

// The window does not wait for a git host that is down.
func TestAgainAfterFailure(t *testing.T) {
	run(t, minutely, func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		r, err := failed(ctx, n, opts)
		if n == 5 {
			r.Again = time.Now().Add(11 * time.Second)
		}
		return r, err
	}, func(b *bench) {
		b.after(6 * time.Minute)
		b.began("0s", "9s", "27s", "1m3s", "2m15s", "4m39s", "4m50s")
	})
}

func TestBackoffGrows(t *testing.T) {
	for _, c := range []struct {
		n        int
		interval time.Duration
		chance   float64
		want     time.Duration
	}{
		{1, time.Minute, 0, 10 * time.Second},
		{1, time.Second, 0, time.Second},
		{2, time.Second, 0, 2 * time.Second},
		{3, time.Hour, 0, 40 * time.Second},
		{3, time.Hour, 0.5, 36 * time.Second},
		{7, time.Hour, 0, 640 * time.Second},
		{8, time.Hour, 0, 15 * time.Minute},
		{1000, time.Hour, 0, 15 * time.Minute},
		{1000, time.Second, 0, 15 * time.Minute},
		{1000, time.Hour, 1, 12 * time.Minute},
	} {
		if got := backoff(c.n, c.interval, c.chance); got != c.want {
			t.Errorf("%+v: %s", c, got)
		}
	}
}

// A refusal is looked at again by the schedule; so is what a person must mend.
func TestRefusal(t *testing.T) {
	for _, code := range []reason.Code{reason.Replay, reason.Config, reason.Blocked, reason.Degraded} {
		level := "WARN"
		if code == reason.Degraded {
			level = "ERROR" // nothing more happens by itself
		}
		run(t, minutely, func(context.Context, int, puller.Options) (puller.Result, error) {
			return puller.Result{Reason: code, Message: "no"}, reason.Errorf(code, "no")
		}, func(b *bench) {
			b.after(first(time.Minute) + 90*time.Second)
			b.began("0s", first(time.Minute).String(), (first(time.Minute) + time.Minute).String())
			if n := strings.Count(b.log.String(), "level="+level+" msg=no reason="+string(code)); n != 1 {
				t.Errorf("logged %d times: %s", n, b.log.String())
			}
		})
	}
}

// A first install that is not well is started again at its own time.
func TestAgain(t *testing.T) {
	run(t, "[schedule]\npoll = \"@every 1h\"\n", func(ctx context.Context, n int, _ puller.Options) (puller.Result, error) {
		r := puller.Result{Reason: reason.Unhealthy, Message: "not well"}
		if n == 0 {
			r.Again = time.Now().Add(70 * time.Second)
		}
		return r, reason.Errorf(r.Reason, "not well")
	}, func(b *bench) {
		b.after(2 * time.Minute)
		b.began("0s", "1m10s")
	})
}

func TestPinWakes(t *testing.T) {
	run(t, "[schedule]\npoll = \"@every 1h\"\n", current, func(b *bench) {
		b.after(61 * time.Second)
		b.order("a pin")
		b.after(tick)
		b.began("0s", "1m2s order")
		b.after(time.Minute)
		b.order("")
		b.after(tick)
		b.began("0s", "1m2s order", "2m4s")
	})
}

// A pin takes nothing from the look that is due right after it.
func TestPinBeforeMoment(t *testing.T) {
	run(t, "[schedule]\npoll = \"*/10 * * * *\"\njitter = \"0%\"\n", current, func(b *bench) {
		b.after(9*time.Minute + 30*time.Second)
		b.order("a pin")
		b.after(time.Minute)
		b.began("0s", "9m32s order", "10m0s")
	})
}

// A pin that comes while a cycle is under way is seen right after it.
func TestPinInCycle(t *testing.T) {
	run(t, "[schedule]\npoll = \"@every 1h\"\n", func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		<-time.After(10 * time.Second)
		return current(ctx, n, opts)
	}, func(b *bench) {
		b.after(5 * time.Second)
		b.order("a pin")
		b.after(30 * time.Second)
		b.began("0s", "10s order")
	})
}

// So is a reload, and it counts before the pin is carried out.
func TestReloadInCycle(t *testing.T) {
	run(t, "[schedule]\npoll = \"@every 1h\"\n", func(ctx context.Context, n int, opts puller.Options) (puller.Result, error) {
		<-time.After(10 * time.Second)
		return current(ctx, n, opts)
	}, func(b *bench) {
		b.after(5 * time.Second)
		b.config("[schedule]\npoll = \"@every 2h\"\n")
		b.order("a pin")
		b.reload <- syscall.SIGHUP
		b.after(30 * time.Second)
		b.began("0s", "10s order")
		if got := b.log.String(); !strings.Contains(got, "msg=reloaded") || !strings.Contains(got, `poll="@every 2h"`) || strings.Index(got, "msg=reloaded") > strings.LastIndex(got, "runs 1.0") {
			t.Errorf("logged %s", got)
		}
	})
}

// However the clock jumps, nothing is late by hours, and nothing is done in a burst.
func TestClockJumps(t *testing.T) {
	for _, poll := range []string{"@every 10m", "*/10 * * * *"} {
		for _, jump := range []time.Duration{-5 * time.Hour, 5 * time.Hour, -20 * 365 * 24 * time.Hour} {
			run(t, "[schedule]\njitter = \"0%\"\npoll = \""+poll+"\"\n", current, func(b *bench) {
				b.after(time.Hour)
				before := b.cycles()
				b.jump.Store(int64(jump))
				b.after(time.Hour)
				if n := b.cycles() - before; n < 5 || n > 7 {
					t.Errorf("%s, jump by %s: %d cycles in an hour", poll, jump, n)
				}
			})
		}
	}
}

func TestNews(t *testing.T) {
	results := []puller.Result{
		{Reason: reason.Updated, Message: "runs 1.0", Running: "1.0"},
		{Reason: reason.Current, Message: "runs 1.0, as channel says", Running: "1.0", Warnings: []string{"expires soon"}},
		{Reason: reason.Current, Message: "runs 1.0, as channel says", Running: "1.0", Warnings: []string{"expires soon"}},
		{Reason: reason.Stale, Message: "expired", Running: "1.0"},
		{Reason: reason.Stale, Message: "expired", Running: "1.0"},
		{Reason: reason.Current, Message: "runs 1.0, as channel says", Running: "1.0"},
		{Reason: reason.Updated, Message: "runs 2.0, before that 1.0", Running: "2.0"},
	}
	run(t, minutely, func(_ context.Context, n int, _ puller.Options) (puller.Result, error) {
		return results[min(n, len(results)-1)], nil
	}, func(b *bench) {
		b.after(first(time.Minute) + 5*time.Minute + time.Second)
		want := `level=INFO msg="runs 1.0" reason=updated
level=WARN msg="expires soon"
level=WARN msg=expired reason=stale
level=INFO msg="runs 1.0, as channel says" reason=current
level=INFO msg="runs 2.0, before that 1.0" reason=updated
`
		_, got, _ := strings.Cut(b.log.String(), "\n")
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got)\n%s", diff)
		}
		status := b.told.heard("STATUS")
		if len(status) != 7 || !strings.HasSuffix(status[3], "STATUS stale: expired") {
			t.Errorf("status was %q", status)
		}
	})
}

func TestReload(t *testing.T) {
	run(t, "[schedule]\npoll = \"@every 1h\"\n", current, func(b *bench) {
		dir, err := node.View(b.base + "/node")
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range []struct{ config, problem string }{
			{"retain = 0\n", "retain: 0 is less than 1"},
			{"[schedule]\njitter = \"60%\"\n", "schedule.jitter"},
		} {
			b.after(time.Minute)
			b.config(c.config)
			b.reload <- syscall.SIGHUP
			b.after(time.Second)
			b.began("0s") // and goes on waiting
			who, err := dir.Daemon()
			if err != nil || !strings.Contains(who.Problem, c.problem) {
				t.Errorf("daemon file says %+v, %v", who, err)
			}
			status := b.told.heard("STATUS")
			if !strings.Contains(status[len(status)-1], c.problem) {
				t.Errorf("status is %q", status)
			}
		}
		b.config("[schedule]\npoll = \"@every 2h\"\n")
		b.reload <- syscall.SIGHUP
		b.after(time.Second)
		b.began("0s", "2m2s")
		if who, err := dir.Daemon(); err != nil || who.Problem != "" || b.closed.Load() != 1 {
			t.Errorf("daemon file says %+v, %v; closed %d times", who, err, b.closed.Load())
		}
		if got := strings.Join(b.told.heard("RELOADING", "READY"), ", "); got != "0s READY, 1m0s RELOADING, 1m0s READY, 2m1s RELOADING, 2m1s READY, 2m2s RELOADING, 2m2s READY" {
			t.Errorf("told %s", got)
		}
	})
}

// A daemon whose .sando was taken away is one that others can see again, and the only one.
func TestDaemonFileIsGone(t *testing.T) {
	gone := func(b *bench) {
		if err := os.RemoveAll(b.base + "/node/.sando"); err != nil {
			b.t.Error(err)
		}
	}
	who := func(b *bench) *node.Daemon {
		dir, err := node.View(b.base + "/node")
		if err != nil {
			b.t.Fatal(err)
		}
		d, err := dir.Daemon()
		if err != nil {
			b.t.Fatal(err)
		}
		return d
	}
	run(t, minutely, current, func(b *bench) {
		b.after(time.Second)
		me := who(b)
		gone(b)
		if me == nil || who(b) != nil {
			t.Fatal("the file is not gone")
		}
		b.after(2 * time.Minute)
		if got := who(b); got == nil || *got != *me {
			t.Errorf("daemon file says %+v, want %+v", got, me)
		}
		b.logs(`level=WARN msg="the daemon file was gone: made again" app=mnw`, 1)
	})
	run(t, minutely, current, func(b *bench) {
		b.after(time.Second)
		gone(b)
		dir, err := node.Open(b.base + "/node")
		if err != nil {
			t.Fatal(err)
		}
		other, err := dir.Claim(node.Daemon{PID: 4711})
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		b.after(2 * time.Minute)
		_, b.fails = dir.Claim(node.Daemon{})
		if n := b.cycles(); n != 2 || reason.Of(b.fails) != reason.Config {
			t.Errorf("%d cycles beside another daemon, %v", n, b.fails)
		}
	})
}
