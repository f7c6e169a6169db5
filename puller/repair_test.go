package puller

import (
	"os"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/signing"
)

// repaired runs a repair and demands how it ended and how often the app was restarted. It
// returns what was found, by version.
func (w *world) repaired(want reason.Code, restarts int, versions ...string) map[string]Verified {
	w.t.Helper()
	before := w.app.count()
	found, err := w.puller.Repair(w.t.Context(), versions)
	if reason.Of(err) != want {
		w.t.Fatalf("repair ended with %v, want %q", err, want)
	}
	if n := w.app.count() - before; n != restarts {
		w.t.Errorf("%d restarts, want %d", n, restarts)
	}
	list := map[string]Verified{}
	for _, v := range found {
		list[v.Version] = v
	}
	return list
}

func TestRepairLive(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"a changed file":     func(dir string) error { return os.WriteFile(dir+"/app", []byte("damaged"), 0o644) },
		"a missing file":     func(dir string) error { return os.Remove(dir + "/VERSION") },
		"an extra file":      func(dir string) error { return os.WriteFile(dir+"/static/extra", nil, 0o644) },
		"a mode":             func(dir string) error { return os.Chmod(dir+"/app", 0o777) },
		"a damaged manifest": func(dir string) error { return os.Truncate(dir+"/.sando/manifest.json", 10) },
		"no manifest":        func(dir string) error { return os.Remove(dir + "/.sando/manifest.json") },
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			must(t, damage(w.puller.dir.ReleasePath("2.0")))
			found := w.repaired(reason.Current, 1)
			if v := found["2.0"]; !v.Repaired || !v.Current || v.Message == "" || v.Digest != w.digests["2.0"] {
				t.Errorf("2.0: %+v", v)
			}
			if v := found["1.0"]; v.Repaired || v.Reason != reason.Current {
				t.Errorf("1.0: %+v", v)
			}
			w.check()
			w.runs("2.0")
			w.step(reason.Current)
			st, err := w.puller.dir.State()
			must(t, err)
			if st.Repair != "" || st.Intent != nil || len(st.Blocked) != 0 {
				t.Errorf("state: %+v", st)
			}
			if n := w.app.count(); w.repaired(reason.Current, 0)["2.0"].Repaired || w.app.count() != n {
				t.Error("repaired again")
			}
		})
	}
}

func TestRepairOther(t *testing.T) {
	w := three(t)
	w.damage("1.0")
	w.damage("3.0")
	found := w.repaired(reason.Current, 0, "1.0", "2.0")
	if !found["1.0"].Repaired || found["2.0"].Repaired || len(found) != 2 {
		t.Errorf("found %+v", found)
	}
	if _, err := w.puller.dir.Verify(t.Context(), "1.0"); err != nil {
		t.Error(err)
	}
	if _, err := w.puller.dir.Verify(t.Context(), "3.0"); reason.Of(err) != reason.Mismatch {
		t.Errorf("3.0 was not named: %v", err)
	}
	if _, err := w.puller.Repair(t.Context(), []string{"7.0"}); reason.Of(err) != reason.Config {
		t.Errorf("a version that is not on disk: %v", err)
	}
	w.check()
	w.runs("2.0")
}

// What ran before a repair and is not well after it is left for the release before, once.
func TestRepairedReleaseIsUnhealthy(t *testing.T) {
	for _, pinned := range []bool{false, true} {
		w := three(t)
		if pinned {
			w.pin("2.0", reason.Pinned)
		}
		w.damage("2.0")
		w.app.set("2.0", "500")
		found := w.repaired(reason.Unhealthy, 2)
		if v := found["2.0"]; v.Current || v.Repaired || v.Reason != reason.Unhealthy || !strings.Contains(v.Message, "1.0 again") {
			t.Errorf("found %+v", v)
		}
		w.runs("1.0")
		n := w.app.count()
		for range 3 {
			w.step(reason.Blocked)
		}
		if w.app.count() != n {
			t.Errorf("%d restarts after it", w.app.count()-n)
		}
		w.app.set("2.0", "")
		w.pin("2.0", reason.Updated)
	}
}

// A repair that is refused or cannot be done changes nothing.
func TestRepairRefused(t *testing.T) {
	for name, c := range map[string]struct {
		hinder func(w *world)
		want   reason.Code
		says   string
	}{
		"offline":            {func(w *world) { must(w.t, os.Rename(w.base+"/bucket", w.base+"/away")) }, reason.IO, "not in the storage"},
		"the tarball is bad": {func(w *world) { w.corrupt("2.0") }, reason.Mismatch, "2.0"},
		"revoked": {func(w *world) {
			w.trust = w.newTrust(2)
			w.trust.Revoked = []layout.Digest{w.digests["2.0"]}
			doc, sigs := w.sign(w.trust, w.root)
			files := map[string][]byte{"trust/2.json": doc}
			for kid, sig := range sigs {
				files[signing.SignatureFile("trust/2.json", kid)] = sig
			}
			w.push(files)
			w.step(reason.Current)
		}, reason.Policy, "is revoked"},
		"the unit is missing": {func(w *world) { w.app.missing = reason.Errorf(reason.Config, "no such unit") }, reason.Config, "no such unit"},
		"nobody knows what it was": {func(w *world) {
			w.edit(func(s *node.State) { s.Running.Manifest, s.LastGood, s.Proven = "", nil, nil })
			must(w.t, os.Remove(w.puller.dir.ReleasePath("2.0")+"/.sando/manifest.json"))
		}, reason.Mismatch, "--pin 2.0@sha256:DIGEST"},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			c.hinder(w)
			w.damage("2.0")
			found := w.repaired(c.want, 0, "2.0")
			if v := found["2.0"]; v.Reason != c.want || v.Repaired || !strings.Contains(v.Message, c.says) || !strings.Contains(v.Message, "2.0\"") {
				t.Errorf("found %+v", v)
			}
			w.runs("2.0")
			if data, err := os.ReadFile(w.puller.dir.ReleasePath("2.0") + "/app"); string(data) != "damaged" {
				t.Errorf("something was changed: %v", err)
			}
			st, err := w.puller.dir.State()
			must(t, err)
			if st.Repair != "" || st.Intent != nil || len(st.Blocked) != 0 {
				t.Errorf("state: %+v", st)
			}
			if names, err := os.ReadDir(w.puller.dir.Path("staging")); err != nil || len(names) != 0 {
				t.Errorf("left behind: %v, %v", names, err)
			}
		})
	}
}

// corrupt makes the tarball of a version another one of the same length.
func (w *world) corrupt(version string) {
	w.t.Helper()
	names, err := os.ReadDir(w.object(w.key(version, "")))
	must(w.t, err)
	for _, n := range names {
		if path := w.object(w.key(version, n.Name())); strings.HasSuffix(path, ".tar.zst") {
			data, err := os.ReadFile(path)
			must(w.t, err)
			data[len(data)/2] ^= 1
			must(w.t, os.WriteFile(path, data, 0o644))
		}
	}
}

// A repair may stop around its exchange; the next cycle looks at which side.
func TestRepairIsCutShort(t *testing.T) {
	for name, c := range map[string]row{
		"before the exchange": {func(w *world) {
			w.damage("2.0")
			w.edit(func(s *node.State) { s.Repair = "2.0" })
		}, reason.Current, "2.0", 0, nil},
		"after the exchange": {func(w *world) {
			w.edit(func(s *node.State) { s.Repair = "2.0" })
		}, reason.Updated, "2.0", 1, nil},
		"after it, and it is not well": {func(w *world) {
			w.edit(func(s *node.State) { s.Repair = "2.0" })
			w.app.set("2.0", "500")
		}, reason.Unhealthy, "1.0", 2, func(t *testing.T, w *world, _ Result) { w.step(reason.Blocked) }},
		"after it, and an order came": {func(w *world) {
			w.edit(func(s *node.State) { s.Repair = "2.0" })
			must(w.t, w.puller.dir.SavePin(node.Pin{Release: "3.0", At: 1}))
		}, reason.Updated, "3.0", 1, nil},
		"after it, and swapped by hand": {func(w *world) {
			w.edit(func(s *node.State) { s.Repair = "2.0" })
			w.link("1.0")
		}, reason.Pinned, "1.0", 0, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := three(t)
			c.found(w)
			n := w.app.count()
			r, err := w.puller.Step(t.Context(), Options{})
			if reason.Of(err) != c.want && r.Reason != c.want {
				t.Fatalf("ended %q, %v; want %q", r.Reason, err, c.want)
			}
			if got := w.live(); got != c.runs || w.app.count()-n != c.restarts {
				t.Errorf("runs %s after %d restarts, want %s and %d", got, w.app.count()-n, c.runs, c.restarts)
			}
			if c.also != nil {
				c.also(t, w, r)
			}
			st, err := w.puller.dir.State()
			must(t, err)
			if st.Repair != "" || st.Intent != nil {
				t.Errorf("state: %+v", st)
			}
		})
	}
}

// During a probation nothing is repaired.
func TestRepairWaitsForAProbation(t *testing.T) {
	w := three(t)
	w.advance("3.0", nil)
	w.edit(func(s *node.State) { s.Intent = switching("2.0", "3.0") })
	w.link("3.0")
	w.damage("1.0")
	w.app.missing = reason.Errorf(reason.IO, "systemd does not answer")
	if _, err := w.puller.Repair(t.Context(), nil); reason.Of(err) != reason.IO || !strings.Contains(err.Error(), "comes before a repair") {
		t.Errorf("got %v", err)
	}
	if _, err := w.puller.dir.Verify(t.Context(), "1.0"); reason.Of(err) != reason.Mismatch {
		t.Errorf("it was repaired: %v", err)
	}
}
