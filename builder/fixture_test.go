package builder

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing/keys"
)

// site is a directory made by Init, a source repository, and a bundle that takes a
// little of everything from it.
type site struct {
	t   *testing.T
	dir string // with builder.toml
	src string // work tree of the source
}

// made is the result of one Init, copied for each test: sealing keys is slow on purpose.
type made struct {
	once sync.Once
	dir  string
	keys map[string]*keys.Signer // by file name
	err  error
}

func (m *made) make() {
	if m.dir, m.err = os.MkdirTemp("", "builder-test-"); m.err != nil {
		return
	}
	if _, m.err = Init(context.Background(), InitRequest{Dir: m.dir, App: "mnw", Passphrase: noPassphrase}); m.err != nil {
		return
	}
	m.keys = map[string]*keys.Signer{}
	for _, name := range initKeys {
		pem, err := os.ReadFile(filepath.Join(m.dir, "keys", name+".key"))
		if err != nil {
			m.err = err
			return
		}
		if m.keys[name+".key"], m.err = keys.Load(pem, []byte{}); m.err != nil {
			return
		}
	}
}

var template made // written once

func TestMain(m *testing.M) {
	code := m.Run()
	if template.dir != "" {
		os.RemoveAll(template.dir)
	}
	os.Exit(code)
}

func noPassphrase(context.Context) ([]byte, error) { return []byte{}, nil }

func newSite(t *testing.T) *site {
	t.Helper()
	template.once.Do(template.make)
	if template.err != nil {
		t.Fatal(template.err)
	}
	base := t.TempDir()
	s := &site{t: t, dir: filepath.Join(base, "site"), src: filepath.Join(base, "src")}
	if err := os.CopyFS(s.dir, os.DirFS(template.dir)); err != nil {
		t.Fatal(err)
	}
	s.write("builder.toml", fmt.Sprintf(config1, s.src))
	s.git(".", "init", "-q", "-b", "main", s.src)
	s.commit("one", map[string]string{
		"VERSION": "1.0.0\n", "static/a.css": "body {}", "docs/index.md": "# mnw", ".gitignore": "out/\n",
		"build.sh": "#!/bin/sh\nset -e\nmkdir -p out\necho \"$SANDO_VERSION $SANDO_OS/$SANDO_ARCH $(cat code)\" >out/app\n" +
			"if [ -n \"$BUILD_LOG\" ]; then echo built >>\"$BUILD_LOG\"; fi\n",
		"code": "one",
	})
	return s
}

const config1 = `
app = "mnw"
state = "state"
forbidden_strings = ["/opt/makenotwork/"]
[source]
repo = "file://%s"
[build]
command = ["sh", "./build.sh"]
version = ["cat", "VERSION"]
bin_dir = "out"
bin_names = ["app"]
[[release_contents]]
src = "static"
dst = "static"
required = true
[[release_contents]]
src = "gone"
dst = "gone"
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

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// edit changes one thing in builder.toml.
func (s *site) edit(old, new string) {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "builder.toml"))
	if err != nil || !strings.Contains(string(text), old) {
		s.t.Fatalf("builder.toml has no %q (%v)", old, err)
	}
	s.write("builder.toml", strings.Replace(string(text), old, new, 1))
}

func (s *site) git(dir string, args ...string) string {
	s.t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.org", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.org",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
	out, err := c.CombinedOutput()
	if err != nil {
		s.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files into the source and commits them.
func (s *site) commit(message string, files map[string]string) string {
	s.t.Helper()
	for name, text := range files {
		path := filepath.Join(s.src, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	s.git(s.src, "add", "-A")
	s.git(s.src, "commit", "-q", "--allow-empty", "-m", message)
	return s.git(s.src, "rev-parse", "HEAD")
}

// version commits a new version with its own content.
func (s *site) version(v string) string {
	s.t.Helper()
	return s.commit(v, map[string]string{"VERSION": v, "code": v})
}

// builder opens the configuration as a program does.
func (s *site) builder(change ...func(*Config, *Options)) *Builder {
	s.t.Helper()
	cfg, err := LoadConfig(filepath.Join(s.dir, "builder.toml"), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	opt := Options{
		Log: slog.New(slog.DiscardHandler),
	}
	for _, c := range change {
		c(cfg, &opt)
	}
	b, err := New(s.t.Context(), cfg, opt)
	if err != nil {
		s.t.Fatal(err)
	}
	if opt.Passphrase == nil { // opened already; opening is slow on purpose
		b.keys.opened = map[string]*keys.Signer{}
		for _, file := range []string{cfg.Signing.ReleaseKey, cfg.Signing.ChannelKey} {
			if k := template.keys[filepath.Base(file)]; k != nil {
				b.keys.opened[file] = k
			}
		}
	}
	return b
}

// inState gives a builder a state directory of its own, as on another host.
func inState(dir string) func(*Config, *Options) {
	return func(c *Config, _ *Options) { c.State = dir }
}

func logTo(w *lockedBuffer) func(*Config, *Options) {
	return func(_ *Config, o *Options) { o.Log = slog.New(slog.NewTextHandler(w, nil)) }
}

// lockedBuffer is a buffer that several goroutines may use.
type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func (s *site) release(req ReleaseRequest) *Released {
	s.t.Helper()
	out, err := s.builder().Release(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func (s *site) promote(req PromoteRequest) *Advanced {
	s.t.Helper()
	out, err := s.builder().Promote(s.t.Context(), req)
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

// channel returns what a node that starts anew would take from the channel repo; nil
// when there is no channel.
func (s *site) channel(tier string) *channels.Channel {
	s.t.Helper()
	r, err := repo.Open(s.t.TempDir(), repo.Config{URL: FileURL(filepath.Join(s.dir, "channels.git")), Branch: "main"})
	if err != nil {
		s.t.Fatal(err)
	}
	head, err := r.Fetch(s.t.Context(), "")
	if err != nil {
		s.t.Fatal(err)
	}
	trust, err := readAnchor(filepath.Join(s.dir, "keys/trust.json"), "mnw")
	if err != nil {
		s.t.Fatal(err)
	}
	if trust, err = head.Walk(trust, nil); err != nil {
		s.t.Fatal(err)
	}
	signed, err := head.Signed(repo.ChannelFile(tier), trust.Kids(trust.ChannelRole(tier)), layout.MaxChannel)
	if missing(err) {
		return nil
	}
	if err != nil {
		s.t.Fatal(err)
	}
	c, _, err := channels.Accept(trust, "mnw", tier, signed, nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// names asserts what the channel of tier names; "" for nothing.
func (s *site) names(tier, version string) {
	s.t.Helper()
	got := ""
	if c := s.channel(tier); c != nil {
		got = c.Version
	}
	if got != version {
		s.t.Errorf("channel %s names %q, want %q", tier, got, version)
	}
}

// snapshot lists every file below dirs of the site with its content.
func (s *site) snapshot(dirs ...string) map[string]string {
	s.t.Helper()
	got := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := os.ReadFile(path)
			got[path] = string(data)
			return err
		})
		if err != nil {
			s.t.Fatal(err)
		}
	}
	return got
}

// checkout returns a fresh clone of the channel repo.
func (s *site) clone() string {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "clone")
	s.git(s.dir, "clone", "-q", filepath.Join(s.dir, "channels.git"), dir)
	return dir
}

// fleet changes fleet.toml in the channel repo.
func (s *site) fleet(old, new string) {
	s.t.Helper()
	dir := s.clone()
	file := filepath.Join(dir, "fleet.toml")
	text, err := os.ReadFile(file)
	if err != nil || !strings.Contains(string(text), old) {
		s.t.Fatalf("fleet.toml has no %q (%v)", old, err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(text), old, new, 1)), 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.git(dir, "commit", "-qam", "fleet")
	s.git(dir, "push", "-q", "origin", "main")
}
