package puller

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
	"makenot.work/sando/puller/service"
	"makenot.work/sando/systemd"
)

// managed is the app of a world under a service manager.
type managed struct {
	*app
	runs     func(m *managed, looks int) (service.Run, error) // how it runs, at the n-th look since the restart
	started  int
	since    time.Time // of the last start
	looks    int
	stopping bool
	hinder   func(version string) error // from being started
}

func (m *managed) Restart(ctx context.Context, s service.Start, d time.Duration) error {
	if m.hinder != nil {
		if err := m.hinder(s.Version); err != nil {
			return err
		}
	}
	m.started++
	m.since = time.Now()
	m.looks = 0
	return m.app.Restart(ctx, s, d)
}

func (m *managed) Output(_ context.Context, run string) []string {
	version := "1.0.0"
	if run != "run-1" {
		version = "2.0.0"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return []string{fmt.Sprintf("%s of %s, told while %s runs", run, version, m.version)}
}

func (m *managed) Look(context.Context) (service.Run, error) {
	m.looks++
	return m.runs(m, m.looks)
}

func (m *managed) Stopping(context.Context) bool { return m.stopping }

// up is a unit that runs well.
func (m *managed) up() service.Run {
	return service.Run{Fresh: true, Invocation: fmt.Sprintf("run-%d", m.started), Began: m.since, Up: true, Words: "active"}
}

func (w *world) manage(runs func(m *managed, looks int) (service.Run, error)) *managed {
	m := &managed{app: w.app, runs: runs}
	w.puller.service = m
	// How often it is looked at must not depend on how busy this machine is.
	at := time.Now()
	w.puller.proof = clock{
		now: func() time.Time { return at },
		sleep: func(ctx context.Context, d time.Duration) error {
			at = at.Add(d)
			return ctx.Err()
		},
	}
	return m
}

func well(m *managed, _ int) (service.Run, error) { return m.up(), nil }

// What the service manager says counts as much as the probe, which is always content here.
func TestRuns(t *testing.T) {
	bad := func(change func(m *managed, looks int, r *service.Run) error) func(*managed, int) (service.Run, error) {
		return func(m *managed, looks int) (service.Run, error) {
			r := m.up()
			if m.version != "2.0.0" {
				return r, nil
			}
			return r, change(m, looks, &r)
		}
	}
	set := func(change func(m *managed, looks int, r *service.Run)) func(*managed, int) (service.Run, error) {
		return func(m *managed, looks int) (service.Run, error) {
			r := m.up()
			if m.version == "2.0.0" {
				change(m, looks, &r)
			}
			return r, nil
		}
	}
	for name, c := range map[string]struct {
		runs  func(*managed, int) (service.Run, error)
		cause string // "": it is well
	}{
		"well":            {well, ""},
		"starts slowly":   {set(func(_ *managed, n int, r *service.Run) { r.Up = n > 3 }), ""},
		"never up":        {set(func(_ *managed, _ int, r *service.Run) { r.Up, r.Words = false, "activating" }), "after 200ms still activating"},
		"failed":          {set(func(_ *managed, _ int, r *service.Run) { r.Up, r.Ended, r.Words = false, true, "failed" }), "it did not run: failed"},
		"fails later":     {set(func(_ *managed, n int, r *service.Run) { r.Up, r.Ended, r.Words = n < 2, n >= 2, "failed" }), "it did not run: failed"},
		"restarts early":  {set(func(_ *managed, n int, r *service.Run) { r.Restarts, r.Up = min(n-1, 3), n > 4 }), "it ended before it was well: active"},
		"about to":        {set(func(_ *managed, _ int, r *service.Run) { r.Again, r.Up = true, false }), "it ended before it was well: active"},
		"restarts later":  {set(func(_ *managed, n int, r *service.Run) { r.Restarts = n / 2 }), "it was restarted: active"},
		"by hand once":    {set(func(_ *managed, n int, r *service.Run) { r.Invocation += fmt.Sprint(min(n/4, 1)) }), ""},
		"being stopped":   {set(func(_ *managed, n int, r *service.Run) { r.Job, r.Up = n > 2 && n < 6, n <= 2 || n >= 6 }), ""},
		"restarts itself": {set(func(_ *managed, n int, r *service.Run) { r.Job, r.Restarts = n > 2, n/2 }), "it was restarted: active"},
		"another run":     {set(func(_ *managed, n int, r *service.Run) { r.Invocation += fmt.Sprint(n / 2) }), "it was restarted: active"},
		"not restarted":   {set(func(m *managed, _ int, r *service.Run) { r.Invocation = "run-1" }), "after 200ms still it runs as before the restart: active"},
		"reloaded":        {set(func(m *managed, _ int, r *service.Run) { r.Invocation, r.Fresh = "run-1", false }), ""},
		"blind at first":  {bad(func(_ *managed, n int, _ *service.Run) error { return map[bool]error{true: service.ErrBlind}[n < 3] }), ""},
		"blind later":     {bad(func(_ *managed, n int, _ *service.Run) error { return map[bool]error{true: service.ErrBlind}[n == 2] }), ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.manage(c.runs)
			w.publish("1.0.0", "")
			w.publish("2.0.0", "")
			w.advance("1.0.0", nil)
			w.step(reason.Updated)
			w.advance("2.0.0", nil)
			if c.cause == "" {
				w.step(reason.Updated)
				w.runs("2.0.0")
				return
			}
			r := w.step(reason.Unhealthy)
			if !strings.Contains(r.Message, "it failed with: ") || !strings.Contains(r.Message, c.cause) {
				t.Errorf("got %q, want %q in it", r.Message, c.cause)
			}
			w.runs("1.0.0")
		})
	}
}

// A unit without a probe must run as long as any other release; where nobody could be
// asked it would be good at once.
func TestUnitWithoutProbe(t *testing.T) {
	w := newWorld(t)
	w.puller.cfg.Health.URL, w.puller.cfg.Health.JSON = "", nil
	w.manage(func(m *managed, looks int) (service.Run, error) {
		r := m.up()
		r.Ended, r.Up, r.Words = looks > 1, looks <= 1, "failed"
		return r, nil
	})
	w.publish("1.0.0", "")
	w.advance("1.0.0", nil)
	if r := w.step(reason.Unhealthy); !strings.Contains(r.Message, "it did not run: failed") {
		t.Error(r.Message)
	}
}

// A machine that goes down while a release proves itself decides nothing: what had
// failed by then is judged anew afterwards.
func TestShutdownDuringProbation(t *testing.T) {
	for name, fails := range map[string]func(m *managed){
		"restart": func(m *managed) { m.set("2.0.0", "exit") },
		"probe":   func(m *managed) { m.set("2.0.0", "500") },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			m := w.manage(well)
			w.publish("1.0.0", "")
			w.publish("2.0.0", "")
			w.advance("1.0.0", nil)
			w.step(reason.Updated)
			w.advance("2.0.0", nil)
			fails(m)
			m.stopping = true
			r, err := w.puller.Step(t.Context(), Options{})
			if !errors.Is(err, service.ErrGoingDown) || r.Reason != reason.IO {
				t.Fatalf("got %v: %+v", err, r)
			}
			st, err := w.puller.dir.State()
			must(t, err)
			if st.Intent == nil || st.Intent.To != "2.0.0" || len(st.Blocked) != 0 {
				t.Fatalf("the intent is %+v, blocked is %v", st.Intent, st.Blocked)
			}
			m.stopping = false
			m.set("2.0.0", "")
			w.step(reason.Updated)
			w.runs("2.0.0")
		})
	}
}

// What was started after the swap runs the release already: recovery watches it, and
// restarts it only where that is not sure.
func TestRecoverInvocation(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(w *world, m *managed, i *node.Intent)
		restarts int
	}{
		{"started since", func(_ *world, m *managed, _ *node.Intent) { m.started++; m.since = time.Now() }, 0},
		{"started since, before its hook", func(w *world, m *managed, _ *node.Intent) {
			m.started++
			m.since = time.Now()
			w.hook(hook.AfterSwap, note)
		}, 1},
		{"started since, after its hook", func(w *world, m *managed, i *node.Intent) {
			m.started++
			m.since, i.Hooked = time.Now(), true
			w.hook(hook.AfterSwap, note)
		}, 0},
		{"starting since", func(_ *world, m *managed, _ *node.Intent) {
			m.started++
			m.since, m.looks = time.Now(), 0
			m.runs = func(m *managed, looks int) (service.Run, error) {
				r := m.up()
				r.Up = looks > 3
				return r, nil
			}
		}, 0},
		{"not started since", func(*world, *managed, *node.Intent) {}, 1},
		{"never ran", func(_ *world, m *managed, i *node.Intent) { m.started, i.Invocation = 0, "run-0" }, 1},
		{"nobody knew", func(_ *world, m *managed, i *node.Intent) { m.started++; m.since, i.Invocation = time.Now(), "" }, 1},
		{"started before the swap", func(_ *world, m *managed, _ *node.Intent) {
			m.started++
			m.since = time.Now().Add(-time.Hour)
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.manage(well)
			w.publish("1.0.0", "")
			w.publish("2.0.0", "")
			w.advance("1.0.0", nil)
			w.step(reason.Updated)
			w.advance("2.0.0", nil)

			// Killed after the swap: as if nothing of the restart had happened.
			ctx, cancel := context.WithCancel(t.Context())
			m.app.started = func(string) { cancel() }
			if _, err := w.puller.Step(ctx, Options{}); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			m.app.started = nil
			m.started, m.since = 1, time.Time{}
			st, err := w.puller.dir.State()
			must(t, err)
			if st.Intent == nil || st.Intent.Invocation != "run-1" {
				t.Fatalf("the intent is %+v", st.Intent)
			}
			w.app.mu.Lock()
			w.app.version = "2.0.0" // who was started since runs this
			w.app.mu.Unlock()
			c.change(w, m, st.Intent)
			must(t, w.puller.dir.SaveState(st))
			before := w.app.count()
			w.step(reason.Updated)
			if n := w.app.count() - before; n != c.restarts {
				t.Errorf("restarted %d times, want %d", n, c.restarts)
			}
			w.runs("2.0.0")
			if ran := len(w.logged()); len(w.puller.cfg.Hooks) > 0 && ran != c.restarts {
				t.Errorf("its hook ran %d times, want %d", ran, c.restarts)
			}
		})
	}
}

// So it is on the way back: what a puller that was killed had started already is watched.
func TestRecoverInvocationOnTheWayBack(t *testing.T) {
	for _, c := range []struct {
		name     string
		change   func(w *world, m *managed, i *node.Intent)
		restarts int
	}{
		{"started since", func(*world, *managed, *node.Intent) {}, 0},
		{"with a hook before the start", func(w *world, _ *managed, _ *node.Intent) { w.hook(hook.AfterSwap, note) }, 1},
		{"the failed run goes on", func(_ *world, m *managed, i *node.Intent) { i.Invocation = m.up().Invocation }, 1},
		{"started before the swap", func(_ *world, m *managed, _ *node.Intent) { m.since = time.Now().Add(-time.Hour) }, 1},
		{"the failed run is not known", func(_ *world, _ *managed, i *node.Intent) { i.Invocation = "" }, 1},
		{"ended since", func(_ *world, m *managed, _ *node.Intent) {
			m.runs = func(m *managed, _ int) (service.Run, error) {
				r := m.up()
				if m.started == 3 {
					r.Up, r.Ended, r.Began = false, true, time.Time{}
				}
				return r, nil
			}
		}, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.manage(well)
			w.publish("1.0.0", "")
			w.publish("2.0.0", "")
			w.advance("1.0.0", nil)
			w.step(reason.Updated)
			w.advance("2.0.0", nil)
			m.set("2.0.0", "500")
			ctx, cancel := context.WithCancel(t.Context())
			m.app.started = func(v string) {
				if v == "1.0.0" {
					cancel()
				}
			}
			if _, err := w.puller.Step(ctx, Options{}); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			m.app.started = nil
			st, err := w.puller.dir.State()
			must(t, err)
			if i := st.Intent; i == nil || i.Phase != node.RollingBack || i.Invocation != "run-2" || m.started != 3 {
				t.Fatalf("started %d times, the intent is %+v", m.started, i)
			}
			c.change(w, m, st.Intent)
			must(t, w.puller.dir.SaveState(st))
			before := w.app.count()
			w.step(reason.Unhealthy)
			if n := w.app.count() - before; n != c.restarts {
				t.Errorf("restarted %d times, want %d", n, c.restarts)
			}
			w.runs("1.0.0")
		})
	}
}

// A unit that is missing, or nobody to ask, is not the fault of a release: recovery waits,
// and counts no tries.
func TestRecoverUnstartable(t *testing.T) {
	w := newWorld(t)
	m := w.manage(well)
	w.publish("1.0.0", "")
	w.publish("2.0.0", "")
	w.advance("1.0.0", nil)
	w.step(reason.Updated)
	w.advance("2.0.0", nil)
	m.stopping = true
	m.set("2.0.0", "exit")
	w.step(reason.IO)
	m.stopping = false
	m.set("2.0.0", "")
	m.app.missing = errors.New("no such unit")
	for range maxTries + 1 {
		w.step(reason.Config)
	}
	m.app.missing = nil
	w.step(reason.Updated)
	w.runs("2.0.0")
}

func TestServiceConfig(t *testing.T) {
	const rest = "app = \"mnw\"\ntier = \"b\"\nnode = \"alpha\"\n[channels]\nrepo = \"file:///c\"\n[storage]\nurl = \"file:///s\"\n"
	probe := "[health]\nurl = \"http://127.0.0.1:1/\"\njson = { app = { version = \"v{version}\" } }\n"
	for _, c := range []struct{ service, health, err string }{
		{`unit = "mnw.service"`, "", ""},
		{`unit = "mnw@a-1.service"`, "", ""},
		{"unit = \"mnw.service\"\naction = \"restart\"", "", ""},
		{"unit = \"mnw.service\"\naction = \"reload-or-restart\"", probe, ""},
		{"unit = \"mnw.service\"\naction = \"reload-or-restart\"", strings.Replace(probe, "{version}", "", 1), `service.action: "reload-or-restart" needs a version in health.json`},
		{"unit = \"mnw.service\"\naction = \"reload-or-restart\"", "", `service.action: "reload-or-restart" needs a version in health.json`},
		{"unit = \"mnw.service\"\naction = \"reload\"", probe, `service.action: "reload" is neither "restart" nor "reload-or-restart"`},
		{`action = "reload-or-restart"`, probe, `service.action: "reload-or-restart" goes with service.unit`},
		{"unit = \"mnw.service\"\ncommand = [\"/bin/true\"]", "", "service.unit and service.command exclude each other"},
		{`unit = "mnw"`, "", `service.unit: "mnw" is not the name of a service, such as "mnw.service"`},
		{`unit = "mnw.timer"`, "", `service.unit: "mnw.timer" is not`},
		{`unit = "mnw@.service"`, "", `service.unit: "mnw@.service" is not`},
		{`unit = "../mnw.service"`, "", `service.unit: "../mnw.service" is not`},
		{`unit = "a b.service"`, "", `service.unit: "a b.service" is not`},
	} {
		file := t.TempDir() + "/mnw.toml"
		must(t, os.WriteFile(file, []byte(rest+"[service]\n"+c.service+"\n"+c.health), 0o644))
		cfg, err := LoadConfig(file, nil)
		switch {
		case c.err == "":
			if err != nil || cfg.Service.Action == "" {
				t.Errorf("%s: %v", c.service, err)
			}
		case reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.err):
			t.Errorf("%s: got %v, want %q", c.service, err, c.err)
		}
	}
}

// Where systemd is not there, or does not answer, nothing is swapped.
func TestUnitWithoutSystemd(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/bus")
	w := newWorld(t)
	w.puller.service = &service.Unit{Name: "mnw.service"}
	w.publish("1.0.0", "")
	w.advance("1.0.0", nil)
	want := reason.Config
	if systemd.Booted() {
		want = reason.IO
	}
	r := w.step(want)
	if !strings.Contains(r.Message, `service.unit "mnw.service": systemd does not answer`) || !strings.Contains(r.Message, "nothing was changed") {
		t.Error(r.Message)
	}
	if w.live() != "" {
		t.Errorf("current is %s", w.live())
	}
	s, err := w.puller.Status(t.Context())
	must(t, err)
	if s.Unit != nil || len(s.Warnings) == 0 || !strings.Contains(s.Warnings[0], "systemd does not answer") {
		t.Errorf("status: %+v", s)
	}
}
