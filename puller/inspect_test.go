package puller

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
)

// plans asserts how a dry run ends, that it changes nothing, and what its error says.
func (w *world) plans(want reason.Code, says ...string) Plan {
	w.t.Helper()
	before, restarts := snapshot(w.t, w.base), w.app.count()
	plan, err := w.puller.Plan(w.t.Context(), Options{})
	if plan.Reason != want || err != nil && reason.Of(err) != want || (err == nil) != (want.Exit() == 0) {
		w.t.Errorf("plan %+v, %v; want %s", plan, err, want)
	}
	for _, s := range says {
		if err == nil || !strings.Contains(err.Error(), s) {
			w.t.Errorf("error %v, want %q in it", err, s)
		}
	}
	if plan.Act && want.Exit() != 0 {
		w.t.Error("it would act")
	}
	if after := snapshot(w.t, w.base); after != before || w.app.count() != restarts {
		w.t.Errorf("changed:\n%s\n%s", before, after)
	}
	return plan
}

// What every activation needs is looked at whether one is due or not.
func TestInspect(t *testing.T) {
	for name, c := range map[string]struct {
		spoil func(w *world)
		want  reason.Code
		says  []string
	}{
		"nothing":     {func(*world) {}, "", nil},
		"unit":        {func(w *world) { w.app.missing = errors.New("unit is masked") }, reason.Config, []string{"unit is masked"}},
		"program":     {func(w *world) { w.puller.cfg.Hooks[0].Run[0] = w.base + "/none" }, reason.Config, []string{"hook before_swap ", `/none" is not there`}},
		"user":        {func(w *world) { w.puller.cfg.Hooks[1].User = "postgress" }, reason.Config, []string{`hook after_healthy`, `user "postgress"`}},
		"env file":    {func(w *world) { w.puller.cfg.Env.Files = []string{w.base + "/none.env"} }, reason.Env, []string{"/none.env is missing: make it"}},
		"env key":     {func(w *world) { w.puller.cfg.Env.Required = []string{"KEY", "OTHER"} }, reason.Env, []string{"OTHER is not set in "}},
		"env and all": {func(w *world) { w.env("SANDO_APP=x\nKEY=\n"); w.app.missing = errors.New("unit is masked") }, reason.Config, []string{"unit is masked; ", "KEY is empty; SANDO_APP is set"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.hook(hook.BeforeSwap, "echo ran >>$LOG")
			w.hook(hook.AfterHealthy, "echo ran >>$LOG")
			w.env("KEY=x\n")
			w.puller.cfg.Env.Required = []string{"KEY"}
			w.publish("1.0", "")
			expect := func(otherwise reason.Code) {
				t.Helper()
				want := c.want
				if want == "" {
					want = otherwise
				}
				if plan := w.plans(want, c.says...); len(plan.Hooks) != 2 || !strings.HasPrefix(plan.Hooks[0], "before_swap: run ") || !strings.HasPrefix(plan.Hooks[1], "after_healthy: run /bin/sh ") {
					t.Errorf("hooks: %q", plan.Hooks)
				}
			}
			good := *w.puller.cfg
			good.Hooks = slices.Clone(good.Hooks)
			for i := range good.Hooks {
				good.Hooks[i].Run = slices.Clone(good.Hooks[i].Run)
			}
			c.spoil(w)
			expect(reason.Stale) // nothing is promoted yet
			w.advance("1.0", nil)
			expect(reason.Updated) // it is not on disk
			broken := *w.puller.cfg
			*w.puller.cfg, w.app.missing = good, nil
			w.env("KEY=x\n")
			w.step(reason.Updated)
			w.logged()
			*w.puller.cfg = broken
			c.spoil(w)
			expect(reason.Current)
			w.wantLogged()
		})
	}
}

// A program that the release brings has to be in the one that is activated; what is live may be
// from before the hook.
func TestInspectReleaseProgram(t *testing.T) {
	w := two(t)
	w.hook(hook.BeforeSwap, "true")
	h := &w.puller.cfg.Hooks[0]
	h.Run = []string{"{release}/migrate"}
	if plan := w.plans(reason.Current); len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], `releases/1.0/migrate" is not there; a release that it is to be run for has to bring it`) {
		t.Errorf("warnings: %q", plan.Warnings)
	}
	w.advance("2.0", nil)
	if plan := w.plans(reason.Updated); len(plan.Warnings) > 0 {
		t.Errorf("warnings of what is not on disk: %q", plan.Warnings)
	}
	h.Run[0] = "/bin/true"
	w.step(reason.Updated)
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.publish("3.0", "")
	w.puller.cfg.Hooks = append(w.puller.cfg.Hooks, hook.Hook{When: hook.BeforeSwap, Run: []string{"/bin/false"}, User: h.User})
	w.advance("3.0", nil)
	w.step(reason.Hook) // so that it is on disk
	w.puller.cfg.Hooks = w.puller.cfg.Hooks[:1]
	h = &w.puller.cfg.Hooks[0]
	h.Run[0] = "{release}/migrate"
	must(t, w.puller.dir.SavePin(node.Pin{Release: "3.0", At: time.Now().UnixMilli()}))
	w.plans(reason.Config, `releases/3.0/migrate" is not there`)
	h.Run[0] = "{release}/VERSION"
	w.plans(reason.Config, `releases/3.0/VERSION" is not executable (mode 0644)`)
	h.Run[0] = "{release}/app"
	must(t, os.Chmod(w.puller.dir.ReleasePath("3.0")+"/app", 0o755))
	w.plans(reason.Updated)
	// What ran well here is not prepared for.
	must(t, w.puller.dir.SavePin(node.Pin{Release: "2.0", At: time.Now().UnixMilli()}))
	h.Run[0] = "{release}/migrate"
	if plan := w.plans(reason.Updated); len(plan.Warnings) != 1 {
		t.Errorf("warnings: %q", plan.Warnings)
	}
}

// What is in nobody's way is a warning: the environment of a pin's release, hooks by force.
func TestInspectWarns(t *testing.T) {
	w := two(t)
	w.hook(hook.BeforeSwap, "true")
	w.puller.cfg.Env.Files = []string{filepath.Join(w.base, "none.env")}
	pin := node.Pin{Release: "2.0", At: time.Now().UnixMilli()}
	must(t, w.puller.dir.SavePin(pin))
	if plan := w.plans(reason.Updated); len(plan.Warnings) != 1 || !strings.Contains(plan.Warnings[0], "none.env is missing") {
		t.Errorf("warnings: %q", plan.Warnings)
	}
	pin.Force = true
	must(t, w.puller.dir.SavePin(pin))
	w.puller.cfg.Hooks[0].Run[0] = w.base + "/none"
	if plan := w.plans(reason.Updated); len(plan.Warnings) != 2 {
		t.Errorf("warnings: %q", plan.Warnings)
	}
	must(t, os.Remove(w.puller.dir.Path("pin.json")))
	w.plans(reason.Config, "none.env is missing")
}
