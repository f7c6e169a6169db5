package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/host"
	puller "makenot.work/sando/puller/cli"
)

// bare is a host that no puller ever ran on. The puller that somebody just copied there is
// /srv/puller; what a builder would have elsewhere is in /srv too.
type bare struct {
	*server
	flags []string // of puller bootstrap
}

func newBare(t *testing.T) *bare {
	t.Helper()
	h := host.Boot(t)
	b := &bare{server: &server{h, freeAddr(t)}}
	bin := testenv.Programs(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	h.Copy(t, filepath.Join(bin, "builder"), "/usr/local/bin/builder")
	h.Copy(t, filepath.Join(bin, "puller"), "/srv/puller")
	h.Copy(t, self, "/usr/local/bin/mnw")
	b.sh(t, "builder init --app mnw; git init -q -b main src")
	h.Write(t, "/srv/builder.toml", mnwBuilder, 0o644)
	h.Write(t, "/srv/src/run", "#!/bin/sh\nexec /usr/local/bin/mnw\n", 0o755)
	h.Write(t, "/srv/env", "ADDR="+b.addr+"\n", 0o644)
	b.flags = []string{
		"--app", "mnw", "--tier", "host", "--storage", "file:///srv/bucket", "--channels", "file:///srv/channels.git",
		"--trust-fingerprint", "sha256:" + strings.Fields(h.Run(t, "sha256sum", "/srv/keys/trust.json"))[0],
		"--exec", "/opt/mnw/current/run", "--env-template", "/srv/env", "--health", "http://" + b.addr + "/",
	}
	return b
}

// line returns a command that bootstraps: flags is added to b.flags, where a flag that is
// there has another value then.
func (b *bare) line(program string, flags ...string) []string {
	args := slices.Clone(b.flags)
	for n := 0; n < len(flags); n++ {
		at := slices.Index(args, flags[n])
		switch {
		case at >= 0 && n+1 < len(flags) && flags[n+1] == "":
			args = slices.Delete(args, at, at+2)
			n++
		case at >= 0:
			n++
			args[at+1] = flags[n]
		default:
			args = append(args, flags[n])
		}
	}
	// What is proven in 30 s elsewhere is here in less.
	return append([]string{"SANDO__HEALTH__STABLE_FOR=100ms", "SANDO__HEALTH__INTERVAL=10ms", program, "bootstrap"}, args...)
}

func (b *bare) try(t *testing.T, flags ...string) host.Result {
	t.Helper()
	return b.Try(t, "env", b.line("/srv/puller", flags...)...)
}

func (b *bare) must(t *testing.T, flags ...string) string {
	t.Helper()
	r := b.try(t, flags...)
	if r.Code != 0 {
		t.Fatalf("bootstrap %q: exit code %d\n%s%s\n%s", flags, r.Code, r.Out, r.Err, b.Journal(t, "puller*"))
	}
	return r.Out
}

// report bootstraps with --json.
func (b *bare) report(t *testing.T, flags ...string) puller.Bootstrapped {
	t.Helper()
	var r puller.Bootstrapped
	if err := json.Unmarshal([]byte(b.must(t, append(flags, "--json")...)), &r); err != nil {
		t.Fatal(err)
	}
	return r
}

// reset makes the host bare again.
func (b *bare) reset(t *testing.T) {
	t.Helper()
	b.Run(t, "sh", "-euc", `
systemctl disable -q --now puller@mnw.service puller-once@mnw.timer mnw.service 2>/dev/null || true
systemctl stop puller-once@mnw.service 2>/dev/null || true
rm -rf /opt/* /etc/mnw /etc/sando /var/lib/mnw /etc/systemd/system/puller* /etc/systemd/system/mnw.service* /usr/local/bin/puller
rm -f /etc/systemd/system/.[mp]* /etc/.[ms]*.???????????????? /var/lib/.mnw* /usr/local/bin/.puller*
userdel mnw 2>/dev/null || true
groupdel mnw 2>/dev/null || true
systemctl daemon-reload; systemctl reset-failed`)
}

// tree describes everything that a bootstrap may touch, a line for each name. Of Sando's own
// state, and where times do not count, it tells less.
func (b *bare) tree(t *testing.T, times bool) []string {
	t.Helper()
	var lines []string
	for _, top := range []string{"/etc", "/opt", "/usr/local/bin", "/var/lib/mnw", "/srv"} {
		err := filepath.WalkDir(b.Path(top), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			name := filepath.Join(top, strings.TrimPrefix(path, b.Path(top)))
			line, err := entry(path, name, d, times)
			if err != nil {
				return err
			}
			if line != "" {
				lines = append(lines, line)
			}
			if d.IsDir() && d.Name() == ".sando" && name != "/opt/mnw/releases/1.0.0/.sando" {
				return fs.SkipDir
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return lines
}

func entry(path, name string, d fs.DirEntry, times bool) (string, error) {
	info, err := d.Info()
	if err != nil {
		return "", err
	}
	if filepath.Dir(name) == "/etc" && (strings.HasSuffix(name, "-") || name == "/etc/.pwd.lock") && !times {
		return "", nil // what the user database was before
	}
	st := info.Sys().(*syscall.Stat_t)
	line := fmt.Sprintf("%s %s %d:%d", name, info.Mode(), st.Uid, st.Gid)
	if times && d.Name() != ".sando" {
		line += " " + info.ModTime().Format(time.RFC3339Nano)
	}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		return line + " -> " + target, err
	case info.Mode().IsRegular() && times && info.Size() > 1<<20: // a program: its time tells
		return fmt.Sprintf("%s %d", line, info.Size()), nil
	case info.Mode().IsRegular():
		data, err := os.ReadFile(path)
		return fmt.Sprintf("%s %x", line, sha256.Sum256(data)), err
	}
	return line, nil
}

func (b *bare) unchanged(t *testing.T, before []string) {
	t.Helper()
	if diff := cmp.Diff(before, b.tree(t, true)); diff != "" {
		t.Errorf("something was changed (-before +after):\n%s", diff)
	}
}

// A bare host becomes a node whose app is live and follows its channel.
func TestAsRootBootstrap(t *testing.T) {
	t.Parallel() // most of it is waiting
	b := newBare(t)
	b.release(t, "1.0.0", "")
	for _, c := range []struct {
		name string
		test func(*testing.T, *bare)
	}{
		{"refused", bootstrapRefused},
		{"live", bootstrapLive},
		{"again", bootstrapAgain},
		{"kept", bootstrapKept},
		{"second app", bootstrapSecond},
		{"nothing promoted", bootstrapNothingPromoted},
		{"missing", bootstrapMissing},
		{"timer", bootstrapTimer},
		{"interrupted", bootstrapInterrupted},
	} {
		if !t.Run(c.name, func(t *testing.T) { c.test(t, b) }) {
			break
		}
	}
}

// What is refused is refused before anything is changed.
func bootstrapRefused(t *testing.T, b *bare) {
	b.sh(t, `sed 's/"app": "mnw"/"app": "shop"/' keys/trust.json >shop.json
sed 's/"root"/"raat"/' keys/trust.json >rootless.json; printf 'A=\377\n' >bad.env`)
	other := "sha256:" + strings.Repeat("0", 64)
	before := b.tree(t, true)
	for _, c := range []struct {
		name  string
		flags []string
		exit  int
		want  string
	}{
		{"fingerprint", []string{"--trust-fingerprint", other}, 3, "has the fingerprint " + other},
		{"fingerprint of the file", []string{"--trust-fingerprint", other, "--trust", "/srv/keys/trust.json"}, 3, "puller: mismatch: --trust /srv/keys/trust.json has the fingerprint"},
		{"no fingerprint", []string{"--trust-fingerprint", "", "--trust", "/srv/keys/trust.json"}, 2, "run this again with --trust-fingerprint sha256:"},
		{"no trust", []string{"--trust-fingerprint", ""}, 2, "--trust-fingerprint: want the fingerprint"},
		{"trust of another app", []string{"--trust-fingerprint", b.sum(t, "/srv/shop.json"), "--trust", "/srv/shop.json"}, 3, `is the trust of app "shop", want "mnw"`},
		{"trust without root", []string{"--trust-fingerprint", b.sum(t, "/srv/rootless.json"), "--trust", "/srv/rootless.json"}, 3, "puller: format: --trust"},
		{"no exec", []string{"--exec", ""}, 2, `unit "mnw.service" is not there: give the command that runs the app, such as --exec "/opt/mnw/current/mnw serve"`},
		{"bad exec", []string{"--exec", "mnw serve"}, 2, `command: "mnw" is not an absolute path`},
		{"exec of one release", []string{"--exec", "/opt/mnw/releases/1.0.0/run"}, 2, "names one release"},
		{"bad unit", []string{"--unit", "mnw.socket"}, 2, `unit: "mnw.socket" is not the name of a service`},
		{"root as user", []string{"--user", "root"}, 2, "--user: the app is not to run as root"},
		{"user with number 0", []string{"--user", "toor"}, 2, `user "toor" has the number 0`},
		{"tier that is not in the fleet", []string{"--tier", "zz"}, 2, `puller: config: --tier: tier "zz" is not in fleet.toml: it has host, a, b; nothing was changed`},
		{"storage elsewhere", []string{"--storage", "file:///srv/bukcet"}, 1, `puller: io: --storage: `},
		{"storage elsewhere, nothing promoted", []string{"--storage", "file:///srv/bukcet", "--tier", "b"}, 1, "the bucket's directory \"/srv/bukcet\" is missing"},
		{"other storage", []string{"--storage", "file:///srv/src"}, 1, "see that the builder means the same by --storage; nothing was changed"},
		{"channels elsewhere", []string{"--channels", "file:///srv/channels"}, 1, "puller: io: --channels: "},
		{"bad storage", []string{"--storage", "ftp://x"}, 2, "puller: config: these flags make no good configuration: "},
		{"bad health", []string{"--health", "localhost"}, 2, `health: probe "localhost" is not an http or https URL`},
		{"no keys", []string{"--storage", "s3://releases", "--endpoint", "https://s3.example"}, 2,
			"storage.access_key_file: /etc/sando/mnw/s3.access is not there, and nobody can be asked for it here: write it first, `install -d -m 700 /etc/sando/mnw && (umask 077; cat >/etc/sando/mnw/s3.access)`; and storage.secret_key_file: /etc/sando/mnw/s3.secret is not there"},
		{"no ssh key", []string{"--channels", "ssh://git@git.example/ops.git"}, 2, "--ssh-key: /etc/sando/mnw/ssh is not there: make one, `install -d -m 700 /etc/sando/mnw && ssh-keygen -q -t ed25519 -N '' -f /etc/sando/mnw/ssh`"},
		{"in the sandbox's dark", []string{"--root", "/home/mnw"}, 2, `--root: "/home/mnw" is below /home, which the puller's unit does not see`},
		{"bad template", []string{"--env-template", "/srv/bad.env"}, 2, "--env-template: /srv/bad.env: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "user with number 0" {
				b.Run(t, "useradd", "--non-unique", "--uid", "0", "toor")
				before = b.tree(t, true)
			}
			r := b.try(t, c.flags...)
			if r.Code != c.exit || !strings.Contains(r.Err, c.want) || r.Out != "" {
				t.Errorf("exit code %d, want %d with %q\n%s%s", r.Code, c.exit, c.want, r.Out, r.Err)
			}
			b.unchanged(t, before)
		})
	}
	b.Run(t, "userdel", "-f", "toor")
	before = b.tree(t, true)
	for _, c := range []struct {
		name   string
		enter  []string
		want   string
		dryRun bool
	}{
		{"not root", []string{"setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups"}, "run it as root, such as by sudo", false},
		{"not root, dry", []string{"setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups"}, "run it as root, such as by sudo", true},
		{"no systemd", []string{"unshare", "--mount", "sh", "-c", `mount -t tmpfs none /run/systemd && exec "$@"`, "sh"}, "systemd does not run this machine", false},
	} {
		flags := []string{}
		if c.dryRun {
			flags = append(flags, "--dry-run")
		}
		line := append(slices.Clone(c.enter), append([]string{"env"}, b.line("/srv/puller", flags...)...)...)
		if r := b.Try(t, line[0], line[1:]...); r.Code != 2 || !strings.Contains(r.Err, c.want) {
			t.Errorf("%s: exit code %d\n%s%s", c.name, r.Code, r.Out, r.Err)
		}
	}
	b.unchanged(t, before)
}

func (b *bare) sum(t *testing.T, file string) string {
	t.Helper()
	return "sha256:" + strings.Fields(b.Run(t, "sha256sum", file))[0]
}

// One command makes a node of a bare host, and it does what a dry run said.
func bootstrapLive(t *testing.T, b *bare) {
	before := b.tree(t, true)
	planned := b.report(t, "--dry-run")
	b.unchanged(t, before)
	if !planned.DryRun || len(planned.Changes) < 10 {
		t.Fatalf("planned: %+v", planned)
	}
	b.hasten(t)
	did := b.report(t)
	if diff := cmp.Diff(planned.Changes, did.Changes); diff != "" {
		t.Errorf("it did another thing than it said (-said +did):\n%s", diff)
	}
	if did.Update == nil || did.Update.Running != "1.0.0" || did.Fingerprint != planned.Fingerprint || did.Fingerprint == "" {
		t.Errorf("did: %+v", did)
	}
	b.live(t, "1.0.0")
	b.release(t, "1.1.0", "") // through the sandbox
	b.Run(t, "systemctl", "reload", "puller@mnw.service")
	b.answers(t, "1.1.0")
	for name, want := range map[string]string{
		"/usr/local/bin/puller": "root:root 755", "/opt/mnw": "root:root 755", "/etc/mnw": "root:mnw 750", "/etc/mnw/mnw.env": "root:mnw 640",
		"/var/lib/mnw": "mnw:mnw 750", "/etc/sando": "root:root 755", "/etc/sando/mnw": "root:root 700", "/etc/sando/mnw/trust.json": "root:root 644",
		"/etc/sando/mnw.toml": "root:root 644", "/etc/systemd/system/mnw.service": "root:root 644",
	} {
		if got := strings.TrimSpace(b.Run(t, "stat", "-c", "%U:%G %a", name)); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
	if got := b.Run(t, "getent", "passwd", "mnw"); !strings.HasSuffix(got, ":/var/lib/mnw:/usr/sbin/nologin\n") {
		t.Errorf("the user is %s", got)
	}
	b.live(t, "1.1.0")
	b.Reboot(t)
	b.hasten(t)
	b.live(t, "1.1.0")
}

// hasten lets what the daemon starts prove itself in no time, until the next boot.
func (b *bare) hasten(t *testing.T) {
	t.Helper()
	b.Run(t, "systemctl", "set-environment", "SANDO__HEALTH__STABLE_FOR=100ms", "SANDO__HEALTH__INTERVAL=10ms")
}

// live asserts that a release answers, and that the daemon is content.
func (b *bare) live(t *testing.T, version string) {
	t.Helper()
	b.answers(t, version)
	b.until(t, "the daemon is content", func() bool {
		st := b.status(t)
		return st.Daemon != nil && st.Daemon.PID != 0 && st.Running != nil && st.Running.Version == version && st.Intent == nil && st.Reason.Exit() == 0
	})
	if st := b.status(t); st.Unit.User != "mnw" || len(st.Warnings) > 0 {
		t.Errorf("status: %+v, %+v", st, st.Unit)
	}
	for _, unit := range []string{"mnw.service", "puller@mnw.service"} {
		if got := b.property(t, unit, "UnitFileState"); got != "enabled" {
			t.Errorf("%s is %s", unit, got)
		}
	}
}

// A second time there is nothing to do.
func bootstrapAgain(t *testing.T, b *bare) {
	before, app := b.tree(t, true), b.property(t, "mnw.service", "InvocationID")+b.property(t, "puller@mnw.service", "InvocationID")
	if out := b.must(t); !content(out) {
		t.Errorf("it says %q", out)
	}
	if r := b.report(t, "--dry-run"); len(r.Changes) != 0 {
		t.Errorf("a dry run says %+v", r)
	}
	b.unchanged(t, before)
	if got := b.property(t, "mnw.service", "InvocationID") + b.property(t, "puller@mnw.service", "InvocationID"); got != app {
		t.Error("something was restarted")
	}
}

var contented = regexp.MustCompile(`^mnw: everything is there already: nothing to do\n(warning .*\n(  mend: .*\n)?)*doctor: \d+ checks, an update would work now\n` +
	`mnw on \S+ \(tier \S+\): runs \S+ since .*, as wanted\n$`)

// content reports whether a bootstrap found everything there, that an update would work, and that
// what is wanted runs.
func content(out string) bool {
	return contented.MatchString(out) && !strings.Contains(out, "left as it is")
}

// Files that are there stay, and are shown as a diff, secrets hidden.
func bootstrapKept(t *testing.T, b *bare) {
	b.reset(t)
	b.Write(t, "/etc/mnw/mnw.env", "ADDR="+b.addr+"\nDATABASE_URL=postgres://u:s3cret@db/mnw\n", 0o600)
	b.Write(t, "/etc/systemd/system/puller@.service", "[Service]\nType=notify\nExecStart=/usr/local/bin/puller --app %i run\nExecReload=/bin/kill -HUP $MAINPID\n[Install]\nWantedBy=multi-user.target\n", 0o644)
	b.Write(t, "/opt/mnw/README", "x\n", 0o644)
	b.Run(t, "sh", "-c", "useradd --system --shell /bin/bash mnw; chgrp mnw /opt/mnw; chmod 775 /opt/mnw; cp /bin/true /usr/local/bin/puller; chmod 711 /etc/mnw")
	env, unit := b.Read(t, "/etc/mnw/mnw.env"), b.Read(t, "/etc/systemd/system/puller@.service")
	r := b.try(t, "--dry-run")
	for _, want := range []string{
		"mnw: there already, and left as it is:\n", "- keep user mnw, which has the login shell /bin/bash; nothing here needs that: `usermod --shell /usr/sbin/nologin mnw`\n",
		"- set directory /opt/mnw to root:root 0755, it is root:mnw 0775\n",
		"- keep directory /etc/mnw as it is, root:root 0711; if nothing else needs that: `chown root:mnw /etc/mnw && chmod 0750 /etc/mnw`\n",
		"      -DATABASE_URL=(hidden)\n", "- keep unit /etc/systemd/system/puller@.service, which holds something else; to have this program's: `rm /etc/systemd/system/puller@.service`, and run this again\n",
		"      +ProtectSystem=strict\n", "- keep /usr/local/bin/puller, which is not this program (`/usr/local/bin/puller --version` tells); to replace it: `install -m 755 /srv/puller /usr/local/bin/puller`\n",
	} {
		if r.Code != 0 || !strings.Contains(r.Out, want) {
			t.Errorf("%q is not in\n%s%s", want, r.Out, r.Err)
		}
	}
	b.Run(t, "install", "-m", "755", "/srv/puller", "/usr/local/bin/puller")
	out := b.must(t)
	if strings.Contains(out, "s3cret") || !strings.Contains(out, "(hidden)") {
		t.Errorf("the diff of the env file:\n%s", out)
	}
	b.answers(t, "1.1.0")
	if b.Read(t, "/etc/mnw/mnw.env") != env || b.Read(t, "/etc/systemd/system/puller@.service") != unit {
		t.Error("a file that was there was changed")
	}
	// A configuration that was edited stays, unless it is of another thing.
	config := b.Read(t, "/etc/sando/mnw.toml")
	b.Write(t, "/etc/sando/mnw.toml", config+"[schedule]\npoll = \"@every 30s\"\n", 0o644)
	if out := b.must(t); !strings.Contains(out, "keep configuration /etc/sando/mnw.toml") || !strings.Contains(out, "-poll = \"@every 30s\"\n") || !strings.Contains(out, "nothing to do") {
		t.Errorf("an edited configuration:\n%s", out)
	}
	bootstrapOtherwise(t, b)
	b.Write(t, "/etc/sando/mnw.toml", config+"[schedule]\npoll = \"@every 30s\"\n", 0o644)
	before := b.tree(t, true)
	if r := b.try(t, "--unit", "cron.service"); r.Code != 2 || !strings.Contains(r.Err, `/etc/sando/mnw.toml says service.unit = "mnw.service", and this command "cron.service"`) {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Out, r.Err)
	}
	b.unchanged(t, before)
}

// A second app does not disturb the first.
func bootstrapSecond(t *testing.T, b *bare) {
	addr := freeAddr(t)
	b.sh(t, `mkdir shop; cd shop; builder init --app shop; git init -q -b main src; cp ../src/run src
sed 's/app = "mnw"/app = "shop"/' ../builder.toml >builder.toml
echo 1.0.0 >src/VERSION; git -C src add -A; git -C src commit -qm 1; builder -q release`)
	b.Write(t, "/srv/shop.env", "ADDR="+addr+"\n", 0o644)
	before := b.mine(t)
	run := b.property(t, "mnw.service", "InvocationID") + b.property(t, "puller@mnw.service", "InvocationID")
	b.must(t, "--app", "shop", "--storage", "file:///srv/shop/bucket", "--channels", "file:///srv/shop/channels.git", "--trust-fingerprint", b.sum(t, "/srv/shop/keys/trust.json"),
		"--exec", "/srv/apps/shop/current/run", "--root", "/srv/apps/shop", "--env-template", "/srv/shop.env", "--health", "http://"+addr+"/", "--health-json", "version={version}")
	(&server{b.Host, addr}).answers(t, "1.0.0")
	if diff := cmp.Diff(before, b.mine(t)); diff != "" {
		t.Errorf("the first app was disturbed (-before +after):\n%s", diff)
	}
	if got := b.property(t, "mnw.service", "InvocationID") + b.property(t, "puller@mnw.service", "InvocationID"); got != run {
		t.Error("something of the first app was restarted")
	}
	// Its root is another one, and the sandbox lets the daemon write there.
	b.sh(t, "cd shop; echo 1.1.0 >src/VERSION; git -C src add -A; git -C src commit -qm 2; builder -q release")
	b.Run(t, "systemctl", "reload", "puller@shop.service")
	(&server{b.Host, addr}).answers(t, "1.1.0")
	if said := b.Run(t, "sh", "-c", "puller --app shpo 2>&1; echo exit $?; setpriv --reuid=65534 --regid=65534 --clear-groups puller --app shop status 2>&1; echo exit $?"); !strings.Contains(said, "; this node has --app mnw, --app shop\nexit 2\n") || !strings.Contains(said, ": run it as root\nexit 1\n") {
		t.Errorf("for a wrong name, and an ordinary user, it says\n%s", said)
	}
	b.Run(t, "sh", "-c", "systemctl disable -q --now puller@shop shop; rm -rf /srv/apps /etc/shop /etc/sando/shop* /etc/systemd/system/*shop* /var/lib/shop; userdel shop; systemctl daemon-reload")
}

// mine is what the first app consists of.
func (b *bare) mine(t *testing.T) []string {
	t.Helper()
	return slices.DeleteFunc(b.tree(t, true), func(line string) bool {
		name, _, _ := strings.Cut(line, " ")
		return strings.Contains(name, "shop") || !strings.Contains(name, "mnw") && !strings.Contains(name, "puller")
	})
}

// A tier that nothing was promoted to is no failure: the node waits for it.
func bootstrapNothingPromoted(t *testing.T, b *bare) {
	b.reset(t)
	out := b.must(t, "--tier", "a")
	if !strings.Contains(out, "nothing was promoted to tier \"a\" yet: `builder promote a` on the builder does") {
		t.Errorf("it says\n%s", out)
	}
	if !strings.Contains(out, "  - looked for the first update, as `puller --app mnw` does\n") || !strings.Contains(out, " checks, an update would work once one is promoted\n") ||
		!regexp.MustCompile("\nmnw on \\S+: runs nothing; nothing was promoted .* by itself\n$").MatchString(out) {
		t.Errorf("it says\n%s", out)
	}
	if again := b.must(t, "--tier", "a"); !strings.Contains(again, "nothing to do") || !strings.Contains(again, "nothing was promoted") || strings.Contains(again, "failed ") {
		t.Errorf("again it says\n%s", again)
	}
	b.sh(t, "builder promote a")
	b.Run(t, "systemctl", "reload", "puller@mnw.service")
	b.answers(t, "1.1.0")
}

func bootstrapTimer(t *testing.T, b *bare) {
	b.reset(t)
	b.must(t, "--timer")
	b.answers(t, "1.1.0")
	for unit, want := range map[string]string{"puller-once@mnw.timer": "enabled active", "puller@mnw.service": "disabled inactive"} {
		if got := b.property(t, unit, "UnitFileState") + " " + b.property(t, unit, "ActiveState"); got != want {
			t.Errorf("%s is %s, want %s", unit, got, want)
		}
	}
	if out := b.must(t, "--timer"); !strings.Contains(out, "nothing to do") {
		t.Errorf("again it says\n%s", out)
	}
	if out := b.must(t, "--dry-run"); !strings.Contains(out, "keep puller-once@mnw.timer, which is at work as well") {
		t.Errorf("with the daemon it says\n%s", out)
	}
	b.once(t, 0)
	out := b.must(t)
	if strings.Count(out, "systemctl disable --now") != 1 || !strings.Contains(out, "`systemctl disable --now puller-once@mnw.timer`") {
		t.Errorf("with both it says\n%s", out)
	}
}

// Wherever it is interrupted, the next run ends in the same.
func bootstrapInterrupted(t *testing.T, b *bare) {
	b.reset(t)
	began := time.Now()
	b.must(t)
	took := time.Since(began)
	b.live(t, "1.1.0")
	want := b.tree(t, false)
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, seed))
	t.Logf("a run takes %s; seed %d", took, seed)
	for n := range interruptions() {
		b.reset(t)
		signal := []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM}[n%2]
		after := time.Duration(random.Int64N(int64(took)))
		out := b.interrupt(t, signal, after)
		b.again(t, fmt.Sprintf("%s after %s, seed %d", signal, after, seed), out, want)
	}
}

// interrupt bootstraps, and sends a signal.
func (b *bare) interrupt(t *testing.T, signal syscall.Signal, after time.Duration) string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// The shell says which process it becomes.
	cmd := b.Command(ctx, "sh", "-c", `echo $$ >/run/bootstrapping; exec env "$@"`, "sh")
	cmd.Args = append(cmd.Args, b.line("/srv/puller")...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	timer := time.NewTimer(after)
	defer timer.Stop()
	select {
	case err := <-ended:
		return fmt.Sprintf("%s\nit had ended (%v)", out.String(), err)
	case <-timer.C:
	}
	b.Try(t, "sh", "-c", fmt.Sprintf("kill -%d $(cat /run/bootstrapping)", signal))
	<-ended
	return out.String()
}

// again bootstraps after an interruption, and asserts where that ends.
func (b *bare) again(t *testing.T, what, out string, want []string) {
	t.Helper()
	r := b.try(t)
	if r.Code != 0 {
		t.Fatalf("%s:\n%s\nthen exit code %d\n%s%s", what, out, r.Code, r.Out, r.Err)
	}
	b.live(t, "1.1.0")
	if diff := cmp.Diff(want, b.tree(t, false)); diff != "" {
		t.Fatalf("%s:\n%s\nthen another end (-want +got):\n%s", what, out, diff)
	}
	if r := b.try(t); !content(r.Out) {
		t.Errorf("%s:\n%s\na third run says %s%s", what, out, r.Out, r.Err)
	}
}
