package node

import (
	"errors"
	"fmt"
	"io/fs"
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

func TestBallast(t *testing.T) {
	d := open(t)
	if err := d.Ballast(1 << 60); reason.Of(err) != reason.Disk {
		t.Errorf("without room for the reserve: %v", err)
	}
	if _, err := os.Lstat(d.ballast()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("made without room: %v", err)
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
		name     string
		ballast  bool
		fails    int // times
		tries    int
		want     reason.Code
		survives bool
	}{
		{"there is room", true, 0, 1, reason.Current, true},
		{"the ballast is enough", true, 1, 2, reason.Current, false},
		{"nor is the ballast enough", true, 2, 2, reason.Disk, false},
		{"no ballast", false, 1, 1, reason.Disk, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.RemoveAll(d.ballast()); err != nil {
				t.Fatal(err)
			}
			if c.ballast {
				if err := d.Ballast(0); err != nil {
					t.Fatal(err)
				}
				if info, err := os.Lstat(d.ballast()); err != nil || info.Size() != ballastSize || info.Sys().(*syscall.Stat_t).Blocks*512 < ballastSize {
					t.Fatalf("ballast is %+v, %v", info, err)
				}
			}
			write, n := full(c.fails)
			err := d.Urgent(write)
			_, serr := os.Lstat(d.ballast())
			if reason.Of(err) != c.want || *n != c.tries || (serr == nil) != c.survives {
				t.Errorf("%d tries, %v; ballast: %v", *n, err, serr)
			}
		})
	}
	other := errors.New("not for lack of space")
	if err := d.Ballast(0); err != nil {
		t.Fatal(err)
	}
	if err := d.Urgent(func() error { return other }); !errors.Is(err, other) {
		t.Error(err)
	}
	if _, err := os.Lstat(d.ballast()); err != nil {
		t.Errorf("given up for nothing: %v", err)
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
