package puller

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/archive"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/service"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// world is a builder's side and one node, all real but for the service: the app is an
// HTTP server in this process that "runs" what `current` named when it was restarted.
type world struct {
	t       *testing.T
	base    string
	root    *keys.Signer
	release *keys.Signer
	channel *keys.Signer
	trust   *signing.Trust
	bucket  bucket.Bucket
	puller  *Puller
	app     *app
	digests map[string]layout.Digest
	seq     int64 // added to the clock, so that states are made in any order
}

// app is the program that the node runs.
type app struct {
	mu       sync.Mutex
	current  string            // the symlink
	version  string            // started last
	bad      map[string]string // version -> how it answers
	restarts int
	started  func(version string)
	missing  error // what Check says
}

func (a *app) Restart(_ context.Context, s service.Start, _ time.Duration) error {
	data, err := os.ReadFile(a.current + "/VERSION")
	a.mu.Lock()
	a.restarts++
	a.version = string(data)
	bad, hook := a.bad[a.version], a.started
	a.mu.Unlock()
	if err != nil {
		return err
	}
	if hook != nil {
		hook(string(data))
	}
	if bad == "exit" {
		return errors.New("exit status 2")
	}
	return nil
}

func (a *app) Check(context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.missing
}

func (a *app) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.bad[a.version] == "500" {
		w.WriteHeader(http.StatusInternalServerError)
	}
	json.NewEncoder(w).Encode(map[string]string{"status": "ok", "version": a.version})
}

func (a *app) set(version, how string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bad[version] = how
}

func (a *app) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.restarts
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newKey(t *testing.T) *keys.Signer {
	t.Helper()
	s, err := keys.New()
	must(t, err)
	return s
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, base: t.TempDir(), root: newKey(t), release: newKey(t), channel: newKey(t), digests: map[string]layout.Digest{}}
	w.trust = w.newTrust(1)
	doc, sigs := w.sign(w.trust, w.root)
	files := map[string][]byte{"trust/1.json": doc, "fleet.toml": []byte("app = \"mnw\"\n[[tier]]\nname = \"b\"\n")}
	for kid, sig := range sigs {
		files[signing.SignatureFile("trust/1.json", kid)] = sig
	}
	must(t, repo.Create(t.Context(), w.repo().URL, "main", author, files))
	must(t, os.WriteFile(w.base+"/trust.json", doc, 0o644))
	var err error
	w.bucket, err = bucket.Open(t.Context(), bucket.Config{URL: "file://" + w.base + "/bucket"})
	must(t, err)
	w.app = &app{current: w.base + "/node/current", bad: map[string]string{}}
	server := httptest.NewServer(w.app)
	t.Cleanup(server.Close)
	w.puller = w.newPuller(server.URL)
	return w
}

var author = repo.Author{Name: "builder", Email: "builder@example.org"}

func (w *world) repo() repo.Config {
	return repo.Config{URL: "file://" + w.base + "/channels.git", Branch: "main"}
}

func (w *world) newPuller(url string) *Puller {
	w.t.Helper()
	config := fmt.Sprintf(`
app = "mnw"
tier = "b"
node = "alpha"
root = "%[1]s/node"
trust = "%[1]s/trust.json"
[channels]
repo = "file://%[1]s/channels.git"
[storage]
url = "file://%[1]s/bucket"
[health]
url = "%[2]s"
json = { status = "ok", version = "{version}" }
start_timeout = "200ms"
interval = "5ms"
stable_for = "15ms"
`, w.base, url)
	file := w.base + "/mnw.toml"
	must(w.t, os.WriteFile(file, []byte(config), 0o644))
	cfg, err := LoadConfig(file, nil)
	must(w.t, err)
	p, err := New(w.t.Context(), cfg, slog.New(slog.NewTextHandler(testLog{w.t}, nil)), nil)
	must(w.t, err)
	p.service = w.app
	return p
}

type testLog struct{ t *testing.T }

func (l testLog) Write(p []byte) (int, error) {
	l.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (w *world) newTrust(version int64) *signing.Trust {
	t := &signing.Trust{Schema: signing.TrustSchema, App: "mnw", Version: version, Keys: map[string]canon.PEM{}, Roles: map[string]signing.Role{}}
	for role, s := range map[string]*keys.Signer{"root": w.root, "release": w.release, "channel": w.channel} {
		t.Keys[s.Public().Kid()] = s.Public().PEM()
		t.Roles[role] = signing.Role{Keys: []string{s.Public().Kid()}, Threshold: 1}
	}
	return t
}

type encoder interface{ Encode() ([]byte, error) }

func (w *world) sign(doc encoder, signers ...*keys.Signer) ([]byte, signing.Signatures) {
	w.t.Helper()
	data, err := doc.Encode()
	must(w.t, err)
	sigs := signing.Signatures{}
	for _, s := range signers {
		sig, err := s.Sign(data)
		must(w.t, err)
		sigs[s.Public().Kid()] = sig
	}
	return data, sigs
}

func (w *world) key(version, name string) string { return layout.ReleaseKey("mnw", version, name) }

func (w *world) object(key string) string { return filepath.Join(w.base, "bucket", key) }

func (w *world) put(key string, data []byte) {
	w.t.Helper()
	must(w.t, w.bucket.Create(w.t.Context(), key, bytes.NewReader(data), int64(len(data))))
}

// publish packs a version that holds VERSION and extra, signs and stores it.
func (w *world) publish(version, extra string) layout.Digest {
	w.t.Helper()
	dir := w.t.TempDir()
	for name, content := range map[string]string{"VERSION": version, "app": "binary " + version + extra, "static/a.css": strings.Repeat(version, 1000)} {
		must(w.t, os.MkdirAll(filepath.Dir(dir+"/"+name), 0o755))
		must(w.t, os.WriteFile(dir+"/"+name, []byte(content), 0o644))
	}
	must(w.t, os.Symlink("static/a.css", dir+"/style.css"))
	root, err := os.OpenRoot(dir)
	must(w.t, err)
	defer root.Close()
	var tarball bytes.Buffer
	mtime := time.Unix(1780000000, 0).UTC()
	info, _, err := archive.Pack(w.t.Context(), &tarball, root, mtime, nil)
	must(w.t, err)
	b := layout.Bundle{Platform: runtime.GOOS + "/" + runtime.GOARCH, Size: info.Size, SHA256: info.SHA256, Unpacked: info.Unpacked, Entries: info.Entries, Tree: info.Tree}
	b.Name = layout.BundleName("mnw", version, b)
	m := &layout.Manifest{Schema: layout.ManifestSchema, App: "mnw", Version: version, Source: layout.Source{Commit: strings.Repeat("1", 40), Time: canon.At(mtime)}, Bundles: []layout.Bundle{b}}
	w.put(w.key(version, b.Name), tarball.Bytes())
	return w.publishManifest(m)
}

func (w *world) publishManifest(m *layout.Manifest) layout.Digest {
	w.t.Helper()
	doc, sigs := w.sign(m, w.release)
	d := layout.Sum(doc)
	for kid, sig := range sigs {
		w.put(w.key(m.Version, layout.ManifestSignature(d, kid)), sig)
	}
	w.put(w.key(m.Version, layout.ManifestName(d)), doc)
	err := w.bucket.Create(w.t.Context(), w.key(m.Version, layout.ManifestLatest), bytes.NewReader(doc), int64(len(doc)))
	if err != nil && !errors.Is(err, os.ErrExist) {
		w.t.Fatal(err)
	}
	w.digests[m.Version] = d
	return d
}

// state returns the next signed state of tier b that names version.
func (w *world) state(version string, change func(*channels.Channel)) ([]byte, signing.Signatures) {
	w.t.Helper()
	w.seq++
	c := channels.Next(nil, time.Now(), w.trust.Version, channels.Channel{App: "mnw", Channel: "b", Version: version, Manifest: w.digests[version], Rollout: 100, Attempt: 1})
	c.Seq += w.seq * 1000
	if change != nil {
		change(c)
	}
	return w.sign(c, w.channel)
}

// advance pushes a state of tier b that names version.
func (w *world) advance(version string, change func(*channels.Channel)) {
	w.t.Helper()
	doc, sigs := w.state(version, change)
	w.push(channelFiles("b", doc, sigs))
}

func channelFiles(tier string, doc []byte, sigs signing.Signatures) map[string][]byte {
	path := "channels/" + tier + ".json"
	files := map[string][]byte{path: doc}
	for kid, sig := range sigs {
		files[signing.SignatureFile(path, kid)] = sig
	}
	return files
}

func (w *world) push(files map[string][]byte) {
	w.t.Helper()
	r, err := repo.Open(filepath.Join(w.base, "mirror"), w.repo())
	must(w.t, err)
	_, err = r.Push(w.t.Context(), author, func(*repo.Snapshot) (*repo.Commit, error) {
		return &repo.Commit{Message: "change", Files: files}, nil
	})
	must(w.t, err)
}

// step runs one cycle and demands its reason.
func (w *world) step(want reason.Code) Result {
	w.t.Helper()
	return w.demand(want)(w.puller.Step(w.t.Context(), Options{}))
}

func (w *world) pin(version string, want reason.Code) Result {
	w.t.Helper()
	return w.demand(want)(w.puller.Pin(w.t.Context(), Order{Version: version}, Options{}))
}

func (w *world) demand(want reason.Code) func(Result, error) Result {
	return func(r Result, err error) Result {
		w.t.Helper()
		if r.Reason != want || (err == nil) != (want.Exit() == 0) || err != nil && reason.Of(err) != want {
			w.t.Fatalf("cycle ended %q (%v): %s; want %q", r.Reason, err, r.Message, want)
		}
		w.check()
		if n := w.fetching(); len(n) > 1 || len(n) == 1 && want != reason.IO && want != reason.Halted {
			w.t.Fatalf("P4: fetch holds %v after %s", n, want)
		}
		return r
	}
}

// live returns the version that `current` names.
func (w *world) live() string {
	target, err := os.Readlink(w.app.current)
	if err != nil {
		return ""
	}
	return strings.TrimPrefix(target, "releases/")
}

func (w *world) runs(version string) {
	w.t.Helper()
	w.app.mu.Lock()
	running := w.app.version
	w.app.mu.Unlock()
	if w.live() != version || running != version {
		w.t.Fatalf("current is %q and %q runs, want %q", w.live(), running, version)
	}
}

// check asserts what must hold after every cycle, however it ended.
func (w *world) check() {
	w.t.Helper()
	dir := w.puller.dir
	st, err := dir.State()
	must(w.t, err)
	cur, err := dir.Current()
	must(w.t, err)
	if cur.Version != "" {
		if _, err := dir.Verify(w.t.Context(), cur.Version); err != nil && !errors.Is(err, node.ErrForeign) {
			w.t.Fatalf("I1: %v", err)
		}
	}
	if st.Intent == nil && st.Running != nil && st.Running.Version != cur.Version {
		w.t.Fatalf("I3: idle at %s, current is %s", st.Running.Version, cur.Version)
	}
	for _, sub := range []string{"staging", "trash"} {
		if names, _ := os.ReadDir(dir.Path(sub)); len(names) != 0 {
			w.t.Fatalf("P4: %s holds %v", sub, names)
		}
	}
	names, err := os.ReadDir(dir.Root())
	must(w.t, err)
	for _, n := range names {
		if n.Name() != ".sando" && n.Name() != "current" && n.Name() != "releases" {
			w.t.Fatalf("stray file %s", n.Name())
		}
	}
}

// counter returns the accepted state of tier b.
func (w *world) counter() string {
	doc, err := os.ReadFile(w.puller.dir.Path("channels", "b.json"))
	if err != nil {
		return ""
	}
	return string(doc)
}

// counting counts what is read from a bucket.
type counting struct {
	bucket.Bucket
	n atomic.Int64
}

func (c *counting) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	c.n.Add(1)
	return c.Bucket.Get(ctx, key)
}

func (c *counting) Stat(ctx context.Context, key string) (bucket.Info, error) {
	c.n.Add(1)
	return c.Bucket.Stat(ctx, key)
}
