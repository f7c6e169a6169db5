package service

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/systemd"
)

// lab is a host with units that run as they are told.
type lab struct{ *host.Host }

func (l lab) unit(t *testing.T, name, section string) *Unit {
	t.Helper()
	l.Write(t, "/etc/systemd/system/"+name, "[Service]\n"+section+"\n", 0o644)
	l.Run(t, "systemctl", "daemon-reload")
	return &Unit{name, systemd.Restart}
}

// until looks until a run is as it should be.
func (l lab) until(t *testing.T, u *Unit, ok func(Run) bool) Run {
	t.Helper()
	deadline := time.NewTimer(30 * time.Second)
	defer deadline.Stop()
	for {
		run, err := u.Look(t.Context())
		must(t, err)
		if ok(run) {
			return run
		}
		select {
		case <-deadline.C:
			t.Fatalf("still %+v", run)
		default:
		}
		must(t, sleep(t.Context(), 10*time.Millisecond))
	}
}

func (l lab) restart(t *testing.T, u *Unit) {
	t.Helper()
	must(t, u.Restart(t.Context(), Start{}, time.Minute))
}

// mayFail restarts a unit that ends at once, which may be before or after its start is done.
func (l lab) mayFail(t *testing.T, u *Unit) {
	t.Helper()
	var job *systemd.JobError
	if err := u.Restart(t.Context(), Start{}, time.Minute); err != nil && (!errors.As(err, &job) || job.Result != systemd.Failed) {
		t.Fatal(err)
	}
}

// What systemd does with an app that misbehaves, and what that means for a release.
func TestAsRootRuns(t *testing.T) {
	h := host.Boot(t)
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", h.Bus())
	l := lab{h}
	for _, c := range []struct {
		name string
		test func(*testing.T, lab)
	}{
		{"exits at once", exitsAtOnce},
		{"a status that prevents restarts", preventsRestart},
		{"counts from our start", countsRestarts},
		{"main process", mainProcess},
		{"stopped", stopped},
		{"remains after its end", remains},
		{"output", output},
		{"alias", alias},
		{"hindered", hinderedByOthers},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, l) })
	}
}

// However long systemd waits before it starts the app again, the first end is seen at once.
func exitsAtOnce(t *testing.T, l lab) {
	for _, kind := range []string{"simple", "exec"} {
		u := l.unit(t, kind+"-exits.service", "Type="+kind+"\nRestart=always\nRestartSec=1h\nExecStart=/bin/sh -c 'exit 3'")
		l.mayFail(t, u)
		run := l.until(t, u, func(r Run) bool { return !r.Up })
		if err := run.Verdict(Past{}); !errors.Is(err, ErrAgain) || !strings.Contains(err.Error(), "its main process ended with status 3") {
			t.Errorf("%s: %v", kind, err)
		}
		if err := run.Verdict(Past{Bears: true}); err == nil || errors.Is(err, ErrAgain) || errors.Is(err, ErrEnded) {
			t.Errorf("%s, borne: %v", kind, err)
		}
		l.Run(t, "systemctl", "stop", u.Name)
	}
	u := l.unit(t, "notify-exits.service", "Type=notify\nRestart=always\nRestartSec=1h\nExecStart=/bin/sh -c 'exit 3'")
	var job *systemd.JobError
	if err := u.Restart(t.Context(), Start{}, time.Minute); !errors.As(err, &job) || errors.Is(err, ErrHindered) {
		t.Errorf("notify: %v", err)
	}
	l.Run(t, "systemctl", "stop", u.Name)
}

// RemainAfterExit= makes an app that has ended no app that runs; for a unit that only ever runs
// something to its end it does.
func remains(t *testing.T, l lab) {
	const section = "RemainAfterExit=yes\n"
	for _, section := range []string{
		section + "ExecStart=/bin/sh -c 'exit 0'",
		section + "Type=forking\nGuessMainPID=no\nExecStart=/bin/sh -c 'sleep 0.1 & exit 0'",
	} {
		u := l.unit(t, "remains.service", section)
		l.restart(t, u)
		run := l.until(t, u, func(r Run) bool { return !r.Up })
		if err := run.Verdict(Past{Bears: true}); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "active (exited): all that it started has ended") {
			t.Errorf("%s: %v", section, err)
		}
		l.restart(t, u) // it is one that can be started again
		l.Run(t, "systemctl", "stop", u.Name)
	}
	u := l.unit(t, "oneshot.service", section+"Type=oneshot\nExecStart=/bin/true")
	l.restart(t, u)
	run, err := u.Look(t.Context())
	must(t, err)
	if err := run.Verdict(Past{}); err != nil {
		t.Errorf("oneshot: %v", err)
	}
}

// An exit status in RestartPreventExitStatus= is the end, whatever Restart= says.
func preventsRestart(t *testing.T, l lab) {
	const section = "Restart=always\nRestartPreventExitStatus=2\nExecStart=/bin/sh -c 'exit 2'\nType="
	for _, kind := range []string{"simple", "exec"} {
		u := l.unit(t, kind+"-status.service", section+kind)
		l.mayFail(t, u)
		run := l.until(t, u, func(r Run) bool { return !r.Up })
		if err := run.Verdict(Past{Bears: true}); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "ended with status 2") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	u := l.unit(t, "notify-status.service", section+"notify")
	var job *systemd.JobError
	if err := u.Restart(t.Context(), Start{}, time.Minute); !errors.As(err, &job) || job.Result != systemd.Failed {
		t.Errorf("notify: %v", err)
	}
	if run, err := u.Look(t.Context()); err != nil || !run.Ended {
		t.Errorf("notify: %+v, %v", run, err)
	}
}

// What systemd counted for the release before does not count for the next one.
func countsRestarts(t *testing.T, l lab) {
	u := l.unit(t, "loops.service", "Restart=always\nRestartSec=20ms\nStartLimitIntervalSec=0\nExecStart=/bin/sh -c 'test ! -e /run/good || exec sleep infinity; exit 3'")
	l.restart(t, u)
	before := l.until(t, u, func(r Run) bool { return r.Restarts > 2 })
	l.Write(t, "/run/good", "", 0o644)
	l.restart(t, u)
	run := l.until(t, u, func(r Run) bool { return r.Up && !r.Job })
	// The manager may have started it once more before it was asked to.
	past := Past{Before: before.Invocation, Restarts: run.Restarts}
	if run.Restarts > 1 || run.Verdict(past) != nil {
		t.Errorf("before %+v, after %+v", before, run)
	}
	l.Run(t, "rm", "/run/good")
	l.Run(t, "systemctl", "kill", "--signal=KILL", u.Name)
	run = l.until(t, u, func(r Run) bool { return r.Restarts > past.Restarts })
	if err := run.Verdict(past); !errors.Is(err, ErrAgain) {
		t.Errorf("%v: %+v", err, run)
	}
	l.Run(t, "systemctl", "stop", u.Name)
}

// Where systemd has to find the main process, or does not know it, a restart is another run all
// the same.
func mainProcess(t *testing.T, l lab) {
	for name, section := range map[string]string{
		"pidfile": "Type=forking\nPIDFile=/run/forks.pid\nExecStart=/bin/sh -c 'sleep infinity & echo $$! >/run/forks.pid'",
		"guessed": "Type=forking\nExecStart=/bin/sh -c 'sleep infinity &'",
		"unknown": "Type=forking\nGuessMainPID=no\nExecStart=/bin/sh -c 'sleep infinity & sleep infinity &'",
	} {
		u := l.unit(t, name+".service", section)
		l.restart(t, u)
		before, err := u.Look(t.Context())
		must(t, err)
		if err := before.Verdict(Past{Before: before.Invocation}); err == nil || !strings.Contains(err.Error(), "it runs as before the restart") {
			t.Errorf("%s, not restarted: %v", name, err)
		}
		l.restart(t, u)
		after, err := u.Look(t.Context())
		must(t, err)
		if err := after.Verdict(Past{Before: before.Invocation}); err != nil || after.Invocation == before.Invocation {
			t.Errorf("%s: %v: before %+v, after %+v", name, err, before, after)
		}
		l.Run(t, "systemctl", "stop", u.Name)
	}
}

// An app that somebody stops looks like one that ends by itself and with success: it does not run.
func stopped(t *testing.T, l lab) {
	for name, end := range map[string]func(*Unit){
		"by hand":   func(u *Unit) { l.Run(t, "systemctl", "stop", u.Name) },
		"by itself": func(*Unit) { l.Write(t, "/run/end", "", 0o644) },
	} {
		u := l.unit(t, "ends.service", "Restart=on-failure\nExecStart=/bin/sh -c 'trap \"exit 0\" TERM; while test ! -e /run/end; do sleep 0.02; done'")
		l.restart(t, u)
		end(u)
		run := l.until(t, u, func(r Run) bool { return r.Ended })
		if err := run.Verdict(Past{}); !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), "it ended by itself and with success, or somebody stopped it") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// alias is about a unit that is called by another name of it.
func alias(t *testing.T, l lab) {
	l.unit(t, "own.service", "ExecStart=/bin/sh -c 'exit 3'")
	l.Run(t, "ln", "-s", "own.service", "/etc/systemd/system/alias.service")
	l.Run(t, "systemctl", "daemon-reload")
	u := &Unit{"alias.service", systemd.Restart}
	l.mayFail(t, u)
	run := l.until(t, u, func(r Run) bool { return !r.Up })
	if want := `unit "alias.service" is failed, its main process ended with status 3 (exit-code); ` + "`journalctl -u own.service` tells more"; run.Words != want {
		t.Errorf("got %s, want %s", run.Words, want)
	}
	if f, err := u.Facts(t.Context()); err != nil || f.Unit != "own.service" {
		t.Errorf("its lines are asked for by %q (%v)", f.Unit, err)
	}
}

// The journal knows which run printed what.
func output(t *testing.T, l lab) {
	u := l.unit(t, "talks.service", "Type=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'printf \"first\\\\nrun %%s\\\\n\" $$INVOCATION_ID'")
	var runs []string
	for range 2 {
		l.restart(t, u)
		run, err := u.Look(t.Context())
		must(t, err)
		runs = append(runs, run.Invocation)
	}
	// Of this machine, not of the host, is the journal that this process can read.
	for _, run := range runs {
		got := l.Run(t, "journalctl", "--quiet", "--output=cat", "_SYSTEMD_INVOCATION_ID="+run)
		if !strings.Contains(got, "run "+run) {
			t.Errorf("%s printed %q", run, got)
		}
	}
	if out := u.Output(t.Context(), ""); out != nil {
		t.Errorf("of no run: %q", out)
	}
}

// What others do says nothing about a release, and whose affair it is stands in the reason.
func hinderedByOthers(t *testing.T, l lab) {
	u := l.unit(t, "masked.service", "ExecStart=/bin/sleep infinity")
	l.restart(t, u)
	l.Run(t, "rm", "/etc/systemd/system/masked.service")
	l.Run(t, "systemctl", "mask", u.Name)
	if err := u.Restart(t.Context(), Start{}, time.Minute); !errors.Is(err, ErrHindered) || reason.Of(err) != reason.Config {
		t.Errorf("masked: %v", err)
	}
	gone := &Unit{"gone.service", systemd.Restart}
	if err := gone.Restart(t.Context(), Start{}, time.Minute); !errors.Is(err, ErrHindered) || reason.Of(err) != reason.Config {
		t.Errorf("missing: %v", err)
	}
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", fmt.Sprintf("unix:path=%s/bus", t.TempDir()))
	err := u.Restart(t.Context(), Start{}, time.Minute)
	want := map[bool]reason.Code{true: reason.IO, false: reason.Config}[systemd.Booted()]
	if !errors.Is(err, ErrHindered) || reason.Of(err) != want {
		t.Errorf("no bus: %v", err)
	}
}
