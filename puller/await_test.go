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
	"makenot.work/sando/puller/schedule"
)

func daily(t *testing.T, line string) schedule.Window {
	t.Helper()
	w, err := schedule.ParseWindow(line, time.Hour, time.UTC)
	must(t, err)
	return w
}

// closed is a node that runs 1.0, whose channel names 2.0, and whose window opens at two.
func closed(t *testing.T) facts {
	f := settled()
	f.Window = daily(t, "0 2 * * *")
	return f
}

func TestDecideWindow(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*facts)
		act    bool
		code   reason.Code
	}{
		"closed":        {func(*facts) {}, false, reason.Window},
		"open":          {func(f *facts) { f.Now = noon.Add(14 * time.Hour) }, true, ""},
		"closed again":  {func(f *facts) { f.Now = noon.Add(15 * time.Hour) }, false, reason.Window},
		"hotfix":        {func(f *facts) { f.Channel.Hotfix = "login broken" }, true, ""},
		"now":           {func(f *facts) { f.Ignore = true }, true, ""},
		"pin":           {func(f *facts) { f.Pin = &node.Pin{Release: "2.0", At: 7} }, true, ""},
		"nothing runs":  {func(f *facts) { f.Current, f.State = "", node.NewState() }, true, ""},
		"first install": {func(f *facts) { unhealthyFirst(f, 0) }, true, ""},
		"first install that never was well, another target": {func(f *facts) { f.State.Retry = &node.Retry{Count: 1, Next: canon.At(noon)} }, true, ""},
		"ran well here": {func(f *facts) { f.State.Prove(node.Release{Version: "2.0", Manifest: m2}) }, true, ""},
		"ran well here with other content": {func(f *facts) {
			f.State.Prove(node.Release{Version: "2.0", Manifest: m1})
			f.State.Prove(node.Release{Version: "1.0", Manifest: m2})
		}, false, reason.Window},
		"another manifest of what runs": {func(f *facts) { f.Channel.Version = "1.0" }, true, ""},
		"what is left when the way back failed": {func(f *facts) {
			f.Channel.Version, f.Channel.Manifest = "1.0", m1
			f.State.Degraded = &node.Block{Version: "2.0", Manifest: m2, Attempt: 1}
		}, true, ""},
		"current": {func(f *facts) { f.Channel.Version, f.Channel.Manifest = "1.0", m1 }, false, reason.Current},
		// What is not activated at all does not wait for the window, and is not fetched.
		"halted":   {func(f *facts) { f.Channel.Rollout = 0 }, false, reason.Halted},
		"rollout":  {func(f *facts) { f.Channel.Rollout = 1 }, false, reason.Rollout},
		"expired":  {func(f *facts) { f.Channel.Expires = canon.At(noon) }, false, reason.Stale},
		"revoked":  {func(f *facts) { f.Revoked = func(d layout.Digest) bool { return d == m2 } }, false, reason.Policy},
		"no state": {func(f *facts) { f.Channel = nil }, false, reason.Stale},
		"blocked": {func(f *facts) {
			f.State.Blocked = []node.Block{{Version: "2.0", Manifest: m2, Attempt: 1}}
		}, false, reason.Blocked},
	} {
		t.Run(name, func(t *testing.T) {
			f := closed(t)
			c.change(&f)
			d := decide(f)
			if d.Act != c.act || d.Reason != c.code || d.Await != (c.code == reason.Window) {
				t.Errorf("got %+v, want act %t, reason %q", d, c.act, c.code)
			}
			if d.Await && (d.Target.Version != f.Channel.Version || !strings.Contains(d.Message, "opens at 2026-06-0")) {
				t.Errorf("got %+v", d)
			}
		})
	}
}

// TestDecideNow is what --now does not wait for, and what holds all the same.
func TestDecideNow(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*facts)
		before reason.Code
		after  reason.Code // "": it is activated
	}{
		"window":             {func(f *facts) { f.Window = daily(t, "0 2 * * *") }, reason.Window, ""},
		"rollout":            {func(f *facts) { f.Channel.Rollout = 1 }, reason.Rollout, ""},
		"window and rollout": {func(f *facts) { f.Window, f.Channel.Rollout = daily(t, "0 2 * * *"), 1 }, reason.Rollout, ""},
		"backoff":            {func(f *facts) { unhealthyFirst(f, time.Minute) }, reason.Unhealthy, ""},
		"halt":               {func(f *facts) { f.Channel.Rollout = 0 }, reason.Halted, reason.Halted},
		"backoff and halt": {func(f *facts) {
			unhealthyFirst(f, time.Minute)
			f.Channel.Rollout = 0
		}, reason.Unhealthy, reason.Halted},
		"window and halt": {func(f *facts) { f.Window, f.Channel.Rollout = daily(t, "0 2 * * *"), 0 }, reason.Halted, reason.Halted},
		"expiry":          {func(f *facts) { f.Channel.Expires = canon.At(noon) }, reason.Stale, reason.Stale},
		"revocation":      {func(f *facts) { f.Revoked = func(layout.Digest) bool { return true } }, reason.Policy, reason.Policy},
		"block": {func(f *facts) {
			f.State.Blocked = []node.Block{{Version: "2.0", Manifest: m2, Attempt: 1}}
		}, reason.Blocked, reason.Blocked},
		"degraded": {func(f *facts) {
			f.State.Degraded = &node.Block{Version: "2.0", Manifest: m2, Attempt: 1}
		}, reason.Degraded, reason.Degraded},
		"pin": {func(f *facts) { f.Pin = &node.Pin{Release: "1.0", At: 7} }, reason.Pinned, reason.Pinned},
	} {
		t.Run(name, func(t *testing.T) {
			f := settled()
			c.change(&f)
			if d := decide(f); d.Act || d.Reason != c.before {
				t.Errorf("without --now: %+v, want %q", d, c.before)
			}
			f.Ignore = true
			if d := decide(f); d.Act != (c.after == "") || d.Reason != c.after {
				t.Errorf("with --now: %+v, want %q", d, c.after)
			}
		})
	}
}

// waiting is a node that runs 1.0, and whose channel names 2.0 while its window is closed. The
// window opens in three hours.
func waiting(t *testing.T) (w *world, asked *counting, opening time.Time) {
	t.Helper()
	w = newWorld(t)
	asked = &counting{Bucket: w.bucket}
	w.puller.bucket = asked
	w.publish("1.0", "")
	w.publish("2.0", "")
	w.advance("1.0", nil)
	w.step(reason.Updated)
	opening = time.Now().UTC().Truncate(time.Minute).Add(3 * time.Hour)
	w.puller.cfg.window = daily(t, opening.Format("4 15 * * *"))
	w.advance("2.0", nil)
	return w, asked, opening
}

// opened lets the clock go on from the opening of the window.
func (w *world) opened(opening time.Time) {
	ahead := time.Until(opening)
	w.puller.now = func() time.Time { return time.Now().Add(ahead) }
}

func TestFetchedOutsideActivatedInside(t *testing.T) {
	w, asked, opening := waiting(t)
	restarts := w.app.count()
	r := w.step(reason.Window)
	if !r.Moved || asked.n.Load() == 0 || r.Again.Before(opening) || !r.Again.Before(opening.Add(time.Minute)) {
		t.Errorf("first: %+v after %d requests; opens at %s", r, asked.n.Load(), opening)
	}
	if want := "2.0 waits for the maintenance window, which opens at " + opening.Format(canon.TimeLayout) + ": 1.0 stays; `puller --now` does not wait"; r.Message != want {
		t.Errorf("says %q, want %q", r.Message, want)
	}
	// From now on it costs nothing: no request, and no hash, or the damage would be seen.
	asked.n.Store(0)
	file := w.puller.dir.ReleasePath("2.0") + "/VERSION"
	must(t, os.WriteFile(file, []byte("2.1"), 0o644))
	for range 3 {
		if r := w.step(reason.Window); r.Moved || asked.n.Load() != 0 || r.Again.Before(opening) {
			t.Errorf("then: %+v after %d requests", r, asked.n.Load())
		}
	}
	w.runs("1.0")
	if w.app.count() != restarts {
		t.Errorf("restarted %d times", w.app.count()-restarts)
	}
	// When it opens everything is looked at: the damage is found, and mended.
	w.opened(opening)
	r = w.step(reason.Updated)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "is damaged") || asked.n.Load() == 0 || !r.Again.IsZero() {
		t.Errorf("inside: %+v after %d requests", r, asked.n.Load())
	}
	w.runs("2.0")
}

// What cannot be fetched now may be there when the window opens: who looks once a day must not
// find out after it has closed.
func TestAwakeForWindowAfterFailure(t *testing.T) {
	w, _, opening := waiting(t)
	w.puller.bucket = &failing{w.bucket, "2.0/"}
	r, err := w.puller.Step(t.Context(), Options{})
	if reason.Of(err) != reason.IO || r.Again.Before(opening) || !r.Again.Before(opening.Add(time.Minute)) {
		t.Errorf("%v; due at %s, the window opens at %s", err, r.Again, opening)
	}
	// It passes, and the window opens and closes while it is fetched.
	w.puller.bucket = w.bucket
	w.puller.now = func() time.Time {
		if has, err := w.puller.dir.Has("2.0"); err == nil && has {
			return opening.Add(90 * time.Minute)
		}
		return time.Now()
	}
	next := opening.Add(24 * time.Hour)
	r, err = w.puller.Step(t.Context(), Options{})
	if err != nil || !strings.Contains(r.Message, next.Format(canon.TimeLayout)) || r.Again.Before(next) || !r.Again.Before(next.Add(time.Minute)) {
		t.Errorf("%v: %s; due at %s, the window opens at %s", err, r.Message, r.Again, next)
	}
}

func TestWhatDoesNotWait(t *testing.T) {
	hotfix := func(c *channels.Channel) { c.Hotfix = "login broken" }
	for name, do := range map[string]func(w *world){
		"now":    func(w *world) { w.demand(reason.Updated)(w.puller.Step(t.Context(), Options{Now: true})) },
		"pin":    func(w *world) { w.pin("2.0", reason.Updated) },
		"hotfix": func(w *world) { w.advance("2.0", hotfix); w.step(reason.Updated) },
		"unpin, now": func(w *world) {
			w.pin("1.0", reason.Pinned)
			w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{Now: true}))
		},
		"ran well before": func(w *world) {
			w.pin("2.0", reason.Updated)
			w.pin("1.0", reason.Updated)
			w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{}))
		},
		"recovery": func(w *world) {
			w.pin("2.0", reason.Updated)
			must(t, w.puller.dir.RemovePin())
			must(t, os.Remove(w.app.current))
			w.step(reason.Updated)
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, _ := waiting(t)
			do(w)
			w.runs("2.0")
		})
	}
	t.Run("going back", func(t *testing.T) {
		w, _, _ := waiting(t)
		w.app.set("2.0", "500")
		w.demand(reason.Unhealthy)(w.puller.Step(t.Context(), Options{Now: true}))
		w.runs("1.0")
		w.step(reason.Blocked)
	})
}

// What is wrong with a release is known before the window opens.
func TestRefusedOutside(t *testing.T) {
	w, asked, _ := waiting(t)
	w.puller.bucket = &failing{Bucket: asked, part: ".tar.zst"}
	r := w.step(reason.IO)
	if !strings.Contains(r.Message, "cut") || !strings.Contains(r.Message, "1.0 stays") {
		t.Errorf("says %s", r.Message)
	}
	if s, err := w.puller.Status(t.Context()); err != nil || s.Reason != reason.IO {
		t.Errorf("status is %q, %v", s.Reason, err)
	}
	w.puller.bucket = asked
	w.step(reason.Window)
	// A key that is taken out of trust while it waits.
	w.release = newKey(t)
	w.rotate()
	w.step(reason.Signature)
	if s, err := w.puller.Status(t.Context()); err != nil || s.Reason != reason.Signature {
		t.Errorf("status is %q, %v", s.Reason, err)
	}
	w.runs("1.0")
}

// What the app's environment lacks is, too; and asking for it at each poll costs no request.
func TestAuditedOutside(t *testing.T) {
	w, asked, _ := waiting(t)
	file := w.base + "/mnw.env"
	must(t, os.WriteFile(file, nil, 0o600))
	w.puller.cfg.Env.Files, w.puller.cfg.Env.Required = []string{file}, []string{"DATABASE_URL"}
	w.step(reason.Env)
	asked.n.Store(0)
	if r := w.step(reason.Env); r.Moved || asked.n.Load() != 0 {
		t.Errorf("then: %+v after %d requests", r, asked.n.Load())
	}
	if s, err := w.puller.Status(t.Context()); err != nil || s.Reason != reason.Env || !strings.Contains(s.Message, "DATABASE_URL is not set") {
		t.Errorf("status is %q: %s, %v", s.Reason, s.Message, err)
	}
	must(t, os.WriteFile(file, []byte("DATABASE_URL=x\n"), 0o600))
	w.step(reason.Window)
	w.runs("1.0")
}

// rotate publishes the next version of trust, with the keys that the world has now.
func (w *world) rotate() {
	w.t.Helper()
	w.trust = w.newTrust(w.trust.Version + 1)
	doc, sigs := w.sign(w.trust, w.root)
	files := map[string][]byte{"trust/2.json": doc}
	for kid, sig := range sigs {
		files["trust/2.json."+kid[:16]+".sigstore.json"] = sig
	}
	w.push(files)
}

// failing is a bucket from which some objects cannot be read.
type failing struct {
	bucket.Bucket
	part string
}

func (f *failing) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	if strings.Contains(key, f.part) {
		return nil, bucket.Info{}, &os.PathError{Op: "read", Path: key, Err: errors.New("cut")}
	}
	return f.Bucket.Get(ctx, key)
}

func TestWaitingIsSaid(t *testing.T) {
	w, _, opening := waiting(t)
	says := func(want ...string) {
		t.Helper()
		s, err := w.puller.Status(t.Context())
		must(t, err)
		for _, text := range want {
			if s.Reason != reason.Window || !strings.Contains(s.Message, text) {
				t.Errorf("status is %q: %s; want %s", s.Reason, s.Message, text)
			}
		}
		if s.Window == nil || s.Window.Open || !s.Window.Opens.Equal(opening) {
			t.Errorf("window is %+v", s.Window)
		}
	}
	plans := func(step string) {
		t.Helper()
		p, err := w.puller.Plan(t.Context(), Options{})
		must(t, err)
		if p.Act || p.Reason != reason.Window || p.Version != "2.0" || len(p.Steps) != 3 || p.Steps[1] != step || !strings.Contains(p.Steps[2], "which opens at") {
			t.Errorf("plans %+v", p)
		}
	}
	plans("fetch its manifest and bundle, verify, unpack")
	w.step(reason.Window)
	says("2.0 waits for the maintenance window, which opens at "+opening.Format(canon.TimeLayout), "`puller --now` does not wait; it is fetched and checked")
	plans("it is on disk: it is hashed when it is activated")
	must(t, w.puller.dir.Trash("2.0"))
	says("; it is not on disk yet: the next `puller` fetches it")
	if p, err := w.puller.Plan(t.Context(), Options{Now: true}); err != nil || !p.Act {
		t.Errorf("now: %+v, %v", p, err)
	}
}

// What waits is kept, and what waits no longer is not piled up.
func TestWaitingIsKept(t *testing.T) {
	w, _, opening := waiting(t)
	w.puller.cfg.Retain = 1
	w.step(reason.Window)
	w.publish("0.9", "")
	w.pin("0.9", reason.Updated)
	w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{Now: true}))
	w.pin("1.0", reason.Updated)
	w.publish("3.0", "")
	w.publish("4.0", "")
	for _, v := range []string{"3.0", "4.0"} {
		w.advance(v, nil)
		w.demand(reason.Window)(w.puller.Unpin(t.Context(), Options{}))
	}
	if has, err := w.puller.dir.Has("3.0"); has || err != nil {
		t.Errorf("3.0, which nobody waits for, is on disk: %v", err)
	}
	w.pin("2.0", reason.Updated)
	if has, err := w.puller.dir.Has("4.0"); !has || err != nil {
		t.Errorf("4.0, which waits, is gone: %v", err)
	}
	w.opened(opening)
	w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{}))
	w.runs("4.0")
}

// lengthy is a bucket whose tarballs take their time, by the clock of the node.
type lengthy struct {
	bucket.Bucket
	during func()
}

func (s *lengthy) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	if strings.HasSuffix(key, ".tar.zst") {
		s.during()
	}
	return s.Bucket.Get(ctx, key)
}

// TestNewsAfterALongDownload: what happened while it was fetched is known before anything is
// activated.
func TestNewsAfterALongDownload(t *testing.T) {
	halt := func(c *channels.Channel) { c.Rollout = 0 }
	for name, c := range map[string]struct {
		takes  time.Duration
		during func(w *world)
		want   reason.Code
		runs   string
		warns  string
	}{
		"nothing":           {time.Minute, func(*world) {}, reason.Updated, "2.0", ""},
		"halted":            {time.Minute, func(w *world) { w.advance("2.0", halt) }, reason.Halted, "1.0", ""},
		"halted, but quick": {30 * time.Second, func(w *world) { w.advance("2.0", halt) }, reason.Updated, "2.0", ""},
		"another release":   {time.Minute, func(w *world) { w.publish("3.0", ""); w.advance("3.0", nil) }, reason.Updated, "3.0", ""},
		"the one that runs": {time.Minute, func(w *world) { w.advance("1.0", nil) }, reason.Current, "1.0", ""},
		"the git host is gone": {time.Minute, func(w *world) {
			must(w.t, os.Rename(w.base+"/channels.git", w.base+"/away"))
		}, reason.Updated, "2.0", "poll: "},
		"the window closes": {30 * time.Second, func(w *world) {
			w.puller.cfg.window = daily(w.t, w.puller.now().UTC().Add(3*time.Hour).Format("4 15 * * *"))
		}, reason.Window, "1.0", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.publish("1.0", "")
			w.publish("2.0", "")
			w.advance("1.0", nil)
			w.step(reason.Updated)
			w.advance("2.0", nil)
			var ahead time.Duration
			w.puller.now = func() time.Time { return time.Now().Add(ahead) }
			begun := false
			w.puller.bucket = &lengthy{w.bucket, func() {
				if !begun {
					begun = true
					ahead += c.takes
					c.during(w)
				}
			}}
			r := w.step(c.want)
			w.runs(c.runs)
			if c.warns == "" && len(r.Warnings) > 0 || c.warns != "" && (len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], c.warns)) {
				t.Errorf("warns %q", r.Warnings)
			}
		})
	}
}

// A window that opens while the release is fetched is not missed.
func TestOpensWhileFetching(t *testing.T) {
	w, asked, opening := waiting(t)
	w.puller.bucket = &lengthy{asked, func() { w.opened(opening) }}
	w.step(reason.Updated)
	w.runs("2.0")
}

// A channel that changes each time is not run after for ever.
func TestDecidesAnewAFewTimes(t *testing.T) {
	w := newWorld(t)
	versions := []string{"1", "2", "3", "4", "5", "6"}
	for _, v := range versions {
		w.publish(v, "")
	}
	w.advance("1", nil)
	var ahead time.Duration
	w.puller.now = func() time.Time { return time.Now().Add(ahead) }
	n := 0
	w.puller.bucket = &lengthy{w.bucket, func() {
		n++
		ahead += time.Hour
		w.advance(versions[n], nil)
	}}
	w.step(reason.Updated)
	if n != maxReconsidered+1 {
		t.Errorf("fetched %d releases", n)
	}
	w.runs(versions[maxReconsidered])
}

// A pin that is taken back while its release is fetched is not carried out.
func TestPinTakenBackInDownload(t *testing.T) {
	w, asked, _ := waiting(t)
	must(t, w.puller.dir.SavePin(node.Pin{Release: "2.0", At: 7}))
	w.puller.bucket = &lengthy{asked, func() { must(t, w.puller.dir.RemovePin()) }}
	w.step(reason.Window)
	w.runs("1.0")
}
