package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// holds asserts that dir has exactly these files with this content, and no leftovers.
func holds(t *testing.T, dir string, want map[string]string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if _, ok := want[e.Name()]; !ok {
			t.Errorf("left over: %s", e.Name())
		}
	}
	for name, content := range want {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(data) != content {
			t.Errorf("%s is %q, %v; want %q", name, data, err, content)
		}
	}
}

func mode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode().Perm() != want {
		t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	must(t, WriteFile(dir+"/f", []byte("one"), 0o644))
	must(t, WriteFile(dir+"/f", []byte("two"), 0o644))
	holds(t, dir, map[string]string{"f": "two"})
	mode(t, dir+"/f", 0o644)
	if err := WriteFile(dir+"/none/f", nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("into nothing: %v", err)
	}
	must(t, os.Mkdir(dir+"/d", 0o700))
	must(t, os.WriteFile(dir+"/d/x", nil, 0o600))
	if err := WriteFile(dir+"/d", []byte("x"), 0o644); err == nil {
		t.Error("a directory was replaced")
	}
	must(t, os.RemoveAll(dir+"/d"))
	holds(t, dir, map[string]string{"f": "two"})
}

func TestWriteFileReplacesALinkNotItsTarget(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(outside+"/canary", []byte("alive"), 0o644))
	must(t, os.Symlink(outside+"/canary", dir+"/f"))
	must(t, WriteFile(dir+"/f", []byte("new"), 0o644))
	holds(t, dir, map[string]string{"f": "new"})
	holds(t, outside, map[string]string{"canary": "alive"})
}

type broken struct{}

var errBroken = errors.New("broken pipe")

func (broken) Read([]byte) (int, error) { return 0, errBroken }

func TestCreate(t *testing.T) {
	dir := t.TempDir()
	must(t, Create(dir+"/f", strings.NewReader("one"), 0o644))
	if err := Create(dir+"/f", strings.NewReader("two"), 0o644); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second time: %v", err)
	}
	if err := Create(dir+"/g", io.MultiReader(strings.NewReader("half"), broken{}), 0o644); !errors.Is(err, errBroken) {
		t.Errorf("a reader that breaks: %v", err)
	}
	holds(t, dir, map[string]string{"f": "one"})
}

func TestAppend(t *testing.T) {
	dir := t.TempDir()
	must(t, Append(dir+"/f", []byte("one\n"), 0o600))
	must(t, Append(dir+"/f", []byte("two\n"), 0o600))
	holds(t, dir, map[string]string{"f": "one\ntwo\n"})
	must(t, os.Symlink(dir+"/f", dir+"/l"))
	if err := Append(dir+"/l", []byte("x"), 0o600); !errors.Is(err, syscall.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
}

func TestSymlink(t *testing.T) {
	dir := t.TempDir()
	for _, target := range []string{"one", "two"} {
		must(t, Symlink(target, dir+"/current"))
		if got, err := os.Readlink(dir + "/current"); err != nil || got != target {
			t.Errorf("link to %q, %v; want %q", got, err, target)
		}
	}
	must(t, os.Mkdir(dir+"/d", 0o755))
	if err := Symlink("one", dir+"/d"); err == nil {
		t.Error("a directory was replaced")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 2 {
		t.Errorf("left over: %v", entries)
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	must(t, MkdirAll(dir+"/a/b", 0o755))
	must(t, MkdirAll(dir+"/a/b", 0o700)) // there already: stays as it is
	mode(t, dir+"/a", 0o755)
	mode(t, dir+"/a/b", 0o755)
	must(t, os.WriteFile(dir+"/f", nil, 0o600))
	if err := MkdirAll(dir+"/f/x", 0o755); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("below a file: %v", err)
	}
}

func TestRenameAndRemove(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/a", 0o755))
	must(t, os.MkdirAll(dir+"/b", 0o755))
	must(t, os.WriteFile(dir+"/a/f", []byte("x"), 0o600))
	must(t, Rename(dir+"/a/f", dir+"/b/g"))
	holds(t, dir+"/a", nil)
	holds(t, dir+"/b", map[string]string{"g": "x"})
	must(t, os.WriteFile(dir+"/a/f", nil, 0o600))
	if err := Rename(dir+"/a", dir+"/b"); !errors.Is(err, syscall.ENOTEMPTY) && !errors.Is(err, fs.ErrExist) {
		t.Errorf("onto a directory that is not empty: %v", err)
	}
	must(t, Remove(dir+"/b/g"))
	holds(t, dir+"/b", nil)
	if err := Remove(dir + "/b/g"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("twice: %v", err)
	}
}

func TestExchange(t *testing.T) {
	dir := t.TempDir()
	must(t, os.MkdirAll(dir+"/staging/x", 0o755))
	must(t, os.MkdirAll(dir+"/releases/1.0", 0o755))
	must(t, os.WriteFile(dir+"/staging/x/new", []byte("new"), 0o600))
	must(t, os.WriteFile(dir+"/releases/1.0/old", []byte("old"), 0o600))
	must(t, Exchange(dir+"/staging/x", dir+"/releases/1.0"))
	holds(t, dir+"/staging/x", map[string]string{"old": "old"})
	holds(t, dir+"/releases/1.0", map[string]string{"new": "new"})
	if err := Exchange(dir+"/staging/x", dir+"/releases/2.0"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("with nothing: %v", err)
	}
	holds(t, dir+"/staging/x", map[string]string{"old": "old"})
}

func TestIsTemp(t *testing.T) {
	for name, want := range map[string]bool{
		filepath.Base(tempName("/x/state.json")): true, filepath.Base(tempName("/x/current")): true,
		".current.0123456789abcdef": true, ".current.0123456789abcdeg": false, "current.0123456789abcdef": false,
		".env": false, "..0123456789abcdef": false, "": false, ".0123456789abcdef": false,
	} {
		if got := IsTemp(name); got != want {
			t.Errorf("IsTemp(%q) = %v", name, got)
		}
	}
}

func TestSyncFS(t *testing.T) {
	f, err := os.Open(t.TempDir())
	must(t, err)
	must(t, SyncFS(f))
	must(t, f.Close())
	if err := SyncFS(f); err == nil {
		t.Error("a closed file was synced")
	}
}

// What a fault says does not change from one time to the next: logs that leave out what they
// said already would be full of it.
func TestSameFaultSameError(t *testing.T) {
	dir := t.TempDir()
	gone := dir + "/gone/f"
	for name, c := range map[string]struct {
		path string
		do   func(path string) error
	}{
		"write":   {gone, func(p string) error { return WriteFile(p, nil, 0o600) }},
		"create":  {gone, func(p string) error { return Create(p, strings.NewReader(""), 0o600) }},
		"symlink": {gone, func(p string) error { return Symlink("x", p) }},
		"replace": {dir, func(p string) error { return WriteFile(p, nil, 0o600) }}, // a directory
	} {
		t.Run(name, func(t *testing.T) {
			first, second := c.do(c.path), c.do(c.path)
			if first == nil || second == nil || first.Error() != second.Error() || !strings.Contains(first.Error(), " "+c.path+": ") {
				t.Errorf("first %v, then %v", first, second)
			}
		})
	}
}
