package guides

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/systemd"
)

// install installs the programs and the shipped units on a machine.
func install(t *testing.T, h *host.Host) {
	t.Helper()
	for _, name := range []string{"builder", "puller"} {
		h.Copy(t, filepath.Join(testenv.Programs(t), name), "/usr/local/bin/"+name)
	}
	must(t, fs.WalkDir(systemd.Units(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(systemd.Units(), name)
		h.Write(t, "/etc/systemd/system/"+name, string(data), 0o644)
		return err
	}))
}

// A fleet is what somebody operates: the app mnw, released on the machine "build", with its
// bundles in the bucket and its channels on the git host.
type fleet struct {
	*servers
	build *host.Host
	small bool // nodes have a small filesystem at /opt
}

// guideApp is the app's program: it runs the one that has no versions.
const guideApp = "#!/bin/sh\nexec /usr/local/bin/guide-app \"$(dirname \"$0\")\"\n"

const fleetPassphrase = "correct horse battery staple"

func newFleet(t *testing.T) *fleet {
	s := newStage(t)
	build := s.boot("build")
	install(t, build)
	object := "releases/mnw/*"
	f := &fleet{build: build, servers: s.serve(
		minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, object), minio.Allow([]string{"s3:GetObject"}, object), "mnw-channels.git")}
	f.reach(build)
	build.Write(t, "/srv/sando/src/mnw", guideApp, 0o755)
	build.Write(t, "/srv/sando/src/VERSION", "0.0.0\n", 0o644)
	build.Write(t, "/srv/sando/src/HOW", "serves\n", 0o644)
	build.Run(t, "sh", "-euc", "useradd --create-home --shell /bin/bash builder; chown -R builder: /srv/sando")
	f.builder(`export SANDO_KEY_PASSWORD="` + fleetPassphrase + `"
git config --global user.name Ada && git config --global user.email ada@example.org && git config --global init.defaultBranch main
cd /srv/sando/src && git init -q
mkdir -p ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519 && ssh-keyscan -t ed25519 git.example.org >~/.ssh/known_hosts
builder init /srv/sando/mnw --app mnw && cd /srv/sando/mnw
git -C channels.git push -q ssh://git@git.example.org/ops/mnw-channels.git main
git clone -q ssh://git@git.example.org/ops/mnw-channels.git /srv/sando/channels
(umask 077; echo ` + builderKey + ` >s3.access; echo ` + builderSecret + ` >s3.secret)`)
	build.Write(t, "/srv/sando/mnw/builder.toml", `app = "mnw"
[source]
repo = "/srv/sando/src"
[build]
version = ["cat", "VERSION"]
[[release_contents]]
src = "."
dst = "."
[storage]
url = "s3://releases"
endpoint = "https://s3.example.org"
access_key_file = "s3.access"
secret_key_file = "s3.secret"
[channels]
repo = "ssh://git@git.example.org/ops/mnw-channels.git"
ssh_key = "/home/builder/.ssh/id_ed25519"
known_hosts = "/home/builder/.ssh/known_hosts"
auto = ["host"]
[signing]
release_key = "keys/release.key"
channel_key = "keys/channel.key"
trust = "keys/trust.json"
`, 0o644)
	return f
}

// builder has the user builder do something that no guide tells.
func (f *fleet) builder(text string) {
	f.t.Helper()
	f.do("build", "builder", text)
}

// do has a user do something that no guide tells.
func (s *stage) do(machine, user, text string) {
	s.t.Helper()
	sh := s.open(machine, user)
	for _, c := range commands(s.t, &block{text: text}) {
		if printed, exit, err := sh.run(c.text); err != nil || exit != c.exit {
			s.t.Fatalf("on %s, as %s:\n%sexit status %d, %v\n%s", machine, user, c.text, exit, err, printed)
		}
	}
}

// commit makes the source of a version. How it does is "serves", or what it says before it ends.
func (f *fleet) commit(version, how string) {
	f.t.Helper()
	f.builder(fmt.Sprintf("cd /srv/sando/src && echo %s >VERSION && echo '%s' >HOW && git add -A && git commit -q -m %[1]s", version, how))
}

// release commits and releases a version, and advances tiers to it.
func (f *fleet) release(version, how string, tiers ...string) {
	f.t.Helper()
	f.commit(version, how)
	f.builder("cd /srv/sando/mnw && builder -q release")
	for _, tier := range tiers {
		f.builder("builder promote " + tier)
	}
}

// bare boots a machine that can reach the servers and run the app.
func (f *fleet) bare(name string) *host.Host {
	f.t.Helper()
	h := f.boot(name)
	if f.small {
		h.Run(f.t, "mount", "-t", "tmpfs", "-o", "size=200m,mode=0755", "tmpfs", "/opt")
	}
	f.reach(h)
	self, err := os.Executable()
	must(f.t, err)
	h.Copy(f.t, self, "/usr/local/bin/guide-app")
	return h
}

// node boots a node as `puller bootstrap` leaves one.
func (f *fleet) node(name, tier string) *host.Host {
	f.t.Helper()
	h := f.bare(name)
	install(f.t, h)
	h.Copy(f.t, f.build.Path("/srv/sando/mnw/keys/trust.json"), "/etc/sando/mnw/trust.json")
	for file, text := range map[string]string{"s3.access": nodeKey, "s3.secret": nodeSecret, "git.token": gitToken} {
		h.Write(f.t, "/etc/sando/mnw/"+file, text+"\n", 0o600)
	}
	h.Write(f.t, "/etc/mnw/mnw.env", "ADDR=127.0.0.1:8080\n", 0o600)
	h.Write(f.t, "/etc/sando/mnw.toml", fmt.Sprintf(`app = "mnw"
tier = "%s"
node = "%s"

[channels]
repo = "https://git.example.org/ops/mnw-channels.git"
token_file = "/etc/sando/mnw/git.token"

[storage]
url = "s3://releases"
endpoint = "https://s3.example.org"
access_key_file = "/etc/sando/mnw/s3.access"
secret_key_file = "/etc/sando/mnw/s3.secret"

[service]
unit = "mnw.service"

[health]
url = "http://127.0.0.1:8080/api/health"
json = { version = "{version}" }
`, tier, name), 0o644)
	h.Run(f.t, "sh", "-euc", strings.Join([]string{
		"useradd --system --user-group --home-dir /var/lib/mnw --shell /usr/sbin/nologin mnw",
		"puller unit --app mnw --user mnw --exec /opt/mnw/current/mnw --env-file /etc/mnw/mnw.env --state-directory mnw >/etc/systemd/system/mnw.service",
		"systemctl daemon-reload; systemctl enable --quiet mnw; systemctl enable --quiet --now puller@mnw",
	}, "\n"))
	return h
}

// settles waits until the first line of a node's status matches a pattern.
func (f *fleet) settles(node, pattern string) {
	f.t.Helper()
	form := regexp.MustCompile(pattern)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	var last host.Result
	for range 150 {
		last = f.hosts[node].Try(f.t, "puller", "--app", "mnw", "status")
		if first, _, _ := strings.Cut(last.Out, "\n"); form.MatchString(first) {
			return
		}
		<-tick.C
	}
	f.t.Fatalf("%s does not say %q within a minute:\n%s%s\n%s", node, pattern, last.Out, last.Err, f.hosts[node].Journal(f.t, "puller@mnw"))
}
