package repo

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/sys/unix"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// damages is what can happen to a file.
var damages = map[string]func(path string) error{
	"truncated": func(p string) error { return replaceFile(p, nil) },
	"cut": func(p string) error {
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return replaceFile(p, data[:len(data)/2])
	},
	"flipped": func(p string) error {
		data, err := os.ReadFile(p)
		if err != nil || len(data) == 0 {
			return err
		}
		data[len(data)/2] ^= 0x10
		return replaceFile(p, data)
	},
	"garbage":   func(p string) error { return replaceFile(p, []byte(strings.Repeat("garbage\x00\xff", 100))) },
	"gone":      func(p string) error { return os.Remove(p) },
	"directory": func(p string) error { return errors.Join(os.Remove(p), os.MkdirAll(p+"/x", 0o700)) },
	"fifo":      func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
	"link":      func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/dev/null", p)) },
}

func replaceFile(path string, data []byte) error {
	return errors.Join(os.Remove(path), os.WriteFile(path, data, 0o600))
}

func copyDir(t *testing.T, from string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "mirror")
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

// TestMirrorDamaged damages each file of a mirror in each way, and fetches again.
func TestMirrorDamaged(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		write(t, work+"/channels/b.json", "b")
		head := commitAll(t, work, "b")
		r := open(t, dir)
		last := fetch(t, r, "").Commit
		healthy := r.m.dir
		var paths []string
		err := filepath.WalkDir(healthy, func(path string, e fs.DirEntry, err error) error {
			if rel, rerr := filepath.Rel(healthy, path); rerr == nil && !e.IsDir() {
				paths = append(paths, rel)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(paths) < 10 {
			t.Fatalf("a mirror has only the files %q", paths)
		}
		for _, p := range paths {
			for how, damage := range damages {
				mirror := copyDir(t, healthy)
				if err := damage(filepath.Join(mirror, p)); err != nil {
					t.Fatal(err)
				}
				r, err := Open(mirror, config(dir))
				if p == markerFile && how == "gone" {
					checkReason(t, "Open without the marker", err, reason.Config, "holds something else")
					continue
				}
				if err != nil {
					t.Errorf("%s of %s: Open: %v", how, p, err)
					continue
				}
				s, err := r.Fetch(t.Context(), last)
				if err != nil || s.Commit != head || s.Rewritten {
					t.Errorf("%s of %s: Fetch = %+v, %v", how, p, s, err)
					continue
				}
				checkRead(t, s, "channels/a.json", "{\"a\":1}\n")
				checkRead(t, s, "channels/b.json", "b")
			}
		}
	})
}

// TestMirrorEmptied removes everything in a mirror.
func TestMirrorEmptied(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		mirror := filepath.Join(t.TempDir(), "m")
		for range 2 {
			r, err := Open(mirror, config(dir))
			if err != nil {
				t.Fatal(err)
			}
			checkRead(t, fetch(t, r, ""), "channels/a.json", "{\"a\":1}\n")
			for _, e := range []string{"objects", "refs", "HEAD", "config", "shallow", markerFile} {
				if err := os.RemoveAll(filepath.Join(mirror, e)); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// TestMirrorBrokenLater damages the mirror of a Repo that has verified it.
func TestMirrorBrokenLater(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		s := fetch(t, r, "")
		if err := os.RemoveAll(filepath.Join(r.m.dir, "objects")); err != nil {
			t.Fatal(err)
		}
		r.m.Store = objects.Open(r.m.dir) // nothing is remembered
		_, err := s.Read("channels/a.json", 100)
		checkReason(t, "Read from a broken mirror", err, reason.IO, "local mirror is broken")
		checkRead(t, fetch(t, r, s.Commit), "channels/a.json", "{\"a\":1}\n")
		checkRead(t, s, "channels/a.json", "{\"a\":1}\n")
	})
}

// TestMirrorLies has an object with another content in the place of one.
func TestMirrorLies(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		s := fetch(t, r, "")
		e, err := r.m.Find(s.tree, "channels/a.json")
		if err != nil {
			t.Fatal(err)
		}
		object := func(h plumbing.Hash) string {
			return filepath.Join(r.m.dir, "objects", h.String()[:2], h.String()[2:])
		}
		other := blob(t, r.m.Store, []byte("forged"))
		data, err := os.ReadFile(object(other))
		if err != nil {
			t.Fatal(err)
		}
		if err := replaceFile(object(e.Hash), data); err != nil {
			t.Fatal(err)
		}
		again, err := Open(r.m.dir, config(dir))
		if err != nil {
			t.Fatal(err)
		}
		checkRead(t, fetch(t, again, ""), "channels/a.json", "{\"a\":1}\n")
	})
}

// TestSourceDamaged has the same in the repo itself.
func TestSourceDamaged(t *testing.T) {
	for how, damage := range damages {
		dir := newRepo(t)
		name := git(t, dir, "rev-parse", "main:channels/a.json")
		object := filepath.Join(dir, "objects", name[:2], name[2:])
		healthy, err := os.ReadFile(object)
		if err != nil {
			t.Fatal(err)
		}
		if err := damage(object); err != nil {
			t.Fatal(err)
		}
		r := open(t, dir)
		_, err = r.Fetch(t.Context(), "")
		checkReason(t, "Fetch with an object that is "+how, err, reason.IO, "object is")
		if err := errors.Join(os.RemoveAll(object), os.WriteFile(object, healthy, 0o644)); err != nil {
			t.Fatal(err)
		}
		checkRead(t, fetch(t, r, ""), "channels/a.json", "{\"a\":1}\n")
	}
}

// TestFiles shows that no file stays open.
func TestFiles(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	dir := newRepo(t)
	r := open(t, dir)
	git(t, dir, "gc", "-q")
	fetch(t, r, "")
	before := count()
	for i := range 5 {
		s := fetch(t, r, "")
		checkRead(t, s, "fleet.toml", "app = \"mnw\"\n")
		if _, err := r.Push(t.Context(), tester, files("x", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		git(t, dir, "gc", "-q")
		if err := r.drop(); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Branches(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if after := count(); after > before {
		t.Errorf("%d files are open, %d were", after, before)
	}
}

func TestMirrorLeftovers(t *testing.T) {
	dir := newRepo(t)
	r := open(t, dir)
	fetch(t, r, "")
	before := listing(t, r.m.dir)
	for _, f := range []string{".shallow.0123456789abcdef", "objects/pack/tmp_obj_12345", "refs/sando/.head.0123456789abcdef"} {
		write(t, filepath.Join(r.m.dir, f), "x")
	}
	if _, err := Open(r.m.dir, config(dir)); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, r.m.dir); after != before {
		t.Errorf("after Open there is\n%s\nwant\n%s", after, before)
	}
}

// TestMirrorCrowded lets a mirror grow until it is made anew. What the host sends decides
// about number and size of the objects, and about their names.
func TestMirrorCrowded(t *testing.T) {
	for name, grow := range map[string]func(t *testing.T, r *Repo){
		"many": func(t *testing.T, r *Repo) {
			for i := range maxMirrorObjects {
				write(t, filepath.Join(r.m.dir, fmt.Sprintf("objects/%02x/%038x", 0x20+i%2, i)), "x")
			}
		},
		"big": func(t *testing.T, r *Repo) {
			file := filepath.Join(r.m.dir, "objects/20", strings.Repeat("0", 38))
			write(t, file, "x")
			if err := os.Truncate(file, maxMirrorBytes); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := newRepo(t)
			work := clone(t, dir)
			r := open(t, dir)
			last := fetch(t, r, "").Commit
			if r.m.crowded() {
				t.Error("a new mirror is crowded")
			}
			grow(t, r)
			if s := fetch(t, r, last); s.Commit != last || !r.m.crowded() {
				t.Error("an idle Fetch made the mirror anew")
			}
			commitAll(t, work, "next")
			if _, err := r.Branches(t.Context(), ""); err != nil || !r.m.crowded() {
				t.Errorf("Branches made the mirror anew, whose snapshots are in it: %v", err)
			}
			head := commitAll(t, work, "another")
			if s := fetch(t, r, last); s.Commit != head || s.Rewritten || r.m.crowded() {
				t.Errorf("Fetch = %+v, crowded %t", s, r.m.crowded())
			}
			checkRead(t, fetch(t, r, head), "channels/a.json", "{\"a\":1}\n")
		})
	}
}

// TestAsRootMirrorFull fetches a commit that does not fit on the disk: nothing of it stays, and
// the next one that fits is fetched.
func TestAsRootMirrorFull(t *testing.T) {
	testenv.Root(t, "mount a small filesystem")
	disk := t.TempDir()
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=4m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(disk, unix.MNT_DETACH) })
	dir := newRepo(t)
	small := git(t, dir, "rev-parse", "main")
	r, err := Open(filepath.Join(disk, "mirror"), config(dir))
	if err != nil {
		t.Fatal(err)
	}
	s := objects.Open(dir)
	var all []objects.Entry
	for i := range 6 {
		data := make([]byte, 1<<20)
		rand.Read(data)
		all = append(all, objects.Entry{Mode: objects.ModeFile, Name: fmt.Sprint(i), Hash: blob(t, s, data)})
	}
	git(t, dir, "update-ref", "refs/heads/main", writeCommit(t, s, writeTree(t, s, all)).String())
	var said []string
	for range 2 {
		_, err = r.Fetch(t.Context(), small)
		checkReason(t, "Fetch of what does not fit", err, reason.Disk, "no space left")
		said = append(said, err.Error())
		var fs unix.Statfs_t
		if err := unix.Statfs(disk, &fs); err != nil {
			t.Fatal(err)
		}
		if used := int64(fs.Blocks-fs.Bfree) * fs.Bsize; used > 1<<20 {
			t.Errorf("%d bytes stay on the disk", used)
		}
		if found := listing(t, r.m.dir); strings.Contains(found, "tmp_") {
			t.Errorf("there stays %s", found)
		}
	}
	if said[0] != said[1] { // it would be news each time
		t.Errorf("says %q, and then %q", said[0], said[1])
	}
	git(t, dir, "update-ref", "refs/heads/main", small)
	checkRead(t, fetch(t, r, small), "channels/a.json", "{\"a\":1}\n")
}

func TestMirrorModes(t *testing.T) {
	for _, umask := range []int{0, 0o022, 0o077} {
		func() {
			defer unix.Umask(unix.Umask(umask))
			dir := newRepo(t)
			r := open(t, dir)
			checkRead(t, fetch(t, r, ""), "channels/a.json", "{\"a\":1}\n")
			if _, err := r.Push(t.Context(), tester, files("x", "y")); err != nil {
				t.Error(err)
			}
			info, err := os.Stat(r.m.dir)
			if err != nil || info.Mode().Perm() != 0o700 {
				t.Errorf("umask %03o: the mirror has mode %s, %v, want 0700", umask, info.Mode(), err)
			}
		}()
	}
}

// TestMirrorOwned has something else in the place of a mirror, which is removed only when
// the place is said to be the caller's own.
func TestMirrorOwned(t *testing.T) {
	dir := newRepo(t)
	outside := t.TempDir()
	write(t, outside+"/precious", "x")
	healthy := open(t, dir)
	last := fetch(t, healthy, "").Commit
	marker := func(m string) string { return filepath.Join(m, markerFile) }
	for name, c := range map[string]struct {
		put   func(mirror string) error
		words string // of the error when it is not owned
	}{
		"file":          {func(m string) error { return errors.Join(os.RemoveAll(m), os.WriteFile(m, nil, 0o600)) }, "not a directory"},
		"fifo":          {func(m string) error { return errors.Join(os.RemoveAll(m), unix.Mkfifo(m, 0o600)) }, "not a directory"},
		"dangling link": {func(m string) error { return errors.Join(os.RemoveAll(m), os.Symlink("/proc/nowhere", m)) }, "make mirror"},
		"link":          {func(m string) error { return errors.Join(os.RemoveAll(m), os.Symlink(outside, m)) }, "holds something else"},
		"no marker":     {func(m string) error { return os.Remove(marker(m)) }, "holds something else"},
		"broken and directory for marker": {func(m string) error {
			return errors.Join(os.Remove(m+"/HEAD"), os.Remove(marker(m)), os.MkdirAll(marker(m)+"/x", 0o700))
		}, "file exists"},
	} {
		mirror := copyDir(t, healthy.m.dir)
		if err := c.put(mirror); err != nil {
			t.Fatal(err)
		}
		conf := config(dir)
		if _, err := Open(mirror, conf); err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s: Open = %v, want the words %q", name, err, c.words)
		}
		conf.OwnsMirror = true
		for range 2 {
			r, err := Open(mirror, conf)
			if err != nil {
				t.Errorf("%s: Open = %v when it is owned", name, err)
				continue
			}
			checkRead(t, fetch(t, r, last), "channels/a.json", "{\"a\":1}\n")
		}
	}
	if got, err := os.ReadFile(outside + "/precious"); err != nil || string(got) != "x" {
		t.Errorf("a link was followed: %q, %v", got, err)
	}
}

// TestMirrorOwnedKept opens a mirror that is as it should be: it is used, not made anew.
func TestMirrorOwnedKept(t *testing.T) {
	dir := newRepo(t)
	r := open(t, dir)
	fetch(t, r, "")
	before := listing(t, r.m.dir)
	own := config(dir)
	own.OwnsMirror = true
	if _, err := Open(r.m.dir, own); err != nil {
		t.Fatal(err)
	}
	if after := listing(t, r.m.dir); after != before {
		t.Errorf("after Open there is\n%s\nwant\n%s", after, before)
	}
}
