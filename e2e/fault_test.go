//go:build faults

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// lane is one way through a cycle whose every persist step is made to fail.
type lane struct {
	name    string
	prepare func(m *machine) // before the cycle
	args    []string
	want    string   // the version that runs in the end
	then    []string // the arguments of the cycle that comes after
}

// TestEveryPersistStep makes each change of the disk in an update, in a pin and in a
// first install fail, fail although it was done, be the last one before or after a
// kill, or find the disk full. At each moment the invariants hold, and the next puller
// ends on the right release.
func TestEveryPersistStep(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newSite(t, "1.0", "2.0")
	s.release("1.0")
	s.release("2.0")
	s.promote("1.0")
	template := s.machine("template")
	template.cycle(0)
	s.promote("2.0")
	lanes := []lane{
		{name: "update", prepare: template.copyTo, want: "2.0"},
		{name: "pin", prepare: func(m *machine) { template.copyTo(m); m.cycle(0) }, args: []string{"--pin", "1.0"}, want: "1.0", then: []string{"--pin", "1.0"}},
		{name: "first", prepare: func(*machine) {}, want: "2.0"},
	}
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			m := s.machine(l.name + "-count")
			l.prepare(m)
			n := m.count(l.args...)
			t.Logf("%d operations", n)
			if n < 10 {
				t.Fatalf("only %d operations", n)
			}
			for k := 1; k <= n; k++ {
				for _, mode := range modes() {
					s.fault(t, l, mode, k)
				}
			}
		})
	}
}

// modes are the faults to try. Right after one operation is right before the next, so
// a plain run leaves that out, and failing although it was done as well.
func modes() []string {
	if os.Getenv("SANDO_SOAK") != "" {
		return []string{"kill", "killed", "fail", "stored", "full"}
	}
	return []string{"kill", "fail", "full"}
}

// fault runs the lane with one fault, and in the crash lane kills the recovery of some
// at each of its own steps as well.
func (s *site) fault(t *testing.T, l lane, mode string, k int) {
	t.Run(fmt.Sprintf("%s-%d", mode, k), func(t *testing.T) {
		m := s.machine(fmt.Sprintf("%s-%s-%d", l.name, mode, k))
		m.t = t
		defer m.remove()
		l.prepare(m)
		m.faulty(fmt.Sprintf("%s:%d", mode, k), l.args...)
		m.invariants()
		if os.Getenv("SANDO_SOAK") != "" && strings.HasPrefix(mode, "kill") {
			for j := 1; ; j++ {
				r := s.machine(fmt.Sprintf("%s-%s-%d-%d", l.name, mode, k, j))
				r.t = t
				m.copyTo(r)
				died := r.faulty(fmt.Sprintf("kill:%d", j), l.then...)
				r.invariants()
				r.cycle(0, l.then...)
				r.settled(l.want)
				r.remove()
				if !died {
					break
				}
			}
		}
		m.cycle(0, l.then...)
		m.settled(l.want)
	})
}

// count returns how many operations a cycle does.
func (m *machine) count(args ...string) int {
	m.t.Helper()
	file := m.side + ".count"
	cmd := m.puller(args...)
	cmd.Env = append(cmd.Env, "SANDO_FAULT=count:"+file)
	finish(m.t, cmd, 0)
	data, err := os.ReadFile(file)
	must(m.t, err)
	n, err := strconv.Atoi(string(data))
	must(m.t, err)
	return n
}

// faulty runs a cycle with a fault, and reports whether it was killed.
func (m *machine) faulty(fault string, args ...string) bool {
	m.t.Helper()
	cmd := m.puller(args...)
	cmd.Env = append(cmd.Env, "SANDO_FAULT="+fault)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	code := cmd.ProcessState.ExitCode()
	if code > 1 || strings.Contains(string(out), "panic") {
		m.t.Fatalf("%s: exit %d\n%s", fault, code, out)
	}
	return code == -1
}

// copyTo makes to's root a copy of m's.
func (m *machine) copyTo(to *machine) {
	to.t.Helper()
	if _, err := os.Lstat(m.root); err != nil {
		return
	}
	if out, err := exec.Command("cp", "-a", m.root, to.root).CombinedOutput(); err != nil {
		to.t.Fatalf("%v: %s", err, out)
	}
	data, err := os.ReadFile(m.side + ".running")
	if err == nil {
		must(to.t, os.WriteFile(to.side+".running", data, 0o644))
	}
}

func (m *machine) remove() {
	names, err := filepath.Glob(m.side + ".*")
	must(m.t, err)
	for _, n := range append(names, m.root) {
		must(m.t, os.RemoveAll(n))
	}
}
