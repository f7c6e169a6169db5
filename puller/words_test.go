package puller

import (
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
)

// What failed by a pin says that the pin holds the node all the same.
func TestAFailedPinSaysThatItStays(t *testing.T) {
	const stays = "; the pin stays, `puller --unpin` follows the channel"
	w := pinnable(t)
	w.app.set("3.0", "500")
	w.says(w.pin("3.0", reason.Unhealthy), "runs 2.0 again"+stays+"; it failed with: ")
	w.unpin(reason.Current)
	w.advance("3.0", nil)
	if r := w.step(reason.Unhealthy); strings.Contains(r.Message, "pin") {
		t.Errorf("without a pin it says %q", r.Message)
	}
}

// A release that was passed over on the way back is named, with what mends it, and so is why
// the way back failed, also later. What runs was started by the way back, and not by force.
func TestDegradedTellsWhatWasPassedOver(t *testing.T) {
	w := pinnable(t)
	set := w.clock()
	w.force("3.0", reason.Updated)
	since := w.known().Running.Since
	w.damage("2.0")
	for _, v := range []string{"1.0", "3.0"} {
		w.app.set(v, "500")
	}
	w.edit(func(s *node.State) { s.Previous = s.Running })
	set(time.Minute)
	w.pin("1.0", reason.Degraded)
	s, err := w.puller.Status(t.Context())
	must(t, err)
	for _, want := range []string{"2.0, which ran before, is damaged: `puller --pin 2.0` fetches it again", "; the way back with: "} {
		if !strings.Contains(s.Message, want) {
			t.Errorf("status says %q, want %q in it", s.Message, want)
		}
	}
	if r := s.Running; r.Version != "3.0" || r.Forced != 0 || !r.Since.After(since.Time) {
		t.Errorf("runs %+v, by force since %s", r, since)
	}
	w.pin("2.0", reason.Updated)
	w.runs("2.0")
}

// A version whose block is lifted outside the window says when it is tried.
func TestUnblockOutsideTheWindow(t *testing.T) {
	w := pinnable(t)
	w.app.set("3.0", "500")
	w.advance("3.0", nil)
	w.step(reason.Unhealthy)
	opens := time.Now().UTC().Add(3 * time.Hour)
	w.puller.cfg.window = daily(t, opens.Format("4 15 * * *"))
	w.says(w.unblock("3.0", reason.Window), "3.0 is not blocked any more, and is tried when the window opens, or at once by `puller --now`: ")
	w.runs("2.0")
	s, err := w.puller.Status(t.Context())
	must(t, err)
	if !strings.Contains(s.Message, "it failed here before, and was unblocked at ") {
		t.Errorf("status says %q", s.Message)
	}
}
