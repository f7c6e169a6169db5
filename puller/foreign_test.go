package puller

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/service"
)

// foreigner makes a release as another deployer does, and makes it live.
func (w *world) foreigner(version, content string) {
	w.t.Helper()
	dir := w.base + "/node/releases/" + version
	must(w.t, os.MkdirAll(dir, 0o755))
	must(w.t, os.WriteFile(dir+"/VERSION", []byte(content), 0o644))
	must(w.t, os.RemoveAll(w.base+"/node/current"))
	must(w.t, os.Symlink(dir, w.base+"/node/current")) // absolute, as others do
	must(w.t, w.app.Restart(w.t.Context(), service.Start{Version: version}, 0))
}

// strip takes away what makes a release one of Sando's.
func (w *world) strip(version string) {
	w.t.Helper()
	must(w.t, os.RemoveAll(filepath.Join(w.base, "node/releases", version, ".sando")))
	must(w.t, os.RemoveAll(w.base+"/node/.sando"))
}

func (w *world) adopt() Result {
	w.t.Helper()
	res, err := w.puller.Step(w.t.Context(), Options{Adopt: true, Prepare: true, Now: true})
	must(w.t, err)
	return res
}

func (w *world) leads() string {
	w.t.Helper()
	target, err := os.Readlink(w.base + "/node/current")
	must(w.t, err)
	return target
}

// A foreign release that holds what the channel names is taken over, and nothing restarts.
func TestAdoptSame(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0.0", "")
	w.advance("1.0.0", nil)
	w.step(reason.Updated)
	w.strip("1.0.0")
	_, err := w.puller.Step(t.Context(), Options{})
	if !errors.Is(err, node.ErrForeign) {
		t.Fatal(err)
	}
	before := w.app.count()
	if res := w.adopt(); res.Ready != "1.0.0" || len(res.Warnings) != 1 || !strings.Contains(res.Warnings[0], "taken over") {
		t.Errorf("%+v", res)
	}
	w.step(reason.Current)
	if st := w.known(); st.Running.Manifest != w.digests["1.0.0"] || w.app.count() != before {
		t.Errorf("runs %+v, restarted %d times", st.Running, w.app.count()-before)
	}
}

// One that others than root could change is no release of Sando's, whatever it holds now.
func TestAsRootAdoptExposed(t *testing.T) {
	testenv.Root(t, "a file of another user")
	w := newWorld(t)
	w.publish("1.0.0", "")
	w.advance("1.0.0", nil)
	w.step(reason.Updated)
	w.strip("1.0.0")
	must(t, os.Chown(w.base+"/node/releases/1.0.0/VERSION", 12345, -1))
	res := w.adopt()
	if res.Ready != "1.0.0" || w.leads() != "releases/1.0.0+foreign" || len(res.Warnings) == 0 || !strings.Contains(res.Warnings[0], "1.0.0/VERSION could be changed by others than root") {
		t.Errorf("%+v, current is %q", res, w.leads())
	}
	info, err := os.Stat(w.base + "/node/releases/1.0.0/VERSION")
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 {
		t.Errorf("the new one: %v, %v", info, err)
	}
}

// Another one keeps its files under another name, and goes on running until the update.
func TestAdoptOther(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0.0", "")
	w.foreigner("0.9.0", "0.9.0")
	w.foreigner("1.0.0", "1.0.0+elsewhere")
	w.advance("1.0.0", nil)
	before := w.app.count()
	res := w.adopt()
	if res.Ready != "1.0.0" || res.Running != "1.0.0+foreign" || w.leads() != "releases/1.0.0+foreign" || w.app.count() != before {
		t.Fatalf("%+v, current is %q, restarted %d times", res, w.leads(), w.app.count()-before)
	}
	data, err := os.ReadFile(w.base + "/node/current/VERSION")
	if err != nil || string(data) != "1.0.0+elsewhere" {
		t.Fatalf("%q, %v", data, err)
	}
	w.step(reason.Updated)
	w.publish("2.0.0", "")
	w.app.set("2.0.0", "500")
	w.advance("2.0.0", nil)
	w.step(reason.Unhealthy) // back to 1.0.0
	for _, v := range []string{"1.0.0+foreign", "0.9.0"} {
		if _, err := w.puller.Pin(t.Context(), Order{Version: v}, Options{}); err != nil {
			t.Errorf("pin of %s: %v", v, err)
		}
	}
	if w.leads() != "releases/0.9.0" {
		t.Errorf("current is %q", w.leads())
	}
}

// The first update over a foreign release fails, and it runs again.
func TestForeignBack(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0.0", "")
	w.foreigner("0.9.0", "0.9.0")
	w.app.set("1.0.0", "500")
	w.advance("1.0.0", nil)
	res, _ := w.puller.Step(t.Context(), Options{})
	if res.Reason != reason.Unhealthy || res.Running != "0.9.0" || w.leads() != "releases/0.9.0" {
		t.Errorf("%+v, current is %q", res, w.leads())
	}
	w.step(reason.Blocked)
}

// Whatever of a renaming a crash left, what is live is the same, and the next one ends it.
func TestAsideCrash(t *testing.T) {
	for _, c := range []struct {
		name string
		left func(releases string) error
	}{
		{"link", func(r string) error { return os.Symlink("1.0.0", r+"/1.0.0+foreign") }},
		{"current", func(r string) error {
			must(t, os.Symlink("1.0.0", r+"/1.0.0+foreign"))
			must(t, os.Remove(r+"/../current"))
			return os.Symlink("releases/1.0.0+foreign", r+"/../current")
		}},
		{"exchanged", func(r string) error {
			must(t, os.Rename(r+"/1.0.0", r+"/1.0.0+foreign"))
			must(t, os.Symlink("1.0.0", r+"/1.0.0"))
			must(t, os.Remove(r+"/../current"))
			return os.Symlink("releases/1.0.0+foreign", r+"/../current")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			w.publish("1.0.0", "")
			w.foreigner("1.0.0", "1.0.0+elsewhere")
			w.advance("1.0.0", nil)
			must(t, c.left(w.base+"/node/releases"))
			before := w.app.count()
			if res := w.adopt(); res.Running != "1.0.0+foreign" || w.leads() != "releases/1.0.0+foreign" || w.app.count() != before {
				t.Fatalf("%+v, current is %q", res, w.leads())
			}
			names, err := os.ReadDir(w.base + "/node/releases")
			must(t, err)
			got := []string{}
			for _, n := range names {
				if n.IsDir() {
					got = append(got, n.Name())
				}
			}
			if len(names) != 2 || !slices.Equal(got, []string{"1.0.0", "1.0.0+foreign"}) {
				t.Errorf("releases has %q", names)
			}
			w.step(reason.Updated)
		})
	}
}

// Prepare goes no further than the disk, and a handover comes right before the intent.
func TestPrepareAndHandover(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0.0", "")
	w.advance("1.0.0", nil)
	for range 2 {
		res, err := w.puller.Step(t.Context(), Options{Prepare: true})
		if err != nil || res.Ready != "1.0.0" || res.Running != "" || w.app.count() != 0 {
			t.Fatalf("%+v, %v", res, err)
		}
	}
	no := errors.New("it does not give way")
	_, err := w.puller.Step(t.Context(), Options{Handover: func(context.Context) error { return no }})
	if st := w.known(); !errors.Is(err, no) || st.Intent != nil || w.app.count() != 0 {
		t.Fatalf("%v, %+v", err, st)
	}
	called := 0
	res, err := w.puller.Step(t.Context(), Options{Handover: func(context.Context) error {
		called++
		if st := w.known(); st.Intent != nil || w.app.count() != 0 {
			t.Errorf("the handover comes too late: %+v", st)
		}
		return nil
	}})
	if err != nil || res.Reason != reason.Updated || called != 1 {
		t.Errorf("%+v, %v, called %d times", res, err, called)
	}
}

// What is live is started again where that is asked for, and has no way back to itself.
func TestStart(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0.0", "")
	w.advance("1.0.0", nil)
	w.step(reason.Updated)
	for n, want := range []reason.Code{reason.Updated, reason.Unhealthy} {
		if want == reason.Unhealthy {
			w.app.set("1.0.0", "500")
		}
		before, called := w.app.count(), 0
		res, err := w.puller.Step(t.Context(), Options{Start: true, Handover: func(context.Context) error { called++; return nil }})
		if res.Reason != want || called != 1 || w.app.count() != before+1 {
			t.Errorf("%d: %+v, %v, called %d times", n, res, err, called)
		}
	}
	if st := w.known(); st.Retry == nil || st.Degraded != nil || st.Intent != nil {
		t.Errorf("state: %+v", st)
	}
}
