//go:build faults

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"makenot.work/sando/layout/node"
)

// lane is one way through a cycle whose every persist step is made to fail.
type lane struct {
	name    string
	prepare func(m *machine) // before the cycle
	args    []string
	want    string   // the version that runs in the end
	then    []string // the arguments of the cycle that comes after
	bad     string   // a version that does not start: the node goes back from it
}

// TestEveryPersistStep makes each change of the disk in an update, in a pin, in a first
// install and in a way back fail, fail although it was done, be the last one before or
// after a kill, or find the disk full, readable only or broken from then on. At each moment
// the invariants hold, the reason is the right one, cycles on that disk leave the app
// alone, and the next puller on a good one ends on the right release.
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
		{name: "back", prepare: template.copyTo, want: "1.0", bad: "2.0"},
	}
	for _, l := range lanes {
		t.Run(l.name, func(t *testing.T) {
			m := s.machine(l.name + "-count")
			l.begin(m)
			n := m.count(l.args...)
			t.Logf("%d operations", n)
			if n < 10 {
				t.Fatalf("only %d operations", n)
			}
			for k := 1; k <= n; k++ {
				for _, mode := range l.modes() {
					s.fault(t, l, mode, k)
				}
			}
		})
	}
}

// modes are the faults to try. Right after one operation is right before the next, so
// a plain run leaves that out, and failing although it was done as well.
func (l lane) modes() []string {
	switch {
	case os.Getenv("SANDO_SOAK") != "":
		return []string{"kill", "killed", "fail", "stored", "full", "tight", "short", "readonly", "broken"}
	case l.bad != "":
		return []string{"kill", "tight", "readonly"}
	}
	return []string{"kill", "fail", "full"}
}

// begin makes m a node before the cycle.
func (l lane) begin(m *machine) {
	m.t.Helper()
	bad := l.bad
	if bad == "" {
		bad = "none"
	}
	m.startsBadly(bad, "true")
	must(m.t, os.WriteFile(m.side+".starts", nil, 0o644))
	l.prepare(m)
}

// settled runs the cycle after the fault, and asserts how the node ends.
func (l lane) settled(m *machine) {
	m.t.Helper()
	if l.bad == "" {
		m.cycle(0, l.then...)
		m.settled(l.want)
		return
	}
	out, err := m.puller().CombinedOutput() // unhealthy, or blocked if it was before
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 3 && exit.ExitCode() != 4 {
		m.t.Fatalf("after the fault: %v\n%s", err, out)
	}
	n := m.starts()
	if got := m.cycle(3); got != "blocked" || m.starts() != n {
		m.t.Fatalf("then: %s, %d starts", got, m.starts()-n)
	}
	m.invariants()
	dir, err := node.View(m.root)
	must(m.t, err)
	cur, err := dir.Current()
	must(m.t, err)
	running, err := os.ReadFile(m.side + ".running")
	must(m.t, err)
	if cur.Version != l.want || strings.TrimSpace(string(running)) != l.want {
		m.t.Fatalf("current is %q and %q runs, want %q", cur.Version, running, l.want)
	}
}

// lasting reports whether a mode holds until the disk is mended, and the reason that cycles
// on such a disk have.
func lasting(mode string) (reason string, ok bool) {
	switch mode {
	case "full":
		return "disk", true
	case "readonly", "broken":
		return "io", true
	}
	return map[string]string{"tight": "disk", "short": "disk", "fail": "io", "stored": "io"}[mode], false
}

// fault runs the lane with one fault, and in the crash lane kills the recovery of some
// at each of its own steps as well.
func (s *site) fault(t *testing.T, l lane, mode string, k int) {
	t.Run(fmt.Sprintf("%s-%d", mode, k), func(t *testing.T) {
		m := s.machine(fmt.Sprintf("%s-%s-%d", l.name, mode, k))
		m.t = t
		defer m.remove()
		l.begin(m)
		m.faulty(fmt.Sprintf("%s:%d", mode, k), l.args...)
		m.invariants()
		if _, ok := lasting(mode); ok && (l.bad != "" || os.Getenv("SANDO_SOAK") != "") {
			// The first may start what an open intent leads to, if it can say so before.
			m.faulty(mode+":1", l.then...)
			n := m.starts()
			for range 2 {
				m.faulty(mode+":1", l.then...)
			}
			if m.starts() != n {
				t.Errorf("the app was started %d times more while nothing could be written", m.starts()-n)
			}
			m.invariants()
		}
		if os.Getenv("SANDO_SOAK") != "" && strings.HasPrefix(mode, "kill") {
			for j := 1; ; j++ {
				r := s.machine(fmt.Sprintf("%s-%s-%d-%d", l.name, mode, k, j))
				r.t = t
				m.copyTo(r)
				died := r.faulty(fmt.Sprintf("kill:%d", j), l.then...) == -1
				r.invariants()
				l.settled(r)
				r.remove()
				if !died {
					break
				}
			}
		}
		l.settled(m)
	})
}

// count returns how many operations a cycle does.
func (m *machine) count(args ...string) int {
	m.t.Helper()
	file := m.side + ".count"
	cmd := m.puller(args...)
	cmd.Env = append(cmd.Env, "SANDO_FAULT=count:"+file)
	if out, err := cmd.CombinedOutput(); cmd.ProcessState == nil || cmd.ProcessState.ExitCode() == 1 {
		m.t.Fatalf("%v\n%s", err, out)
	}
	data, err := os.ReadFile(file)
	must(m.t, err)
	n, err := strconv.Atoi(string(data))
	must(m.t, err)
	return n
}

// faulty runs a cycle with a fault, and returns its exit code: -1 if it was killed.
func (m *machine) faulty(fault string, args ...string) int {
	m.t.Helper()
	cmd := m.puller(append(args, "--json")...)
	cmd.Env = append(cmd.Env, "SANDO_FAULT="+fault)
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil && cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	code := cmd.ProcessState.ExitCode()
	if code == 2 || strings.Contains(said.String(), "panic") {
		m.t.Fatalf("%s: exit %d\n%s%s", fault, code, out, said.String())
	}
	mode, _, _ := strings.Cut(fault, ":")
	var r struct{ Reason string }
	if want, _ := lasting(mode); code == 1 && json.Unmarshal(out, &r) == nil && r.Reason != want {
		m.t.Errorf("%s: reason %q, want %q\n%s", fault, r.Reason, want, out)
	}
	return code
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
