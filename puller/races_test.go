package puller

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
)

// starts notes which versions are started.
func (w *world) starts() (told func() string) {
	var starts []string
	w.app.started = func(v string) { starts = append(starts, v) }
	return func() string { return strings.Join(starts, " ") }
}

// A pin that has ended stays so when a state is accepted that was signed by a clock a few
// seconds ahead of the node's.
func TestEndedPinAndNewsFromAFastClock(t *testing.T) {
	w := pinnable(t)
	set := w.clock()
	w.order(Order{Version: "1.0", Until: canon.At(time.Now().Add(time.Hour))}, reason.Updated)
	set(time.Hour + time.Second)
	w.step(reason.Updated)
	w.runs("2.0")
	w.advance("3.0", func(c *channels.Channel) { c.Issued = canon.At(c.Issued.Add(time.Hour + 30*time.Second)) })
	told := w.starts()
	w.step(reason.Updated)
	w.runs("3.0")
	set(time.Hour + time.Minute)
	w.step(reason.Current)
	if told() != "3.0" {
		t.Errorf("started %s, want 3.0", told())
	}
	if n := len(w.events("pin ended")); n != 1 {
		t.Errorf("it ended %d times", n)
	}
}

// Nor does a clock that is put right by some seconds bring it back.
func TestEndedPinAndAClockThatIsPutRight(t *testing.T) {
	w := pinnable(t)
	set := w.clock()
	w.order(Order{Version: "1.0", Until: canon.At(time.Now().Add(time.Hour))}, reason.Updated)
	set(time.Hour + time.Second)
	w.step(reason.Updated)
	told := w.starts()
	set(time.Hour - 10*time.Second)
	w.step(reason.Current)
	set(time.Hour + time.Second)
	w.step(reason.Current)
	if w.runs("2.0"); told() != "" {
		t.Errorf("started %s", told())
	}
}

// Two orders in one probation, the first of which cannot be carried out.
func TestOrderWhileWhatIsLeftIsSettled(t *testing.T) {
	w := three(t)
	w.puller.cfg.Health.StableFor = time.Hour
	w.advance("3.0", nil)
	n := 0
	w.app.started = func(v string) {
		switch n++; n {
		case 1:
			w.give(node.Pin{Release: "9.9", At: 1})
		case 2:
			w.give(node.Pin{Release: "1.0", At: 2})
		default:
			w.puller.cfg.Health.StableFor = 0
		}
	}
	w.step(reason.Updated)
	w.runs("1.0")
}

// A pin does not wait until what was lost is back and has proved itself.
func TestPinWhereCurrentIsLost(t *testing.T) {
	w := three(t)
	must(t, os.Remove(w.app.current))
	told := w.starts()
	w.pin("1.0", reason.Updated)
	if w.runs("1.0"); told() != "1.0" {
		t.Errorf("started %s, want 1.0", told())
	}
}

// What a degraded node stands on has not proved itself because the failure of another
// release is forgotten.
func TestUnblockProvesNothing(t *testing.T) {
	w := pinnable(t)
	for _, v := range []string{"2.0", "3.0"} {
		w.app.set(v, "500")
	}
	w.advance("3.0", nil)
	w.step(reason.Degraded)
	w.advance("3.0", func(c *channels.Channel) { c.Rollout = 0 })
	w.unblock("3.0", reason.Halted)
	w.app.set("2.0", "")
	w.advance("2.0", nil)
	told := w.starts()
	w.step(reason.Updated)
	if w.runs("2.0"); told() != "2.0" {
		t.Errorf("started %q, want 2.0", told())
	}
}

// A degraded node that lost what it stood on has nothing to go back to: what it starts again is
// started again later, and not in every cycle.
func TestRetryOfADegradedNode(t *testing.T) {
	w := two(t)
	w.app.set("1.0", "exit")
	w.app.set("2.0", "exit")
	w.advance("2.0", nil)
	w.step(reason.Degraded)
	must(t, os.Remove(w.app.current))
	w.pin("1.0", reason.Unhealthy)
	told := w.starts()
	for range 3 {
		w.step(reason.Unhealthy)
	}
	if told() != "" {
		t.Errorf("started %s", told())
	}
}

// What a killed puller left running is ended before a repair restarts anything, too.
func TestRepairEndsALeftHookFirst(t *testing.T) {
	w := three(t)
	w.damage("2.0")
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+w.base+"/none") // so it cannot be ended
	w.puller.hooks = hook.New(hook.Config{Root: w.puller.cfg.Root, App: "mnw", Systemd: true})
	must(t, os.WriteFile(w.puller.dir.Path("hook"), nil, 0o600))
	told := w.starts()
	_, err := w.puller.Repair(t.Context(), nil)
	if reason.Of(err) != reason.IO || !strings.Contains(err.Error(), "end the hook that another puller left") {
		t.Errorf("got %v", err)
	}
	must(t, os.Remove(w.puller.dir.Path("hook")))
	if told() != "" {
		t.Errorf("started %s", told())
	}
	if _, err := w.puller.Repair(t.Context(), nil); err != nil || told() != "2.0" {
		t.Errorf("started %q (%v)", told(), err)
	}
}

// A pin whose time is over before its release is on disk is not carried out.
func TestPinEndsWhileItIsFetched(t *testing.T) {
	w := pinnable(t)
	set := w.clock()
	w.puller.bucket = &hooked{w.puller.bucket, func() { set(2 * time.Hour) }}
	told := w.starts()
	w.order(Order{Version: "3.0", Until: canon.At(time.Now().Add(time.Hour))}, reason.Current)
	if w.runs("2.0"); told() != "" {
		t.Errorf("started %s", told())
	}
	if n := len(w.events("pin ended")); n != 1 {
		t.Errorf("it ended %d times", n)
	}
}

// asked is an app whose journal is slow.
type asked struct {
	*managed
	tell func()
}

func (a asked) Output(ctx context.Context, run string) []string {
	a.tell()
	return a.managed.Output(ctx, run)
}

// What a release printed is asked for when the way back is on record: a puller that is killed
// meanwhile starts nothing again.
func TestOutputIsAskedForAtTheEnd(t *testing.T) {
	for how, want := range map[string]reason.Code{"": reason.Unhealthy, "exit": reason.Degraded} {
		w, m := managedPair(t, well)
		m.set("2.0.0", "exit")
		m.set("1.0.0", how)
		n := 0
		w.puller.service = asked{m, func() {
			n++
			if st := w.known(); st.Intent != nil || (st.Degraded != nil) != (how != "") {
				t.Errorf("%s: asked for with %+v open", want, st.Intent)
			}
		}}
		w.step(want)
		if st := w.known(); n != 1 || len(st.Blocked[0].Output) == 0 {
			t.Errorf("%s: asked %d times, kept %+v", want, n, st.Blocked)
		}
	}
}
