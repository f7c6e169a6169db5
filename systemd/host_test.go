package systemd

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/testenv/host"
)

// lab is a booted host with a connection to its systemd.
type lab struct {
	*host.Host
	conn *Conn
}

// unit installs a unit and returns its name. What Install sections say is of no use here.
func (l *lab) unit(t *testing.T, name, service string) string {
	t.Helper()
	if !strings.Contains(service, "[Service]") {
		service = "[Service]\n" + service
	}
	l.Write(t, "/etc/systemd/system/"+name, service+"\n", 0o644)
	l.Run(t, "systemctl", "daemon-reload")
	return name
}

func (l *lab) facts(t *testing.T, unit string) Facts {
	t.Helper()
	f, err := l.conn.Facts(t.Context(), unit)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// until waits until the facts of a unit are as they should be.
func (l *lab) until(t *testing.T, unit string, ok func(Facts) bool) Facts {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		f := l.facts(t, unit)
		if ok(f) {
			return f
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("still %+v", f)
		}
	}
}

func (l *lab) mustRestart(t *testing.T, unit string, a Action) {
	t.Helper()
	if err := l.conn.Restart(t.Context(), unit, a); err != nil {
		t.Fatal(err)
	}
}

// jobError returns the result that the error of a restart names.
func jobError(t *testing.T, err error) *JobError {
	t.Helper()
	var e *JobError
	if !errors.As(err, &e) {
		t.Fatalf("got %v, want a JobError", err)
	}
	return e
}

const forever = "ExecStart=/bin/sleep infinity"

// All of it on one host, because a boot is the dearest part.
func TestAsRootSystemd(t *testing.T) {
	h := host.Boot(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", h.Bus())
	conn, err := Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l := &lab{h, conn}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.Copy(t, self, insideName)
	deaf := l.deaf(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *lab)
	}{
		{"restart", testRestart},
		{"reload", testReload},
		{"exits at once", testExits},
		{"results", testResults},
		{"canceled", testCanceled},
		{"out of time", testOutOfTime},
		{"unusable", testUnusable},
		{"unfit", testUnfit},
		{"conditions", testConditions},
		{"start limit", testStartLimit},
		{"facts", testFacts},
		{"definition", testDefinition},
		{"manage", testManage},
		{"journal", testJournal},
		{"hook", testHook},
		{"hook ends", testHookEnds},
		{"hook context", testHookContext},
		{"hook reload", testHookReload},
		{"hook left", testHookLeft},
		{"sandbox", testSandbox},
		{"hook children", func(t *testing.T, l *lab) { l.testHookChildren(t, deaf) }},
		{"no bus", testNoBus},
		{"shutdown", testShutdown}, // the last
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, l) })
	}
}

func testRestart(t *testing.T, l *lab) {
	unit := l.unit(t, "plain.service", forever)
	before := l.facts(t, unit)
	if before.ActiveState != "inactive" || before.InvocationID != "" || before.MainPID != 0 {
		t.Fatalf("before its first start: %+v", before)
	}
	l.mustRestart(t, unit, Restart)
	first := l.facts(t, unit)
	if first.ActiveState != "active" || first.MainPID == 0 || len(first.InvocationID) != 32 || first.Job {
		t.Errorf("after the first start: %+v", first)
	}
	l.mustRestart(t, unit, Restart)
	second := l.facts(t, unit)
	if second.MainPID == first.MainPID || second.InvocationID == first.InvocationID || second.ActiveState != "active" {
		t.Errorf("after the second: %+v, before it: %+v", second, first)
	}
}

func testReload(t *testing.T, l *lab) {
	can := l.unit(t, "reloads.service", forever+"\nExecReload=/bin/true")
	cannot := l.unit(t, "restarts.service", forever)
	for _, unit := range []string{can, cannot} {
		l.mustRestart(t, unit, ReloadOrRestart) // which starts it
		first := l.facts(t, unit)
		l.mustRestart(t, unit, ReloadOrRestart)
		second := l.facts(t, unit)
		if second.ActiveState != "active" || first.CanReload != (unit == can) {
			t.Errorf("%s: %+v", unit, second)
		}
		if same := second.InvocationID == first.InvocationID && second.MainPID == first.MainPID; same != (unit == can) {
			t.Errorf("%s runs on as it did: %t", unit, same)
		}
	}
	broken := l.unit(t, "broken-reload.service", forever+"\nExecReload=/bin/false")
	l.mustRestart(t, broken, ReloadOrRestart)
	e := jobError(t, l.conn.Restart(t.Context(), broken, ReloadOrRestart))
	if e.Result != Failed || e.Facts.ActiveState != "active" {
		t.Errorf("a reload that fails: %+v", e)
	}
}

// The job of Type=simple is done when the program was forked; that of Type=notify, when it
// said that it is ready.
func testExits(t *testing.T, l *lab) {
	simple := l.unit(t, "simple.service", "ExecStart=/bin/sh -c 'exit 3'")
	l.mustRestart(t, simple, Restart)
	f := l.until(t, simple, func(f Facts) bool { return f.ActiveState == "failed" })
	if f.Result != "exit-code" || f.ExecMainStatus != 3 || f.MainPID != 0 {
		t.Errorf("facts: %+v", f)
	}
	if want := "failed, its main process ended with status 3 (exit-code)"; f.Words() != want {
		t.Errorf("words: %q, want %q", f.Words(), want)
	}

	notify := l.unit(t, "notify.service", "Type=notify\nExecStart=/bin/sh -c 'exit 3'")
	e := jobError(t, l.conn.Restart(t.Context(), notify, Restart))
	if e.Result != Failed || e.Facts.ExecMainStatus != 3 {
		t.Errorf("got %+v", e)
	}
	want := `restart of unit "notify.service" ended with "failed": the unit did not start; it is failed, its main process ended with status 3 (exit-code); ` +
		"`journalctl -u notify.service` tells more"
	if e.Error() != want {
		t.Errorf("got:  %s\nwant: %s", e, want)
	}

	killed := l.unit(t, "killed.service", "ExecStart=/bin/sh -c 'kill -SEGV $$$$'")
	l.mustRestart(t, killed, Restart)
	f = l.until(t, killed, func(f Facts) bool { return f.ActiveState == "failed" })
	if want := "its main process was ended by SIGSEGV"; !strings.Contains(f.Words(), want) {
		t.Errorf("words: %q, want %q in it", f.Words(), want)
	}

	looping := l.unit(t, "loops.service", "Restart=on-failure\nRestartSec=10ms\nExecStart=/bin/sh -c 'exit 3'")
	l.mustRestart(t, looping, Restart)
	f = l.until(t, looping, func(f Facts) bool { return f.NRestarts >= 2 })
	if want := "restarted by systemd"; !strings.Contains(f.Words(), want) {
		t.Errorf("words: %q, want %q in it", f.Words(), want)
	}
	l.until(t, looping, func(f Facts) bool { return f.ActiveState == "failed" }) // at the start limit
}

// Each way in which a job can end is told apart.
func testResults(t *testing.T, l *lab) {
	l.unit(t, "never.service", "Type=oneshot\nExecStart=/bin/false")
	for _, c := range []struct {
		unit, text string
		want       Result
		result     string // of the unit
	}{
		{"jobtimeout.service", "[Unit]\nJobRunningTimeoutSec=100ms\n[Service]\nType=notify\n" + forever, TimedOut, ""},
		{"starttimeout.service", "Type=notify\nTimeoutStartSec=100ms\n" + forever, Failed, "timeout"},
		{"dependency.service", "[Unit]\nRequires=never.service\nAfter=never.service\n[Service]\n" + forever, Dependency, ""},
		{"assert.service", "[Unit]\nAssertPathExists=/no/such/file\n[Service]\n" + forever, Assert, ""},
		{"noprogram.service", "Type=exec\nExecStart=/no/such/program", Failed, "exit-code"},
		{"nouser.service", "Type=exec\nUser=no-such-user\n" + forever, Failed, "exit-code"},
	} {
		unit := l.unit(t, c.unit, c.text)
		e := jobError(t, l.conn.Restart(t.Context(), unit, Restart))
		if e.Result != c.want || e.Unit != unit || c.result != "" && e.Facts.Result != c.result {
			t.Errorf("%s: %s; %+v", unit, e, e.Facts)
		}
		if words := e.Result.words(unit); !strings.Contains(e.Error(), words) || words == Result("no such").words(unit) {
			t.Errorf("%s: %s", unit, e)
		}
		l.Run(t, "systemctl", "stop", unit)
	}
}

// starting restarts a unit that does not get ready, and returns when its job runs.
func (l *lab) starting(t *testing.T, ctx context.Context, name string) (unit string, end <-chan error) {
	t.Helper()
	unit = l.unit(t, name, "Type=notify\nTimeoutStopSec=1\n"+forever)
	done := make(chan error, 1)
	go func() { done <- l.conn.Restart(ctx, unit, Restart) }()
	l.until(t, unit, func(f Facts) bool { return f.ActiveState == "activating" && f.Job })
	return unit, done
}

func testCanceled(t *testing.T, l *lab) {
	unit, end := l.starting(t, t.Context(), "canceled.service")
	l.Run(t, "systemctl", "stop", unit)
	if e := jobError(t, <-end); e.Result != Canceled {
		t.Errorf("got %s", e)
	}
}

// Who does not wait any longer leaves the job alone.
func testOutOfTime(t *testing.T, l *lab) {
	late := errors.New("took too long")
	ctx, cancel := context.WithCancelCause(t.Context())
	unit, end := l.starting(t, ctx, "slow.service")
	cancel(late)
	err := <-end
	if !errors.Is(err, late) || !strings.Contains(err.Error(), "goes on with it by itself") {
		t.Errorf("got %v", err)
	}
	if f := l.facts(t, unit); !f.Job || f.ActiveState != "activating" {
		t.Errorf("the job is gone: %+v", f)
	}
	l.Run(t, "systemctl", "stop", unit)
}

func testUnusable(t *testing.T, l *lab) {
	l.unit(t, "masked.service", forever)
	l.Run(t, "rm", "/etc/systemd/system/masked.service")
	l.Run(t, "systemctl", "mask", "masked.service")
	l.unit(t, "bad.service", "Restart=always")
	for unit, want := range map[string]UnitError{
		"missing.service": {LoadState: "not-found", Detail: "Unit missing.service not found."},
		"masked.service":  {LoadState: "masked", Detail: "Unit masked.service is masked."},
		"bad.service":     {LoadState: "bad-setting", Detail: "Unit bad.service has a bad unit file setting."},
	} {
		want.Unit = unit
		for _, err := range []error{l.conn.Check(t.Context(), unit), l.conn.Restart(t.Context(), unit, Restart)} {
			var e *UnitError
			if !errors.As(err, &e) || *e != want {
				t.Errorf("%s: got %#v, %v", unit, e, err)
			}
		}
	}
}

// A unit that is there, and yet cannot run an app, is refused before anything is tried.
func testUnfit(t *testing.T, l *lab) {
	for _, c := range []struct{ name, text, setting, way string }{
		{"fit.service", "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true", "", ""},
		{"oneshot.service", "Type=oneshot\nExecStart=/bin/true", "Type=oneshot", "or add RemainAfterExit=yes"},
		{"nostart.service", "[Unit]\nRefuseManualStart=yes\n[Service]\n" + forever, "RefuseManualStart=yes", "`systemctl edit nostart.service` changes that"},
		{"nostop.service", "[Unit]\nRefuseManualStop=yes\n[Service]\n" + forever, "RefuseManualStop=yes", "`systemctl edit nostop.service` changes that"},
	} {
		err := l.conn.Check(t.Context(), l.unit(t, c.name, c.text))
		var e *UnfitError
		if c.setting == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
		} else if !errors.As(err, &e) || *e != (UnfitError{c.name, c.setting}) || !strings.Contains(err.Error(), c.way) {
			t.Errorf("%s: got %v", c.name, err)
		}
	}
}

// A condition that does not hold is no failed job. The unit does not run, that is all
// that is left of it.
func testConditions(t *testing.T, l *lab) {
	unit := l.unit(t, "condition.service", "[Unit]\nConditionPathExists=!/run/stop-it\n[Service]\n"+forever)
	l.mustRestart(t, unit, Restart)
	l.Write(t, "/run/stop-it", "", 0o644)
	l.mustRestart(t, unit, Restart)
	if f := l.facts(t, unit); f.ActiveState != "inactive" || f.MainPID != 0 || f.Words() != "inactive (dead)" {
		t.Errorf("%s: %+v", f.Words(), f)
	}
}

// What the last release used up of the start limit does not count against the next.
func testStartLimit(t *testing.T, l *lab) {
	const unit = "limit.service"
	l.unit(t, unit, "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=1h\n[Service]\nType=exec\nExecStart=/bin/sh -c 'exec $(cat /etc/limit)'")
	l.Write(t, "/etc/limit", "false", 0o644)
	for range 2 {
		l.Try(t, "systemctl", "restart", unit)
		l.until(t, unit, func(f Facts) bool { return f.ActiveState == "failed" })
	}
	l.Write(t, "/etc/limit", "sleep infinity", 0o644)
	if r := l.Try(t, "systemctl", "restart", unit); r.Code == 0 {
		t.Fatal("the start limit was not hit")
	}
	l.mustRestart(t, unit, Restart)
	if f := l.facts(t, unit); f.ActiveState != "active" || f.Result != "success" || f.NRestarts != 0 {
		t.Errorf("after Restart: %+v", f)
	}
}

func testFacts(t *testing.T, l *lab) {
	unit := l.unit(t, "facts.service", "User=nobody\nGroup=daemon\nSupplementaryGroups=games mail\nRestart=always\nRestartSec=7s\n"+forever)
	l.mustRestart(t, unit, Restart)
	f := l.facts(t, unit)
	if f.Group != "daemon" || !slices.Equal(f.Groups, []string{"games", "mail"}) || f.DynamicUser || f.RestartDelay != 7*time.Second ||
		f.Type != "simple" || f.RemainAfterExit || f.RefuseManualStart || f.RefuseManualStop || f.Transient {
		t.Errorf("facts: %+v", f)
	}
	if f.User != "nobody" || f.LoadState != "loaded" || f.NeedReload || f.Words() != "active (running)" || time.Since(f.ActiveSince) > time.Hour {
		t.Errorf("facts: %+v", f)
	}
	l.Write(t, "/etc/systemd/system/"+unit, "[Service]\n"+forever+"\n# newer\n", 0o644)
	if err := os.Chtimes(l.Path("/etc/systemd/system/"+unit), time.Now(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if f := l.facts(t, unit); !f.NeedReload {
		t.Errorf("the unit file has changed: %+v", f)
	}
	l.unit(t, unit, "Type=notify\nNotifyAccess=all\nDynamicUser=yes\nRestartSec=infinity\nExecStart=/bin/sh -c 'systemd-notify --ready --status=\"serving 5\"; exec sleep infinity'")
	l.mustRestart(t, unit, Restart)
	if f := l.facts(t, unit); f.Type != "notify" || !f.DynamicUser || f.StatusText != "serving 5" || f.RestartDelay < 1000*time.Hour {
		t.Errorf("facts: %+v", f)
	}
	if f := l.facts(t, "multi-user.target"); f.ActiveState != "active" || f.MainPID != 0 {
		t.Errorf("facts of a target: %+v", f)
	}
}

// A connection that breaks is an outcome that is not known.
func testNoBus(t *testing.T, l *lab) {
	_, end := l.starting(t, t.Context(), "unwatched.service")
	hook := l.running(t, t.Context(), shell("exec sleep infinity"))
	l.Run(t, "systemctl", "kill", "--signal=KILL", "dbus.service")
	if err := <-end; !errors.Is(err, ErrUnreachable) {
		t.Errorf("Restart: %v", err)
	}
	if err := <-hook; !errors.Is(err, ErrUnreachable) {
		t.Errorf("RunHook: %v", err)
	}
	if _, err := l.conn.Facts(t.Context(), "plain.service"); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Facts: %v", err)
	}

	// Root reaches systemd without any bus.
	l.Run(t, "systemctl", "stop", "dbus.socket", "dbus.service")
	if pid := strings.TrimSpace(l.Run(t, "systemctl", "show", "--value", "--property=MainPID", hookUnit)); pid == "0" {
		t.Error("the hook that nobody could end does not run")
	}
	h := shell("true")
	if a := l.sandboxed(t, request{Hook: &h}); a.Err != "" || !a.Ended.OK() {
		t.Errorf("RunHook without a bus: %+v", a)
	}
	l.Run(t, "systemctl", "start", "dbus.socket")

	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/no/such/socket")
	if c, err := Connect(t.Context()); !errors.Is(err, ErrUnreachable) {
		t.Errorf("Connect: %v, %v", c, err)
	}
}

// A restart that the shutdown of the machine prevents says so: no release is at fault.
func testShutdown(t *testing.T, l *lab) {
	conn, err := Connect(t.Context()) // it starts the bus again, which testNoBus ended
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	l = &lab{l.Host, conn}
	unit, end := l.starting(t, t.Context(), "going.service")
	// What holds the shutdown up, with the bus, so that there is time to look.
	holds := l.unit(t, "holds.service", "[Unit]\nAfter=dbus.service\n[Service]\nExecStop=/bin/sleep infinity\n"+forever)
	l.mustRestart(t, holds, Restart)
	l.Run(t, "systemctl", "reboot", "--no-block")
	if err := <-end; !errors.Is(err, ErrStopping) {
		t.Errorf("the job that ran: %v", err)
	}
	if err := l.conn.Restart(t.Context(), unit, Restart); !errors.Is(err, ErrStopping) {
		t.Errorf("the next: %v", err)
	}
	if e, err := l.conn.RunHook(t.Context(), shell("true")); !errors.Is(err, ErrStopping) {
		t.Errorf("a hook: %+v, %v", e, err)
	}
	if stopping, err := l.conn.Stopping(t.Context()); err != nil || !stopping {
		t.Errorf("Stopping: %t, %v", stopping, err)
	}
}

// What files say is told as systemd has read them, drop-ins included.
func testDefinition(t *testing.T, l *lab) {
	unit := l.unit(t, "said.service", "WorkingDirectory=/opt\nEnvironment=A=b\nEnvironmentFile=-/etc/said.env\nExecStartPre=/bin/true a\n"+
		"ExecStart=/bin/sleep infinity\nExecReload=/bin/false\nProtectHome=yes\nProtectSystem=strict\nReadWritePaths=-/opt/said /srv\nCapabilityBoundingSet=\n[Install]\nWantedBy=multi-user.target")
	l.Write(t, "/etc/systemd/system/said.service.d/more.conf", "[Service]\nProtectHome=no\n", 0o644)
	l.Run(t, "systemctl", "daemon-reload")
	got, err := l.conn.Definition(t.Context(), unit)
	if err != nil {
		t.Fatal(err)
	}
	want := Definition{
		File: "/etc/systemd/system/said.service", Enabled: "disabled",
		Start: []string{"/bin/sleep", "infinity"}, Others: [][]string{{"/bin/true", "a"}, {"/bin/false"}},
		WorkDir: "/opt", Env: []string{"A=b"}, EnvFiles: []string{"/etc/said.env"},
		ProtectHome: "no", ProtectSystem: "strict", Writable: []string{"/opt/said", "/srv"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if none, err := l.conn.Definition(t.Context(), "none.service"); err != nil || none.File != "" || none.Start != nil {
		t.Errorf("of a unit that is not there: %+v, %v", none, err)
	}
}
