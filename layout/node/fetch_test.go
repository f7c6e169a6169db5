package node

import (
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// fetching returns the names in fetch/.
func fetching(t *testing.T, d *Dir) string {
	t.Helper()
	entries, err := os.ReadDir(d.Path("fetch"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestFetched: one file at most stays, with what was written to it.
func TestFetched(t *testing.T) {
	d := open(t)
	write := func(name, text string) {
		t.Helper()
		f, err := d.Fetched(name)
		if err == nil {
			_, err = f.WriteString(text)
		}
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	write("mnw-1.0-a.tar.zst", "begun")
	f, err := d.Fetched("mnw-1.0-a.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(f)
	if info, _ := f.Stat(); err != nil || string(got) != "begun" || info.Mode() != 0o600 {
		t.Errorf("it holds %q (%v), mode %s", got, err, info.Mode())
	}
	f.Close()
	if write("mnw-2.0-b.tar.zst", "other"); fetching(t, d) != "mnw-2.0-b.tar.zst" {
		t.Errorf("there is %s, want one", fetching(t, d))
	}
	for _, c := range []struct{ keep, left string }{{"mnw-2.0-", "mnw-2.0-b.tar.zst"}, {"mnw-2.0-c", ""}} {
		if err := d.DropFetched(c.keep); err != nil || fetching(t, d) != c.left {
			t.Errorf("keeping %q leaves %q (%v), want %q", c.keep, fetching(t, d), err, c.left)
		}
	}
	write("mnw-2.0-b.tar.zst", "other")
	if err := d.DropFetched(""); err != nil || fetching(t, d) != "" {
		t.Errorf("%q is left (%v)", fetching(t, d), err)
	}
}

// TestFetchedIsAFile: what stands under its name instead goes, and nothing behind it.
func TestFetchedIsAFile(t *testing.T) {
	for name, stand := range map[string]func(path, outside string) error{
		"link":      func(path, outside string) error { return os.Symlink(outside, path) },
		"dangling":  func(path, outside string) error { return os.Symlink(outside+".none", path) },
		"directory": func(path, _ string) error { return os.MkdirAll(path+"/x", 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			d := open(t)
			outside := t.TempDir() + "/canary"
			if err := errors.Join(os.WriteFile(outside, []byte("alive"), 0o600), stand(d.Path("fetch", "part"), outside)); err != nil {
				t.Fatal(err)
			}
			f, err := d.Fetched("part")
			if err != nil {
				t.Fatal(err)
			}
			_, err = f.WriteString("x")
			if err := errors.Join(err, f.Close()); err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(outside); string(data) != "alive" {
				t.Errorf("outside there is %q (%v)", data, err)
			}
			if _, err := os.Lstat(outside + ".none"); err == nil {
				t.Error("a file was made outside")
			}
			if info, err := os.Lstat(d.Path("fetch", "part")); err != nil || !info.Mode().IsRegular() {
				t.Errorf("it is %v (%v)", info, err)
			}
		})
	}
}

// TestCleanKeepsTheNewestFetched: whatever piled up, one file stays.
func TestCleanKeepsTheNewestFetched(t *testing.T) {
	d := open(t)
	for name, age := range map[string]time.Duration{"a": time.Hour, "newest": time.Minute, "z": 2 * time.Hour} {
		path, at := d.Path("fetch", name), time.Now().Add(-age)
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Chtimes(path, at, at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.Clean(always); err != nil || fetching(t, d) != "newest" {
		t.Errorf("%q is left (%v)", fetching(t, d), err)
	}
}
