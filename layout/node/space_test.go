package node

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

func TestReserve(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		reserve             Reserve
		bytes, inodes       int64 // of the filesystem
		keptBytes, keptInod int64
	}{
		{Automatic, 100 * gib, 1 << 20, 512 << 20, 1024},
		{Automatic, 4 * gib, 1 << 20, 512 << 20, 1024},
		{Automatic, 2 * gib, 4096, 256 << 20, 512},
		{Automatic, 64 << 20, 0, 8 << 20, 0},
		{gib, 2 * gib, 1 << 20, gib, 1024},
		{0, 2 * gib, 1 << 20, 0, 0},
	} {
		bytes, inodes := c.reserve.of(c.bytes, c.inodes)
		if bytes != c.keptBytes || inodes != c.keptInod {
			t.Errorf("%d of %d bytes and %d inodes keeps %d and %d", c.reserve, c.bytes, c.inodes, bytes, inodes)
		}
	}
}

func TestSpaceNamesAllFigures(t *testing.T) {
	d := open(t)
	var st unix.Statfs_t
	if err := unix.Statfs(d.Root(), &st); err != nil {
		t.Fatal(err)
	}
	if err := d.Space(1, 1, 0); err != nil {
		t.Error(err)
	}
	err := d.Space(1<<60, 1, 1<<20)
	if reason.Of(err) != reason.Disk || !strings.Contains(err.Error(), " MiB free, want 1099511627776.0 MiB, and 1.0 MiB in reserve (limits.reserve)") {
		t.Errorf("bytes: %v", err)
	}
	if err := d.Space(1, 1, 1<<60); reason.Of(err) != reason.Disk || !strings.Contains(err.Error(), "want 1 KiB, and 1099511627776.0 MiB in reserve") {
		t.Errorf("reserve: %v", err)
	}
	if err := d.Space(1, 1<<60, 0); st.Files > 0 && (reason.Of(err) != reason.Disk || !strings.HasPrefix(err.Error(), "inodes: ")) {
		t.Errorf("inodes: %v", err)
	}
}

// What filesystems say of themselves is not always what could be.
func TestSpaceOfOddFilesystems(t *testing.T) {
	d := open(t)
	const most = ^uint64(0)
	for name, c := range map[string]struct {
		st   unix.Statfs_t
		want reason.Code
	}{
		"there is room":              {unix.Statfs_t{Bsize: 4096, Blocks: 1 << 20, Bavail: 1 << 19, Files: 1 << 16, Ffree: 1 << 15}, reason.Current},
		"inodes without number":      {unix.Statfs_t{Bsize: 4096, Blocks: 1 << 20, Bavail: 1 << 19, Files: 1 << 16, Ffree: most}, reason.Current}, // as CephFS
		"bytes without number":       {unix.Statfs_t{Bsize: 4096, Blocks: most, Bavail: most, Files: most, Ffree: most}, reason.Current},
		"more than 8 EiB":            {unix.Statfs_t{Bsize: 1 << 20, Blocks: 1 << 44, Bavail: 1 << 43}, reason.Current},
		"no inodes":                  {unix.Statfs_t{Bsize: 4096, Blocks: 1 << 20, Bavail: 1 << 19, Files: 1 << 16}, reason.Disk},
		"nothing but what root gets": {unix.Statfs_t{Bsize: 4096, Blocks: 1 << 20, Bfree: 1 << 19}, reason.Disk},
	} {
		if err := d.fits(c.st, 1<<20, 10, Automatic); reason.Of(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestBallast(t *testing.T) {
	d := open(t)
	if err := d.Ballast(1 << 60); reason.Of(err) != reason.Disk {
		t.Errorf("without room for the reserve: %v", err)
	}
	parts := func() int {
		t.Helper()
		found, err := d.ballast()
		if err != nil {
			t.Fatal(err)
		}
		return len(found)
	}
	if n := parts(); n != 0 {
		t.Errorf("%d parts were made without room", n)
	}
	full := func(times int) (func() error, *int) {
		n := 0
		return func() error {
			if n++; n <= times {
				return reason.OnDisk(fmt.Errorf("write: %w", unix.EDQUOT))
			}
			return nil
		}, &n
	}
	for _, c := range []struct {
		name  string
		parts int // before
		fails int // times
		tries int
		left  int
		want  reason.Code
	}{
		{"there is room", ballastParts, 0, 1, ballastParts, reason.Current},
		{"a part is enough", ballastParts, 1, 2, ballastParts - 1, reason.Current},
		{"three parts are enough", ballastParts, 3, 4, ballastParts - 3, reason.Current},
		{"what is left of it", 2, 2, 3, 0, reason.Current},
		{"nor is all of it enough", 2, 9, 4, 0, reason.Disk},
		{"no ballast", 0, 9, 2, 0, reason.Disk},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := d.Ballast(0); err != nil || parts() != ballastParts {
				t.Fatalf("%d parts, %v", parts(), err)
			}
			for i := c.parts; i < ballastParts; i++ {
				if err := os.Truncate(d.Path("ballast", fmt.Sprint(i)), 1); err != nil { // as a crash does
					t.Fatal(err)
				}
			}
			write, n := full(c.fails)
			err := d.Urgent(write)
			if reason.Of(err) != c.want || *n != c.tries || parts() != c.left {
				t.Errorf("%d tries, %v; %d parts are left", *n, err, parts())
			}
		})
	}
	other := errors.New("not for lack of space")
	if err := d.Ballast(0); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(d.Path("ballast", "0")); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 < ballastPart {
		t.Errorf("no real blocks: %+v, %v", info, err)
	}
	if err := d.Urgent(func() error { return other }); !errors.Is(err, other) || parts() != ballastParts {
		t.Errorf("%v; %d parts are left", err, parts())
	}
}

// A trash of many files is deleted in as many steps as it takes.
func TestEmptyTrashStops(t *testing.T) {
	d := open(t)
	for _, sub := range []string{"a/b", "c"} {
		if err := os.MkdirAll(d.Path("trash", "1.0.1", sub), 0o755); err != nil {
			t.Fatal(err)
		}
		for i := range 10 {
			if err := os.WriteFile(d.Path("trash", "1.0.1", sub, fmt.Sprint(i)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	rounds := 0
	for ; ; rounds++ {
		left := 7
		if err := d.EmptyTrash(func() bool { left--; return left >= 0 }); err != nil {
			t.Fatal(err)
		}
		if names, err := os.ReadDir(d.Path("trash")); err != nil || len(names) == 0 {
			break
		}
	}
	if rounds < 2 {
		t.Errorf("all at once, after %d", rounds)
	}
}
