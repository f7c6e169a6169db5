package guides

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/internal/testenv/minio"
)

// A fleet is what somebody operates: an app, released on the machine "build", with its
// bundles in the bucket and its channels on the git host.
type fleet struct {
	*servers
	app   string
	build *host.Host
	small bool // nodes have a small filesystem at /opt
}

// guideApp is the app's program: it runs the one that has no versions.
const guideApp = "#!/bin/sh\nexec /usr/local/bin/guide-app \"$(dirname \"$0\")\"\n"

const fleetPassphrase = "correct horse battery staple"

// sourceDir has the app's source, on the machine "build".
const sourceDir = "/srv/sando/src"

func newFleet(t *testing.T, app string) *fleet {
	s := newStage(t)
	build := s.boot("build")
	build.Copy(t, filepath.Join(testenv.Programs(t), "builder"), "/usr/local/bin/builder")
	object := "releases/" + app + "/*"
	f := &fleet{app: app, build: build, servers: s.serve(
		minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, object), minio.Allow([]string{"s3:GetObject"}, object), app+"-channels.git")}
	f.reach(build)
	build.Write(t, sourceDir+"/"+app, guideApp, 0o755)
	build.Write(t, sourceDir+"/VERSION", "0.0.0\n", 0o644)
	build.Write(t, sourceDir+"/HOW", "serves\n", 0o644)
	build.Run(t, "sh", "-euc", "useradd --create-home --shell /bin/bash builder; chown -R builder: /srv/sando")
	f.builder(strings.ReplaceAll(`export SANDO_KEY_PASSWORD="`+fleetPassphrase+`"
cd /srv/sando/src && git init -q -b main && git config user.name Ada && git config user.email ada@example.org
mkdir -p ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519 && ssh-keyscan -t ed25519 git.example.org >~/.ssh/known_hosts
builder init /srv/sando/mnw --app mnw && cd /srv/sando/mnw
git -C channels.git push -q ssh://git@git.example.org/ops/mnw-channels.git main
git clone -q ssh://git@git.example.org/ops/mnw-channels.git /srv/sando/channels
git -C /srv/sando/channels config user.name Ada && git -C /srv/sando/channels config user.email ada@example.org
(umask 077; echo `+builderKey+` >s3.access; echo `+builderSecret+` >s3.secret)`, "mnw", app))
	build.Write(t, "/srv/sando/"+app+"/builder.toml", strings.ReplaceAll(`app = "mnw"
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
`, "mnw", app), 0o644)
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
		printed, exit, err := sh.run(s.complete(c.text))
		if err != nil || exit != c.exit {
			s.t.Fatalf("on %s, as %s:\n%sexit status %d, %v\n%s", machine, user, c.text, exit, err, printed)
		}
		s.said = append(s.said, lines(printed)...)
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
	f.builder("cd /srv/sando/" + f.app + " && builder -q release")
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

// node makes a node of a machine, as the quick start does.
func (f *fleet) node(name, tier string) *host.Host {
	f.t.Helper()
	h := f.bare(name)
	h.Copy(f.t, filepath.Join(testenv.Programs(f.t), "puller"), "/usr/local/bin/puller")
	keys := "/etc/sando/" + f.app
	h.Run(f.t, "install", "-d", "-m", "700", keys)
	for file, text := range map[string]string{"s3.access": nodeKey, "s3.secret": nodeSecret, "git.token": gitToken} {
		h.Write(f.t, keys+"/"+file, text+"\n", 0o600)
	}
	f.builder(strings.NewReplacer("NODE", name, "TIER", tier, "APP", f.app).Replace(`cd /srv/sando/APP
builder enroll NODE --tier TIER --channels https://git.example.org/ops/APP-channels.git -- \
  --exec /opt/APP/current/APP --health http://127.0.0.1:8080/health --yes`))
	f.do(name, "root", fmt.Sprintf("puller bootstrap --app %s --tier %s --node %s …", f.app, tier, name))
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
		last = f.hosts[node].Try(f.t, "puller", "status")
		if first, _, _ := strings.Cut(last.Out, "\n"); form.MatchString(first) {
			return
		}
		<-tick.C
	}
	f.t.Fatalf("%s does not say %q within a minute:\n%s%s\n%s", node, pattern, last.Out, last.Err, f.hosts[node].Journal(f.t, "puller@"+f.app))
}
