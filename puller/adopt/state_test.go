package adopt

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestMeasure(t *testing.T) {
	opened := lay(t, "a", "sub/b")
	root := opened.Name()
	of := func() string {
		t.Helper()
		fingerprint, _, err := measure(t.Context(), opened)
		must(t, err)
		return fingerprint
	}
	first := of()
	if of() != first {
		t.Error("it differs without a change")
	}
	for _, change := range []func() error{
		func() error { return os.WriteFile(root+"/sub/b", []byte("longer than it was"), 0o644) },
		func() error { return os.Chtimes(root+"/a", time.Time{}, time.Unix(1, 1)) },
		func() error { return os.WriteFile(root+"/c", nil, 0o644) },
		func() error { return os.Rename(root+"/c", root+"/d") },
		func() error { return os.Remove(root + "/d") },
	} {
		before := of()
		must(t, change())
		if of() == before {
			t.Errorf("a change is not seen")
		}
	}
}

func TestCheckTarget(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/empty", 0o755))
	must(t, os.MkdirAll(dir+"/full/x", 0o755))
	must(t, os.WriteFile(dir+"/file", nil, 0o644))
	for _, c := range []struct {
		to   string
		size int64
		ours bool
		code reason.Code
		want string
	}{
		{"/new", 0, false, reason.Current, ""},
		{"/empty", 0, false, reason.Current, ""},
		{"/full", 0, true, reason.Current, ""},
		{"/full", 0, false, reason.Config, `is not empty (it has "x")`},
		{"/file", 0, false, reason.Config, "is not a directory"},
		{"/gone/x", 0, false, reason.Config, "is not there to put x into"},
		{"/new", 1 << 60, false, reason.Disk, "takes 1099511627776 MiB"},
	} {
		err := checkTarget("/old/data", dir+c.to, c.size, c.ours)
		if reason.Of(err) != c.code || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.to, err)
		}
	}
	if err := checkTarget("/old", "/proc", 0, false); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "is a mount point") {
		t.Error(err)
	}
}

// The copy has the mode of the directory that was made for it, and an unfinished one is made anew.
func TestReplica(t *testing.T) {
	opened, to := lay(t, "app.db", "sub/x"), filepath.Join(t.TempDir(), "to")
	from := opened.Name()
	must(t, os.Mkdir(to, 0o750))
	must(t, os.MkdirAll(to+".sando-copy/left", 0o755))
	must(t, os.Symlink("app.db", from+"/link"))
	must(t, replica{from: opened, name: from, to: to, uid: 1, newUID: 1}.make(t.Context()))
	info, err := os.Stat(to)
	must(t, err)
	link, err := os.Readlink(to + "/link")
	must(t, err)
	if info.Mode().Perm() != 0o750 || link != "app.db" {
		t.Errorf("mode %v, link %q", info.Mode(), link)
	}
	if data, err := os.ReadFile(to + "/sub/x"); err != nil || string(data) != "sub/x" {
		t.Errorf("%q, %v", data, err)
	}
	for _, gone := range []string{to + "/left", to + ".sando-copy"} {
		if _, err := os.Lstat(gone); err == nil {
			t.Errorf("%s is there", gone)
		}
	}
	if _, err := os.Stat(from + "/app.db"); err != nil {
		t.Error(err)
	}
}
