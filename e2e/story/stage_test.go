package story

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/gitserver"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/internal/testenv/secrets"
)

const (
	passphrase = "correct horse battery staple"
	why        = "the page of 2.0.0 is wrong" // the pin
)

// stage is the machine of the builder, and the servers.
type stage struct {
	t      *testing.T
	dir    string // everything that the builder has
	s3     *minio.Server
	bucket string
	writer minio.User // the builder
	reader minio.User // a node

	reporters []minio.User // nodes again, one for each report
	push      *gitserver.Shell
	pull      *gitserver.Web
	said      bytes.Buffer // by all programs
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newStage(t *testing.T) *stage {
	t.Helper()
	s := &stage{t: t, dir: t.TempDir(), s3: minio.Start(t, minio.Options{TLS: true, Region: "eu-test-1"})}
	s.bucket = s.s3.Bucket(t, minio.PublicRead)
	s.writer = s.s3.User(t, minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, s.bucket+"/*"))
	s.reader = s.s3.User(t, minio.Allow([]string{"s3:GetObject"}, s.bucket+"/*"))
	for _, dir := range []string{"tmp", "home"} {
		must(t, os.Mkdir(s.path(dir), 0o755))
	}
	must(t, os.CopyFS(s.path("bin"), os.DirFS(testenv.Programs(t))))
	repo := s.path("ops.git")
	s.run(os.Environ(), "git", "init", "-q", "--bare", "-b", "main", repo)
	s.push, s.pull = gitserver.SSH(t, repo), gitserver.HTTPS(t, repo)
	return s
}

func (s *stage) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// env is what the programs of the builder's machine see. Go finds its cache where it
// always is, and everything else that anybody leaves is below s.dir.
func (s *stage) env() []string {
	cache, err := os.UserCacheDir()
	must(s.t, err)
	return []string{
		"PATH=" + s.path("bin") + ":" + os.Getenv("PATH"), "HOME=" + s.path("home"), "TMPDIR=" + s.path("tmp"),
		"SANDO_KEY_PASSWORD=" + passphrase,
		"GOCACHE=" + filepath.Join(cache, "go-build"), "GOTOOLCHAIN=local", "GOFLAGS=-mod=mod", "GOTELEMETRY=off",
		"GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.org", "GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.org",
		fmt.Sprintf("GIT_SSH_COMMAND=ssh -F /dev/null -i %s -o IdentitiesOnly=yes -o UserKnownHostsFile=%s", s.push.KeyFile, s.push.KnownHosts),
	}
}

// run runs a program that must end well, and returns what it printed.
func (s *stage) run(env []string, args ...string) string {
	s.t.Helper()
	program := args[0]
	if program == "builder" {
		program = s.path("bin", program)
	}
	cmd := exec.CommandContext(s.t.Context(), program, args[1:]...)
	cmd.Env = env
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	s.heard(args, out.String(), errs.String())
	if err != nil {
		s.t.Fatalf("%s: %v\n%s%s", strings.Join(args, " "), err, out.String(), errs.String())
	}
	return out.String()
}

// heard keeps what a program said.
func (s *stage) heard(args []string, out, errs string) {
	fmt.Fprintf(&s.said, "$ %s\n%s%s", strings.Join(args, " "), out, errs)
}

// app is an app and its builder. Both apps are the one in e2e/app, under two names.
type app struct {
	*stage
	name string
}

// newApp makes source, keys and configuration of a builder, and a place of its own in the
// channel repo.
func (s *stage) newApp(name string) *app {
	s.t.Helper()
	a := &app{stage: s, name: name}
	must(s.t, os.CopyFS(s.path(name, "src"), os.DirFS("../app")))
	must(s.t, os.Remove(s.path(name, "src", "main_test.go")))
	must(s.t, os.WriteFile(s.path(name, "src", "go.mod"), []byte("module hello\n\ngo 1.22\n"), 0o644))
	s.run(s.env(), "git", "init", "-q", "-b", "main", s.path(name, "src"))
	s.run(s.env(), "builder", "init", s.path(name, "site"), "--app", name, "--source", "file://"+s.path(name, "src"))
	must(s.t, os.WriteFile(s.path(name, "site", "builder.toml"), []byte(a.config()), 0o644))

	// What init made becomes a directory of the repository that all apps share.
	clone := a.clone()
	s.run(s.env(), "git", "clone", "-q", s.path(name, "site", "channels.git"), s.path(name, "init"))
	must(s.t, os.RemoveAll(s.path(name, "init", ".git")))
	must(s.t, os.Rename(s.path(name, "init"), filepath.Join(clone, name)))
	s.run(s.env(), "git", "-C", clone, "add", "-A")
	s.run(s.env(), "git", "-C", clone, "commit", "-q", "-m", "Room for "+name)
	s.run(s.env(), "git", "-C", clone, "push", "-q", "origin", "HEAD:main")
	must(s.t, os.RemoveAll(s.path(name, "site", "channels.git")))
	return a
}

// clone returns a new clone of the channel repo, made over ssh.
func (a *app) clone() string {
	a.t.Helper()
	dir, err := os.MkdirTemp(a.path(a.name), "clone-")
	must(a.t, err)
	a.run(a.env(), "git", "clone", "-q", a.push.URL, dir)
	return dir
}

func (a *app) config() string {
	return fmt.Sprintf(`
app = "%[1]s"
[source]
repo = "../src"
[build]
command = ["go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", "out/%[1]s", "."]
version = ["cat", "VERSION"]
bin_dir = "out"
bin_names = ["%[1]s"]
[[release_contents]]
src = "static"
dst = "static"
required = true
[channels]
repo = "%[2]s"
path = "%[1]s"
auto = ["host"]
ssh_key = "%[3]s"
known_hosts = "%[4]s"
[storage]
%[5]s
access_key_file = "%[6]s"
secret_key_file = "%[7]s"
ca_file = "%[8]s"
[signing]
release_key = "keys/release.key"
channel_key = "keys/channel.key"
trust = "keys/trust.json"
`, a.name, a.push.URL, a.push.KeyFile, a.push.KnownHosts, a.storage(), a.writer.AccessKeyFile, a.writer.SecretKeyFile, a.s3.CAFile)
}

// storage is what builders and nodes say alike.
func (s *stage) storage() string {
	return fmt.Sprintf("url = \"s3://%s/releases\"\nendpoint = \"%s\"\nregion = \"%s\"\npath_style = true", s.bucket, s.s3.Endpoint, s.s3.Region)
}

func (a *app) builder(args ...string) string {
	a.t.Helper()
	return a.run(append(a.env(), "SANDO_CONFIG="+a.path(a.name, "site", "builder.toml")), append([]string{"builder"}, args...)...)
}

// release commits a version of the app, publishes it, and mirrors what tier host runs.
func (a *app) release(version string) {
	a.t.Helper()
	src := a.path(a.name, "src")
	old, err := os.ReadFile(filepath.Join(src, "VERSION"))
	must(a.t, err)
	for _, name := range []string{"VERSION", "static/index.html"} {
		data, err := os.ReadFile(filepath.Join(src, name))
		must(a.t, err)
		data = bytes.ReplaceAll(data, bytes.TrimSpace(old), []byte(version))
		must(a.t, os.WriteFile(filepath.Join(src, name), data, 0o644))
	}
	a.run(a.env(), "git", "-C", src, "add", "-A")
	a.run(a.env(), "git", "-C", src, "commit", "-q", "--allow-empty", "-m", version)
	out := a.builder("release")
	if !strings.Contains(out, "host: ") || !strings.Contains(out, "-> "+version) {
		a.t.Errorf("release %s does not advance tier host:\n%s", version, out)
	}
	a.builder("mirror")
}

// promote advances tier a to what tier host runs.
func (a *app) promote() {
	a.t.Helper()
	a.builder("promote", "a")
	a.builder("mirror")
}

// mergeCommands are the two lines that a proposal ends with.
var mergeCommands = regexp.MustCompile(`(?m)^  (git clone .*)\n  (git merge .*)$`)

// merge promotes tier a as a person does: by merging what the builder proposes, in the
// words that it prints.
func (a *app) merge(version string) {
	a.t.Helper()
	out := a.builder("promote", "a", "--propose")
	said := mergeCommands.FindStringSubmatch(out)
	if said == nil || !strings.Contains(said[1], "'"+a.push.URL+"'") || !strings.Contains(out, "-> "+version) {
		a.t.Fatalf("builder promote does not print how to merge %s:\n%s", version, out)
	}
	dir, err := os.MkdirTemp(a.path(a.name), "merge-")
	must(a.t, err)
	a.run(a.env(), "sh", "-ec", "cd "+dir+"\n"+said[1]+"\n"+said[2])
	a.builder("mirror")
}

// secretless searches everything that the programs wrote and said for credentials. The
// servers' own files lie elsewhere.
func (s *stage) secretless(machines []*machine) {
	s.t.Helper()
	search := secrets.Of(s.t, secrets.Presigned(), []secrets.Secret{{Name: "passphrase", Text: passphrase}},
		secrets.File(s.t, s.writer.AccessKeyFile), secrets.File(s.t, s.writer.SecretKeyFile),
		secrets.File(s.t, s.reader.AccessKeyFile), secrets.File(s.t, s.reader.SecretKeyFile),
		secrets.File(s.t, s.push.KeyFile), secrets.File(s.t, s.pull.TokenFile), s.reportKeys())
	for _, f := range s.search(search, machines) {
		s.t.Error(f)
	}

	// The search is worth something if it finds what is no secret: the reason of the pin,
	// and what pullers log.
	harmless := secrets.Of(s.t, []secrets.Secret{{Name: "reason", Text: why}, {Name: "message", Text: "msg=accepted channel=a"}})
	places := map[string]bool{}
	for _, f := range s.search(harmless, machines) {
		places[f.Where] = true
	}
	want := []string{"output"}
	for _, m := range machines {
		want = append(want, m.host.Path("/opt/mnw/.sando/history.jsonl"), m.journal())
	}
	for _, place := range want {
		if !places[place] {
			s.t.Errorf("%s was not searched: other things were found in %v", place, places)
		}
	}
}

// reportKeys are the credentials by which nodes report.
func (s *stage) reportKeys() (keys []secrets.Secret) {
	for _, u := range s.reporters {
		keys = append(append(keys, secrets.File(s.t, u.AccessKeyFile)...), secrets.File(s.t, u.SecretKeyFile)...)
	}
	return keys
}

func (s *stage) search(search *secrets.Search, machines []*machine) []secrets.Finding {
	s.t.Helper()
	search.Except(s.path("bin"))
	found := append(search.Tree(s.t, s.dir), search.Text("output", s.said.Bytes())...)
	for _, m := range machines {
		found = append(found, m.search(search)...)
	}
	return found
}
