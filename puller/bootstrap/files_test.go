package bootstrap

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

// me is whoever runs the test.
func me() owner {
	return owner{"me", "us", func(context.Context) (int, int, error) { return os.Geteuid(), os.Getegid(), nil }}
}

func apply(t *testing.T, s Step) []Planned {
	t.Helper()
	p, err := Plan(t.Context(), []Step{s})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	return p.Changes
}

func TestFilesAndDirectories(t *testing.T) {
	top := filepath.Join(t.TempDir(), "etc")
	dir, name := filepath.Join(top, "mnw"), filepath.Join(top, "mnw", "mnw.env")
	if err := os.Mkdir(top, 0o755); err != nil {
		t.Fatal(err)
	}
	s := step("env", directory{dir, 0o750, me(), false}, file{path: name, want: []byte("A=1\n"), perm: 0o640, by: me(), what: "env file", hint: "edit it"})
	for _, left := range []string{filepath.Join(top, ".mnw.0123456789abcdef"), filepath.Join(top, ".mnw.fedcba9876543210")} {
		if err := os.Mkdir(left, 0o700); err != nil { // what a kill left
			t.Fatal(err)
		}
	}
	done := apply(t, s)
	if len(done) != 4 || !strings.HasPrefix(done[0].What, "remove "+top+"/.mnw.0123456789abcdef") || done[2].What != "make directory "+dir+", me:us 0750" || done[3].What != "write env file "+name+", me:us 0640" {
		t.Errorf("done: %+v", done)
	}
	if entries, err := os.ReadDir(top); err != nil || len(entries) != 1 {
		t.Errorf("there is %v, %v", entries, err)
	}
	if again := apply(t, s); len(again) != 0 {
		t.Errorf("again: %+v", again)
	}
	// What a person changed stays, and is said.
	if err := os.WriteFile(name, []byte("A=2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	kept := apply(t, s)
	if len(kept) != 2 || !kept[0].Kept || !strings.Contains(kept[0].What, "chmod 0750 "+dir) || !kept[1].Kept || !strings.Contains(kept[1].Diff, "-A=2\n+A=1\n") {
		t.Errorf("kept: %+v", kept)
	}
	if data, err := os.ReadFile(name); err != nil || string(data) != "A=2\n" {
		t.Errorf("the file holds %q, %v", data, err)
	}
	// Sando's own is put right.
	ours := step("root", directory{dir, 0o755, me(), true})
	if done := apply(t, ours); len(done) != 1 || !strings.HasPrefix(done[0].What, "set directory "+dir+" to me:us 0755") {
		t.Errorf("mended: %+v", done)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestFileOdd: what is in a file's place does not make root wait, nor fill its memory.
func TestFileOdd(t *testing.T) {
	name := filepath.Join(t.TempDir(), "mnw.env")
	f := file{path: name, want: []byte("A=1\n"), perm: 0o640, by: me(), what: "env file"}
	for want, plant := range map[string]func() error{
		"is no file: move it away":                  func() error { return unix.Mkfifo(name, 0o600) },
		"has more than 1048576 bytes: move it away": func() error { return os.WriteFile(name, make([]byte, maxFile+1), 0o600) },
	} {
		if err := plant(); err != nil {
			t.Fatal(err)
		}
		if _, err := f.look(t.Context()); err == nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSettled: a root of somebody else's, who uses it, is not taken from him.
func TestSettled(t *testing.T) {
	root := filepath.Join(t.TempDir(), "mnw")
	other := os.Geteuid() + 1
	if err := errors.Join(settled(root, other), os.Mkdir(root, 0o700), settled(root, other)); err != nil {
		t.Errorf("none, or an empty one: %v", err)
	}
	if err := os.WriteFile(filepath.Join(root, "mnw.db"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := settled(root, os.Geteuid()); err != nil {
		t.Errorf("one's own: %v", err)
	}
	if err := settled(root, other); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), `and holds "mnw.db"`) {
		t.Errorf("in use: %v", err)
	}
}
