//go:build faults && soak

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/node"
)

// TestAsRootPowerCutOfARepair cuts the power before each persist step of a repair of the live
// release. There is always a release where `current` leads, the damaged one or the whole one;
// what was reported as repaired is whole; the next cycle and another repair end with a whole
// one that runs.
func TestAsRootPowerCutOfARepair(t *testing.T) {
	testenv.Root(t, "loop mounts")
	s := newSite(t, "1.0", "2.0")
	template := s.machine("template")
	for _, v := range []string{"1.0", "2.0"} {
		s.release(v)
		s.promote(v)
		template.cycle(0)
	}
	must(t, os.WriteFile(template.root+"/releases/2.0/files/big", []byte("damaged"), 0o644))
	repair := []string{"verify", "--repair"}
	for _, kind := range []string{"ext4", "xfs"} {
		t.Run(kind, func(t *testing.T) {
			testenv.Program(t, "mkfs."+kind)
			d := newDisk(t, "mkfs."+kind)
			m := s.machine(kind)
			m.t, m.root = t, filepath.Join(d.dir, "app")
			s.configure(m)
			d.mount()
			d.reset(m, template)
			n := m.count(repair...)
			m.settled("2.0")
			t.Logf("%d operations", n)
			for k := 1; k <= n+1; k++ {
				for _, sync := range []bool{false, true} {
					t.Run(fmt.Sprintf("%d-sync=%v", k, sync), func(t *testing.T) {
						d.t, m.t = t, t
						d.cut(m, template, k, sync, "", repair...)
						m.present("2.0")
						if k > n {
							must(t, m.repaired())
						}
						m.cycle(0)
						m.present("2.0")
						finish(t, m.puller(repair...), 0)
						m.settled("2.0")
					})
				}
			}
			for _, lie := range []string{"fsync", "syncfs"} {
				t.Run("without-"+lie, func(t *testing.T) {
					d.t, m.t = t, t
					for _, sync := range []bool{true, false} {
						d.cut(m, template, n+1, sync, lie, repair...)
						if err := m.repaired(); err != nil {
							t.Logf("found out: %v", err)
							return
						}
					}
					t.Errorf("no cut shows that %s is left out", lie)
				})
			}
		})
	}
}

// repaired reports whether 2.0 is live, whole and has no repair open.
func (m *machine) repaired() error {
	dir, err := node.View(m.root)
	if err != nil {
		return err
	}
	st, err := dir.State()
	if err != nil {
		return err
	}
	if st == nil || st.Repair != "" || st.Intent != nil {
		return fmt.Errorf("I5: state is %+v, want that the repair is done", st)
	}
	if _, err := dir.Verify(m.t.Context(), "2.0"); err != nil {
		return fmt.Errorf("I5: %w", err)
	}
	return nil
}
