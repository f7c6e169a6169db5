package e2e

import (
	"context"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv/host"
)

// The daemon under its shipped unit, with a real systemd around it.
func TestAsRootDaemon(t *testing.T) {
	s := newServer(t, host.Boot(t))
	s.release(t, "1.0.0", "")
	s.configure(t, "")
	s.Write(t, "/etc/systemd/system/puller@mnw.service.d/test.conf", "[Service]\nWatchdogSec=3s\nRestartSec=100ms\n", 0o644)
	s.Run(t, "systemctl", "daemon-reload")
	for _, c := range []struct {
		name string
		test func(*testing.T, *server)
	}{
		{"follows", daemonFollows},
		{"pin", daemonPin},
		{"reload", daemonReload},
		{"no network", daemonWithoutNetwork},
		{"watchdog", daemonWatchdog},
		{"reboot", daemonReboot},
		{"stop", daemonStop},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(t, s) }) {
			t.Log(s.Journal(t, "puller@mnw.service"))
			break
		}
	}
}

const daemonUnit = "puller@mnw.service"

// configure writes the node's configuration with more of it.
func (s *server) configure(t *testing.T, more string) {
	t.Helper()
	config := strings.Replace(mnwConfig, "%s", s.addr, 1)
	s.Write(t, "/etc/sando/mnw.toml", config+"[schedule]\npoll = \"@every 1s\"\n"+more, 0o600)
}

// shows waits until a property of the daemon's unit holds the text.
func (s *server) shows(t *testing.T, property, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; {
		if last = s.property(t, property); strings.Contains(last, text) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s is %q, want %q", property, last, text)
		}
	}
}

func (s *server) property(t *testing.T, name string) string {
	t.Helper()
	return strings.TrimSpace(s.Run(t, "systemctl", "show", "--value", "--property="+name, daemonUnit))
}

func daemonFollows(t *testing.T, s *server) {
	s.Run(t, "systemctl", "start", daemonUnit)
	s.answers(t, "1.0.0")
	s.shows(t, "StatusText", "current: runs 1.0.0")
	s.release(t, "2.0.0", "")
	s.answers(t, "2.0.0")
	s.shows(t, "StatusText", "current: runs 2.0.0")
	if d := s.status(t).Daemon; d == nil || d.PID == 0 || d.Problem != "" {
		t.Errorf("status says of the daemon %+v", d)
	}
	if said := s.Run(t, "journalctl", "--quiet", "--output=cat", "--priority=warning", "--unit="+daemonUnit); said != "" {
		t.Errorf("it warns: %s", said)
	}
}

func daemonPin(t *testing.T, s *server) {
	s.Run(t, "puller", "--pin", "1.0.0")
	s.answers(t, "1.0.0")
	s.shows(t, "StatusText", "pinned: runs 1.0.0")
	s.Run(t, "puller", "--unpin")
	s.answers(t, "2.0.0")
}

func daemonReload(t *testing.T, s *server) {
	pid := s.property(t, "MainPID")
	s.configure(t, "jitter = \"60%\"\n")
	s.Run(t, "systemctl", "reload", daemonUnit)
	s.shows(t, "StatusText", "not reloaded, ")
	if said := s.Run(t, "journalctl", "--quiet", "--output=cat", "--priority=err", "--unit="+daemonUnit); !strings.Contains(said, "schedule.jitter") {
		t.Errorf("the errors in the journal are %q", said)
	}
	s.configure(t, "jitter = \"20%\"\n")
	if d := s.status(t).Daemon; d == nil || !strings.Contains(d.Problem, "schedule.jitter") {
		t.Errorf("status says of the daemon %+v", d)
	}
	s.Run(t, "systemctl", "reload", daemonUnit)
	s.shows(t, "StatusText", "current: runs 2.0.0")
	if d := s.status(t).Daemon; d == nil || d.Problem != "" || s.property(t, "MainPID") != pid {
		t.Errorf("status says of the daemon %+v; it was process %s", d, pid)
	}
}

// Without anything to poll it starts all the same, and goes on when there is.
func daemonWithoutNetwork(t *testing.T, s *server) {
	s.sh(t, "mv channels.git away")
	s.Run(t, "systemctl", "restart", daemonUnit)
	s.shows(t, "StatusText", "io: ")
	s.sh(t, "mv away channels.git")
	s.shows(t, "StatusText", "current: runs 2.0.0")
}

// A daemon that does nothing any more is killed and started again.
func daemonWatchdog(t *testing.T, s *server) {
	pid := s.property(t, "MainPID")
	s.Run(t, "kill", "-STOP", pid)
	s.shows(t, "NRestarts", "1")
	s.shows(t, "StatusText", "current: runs 2.0.0")
	if now := s.property(t, "MainPID"); now == pid || now == "0" {
		t.Errorf("it is process %s, and was %s", now, pid)
	}
}

func daemonReboot(t *testing.T, s *server) {
	s.Run(t, "systemctl", "enable", daemonUnit)
	s.Reboot(t)
	s.answers(t, "2.0.0")
	s.shows(t, "StatusText", "current: runs 2.0.0")
	s.release(t, "3.0.0", "")
	s.answers(t, "3.0.0")
}

func daemonStop(t *testing.T, s *server) {
	s.Run(t, "systemctl", "stop", daemonUnit)
	if r, status := s.property(t, "Result"), s.property(t, "ExecMainStatus"); r != "success" || status != "0" {
		t.Errorf("it ended with %s, exit status %s", r, status)
	}
	if d := s.status(t).Daemon; d != nil {
		t.Errorf("status says of the daemon %+v", d)
	}
	s.answers(t, "3.0.0") // the app does not stop with it
}
