//go:build faults

package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/layout/node"
)

// order is a way through a cycle that is none of an update's: what people order, and what a
// node finds changed.
type order struct {
	name    string
	prepare func(m *machine)
	args    []string
	exit    int  // of the cycle without a fault
	urgent  bool // a full disk does not change that
	want    string
	starts  int                         // at most, with the cycle that comes after the fault
	then    func(m *machine, kills int) // that cycle; else the same again
}

// TestEveryPersistStepOfOrders makes each change of the disk in an order the last one before a
// kill, or find the disk full until the ballast is given up. The same order, given again, is
// carried out. What must not wait for space does not.
func TestEveryPersistStepOfOrders(t *testing.T) {
	t.Parallel()
	s := newSite(t, "1.0", "2.0")
	s.release("1.0")
	s.promote("1.0")
	old, both := s.machine("old"), s.machine("both")
	old.cycle(0)
	both.cycle(0)
	s.release("2.0")
	s.promote("2.0")
	both.cycle(0)
	for _, o := range []order{
		{name: "until", prepare: both.copyTo, args: []string{"--pin", "1.0", "--until", "3h"}, urgent: true, want: "1.0", starts: 2},
		{name: "force", prepare: both.copyTo, args: []string{"--pin", "1.0", "--force"}, urgent: true, want: "1.0", starts: 3},
		{name: "after an ended pin", prepare: func(m *machine) { both.copyTo(m); m.endedPin("2.0"); m.cycle(0) },
			args: []string{"--pin", "1.0"}, urgent: true, want: "1.0", starts: 2},
		{name: "ended pin", prepare: func(m *machine) { both.copyTo(m); m.endedPin("2.0") }, urgent: true, want: "2.0"},
		{name: "by hand", prepare: func(m *machine) { both.copyTo(m); m.swapByHand("1.0") },
			args: []string{"--pin", "2.0"}, urgent: true, want: "2.0", starts: 2},
		{name: "current gone", prepare: func(m *machine) { both.copyTo(m); must(m.t, os.Remove(m.root+"/current")) },
			urgent: true, want: "2.0", starts: 2},
		{name: "state gone", prepare: func(m *machine) { both.copyTo(m); must(m.t, os.Remove(m.root+"/.sando/state.json")) },
			args: []string{"--pin", "1.0"}, urgent: true, want: "1.0", starts: 2},
		{name: "hook", prepare: func(m *machine) {
			old.copyTo(m)
			m.configured(fmt.Sprintf("[[hook]]\nwhen = \"before_swap\"\nuser = \"root\"\nrun = [\"/bin/sh\", \"-c\", \"echo >> %s.hooks; exit 1\"]\n", m.side))
		}, exit: 3, want: "1.0", then: (*machine).refused},
		{name: "window", prepare: func(m *machine) {
			old.copyTo(m)
			m.configured(fmt.Sprintf("[schedule]\nwindow = \"0 %d * * *\"\ntimezone = \"UTC\"\n", (time.Now().UTC().Hour()+12)%24))
		}, want: "1.0", then: (*machine).waits},
		{name: "unblock", prepare: func(m *machine) {
			old.copyTo(m)
			s.configure(m)
			m.startsBadly("2.0", "true")
			m.cycle(4)
			s.configure(m)
			m.startsBadly("none", "true")
		}, args: []string{"unblock", "2.0"}, want: "2.0", starts: 2, then: (*machine).unblocked},
	} {
		t.Run(strings.ReplaceAll(o.name, " ", "-"), func(t *testing.T) { o.run(t, s) })
	}
}

func (o order) run(t *testing.T, s *site) {
	m := o.begin(t, s)
	n := m.count(o.args...)
	t.Logf("%d operations", n)
	o.end(m, 0)
	modes := []string{"kill"}
	if o.urgent {
		modes = []string{"tight"}
	}
	soak := os.Getenv("SANDO_SOAK") != ""
	if soak {
		modes = []string{"kill", "killed", "fail", "stored", "full", "tight", "short", "readonly", "broken"}
	}
	for _, mode := range modes {
		for k := 1; k <= n; k++ {
			t.Run(fmt.Sprintf("%s-%d", mode, k), func(t *testing.T) {
				m := o.begin(t, s)
				code := m.faulty(fmt.Sprintf("%s:%d", mode, k), o.args...)
				if o.urgent && mode == "tight" && code != o.exit {
					t.Errorf("exit %d although the ballast makes room", code)
				}
				dir, err := node.View(m.root)
				must(t, err)
				_, err = dir.State()
				must(t, err)
				if soak && mode == "kill" {
					o.killAgain(m)
				}
				o.end(m, 0)
			})
		}
	}
}

// killAgain kills the cycle that comes after a kill at each of its own steps, on copies.
func (o order) killAgain(m *machine) {
	for j, died := 1, true; died; j++ {
		r := m.machine(fmt.Sprintf("%s-%d", filepath.Base(m.side), j))
		r.t = m.t
		m.copyTo(r)
		r.sameConfig(m)
		died = r.faulty(fmt.Sprintf("kill:%d", j), o.args...) == -1
		o.end(r, 1)
		r.remove()
	}
}

// sameConfig configures a node as another one is.
func (m *machine) sameConfig(as *machine) {
	m.t.Helper()
	data, err := os.ReadFile(as.side + ".toml")
	must(m.t, err)
	must(m.t, os.WriteFile(m.side+".toml", bytes.ReplaceAll(data, []byte(as.side), []byte(m.side)), 0o644))
	for _, name := range []string{".starts", ".hooks"} {
		if data, err := os.ReadFile(as.side + name); err == nil {
			must(m.t, os.WriteFile(m.side+name, data, 0o644))
		}
	}
}

// begin makes a node before the cycle.
func (o order) begin(t *testing.T, s *site) *machine {
	m := s.machine("order-" + strings.ReplaceAll(t.Name(), "/", "-"))
	m.t = t
	t.Cleanup(m.remove)
	m.startsBadly("none", "true")
	o.prepare(m)
	must(t, os.WriteFile(m.side+".starts", nil, 0o644))
	return m
}

// end does the cycle after the fault. Each kill more may let the app, or a hook, be started
// once more.
func (o order) end(m *machine, kills int) {
	m.t.Helper()
	if o.then == nil {
		m.cycle(o.exit, o.args...)
		m.settled(o.want)
	} else {
		o.then(m, kills)
	}
	if n := m.starts(); n > o.starts+kills {
		m.t.Errorf("the app was started %d times, want %d at most", n, o.starts+kills)
	}
}

// refused asserts that a hook keeps 2.0 away, and is not run again for it.
func (m *machine) refused(kills int) {
	m.t.Helper()
	finish(m.t, m.puller(), 3)
	hooks := func() int {
		data, err := os.ReadFile(m.side + ".hooks")
		must(m.t, err)
		return len(data)
	}
	n := hooks()
	if got := m.cycle(3); got != "blocked" || hooks() != n || n > 2+kills {
		m.t.Errorf("then: %s, and %d hooks after %d", got, hooks(), n)
	}
	m.live("1.0")
}

// waits asserts that 2.0 is ready and waits for its window.
func (m *machine) waits(int) {
	m.t.Helper()
	if got := m.cycle(0); got != "window" {
		m.t.Errorf("it is %s", got)
	}
	finish(m.t, m.puller("verify", "2.0"), 0)
	m.settled("1.0")
}

// unblocked unblocks 2.0 unless that is done.
func (m *machine) unblocked(int) {
	m.t.Helper()
	cmd := m.puller("unblock", "2.0")
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 2 || !strings.Contains(string(out), "is not blocked here")) {
		m.t.Fatalf("%v\n%s", err, out)
	}
	m.cycle(0)
	m.settled("2.0")
}

// live asserts what `current` names.
func (m *machine) live(version string) {
	m.t.Helper()
	m.invariants()
	dir, err := node.View(m.root)
	must(m.t, err)
	cur, err := dir.Current()
	must(m.t, err)
	if cur.Version != version {
		m.t.Errorf("current is %q, want %q", cur.Version, version)
	}
}

// configured adds to the configuration of a node.
func (m *machine) configured(text string) {
	m.t.Helper()
	data, err := os.ReadFile(m.side + ".toml")
	must(m.t, err)
	must(m.t, os.WriteFile(m.side+".toml", append(data, text...), 0o644))
}

// endedPin gives an order whose time is over.
func (m *machine) endedPin(version string) {
	m.t.Helper()
	dir, err := node.View(m.root)
	must(m.t, err)
	begin := time.Now().Add(-2 * time.Hour)
	must(m.t, dir.SavePin(node.Pin{Release: version, At: begin.UnixMilli(), Until: canon.At(time.Now().Add(-time.Second))}))
}

// swapByHand makes `current` another release, and starts that, as a person does.
func (m *machine) swapByHand(version string) {
	m.t.Helper()
	must(m.t, os.Remove(m.root+"/current"))
	must(m.t, os.Symlink("releases/"+version, m.root+"/current"))
	must(m.t, os.WriteFile(m.side+".running", []byte(version+"\n"), 0o644))
}
