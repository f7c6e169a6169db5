package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/host"
)

// A former install in /opt/makenotwork: flat, with its env file and its state inside, and what
// else on a machine names such a directory.
type former struct {
	*server
	flags []string
}

const (
	oldUnit = `[Unit]
Description=makenot.work, as it was
[Service]
ExecStart=/opt/makenotwork/run
WorkingDirectory=/opt/makenotwork
EnvironmentFile=/opt/makenotwork/.env
User=makenotwork
Restart=on-failure
[Install]
WantedBy=multi-user.target
`
	oldEnv = `# of the app
ADDR=%s
DATABASE_URL=postgres://mnw:s3cret@db/mnw
DOCS='/opt/makenotwork/docs/assumptions.toml'
DATA=/opt/makenotwork/data # where the state is
DATA_DIR=/opt/makenotwork/data
CACHE=/opt/makenotwork/cache
`
	newEnv = `# of the app
ADDR=%s
DATABASE_URL=postgres://mnw:s3cret@db/mnw
DOCS='/opt/mnw/current/docs/assumptions.toml'
DATA=/opt/makenotwork/data # where the state is
DATA_DIR=/var/lib/mnw
CACHE=/opt/makenotwork/cache
`
	// How the app starts: slower than a step, so that there is an outage, and it has state.
	oldRun = "#!/bin/sh\necho started >>/opt/makenotwork/data/log\nexec /usr/local/bin/mnw\n"
	newRun = "#!/bin/sh\necho \"started $(cat VERSION)\" >>\"$DATA_DIR/log\"\nexec /usr/local/bin/mnw\n"
)

// installed puts programs and a builder on a host, and nothing of a node.
func installed(t *testing.T) *server {
	t.Helper()
	s := &server{host.Boot(t), freeAddr(t)}
	bin := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-o", bin, "makenot.work/sando/cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s.Copy(t, filepath.Join(bin, "builder"), "/usr/local/bin/builder")
	s.Copy(t, filepath.Join(bin, "puller"), "/srv/puller")
	s.Copy(t, self, "/usr/local/bin/mnw")
	s.sh(t, "builder init --app mnw; git init -q -b main src")
	s.Write(t, "/srv/builder.toml", mnwBuilder, 0o644)
	s.Write(t, "/srv/src/docs/assumptions.toml", "a = 1\n", 0o644)
	return s
}

// bootstrap is the command line of every node here.
func (s *server) bootstrapLine(t *testing.T, flags ...string) []string {
	t.Helper()
	fingerprint := strings.Fields(s.Run(t, "sha256sum", "/srv/keys/trust.json"))[0]
	return append([]string{
		"SANDO__HEALTH__STABLE_FOR=100ms", "SANDO__HEALTH__INTERVAL=10ms", "SANDO__HEALTH__START_TIMEOUT=5s", "/srv/puller", "bootstrap",
		"--app", "mnw", "--tier", "host", "--storage", "file:///srv/bucket", "--channels", "file:///srv/channels.git",
		"--trust-fingerprint", "sha256:" + fingerprint, "--health", "http://" + s.addr + "/", "--adopt",
	}, flags...)
}

func newFormer(t *testing.T) *former {
	t.Helper()
	f := &former{server: installed(t)}
	f.Write(t, "/srv/src/run", newRun, 0o755)
	f.Run(t, "useradd", "--system", "--user-group", "--home-dir", "/opt/makenotwork", "--shell", "/bin/sh", "makenotwork")
	for name, text := range map[string]string{
		"run": oldRun, "VERSION": "0.9.0\n", ".env": fmt.Sprintf(oldEnv, f.addr), "docs/assumptions.toml": "a = 0\n",
		"data/log": "", "data/app.db": "the database\n", "cache/x": "", "yara-rules/r.yar": "rule\n",
	} {
		f.Write(t, "/opt/makenotwork/"+name, text, 0o644)
	}
	f.Write(t, "/etc/systemd/system/makenotwork.service", oldUnit, 0o644)
	f.Write(t, "/etc/systemd/system/worker.service", "[Unit]\nBindsTo=makenotwork.service\nAfter=makenotwork.service\n[Service]\nExecStart=sleep infinity\n", 0o644)
	f.Write(t, "/etc/systemd/system/front.service", "[Unit]\nWants=makenotwork.service\n[Service]\nExecStart=sleep infinity\n", 0o644)
	f.Write(t, "/etc/systemd/system/makenotwork.service.d/limits.conf", "[Service]\nNice=1\n", 0o644)
	f.Write(t, "/etc/sudoers.d/makenotwork", "deploy ALL=(root) NOPASSWD: /opt/makenotwork/restart\n", 0o440)
	f.Write(t, "/etc/caddy/Caddyfile", "makenot.work {\n\troot * /opt/makenotwork/static\n}\n", 0o644)
	f.Write(t, "/etc/cron.d/makenotwork", "0 3 * * * root /usr/local/bin/backup-mnw\n", 0o644)
	f.Write(t, "/usr/local/bin/backup-mnw", "#!/bin/sh\ntar -czf /srv/backup.tgz /opt/makenotwork/data\n", 0o755)
	f.Run(t, "ln", "-s", "/opt/makenotwork/yara-rules", "/etc/yara-rules")
	f.Write(t, "/root/.ssh/authorized_keys", "command=\"/opt/makenotwork/deploy\" ssh-ed25519 AAAA\n", 0o600)
	f.Run(t, "sh", "-euc", "chmod 755 /opt/makenotwork/run; chmod 600 /opt/makenotwork/.env; chown -R makenotwork: /opt/makenotwork; systemctl daemon-reload; systemctl enable -q --now makenotwork.service; systemctl start worker.service")
	f.answers(t, "0.9.0")
	f.flags = []string{
		"--old-root", "/opt/makenotwork", "--old-unit", "makenotwork.service", "--state", "data=/var/lib/mnw",
		"--exec", "/opt/mnw/current/run", "--yes",
	}
	return f
}

func (f *former) try(t *testing.T, flags ...string) host.Result {
	t.Helper()
	return f.Try(t, "env", f.bootstrapLine(t, append(f.flags, flags...)...)...)
}

func (f *former) must(t *testing.T, code int, flags ...string) string {
	t.Helper()
	r := f.try(t, flags...)
	if r.Code != code {
		t.Fatalf("adopt %q: exit code %d, want %d\n%s%s\n%s", flags, r.Code, code, r.Out, r.Err, f.Journal(t, "mnw.service"))
	}
	return r.Out + r.Err
}

// units says of both units whether they run, and start with the machine.
func (f *former) units(t *testing.T, want string) {
	t.Helper()
	var all []string
	for _, unit := range []string{"makenotwork.service", "mnw.service"} {
		all = append(all, f.property(t, unit, "ActiveState"), f.property(t, unit, "UnitFileState"))
	}
	if got := strings.Join(all, " "); got != want {
		t.Fatalf("the old and the new unit are %s, want %s\n%s", got, want, f.Journal(t, "mnw.service"))
	}
}

// all is everything that there is, but for what the system writes all the time: who owns it, when
// anything of it changed last, and what configuration and releases hold.
func (s *server) all(t *testing.T) string {
	t.Helper()
	return s.Run(t, "sh", "-euc", `
cd /
find etc opt home root/.ssh srv usr/local/bin usr/local/sbin var/backups var/spool var/lib -maxdepth 8 -path var/lib/systemd -prune -o -printf '%p %y %m %u %g %s %T@ %C@ %l\n' | sort
find etc opt srv usr/local/bin -type f -print0 | sort -z | xargs -0 sha256sum`)
}

func TestAsRootAdopt(t *testing.T) {
	t.Parallel() // most of it is waiting
	f := newFormer(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *former)
	}{
		{"refusals", formerRefused},
		{"rehearsal", formerRehearsal},
		{"unhealthy", formerUnhealthy},
		{"signal", formerSignal},
		{"killed", formerKilled},
		{"done", formerDone},
		{"way back", formerBack},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(t, f) }) {
			break
		}
	}
}

// What is refused is refused before anything changes.
func formerRefused(t *testing.T, f *former) {
	f.release(t, "1.0.0", "exits")
	before := f.all(t)
	invocation := f.property(t, "makenotwork.service", "InvocationID")
	for _, c := range []struct {
		flags []string
		code  int
		want  string
	}{
		{[]string{"--old-root", "/opt/nothing"}, 2, "--old-root: /opt/nothing is not a directory"},
		{[]string{"--old-unit", "nothing.service"}, 2, `--old-unit: unit "nothing.service" does not exist`},
		{[]string{"--old-unit", "mnw.service"}, 2, "--old-unit and --unit are both mnw.service"},
		{[]string{"--state", "cache=/opt/mnw/cache"}, 2, "state belongs to neither"},
		{[]string{"--state", "data/sub=/srv/x"}, 2, "lie within one another"},
		{[]string{"--old-env", "/opt/makenotwork/none", "--dry-run"}, 1, "/opt/makenotwork/none"},
	} {
		if out := f.must(t, c.code, c.flags...); !strings.Contains(out, c.want) {
			t.Errorf("%q: %q is not in\n%s", c.flags, c.want, out)
		}
	}
	if now := f.property(t, "makenotwork.service", "InvocationID"); now != invocation || f.all(t) != before {
		t.Error("a refusal changed something")
	}
}

// A rehearsal fetches, looks at everything, says what it would do, and changes nothing.
func formerRehearsal(t *testing.T, f *former) {
	before := f.all(t)
	out := f.must(t, 0, "--dry-run")
	for _, want := range []string{
		"back up to /var/backups/sando:", "/etc/sudoers.d/makenotwork", "/etc/caddy/Caddyfile", "/usr/local/bin/backup-mnw", "/etc/systemd/system/makenotwork.service.d/limits.conf", "/root/.ssh/authorized_keys", "/etc/passwd", "/etc/yara-rules",
		"fetch, verify and unpack 1.0.0 to /opt/mnw/releases/1.0.0", "make user mnw",
		"-DOCS=/opt/makenotwork/docs/assumptions.toml", "+DOCS=/opt/mnw/current/docs/assumptions.toml", "+DATA_DIR=/var/lib/mnw", " DATABASE_URL=(unchanged)",
		"CACHE: /opt/makenotwork/cache is state: stays in the old root; --state cache=DIR would move it",
		"stop makenotwork.service; copy /opt/makenotwork/data to /var/lib/mnw", "start mnw.service with 1.0.0", "enable puller@mnw.service", "nothing was changed",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if strings.Contains(out, "s3cret") {
		t.Errorf("it shows a secret:\n%s", out)
	}
	if after := f.all(t); after != before {
		t.Error("the rehearsal changed something:\n" + difference(before, after))
	}
	if left := f.Run(t, "sh", "-c", "ls -A /var/tmp"); strings.Contains(left, "sando") {
		t.Errorf("it left %q", left)
	}
	f.units(t, "active enabled inactive ")
}

// difference lists the lines that only one of two texts has.
func difference(a, b string) string {
	var out strings.Builder
	for n, texts := range [][2]string{{a, b}, {b, a}} {
		for line := range strings.Lines(texts[0]) {
			if !strings.Contains(texts[1], line) {
				out.WriteString("-+"[n:n+1] + line)
			}
		}
	}
	return out.String()
}

// A release that is not healthy: the old app runs again, by itself.
func formerUnhealthy(t *testing.T, f *former) {
	out := f.must(t, 4)
	if !strings.Contains(out, "mnw.service did not take over: makenotwork.service runs again") || !strings.Contains(out, "it did not take over because: 1.0.0 is not healthy: ") || strings.Contains(out, "s3cret") {
		t.Errorf("it says\n%s", out)
	}
	f.answers(t, "0.9.0")
	f.units(t, "active enabled inactive disabled")
	if f.property(t, "puller@mnw.service", "ActiveState") != "inactive" || f.property(t, "puller@mnw.service", "UnitFileState") == "enabled" {
		t.Error("the puller is at work")
	}
	if f.property(t, "worker.service", "ActiveState") != "active" {
		t.Error("what stopped with the old app does not run again")
	}
	if log := f.Read(t, "/opt/makenotwork/data/log"); strings.Count(log, "started") != 2 {
		t.Errorf("the old app's log is %q", log)
	}
}

// The terminal goes away while the new app proves itself, and with it who reads: the old one runs again at once.
func formerSignal(t *testing.T, f *former) {
	f.release(t, "1.1.0", "")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	line := f.bootstrapLine(t, f.flags...)
	cmd := f.Command(ctx, "env", append([]string{"SANDO__HEALTH__STABLE_FOR=1h"}, line[1:]...)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = unread(t), &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	f.answers(t, "1.1.0")
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	err := cmd.Wait() // until nobody holds its output
	if err == nil || !strings.Contains(out.String(), "puller: io: switch: mnw.service did not take over: makenotwork.service runs again") {
		t.Errorf("it ended with %v\n%s", err, out.String())
	}
	f.answers(t, "0.9.0")
	f.units(t, "active enabled inactive disabled")
}

// unread returns a pipe that nobody reads any more.
func unread(t *testing.T) *os.File {
	t.Helper()
	r, w, err := os.Pipe()
	if err == nil {
		err = r.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// Killed at several points, it is run again to the end.
func formerKilled(t *testing.T, f *former) {
	for _, c := range []struct {
		name string
		at   string // a shell condition
		slow bool
	}{
		{"fetched", "test -d /opt/mnw/releases/1.1.0", false},
		{"env", "grep -q current /etc/mnw/mnw.env", false},
		{"old stops", "! systemctl is-active -q makenotwork.service", false},
		{"state copied", "test -s /var/lib/mnw/app.db && ! systemctl is-active -q makenotwork.service", false},
		{"probation", "systemctl is-active -q mnw.service", true},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		line := f.bootstrapLine(t, f.flags...)
		if c.slow {
			line = append([]string{"SANDO__HEALTH__STABLE_FOR=1h"}, line[1:]...)
		}
		cmd := f.Command(ctx, "env", line...)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		ended := make(chan error, 1)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- cmd.Wait() }()
		f.until(t, c.name, func() bool {
			if len(ended) > 0 {
				t.Fatalf("%s: it ended before that\n%s", c.name, out.String())
			}
			return f.Try(t, "sh", "-c", c.at).Code == 0
		})
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		<-ended
		cancel()
		if c.name == "state copied" { // a machine that reboots here runs the old one
			f.Reboot(t)
			f.answers(t, "0.9.0")
		}
	}
}

var outage = regexp.MustCompile(`mnw\.service runs 1\.1\.0; nobody answered for ([0-9]+) ms \(from .* to the first good answer of the new one; http://[^ ]* was asked every 20ms\)`)

func formerDone(t *testing.T, f *former) {
	out := f.must(t, 0)
	f.answers(t, "1.1.0")
	f.units(t, "inactive disabled active enabled")
	if !outage.MatchString(out) {
		t.Errorf("the outage is not in\n%s", out)
	}
	if got, want := f.Read(t, "/etc/mnw/mnw.env"), fmt.Sprintf(newEnv, f.addr); got != want {
		t.Errorf("the env file is\n%s", got)
	}
	if mode := f.Run(t, "stat", "-c", "%U:%G %a", "/etc/mnw/mnw.env", "/var/lib/mnw", "/var/lib/mnw/app.db"); mode != "root:mnw 640\nmnw:mnw 750\nmnw:mnw 644\n" {
		t.Errorf("owners and modes are\n%s", mode)
	}
	if log := f.Read(t, "/var/lib/mnw/log"); !strings.HasPrefix(log, "started\n") || !strings.HasSuffix(log, "started 1.1.0\n") {
		t.Errorf("the state has %q", log)
	}
	if f.Read(t, "/opt/makenotwork/data/app.db") != "the database\n" {
		t.Error("the old state is not as it was")
	}
	f.until(t, "the puller is at work", func() bool { return f.property(t, "puller@mnw.service", "ActiveState") == "active" })
	before := f.property(t, "mnw.service", "InvocationID")
	if out := f.must(t, 0); !strings.Contains(out, "nothing to do") {
		t.Errorf("again: it says\n%s", out)
	}
	if f.property(t, "mnw.service", "InvocationID") != before {
		t.Error("again: it restarted the app")
	}
	// Weeks later, while the app is stopped: what it works with stays, whatever touched the old state.
	copies := f.Run(t, "sh", "-c", "ls -d /var/lib/mnw*")
	f.Run(t, "sh", "-euc", "systemctl stop puller@mnw.service mnw.service; echo rotated >>/opt/makenotwork/data/log")
	f.try(t)
	if log := f.Read(t, "/var/lib/mnw/log"); !strings.HasSuffix(log, "started 1.1.0\n") {
		t.Errorf("stopped: the state is %q", log)
	}
	if aside := f.Run(t, "sh", "-c", "ls -d /var/lib/mnw*"); aside != copies {
		t.Errorf("stopped: there are %q", aside)
	}
	f.Run(t, "systemctl", "start", "mnw.service", "puller@mnw.service")
}

// The script goes back, keeps what it replaces, and the adoption can be done again.
func formerBack(t *testing.T, f *former) {
	script := strings.TrimSpace(f.Run(t, "sh", "-c", "ls -d /var/backups/sando/mnw-*/list.json | tail -n 1 | sed s/list.json/back.sh/"))
	f.Write(t, "/etc/systemd/system/makenotwork.service", strings.Replace(oldUnit, "as it was", "changed", 1), 0o644)
	f.Write(t, "/etc/caddy/Caddyfile", "changed\n", 0o644)
	out := f.Run(t, "sh", script)
	f.answers(t, "0.9.0")
	f.units(t, "active enabled inactive disabled")
	for _, want := range []string{
		"restored /etc/systemd/system/makenotwork.service", "is not as it was, and stays: /etc/caddy/Caddyfile", "makenotwork.service runs again",
		"what was written to /var/lib/mnw since the switch is NOT in /opt/makenotwork/data",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	if got := f.Read(t, "/etc/systemd/system/makenotwork.service"); got != oldUnit {
		t.Errorf("the old unit is\n%s", got)
	}
	if got := f.Run(t, "sh", "-c", "cat "+filepath.Dir(script)+"/replaced-*/etc/systemd/system/makenotwork.service"); !strings.Contains(got, "changed") {
		t.Errorf("what was replaced is\n%s", got)
	}
	said := f.Run(t, "sh", "-c", "puller doctor; echo exit $?")
	if !strings.HasPrefix(said, "failed   deployer: makenotwork.service runs the app in /opt/makenotwork") || !strings.Contains(said, "\nexit 3\n") || strings.Contains(said, "systemctl") {
		t.Errorf("doctor says\n%s", said)
	}
	f.Run(t, "sh", script, "--all")
	if got := f.Read(t, "/etc/caddy/Caddyfile"); !strings.Contains(got, "makenot.work") {
		t.Errorf("the Caddyfile is %q", got)
	}
	f.Run(t, "systemctl", "start", "front.service")
	out = f.must(t, 0)
	f.answers(t, "1.1.0")
	f.units(t, "inactive disabled active enabled")
	if !strings.Contains(out, "front.service wants makenotwork.service still") || strings.Contains(out, "multi-user.target wants") {
		t.Errorf("what starts the old app is not in\n%s", out)
	}
	t.Logf("%s", outage.FindString(out))
	if !strings.Contains(out, "/var/lib/mnw was a copy of /opt/makenotwork/data, in which something has changed since") {
		t.Errorf("it says\n%s", out)
	}
	if log := f.Read(t, "/var/lib/mnw/log"); strings.Count(log, "1.1.0") != 1 {
		t.Errorf("the state has %q", log)
	}
}

// Another deployer's layout: three releases, its user's and writable by its group, and current.
const placeRun = "#!/bin/sh\ncat secret >/dev/null || exit 9\nexec /usr/local/bin/mnw\n"

const placeUnit = `[Service]
ExecStart=/opt/mnw/current/run
WorkingDirectory=/opt/mnw/current
EnvironmentFile=/etc/mnw/mnw.env
User=mnwapp
Restart=on-failure
[Install]
WantedBy=multi-user.target
`

func newPlace(t *testing.T) *former {
	t.Helper()
	f := &former{server: installed(t)}
	f.Write(t, "/srv/src/run", "#!/bin/sh\nexec /usr/local/bin/mnw\n", 0o755)
	f.Run(t, "sh", "-euc", "useradd --system --user-group mnwapp; useradd --system --user-group deploy")
	for _, v := range []string{"0.7.0", "0.8.0", "1.0.0"} {
		for name, text := range map[string]string{"run": placeRun, "VERSION": v + "\n", "secret": "s3cret\n", "docs/a": "by hand\n"} {
			f.Write(t, "/opt/mnw/releases/"+v+"/"+name, text, 0o664)
		}
	}
	f.Write(t, "/etc/mnw/mnw.env", "ADDR="+f.addr+"\n", 0o600)
	f.Write(t, "/etc/systemd/system/mnw.service", placeUnit, 0o644)
	f.Run(t, "sh", "-euc", `cd /opt/mnw; chown -R deploy:deploy .; chmod 775 . releases releases/* releases/*/docs releases/*/run; chmod g+s releases
chown mnwapp:mnwapp releases/*/secret; chmod 600 releases/*/secret
ln -s /opt/mnw/releases/1.0.0 current; chown -h deploy: current
systemctl daemon-reload; systemctl enable -q --now mnw.service`)
	f.answers(t, "1.0.0")
	return f
}

func TestAsRootAdoptInPlace(t *testing.T) {
	t.Parallel() // most of it is waiting
	f := newPlace(t)
	invocation := f.property(t, "mnw.service", "InvocationID")
	before := f.all(t)
	f.must(t, 0, "--dry-run")
	if after := f.all(t); after != before {
		t.Error("the rehearsal changed something:\n" + difference(before, after))
	}
	f.Run(t, "systemd-run", "-q", "--unit=writer", "sh", "-c", "exec sleep infinity >>/opt/mnw/releases/0.8.0/docs/a")
	f.until(t, "it is open", func() bool {
		return f.Try(t, "sh", "-c", "ls -l /proc/$(systemctl show -p MainPID --value writer)/fd | grep -q docs/a").Code == 0
	})
	if out := f.must(t, 2); !strings.Contains(out, "/opt/mnw/releases/0.8.0/docs/a is open for writing") {
		t.Errorf("it says\n%s", out)
	}
	f.Run(t, "systemctl", "stop", "writer")

	// Converted, and what runs goes on.
	if out := f.must(t, 0); !strings.Contains(out, "owners and modes as they were: /var/backups/sando/mnw-owners-") {
		t.Errorf("it says\n%s", out)
	}
	if bad := f.Run(t, "sh", "-c", "find /opt/mnw ! -user root -o -perm /022 ! -type l"); bad != "" {
		t.Errorf("not root's, or writable by others:\n%s", bad)
	}
	if got := f.Run(t, "stat", "-c", "%U:%G %a", "/opt/mnw/releases/0.7.0/secret"); got != "root:mnwapp 640\n" {
		t.Errorf("the secret is %q", got)
	}
	f.Run(t, "sed", "-i", `s/^\[health\]$/[schedule]\npoll = "@every 1s"\n[health]\nstable_for = "100ms"\ninterval = "10ms"/`, "/etc/sando/mnw.toml")

	// A version of the channel under the name of what is live, with another content.
	f.release(t, "1.0.0", "")
	f.until(t, "the name is taken", func() bool { return f.status(t).Last.Reason == reason.Mismatch })
	if now := f.property(t, "mnw.service", "InvocationID"); now != invocation {
		t.Error("the live service was restarted")
	}
	if out := f.must(t, 0); !strings.Contains(out, "release 1.0.0 of another deployer holds something else") {
		t.Errorf("it says\n%s", out)
	}
	f.until(t, "1.0.0 of the channel runs", func() bool { return f.well(t, "1.0.0") })

	// To foreign releases by pins, and by an update that fails.
	f.Run(t, "puller", "--pin", "1.0.0+foreign")
	f.Run(t, "puller", "--pin", "0.8.0")
	f.answers(t, "0.8.0")
	f.release(t, "2.0.0", "exits")
	if r := f.Try(t, "puller", "--unpin"); r.Code != 4 {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Out, r.Err)
	}
	f.answers(t, "0.8.0")
	if st := f.status(t); st.Running.Version != "0.8.0" || st.Last.Reason == reason.Degraded {
		t.Errorf("status: %+v", st)
	}
}

// well reports whether version is live and proved itself.
func (s *server) well(t *testing.T, version string) bool {
	t.Helper()
	st := s.status(t)
	return st.Intent == nil && st.LastGood != nil && st.LastGood.Version == version && st.Running != nil && st.Running.Version == version
}
