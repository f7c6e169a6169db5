package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/host"
	node "makenot.work/sando/puller"
	"makenot.work/sando/systemd"
)

// mnw is the app of these tests, run from a release: it serves the version in the file
// VERSION of its working directory, unless the file HOW says to end instead; and has nothing at /none.
func mnw(ctx context.Context, _ []string, std cli.Std) int {
	version, err := os.ReadFile("VERSION")
	if err != nil {
		fmt.Fprintln(std.Err, err)
		return 1
	}
	if how, _ := os.ReadFile("HOW"); string(how) == "exits\n" {
		fmt.Fprintf(std.Err, "mnw %s exits\n", bytes.TrimSpace(version))
		return 3
	}
	srv := &http.Server{Addr: std.Env("ADDR"), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/none" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprintf(w, "{\"version\": %q}\n", bytes.TrimSpace(version))
	})}
	defer context.AfterFunc(ctx, func() { srv.Close() })()
	fmt.Fprintln(std.Err, srv.ListenAndServe())
	return 0
}

// server is a host with everything installed as on a server: both programs, the shipped
// units, the app's own unit. What a builder would have elsewhere is in /srv.
type server struct {
	*host.Host
	addr string // of the app
}

func newServer(t *testing.T, h *host.Host) *server {
	t.Helper()
	s := &server{h, freeAddr(t)}
	bin := testenv.Programs(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.Copy(t, filepath.Join(bin, "builder"), "/usr/local/bin/builder")
	h.Copy(t, filepath.Join(bin, "puller"), "/usr/local/bin/puller")
	h.Copy(t, self, "/usr/local/bin/mnw")
	err = fs.WalkDir(systemd.Units(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(systemd.Units(), name)
		h.Write(t, "/etc/systemd/system/"+name, string(data), 0o644)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	h.Write(t, "/etc/mnw/mnw.env", "ADDR="+s.addr+"\n", 0o600)
	h.Write(t, "/etc/systemd/system/mnw.service", mnwUnit, 0o644)
	h.Write(t, "/etc/sando/mnw.toml", fmt.Sprintf(mnwConfig, s.addr), 0o600)
	h.Run(t, "systemctl", "daemon-reload")
	h.Run(t, "systemctl", "enable", "mnw.service")
	s.sh(t, "builder init --app mnw; git init -q -b main src; mkdir /etc/sando/mnw; cp keys/trust.json /etc/sando/mnw")
	h.Write(t, "/srv/builder.toml", mnwBuilder, 0o644)
	h.Write(t, "/srv/src/run", "#!/bin/sh\nexec /usr/local/bin/mnw\n", 0o755)
	return s
}

const (
	mnwUnit = `[Service]
ExecStart=/opt/mnw/current/run
WorkingDirectory=/opt/mnw/current
EnvironmentFile=/etc/mnw/mnw.env
User=www-data
Restart=on-failure
RestartSec=50ms
[Install]
WantedBy=multi-user.target
`
	mnwConfig = `app = "mnw"
tier = "host"
node = "alpha"
[channels]
repo = "file:///srv/channels.git"
[storage]
url = "file:///srv/bucket"
[service]
unit = "mnw.service"
[health]
url = "http://%s/"
json = { version = "{version}" }
start_timeout = "20s"
interval = "20ms"
stable_for = "200ms"
`
	mnwBuilder = `app = "mnw"
[source]
repo = "./src"
[build]
version = ["cat", "VERSION"]
[[release_contents]]
src = "."
dst = "."
[storage]
url = "./bucket"
[channels]
repo = "./channels.git"
auto = ["host"]
[signing]
release_key = "keys/release.key"
channel_key = "keys/channel.key"
trust = "keys/trust.json"
`
)

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// sh runs a script in /srv with what a builder needs.
func (s *server) sh(t *testing.T, script string) string {
	t.Helper()
	args := append(environment(), "sh", "-euc", "cd /srv; "+script)
	return s.Run(t, "env", args...)
}

// release releases a version that does as how says, and advances the tier to it.
func (s *server) release(t *testing.T, version, how string) {
	t.Helper()
	s.sh(t, fmt.Sprintf("echo %s >src/VERSION; echo '%s' >src/HOW; git -C src add -A; git -C src commit -qm %[1]s; builder -q release", version, how))
}

// answers waits until the app answers with version.
func (s *server) answers(t *testing.T, version string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for last := ""; ; {
		if last = s.ask(ctx); strings.Contains(last, fmt.Sprintf("%q", version)) {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("the app says %q, want version %s\n%s\n%s", last, version, s.Journal(t, "mnw.service"), s.Journal(t, "puller*"))
		}
	}
}

func (s *server) ask(ctx context.Context) string {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.addr+"/", nil)
	if err != nil {
		return err.Error()
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return string(body)
}

func (s *server) status(t *testing.T) node.Status {
	t.Helper()
	var st node.Status
	if err := json.Unmarshal([]byte(s.Run(t, "puller", "status", "--json")), &st); err != nil {
		t.Fatal(err)
	}
	if st.Unit == nil {
		t.Fatalf("status says nothing of the unit: %+v", st)
	}
	return st
}

// once runs a cycle as the timer does, which must end with an exit code.
func (s *server) once(t *testing.T, exit int) {
	t.Helper()
	r := s.Try(t, "systemctl", "start", "puller-once@mnw.service")
	got := strings.TrimSpace(s.Run(t, "systemctl", "show", "--property=ExecMainStatus", "--value", "puller-once@mnw.service"))
	if (r.Code != 0) != (exit != 0) || got != fmt.Sprint(exit) {
		t.Fatalf("the cycle ended with %s, want %d\n%s\n%s", got, exit, r.Err, s.Journal(t, "puller-once@mnw.service"))
	}
}

// The shipped units update an app that runs under systemd, and their sandbox lets them.
func TestAsRootUnits(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newServer(t, host.Boot(t))
	s.release(t, "1.0.0", "")
	for _, c := range []struct {
		name string
		test func(*testing.T, *server)
	}{
		{"once", onceUpdates},
		{"sandbox", onceSandbox},
		{"rolls back", onceRollsBack},
		{"no bus", onceWithoutBus},
		{"masked", onceMasked},
		{"not root", onceDenied},
		{"reboot during probation", onceReboot},
		{"timer", onceTimer},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(t, s) }) {
			break
		}
	}
}

func onceUpdates(t *testing.T, s *server) {
	s.once(t, 0)
	s.answers(t, "1.0.0")
	first := s.status(t)
	if u := first.Unit; u.Active != "active" || u.PID == 0 || u.User != "www-data" || u.Name != "mnw.service" || len(first.Warnings) > 0 {
		t.Errorf("unit: %+v, warnings: %q", u, first.Warnings)
	}
	s.once(t, 0)
	if again := s.status(t); again.Unit.Invocation != first.Unit.Invocation {
		t.Error("a cycle with nothing to do restarted the unit")
	}
	s.release(t, "2.0.0", "")
	if plan := s.Run(t, "puller", "--dry-run"); !strings.Contains(plan, "  - restart mnw.service\n") {
		t.Errorf("the plan does not say how it is restarted:\n%s", plan)
	}
	s.once(t, 0)
	s.answers(t, "2.0.0")
	second := s.status(t)
	if second.Unit.PID == first.Unit.PID || second.Running.Version != "2.0.0" {
		t.Errorf("unit: %+v", second.Unit)
	}
	if text := s.Run(t, "puller", "status"); !strings.Contains(text, "mnw.service is active (running) since ") {
		t.Error(text)
	}
}

// Nothing outside of /opt/mnw can be written, unless a drop-in says so.
func onceSandbox(t *testing.T, s *server) {
	const dropIn = "/etc/systemd/system/puller-once@mnw.service.d/root.conf"
	config := s.Read(t, "/etc/sando/mnw.toml")
	s.Write(t, "/etc/sando/mnw.toml", "root = \"/srv/mnw\"\n"+strings.Replace(config, "unit = \"mnw.service\"", "", 1), 0o600)
	defer s.Write(t, "/etc/sando/mnw.toml", config, 0o600)
	s.Run(t, "mkdir", "/srv/mnw")
	s.once(t, 1)
	if journal := s.Journal(t, "puller-once@mnw.service"); !strings.Contains(journal, "read-only file system") {
		t.Errorf("the journal does not say why:\n%s", journal)
	}
	s.Write(t, dropIn, "[Service]\nReadWritePaths=/srv/mnw\n", 0o644)
	s.Run(t, "systemctl", "daemon-reload")
	// Where /opt cannot be written at all, nobody needs /opt/mnw.
	s.sh(t, "mv /opt/mnw away; mount --bind /opt /opt; mount -o remount,bind,ro /opt")
	s.once(t, 0) // the app runs 2.0.0 already
	s.sh(t, "umount /opt; mv away /opt/mnw")
	if got := s.Run(t, "readlink", "/srv/mnw/current"); got != "releases/2.0.0\n" {
		t.Errorf("current is %q", got)
	}
	s.Run(t, "rm", "-r", filepath.Dir(dropIn), "/srv/mnw")
	s.Run(t, "systemctl", "daemon-reload")
}

// However long systemd would wait before it starts a release again, the first end is enough.
// What the app printed in that run is kept with the failure.
func onceRollsBack(t *testing.T, s *server) {
	const dropIn = "/etc/systemd/system/mnw.service.d/late.conf"
	s.Write(t, dropIn, "[Service]\nRestartSec=1h\n", 0o644)
	s.Run(t, "systemctl", "daemon-reload")
	s.release(t, "3.0.0", "exits")
	s.once(t, 4)
	s.answers(t, "2.0.0")
	s.Run(t, "rm", "-r", filepath.Dir(dropIn))
	s.Run(t, "systemctl", "daemon-reload")
	st := s.status(t)
	if st.Running.Version != "2.0.0" || len(st.Blocked) != 1 {
		t.Fatalf("status: %+v", st)
	}
	for _, want := range []string{`unit "mnw.service" was activating (auto-restart), `, "its main process ended with status 3"} {
		if !strings.Contains(st.Blocked[0].Cause, want) {
			t.Errorf("cause %q, want %q in it", st.Blocked[0].Cause, want)
		}
	}
	if out := strings.Join(st.Blocked[0].Output, "\n"); !strings.Contains(out, "mnw 3.0.0 exits") || strings.Contains(out, "2.0.0") {
		t.Errorf("the failure is kept with %q", out)
	}
}

// Without the bus the puller speaks with systemd itself.
func onceWithoutBus(t *testing.T, s *server) {
	s.Run(t, "systemctl", "stop", "dbus.socket", "dbus.service")
	defer s.Run(t, "systemctl", "start", "dbus.socket")
	s.release(t, "4.0.0", "")
	s.once(t, 0)
	s.answers(t, "4.0.0")
}

// A unit that cannot be started is found out before anything is swapped.
func onceMasked(t *testing.T, s *server) {
	s.release(t, "5.0.0", "")
	s.Run(t, "mv", "/etc/systemd/system/mnw.service", "/root/")
	s.Run(t, "systemctl", "mask", "mnw.service")
	s.once(t, 2)
	if st := s.status(t); st.Running.Version != "4.0.0" || st.Unit.Load != "masked" || !strings.Contains(st.Last.Message, "systemctl unmask mnw.service") {
		t.Errorf("status: %+v, %+v", st, st.Unit)
	}
	s.answers(t, "4.0.0") // what runs goes on
	s.Run(t, "systemctl", "unmask", "mnw.service")
	s.Run(t, "mv", "/root/mnw.service", "/etc/systemd/system/")
	s.Run(t, "systemctl", "enable", "mnw.service")
	s.once(t, 0)
	s.answers(t, "5.0.0")
}

// Who may not restart the unit finds that out before anything is swapped.
func onceDenied(t *testing.T, s *server) {
	config := "root = \"/srv/own\"\n" + s.Read(t, "/etc/sando/mnw.toml")
	s.Write(t, "/srv/own.toml", config, 0o644)
	s.sh(t, "chmod -R a+rX channels.git bucket /etc/sando; install -d -o www-data own")
	r := s.Try(t, "setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups", "puller", "--config", "/srv/own.toml")
	if r.Code != 2 || !strings.Contains(r.Err, "run as root, or let polkit allow") || !strings.Contains(r.Err, "nothing was changed") {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Out, r.Err)
	}
	if s.Try(t, "test", "-L", "/srv/own/current").Code == 0 {
		t.Error("it was swapped")
	}
}

// A machine that goes down during a probation proves nothing. After that the release
// runs already, and is watched without another restart.
func onceReboot(t *testing.T, s *server) {
	config := s.Read(t, "/etc/sando/mnw.toml")
	s.Write(t, "/etc/sando/mnw.toml", strings.Replace(config, `stable_for = "200ms"`, `stable_for = "1h"`, 1), 0o600)
	s.release(t, "6.0.0", "")
	s.Run(t, "systemctl", "start", "--no-block", "puller-once@mnw.service")
	s.answers(t, "6.0.0")
	s.Reboot(t)
	s.Write(t, "/etc/sando/mnw.toml", config, 0o600)
	s.answers(t, "6.0.0")
	before := s.status(t)
	if before.Intent == nil || before.Intent.To != "6.0.0" || len(before.Blocked) != 1 {
		t.Fatalf("the reboot decided something: %+v\n%s", before, s.Journal(t, "puller-once@mnw.service"))
	}
	s.once(t, 0)
	after := s.status(t)
	if after.Intent != nil || after.LastGood.Version != "6.0.0" || after.Unit.Invocation != before.Unit.Invocation {
		t.Errorf("status: %+v, unit before %+v, after %+v", after, before.Unit, after.Unit)
	}
}

func onceTimer(t *testing.T, s *server) {
	const dropIn = "/etc/systemd/system/puller-once@mnw.timer.d/soon.conf"
	s.Write(t, dropIn, "[Timer]\nOnBootSec=\nOnUnitActiveSec=\nOnBootSec=1s\nOnUnitActiveSec=1s\nRandomizedDelaySec=0\n", 0o644)
	s.Run(t, "systemctl", "daemon-reload")
	s.Run(t, "systemctl", "enable", "--now", "puller-once@mnw.timer")
	s.release(t, "7.0.0", "")
	s.answers(t, "7.0.0")
	s.Reboot(t)
	s.release(t, "8.0.0", "")
	s.answers(t, "8.0.0")
}

// The daemon under its unit: it follows the channel, obeys, reloads, and is ended and
// started again by its watchdog when it hangs.
func TestAsRootDaemon(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newServer(t, host.Boot(t))
	s.configure(t, "[schedule]\npoll = \"@every 1s\"\n")
	s.Write(t, "/etc/systemd/system/puller@mnw.service.d/soon.conf", "[Service]\nRestartSec=100ms\nWatchdogSec=1s\nTimeoutAbortSec=1s\n", 0o644)
	s.release(t, "1.0.0", "")
	s.Run(t, "systemctl", "daemon-reload")
	s.Run(t, "systemctl", "enable", "--now", "puller@mnw.service")
	for _, c := range []struct {
		name string
		test func(*testing.T, *server)
	}{
		{"follows", daemonFollows},
		{"reload", daemonReloads},
		{"hanging start", daemonEndsInStart},
		{"no journal", daemonWithoutJournal},
		{"no network", daemonWithoutNetwork},
		{"watchdog", daemonHangs},
		{"reboot", daemonReboots},
		{"command", daemonCommand}, // the last: the app is no unit any more
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(t, s) }) {
			break
		}
	}
}

// configure sets the node's configuration to the usual one, and more.
func (s *server) configure(t *testing.T, more string) {
	t.Helper()
	s.Write(t, "/etc/sando/mnw.toml", fmt.Sprintf(mnwConfig, s.addr)+more, 0o600)
}

// property returns a property of a unit.
func (s *server) property(t *testing.T, unit, name string) string {
	t.Helper()
	return strings.TrimSpace(s.Run(t, "systemctl", "show", "--property="+name, "--value", unit))
}

// until waits until a condition holds.
func (s *server) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("not in a minute: %s\n%s", what, s.Journal(t, "puller@mnw.service"))
		}
	}
}

func daemonFollows(t *testing.T, s *server) {
	s.answers(t, "1.0.0")
	s.release(t, "2.0.0", "")
	s.answers(t, "2.0.0")
	s.release(t, "3.0.0", "exits")
	s.until(t, "3.0.0 is blocked", func() bool { return len(s.status(t).Blocked) == 1 })
	s.answers(t, "2.0.0")
	s.Run(t, "puller", "--pin", "1.0.0")
	s.answers(t, "1.0.0")
	s.release(t, "4.0.0", "")
	s.Run(t, "puller", "--unpin")
	s.answers(t, "4.0.0")
	s.until(t, "systemctl status says what runs", func() bool { return strings.Contains(s.property(t, "puller@mnw.service", "StatusText"), "4.0.0") })
}

func daemonReloads(t *testing.T, s *server) {
	pid := s.property(t, "puller@mnw.service", "MainPID")
	s.configure(t, "[schedule]\npoll = \"@every 1h\"\n[nonsense]\na = 1\n")
	s.Run(t, "systemctl", "reload", "puller@mnw.service")
	s.until(t, "the status tells of a bad configuration", func() bool { return strings.Contains(s.property(t, "puller@mnw.service", "StatusText"), "nonsense") })
	s.release(t, "5.0.0", "") // by the configuration from before
	s.answers(t, "5.0.0")
	s.configure(t, "[schedule]\npoll = \"@every 2s\"\n")
	s.Run(t, "systemctl", "reload", "puller@mnw.service")
	s.until(t, "the status is good again", func() bool { return !strings.Contains(s.property(t, "puller@mnw.service", "StatusText"), "nonsense") })
	if got := s.property(t, "puller@mnw.service", "MainPID"); got != pid {
		t.Errorf("the daemon is process %s, and was %s", got, pid)
	}
}

// A release that would start for ever: a daemon that is ended meanwhile, by a signal that
// others take for a good end, is there again and goes back.
func daemonEndsInStart(t *testing.T, s *server) {
	const dropIn = "/etc/systemd/system/mnw.service.d/hang.conf"
	s.Write(t, dropIn, "[Service]\nTimeoutStartSec=infinity\nExecStartPre=/bin/sh -c '! grep -q hangs HOW || exec sleep infinity'\n", 0o644)
	s.Run(t, "systemctl", "daemon-reload")
	config := s.Read(t, "/etc/sando/mnw.toml")
	s.Write(t, "/etc/sando/mnw.toml", strings.Replace(config, `start_timeout = "20s"`, `start_timeout = "1s"`, 1), 0o600)
	s.Run(t, "systemctl", "reload", "puller@mnw.service")
	s.release(t, "5.1.0", "hangs")
	s.until(t, "5.1.0 starts", func() bool { return s.property(t, "mnw.service", "SubState") == "start-pre" })
	s.Run(t, "systemctl", "kill", "--signal=TERM", "--kill-who=main", "puller@mnw.service")
	s.answers(t, "5.0.0")
	s.until(t, "5.1.0 is blocked", func() bool { return len(s.status(t).Blocked) == 2 })
	s.Run(t, "rm", "-r", filepath.Dir(dropIn))
	s.Run(t, "systemctl", "daemon-reload")
	s.Write(t, "/etc/sando/mnw.toml", config, 0o600)
	s.Run(t, "systemctl", "reload", "puller@mnw.service")
}

// Without a journal to write to the daemon goes on.
func daemonWithoutJournal(t *testing.T, s *server) {
	s.until(t, "5.0.0 is well", func() bool { return s.status(t).Intent == nil })
	pid := s.property(t, "puller@mnw.service", "MainPID")
	units := []string{"systemd-journald.socket", "systemd-journald-dev-log.socket", "systemd-journald.service"}
	s.Run(t, "systemctl", append([]string{"stop"}, units...)...)
	s.release(t, "5.2.0", "")
	s.answers(t, "5.2.0")
	s.until(t, "5.2.0 has proved itself", func() bool { return s.status(t).Running.Version == "5.2.0" })
	if now := s.property(t, "puller@mnw.service", "MainPID"); now != pid {
		t.Errorf("the daemon is process %s, and was %s", now, pid)
	}
	s.Run(t, "systemctl", append([]string{"start"}, units...)...)
}

// Without anything to poll it starts all the same, says so where people look for warnings,
// and goes on when there is something.
func daemonWithoutNetwork(t *testing.T, s *server) {
	status := func() string { return s.property(t, "puller@mnw.service", "StatusText") }
	s.sh(t, "mv channels.git away")
	s.Run(t, "systemctl", "restart", "puller@mnw.service")
	s.until(t, "the status tells of no channel repo", func() bool { return strings.HasPrefix(status(), "io: ") })
	warnings := s.Run(t, "journalctl", "--quiet", "--output=cat", "--priority=warning", "--unit=puller@mnw.service")
	if !strings.Contains(warnings, "/srv/channels.git") || strings.Contains(warnings, "<4>") {
		t.Errorf("the warnings in the journal are %q", warnings)
	}
	s.sh(t, "mv away channels.git")
	s.until(t, "the daemon goes on", func() bool { return strings.HasPrefix(status(), "current: ") })
	if code := s.property(t, "puller@mnw.service", "ExecMainStatus"); code != "0" {
		t.Errorf("it ended with %s when it was told to stop", code)
	}
}

// A daemon that is stopped feeds no watchdog.
func daemonHangs(t *testing.T, s *server) {
	pid := s.property(t, "puller@mnw.service", "MainPID")
	s.Run(t, "kill", "-STOP", pid)
	s.until(t, "another daemon", func() bool {
		now := s.property(t, "puller@mnw.service", "MainPID")
		return now != pid && now != "0" && s.property(t, "puller@mnw.service", "ActiveState") == "active"
	})
	if journal := s.Journal(t, "puller@mnw.service"); !strings.Contains(journal, "Watchdog timeout") {
		t.Errorf("the journal tells of no watchdog:\n%s", journal)
	}
	s.release(t, "6.0.0", "")
	s.answers(t, "6.0.0")
}

func daemonReboots(t *testing.T, s *server) {
	s.until(t, "6.0.0 has proved itself", func() bool { return s.status(t).Intent == nil })
	s.Reboot(t)
	s.answers(t, "6.0.0")
	s.release(t, "7.0.0", "")
	s.answers(t, "7.0.0")
	s.until(t, "7.0.0 has proved itself", func() bool { return s.status(t).Intent == nil })
	if st := s.status(t); len(st.Blocked) != 2 || st.Running.Version != "7.0.0" {
		t.Errorf("the reboot decided something: %+v", st)
	}
}

// What a service.command has started outlives the puller.
func daemonCommand(t *testing.T, s *server) {
	s.Run(t, "systemctl", "disable", "--now", "mnw.service")
	s.Write(t, "/usr/local/bin/restart-mnw", "#!/bin/sh\npkill -x mnw\ncd /opt/mnw/current && ADDR="+s.addr+" exec setsid ./run &\n", 0o755)
	config := strings.Replace(fmt.Sprintf(mnwConfig, s.addr), `unit = "mnw.service"`, `command = ["/usr/local/bin/restart-mnw"]`, 1)
	s.Write(t, "/etc/sando/mnw.toml", config+"[schedule]\npoll = \"@every 1s\"\n", 0o600)
	s.Run(t, "systemctl", "reload", "puller@mnw.service")
	s.release(t, "8.0.0", "")
	s.answers(t, "8.0.0")
	s.Run(t, "systemctl", "stop", "puller@mnw.service")
	if got := s.ask(t.Context()); !strings.Contains(got, "8.0.0") {
		t.Errorf("the app went with the puller: %s", got)
	}
}
