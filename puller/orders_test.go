package puller

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
)

// pinnable is a node that follows 2.0, ran 1.0 before, and has 3.0 in the storage.
func pinnable(t *testing.T) *world {
	w := two(t)
	w.publish("3.0", "")
	w.advance("2.0", nil)
	w.step(reason.Updated)
	return w
}

// clock gives the puller a clock that can be set while it works.
func (w *world) clock() (set func(time.Duration)) {
	var ahead atomic.Int64
	w.puller.now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	return func(d time.Duration) { ahead.Store(int64(d)) }
}

// give is an order that another process writes, while this one is busy.
func (w *world) give(p node.Pin) {
	w.t.Helper()
	if p.At == 0 {
		p.At = time.Now().UnixMilli()
	}
	must(w.t, w.puller.dir.SavePin(p))
}

func (w *world) order(o Order, want reason.Code) Result {
	w.t.Helper()
	return w.demand(want)(w.puller.Pin(w.t.Context(), o, Options{}))
}

func (w *world) unpin(want reason.Code) Result {
	w.t.Helper()
	return w.demand(want)(w.puller.Unpin(w.t.Context(), Options{}))
}

func (w *world) known() *node.State {
	w.t.Helper()
	st, err := w.puller.dir.State()
	must(w.t, err)
	return st
}

// events returns those of the history with one of the names.
func (w *world) events(names ...string) (found []node.Event) {
	w.t.Helper()
	all, err := w.puller.History(1000)
	must(w.t, err)
	for _, e := range all {
		if slices.Contains(names, e.Event) {
			found = append(found, e)
		}
	}
	return found
}

func (w *world) says(r Result, text string) {
	w.t.Helper()
	if !strings.Contains(r.Message, text) {
		w.t.Errorf("says %q, want …%s…", r.Message, text)
	}
}

// A pin that ends by itself: the channel is followed again, and history says so once.
func TestPinUntil(t *testing.T) {
	w := pinnable(t)
	set := w.clock()
	until := canon.At(time.Now().Add(time.Hour))
	r := w.order(Order{Version: "1.0", Until: until}, reason.Updated)
	if !r.Again.Equal(until.Time) {
		t.Errorf("something is due at %s, want %s", r.Again, until)
	}
	w.says(w.step(reason.Pinned), "holds it until "+until.Format(canon.TimeLayout))
	if s, err := w.puller.Status(t.Context()); err != nil || s.Pin == nil || s.EndedPin != nil {
		t.Errorf("status: %+v, %v", s, err)
	}
	set(time.Hour + time.Second)
	if r := w.step(reason.Updated); !r.Again.IsZero() || r.From != "1.0" {
		t.Errorf("got %+v", r)
	}
	w.runs("2.0")
	w.step(reason.Current)
	ended := w.events("pin ended")
	if len(ended) != 1 || ended[0].To != "1.0" || !strings.Contains(ended[0].Message, until.Format(canon.TimeLayout)) {
		t.Errorf("history: %+v", ended)
	}
	if s, err := w.puller.Status(t.Context()); err != nil || s.Pin != nil || s.EndedPin == nil || s.Wanted.By != "channel" {
		t.Errorf("status: %+v, %v", s, err)
	}
	if p, err := w.puller.dir.Pin(); err != nil || p == nil {
		t.Errorf("the file: %v, %v", p, err)
	}
	w.order(Order{Version: "3.0"}, reason.Updated)
	w.unpin(reason.Updated)
	w.runs("2.0")
}

// The exit from a pin by time is by the channel's rules.
func TestPinEndsByTheChannelsRules(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*channels.Channel)
		want   reason.Code
	}{
		"open":    {nil, reason.Updated},
		"halted":  {func(c *channels.Channel) { c.Rollout = 0 }, reason.Halted},
		"expired": {func(c *channels.Channel) { c.Expires = canon.At(c.Issued.Add(time.Minute)) }, reason.Stale},
	} {
		t.Run(name, func(t *testing.T) {
			w := pinnable(t)
			set := w.clock()
			w.order(Order{Version: "1.0", Until: canon.At(time.Now().Add(time.Hour))}, reason.Updated)
			w.advance("3.0", c.change)
			w.step(reason.Pinned)
			set(2 * time.Hour)
			w.step(c.want)
			want := "1.0"
			if c.want == reason.Updated {
				want = "3.0"
			}
			w.runs(want)
		})
	}
}

// A clock from before the accepted state was signed is wrong, and ends no pin, also when
// only this poll shows it.
func TestPinUntilAndTheClock(t *testing.T) {
	w := pinnable(t)
	set := w.clock()
	w.order(Order{Version: "1.0", Until: canon.At(time.Now().Add(time.Hour))}, reason.Updated)
	set(2 * time.Hour)
	w.advance("3.0", func(c *channels.Channel) { c.Issued = canon.At(c.Issued.Add(3 * time.Hour)) })
	w.step(reason.Pinned)
	w.runs("1.0")
	w.step(reason.Pinned) // by what was accepted before
	if n := len(w.events("pin ended")); n != 0 {
		t.Errorf("it ended %d times", n)
	}
	set(4 * time.Hour)
	w.step(reason.Updated)
	w.runs("3.0")
	set(2 * time.Hour) // it has ended, whatever was signed when
	w.step(reason.Current)
	set(-time.Minute) // the clock was wrong by more than an hour: the pin is in force again
	w.step(reason.Updated)
	w.runs("1.0")
	set(4 * time.Hour)
	w.step(reason.Updated)
	if n := len(w.events("pin ended")); n != 2 {
		t.Errorf("it ended %d times, want 2", n)
	}
}

// That its time is over does not cut the probation of what a pin began.
func TestPinEndsInItsOwnProbation(t *testing.T) {
	w := pinnable(t)
	set := w.clock()
	w.app.started = func(string) { set(2 * time.Hour) }
	r := w.order(Order{Version: "1.0", Until: canon.At(time.Now().Add(time.Hour))}, reason.Updated)
	if r.Running != "1.0" {
		t.Errorf("got %+v", r)
	}
	w.step(reason.Updated)
	w.runs("2.0")
}

func TestParseUntil(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"2h": 2 * time.Hour, "3d": 72 * time.Hour, "1d12h": 36 * time.Hour, "90s": 90 * time.Second, "1h30m": 90 * time.Minute,
		"2026-06-03T12:00:01Z": time.Second, "3660d": 3660 * 24 * time.Hour,
	} {
		if got, err := ParseUntil(s, noon); err != nil || !got.Equal(noon.Add(want)) {
			t.Errorf("%q: %s, %v", s, got, err)
		}
	}
	for _, s := range []string{
		"", "0s", "-2h", "500ms", "2026-06-03T12:00:00Z", "2026-06-03T11:00:00Z", // not after now
		"tomorrow", "2", "d", "3d2", "-3d", "3661d", "99999999d", "999999h", "2026-06-03", "2026-06-03T14:00:00+02:00", "1d1d",
	} {
		if got, err := ParseUntil(s, noon); reason.Of(err) != reason.Config || err == nil {
			t.Errorf("%q: %s, %v", s, got, err)
		}
	}
}

type rule = func(t *testing.T, w *world)

// TestEmergencyExit is the rules of the emergency exit: see "Pin" in docs/design.md. Others
// have tests of their own, named for them.
func TestEmergencyExit(t *testing.T) {
	for _, rules := range []map[string]rule{exitRules(), holdRules(), unpinRules()} {
		for name, rule := range rules {
			t.Run(name, func(t *testing.T) { rule(t, pinnable(t)) })
		}
	}
}

// exitRules are about how an order comes through.
func exitRules() map[string]rule {
	return map[string]rule{
		"it is written without the lock": func(t *testing.T, w *world) {
			unlock, err := w.puller.dir.Lock(t.Context(), "somebody", func(string) {})
			must(t, err)
			done := make(chan error, 1)
			waits := make(chan string, 1)
			opts := Options{Tell: func(_ Part, words func() string) {
				select {
				case waits <- words():
				default:
				}
			}}
			go func() {
				_, err := w.puller.Pin(t.Context(), Order{Version: "1.0"}, opts)
				done <- err
			}()
			if words := <-waits; !strings.Contains(words, "somebody") || !strings.Contains(words, "the order is written") {
				t.Errorf("it says %q", words)
			}
			if p, err := w.puller.dir.Pin(); err != nil || p == nil || p.Release != "1.0" {
				t.Errorf("the order is %+v, %v", p, err)
			}
			unlock()
			must(t, <-done)
			w.runs("1.0")
		},
		"it waits for no interval of the probe": func(t *testing.T, w *world) {
			w.puller.cfg.Health.Interval = time.Hour
			w.app.started = func(v string) {
				if v == "3.0" { // when it has been asked once
					time.AfterFunc(100*time.Millisecond, func() {
						if err := w.puller.dir.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()}); err != nil {
							t.Error(err)
						}
					})
				} else {
					w.puller.cfg.Health.Interval, w.puller.cfg.Health.StableFor = time.Millisecond, 0
				}
			}
			w.advance("3.0", nil)
			w.step(reason.Updated)
			w.runs("1.0")
		},
		"it ignores halt, rollout and expiry": func(t *testing.T, w *world) {
			w.advance("2.0", func(c *channels.Channel) { c.Rollout, c.Expires = 0, canon.At(c.Issued.Add(time.Second)) })
			w.puller.now = func() time.Time { return time.Now().Add(time.Hour) }
			w.step(reason.Current)
			w.pin("1.0", reason.Updated)
			w.pin("3.0", reason.Updated) // not on disk
			w.runs("3.0")
		},
		"it is tried once, however often its version was blocked": func(t *testing.T, w *world) {
			w.app.set("3.0", "500")
			w.advance("3.0", nil)
			w.step(reason.Unhealthy)
			for range 2 {
				before := w.app.count()
				w.pin("3.0", reason.Unhealthy)
				for range 3 {
					w.step(reason.Blocked)
				}
				if n := w.app.count() - before; n != 2 {
					t.Errorf("%d restarts, want 2", n)
				}
			}
			w.app.set("3.0", "")
			w.pin("3.0", reason.Updated)
			w.runs("3.0")
		},
	}
}

// holdRules are about what a pin holds.
func holdRules() map[string]rule {
	return map[string]rule{
		"what runs is held, and not restarted": func(t *testing.T, w *world) {
			before := w.app.count()
			w.pin("2.0", reason.Pinned)
			w.advance("3.0", nil)
			w.step(reason.Pinned)
			if w.app.count() != before {
				t.Error("restarted")
			}
			w.unpin(reason.Updated)
			w.runs("3.0")
		},
		"given while no puller was at work, it does not wait for a poll": func(t *testing.T, w *world) {
			w.silent()
			w.give(node.Pin{Release: "1.0"})
			w.step(reason.Updated)
			w.runs("1.0")
		},
		"but one that cannot be carried out does not keep news away": func(t *testing.T, w *world) {
			w.app.missing = errors.New("no such unit")
			w.give(node.Pin{Release: "1.0"})
			w.advance("3.0", nil)
			before := w.counter()
			w.step(reason.Config)
			if w.counter() == before {
				t.Error("nothing was accepted")
			}
			w.app.missing = nil
			w.step(reason.Updated)
			w.runs("1.0")
		},
		"one that cannot be read holds, and a person's change is no order besides it": func(t *testing.T, w *world) {
			must(t, os.WriteFile(w.puller.dir.Path("pin.json"), []byte("{"), 0o600))
			w.link("1.0")
			w.app.version = "1.0"
			for range 2 {
				if _, err := w.puller.Step(t.Context(), Options{}); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "mends it") {
					t.Errorf("got %v", err)
				}
			}
			w.runs("1.0")
			w.unpin(reason.Updated)
			w.runs("2.0")
			must(t, os.WriteFile(w.puller.dir.Path("pin.json"), []byte("{"), 0o600))
			w.pin("1.0", reason.Updated)
			w.runs("1.0")
		},
	}
}

// unpinRules are about an order that is taken back, or followed by another.
func unpinRules() map[string]rule {
	return map[string]rule{
		"taken back, nothing is held that a person changed before": func(t *testing.T, w *world) {
			w.link("1.0")
			w.app.version = "1.0"
			w.unpin(reason.Updated)
			w.runs("2.0")
			w.step(reason.Current)
		},
		"taken back while a hook prepares for it, it is followed no more": func(t *testing.T, w *world) {
			w.hook(hook.BeforeSwap, "rm "+w.puller.dir.Path("pin.json")+"; sleep 50")
			w.says(w.order(Order{Version: "3.0"}, reason.Stale), "the order of 3.0 was taken back meanwhile: runs 2.0, as channel")
			w.runs("2.0")
		},
		"taken back in the probation that it began, it is followed no more": func(t *testing.T, w *world) {
			w.puller.cfg.Health.StableFor = time.Hour
			w.app.started = func(v string) {
				if v == "1.0" {
					must(t, w.puller.dir.RemovePin())
				} else {
					w.puller.cfg.Health.StableFor = 0
				}
			}
			r := w.order(Order{Version: "1.0"}, reason.Stale)
			w.says(r, "the order of 1.0 was taken back meanwhile: runs 2.0 again: the probation of 1.0 was ended")
			w.runs("2.0")
			w.step(reason.Current)
		},
		"taken back in its probation with nothing else to run, that goes on": func(t *testing.T, w *world) {
			w.advance("2.0", func(c *channels.Channel) { c.Rollout = 0 })
			w.step(reason.Current)
			w.puller.cfg.Health.StableFor = time.Hour
			starts := 0
			w.app.started = func(string) {
				if starts++; starts == 1 {
					must(t, w.puller.dir.RemovePin())
				} else {
					w.puller.cfg.Health.StableFor = 0
				}
			}
			if r, err := w.puller.Pin(t.Context(), Order{Version: "1.0"}, Options{}); err == nil || w.known().Intent != nil {
				t.Errorf("got %+v, %v, and %+v is open", r, err, w.known().Intent)
			}
			w.runs("1.0")
			w.step(reason.Halted)
		},
		"another one on the way back is obeyed": func(t *testing.T, w *world) {
			w.app.set("3.0", "exit")
			w.app.set("2.0", "500") // for ever on the way back
			w.puller.cfg.Health.StartTimeout = time.Hour
			w.app.started = func(v string) {
				if v == "2.0" {
					w.give(node.Pin{Release: "1.0"})
				}
			}
			w.advance("3.0", nil)
			r := w.step(reason.Updated)
			w.says(r, "held by the pin")
			w.runs("1.0")
			if e := w.events("updated"); !strings.Contains(e[len(e)-1].Message, "the way back from 3.0 was ended by it") {
				t.Errorf("history: %+v", e)
			}
		},
	}
}

// silent makes the host of the channel repo one that takes connections and says nothing.
func (w *world) silent() {
	w.t.Helper()
	must(w.t, w.puller.Close())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	w.t.Cleanup(func() { l.Close() })
	w.puller.cfg.Channels.Repo = "http://" + l.Addr().String() + "/c.git"
}

// What a pin says that ended the probation of another version: what really happened.
func TestPinBackSaysWhatItEnded(t *testing.T) {
	for to, want := range map[string]string{
		"2.0": "runs 2.0 again: the probation of 3.0 was ended; held by the pin",
		"1.0": "runs 1.0, before that 3.0, whose probation was ended; held by the pin",
	} {
		t.Run(to, func(t *testing.T) {
			w := pinnable(t)
			w.puller.cfg.Health.StableFor = time.Hour
			w.app.started = func(v string) {
				if v == "3.0" {
					w.give(node.Pin{Release: to, Reason: "why not"})
				} else {
					w.puller.cfg.Health.StableFor = 0
				}
			}
			w.advance("3.0", nil)
			r := w.step(reason.Updated)
			w.says(r, want)
			e := w.events("updated")
			last := e[len(e)-1]
			if r.From != "3.0" || last.From != "3.0" || last.To != to || last.Message != "by pin: why not; the probation of 3.0 was ended by it" {
				t.Errorf("from %q; history: %+v", r.From, last)
			}
			if st := w.known(); len(st.Blocked) != 0 || st.LastGood.Version != to {
				t.Errorf("state: %+v", st)
			}
			w.step(reason.Pinned)
		})
	}
}

// Orders of two processes: the later one counts, and both callers hear what is true.
func TestLaterOrderWins(t *testing.T) {
	for name, c := range map[string]struct {
		later node.Pin
		want  reason.Code
		runs  string
		says  string
	}{
		"of another version": {node.Pin{Release: "3.0", Reason: "no, this one"}, reason.Stale, "3.0",
			"the order of 1.0 gave way to a later one, of 3.0 (no, this one): runs 3.0, before that 1.0, whose probation was ended"},
		"of the same version": {node.Pin{Release: "1.0"}, reason.Updated, "1.0", "runs 1.0, before that 2.0; held by the pin"},
		"of one that fails":   {node.Pin{Release: "bad"}, reason.IO, "1.0", "the order of 1.0 gave way to a later one, of bad: "},
	} {
		t.Run(name, func(t *testing.T) {
			w := pinnable(t)
			w.puller.cfg.Health.StableFor = 300 * time.Millisecond
			w.app.started = func(v string) {
				if v == "1.0" {
					w.app.started = nil
					c.later.At = time.Now().UnixMilli() + 1
					w.give(c.later)
				}
			}
			w.says(w.order(Order{Version: "1.0"}, c.want), c.says)
			w.runs(c.runs)
		})
	}
}

// Many at once: whoever is told that an order was carried out sees it carried out, and in the
// end the last order runs.
func TestOrdersRace(t *testing.T) {
	w := pinnable(t)
	w.pin("3.0", reason.Updated) // on disk
	other, err := New(t.Context(), w.puller.cfg, w.puller.log, nil)
	must(t, err)
	other.service = w.app
	var both sync.WaitGroup
	for i, p := range []*Puller{w.puller, other} {
		both.Go(func() {
			for n := range 4 {
				v := []string{"1.0", "2.0", "3.0"}[(n+i)%3]
				r, err := p.Pin(t.Context(), Order{Version: v}, Options{})
				if err == nil && r.Running != v || err != nil && (reason.Of(err) != reason.Stale || !strings.Contains(err.Error(), "gave way to a later one")) {
					t.Errorf("order of %s: %+v, %v", v, r, err)
				}
			}
		})
	}
	both.Wait()
	p, err := w.puller.dir.Pin()
	must(t, err)
	w.step(reason.Pinned)
	w.runs(p.Release)
}

func TestUnpinGivesWayToANewOrder(t *testing.T) {
	w := pinnable(t)
	w.pin("1.0", reason.Updated)
	w.puller.cfg.Health.StableFor = time.Hour
	w.app.started = func(v string) {
		if v == "2.0" {
			w.give(node.Pin{Release: "3.0", At: time.Now().UnixMilli() + 1})
		} else {
			w.puller.cfg.Health.StableFor = 0
		}
	}
	w.says(w.unpin(reason.Stale), "another order came meanwhile, of 3.0: runs 3.0")
	w.runs("3.0")
}

// A new channel state during a probation waits for its end.
func TestNewsInAProbationWait(t *testing.T) {
	w := pinnable(t)
	w.publish("4.0", "")
	w.app.started = func(v string) {
		if v == "3.0" {
			w.advance("4.0", nil)
		}
	}
	w.advance("3.0", nil)
	w.step(reason.Updated)
	w.runs("3.0")
	w.step(reason.Updated)
	w.runs("4.0")

	// So it does in a probation that a dead cycle left: it is finished first.
	w = pinnable(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.puller.cfg.Health.StableFor = time.Hour
	w.app.started = func(string) { time.AfterFunc(20*time.Millisecond, cancel) }
	w.advance("3.0", nil)
	if _, err := w.puller.Step(ctx, Options{}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	w.app.started, w.puller.cfg.Health.StableFor = nil, 0
	w.advance("2.0", nil)
	w.step(reason.Updated)
	w.runs("2.0")
	if e := w.events("updated"); e[len(e)-2].To != "3.0" {
		t.Errorf("history: %+v", e)
	}
}

// A channel that goes on naming what failed, at the same attempt, is quiet; the next attempt
// is tried once.
func TestAttempts(t *testing.T) {
	w := pinnable(t)
	w.app.set("3.0", "500")
	at := func(n int64) func(*channels.Channel) { return func(c *channels.Channel) { c.Attempt = n } }
	for n := int64(1); n < 4; n++ {
		before := w.app.count()
		w.advance("3.0", at(n))
		w.step(reason.Unhealthy)
		w.runs("2.0")
		w.step(reason.Blocked)
		told := len(w.events("rolled back", "refused"))
		for i := range 10 {
			if i%3 == 0 {
				w.advance("3.0", at(n))
			}
			w.step(reason.Blocked)
		}
		if got := w.app.count() - before; got != 2 {
			t.Errorf("attempt %d: %d restarts, want 2", n, got)
		}
		if more := len(w.events("rolled back", "refused")) - told; more != 0 {
			t.Errorf("attempt %d: %d more events", n, more)
		}
	}
	if b := w.known().Blocked; len(b) != 3 || b[2].Attempt != 3 {
		t.Errorf("blocked: %+v", b)
	}
	// It is carried on whatever the version: an older state of mind changes nothing.
	w.advance("1.0", at(3))
	w.step(reason.Updated)
	w.advance("3.0", at(3))
	w.step(reason.Blocked)
	w.app.set("3.0", "")
	w.advance("3.0", at(4))
	w.step(reason.Updated)
	if b := w.known().Blocked; len(b) != 0 {
		t.Errorf("blocked: %+v", b)
	}
}
