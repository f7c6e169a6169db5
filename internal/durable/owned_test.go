package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestOwned(t *testing.T) {
	dir := t.TempDir()
	uid, gid := os.Geteuid(), os.Getegid()
	file, sub := filepath.Join(dir, "mnw.env"), filepath.Join(dir, "mnw")
	if err := CreateOwned(file, strings.NewReader("A=1\n"), 0o640, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := MkdirOwned(sub, 0o750, uid, gid); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]fs.FileMode{file: 0o640, sub: fs.ModeDir | 0o750} {
		info, err := os.Lstat(name)
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); info.Mode() != want || int(st.Uid) != uid || int(st.Gid) != gid {
			t.Errorf("%s: %s %d:%d, want %s", name, info.Mode(), st.Uid, st.Gid, want)
		}
	}
	if err := CreateOwned(file, strings.NewReader("B=2\n"), 0o600, uid, gid); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second file: %v", err)
	}
	if err := MkdirOwned(sub, 0o700, uid, gid); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second directory: %v", err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "A=1\n" {
		t.Errorf("the file is %q now, %v", data, err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestOwnLink: a link that somebody put in a directory's place changes nothing where it leads.
func TestOwnLink(t *testing.T) {
	dir := t.TempDir()
	secret, link := filepath.Join(dir, "secret"), filepath.Join(dir, "link")
	if err := errors.Join(os.Mkdir(secret, 0o700), os.Symlink(secret, link)); err != nil {
		t.Fatal(err)
	}
	if err := Own(link, 0o755, os.Geteuid(), os.Getegid()); !errors.Is(err, syscall.ENOTDIR) {
		t.Errorf("a link: %v", err)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if err := Own(secret, 0o750, os.Geteuid(), os.Getegid()); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(secret); err != nil || info.Mode().Perm() != 0o750 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestLeftovers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "mnw.env")
	left := filepath.Join(dir, ".mnw.env.0123456789abcdef")
	for _, name := range []string{path, left, left + ".0123456789abcdef", filepath.Join(dir, ".mnw.0123456789abcdef")} {
		if err := os.WriteFile(name, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := Leftovers(path); err != nil || !slices.Equal(got, []string{left}) {
		t.Errorf("got %q, %v; want %q", got, err, left)
	}
	if got, err := Leftovers(filepath.Join(dir, "absent", "x")); err != nil || got != nil {
		t.Errorf("no directory: %q, %v", got, err)
	}
}
