package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

func TestCreate(t *testing.T) {
	want := map[string][]byte{
		"fleet.toml":      []byte("app = \"mnw\"\n"),
		"channels/a.json": []byte("a"),
		"trust/1.json":    []byte("trust"),
		".gitattributes":  []byte("channels/** -text -merge\n"),
	}
	for _, umask := range []int{0, 0o022, 0o077} {
		func() {
			defer unix.Umask(unix.Umask(umask))
			dir := filepath.Join(t.TempDir(), "made", "a b%c.git")
			repoURL := "file://" + strings.NewReplacer("%", "%25", " ", "%20").Replace(dir)
			if err := Create(t.Context(), repoURL, "deep/main", tester, want); err != nil {
				t.Fatal(err)
			}
			if out := git(t, dir, "fsck", "--strict"); out != "" {
				t.Errorf("git fsck says: %s", out)
			}
			info, err := os.Stat(dir)
			if err != nil || info.Mode().Perm() != fs.FileMode(0o777&^umask) {
				t.Errorf("umask %03o: mode %s, %v", umask, info.Mode(), err)
			}
			checkModes(t, dir, fs.FileMode(umask))
			work := filepath.Join(t.TempDir(), "work")
			git(t, "/", "clone", "-q", repoURL, work)
			if branch := git(t, work, "branch", "--show-current"); branch != "deep/main" {
				t.Errorf("a clone is on branch %q", branch)
			}
			if got := git(t, work, "ls-files"); got != ".gitattributes\nchannels/a.json\nfleet.toml\ntrust/1.json" {
				t.Errorf("a clone has %q", got)
			}
			for f, data := range want {
				if got, err := os.ReadFile(filepath.Join(work, f)); err != nil || string(got) != string(data) {
					t.Errorf("%s is %q, %v", f, got, err)
				}
			}
			write(t, work+"/new", "x")
			git(t, work, "add", "-A")
			git(t, work, "commit", "-q", "-m", "by a person")
			git(t, work, "push", "-q")
			checkOnly(t, filepath.Dir(dir), filepath.Base(dir))
		}()
	}
}

// checkModes reports what in a git directory has another mode than git gives it.
func checkModes(t *testing.T, dir string, umask fs.FileMode) {
	t.Helper()
	loose := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		want := fs.FileMode(0o666)
		switch {
		case d.IsDir():
			want = 0o777
		case strings.HasPrefix(p, filepath.Join(dir, "objects")):
			loose++
			want = 0o444
		}
		if got := info.Mode().Perm(); got != want&^umask {
			t.Errorf("umask %03o: %s has mode %03o, want %03o", umask, p, got, want&^umask)
		}
		return nil
	})
	if err != nil || loose == 0 {
		t.Errorf("%d objects, %v", loose, err)
	}
}

// checkOnly reports everything in dir but name.
func checkOnly(t *testing.T, dir string, names ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i, e := range entries {
		if i >= len(names) || e.Name() != names[i] {
			t.Errorf("%s has %q, want only %q", dir, e.Name(), names)
		}
	}
}

func TestCreateEmptyDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := Create(t.Context(), "file://"+dir, "main", tester, nil); err != nil {
		t.Fatal(err)
	}
	s := fetch(t, open(t, dir), "")
	if _, err := s.Read("fleet.toml", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read from an empty repo = %v, want fs.ErrNotExist", err)
	}
	if _, err := open(t, dir).Push(t.Context(), tester, files("x", "y")); err != nil {
		t.Error(err)
	}
}

// TestCreateOver creates where there is something.
func TestCreateOver(t *testing.T) {
	for name, put := range map[string]func(t *testing.T, path string){
		"repo":              func(t *testing.T, path string) { git(t, "/", "init", "-q", "--bare", path) },
		"full directory":    func(t *testing.T, path string) { write(t, path+"/x", "x") },
		"file":              func(t *testing.T, path string) { write(t, path, "x") },
		"link to directory": func(t *testing.T, path string) { symlink(t, t.TempDir(), path) },
		"dangling link":     func(t *testing.T, path string) { symlink(t, "/nowhere", path) },
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			put(t, parent+"/c.git")
			before := listing(t, parent)
			err := Create(t.Context(), "file://"+parent+"/c.git", "main", tester, map[string][]byte{"x": nil})
			if checkReason(t, "Create", err, reason.Config, "name another"); !errors.Is(err, fs.ErrExist) {
				t.Errorf("Create = %v, want fs.ErrExist", err)
			}
			if after := listing(t, parent); after != before {
				t.Errorf("Create changed it:\n%s\nwas\n%s", after, before)
			}
		})
	}
}

func symlink(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestCreateRefused(t *testing.T) {
	good := map[string][]byte{"x": []byte("y")}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, c := range []struct {
		name   string
		ctx    context.Context
		url    string
		branch string
		author Author
		files  map[string][]byte
		code   reason.Code
		words  string
	}{
		{"https", t.Context(), "https://git.example/c.git", "main", tester, good, reason.Config, "not that of a directory"},
		{"plain path", t.Context(), "DIR", "main", tester, good, reason.Config, "is refused"},
		{"branch", t.Context(), "file://DIR", "-x", tester, good, reason.Config, "branch"},
		{"author", t.Context(), "file://DIR", "main", Author{}, good, reason.Config, "author"},
		{"path", t.Context(), "file://DIR", "main", tester, map[string][]byte{"../x": nil}, reason.Format, "path"},
		{"file and directory", t.Context(), "file://DIR", "main", tester, map[string][]byte{"x": []byte("y"), "x/y": []byte("z")}, reason.Format, "is a file, want a directory"},
		{"cancelled", cancelled, "file://DIR", "main", tester, good, reason.IO, "context canceled"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent := t.TempDir()
			dir := parent + "/c.git"
			err := Create(c.ctx, strings.Replace(c.url, "DIR", dir, 1), c.branch, c.author, c.files)
			checkReason(t, "Create", err, c.code, c.words)
			checkOnly(t, parent)
			if err := Create(t.Context(), "file://"+dir, "main", tester, good); err != nil {
				t.Errorf("Create afterwards: %v", err)
			}
		})
	}
}

func TestCreateConcurrent(t *testing.T) {
	parent := t.TempDir()
	errs := make([]error, 6)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			errs[i] = Create(t.Context(), "file://"+parent+"/c.git", "main", tester, map[string][]byte{"x": []byte(fmt.Sprint(i))})
		})
	}
	wg.Wait()
	won := -1
	for i, err := range errs {
		if err == nil && won < 0 {
			won = i
		} else if !errors.Is(err, fs.ErrExist) {
			t.Errorf("creator %d: %v, want fs.ErrExist, or success for one", i, err)
		}
	}
	checkRead(t, fetch(t, open(t, parent+"/c.git"), ""), "x", fmt.Sprint(won))
	checkOnly(t, parent, "c.git")
}
