package systemd

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

const hookUnit = "sando-hook-mnw.service"

// shell is a hook that runs a script as nobody.
func shell(script string, args ...string) Hook {
	return Hook{
		Unit: hookUnit, Description: "Sando hook of mnw", User: "nobody", Timeout: time.Minute,
		Run: append([]string{"/bin/sh", "-c", script, "sh"}, args...),
	}
}

func TestHookCheck(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Hook)
		want   string
	}{
		{"no change", func(*Hook) {}, ""},
		{"no name", func(h *Hook) { h.Unit = "" }, `"" is not the name of a service`},
		{"a target", func(h *Hook) { h.Unit = "multi-user.target" }, `"multi-user.target" is not the name of a service`},
		{"no program", func(h *Hook) { h.Run = nil }, `program of [] is not an absolute path`},
		{"relative program", func(h *Hook) { h.Run = []string{"true"} }, `program of ["true"] is not an absolute path`},
		{"no user", func(h *Hook) { h.User = "" }, "no user is named: write root if that is meant"},
		{"no time", func(h *Hook) { h.Timeout = 0 }, "timeout 0s is not a time"},
	} {
		h := shell("true")
		c.change(&h)
		if err := h.check(); (c.want == "") != (err == nil) || err != nil && err.Error() != c.want {
			t.Errorf("%s: got %v, want %s", c.name, err, c.want)
		}
	}
}

// run runs a hook that must come to an end.
func (l *lab) run(t *testing.T, h Hook) Ended {
	t.Helper()
	ended, err := l.conn.RunHook(t.Context(), h)
	if err != nil {
		t.Fatal(err)
	}
	if f := l.facts(t, h.Unit); f.LoadState != "not-found" {
		t.Errorf("left behind: %+v", f)
	}
	return ended
}

// said returns what a hook printed.
func (l *lab) said(t *testing.T, e Ended) []string {
	t.Helper()
	a := l.inside(t, request{Unit: e.Unit, Invocation: e.Invocation, Lines: 50})
	if a.Err != "" {
		t.Fatal(a.Err)
	}
	return a.Lines
}

// A hook is who it should be, knows what it should know, and nobody else learns it.
func testHook(t *testing.T, l *lab) {
	l.Write(t, "/etc/mnw/mnw.env", "SECRET=hunter2\nQUOTED=\"a b\"\n", 0o600)
	h := shell(`id -un; id -gn; id -Gn; echo "$SECRET $QUOTED $SANDO_VERSION"; pwd; systemctl show --all `+hookUnit+` > /tmp/shown; printf '<%s>\n' "$@"; echo oops >&2`,
		"$HOME", "${SECRET}", "$$", "a$b", "%n %%", "two words", `"quoted" \n`, "", "ü")
	h.EnvFiles = []string{"/etc/mnw/mnw.env"}
	h.Env = []string{"SANDO_VERSION=1.0 %n $HOME"}
	h.Group, h.Groups = "daemon", []string{"games"}
	e := l.run(t, h)
	if !e.OK() || e.Words() != "succeeded" || len(e.Invocation) != 32 {
		t.Errorf("got %+v", e)
	}
	want := []string{
		"nobody", "daemon", "daemon games", "hunter2 a b 1.0 %n $HOME", "/",
		"<$HOME>", "<${SECRET}>", "<$$>", "<a$b>", "<%n %%>", "<two words>", `<"quoted" \n>`, "<>", "<ü>", "oops",
	}
	if got := l.said(t, e); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	shown := l.Read(t, "/tmp/shown")
	if !strings.Contains(shown, "SANDO_VERSION=1.0") || strings.Contains(shown, "hunter2") {
		t.Errorf("what systemd shows to everybody:\n%s", shown)
	}

	h = shell("id -u; pwd")
	h.User, h.Dir = "root", "/usr/lib"
	if got := l.said(t, l.run(t, h)); !slices.Equal(got, []string{"0", "/usr/lib"}) {
		t.Errorf("as root: %q", got)
	}
}

// Each way in which a hook can end badly is told apart, and nothing is left of it.
func testHookEnds(t *testing.T, l *lab) {
	for _, c := range []struct {
		name, script string
		change       func(*Hook)
		result       string
		words        string
	}{
		{"status", "echo no; exit 3", nil, "exit-code", "ended with status 3"},
		{"signal", "kill -KILL $$", nil, "signal", "was ended by SIGKILL"},
		{"too long", "exec sleep infinity", func(h *Hook) { h.Timeout = 300 * time.Millisecond }, "timeout", "took longer than its 300ms, and was ended"},
		{"no program", "", func(h *Hook) { h.Run = []string{"/no/such/program"} }, "exit-code",
			"ended with status 203, by which systemd says that the program is missing, or cannot be executed"},
		{"no user", "", func(h *Hook) { h.User = "no-such-user" }, "exit-code", "ended with status 217, by which systemd says that there is no such user"},
		{"no group", "", func(h *Hook) { h.Group = "no-such-group" }, "exit-code", "ended with status 216, by which systemd says that there is no such group"},
		{"no directory", "", func(h *Hook) { h.Dir = "/no/such/dir" }, "exit-code", "ended with status 200, by which systemd says that it could not change to the working directory"},
		{"no env file", "", func(h *Hook) { h.EnvFiles = []string{"/no/such.env"} }, "resources",
			"was not run: systemd could not prepare it, for example because an env file cannot be read"},
		{"a child stays", "sleep infinity & exit 3", nil, "exit-code", "ended with status 3"},
	} {
		h := shell(c.script)
		if c.change != nil {
			c.change(&h)
		}
		e := l.run(t, h)
		if e.Result != c.result || e.Words() != c.words || len(e.Invocation) != 32 {
			t.Errorf("%s: %+v: %s", c.name, e, e.Words())
		}
	}
	h := shell("true")
	h.User = "no:user" // which systemd does not accept at all
	if e, err := l.conn.RunHook(t.Context(), h); err == nil || errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), hookUnit) {
		t.Errorf("got %+v, %v", e, err)
	}
}

// deaf starts a hook that leaves a process which does not hear SIGTERM: its end takes 10 s.
func (l *lab) deaf(t *testing.T) <-chan error {
	h := shell(`sh -c 'trap "" TERM; echo $$ > /tmp/deaf; while :; do sleep 1; done' & while ! test -s /tmp/deaf; do sleep 0.01; done; sleep infinity & echo $! > /tmp/hears`)
	h.Unit = "sando-hook-deaf.service"
	end := make(chan error, 1)
	go func() {
		e, err := l.conn.RunHook(t.Context(), h)
		if err == nil && !e.OK() {
			err = errors.New(e.Words())
		}
		end <- err
	}()
	l.until(t, h.Unit, func(Facts) bool { return l.Try(t, "test", "-s", "/tmp/hears").Code == 0 })
	return end
}

// What a hook leaves running is ended, SIGTERM or not.
func (l *lab) testHookChildren(t *testing.T, end <-chan error) {
	if err := <-end; err != nil {
		t.Fatalf("%v\n%s", err, l.Journal(t, "sando-hook-deaf.service"))
	}
	for _, file := range []string{"/tmp/deaf", "/tmp/hears"} {
		if r := l.Try(t, "kill", "-0", strings.TrimSpace(l.Read(t, file))); r.Code == 0 {
			t.Errorf("the process of %s runs", file)
		}
	}
}

// running starts a hook, and returns when it runs.
func (l *lab) running(t *testing.T, ctx context.Context, h Hook) <-chan error {
	t.Helper()
	end := make(chan error, 1)
	go func() {
		e, err := l.conn.RunHook(ctx, h)
		if err == nil {
			err = errors.New(e.Words())
		}
		end <- err
	}()
	l.until(t, h.Unit, func(f Facts) bool { return f.MainPID != 0 })
	return end
}

// A hook ends with who waits for it.
func testHookContext(t *testing.T, l *lab) {
	why := errors.New("another order")
	ctx, cancel := context.WithCancelCause(t.Context())
	end := l.running(t, ctx, shell("exec sleep infinity"))
	pid := l.facts(t, hookUnit).MainPID
	cancel(why)
	if err := <-end; !errors.Is(err, why) || err.Error() != `hook unit "`+hookUnit+`": another order` {
		t.Errorf("got %v", err)
	}
	if f := l.facts(t, hookUnit); f.LoadState != "not-found" {
		t.Errorf("left behind: %+v", f)
	}
	if r := l.Try(t, "kill", "-0", strconv.Itoa(pid)); r.Code == 0 {
		t.Error("its process runs")
	}
	if e, err := l.conn.RunHook(ctx, shell("touch /tmp/late")); !errors.Is(err, why) {
		t.Errorf("too late: %+v, %v", e, err)
	}
	if r := l.Try(t, "test", "-e", "/tmp/late"); r.Code == 0 {
		t.Error("a hook ran that nobody waits for")
	}

	end = l.running(t, t.Context(), shell("exec sleep infinity"))
	l.Run(t, "systemctl", "stop", hookUnit)
	if err := <-end; err.Error() != "was stopped by somebody: another job of its unit took its place" {
		t.Errorf("got %v", err)
	}
}

// systemd may read its units again, or be replaced itself, while a hook runs.
func testHookReload(t *testing.T, l *lab) {
	l.Write(t, "/etc/a b.env", "WORD=%n\n", 0o600)
	h := shell(`touch /tmp/waits; while ! test -e /tmp/go; do sleep 0.01; done; echo "$WORD $SANDO_VERSION $1"`, "%n $HOME; x")
	h.EnvFiles, h.Env = []string{"/etc/a b.env"}, []string{`SANDO_VERSION=%n "q"`}
	end := make(chan Ended, 1)
	go func() {
		e, err := l.conn.RunHook(t.Context(), h)
		if err != nil {
			t.Error(err)
		}
		end <- e
	}()
	l.until(t, h.Unit, func(Facts) bool { return l.Try(t, "test", "-e", "/tmp/waits").Code == 0 })
	l.Run(t, "systemctl", "daemon-reload")
	l.Run(t, "systemctl", "daemon-reexec")
	l.Write(t, "/tmp/go", "", 0o644)
	e := <-end
	if got := l.said(t, e); !e.OK() || !slices.Contains(got, `%n %n "q" %n $HOME; x`) {
		t.Errorf("got %+v, %q", e, got)
	}
}

// A puller that was killed leaves its hook; the next one ends it.
func testHookLeft(t *testing.T, l *lab) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(l.conn.EndHook(t.Context(), hookUnit)) // nothing there
	for name, args := range map[string][]string{
		"runs":    {"sleep", "infinity"},
		"is done": {"true"},
		"failed":  {"false"},
	} {
		leave := func() {
			t.Helper()
			l.Try(t, "systemd-run", append([]string{"--quiet", "--service-type=oneshot", "--remain-after-exit", "--no-block", "--unit=" + hookUnit}, args...)...)
			l.until(t, hookUnit, func(f Facts) bool {
				return f.MainPID != 0 || f.SubState == "exited" || f.ActiveState == "failed"
			})
		}
		leave()
		must(l.conn.EndHook(t.Context(), hookUnit))
		if f := l.facts(t, hookUnit); f.LoadState != "not-found" {
			t.Errorf("one that %s is left: %+v", name, f)
		}
		leave()
		if e := l.run(t, shell("echo anew")); !e.OK() || !slices.Equal(l.said(t, e), []string{"anew"}) {
			t.Errorf("after one that %s: %+v", name, e)
		}
	}

	const app = "no-hook.service"
	l.unit(t, app, forever)
	l.mustRestart(t, app, Restart)
	if err := l.conn.EndHook(t.Context(), "*.service"); err == nil || !strings.Contains(err.Error(), "is not the name of a service") {
		t.Errorf("got %v", err)
	}
	if err := l.conn.EndHook(t.Context(), app); err == nil || !strings.Contains(err.Error(), "taken by a unit that is no hook") {
		t.Errorf("got %v", err)
	}
	if f := l.facts(t, app); f.ActiveState != "active" {
		t.Errorf("got %+v", f)
	}
	l.Run(t, "systemctl", "stop", app)
}

// The journal has what one invocation said, and what systemd said of it.
func testJournal(t *testing.T, l *lab) {
	unit := l.unit(t, "talks.service", "Type=exec\nExecStart=/bin/sh -c 'echo one $$(cat /etc/word); printf \"\\\\033[31mred\\\\033[0m \\\\377\\\\n\\\\n\"; cat /etc/long; exit 2'")
	long := strings.Repeat("x", 10_000)
	l.Write(t, "/etc/long", long+"\n", 0o644)
	var ids []string
	for _, word := range []string{"first", "second"} {
		l.Write(t, "/etc/word", word, 0o644)
		l.mustRestart(t, unit, Restart)
		ids = append(ids, l.until(t, unit, func(f Facts) bool { return f.ActiveState == "failed" }).InvocationID)
	}
	for i, word := range []string{"first", "second"} {
		got := l.inside(t, request{Unit: unit, Invocation: ids[i], Lines: 100})
		want := []string{
			"one " + word, "red \uFFFD", long[:297] + "…",
			"talks.service: Main process exited, code=exited, status=2/INVALIDARGUMENT", "talks.service: Failed with result 'exit-code'.",
		}
		last := l.inside(t, request{Unit: unit, Invocation: ids[i], Lines: 2})
		if len(got.Lines) != 5 || last.Err != "" || !slices.Equal(last.Lines, got.Lines[3:]) {
			t.Errorf("the last two: %+v of %+v", last, got)
		}
		// systemd is a source of its own, and may come first.
		slices.Sort(got.Lines)
		slices.Sort(want)
		if got.Err != "" || !slices.Equal(got.Lines, want) {
			t.Errorf("%s: %q %q", word, got.Err, got.Lines)
		}
	}
	// However late the journal learns of it.
	l.Run(t, "systemctl", "kill", "--signal=STOP", "systemd-journald.service")
	e := l.run(t, shell("/bin/echo late; exit 3"))
	l.Run(t, "systemctl", "kill", "--signal=CONT", "systemd-journald.service")
	if got := l.said(t, e); !slices.Contains(got, "late") {
		t.Errorf("got %q", got)
	}

	got := l.inside(t, request{Unit: unit, Lines: 100})
	if got.Err != "" || !slices.Contains(got.Lines, "one first") || !slices.Contains(got.Lines, "one second") {
		t.Errorf("of any invocation: %+v", got)
	}
	got = l.inside(t, request{Unit: "no-such.service", Lines: 100})
	if got.Err != "" || len(got.Lines) > 0 {
		t.Errorf("of no unit: %+v", got)
	}
	got = l.inside(t, request{Unit: unit, Lines: 100}, "setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
	if len(got.Lines) > 0 {
		t.Errorf("as an ordinary user: %+v", got)
	}
	got = l.inside(t, request{Unit: unit, Lines: 100}, "env", "PATH=/no/such/dir")
	if !strings.HasSuffix(got.Err, `exec: "journalctl": executable file not found in $PATH`) {
		t.Errorf("without the program: %+v", got)
	}
}

// Both work in the sandbox of the puller.
func testSandbox(t *testing.T, l *lab) {
	h := shell("id -un; grep NoNewPrivs /proc/self/status; echo $SECRET; touch /usr/by-hook && echo writes")
	h.User = "root"
	h.EnvFiles = []string{"/etc/mnw/mnw.env"}
	a := l.sandboxed(t, request{Hook: &h})
	if a.Err != "" || !a.Ended.OK() {
		t.Fatalf("got %+v", a)
	}
	b := l.sandboxed(t, request{Unit: a.Ended.Unit, Invocation: a.Ended.Invocation, Lines: 20})
	want := []string{"root", "NoNewPrivs: 0", "hunter2", "writes"}
	if b.Err != "" || !slices.Equal(b.Lines, want) {
		t.Errorf("got %q %q, want %q", b.Err, b.Lines, want)
	}
}
