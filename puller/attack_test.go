package puller

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/service"
)

// TestPinToWhatIsGoneBackTo: killed after the swap back and before the restart, with an
// order for the very release that is gone back to. It is started all the same.
func TestPinToWhatIsGoneBackTo(t *testing.T) {
	w := three(t)
	w.edit(func(s *node.State) { w.goingBack(s) })
	w.link("2.0")
	w.app.version = "3.0" // it runs on: nobody restarted the service
	w.pin("2.0", reason.Unhealthy)
	w.runs("2.0")
	w.step(reason.Pinned)
	if st, _ := w.puller.dir.State(); st.Intent != nil {
		t.Errorf("the intent is still open: %+v", st.Intent)
	}
}

// TestDegradedStaysDegraded: what is left when nothing else is whole is the release that
// failed. That its channel names it makes it no better.
func TestDegradedStaysDegraded(t *testing.T) {
	w := three(t)
	w.app.set("3.0", "500")
	w.app.started = func(v string) {
		if v == "3.0" {
			w.damage("1.0")
			w.damage("2.0")
		}
	}
	w.advance("3.0", nil)
	for range 3 {
		w.step(reason.Degraded)
	}
	if s, err := w.puller.Status(t.Context()); err != nil || s.Reason != reason.Degraded {
		t.Errorf("status says %s: %s (%v)", s.Reason, s.Message, err)
	}
}

// TestOrderForWhatADegradedNodeStandsOn: it is started again and must prove itself.
func TestOrderForWhatADegradedNodeStandsOn(t *testing.T) {
	for name, order := range map[string]func(w *world){
		"by channel": func(w *world) { w.advance("1.0", nil); w.step(reason.Updated); w.step(reason.Current) },
		"by pin":     func(w *world) { w.pin("1.0", reason.Updated); w.step(reason.Pinned) },
		"again, still bad": func(w *world) {
			w.app.set("1.0", "exit")
			w.pin("1.0", reason.Degraded)
			w.step(reason.Degraded)
			w.app.set("1.0", "")
			w.pin("1.0", reason.Updated)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := two(t)
			w.app.set("1.0", "exit")
			w.app.set("2.0", "500")
			w.advance("2.0", nil)
			w.step(reason.Degraded)
			w.app.set("1.0", "")
			restarts := w.app.count()
			order(w)
			w.runs("1.0")
			if w.app.count() == restarts {
				t.Error("nothing was started")
			}
			if st, _ := w.puller.dir.State(); st.Degraded != nil {
				t.Errorf("still degraded: %+v", st.Degraded)
			}
		})
	}
}

// TestPinDuringRecovery is obeyed at once, with the git host down as well.
func TestPinDuringRecovery(t *testing.T) {
	w := three(t)
	w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0"); s.Intent.Manifest = w.digests["3.0"] })
	w.link("3.0")
	must(t, os.RemoveAll(w.base+"/channels.git"))
	w.puller.cfg.Health.StableFor = time.Hour
	var starts []string
	w.app.started = func(v string) {
		starts = append(starts, v)
		if v == "3.0" {
			must(t, w.puller.dir.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()}))
		} else {
			w.puller.cfg.Health.StableFor = 0
		}
	}
	w.step(reason.Updated)
	w.runs("1.0")
	if got := strings.Join(starts, " "); got != "3.0 1.0" {
		t.Errorf("started %s, want 3.0 1.0", got)
	}
}

// hooked calls get before each object is read.
type hooked struct {
	bucket.Bucket
	get func()
}

func (h *hooked) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	h.get()
	return h.Bucket.Get(ctx, key)
}

// hanging is an app whose version 3.0 never comes up.
type hanging struct{ *app }

func (h hanging) Restart(ctx context.Context, s service.Start, timeout time.Duration) error {
	if err := h.app.Restart(ctx, s, timeout); err != nil || s.Version != "3.0" {
		return err
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

// TestPinDuringRestart: an order does not wait until a release that hangs in its start is
// given up, and the release is not to blame.
func TestPinDuringRestart(t *testing.T) {
	w := three(t)
	w.puller.service = hanging{w.app}
	w.app.started = func(v string) {
		if v == "3.0" {
			must(t, w.puller.dir.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()}))
		}
	}
	w.advance("3.0", nil)
	w.step(reason.Updated)
	w.runs("1.0")
	if st, err := w.puller.dir.State(); err != nil || st.Intent != nil || len(st.Blocked) > 0 {
		t.Errorf("state: %+v, %v", st, err)
	}
}

// TestPinDuringFetch: the order is seen before the swap; nothing is restarted for a
// release that nobody wants any more.
func TestPinDuringFetch(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	once := false
	w.puller.bucket = &hooked{w.puller.bucket, func() {
		if !once {
			once = true
			must(t, w.puller.dir.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()}))
		}
	}}
	restarts := w.app.count()
	w.step(reason.Pinned)
	w.runs("1.0")
	if w.app.count() != restarts {
		t.Error("something was restarted")
	}
}

// TestRetryUnderAWrongClock: a first install that failed while the clock was decades
// ahead is tried again once the clock is right.
func TestRetryUnderAWrongClock(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.app.set("1.0", "500")
	w.advance("1.0", nil)
	w.puller.now = func() time.Time { return time.Now().AddDate(73, 0, 0) }
	if r := w.step(reason.Unhealthy); !strings.Contains(r.Message, "tried once") {
		t.Errorf("got %s", r.Message)
	}
	w.puller.now = time.Now
	w.app.set("1.0", "")
	w.step(reason.Updated)
}

// TestRetryOfWhatIsHeld: a first install that failed is not started again when its
// channel is halted meanwhile, or its manifest revoked.
func TestRetryOfWhatIsHeld(t *testing.T) {
	for name, c := range map[string]struct {
		hold func(w *world)
		want reason.Code
	}{
		"halted": {func(w *world) { w.advance("1.0", func(c *channels.Channel) { c.Rollout = 0 }) }, reason.Halted},
		"revoked": {func(w *world) {
			w.trust = w.newTrust(2)
			w.trust.Revoked = []layout.Digest{w.digests["1.0"]}
			w.pushTrust(w.root)
		}, reason.Policy},
		"expired": {func(w *world) {
			w.advance("1.0", func(c *channels.Channel) { c.Expires = canon.At(c.Issued.Add(time.Second)) })
		}, reason.Stale},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.publish("1.0", "")
			w.app.set("1.0", "500")
			w.advance("1.0", nil)
			w.step(reason.Unhealthy)
			c.hold(w)
			restarts := w.app.count()
			w.puller.now = func() time.Time { return time.Now().Add(10 * time.Minute) }
			w.step(c.want)
			if w.app.count() != restarts {
				t.Error("it was started")
			}
		})
	}
}

// TestRestoredReleaseKeepsAWayBack: `current` is gone, what ran last does not come up,
// and what ran before does.
func TestRestoredReleaseKeepsAWayBack(t *testing.T) {
	w := three(t)
	must(t, os.Remove(w.app.current))
	w.app.set("2.0", "500")
	w.step(reason.Unhealthy)
	w.runs("1.0")
}

// TestStateLostInProbation: nobody knows any more whether the live release is good, so
// it does not count as one to go back to.
func TestStateLostInProbation(t *testing.T) {
	w := three(t)
	w.link("3.0")
	must(t, os.WriteFile(w.puller.dir.Path("state.json"), []byte("\x00"), 0o600))
	_, err := w.puller.Step(t.Context(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := w.puller.dir.State()
	must(t, err)
	if st.LastGood != nil && st.LastGood.Version == "3.0" {
		t.Errorf("last good is %+v", st.LastGood)
	}
}

// TestOddStateFiles: whatever lies where a state file should be is set aside.
func TestOddStateFiles(t *testing.T) {
	for name, c := range map[string]struct {
		file string
		make func(path string) error
	}{
		"state is a directory": {"state.json", func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) }},
		"state is a link":      {"state.json", func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) }},
		"state is enormous":    {"state.json", func(p string) error { return os.Truncate(p, 2<<20) }},
		"channel is a directory": {"channels/b.json", func(p string) error {
			return errors.Join(os.Remove(p), os.Mkdir(p, 0o700))
		}},
		"channel of another tier": {"channels/b.json", func(p string) error {
			data, err := os.ReadFile(p)
			return errors.Join(err, os.WriteFile(p, []byte(strings.Replace(string(data), `"channel": "b"`, `"channel": "a"`, 1)), 0o600))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			must(t, c.make(w.puller.dir.Path(c.file)))
			if r := w.step(reason.Current); len(r.Warnings) == 0 {
				t.Error("nothing was said")
			}
			if _, err := os.Lstat(w.puller.dir.Path(c.file + ".broken")); err != nil {
				t.Errorf("not set aside: %v", err)
			}
			w.runs("2.0")
			w.step(reason.Current)
		})
	}
}

// TestNoDirectoryWhereAReleaseGoes is found out before anything is fetched.
func TestNoDirectoryWhereAReleaseGoes(t *testing.T) {
	w := two(t)
	must(t, os.Symlink("/etc", w.puller.dir.ReleasePath("2.0")))
	w.advance("2.0", nil)
	b := &counting{Bucket: w.bucket}
	w.puller.bucket = b
	if r := w.step(reason.Mismatch); !strings.Contains(r.Message, "move it away") || b.n.Load() != 0 {
		t.Errorf("%d reads, %s", b.n.Load(), r.Message)
	}
	must(t, os.Remove(w.puller.dir.ReleasePath("2.0")))
	w.step(reason.Updated)
}

// TestServiceProgramMissing is found out before the swap.
func TestServiceProgramMissing(t *testing.T) {
	w := two(t)
	w.app.missing = errors.New("service.command /nope: no such file")
	w.advance("2.0", nil)
	if r := w.step(reason.Config); !strings.Contains(r.Message, "nothing was changed; 1.0 stays") {
		t.Errorf("got %s", r.Message)
	}
	w.runs("1.0")
	w.app.missing = nil
	w.step(reason.Updated)
}

// TestAnchorThatComesInTheMiddle: trust is read once a cycle, so a cycle that began
// without an anchor ends without one.
func TestAnchorThatComesInTheMiddle(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	anchor, err := os.ReadFile(w.base + "/trust.json")
	must(t, err)
	must(t, os.Remove(w.base+"/trust.json"))
	c := &cycle{Puller: w.puller}
	must(t, c.load())
	if err := c.loadTrust(); reason.Of(err) != reason.Config {
		t.Fatalf("got %v", err)
	}
	must(t, os.WriteFile(w.base+"/trust.json", anchor, 0o644))
	must(t, c.loadChannel())
	c.channel.Version, c.channel.Manifest = "2.0", w.digests["2.0"]
	if _, err := c.follow(t.Context()); reason.Of(err) != reason.Config {
		t.Errorf("got %v", err)
	}
	w.runs("1.0")
}

// TestProvenReleaseIsNotBlocked: a release that failed for a reason of the node's, and
// ran well by order since, may be gone back to by channel.
func TestProvenReleaseIsNotBlocked(t *testing.T) {
	w := two(t)
	w.app.set("2.0", "500")
	w.advance("2.0", nil)
	w.step(reason.Unhealthy)
	w.app.set("2.0", "")
	w.pin("2.0", reason.Updated)
	must(t, w.puller.dir.RemovePin())
	w.step(reason.Current)
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.advance("2.0", nil)
	w.step(reason.Updated)
}

// TestRewrittenAndReplayed: both are said.
func TestRewrittenAndReplayed(t *testing.T) {
	w := two(t)
	w.advance("1.0", func(c *channels.Channel) { c.Seq = 5 })
	w.edit(func(s *node.State) { s.Head = strings.Repeat("ab", 20) })
	r := w.step(reason.Replay)
	if !strings.Contains(strings.Join(r.Warnings, " "), "rewritten") {
		t.Errorf("warnings: %v", r.Warnings)
	}
}
