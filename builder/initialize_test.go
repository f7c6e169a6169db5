package builder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func modes(t *testing.T, dir string) map[string]fs.FileMode {
	t.Helper()
	got := map[string]fs.FileMode{}
	for _, pattern := range []string{"*", "keys/*"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			info, err := os.Lstat(f)
			if err != nil {
				t.Fatal(err)
			}
			rel, err := filepath.Rel(dir, f)
			if err != nil {
				t.Fatal(err)
			}
			got[rel] = info.Mode().Perm()
		}
	}
	delete(got, "channels.git") // as git does, the umask decides
	return got
}

func TestInit(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "here")
	mask := unix.Umask(0o002)
	out, err := Init(t.Context(), InitRequest{Dir: dir, App: "mnw", Source: "https://git.example/mnw.git", Tiers: []string{"first", "second"}, Passphrase: noPassphrase})
	unix.Umask(mask)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]fs.FileMode{"keys": 0o700, "bucket": 0o755, "builder.toml": 0o644, "keys/trust.json": 0o644}
	for _, k := range initKeys {
		want["keys/"+k+".key"], want["keys/"+k+".pub"] = 0o600, 0o644
	}
	if diff := cmp.Diff(want, modes(t, dir)); diff != "" {
		t.Errorf("modes (-want +got):\n%s", diff)
	}
	trust, err := os.ReadFile(out.Trust)
	if err != nil || out.Fingerprint != layout.Sum(trust) {
		t.Errorf("fingerprint %s is not that of %s (%v)", out.Fingerprint, out.Trust, err)
	}
	parsed, err := signing.ParseTrust(trust)
	if err != nil || parsed.Version != 1 || len(parsed.Keys) != 4 || len(parsed.Roles["root"].Keys) != 2 || parsed.Roles["root"].Threshold != 1 {
		t.Errorf("trust %+v, %v", parsed, err)
	}
	cfg, err := LoadConfig(out.Config, nil)
	if err != nil || cfg.App != "mnw" || cfg.Source.Repo != "https://git.example/mnw.git" || !slices.Equal(cfg.Channels.Auto, []string{"first"}) ||
		cfg.Channels.Repo != out.Repo || cfg.Storage.URL != out.Bucket || cfg.Source.KeepWork != 3 {
		t.Fatalf("config %+v, %v", cfg, err)
	}
	b, err := New(t.Context(), cfg, Options{Passphrase: func(context.Context, string) ([]byte, error) { return []byte{}, nil }})
	if err != nil {
		t.Fatal(err)
	}
	r, err := repo.Open(t.TempDir(), cfg.repo())
	if err != nil {
		t.Fatal(err)
	}
	head, err := r.Fetch(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	v, err := b.view(head)
	if err != nil || len(v.fleet.Tiers) != 2 || v.fleet.Tiers[0].Advance != channels.AdvanceAuto || v.fleet.Tiers[1].From != "first" {
		t.Errorf("fleet %+v, %v", v.fleet, err)
	}
	signed, err := head.Signed(repo.TrustFile(1), parsed.Kids("root"), layout.MaxTrust)
	if err != nil || len(signed.Sigs) != 2 || parsed.Verify("root", signed) != nil {
		t.Errorf("trust/1.json has %d signatures, %v", len(signed.Sigs), err)
	}
	if a, err := head.Read(".gitattributes", 1000); err != nil || !strings.Contains(string(a), "channels/** -text -merge") {
		t.Errorf(".gitattributes: %q, %v", a, err)
	}
	if _, err := b.keys.open(t.Context(), "x", cfg.Signing.ReleaseKey); err != nil {
		t.Error(err)
	}
}

func TestInitRefusesWhatIsThere(t *testing.T) {
	for _, name := range initPieces {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
			t.Fatal(err)
		}
		asked := false
		_, err := Init(t.Context(), InitRequest{Dir: dir, App: "mnw", Passphrase: func(context.Context) ([]byte, error) {
			asked = true
			return nil, nil
		}})
		if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), filepath.Join(dir, name)) || asked {
			t.Errorf("%s: got %v, asked for a passphrase: %t", name, err, asked)
		}
		left, err := os.ReadDir(dir)
		if err != nil || len(left) != 1 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

func TestInitRefusals(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*InitRequest)
		says   string
	}{
		"no app":         {func(r *InitRequest) { r.App = "" }, "app"},
		"reserved app":   {func(r *InitRequest) { r.App = "builder" }, "reserved"},
		"malformed tier": {func(r *InitRequest) { r.Tiers = []string{"A"} }, "tier"},
		"tier twice":     {func(r *InitRequest) { r.Tiers = []string{"a", "a"} }, "twice"},
		"source":         {func(r *InitRequest) { r.Source = "ext::sh -c x" }, "source repository"},
		"quote":          {func(r *InitRequest) { r.Source = `https://x/"y` }, "no URL has"},
	} {
		dir := filepath.Join(t.TempDir(), "new")
		req := InitRequest{Dir: dir, App: "mnw", Passphrase: noPassphrase}
		c.change(&req)
		if _, err := Init(t.Context(), req); err == nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: the directory was made", name)
		}
	}
}

// An init that ends in the middle leaves nothing, and one that was killed nothing that
// keeps the next from working.
func TestInitInterrupted(t *testing.T) {
	stop := errors.New("told to stop")
	for name, dir := range map[string]string{"new directory": filepath.Join(t.TempDir(), "new"), "directory in use": t.TempDir()} {
		ctx, cancel := context.WithCancelCause(t.Context())
		_, existed := os.Lstat(dir)
		_, err := Init(ctx, InitRequest{Dir: dir, App: "mnw", Passphrase: func(context.Context) ([]byte, error) {
			cancel(stop)
			return []byte{}, nil
		}})
		if !errors.Is(err, stop) {
			t.Errorf("%s: got %v", name, err)
		}
		left, err := os.ReadDir(dir)
		if existed != nil != errors.Is(err, fs.ErrNotExist) || len(left) != 0 {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}

	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, initScratch, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Init(t.Context(), InitRequest{Dir: dir, App: "mnw", Passphrase: noPassphrase}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, initScratch)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the scratch directory is left: %v", err)
	}
}

// When a piece cannot be put in its place, those before it are taken back.
func TestInitTakesBack(t *testing.T) {
	dir := t.TempDir()
	req := InitRequest{Dir: dir, App: "mnw", Tiers: []string{"host"}}
	tmp, done, err := req.scratch()
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := req.scratch(); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "another builder init") {
		t.Errorf("a second init at the same time: %v", err)
	}
	if _, err := req.make(t.Context(), tmp, []byte{}); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(tmp, "bucket")); err != nil {
		t.Fatal(err)
	}
	if err := req.place(t.Context(), tmp); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if err := done(); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left %v, %v", left, err)
	}
}

func TestKeygen(t *testing.T) {
	name := filepath.Join(t.TempDir(), "release-2")
	key, err := Keygen(name, []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(key.Private)
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.Load(pem, []byte("secret"))
	if err != nil || s.Public().Kid() != key.Kid {
		t.Errorf("got %v", err)
	}
	for _, file := range []string{key.Private, key.Public} {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
		if _, err := Keygen(name, nil); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "is there already") {
			t.Errorf("without %s: got %v", file, err)
		}
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
