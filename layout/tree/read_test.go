package tree

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout"
)

// release makes the tree of goldenEntries in a new directory, and what is beside it.
func release(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "release")
	mkdir(t, dir, 0o700) // the mode of the root is not of the tree
	mkdir(t, dir+"/docs", 0o755)
	writeFile(t, dir+"/docs/readme", "hello world", 0o644)
	writeFile(t, dir+"/server", "foo", 0o755)
	symlink(t, "docs/readme", dir+"/latest")
	mkdir(t, dir+"/.sando", 0o700)
	writeFile(t, dir+"/.sando/manifest.json", "{}", 0o600)
	return dir
}

func mkdir(t *testing.T, name string, perm fs.FileMode) {
	t.Helper()
	check(t, os.Mkdir(name, 0o700))
	check(t, os.Chmod(name, perm))
}

func writeFile(t *testing.T, name, data string, perm fs.FileMode) {
	t.Helper()
	check(t, os.WriteFile(name, []byte(data), 0o600))
	check(t, os.Chmod(name, perm))
}

func symlink(t *testing.T, target, name string) {
	t.Helper()
	check(t, os.Symlink(target, name))
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func open(t *testing.T, dir string) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(dir)
	check(t, err)
	t.Cleanup(func() { root.Close() })
	return root
}

func TestRead(t *testing.T) {
	got, err := Read(t.Context(), open(t, release(t)))
	check(t, err)
	if diff := cmp.Diff(goldenEntries(), got); diff != "" {
		t.Error(diff)
	}
}

func TestReadDoesNotDependOnTimesOrLinkCounts(t *testing.T) {
	dir := release(t)
	check(t, os.Chtimes(dir+"/server", time.Unix(1, 0), time.Unix(1, 0)))
	check(t, os.Link(dir+"/docs/readme", filepath.Join(filepath.Dir(dir), "other")))
	got, err := Read(t.Context(), open(t, dir))
	check(t, err)
	if Hash(got) != goldenHash {
		t.Errorf("hash is %s, want %s", Hash(got), goldenHash)
	}
}

// Only the ".sando" at the top is the puller's.
func TestReadSeesOtherDotDirectories(t *testing.T) {
	dir := release(t)
	mkdir(t, dir+"/docs/.sando", 0o755)
	writeFile(t, dir+"/.sando-x", "", 0o644)
	got, err := Read(t.Context(), open(t, dir))
	check(t, err)
	if diff := cmp.Diff([]string{"extra .sando-x", "extra docs/.sando"}, Diff(got, goldenEntries())); diff != "" {
		t.Error(diff)
	}
}

func TestReadFollowsNoLink(t *testing.T) {
	dir := release(t)
	symlink(t, "docs", dir+"/linked")
	got, err := Read(t.Context(), open(t, dir))
	check(t, err)
	if diff := cmp.Diff([]string{"extra linked"}, Diff(got, goldenEntries())); diff != "" {
		t.Error(diff)
	}
	if i := slices.IndexFunc(got, func(e Entry) bool { return e.Path == "linked" }); got[i].Kind != Link || got[i].Sum != HexOf("docs") {
		t.Errorf("link is %+v", got[i])
	}
}

func TestReadRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(t *testing.T, dir string)
		says   string
		path   bool // matches layout.ErrPath as well
	}{
		{"a file that others may not read", chmod("server", 0o700), `"server" has mode -rwx------`, false},
		{"a file that others may write", chmod("docs/readme", 0o666), `"docs/readme" has mode -rw-rw-rw-`, false},
		{"setuid", chmod("server", 0o755|fs.ModeSetuid), `"server" has mode urwxr-xr-x`, false},
		{"setgid", chmod("server", 0o755|fs.ModeSetgid), `"server" has mode grwxr-xr-x`, false},
		{"sticky", chmod("server", 0o755|fs.ModeSticky), `"server" has mode trwxr-xr-x`, false},
		{"a directory that others may write", chmod("docs", 0o777), `"docs" has mode drwxrwxrwx`, false},
		{"a directory that others may not read", chmod("docs", 0o700), `"docs" has mode drwx------`, false},
		{"a sticky directory", chmod("docs", 0o755|fs.ModeSticky), `"docs" has mode dtrwxr-xr-x`, false},
		{"named pipe", func(t *testing.T, dir string) { check(t, unix.Mkfifo(dir+"/pipe", 0o644)) }, `"pipe" is a named pipe`, false},
		{"socket", listen, `"docs/s" is a socket`, false},
		{"newline in a name", func(t *testing.T, dir string) { writeFile(t, dir+"/a\nb", "", 0o644) }, "holds U+000A", true},
		{"backslash in a name", func(t *testing.T, dir string) { writeFile(t, dir+`/docs/a\b`, "", 0o644) }, "backslash", true},
		{"a name that is not UTF-8", func(t *testing.T, dir string) { writeFile(t, dir+"/\xff", "", 0o644) }, "not UTF-8", true},
		{"absolute link", func(t *testing.T, dir string) { symlink(t, "/etc/passwd", dir+"/l") }, "absolute", true},
		{"link that leads out", func(t *testing.T, dir string) { symlink(t, "../../x", dir+"/docs/l") }, "leaves the bundle", true},
		{"link that goes down and up", func(t *testing.T, dir string) { symlink(t, "docs/../x", dir+"/l") }, `".." component`, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := release(t)
			c.change(t, dir)
			_, err := Read(t.Context(), open(t, dir))
			if !errors.Is(err, ErrTree) || errors.Is(err, layout.ErrPath) != c.path {
				t.Fatalf("got %v; want ErrTree, with layout.ErrPath: %t", err, c.path)
			}
			if !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

func chmod(name string, mode fs.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		check(t, os.Chmod(filepath.Join(dir, name), mode))
	}
}

func listen(t *testing.T, dir string) {
	t.Helper()
	t.Chdir(dir) // a socket's path is short
	l, err := net.Listen("unix", "docs/s")
	check(t, err)
	t.Cleanup(func() { l.Close() })
}

func TestReadIsNotDeeperThanABundle(t *testing.T) {
	dir := release(t)
	deep := strings.Repeat("/d", layout.MaxDepth)
	for i := 2; i <= len(deep); i += 2 {
		mkdir(t, dir+deep[:i], 0o755)
	}
	if _, err := Read(t.Context(), open(t, dir)); err != nil {
		t.Errorf("depth %d: %v", layout.MaxDepth, err)
	}
	writeFile(t, dir+deep+"/f", "", 0o644)
	if _, err := Read(t.Context(), open(t, dir)); !errors.Is(err, layout.ErrPath) {
		t.Errorf("depth %d: got %v, want layout.ErrPath", layout.MaxDepth+1, err)
	}
}

func TestReadStopsWhenTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Read(ctx, open(t, release(t))); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

func TestReadNamesWhatItCannotRead(t *testing.T) {
	testenv.User(t, "root may read everything")
	dir := release(t)
	check(t, os.Chmod(dir+"/docs", 0o300))
	t.Cleanup(func() { check(t, os.Chmod(dir+"/docs", 0o755)) })
	_, err := Scan(t.Context(), open(t, dir))
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, ErrTree) || !strings.Contains(err.Error(), `"docs`) {
		t.Errorf("got %v, want fs.ErrPermission and the name", err)
	}
}

func TestScanSortsAndKeepsModes(t *testing.T) {
	dir := release(t)
	check(t, os.RemoveAll(dir+"/.sando"))
	check(t, os.Chmod(dir+"/server", 0o4710))
	writeFile(t, dir+"/docs-x", "", 0o600)
	got, err := Scan(t.Context(), open(t, dir))
	check(t, err)
	var paths []string
	for _, f := range got {
		paths = append(paths, f.Path)
	}
	if diff := cmp.Diff([]string{"docs", "docs-x", "docs/readme", "latest", "server"}, paths); diff != "" {
		t.Error(diff)
	}
	if got[3].Target != "docs/readme" || got[1].Info.Mode() != 0o600 {
		t.Errorf("link to %q, mode %s", got[3].Target, got[1].Info.Mode())
	}
}

// To a builder ".sando" is a path like others that are not allowed.
func TestScanRefusesTheMetaDirectory(t *testing.T) {
	if _, err := Scan(t.Context(), open(t, release(t))); !errors.Is(err, layout.ErrPath) || !errors.Is(err, ErrTree) {
		t.Errorf("got %v, want layout.ErrPath and ErrTree", err)
	}
}

func TestOpenSameWantsTheSameFile(t *testing.T) {
	dir := release(t)
	root := open(t, dir)
	info, err := root.Lstat("server")
	check(t, err)
	for _, c := range []struct {
		name    string
		replace func()
	}{
		{"another mode", func() { check(t, os.Chmod(dir+"/server", 0o700)) }},
		{"another file", func() { writeFile(t, dir+"/new", "foo", 0o755); check(t, os.Rename(dir+"/new", dir+"/server")) }},
		{"other bytes", func() { check(t, os.Remove(dir+"/server")); writeFile(t, dir+"/server", "fop!", 0o755) }},
		{"a link to another file", func() { check(t, os.Remove(dir+"/server")); symlink(t, "docs/readme", dir+"/server") }},
		{"a named pipe", func() { check(t, os.Remove(dir+"/server")); check(t, unix.Mkfifo(dir+"/server", 0o755)) }},
	} {
		c.replace()
		if _, err := OpenSame(root, "server", info); !errors.Is(err, ErrTree) {
			t.Errorf("%s: got %v, want ErrTree", c.name, err)
		}
	}
}
