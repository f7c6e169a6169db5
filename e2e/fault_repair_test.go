//go:build faults

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"makenot.work/sando/layout/node"
)

// TestEveryPersistStepOfARepair makes each change of the disk in a repair of the live release
// the last one before a kill, or fail. There is always a release where `current` leads, the
// old one or the new one; the next cycle and another repair end with a whole one that runs.
func TestEveryPersistStepOfARepair(t *testing.T) {
	t.Parallel()
	s := newSite(t, "1.0", "2.0")
	template := s.machine("template")
	for _, v := range []string{"1.0", "2.0"} {
		s.release(v)
		s.promote(v)
		template.cycle(0)
	}
	damaged := func(m *machine) {
		template.copyTo(m)
		m.startsBadly("none", "true")
		must(m.t, os.WriteFile(m.side+".starts", nil, 0o644))
		must(m.t, os.WriteFile(m.root+"/releases/2.0/files/big", []byte("damaged"), 0o644))
	}
	repair := []string{"verify", "--repair"}
	m := s.machine("count")
	damaged(m)
	n := m.count(repair...)
	m.settled("2.0")
	if m.starts() != 1 || n < 10 {
		t.Fatalf("%d operations, %d starts", n, m.starts())
	}
	modes := []string{"kill", "readonly", "tight"}
	if os.Getenv("SANDO_SOAK") != "" {
		modes = []string{"kill", "killed", "fail", "stored", "full", "tight", "short", "readonly", "broken"}
	}
	for k := 1; k <= n; k++ {
		for _, mode := range modes {
			t.Run(fmt.Sprintf("%s-%d", mode, k), func(t *testing.T) {
				m := s.machine(fmt.Sprintf("%s-%d", mode, k))
				m.t = t
				defer m.remove()
				damaged(m)
				m.faulty(fmt.Sprintf("%s:%d", mode, k), repair...)
				m.present("2.0")
				m.cycle(0)
				m.present("2.0")
				finish(t, m.puller(repair...), 0)
				m.settled("2.0")
				if starts := m.starts(); starts < 1 || starts > 2 {
					t.Errorf("started %d times", starts)
				}
				finish(t, m.puller("verify"), 0)
			})
		}
	}
	t.Run("no exchange", func(t *testing.T) {
		m := s.machine("lack")
		m.t = t
		damaged(m)
		cmd := m.puller(repair...)
		cmd.Env = append(cmd.Env, "SANDO_FAULT_LACK=exchange")
		out := finish(t, cmd, 2)
		if !strings.Contains(out, "cannot exchange two directories in one step") || !strings.Contains(out, "pin another version, and unpin again") {
			t.Errorf("says %q", out)
		}
		m.present("2.0")
		m.cycle(0)
		if m.starts() != 0 {
			t.Errorf("started %d times", m.starts())
		}
		m.cycle(0, "--pin", "1.0")
		m.cycle(0, "--unpin")
		m.settled("2.0")
	})
}

// present asserts that `current` leads to version, whole or not, and that the state can be
// read.
func (m *machine) present(version string) {
	m.t.Helper()
	dir, err := node.View(m.root)
	must(m.t, err)
	cur, err := dir.Current()
	must(m.t, err)
	_, err = dir.State()
	must(m.t, err)
	if cur.Version != version {
		m.t.Fatalf("current is %+v, want %s", cur, version)
	}
	if _, err := os.Stat(m.root + "/current/VERSION"); err != nil {
		m.t.Fatal(err)
	}
}
