package puller

import (
	"os"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
)

func (w *world) unblock(version string, want reason.Code) Result {
	w.t.Helper()
	return w.demand(want)(w.puller.Unblock(w.t.Context(), version, Options{}))
}

func TestUnblock(t *testing.T) {
	w := pinnable(t)
	w.app.set("3.0", "500")
	w.pin("3.0", reason.Unhealthy)
	w.unpin(reason.Current)
	w.advance("3.0", nil)
	w.step(reason.Unhealthy)
	w.edit(func(s *node.State) {
		s.Blocked = append(s.Blocked, node.Block{Version: "3.0", Attempt: 9}, node.Block{Version: "1.0", Attempt: 1})
	})
	before := w.app.count()
	w.unblock("3.0", reason.Unhealthy) // tried once more
	if n := w.app.count() - before; n != 2 {
		t.Errorf("%d restarts, want 2", n)
	}
	if b := w.known().Blocked; len(b) != 2 || b[0].Version != "1.0" || b[1].Attempt != 1 {
		t.Errorf("blocked: %+v", b)
	}
	w.step(reason.Blocked)
	w.app.set("3.0", "")
	w.unblock("3.0", reason.Updated)
	w.runs("3.0")
	if e := w.events("unblocked"); len(e) != 2 || e[0].To != "3.0" {
		t.Errorf("history: %+v", e)
	}
	if got := w.puller.Failed(); !slices.Equal(got, []string{"1.0"}) {
		t.Errorf("failed: %v", got)
	}
}

// The cycle after it is any cycle: halt, pin and all.
func TestUnblockIsNoOrder(t *testing.T) {
	w := pinnable(t)
	w.app.set("3.0", "500")
	w.advance("3.0", nil)
	w.step(reason.Unhealthy)
	w.app.set("3.0", "")
	w.advance("3.0", func(c *channels.Channel) { c.Rollout = 0 })
	w.unblock("3.0", reason.Halted)
	w.edit(func(s *node.State) { s.Blocked = []node.Block{{Version: "3.0", Attempt: 1}} })
	w.pin("2.0", reason.Pinned)
	w.unblock("3.0", reason.Pinned)
	w.runs("2.0")
}

func TestUnblockWhatIsDegraded(t *testing.T) {
	w := pinnable(t)
	for _, v := range []string{"2.0", "3.0"} {
		w.app.set(v, "500")
	}
	w.advance("3.0", nil)
	w.step(reason.Degraded)
	w.app.set("3.0", "")
	w.edit(func(s *node.State) { s.Blocked = []node.Block{} })
	w.unblock("3.0", reason.Updated)
	w.runs("3.0")
	if st := w.known(); st.Degraded != nil {
		t.Errorf("state: %+v", st)
	}
}

func TestUnblockWhatWasRefused(t *testing.T) {
	w := pinnable(t)
	name := w.manifest("3.0").Bundles[0].Name
	good, err := os.ReadFile(w.object(w.key("3.0", name)))
	must(t, err)
	bad := slices.Clone(good)
	bad[len(bad)/2] ^= 1
	must(t, os.WriteFile(w.object(w.key("3.0", name)), bad, 0o644))
	w.advance("3.0", nil)
	w.step(reason.Mismatch)
	if w.known().Refused == nil {
		t.Fatal("it is not refused")
	}
	w.unblock("3.0", reason.Mismatch) // fetched again, and refused again
	if r := w.known().Refused; r == nil || r.Count != 1 {
		t.Errorf("refused: %+v", r)
	}
	if _, err := w.puller.Unblock(t.Context(), "3", Options{}); reason.Of(err) != reason.Config {
		t.Errorf("another version: %v", err)
	}
}

// Nothing is known against it: nothing happens, and what is blocked is named.
func TestUnblockOfWhatIsNot(t *testing.T) {
	w := pinnable(t)
	for _, c := range []struct{ version, says string }{{"3.0", "nothing is"}, {"../x", `"../x"`}} {
		before := snapshot(t, w.puller.dir.Root())
		_, err := w.puller.Unblock(t.Context(), c.version, Options{})
		if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.says) {
			t.Errorf("got %v", err)
		}
		// The lock says who had it.
		if after := snapshot(t, w.puller.dir.Root()); len(strings.Split(after, "\n")) != len(strings.Split(before, "\n")) {
			t.Errorf("changed:\n%s\n%s", before, after)
		}
	}
	w.edit(func(s *node.State) {
		s.Blocked = []node.Block{{Version: "4.0", Attempt: 1}, {Version: "5.0", Attempt: 1}, {Version: "4.0", Attempt: 2}}
	})
	if _, err := w.puller.Unblock(t.Context(), "3.0", Options{}); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "5.0, 4.0 failed here") {
		t.Errorf("got %v", err)
	}
	if len(w.known().Blocked) != 3 || len(w.events("unblocked")) != 0 {
		t.Error("something was forgotten")
	}
}
