//go:build faults && soak

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/node"
)

// TestAsRootPowerCut stops an update before each of its persist steps and cuts the
// power: what was not made durable is gone, in the order that the filesystem likes. At
// each moment the invariants hold, and the next puller ends on the right release.
//
// Before the cut comes nothing, or an fsync of an unrelated file: that is what writes
// out names whose bytes were never synced.
func TestAsRootPowerCut(t *testing.T) {
	testenv.Root(t, "loop mounts")
	s := newSite(t, "1.0", "2.0")
	s.release("1.0")
	s.release("2.0")
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			testenv.Program(t, "mkfs."+kind)
			d := newDisk(t, "mkfs."+kind)
			m := s.machine(kind)
			m.t, m.root = t, filepath.Join(d.dir, "app")
			s.configure(m)
			d.mount()
			s.promote("1.0")
			m.cycle(0)
			s.promote("2.0")
			template := s.machine(kind + "-template")
			m.copyTo(template)
			n := d.operations(m, template)
			t.Logf("%d operations", n)
			for k := 1; k <= n+1; k++ {
				for _, sync := range []bool{false, true} {
					t.Run(fmt.Sprintf("%d-sync=%v", k, sync), func(t *testing.T) {
						d.t, m.t = t, t
						d.cut(m, template, k, sync, "")
						m.invariants()
						if k > n { // I5: what was reported as done survives
							m.settled("2.0")
						}
						m.cycle(0)
						m.settled("2.0")
					})
				}
			}
			for _, lie := range []string{"fsync", "syncfs"} {
				t.Run("without-"+lie, func(t *testing.T) {
					d.t, m.t = t, t
					d.catch(m, template, n, lie)
				})
			}
		})
	}
}

// reset makes the node on the disk a copy of the template again, durably.
func (d *disk) reset(m, template *machine) {
	d.t.Helper()
	must(d.t, os.RemoveAll(m.root))
	template.copyTo(m)
	d.sh("sync", "-f", d.dir)
}

func (d *disk) operations(m, template *machine) int {
	d.t.Helper()
	n := m.count()
	m.settled("2.0")
	d.reset(m, template)
	return n
}

// shutdown is FS_IOC_SHUTDOWN: the filesystem stops as in a power cut. Its argument 2
// means that not even the journal is flushed.
const shutdown = 0x8004587d

// cut stops an update, or what args are, before its operation k, or lets it end when there is
// no such, and cuts the power.
func (d *disk) cut(m, template *machine, k int, sync bool, lie string, args ...string) {
	d.t.Helper()
	d.reset(m, template)
	cmd := m.puller(args...)
	cmd.Env = append(cmd.Env, fmt.Sprintf("SANDO_FAULT=stop:%d", k), "SANDO_FAULT_LIE="+lie)
	must(d.t, cmd.Start())
	stopped := awaitStop(d.t, cmd.Process.Pid)
	if sync {
		f, err := os.Create(filepath.Join(d.dir, "unrelated"))
		must(d.t, err)
		must(d.t, f.Sync())
		must(d.t, f.Close())
	}
	d.shutdown()
	if stopped {
		must(d.t, cmd.Process.Kill())
		if err := cmd.Wait(); cmd.ProcessState == nil {
			d.t.Fatal(err)
		}
	}
	d.umount()
	d.mount()
}

// catch demands that a puller which leaves out one kind of sync is found out by a cut:
// otherwise the cuts would show nothing.
func (d *disk) catch(m, template *machine, n int, lie string) {
	d.t.Helper()
	for k := n + 1; k > 0; k-- {
		for _, sync := range []bool{true, false} {
			d.cut(m, template, k, sync, lie)
			err := m.violated()
			if err == nil && k > n {
				err = m.updated("2.0")
			}
			if err != nil {
				d.t.Logf("found out at operation %d: %v", k, err)
				return
			}
		}
	}
	d.t.Errorf("no cut shows that %s is left out", lie)
}

// updated reports whether the node runs version by its own state.
func (m *machine) updated(version string) error {
	dir, err := node.View(m.root)
	if err != nil {
		return err
	}
	st, err := dir.State()
	if err != nil {
		return err
	}
	if st == nil || st.Running == nil || st.Running.Version != version {
		return fmt.Errorf("I5: state is %+v, want that %s runs", st, version)
	}
	return nil
}

func (d *disk) shutdown() {
	d.t.Helper()
	f, err := os.Open(d.dir)
	must(d.t, err)
	defer f.Close()
	must(d.t, unix.IoctlSetPointerInt(int(f.Fd()), shutdown, 2))
}

// awaitStop waits until the process has stopped itself, and reports whether it has;
// otherwise it has ended.
func awaitStop(t *testing.T, pid int) bool {
	t.Helper()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil); err != nil {
		t.Fatal(err)
	}
	if !status.Stopped() && status.ExitStatus() != 0 {
		t.Fatalf("the puller ended with %v", status)
	}
	return status.Stopped()
}
