package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/node"
)

// TestAsRootFullDisk fills real filesystems to the last byte, or inode, or the quota: a pin
// of what is on disk is carried out, and a release that fills the disk and dies is gone
// back from. Both take the ballast, which is made again when there is room. Without the
// ballast neither could be: the fill is no sham.
func TestAsRootFullDisk(t *testing.T) {
	testenv.Root(t, "loop mounts")
	s := newSite(t, "1.0", "2.0", "3.0")
	for _, v := range []string{"1.0", "2.0", "3.0"} {
		s.release(v)
	}
	for _, c := range []struct {
		name string
		mkfs []string
		more func(d *disk)
	}{
		{"ext4", []string{"mkfs.ext4"}, nil},
		{"ext4-inodes", []string{"mkfs.ext4", "-N", "2048"}, nil},
		{"xfs", []string{"mkfs.xfs"}, nil},
		{"btrfs", []string{"mkfs.btrfs"}, nil},
		{"btrfs-quota", []string{"mkfs.btrfs"}, func(d *disk) {
			d.sh("btrfs", "quota", "enable", d.dir)
			d.sh("btrfs", "qgroup", "limit", "64M", d.dir)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			testenv.Program(t, c.mkfs[0])
			d := newDisk(t, c.mkfs...)
			d.mount()
			if c.more != nil {
				c.more(d)
			}
			m := s.machine(c.name)
			m.t, m.root = t, filepath.Join(d.dir, "app")
			s.configure(m)
			what := "bytes"
			if strings.HasSuffix(c.name, "inodes") {
				what = "inodes"
			}
			m.startsBadly("3.0", fmt.Sprintf("fill %s %s", what, d.dir))
			s.promote("1.0")
			m.cycle(0)
			s.promote("2.0")
			m.cycle(0)
			full{d, m, what}.pin(t)
			full{d, m, what}.goBack(t)
		})
	}
}

// startsBadly makes a version run a command instead, and fail.
func (m *machine) startsBadly(version, command string) {
	m.t.Helper()
	data, err := os.ReadFile(m.side + ".toml")
	must(m.t, err)
	text := strings.Replace(string(data), ".running\"]", fmt.Sprintf(".running; echo >> %[1]s.starts; if grep -q ^%[2]s %[1]s.running; then %[3]s; exit 1; fi\"]", m.side, version, command), 1)
	must(m.t, os.WriteFile(m.side+".toml", []byte(text), 0o644))
}

// starts returns how often the app was started.
func (m *machine) starts() int {
	m.t.Helper()
	data, err := os.ReadFile(m.side + ".starts")
	must(m.t, err)
	return len(data)
}

// full is a node on a disk to be filled.
type full struct {
	*disk
	m    *machine
	what string
}

func (f full) fill() {
	f.t.Helper()
	must(f.t, fillUp(f.what, f.dir))
}

func (f full) drain() {
	f.t.Helper()
	must(f.t, os.RemoveAll(f.dir+"/filler"))
	f.sh("sync", "-f", f.dir)
}

func (f full) ballast(want bool) {
	f.t.Helper()
	parts, err := os.ReadDir(f.m.root + "/.sando/ballast")
	if err != nil || (len(parts) == 8) != want {
		f.t.Errorf("ballast is whole: %t; want %t: %v, %v", !want, want, parts, err)
	}
}

// runs asserts what runs, and that nothing is open.
func (f full) runs(version string) {
	f.t.Helper()
	f.m.invariants()
	dir, err := node.View(f.m.root)
	must(f.t, err)
	st, err := dir.State()
	must(f.t, err)
	running, err := os.ReadFile(f.m.side + ".running")
	must(f.t, err)
	if st.Intent != nil || st.Running.Version != version || strings.TrimSpace(string(running)) != version {
		f.t.Fatalf("%s runs, state is %+v; want %s", running, st, version)
	}
}

// pin rolls a node back by hand while its disk is full.
func (f full) pin(t *testing.T) {
	f.ballast(true)
	must(t, os.RemoveAll(f.m.root+"/.sando/ballast"))
	f.fill()
	n := f.m.starts()
	finish(t, f.m.puller("--pin", "1.0"), 1)
	f.runs("2.0")
	if f.m.starts() != n {
		t.Error("restarted for nothing")
	}
	f.drain()
	f.m.cycle(0)
	f.ballast(true)

	f.fill()
	if got := f.m.cycle(0, "--pin", "1.0"); got != "updated" {
		t.Errorf("pin on a full disk: %s", got)
	}
	f.runs("1.0")
	f.ballast(false)
	if got := f.m.cycle(0); got != "pinned" {
		t.Errorf("after it: %s", got)
	}
	f.drain()
	f.m.cycle(0, "--unpin")
	f.runs("2.0")
	f.ballast(true)
}

// goBack lets a release fill the disk and fail.
func (f full) goBack(t *testing.T) {
	f.m.promote("3.0")
	n := f.m.starts()
	if got := f.m.cycle(4); got != "unhealthy" {
		t.Errorf("the update: %s", got)
	}
	f.runs("2.0")
	f.ballast(false)
	for range 3 {
		if got := f.m.cycle(3); got != "blocked" {
			t.Errorf("after it: %s", got)
		}
	}
	if got := f.m.starts() - n; got != 2 {
		t.Errorf("started %d times", got)
	}
	f.drain()
	f.m.cycle(3)
	f.ballast(true)
}

// TestAsRootReadOnly makes a node's filesystem readable only, as the kernel does after a
// fault of the disk: one sentence says so, and the app is left alone, cycle after cycle.
func TestAsRootReadOnly(t *testing.T) {
	testenv.Root(t, "mounts")
	s := newSite(t, "1.0", "2.0")
	s.release("1.0")
	s.release("2.0")
	m := s.machine("readonly")
	must(t, os.Mkdir(m.root, 0o755))
	d := &disk{t: t, dir: m.root}
	d.sh("mount", "-t", "tmpfs", "none", d.dir)
	d.mounted = true
	t.Cleanup(d.umount)
	m.startsBadly("none", "true")
	s.promote("1.0")
	m.cycle(0)
	n := m.starts()
	s.promote("2.0")
	d.sh("mount", "-o", "remount,ro", d.dir)
	for _, args := range [][]string{{}, {"--now"}, {"--pin", "1.0"}, {"verify", "--repair"}} {
		cmd := m.puller(args...)
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || strings.Count(string(out), "\n") != 1 ||
			!strings.HasPrefix(string(out), "puller: io: ") || !strings.Contains(string(out), "read-only file system: nothing can be changed until it can be written again") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
	finish(t, m.puller("status"), 0)
	m.invariants()
	if m.starts() != n {
		t.Errorf("started %d times more", m.starts()-n)
	}
	d.sh("mount", "-o", "remount,rw", d.dir)
	m.cycle(0)
	m.settled("2.0")
}

// disk is a filesystem in a file, mounted at dir.
type disk struct {
	t          *testing.T
	image, dir string
	mounted    bool
}

// newDisk makes a filesystem with mkfs and its arguments.
func newDisk(t *testing.T, mkfs ...string) *disk {
	t.Helper()
	d := &disk{t: t, image: filepath.Join(t.TempDir(), "image"), dir: filepath.Join(t.TempDir(), "mnt")}
	must(t, os.Mkdir(d.dir, 0o755))
	must(t, os.WriteFile(d.image, nil, 0o600))
	must(t, os.Truncate(d.image, 400<<20)) // xfs wants 300 MB
	d.sh(append(mkfs, "-q", d.image)...)
	t.Cleanup(func() {
		if d.mounted {
			d.umount()
		}
	})
	return d
}

func (d *disk) sh(args ...string) {
	d.t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		d.t.Fatalf("%v: %v: %s", args, err, out)
	}
}

func (d *disk) mount() { d.t.Helper(); d.sh("mount", "-o", "loop", d.image, d.dir); d.mounted = true }

func (d *disk) umount() { d.t.Helper(); d.sh("umount", d.dir); d.mounted = false }

// fill is a program: fill bytes|inodes DIR.
func fill(_ context.Context, args []string, std cli.Std) int {
	if err := fillUp(args[0], args[1]); err != nil {
		fmt.Fprintln(std.Err, err)
		return 1
	}
	return 0
}

// fillUp makes files in dir/filler until nothing more can be made: none at all, or
// none with a byte in it.
func fillUp(what, dir string) error {
	dir += "/filler"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if what == "bytes" {
		if err := fillBytes(dir + "/big"); err != nil {
			return err
		}
	}
	for i := 0; ; i++ {
		data := []byte{1}
		if what == "inodes" {
			data = nil
		}
		err := os.WriteFile(fmt.Sprintf("%s/%d", dir, i), data, 0o644)
		switch {
		case noSpace(err):
			return nil
		case err != nil:
			return err
		case i == 1<<20:
			return fmt.Errorf("%s: %d files, and it is not full", dir, i)
		}
	}
}

func fillBytes(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for at, size := int64(0), int64(64<<20); size >= 4096; {
		switch err := unix.Fallocate(int(f.Fd()), 0, at, size); {
		case err == nil:
			at += size
		case noSpace(err):
			size /= 2
		default:
			return err
		}
	}
	return f.Sync()
}

func noSpace(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
