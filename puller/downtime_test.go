package puller

import (
	"context"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
)

// slowly makes the app need n looks, and so n times health.interval of a clock that only
// passes between them, before it answers well. Starting it takes start of that clock.
func (w *world) slowly(start time.Duration, n int) {
	now := time.Unix(1_780_000_000, 0)
	left := 0
	w.app.started = func(version string) {
		now, left = now.Add(start), n
		w.app.set(version, "500")
	}
	w.puller.proof = clock{func() time.Time { return now }, func(_ context.Context, d time.Duration) error {
		now = now.Add(d)
		if left--; left == 0 {
			w.app.mu.Lock()
			defer w.app.mu.Unlock()
			delete(w.app.bad, w.app.version)
		}
		return nil
	}}
}

// TestDowntime: from the restart to the first good answer, in state and history.
func TestDowntime(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.publish("2.0", "")
	w.slowly(40*time.Millisecond, 3) // of 5 ms each
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.downtime("1.0", "updated", 55)

	w.advance("2.0", nil)
	w.slowly(70*time.Millisecond, 1)
	w.step(reason.Updated)
	w.downtime("2.0", "updated", 75)
	w.step(reason.Current)
	w.downtime("2.0", "updated", 75) // nothing happened
}

// TestDowntimeOfTheWayBack: what failed has none; what runs again has its own.
func TestDowntimeOfTheWayBack(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.publish("2.0", "")
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.advance("2.0", nil)
	w.app.set("2.0", "exit")
	w.slowly(30*time.Millisecond, 2)
	w.step(reason.Unhealthy)
	w.runs("1.0")
	w.downtime("1.0", "rolled back", 40)
}

// TestDowntimeUnknown: a puller that comes later has not seen how long the app did not answer.
func TestDowntimeUnknown(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.advance("1.0", nil)
	m := w.manage(well)
	ctx, cancel := context.WithCancel(t.Context())
	w.app.started = func(string) { cancel() }
	if _, err := w.puller.Step(ctx, Options{}); err == nil {
		t.Fatal("the cycle was not interrupted")
	}
	w.step(reason.Updated)
	if m.started != 1 {
		t.Fatalf("it was started %d times, want once", m.started)
	}
	w.downtime("1.0", "updated", 0)
}

// downtime demands that of what runs, and of the last event.
func (w *world) downtime(version, event string, want int64) {
	w.t.Helper()
	st, err := w.puller.dir.State()
	must(w.t, err)
	events, err := w.puller.History(1)
	must(w.t, err)
	if r := st.Running; r.Version != version || r.Downtime != want {
		w.t.Errorf("running is %+v, want %s with %d ms", *r, version, want)
	}
	if e := events[len(events)-1]; e.Event != event || e.To != version || e.Downtime != want {
		w.t.Errorf("event is %+v, want %s to %s with %d ms", e, event, version, want)
	}
}

// TestDowntimeForced: of what nobody watches nothing is known.
func TestDowntimeForced(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.publish("2.0", "")
	w.slowly(time.Millisecond, 1)
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.demand(reason.Updated)(w.puller.Pin(t.Context(), Order{Version: "2.0", Force: true}, Options{}))
	st, err := w.puller.dir.State()
	must(t, err)
	if r := st.Running; r.Version != "2.0" || r.Downtime != 0 {
		t.Errorf("running is %+v, want 2.0 without a downtime", *r)
	}
	if g := st.LastGood; g == nil || *g != (node.Release{Version: "1.0", Manifest: g.Manifest, Since: g.Since, Downtime: 6}) {
		t.Errorf("last good is %+v, want 1.0 with 6 ms", g)
	}
}
