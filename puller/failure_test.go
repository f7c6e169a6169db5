package puller

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/service"
)

// managedPair is a world that runs 1.0.0 under a manager and whose channel names 2.0.0.
func managedPair(t *testing.T, runs func(m *managed, looks int) (service.Run, error)) (*world, *managed) {
	t.Helper()
	w := newWorld(t)
	m := w.manage(runs)
	w.publish("1.0.0", "")
	w.publish("2.0.0", "")
	w.advance("1.0.0", nil)
	w.step(reason.Updated)
	w.advance("2.0.0", nil)
	return w, m
}

// A manager's own restarts end a release at once where there is something to go back to; on
// the way back, and where there is nothing, they are borne as long as it gets well in time.
func TestRestartsByTheManager(t *testing.T) {
	flaps := func(version string) func(m *managed, looks int) (service.Run, error) {
		return func(m *managed, looks int) (service.Run, error) {
			r := m.up()
			if m.version == version && looks < 4 {
				r.Again, r.Up, r.Restarts = looks%2 == 0, false, looks
			}
			if m.version == version && looks >= 4 {
				r.Restarts = 4
			}
			return r, nil
		}
	}
	t.Run("forward", func(t *testing.T) {
		w, _ := managedPair(t, flaps("2.0.0"))
		w.puller.cfg.Health.StartTimeout = time.Hour
		w.step(reason.Unhealthy)
		w.runs("1.0.0")
	})
	t.Run("back", func(t *testing.T) {
		w, m := managedPair(t, well)
		m.runs = flaps("1.0.0")
		m.set("2.0.0", "exit")
		w.step(reason.Unhealthy)
		w.runs("1.0.0")
	})
	t.Run("first install", func(t *testing.T) {
		w := newWorld(t)
		w.manage(flaps("1.0.0"))
		w.publish("1.0.0", "")
		w.advance("1.0.0", nil)
		w.step(reason.Updated)
	})
	// What ran before may be started once more while its successor is about to be.
	t.Run("what ran before", func(t *testing.T) {
		w, m := managedPair(t, well)
		m.runs = func(m *managed, looks int) (service.Run, error) {
			r := m.up()
			r.Again, r.Restarts = m.version == "1.0.0", 1
			return r, nil
		}
		w.step(reason.Updated)
		w.runs("2.0.0")
	})
}

// What keeps a release from being started or looked at, and is no fault of it, decides nothing:
// the intent stays, and the next cycle goes on.
func TestHindered(t *testing.T) {
	canceled := reason.Errorf(reason.IO, "%w: another job", service.ErrHindered)
	masked := reason.Errorf(reason.Config, "%w: masked", service.ErrHindered)
	hinder := func(version string, err error) func(m *managed) {
		return func(m *managed) {
			m.hinder = func(v string) error {
				if v == version {
					return err
				}
				return nil
			}
		}
	}
	blind := func(m *managed) {
		m.runs = func(m *managed, _ int) (service.Run, error) {
			if m.version == "2.0.0" {
				return service.Run{}, service.ErrBlind
			}
			return m.up(), nil
		}
	}
	blindThen := func(m *managed) {
		m.runs = func(m *managed, looks int) (service.Run, error) {
			if m.version == "2.0.0" && looks > 1 {
				return service.Run{}, service.ErrBlind
			}
			return m.up(), nil
		}
	}
	for name, c := range map[string]struct {
		with func(m *managed)
		code reason.Code
	}{
		"job canceled":    {hinder("2.0.0", canceled), reason.IO},
		"masked":          {hinder("2.0.0", masked), reason.Config},
		"blind for good":  {blind, reason.IO},
		"blind from then": {blindThen, reason.IO},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := managedPair(t, well)
			c.with(m)
			r := w.step(c.code)
			if !strings.Contains(r.Message, "2.0.0 is live and not judged yet, the next cycle goes on; ") {
				t.Error(r.Message)
			}
			st, err := w.puller.dir.State()
			must(t, err)
			if st.Intent == nil || st.Intent.Phase != node.Switching || len(st.Blocked) != 0 {
				t.Fatalf("%+v", st)
			}
			m.runs, m.hinder = well, nil
			w.step(reason.Updated)
			w.runs("2.0.0")
		})
	}
	t.Run("on the way back", func(t *testing.T) {
		w, m := managedPair(t, well)
		m.set("2.0.0", "exit")
		hinder("1.0.0", masked)(m)
		w.step(reason.Config)
		st, err := w.puller.dir.State()
		must(t, err)
		if st.Intent == nil || st.Intent.Phase != node.RollingBack || st.Degraded != nil || len(st.Blocked) != 1 {
			t.Fatalf("%+v", st)
		}
		m.hinder = nil
		w.step(reason.Unhealthy)
		w.runs("1.0.0")
	})
}

// What the app printed is kept with the failure, of the run that failed, and is asked for when the
// old release runs again.
func TestOutputOfAFailure(t *testing.T) {
	flap := func(m *managed, looks int) (service.Run, error) {
		r := m.up()
		if m.version == "2.0.0" && looks > 1 { // the second run of it
			r.Restarts, r.Invocation = 1, r.Invocation+"-again"
		}
		return r, nil
	}
	for name, c := range map[string]struct {
		with func(m *managed)
		run  string
	}{
		"does not start": {func(m *managed) { m.set("2.0.0", "exit") }, "run-2"},
		"not well":       {func(m *managed) { m.set("2.0.0", "500") }, "run-2"},
		"restarted":      {func(m *managed) { m.runs = flap; m.set("2.0.0", "500") }, "run-2"},
	} {
		t.Run(name, func(t *testing.T) {
			w, m := managedPair(t, well)
			c.with(m)
			w.step(reason.Unhealthy)
			want := []string{c.run + " of 2.0.0, told while 1.0.0 runs"}
			st, err := w.puller.dir.State()
			must(t, err)
			if got := st.Blocked[0].Output; strings.Join(got, "\n") != want[0] {
				t.Errorf("blocked with %q, want %q", got, want)
			}
			events, err := w.puller.History(1)
			must(t, err)
			if e := events[0]; e.Event != "rolled back" || strings.Join(e.Output, "\n") != want[0] {
				t.Errorf("history has %+v", e)
			}
		})
	}
	t.Run("first install", func(t *testing.T) {
		w := newWorld(t)
		m := w.manage(well)
		m.set("1.0.0", "500")
		w.publish("1.0.0", "")
		w.advance("1.0.0", nil)
		w.step(reason.Unhealthy)
		st, err := w.puller.dir.State()
		must(t, err)
		if got := strings.Join(st.Retry.Output, "\n"); got != "run-1 of 1.0.0, told while 1.0.0 runs" {
			t.Errorf("kept %q", got)
		}
	})
	t.Run("both", func(t *testing.T) {
		w, m := managedPair(t, well)
		m.set("2.0.0", "500")
		m.set("1.0.0", "500")
		w.step(reason.Degraded)
		st, err := w.puller.dir.State()
		must(t, err)
		if got := strings.Join(st.Degraded.Output, "\n"); got != "run-2 of 2.0.0, told while 1.0.0 runs" {
			t.Errorf("kept %q", got)
		}
	})
}

// behaviours are what a release does each time that it is started.
func behaviours() []string {
	return []string{"well", "exit", "500", "ends", "again", "dies later", "restarts later", "flaps", "hindered once"}
}

// behave makes each version do as it is told.
func behave(how map[string]string) (func(m *managed, looks int) (service.Run, error), func(v string) error) {
	hindered := map[string]bool{}
	look := func(m *managed, looks int) (service.Run, error) {
		r := m.up()
		switch how[m.version] {
		case "ends":
			r.Up, r.Ended = false, true
		case "again":
			r.Up, r.Again = false, true
		case "dies later":
			r.Up, r.Ended = looks < 2, looks >= 2
		case "restarts later":
			r.Restarts = looks - 1
		case "flaps":
			r.Up, r.Again, r.Restarts = looks%2 == 1, looks%2 == 0, looks/2
		}
		return r, nil
	}
	hinder := func(v string) error {
		if how[v] == "hindered once" && !hindered[v] {
			hindered[v] = true
			return reason.Errorf(reason.IO, "%w: another job", service.ErrHindered)
		}
		return nil
	}
	return look, hinder
}

// Whatever both releases do: at most one way back, and then nothing more happens in twenty polls.
func TestNoFlipFlop(t *testing.T) {
	for _, old := range []string{"well", "exit", "again", "dies later"} {
		for _, next := range behaviours() {
			t.Run(fmt.Sprintf("%s, from one that %s", next, old), func(t *testing.T) {
				t.Parallel()
				w, m := managedPair(t, well)
				w.puller.cfg.Health.StartTimeout = 40 * time.Millisecond
				how := map[string]string{"1.0.0": old, "2.0.0": next}
				m.runs, m.hinder = behave(how)
				for v, how := range how {
					if how == "exit" || how == "500" {
						m.set(v, how)
					}
				}
				settled := w.polls(20)
				if next == "well" || next == "hindered once" {
					w.runs("2.0.0")
				} else {
					w.runs("1.0.0")
				}
				if settled > 2 {
					t.Errorf("it took %d cycles", settled)
				}
			})
		}
	}
}

// polls does n cycles, and returns with which of them the last restart was. It demands one
// way back at most, and cycles that end alike from then on.
func (w *world) polls(n int) (settled int) {
	w.t.Helper()
	var codes []reason.Code
	for i := range n {
		before := w.app.count()
		r, err := w.puller.Step(w.t.Context(), Options{})
		if err != nil && reason.Of(err) != r.Reason {
			w.t.Fatalf("%v, and the result is %+v", err, r)
		}
		w.check()
		if w.app.count() != before {
			settled = i
		}
		codes = append(codes, r.Reason)
	}
	for _, code := range codes[settled+1:] {
		if code != codes[len(codes)-1] {
			w.t.Errorf("the cycles ended with %q", codes)
			break
		}
	}
	events, err := w.puller.History(100)
	must(w.t, err)
	back := 0
	for _, e := range events {
		if e.Event == "rolled back" || e.Event == "degraded" {
			back++
		}
	}
	if back > 1 {
		w.t.Errorf("%d ways back: %+v", back, events)
	}
	return settled
}

// A first install that fails stays, and is started again after longer and longer, by a manager
// as by anything else; what gets well in the end is as good as any.
func TestFirstInstallUnderAManager(t *testing.T) {
	w := newWorld(t)
	ended := func(m *managed, _ int) (service.Run, error) {
		r := m.up()
		r.Up, r.Ended, r.Words = false, true, "failed"
		return r, nil
	}
	m := w.manage(ended)
	now := time.Now()
	w.puller.now = func() time.Time { return now }
	w.publish("1.0.0", "")
	w.advance("1.0.0", nil)
	for n, wait := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute} {
		w.step(reason.Unhealthy)
		if m.started != n+1 {
			t.Fatalf("started %d times, want %d", m.started, n+1)
		}
		now = now.Add(wait - 2*time.Second)
		w.step(reason.Unhealthy) // too early
		now = now.Add(2 * time.Second)
	}
	if m.started != 3 {
		t.Errorf("started %d times, want 3", m.started)
	}
	m.runs = well
	w.puller.now = time.Now
	if _, err := w.puller.Step(t.Context(), Options{Now: true}); err != nil {
		t.Fatal(err)
	}
	w.runs("1.0.0")
	st, err := w.puller.dir.State()
	must(t, err)
	if st.Retry != nil || st.LastGood == nil {
		t.Errorf("%+v", st)
	}
}
