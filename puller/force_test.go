package puller

import (
	"os"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/service"
	"makenot.work/sando/signing"
)

func (w *world) force(version string, want reason.Code) Result {
	w.t.Helper()
	return w.order(Order{Version: version, Force: true, Reason: "the probe lies"}, want)
}

// forced asserts that version is live by force, and that nothing is believed of it.
func (w *world) forced(version string) {
	w.t.Helper()
	w.runs(version)
	st := w.known()
	if st.Running.Version != version || st.Running.Forced == 0 || st.Intent != nil || st.Retry != nil || st.Degraded != nil {
		w.t.Errorf("state: %+v", st)
	}
	if st.LastGood != nil && st.LastGood.Version == version || st.RanWell(version, "") {
		w.t.Errorf("%s counts as good: %+v", version, st)
	}
	if s, err := w.puller.Status(w.t.Context()); err != nil || s.Running.Forced == 0 {
		w.t.Errorf("status: %+v, %v", s, err)
	}
}

// By force, a release that is not well stays, and nothing is believed of it.
func TestForce(t *testing.T) {
	w := pinnable(t)
	w.app.set("3.0", "500")
	before := w.app.count()
	r := w.force("3.0", reason.Updated)
	w.says(r, "runs 3.0 by force, before that 2.0: nobody looked whether it is well; `puller --pin 3.0` lets it prove itself")
	w.forced("3.0")
	for range 3 {
		w.says(w.step(reason.Pinned), "runs 3.0 by force, which never proved itself, and holds it")
	}
	if n := w.app.count() - before; n != 1 {
		t.Errorf("%d restarts, want 1", n)
	}
	if e := w.events("forced"); len(e) != 1 || e[0].From != "2.0" || e[0].To != "3.0" || e[0].Message != "by pin: the probe lies" {
		t.Errorf("history: %+v", e)
	}
	if st := w.known(); len(st.Blocked) != 0 || st.LastGood.Version != "2.0" || st.Previous.Version != "2.0" {
		t.Errorf("state: %+v", st)
	}
	w.unpin(reason.Updated)
	w.runs("2.0")
	if st := w.known(); st.Running.Forced != 0 {
		t.Errorf("state: %+v", st)
	}
}

// A start that fails is said, and nothing goes back; the same order starts it once more.
func TestForcedStartFails(t *testing.T) {
	w := pinnable(t)
	w.app.set("3.0", "exit")
	w.says(w.force("3.0", reason.Unhealthy), "3.0 is live by force, and nothing goes back; the same order again starts it once more, `puller --pin VERSION` runs another one (2.0 ran well last); its start failed with: exit status 2")
	w.forced("3.0")
	before := w.app.count()
	for range 3 {
		w.step(reason.Pinned)
	}
	if w.app.count() != before {
		t.Error("it was started again by itself")
	}
	w.app.set("3.0", "")
	w.force("3.0", reason.Updated)
	w.forced("3.0")
	if w.app.count() != before+1 {
		t.Errorf("%d restarts, want 1", w.app.count()-before)
	}
	if e := w.events("forced"); len(e) != 2 || e[0].Reason != reason.Unhealthy || !strings.Contains(e[0].Message, "it did not start: exit status 2") || e[1].Reason != reason.Updated {
		t.Errorf("history: %+v", e)
	}
}

// What was forced has to prove itself as soon as somebody asks for it without force; what
// failed before goes back to what ran well, not to it.
func TestForcedHasToProveItself(t *testing.T) {
	for name, c := range map[string]struct {
		bad  string
		do   func(w *world, want reason.Code)
		want reason.Code
		runs string
	}{
		"by pin":               {"", func(w *world, want reason.Code) { w.pin("3.0", want) }, reason.Updated, "3.0"},
		"by pin, unwell":       {"3.0", func(w *world, want reason.Code) { w.pin("3.0", want) }, reason.Unhealthy, "2.0"},
		"by channel":           {"", func(w *world, want reason.Code) { w.advance("3.0", nil); w.unpin(want) }, reason.Updated, "3.0"},
		"by channel, unwell":   {"3.0", func(w *world, want reason.Code) { w.advance("3.0", nil); w.unpin(want) }, reason.Unhealthy, "2.0"},
		"another one, unwell":  {"1.0", func(w *world, want reason.Code) { w.pin("1.0", want) }, reason.Unhealthy, "2.0"},
		"the good one, unwell": {"2.0", func(w *world, want reason.Code) { w.unpin(want) }, reason.Unhealthy, "3.0"},
		"by channel, halted": {"", func(w *world, want reason.Code) {
			w.advance("3.0", func(c *channels.Channel) { c.Rollout = 0 })
			w.unpin(want)
		}, reason.Halted, "3.0"},
		"blocked by the channel": {"", func(w *world, want reason.Code) {
			w.edit(func(s *node.State) {
				s.Blocked = []node.Block{{Version: "3.0", Manifest: w.digests["3.0"], Attempt: 1}}
			})
			w.advance("3.0", nil)
			w.unpin(want)
		}, reason.Blocked, "3.0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := pinnable(t)
			w.force("3.0", reason.Updated)
			w.edit(func(s *node.State) { s.Previous = s.Running }) // nothing else is known
			if c.bad != "" {
				w.app.set(c.bad, "500")
			}
			before := w.app.count()
			c.do(w, c.want)
			w.runs(c.runs)
			proved := c.want == reason.Updated
			if st := w.known(); st.RanWell("3.0", "") != proved {
				t.Errorf("state: %+v", st)
			}
			if held := c.want.Exit() != 4 && !proved; held != (w.app.count() == before) {
				t.Errorf("%d restarts", w.app.count()-before)
			}
		})
	}
}

// An order that came while the same version proves itself, and fails: it stays.
func TestForceInItsProbation(t *testing.T) {
	w := pinnable(t)
	w.app.set("3.0", "500")
	w.puller.cfg.Health.StartTimeout = time.Hour
	w.app.started = func(string) {
		w.app.started = nil
		w.give(node.Pin{Release: "3.0", Force: true})
	}
	w.advance("3.0", nil)
	before := w.app.count()
	if r := w.step(reason.Updated); r.From != "2.0" {
		t.Errorf("got %+v", r)
	}
	w.forced("3.0")
	if n := w.app.count() - before; n != 2 {
		t.Errorf("%d restarts, want 2", n)
	}
}

// Where nothing ran before, and where both ways failed, force ends the waiting.
func TestForceWhereNothingIsWell(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.app.set("1.0", "500")
	w.advance("1.0", nil)
	w.step(reason.Unhealthy)
	w.force("1.0", reason.Updated)
	w.forced("1.0")
	w.unpin(reason.Unhealthy) // it has to prove itself, and there is nothing to go back to
	if st := w.known(); st.Retry == nil || st.Running.Forced != 0 {
		t.Errorf("state: %+v", st)
	}

	w = pinnable(t)
	w.app.set("2.0", "500")
	w.app.set("3.0", "500")
	w.advance("3.0", nil)
	w.step(reason.Degraded)
	w.force("3.0", reason.Updated)
	w.forced("3.0")
}

// A plain order for a first install that waits for its next try does not wait either, once.
func TestPinStartsAFirstInstallAtOnce(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.app.set("1.0", "500")
	w.advance("1.0", nil)
	w.step(reason.Unhealthy)
	before := w.app.count()
	w.pin("1.0", reason.Unhealthy)
	for range 3 {
		w.step(reason.Unhealthy)
	}
	w.demand(reason.Unhealthy)(w.puller.Step(t.Context(), Options{Order: true})) // by a daemon, which sees it as well
	if n := w.app.count() - before; n != 1 {
		t.Errorf("%d starts, want 1", n)
	}
	w.app.set("1.0", "")
	w.pin("1.0", reason.Updated)
	w.runs("1.0")
}

// Force ignores the revocation of what is not on disk; no signature and no content.
func TestForceIgnores(t *testing.T) {
	revoke := func(w *world) {
		w.trust = w.newTrust(2)
		w.trust.Revoked = []layout.Digest{w.digests["3.0"]}
		doc, sigs := w.sign(w.trust, w.root)
		files := map[string][]byte{"trust/2.json": doc}
		for kid, sig := range sigs {
			files[signing.SignatureFile("trust/2.json", kid)] = sig
		}
		w.push(files)
	}
	tarball := func(w *world) string { return w.object(w.key("3.0", w.manifest("3.0").Bundles[0].Name)) }
	for name, c := range map[string]struct {
		change func(w *world)
		force  bool
		want   reason.Code
	}{
		"nothing is wrong":       {func(*world) {}, true, reason.Updated},
		"revoked":                {revoke, true, reason.Updated},
		"revoked, without force": {revoke, false, reason.Policy},
		"not signed": {func(w *world) {
			kid := w.release.Public().Kid()
			must(w.t, os.Remove(w.object(w.key("3.0", layout.ManifestSignature(w.digests["3.0"], kid)))))
		}, true, reason.Signature},
		"other bytes": {func(w *world) {
			data, err := os.ReadFile(tarball(w))
			must(w.t, err)
			data[len(data)/2] ^= 1
			must(w.t, os.WriteFile(tarball(w), data, 0o644))
		}, true, reason.Mismatch},
		"no unit": {func(w *world) { w.app.missing = os.ErrNotExist }, true, reason.Config},
	} {
		t.Run(name, func(t *testing.T) {
			w := pinnable(t)
			c.change(w)
			r := w.order(Order{Version: "3.0", Force: c.force}, c.want)
			if c.want != reason.Updated {
				w.runs("2.0")
				return
			}
			w.forced("3.0")
			if warned := strings.Contains(strings.Join(r.Warnings, " "), "is revoked by the trust in force: fetched by force"); warned != (name == "revoked") {
				t.Errorf("warnings: %v", r.Warnings)
			}
		})
	}
}

// A crash after the swap: recovery starts it, looks at nothing, and does not go back; unless
// its content does not hold.
func TestForceIsRecovered(t *testing.T) {
	open := func(w *world, change func(i *node.Intent)) {
		w.pin("3.0", reason.Updated)
		w.pin("2.0", reason.Updated)
		w.give(node.Pin{Release: "3.0", Force: true, At: 7})
		w.edit(func(s *node.State) {
			s.Proven = nil
			s.Intent = &node.Intent{Phase: node.Switching, From: "2.0", Via: "2.0", To: "3.0", Manifest: w.digests["3.0"], Attempt: 7, Pin: true, Force: true, Started: s.Running.Since}
			if change != nil {
				change(s.Intent)
			}
		})
		w.link("3.0")
		w.app.set("3.0", "500")
	}
	for name, c := range map[string]struct {
		change   func(i *node.Intent)
		damage   bool
		want     reason.Code
		restarts int
	}{
		"after the swap":            {nil, false, reason.Updated, 1},
		"after three tries":         {func(i *node.Intent) { i.Tries = maxTries }, false, reason.Unhealthy, 0},
		"its content does not hold": {nil, true, reason.Unhealthy, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := pinnable(t)
			open(w, c.change)
			if c.damage {
				w.damage("3.0")
			}
			w.app.version = "3.0"
			before := w.app.count()
			w.step(c.want)
			if n := w.app.count() - before; n != c.restarts {
				t.Errorf("%d restarts, want %d", n, c.restarts)
			}
			if c.damage {
				w.runs("2.0")
				return
			}
			w.forced("3.0")
			w.step(reason.Pinned)
		})
	}
	t.Run("it was started since", func(t *testing.T) {
		w := pinnable(t)
		m := w.manage(well)
		open(w, func(i *node.Intent) { i.Invocation = "run-0" })
		must(t, m.Restart(t.Context(), service.Start{Version: "3.0"}, 0))
		before := w.app.count()
		w.step(reason.Updated)
		w.forced("3.0")
		if w.app.count() != before {
			t.Error("started again")
		}
	})
	t.Run("a pin with force ends a way back", func(t *testing.T) {
		w := pinnable(t)
		open(w, func(i *node.Intent) { i.Phase, i.Force, i.Pin, i.Attempt = node.RollingBack, false, false, 1 })
		w.step(reason.Updated)
		w.forced("3.0")
	})
}

// What was forced is no fallback later: neither it nor what failed pushes out what ran well.
func TestForcedIsNoFallback(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"1.0", "2.0", "3.0", "4.0", "5.0"} {
		w.publish(v, "")
	}
	w.puller.cfg.Retain = 2
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.app.set("2.0", "500")
	w.app.set("3.0", "500")
	w.app.set("5.0", "500")
	w.advance("2.0", nil)
	w.step(reason.Unhealthy)
	w.force("3.0", reason.Updated)
	w.advance("4.0", nil)
	w.unpin(reason.Updated)
	w.runs("4.0")
	if st := w.known(); version(st.Previous) != "1.0" || version(st.LastGood) != "4.0" {
		t.Fatalf("previous is %s, last good %s", version(st.Previous), version(st.LastGood))
	}
	w.step(reason.Current)
	if has, err := w.puller.dir.Releases(); err != nil || strings.Join(has, " ") != "1.0 4.0" {
		t.Errorf("on disk: %v, %v", has, err)
	}
	must(t, os.WriteFile(w.puller.dir.ReleasePath("4.0")+"/app", []byte("damaged"), 0o644))
	w.advance("5.0", nil)
	r, err := w.puller.Step(t.Context(), Options{})
	if reason.Of(err) != reason.Unhealthy {
		t.Fatalf("%+v, %v", r, err)
	}
	w.runs("1.0")
}

// A release that failed and is live all the same, since nothing else was whole, is nothing to
// go back to either.
func TestFailedIsNoFallback(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"1.0", "2.0", "3.0"} {
		w.publish(v, "")
	}
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.app.set("2.0", "500")
	w.app.set("3.0", "500")
	whole, err := os.ReadFile(w.puller.dir.ReleasePath("1.0") + "/app")
	must(t, err)
	w.advance("2.0", nil)
	must(t, os.WriteFile(w.puller.dir.ReleasePath("1.0")+"/app", []byte("damaged"), 0o644))
	w.step(reason.Degraded)
	w.runs("2.0")
	must(t, os.WriteFile(w.puller.dir.ReleasePath("1.0")+"/app", whole, 0o644))
	w.advance("3.0", nil)
	w.step(reason.Unhealthy)
	w.runs("1.0")
}
