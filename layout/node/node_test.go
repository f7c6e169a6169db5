package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

func open(t *testing.T) *Dir {
	t.Helper()
	d, err := Open(filepath.Join(t.TempDir(), "app"))
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// install puts a release in place that holds one file.
func install(t *testing.T, d *Dir, version, content string) *Installed {
	t.Helper()
	if err := stageOne(d, version, content); err != nil {
		t.Fatal(err)
	}
	rel, err := d.Verify(t.Context(), version)
	if err != nil {
		t.Fatal(err)
	}
	return rel
}

func stageOne(d *Dir, version, content string) error {
	s, err := d.Stage()
	if err != nil {
		return err
	}
	defer s.Discard()
	if err := s.Root.WriteFile("app", []byte(content), 0o600); err != nil {
		return err
	}
	if err := s.Root.Chmod("app", 0o755); err != nil {
		return err
	}
	entries, err := tree.Read(context.Background(), s.Root)
	if err != nil {
		return err
	}
	doc, err := manifest(version, tree.Hash(entries)).Encode()
	if err != nil {
		return err
	}
	return s.Install(version, Meta{Manifest: doc, Signatures: map[string][]byte{strings.Repeat("ab", 32): []byte("signature")}}, entries)
}

func manifest(version string, hash layout.Digest) *layout.Manifest {
	b := layout.Bundle{Platform: runtime.GOOS + "/" + runtime.GOARCH, Size: 1, SHA256: strings.Repeat("0", 64), Unpacked: 1, Entries: 1, Tree: hash}
	m := &layout.Manifest{Schema: layout.ManifestSchema, App: "mnw", Version: version, Source: layout.Source{Commit: strings.Repeat("1", 40), Time: canon.At(time.Unix(1, 0))}}
	b.Name = layout.BundleName(m.App, m.Version, b)
	m.Bundles = []layout.Bundle{b}
	return m
}

func TestOpenMakesEverythingWhateverTheUmask(t *testing.T) {
	for _, mask := range []int{0o000, 0o077} {
		t.Run(fmt.Sprintf("%03o", mask), func(t *testing.T) {
			base := t.TempDir()
			old := syscall.Umask(mask)
			d, err := Open(filepath.Join(base, "app"))
			syscall.Umask(old)
			if err != nil {
				t.Fatal(err)
			}
			for path, want := range map[string]fs.FileMode{
				d.Root(): 0o755, d.ReleasesPath(): 0o755, d.Path(): 0o700, d.Path("staging"): 0o700, d.Path("trust"): 0o700,
			} {
				info, err := os.Stat(path)
				if err != nil {
					t.Fatal(err)
				}
				if got := info.Mode().Perm(); got != want {
					t.Errorf("%s has mode %o, want %o", path, got, want)
				}
			}
			if _, err := Open(d.Root()); err != nil {
				t.Errorf("opened again: %v", err)
			}
		})
	}
}

func TestCheckAbove(t *testing.T) {
	base := t.TempDir()
	d := &Dir{filepath.Join(base, "srv", "a", "app")}
	link := &Dir{filepath.Join(base, "link")}
	if err := errors.Join(os.MkdirAll(filepath.Join(base, "srv", "real"), 0o755), os.Symlink("srv/real", link.root), d.CheckAbove(), link.CheckAbove()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(base, "srv"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*Dir{d, link} {
		if err := d.CheckAbove(); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), base+"/srv is writable by others") {
			t.Errorf("%s: %v", d.root, err)
		}
	}
}

func TestOpenRefusesWhatOthersCanChange(t *testing.T) {
	for name, c := range map[string]struct {
		break_ func(base string) error
		want   string
	}{
		"parent writable by all":       {func(b string) error { return os.Chmod(b, 0o777) }, "is writable by others"},
		"parent writable by its group": {func(b string) error { return os.Chmod(b, 0o770) }, "is writable by others"},
		"root writable by all":         {func(b string) error { return os.Chmod(b+"/app", 0o757) }, "is writable by others"},
		"releases writable by all":     {func(b string) error { return os.Chmod(b+"/app/releases", 0o777) }, "is writable by others"},
		".sando readable by all":       {func(b string) error { return os.Chmod(b+"/app/.sando", 0o755) }, "chmod 700"},
		"channels readable by all":     {func(b string) error { return os.Chmod(b+"/app/.sando/channels", 0o750) }, "chmod 700"},
		"releases is a file": {func(b string) error {
			return errors.Join(os.Remove(b+"/app/releases"), os.WriteFile(b+"/app/releases", nil, 0o644))
		}, "not a directory"},
		"staging is a link": {func(b string) error {
			return errors.Join(os.Remove(b+"/app/.sando/staging"), os.Symlink("/tmp", b+"/app/.sando/staging"))
		}, "not a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			base := t.TempDir()
			if _, err := Open(base + "/app"); err != nil {
				t.Fatal(err)
			}
			if err := c.break_(base); err != nil {
				t.Fatal(err)
			}
			_, err := Open(base + "/app")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want …%s…", err, c.want)
			}
		})
	}
	t.Run("sticky parent", func(t *testing.T) {
		base := t.TempDir()
		if err := os.Chmod(base, 0o777|fs.ModeSticky); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(base + "/app"); err != nil {
			t.Error(err)
		}
	})
	for _, bad := range []string{"relative", "/", "/a/../b", "/a/"} {
		if _, err := Open(bad); reason.Of(err) != reason.Config {
			t.Errorf("Open(%q): got %v", bad, err)
		}
	}
}

func TestCurrent(t *testing.T) {
	d := open(t)
	install(t, d, "1.0", "one")
	for name, c := range map[string]struct {
		make func() error
		want Current
	}{
		"none":           {func() error { return nil }, Current{}},
		"live":           {func() error { return os.Symlink("releases/1.0", d.CurrentPath()) }, Current{Version: "1.0"}},
		"absolute":       {func() error { return os.Symlink(d.ReleasePath("1.0"), d.CurrentPath()) }, Current{Version: "1.0"}},
		"trailing slash": {func() error { return os.Symlink("releases/1.0/", d.CurrentPath()) }, Current{Version: "1.0"}},
		"dangling":       {func() error { return os.Symlink("releases/2.0", d.CurrentPath()) }, Current{Dangling: "2.0"}},
		"outside":        {func() error { return os.Symlink("/etc", d.CurrentPath()) }, Current{Odd: "points to \"/etc\""}},
		"up":             {func() error { return os.Symlink("releases/../x", d.CurrentPath()) }, Current{Odd: "points to"}},
		"deeper":         {func() error { return os.Symlink("releases/1.0/app", d.CurrentPath()) }, Current{Odd: "points to"}},
		"a file":         {func() error { return os.WriteFile(d.CurrentPath(), nil, 0o644) }, Current{Odd: "is a file"}},
		"a directory":    {func() error { return os.Mkdir(d.CurrentPath(), 0o755) }, Current{Odd: "is a directory"}},
		"bad version":    {func() error { return os.Symlink("releases/.hidden", d.CurrentPath()) }, Current{Odd: "points to"}},
		"trailing dots":  {func() error { return os.Symlink("releases/..", d.CurrentPath()) }, Current{Odd: "points to"}},
	} {
		t.Run(name, func(t *testing.T) {
			os.RemoveAll(d.CurrentPath())
			if err := c.make(); err != nil {
				t.Fatal(err)
			}
			got, err := d.Current()
			if err != nil {
				t.Fatal(err)
			}
			if got.Version != c.want.Version || got.Dangling != c.want.Dangling || (c.want.Odd == "") != (got.Odd == "") || !strings.Contains(got.Odd, c.want.Odd) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if err := d.Swap("1.0"); (err == nil) != (c.want.Odd == "") || err != nil && reason.Of(err) != reason.Config {
				t.Errorf("swap: %v", err)
			}
		})
	}
}

func TestInstallVerifyTrash(t *testing.T) {
	d := open(t)
	rel := install(t, d, "1.0", "one")
	if rel.Digest != layout.Sum(rel.Manifest) {
		t.Errorf("digest is %s", rel.Digest)
	}
	sigs, err := d.Signatures(rel, []string{strings.Repeat("ab", 32), strings.Repeat("cd", 32)})
	if err != nil || len(sigs) != 1 {
		t.Errorf("signatures: %v, %v", sigs, err)
	}
	// Onto a release that is there, nothing is put.
	if err := stageOne(d, "1.0", "other"); !errors.Is(err, fs.ErrExist) && !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("second install: %v", err)
	}
	if _, err := d.Verify(t.Context(), "1.0"); err != nil {
		t.Errorf("after a second install: %v", err)
	}
	if err := os.WriteFile(d.ReleasePath("1.0")+"/app", []byte("two"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Verify(t.Context(), "1.0"); reason.Of(err) != reason.Mismatch || !strings.Contains(err.Error(), "app") {
		t.Errorf("damaged: %v", err)
	}
	if err := d.Trash("1.0"); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Release("1.0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after trash: %v", err)
	}
	if err := d.EmptyTrash(always); err != nil {
		t.Fatal(err)
	}
	if names, _ := os.ReadDir(d.Path("trash")); len(names) != 0 {
		t.Errorf("trash holds %v", names)
	}
}

func TestForeign(t *testing.T) {
	d := open(t)
	if err := os.MkdirAll(d.ReleasePath("0.1"), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Release("0.1"); !errors.Is(err, ErrForeign) || reason.Of(err) != reason.Mismatch {
		t.Errorf("got %v", err)
	}
}

func TestCleanTouchesOnlyItsOwn(t *testing.T) {
	d := open(t)
	install(t, d, "1.0", "one")
	outside := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(outside+"/canary", []byte("alive"), 0o644))
	gone := []string{
		".current.0123456789abcdef", ".sando/.state.json.0123456789abcdef", ".sando/channels/.b.json.0123456789abcdef",
		".sando/staging/x/y", ".sando/fetch/dir/x", ".sando/fetch/link", ".sando/trash/old/link", "releases/1.0/.sando/.manifest.json.0123456789abcdef",
	}
	stay := []string{".env", ".current.notatemp", "current.bak", ".sando/.pin.json.0123456789abcdef", ".sando/fetch/part", "releases/1.0/app", ".other.0123456789abcdef"}
	for _, p := range append(gone, stay...) {
		p = filepath.Join(d.Root(), p)
		must(os.MkdirAll(filepath.Dir(p), 0o755))
		if strings.HasPrefix(filepath.Base(p), ".current.0") {
			must(os.Symlink("releases/1.0", p))
			continue
		}
		if filepath.Base(p) == "link" {
			must(os.Symlink(outside, p))
			continue
		}
		if _, err := os.Lstat(p); err != nil {
			must(os.WriteFile(p, nil, 0o600))
		}
	}
	must(d.Clean(always))
	for _, p := range gone {
		if _, err := os.Lstat(filepath.Join(d.Root(), p)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is still there", p)
		}
	}
	for _, p := range append(stay, outside+"/canary") {
		if !filepath.IsAbs(p) {
			p = filepath.Join(d.Root(), p)
		}
		if _, err := os.Lstat(p); err != nil {
			t.Errorf("%s: %v", p, err)
		}
	}
}

func TestLockSaysWhoHoldsIt(t *testing.T) {
	d := open(t)
	unlock, err := d.Lock(t.Context(), "first", nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	holder := ""
	_, err = d.Lock(ctx, "second", func(h string) { holder = h; cancel() })
	if !errors.Is(err, context.Canceled) || !strings.Contains(holder, "(first)") || !strings.Contains(err.Error(), "first") {
		t.Errorf("holder %q, error %v", holder, err)
	}
	unlock()
	unlock, err = d.Lock(t.Context(), "third", func(h string) { t.Errorf("waits for %s", h) })
	if err != nil {
		t.Fatal(err)
	}
	unlock()
	if d.LastCycle().IsZero() {
		t.Error("no last cycle")
	}
}

func always() bool { return true }

func TestSaveChannelKeepsOneSetOfSignatures(t *testing.T) {
	d := open(t)
	k1, k2 := strings.Repeat("1", 64), strings.Repeat("2", 64)
	for tier, docs := range map[string][]string{"b": {"old", "new"}, "b-two": {"other"}} {
		for _, doc := range docs {
			if err := d.SaveChannel(tier, []byte(doc), map[string][]byte{k1: []byte("s1 " + doc), k2: []byte("s2 " + doc)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for tier, want := range map[string]string{"b": "new", "b-two": "other"} {
		doc, err := d.Channel(tier)
		if err != nil || string(doc) != want {
			t.Errorf("channel %s: %q, %v", tier, doc, err)
		}
		sigs, err := d.ChannelSignatures(tier, doc, []string{k1, k2})
		if err != nil || string(sigs[k1]) != "s1 "+want || string(sigs[k2]) != "s2 "+want {
			t.Errorf("signatures %s: %q, %v", tier, sigs, err)
		}
	}
	if names, _ := os.ReadDir(d.Path("channels")); len(names) != 6 {
		t.Errorf("channels/ holds %v", names)
	}
}

func TestTrustChain(t *testing.T) {
	d := open(t)
	kid := strings.Repeat("1", 64)
	for _, n := range []int64{1, 2, 10} {
		if err := d.SaveTrust(n, fmt.Appendf(nil, "trust %d", n), map[string][]byte{kid: []byte("s")}); err != nil {
			t.Fatal(err)
		}
	}
	versions, err := d.TrustVersions()
	if err != nil || fmt.Sprint(versions) != "[1 2 10]" {
		t.Errorf("got %v, %v", versions, err)
	}
	if err := d.SaveChannel("b", []byte("x"), nil); err != nil {
		t.Fatal(err)
	}
	if err := d.ForgetTrust(false); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Channel("b"); err != nil {
		t.Errorf("the counter went with the trust: %v", err)
	}
	if err := d.ForgetTrust(true); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Channel("b"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the counter stayed: %v", err)
	}
}
