package puller

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
)

// hook adds a hook that runs a script as this test's user, as a child of this process. In the
// script, LOG is a file of the test.
func (w *world) hook(when hook.When, script string) {
	w.t.Helper()
	me, err := user.Current()
	must(w.t, err)
	cfg := w.puller.cfg
	limit := time.Minute
	cfg.Hooks = append(cfg.Hooks, hook.Hook{
		When: when, Run: []string{"/bin/sh", "-euc", "LOG=" + w.base + "/log; " + script, string(when), "{version}"}, User: me.Username, Timeout: &limit,
	})
	must(w.t, cfg.checkHooks())
	of := cfg.hooks()
	of.Systemd = false
	w.puller.hooks = hook.New(of)
}

// logged returns the lines of the file LOG, which begins anew.
func (w *world) logged() []string {
	w.t.Helper()
	data, err := os.ReadFile(w.base + "/log")
	if os.IsNotExist(err) {
		return nil
	}
	must(w.t, err)
	must(w.t, os.Remove(w.base+"/log"))
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

func (w *world) wantLogged(want ...string) {
	w.t.Helper()
	if diff := cmp.Diff(want, w.logged()); diff != "" {
		w.t.Errorf("what hooks logged (-want +got)\n%s", diff)
	}
}

// note is a script that logs what a hook can see.
const note = `echo "$0 $1: $SANDO_APP $SANDO_VERSION from ${SANDO_PREVIOUS:-nothing}, live $(readlink ../../current || echo nothing), in ${PWD##*/}" >>$LOG; `

func allHooks(w *world) {
	for _, when := range []hook.When{hook.AfterHealthy, hook.BeforeSwap, hook.AfterSwap} {
		w.hook(when, note)
	}
}

func TestHooks(t *testing.T) {
	w := newWorld(t)
	allHooks(w)
	w.hook(hook.BeforeSwap, `echo second >>$LOG; seq 30; echo done >&2`)
	for _, v := range []string{"1.0", "2.0"} {
		w.publish(v, "")
	}
	w.advance("1.0", nil)
	patience := map[Part]time.Duration{}
	w.demand(reason.Updated)(w.puller.Step(t.Context(), Options{Beat: func(p Part, within time.Duration) { patience[p] = within }}))
	if patience[Hooking] != time.Minute+hook.Patience {
		t.Errorf("a watchdog is told that a hook may take %s", patience[Hooking])
	}
	w.wantLogged(
		"before_swap 1.0: mnw 1.0 from nothing, live nothing, in 1.0",
		"second",
		"after_swap 1.0: mnw 1.0 from nothing, live releases/1.0, in 1.0",
		"after_healthy 1.0: mnw 1.0 from nothing, live releases/1.0, in 1.0",
	)
	events := w.events("hook")
	if len(events) != 4 {
		t.Fatalf("%d events of hooks: %+v", len(events), events)
	}
	if e := events[1]; e.To != "1.0" || e.Reason != "" || !strings.Contains(e.Message, "ended well after ") ||
		len(e.Output) != node.MaxLines || e.Output[0] != "12" || e.Output[19] != "done" {
		t.Errorf("event: %+v", e)
	}
	w.advance("2.0", nil)
	w.step(reason.Updated)
	w.wantLogged(
		"before_swap 2.0: mnw 2.0 from 1.0, live releases/1.0, in 2.0",
		"second",
		"after_swap 2.0: mnw 2.0 from 1.0, live releases/2.0, in 2.0",
		"after_healthy 2.0: mnw 2.0 from 1.0, live releases/2.0, in 2.0",
	)
	w.step(reason.Current)
	w.wantLogged()
	// What ran well here has been prepared for.
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.wantLogged(
		"after_swap 1.0: mnw 1.0 from 2.0, live releases/1.0, in 1.0",
		"after_healthy 1.0: mnw 1.0 from 2.0, live releases/1.0, in 1.0",
	)
}

// A before_swap that fails refuses the release: nothing changes, and it is not tried again
// until somebody wants that.
func TestHookRefuses(t *testing.T) {
	w := two(t)
	restarts := w.app.count()
	w.hook(hook.BeforeSwap, `echo ran >>$LOG; echo working; [ -e $LOG.mended ] || { echo 'no such table' >&2; exit 3; }`)
	w.hook(hook.BeforeSwap, `echo second >>$LOG`)
	w.advance("2.0", nil)
	r := w.step(reason.Hook)
	for _, want := range []string{"ended with status 3; it said: no such table; nothing was changed: 1.0 stays", "`puller unblock 2.0`"} {
		if !strings.Contains(r.Message, want) {
			t.Errorf("message %q, want %q in it", r.Message, want)
		}
	}
	w.wantLogged("ran")
	w.runs("1.0")
	b := w.known().IsBlocked("2.0", w.digests["2.0"], 1)
	if b == nil || !slices.Equal(b.Output, []string{"working", "no such table"}) {
		t.Fatalf("block: %+v", b)
	}
	if e := w.events("hook"); len(e) != 1 || e[0].Reason != reason.Hook || !slices.Equal(e[0].Output, b.Output) {
		t.Errorf("events: %+v", e)
	}
	for range 3 {
		w.step(reason.Blocked)
	}
	w.wantLogged()
	must(t, os.WriteFile(w.base+"/log.mended", nil, 0o600))
	w.step(reason.Blocked)
	w.advance("2.0", func(c *channels.Channel) { c.Attempt = 2 })
	if w.app.count() != restarts {
		t.Error("the app was restarted")
	}
	w.step(reason.Updated)
	w.wantLogged("ran", "second")
	w.runs("2.0")
}

func TestHookRefusesPin(t *testing.T) {
	w := two(t)
	w.hook(hook.BeforeSwap, `[ -e $LOG.mended ]`)
	w.pin("2.0", reason.Hook)
	w.step(reason.Blocked)
	must(t, os.WriteFile(w.base+"/log.mended", nil, 0o600))
	w.pin("2.0", reason.Updated)
	w.runs("2.0")
}

// After a swap there is a way back, and hooks are not in it.
func TestHookAfterSwapFails(t *testing.T) {
	w := two(t)
	w.hook(hook.AfterSwap, note+`echo cannot; exit 1`)
	restarts := w.app.count()
	w.advance("2.0", nil)
	r := w.step(reason.Unhealthy)
	if !strings.Contains(r.Message, "2.0 failed and is not tried again: runs 1.0 again; it failed with: hook after_swap /bin/sh ") {
		t.Errorf("message: %s", r.Message)
	}
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "the way back to 1.0 goes on all the same") {
		t.Errorf("warnings: %q", r.Warnings)
	}
	w.wantLogged(
		"after_swap 2.0: mnw 2.0 from 1.0, live releases/2.0, in 2.0",
		"after_swap 1.0: mnw 1.0 from 2.0, live releases/1.0, in 1.0",
	)
	w.runs("1.0")
	if n := w.app.count(); n != restarts+1 {
		t.Errorf("the app was started %d times, want once", n-restarts)
	}
	w.step(reason.Blocked)
	w.wantLogged()
}

// When the release itself fails, hooks run for the one gone back to.
func TestHookOnTheWayBack(t *testing.T) {
	w := two(t)
	allHooks(w)
	w.app.set("2.0", "500")
	w.advance("2.0", nil)
	w.step(reason.Unhealthy)
	w.wantLogged(
		"before_swap 2.0: mnw 2.0 from 1.0, live releases/1.0, in 2.0",
		"after_swap 2.0: mnw 2.0 from 1.0, live releases/2.0, in 2.0",
		"after_swap 1.0: mnw 1.0 from 2.0, live releases/1.0, in 1.0",
	)
}

func TestHookAfterHealthyFails(t *testing.T) {
	w := two(t)
	w.hook(hook.AfterHealthy, `echo no; exit 1`)
	w.advance("2.0", nil)
	r := w.step(reason.Updated)
	if len(r.Warnings) != 1 || !strings.HasSuffix(r.Warnings[0], "ended with status 1; it said: no; 2.0 runs all the same") {
		t.Errorf("warnings: %q", r.Warnings)
	}
	if e := w.events("hook"); len(e) != 1 || e[0].Reason != reason.Hook || !slices.Equal(e[0].Output, []string{"no"}) {
		t.Errorf("events: %+v", e)
	}
	if st := w.known(); st.LastGood.Version != "2.0" || len(st.Blocked) > 0 {
		t.Errorf("state: %+v", st)
	}
	w.step(reason.Current)
}

func TestHookTakesTooLong(t *testing.T) {
	w := two(t)
	w.hook(hook.BeforeSwap, `echo waits; sleep 1000 & echo $! >$LOG; wait`)
	limit := 200 * time.Millisecond
	w.puller.cfg.Hooks[0].Timeout = &limit
	w.advance("2.0", nil)
	r := w.step(reason.Hook)
	if !strings.Contains(r.Message, "took longer than its 200ms, and was ended; it said: waits; nothing was changed") {
		t.Errorf("message: %s", r.Message)
	}
	w.dead()
}

// dead asserts that the process that a hook logged has ended.
func (w *world) dead() {
	w.t.Helper()
	lines := w.logged()
	pid, err := strconv.Atoi(lines[len(lines)-1])
	must(w.t, err)
	if gone(pid) {
		return
	}
	// It was killed, and may not have been waited for yet.
	deadline := time.After(10 * time.Second)
	for tick := time.Tick(5 * time.Millisecond); ; {
		select {
		case <-tick:
			if gone(pid) {
				return
			}
		case <-deadline:
			w.t.Fatalf("process %d of the hook runs", pid)
		}
	}
}

// gone reports whether a process has ended.
func gone(pid int) bool {
	if unix.Kill(pid, 0) == unix.ESRCH {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// during calls do as soon as a hook has logged something.
func (w *world) during(do func()) (done func()) {
	end := make(chan struct{})
	go func() {
		defer close(end)
		for tick := time.Tick(5 * time.Millisecond); ; {
			select {
			case <-tick:
				if info, err := os.Stat(w.base + "/log"); err == nil && info.Size() > 0 {
					do()
					return
				}
			case <-w.t.Context().Done():
				return
			}
		}
	}()
	return func() { <-end }
}

const hangs = `[ -e $LOG.go ] || { sleep 1000 & echo $! >$LOG.new; mv $LOG.new $LOG; wait; }; `

// A pin ends a hook, and is carried out.
func TestPinDuringHook(t *testing.T) {
	for _, when := range []hook.When{hook.BeforeSwap, hook.AfterSwap, hook.AfterHealthy} {
		t.Run(string(when), func(t *testing.T) {
			w := three(t)
			w.publish("4.0", "")
			w.hook(when, `[ "$SANDO_VERSION" != 4.0 ] || { `+hangs+`}`)
			w.advance("4.0", nil)
			wait := w.during(func() { must(t, w.puller.dir.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()})) })
			w.step(reason.Updated)
			wait()
			w.dead()
			if when == hook.AfterHealthy { // the release counts; the order is for the next cycle
				w.runs("4.0")
				w.step(reason.Updated)
			}
			w.runs("1.0")
			if st := w.known(); st.Intent != nil || len(st.Blocked) > 0 {
				t.Errorf("state: %+v", st)
			}
		})
	}
}

// A puller that is told to stop stops the hook, and nobody is to blame.
func TestStopDuringHook(t *testing.T) {
	for when, then := range map[hook.When]reason.Code{hook.BeforeSwap: reason.Updated, hook.AfterSwap: reason.Updated, hook.AfterHealthy: reason.Current} {
		t.Run(string(when), func(t *testing.T) {
			w := two(t)
			w.hook(when, hangs+`echo again >>$LOG`)
			w.advance("2.0", nil)
			ctx, stop := context.WithCancel(t.Context())
			wait := w.during(stop)
			_, err := w.puller.Step(ctx, Options{})
			wait()
			if ok := when == hook.AfterHealthy; (err == nil) != ok || err != nil && ctx.Err() == nil {
				t.Fatalf("the cycle ended with %v", err)
			}
			w.dead()
			w.check()
			st := w.known()
			if len(st.Blocked) > 0 || (st.Intent != nil) != (when == hook.AfterSwap) {
				t.Errorf("state: %+v", st)
			}
			must(t, os.WriteFile(w.base+"/log.go", nil, 0o600))
			w.step(then)
			if when == hook.AfterHealthy {
				w.wantLogged()
			} else {
				w.wantLogged("again")
			}
			w.runs("2.0")
		})
	}
}

// During the probation of one release another is pinned, whose hook refuses: the probation
// goes on.
func TestHookRefusesOverAProbation(t *testing.T) {
	w := three(t)
	w.hook(hook.BeforeSwap, `[ "$SANDO_VERSION" != 4.0 ]`)
	w.publish("4.0", "")
	w.app.started = func(v string) {
		if v == "3.0" {
			w.app.started = nil
			must(t, w.puller.dir.SavePin(node.Pin{Release: "4.0", At: time.Now().UnixMilli()}))
		}
	}
	w.advance("3.0", nil)
	w.step(reason.Hook)
	w.runs("3.0")
	if st := w.known(); st.Intent != nil || st.LastGood.Version != "3.0" {
		t.Errorf("state: %+v", st)
	}
	w.step(reason.Blocked)
}

// What a person must mend is found out before any hook runs.
func TestHookOfNobody(t *testing.T) {
	w := two(t)
	w.hook(hook.BeforeSwap, `echo ran >>$LOG`)
	w.hook(hook.AfterHealthy, `true`)
	w.puller.cfg.Hooks[1].User = "nobody-has-this-name"
	w.advance("2.0", nil)
	r := w.step(reason.Config)
	if !strings.Contains(r.Message, "unknown user nobody-has-this-name: nothing was changed; 1.0 stays") {
		t.Errorf("message: %s", r.Message)
	}
	w.wantLogged()
	w.runs("1.0")
	w.puller.cfg.Hooks[1].User = w.puller.cfg.Hooks[0].User
	w.step(reason.Updated)
}

func TestHookPlan(t *testing.T) {
	w := two(t)
	allHooks(w)
	me := w.puller.cfg.Hooks[0].User
	w.advance("2.0", nil)
	plan, err := w.puller.Plan(t.Context(), Options{})
	must(t, err)
	var steps []string
	for _, s := range plan.Steps {
		if strings.HasPrefix(s, "hook ") || strings.HasPrefix(s, "swap ") {
			steps = append(steps, s)
		}
	}
	if len(steps) != 4 || !strings.HasPrefix(steps[0], "hook before_swap: run /bin/sh -euc ") || !strings.HasSuffix(steps[0], " as "+me+", for at most 1m0s") ||
		!strings.HasPrefix(steps[1], "swap ") || !strings.HasPrefix(steps[2], "hook after_swap: ") || !strings.HasPrefix(steps[3], "hook after_healthy: ") {
		t.Errorf("steps: %q", steps)
	}
	w.wantLogged()
}

// By force neither hooks nor the audit are in the way.
func TestForceWithoutHooks(t *testing.T) {
	w := two(t)
	for _, when := range []hook.When{hook.BeforeSwap, hook.AfterSwap, hook.AfterHealthy} {
		w.hook(when, `echo $SANDO_VERSION >>$LOG; exit 1`)
	}
	w.puller.cfg.Env.Files = []string{filepath.Join(w.base, "none.env")}
	must(t, w.puller.dir.SavePin(node.Pin{Release: "2.0", At: time.Now().UnixMilli(), Force: true}))
	r := w.step(reason.Updated)
	if len(r.Warnings) > 0 {
		t.Errorf("warnings: %q", r.Warnings)
	}
	w.wantLogged()
}

func TestHookConfig(t *testing.T) {
	const head = "app = \"mnw\"\ntier = \"b\"\nchannels.repo = \"file:///c\"\n"
	file := filepath.Join(t.TempDir(), "mnw.toml")
	load := func(text string) (*Config, error) {
		must(t, os.WriteFile(file, []byte(head+text), 0o600))
		return LoadConfig(file, nil)
	}
	const good = "[env]\nfiles = [\"/etc/mnw/mnw.env\"]\nrequired = [\"DATABASE_URL\"]\n" +
		"[[hook]]\nwhen = \"before_swap\"\nrun = [\"{release}/mnw-admin\", \"migrate\", \"{version}\"]\ntimeout = \"90s\"\nuser = \"git\"\n" +
		"[[hook]]\nwhen = \"after_swap\"\nrun = [\"/bin/true\"]\n"
	cfg, err := load(good)
	must(t, err)
	got, err := json.Marshal([]any{cfg.Env, cfg.Hooks, cfg.Hooks[0].Limit(), cfg.Hooks[1].Limit()})
	must(t, err)
	const want = `[{"Files":["/etc/mnw/mnw.env"],"Required":["DATABASE_URL"]},` +
		`[{"When":"before_swap","Run":["{release}/mnw-admin","migrate","{version}"],"Timeout":90000000000,"User":"git"},` +
		`{"When":"after_swap","Run":["/bin/true"],"Timeout":null,"User":""}],90000000000,300000000000]`
	if string(got) != want {
		t.Errorf("read as\n%s, want\n%s", got, want)
	}
	for _, c := range []struct{ old, new, want string }{
		{`"before_swap"`, `"before"`, `hook 1: when: "before" is none of "before_swap", "after_swap", "after_healthy"`},
		{`when = "after_swap"`, ``, `hook 2: when: "" is none of`},
		{`["/bin/true"]`, `[]`, `hook 2: run: want a program and its arguments`},
		{`["/bin/true"]`, `["true"]`, `hook 2: run: "true" is neither a clean absolute path nor one in the release, such as "{release}/bin/migrate"`},
		{`["/bin/true"]`, `["/bin/../true"]`, `hook 2: run: "/bin/../true" is neither`},
		{`"{release}/mnw-admin"`, `"{release}/../mnw-admin"`, `hook 1: run: "{release}/../mnw-admin" is neither`},
		{`"{release}/mnw-admin"`, `"{version}/mnw-admin"`, `hook 1: run: "{version}/mnw-admin" is neither`},
		{`"migrate"`, `"mi\u0000grate"`, `hook 1: run: an argument has a NUL character`},
		{`"90s"`, `"0s"`, `hook 1: timeout: 0s is not more than 0 and at most 24h0m0s`},
		{`"90s"`, `"-1s"`, `hook 1: timeout: -1s is not`},
		{`"90s"`, `"25h"`, `hook 1: timeout: 25h0m0s is not`},
		{`"90s"`, `90`, `90 is not a duration; write "90s"`},
		{`"git"`, `"git:git"`, `hook 1: user: "git:git" is not the name of a user`},
		{`user = `, `usr = `, `unknown key "hook[0].usr"`},
		{"[[hook]]\nwhen = \"after_swap\"", "[hook.x]\nwhen = \"after_swap\"", `hook`},
		{`"/etc/mnw/mnw.env"`, `"mnw.env"`, `env.files: "mnw.env" is not a clean absolute path`},
		{`"/etc/mnw/mnw.env"`, `"-/etc/mnw/mnw.env"`, `env.files: "-/etc/mnw/mnw.env" is not a clean absolute path`},
		{`"/etc/mnw/mnw.env"`, `"/etc/mnw/*.env"`, `env.files: "/etc/mnw/*.env" has wildcards: list each file`},
		{`files = ["/etc/mnw/mnw.env"]`, ``, `env.required: there are no env.files that could set anything`},
		{`"DATABASE_URL"`, `"DATABASE-URL"`, `env.required: "DATABASE-URL" is not the name of an environment variable`},
		{`required = `, `require = `, `unknown key "env.require"`},
	} {
		text := strings.Replace(good, c.old, c.new, 1)
		if text == good {
			t.Fatalf("%s is not in the example", c.old)
		}
		if _, err := load(text); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s for %s: error %v, want %q", c.new, c.old, err, c.want)
		}
	}
}
