// Package reliability lets releases go wrong, on a host with a real systemd.
//
// Each case is an app of its own with its own unit, channel repo, bucket and puller; several
// at a time run on one host. The app (app_test.go) misbehaves as the file HOW of its
// release says. The puller is the program that is shipped, under the units that are shipped.
//
//	reliability_test.go   how a case is run, and what holds for each of them
//	cases_test.go …       the cases
//	table_test.go         the table that they make, in docs/reliability.md
//	server_test.go        the host, and what is installed on it
//	site_test.go          the builder
//	soak_test.go          figures, in `make soak` only
//
// Times are a tenth of the real ones, and in `make soak` the real ones. The table has none,
// so that it is the same.
package reliability

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/puller"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"misbehave": func() {
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		err := misbehave(ctx)
		if err == nil {
			return
		}
		fmt.Fprintln(os.Stderr, err)
		code := 1
		if s, ok := err.(status); ok {
			code = int(s)
		}
		os.Exit(code)
	}})
}

// The configuration of health is the default one, in this scale.
const (
	startTimeout = 60 * second
	interval     = second
	stableFor    = 30 * second
)

// kase is one case.
type kase struct {
	app     string // its name: letters and dashes
	name    string // what happens, in the words of the table
	service string // more lines for the app's unit
	config  string // more lines for the puller's configuration; APP in it is the app
	s3      bool   // the bucket is one of a real server's
	test    func(m *machine) puller.Result

	reason reason.Code // how the cycle ends that decides
	runs   string      // the version that answers at the end
	starts string      // the versions that the puller had started, in turn
	open   bool        // the intent cannot be ended
	failed int         // how many releases are blocked at the end
	back   int         // ways back in the history
}

func TestAsRootReliability(t *testing.T) {
	testenv.Root(t, "a host with a real systemd")
	testenv.Program(t, "mkfs.ext4")
	testenv.Program(t, "losetup")
	_, err := os.Stat("/dev/loop-control")
	testenv.Need(t, err == nil, "loop devices: small filesystems")
	s := newServer(t)
	all := append(cases(), rebooted())
	machines := make([]*machine, len(all))
	for i, c := range all {
		machines[i] = s.install(t, c)
	}
	s.Run(t, "systemctl", "daemon-reload")
	seen := make([]row, len(all))
	var running sync.WaitGroup
	turn := make(chan struct{}, atOnce)
	last := len(all) - 1
	for i, c := range all[:last] {
		running.Go(func() { seen[i] = machines[i].try(t, c, turn) })
	}
	running.Wait()
	seen[last] = machines[last].try(t, all[last], turn)                           // nobody else survives it
	chosen := slices.ContainsFunc(seen, func(r row) bool { return r.name == "" }) // by -run
	if !t.Failed() && !chosen {
		compare(t, seen)
	}
}

// try is one case.
func (m *machine) try(t *testing.T, c kase, turn chan struct{}) (seen row) {
	t.Run(c.app, func(t *testing.T) {
		m.T, m.site.t = t, t
		turn <- struct{}{}
		r := func() puller.Result {
			defer func() { <-turn }()
			return c.run(m)
		}()
		m.quiet(c)
		seen = m.check(c, r)
	})
	return seen
}

// run does what the case says, and then one cycle more: what a failure leaves to say is said
// there.
func (c kase) run(m *machine) puller.Result {
	r := c.test(m)
	if r.Reason != c.reason {
		m.Fatalf("the cycle ended with %s, want %s: %s\n%s", r.Reason, c.reason, r.Message, m.journals())
	}
	m.systemctl("stop", m.puller())
	again := m.cycle()
	switch {
	case r.Reason != reason.Unhealthy:
	case m.state().LastGood == nil: // a first install
		if again.Reason != reason.Unhealthy {
			m.Errorf("the cycle after that: %s, want %s", again.Reason, reason.Unhealthy)
		}
	case again.Reason != reason.Blocked:
		m.Errorf("the cycle after that: %s, want %s", again.Reason, reason.Blocked)
	}
	return r
}

// quiet demands that nothing happens in the next 20 polls.
func (m *machine) quiet(c kase) {
	m.Helper()
	before := m.everything(c)
	if c.reason.Exit() == 1 { // a daemon would wait longer each time
		for range 20 {
			if r := m.cycle(); r.Reason != c.reason {
				m.Errorf("%s: %s, want %s", r.Reason, r.Message, c.reason)
			}
		}
	} else {
		m.daemon()
		polls, last := -1, m.dir.LastCycle() // the first may be the one that was at work
		m.until("20 polls", func() bool {
			if now := m.dir.LastCycle(); !now.Equal(last) {
				polls, last = polls+1, now
			}
			return polls >= 20
		})
		m.systemctl("stop", m.puller())
	}
	if after := m.everything(c); after != before {
		m.Errorf("in 20 polls something happened; before:\n%s\nafter:\n%s\n%s", before, after, m.journals())
	}
}

// everything is what must not change while nothing happens: the runs of the app, the
// history, what is on disk.
func (m *machine) everything(c kase) string {
	m.Helper()
	text := m.systemctl("show", "--property=MainPID,InvocationID,NRestarts,ActiveState", m.app+".service")
	text += fmt.Sprintf("%d starts, answers %s\n", len(m.log("start")), m.ask())
	for _, e := range m.history() {
		text += fmt.Sprintf("%+v\n", e)
	}
	dirs := []string{"releases", ".sando/staging", ".sando/trash"}
	if c.reason.Exit() != 1 { // else it is tried again
		dirs = append(dirs, ".sando/fetch")
	}
	for _, name := range dirs {
		if info, err := os.Stat(m.s.Path("/opt/" + m.app + "/" + name)); err == nil {
			text += fmt.Sprintf("%s %s\n", name, info.ModTime().Format(time.StampMicro))
		}
	}
	return text
}

// check demands what the case wants, and of a bad release what holds for all of them.
func (m *machine) check(c kase, r puller.Result) row {
	m.Helper()
	got := row{name: c.name, reason: r.Reason, runs: m.ask(), starts: m.starts(), status: m.status()}
	if got.runs != c.runs {
		m.Errorf("at the end the app answers %q, want %q", got.runs, c.runs)
	}
	if got.starts != c.starts {
		m.Errorf("started: %s, want %s\n%s", got.starts, c.starts, m.journals())
	}
	st := m.state()
	if (st.Intent != nil) != c.open {
		m.Errorf("the intent is %+v", st.Intent)
	}
	if n := m.events("rolled back"); n != c.back {
		m.Errorf("%d ways back in the history, want %d", n, c.back)
	}
	if n := len(st.Blocked); n != c.failed {
		m.Errorf("%d blocked, want %d: %+v", n, c.failed, st.Blocked)
	}
	return got
}

// starts returns the versions that were started, in turn, but for the starts that systemd
// made of itself, as Restart= says.
func (m *machine) starts() string {
	m.Helper()
	all := append(m.log("start"), m.scheduled()...)
	slices.SortStableFunc(all, func(a, b entry) int { return cmp.Compare(a.at.UnixMicro(), b.at.UnixMicro()) })
	var versions []string
	last, again, maybe := "", false, false
	for _, e := range all {
		switch {
		case e.what == "scheduled":
			again = true
			continue
		case again && e.version == last, maybe && e.version == last:
			maybe = false
		default:
			// Of a version that was swapped in meanwhile either systemd or the puller was
			// first. If it was systemd, the puller's start follows.
			maybe = again
			versions = append(versions, e.version)
		}
		again, last = false, e.version
	}
	return strings.Join(versions, " ")
}

// scheduled returns when systemd restarted the app of itself.
func (m *machine) scheduled() (list []entry) {
	m.Helper()
	m.run("journalctl", "--sync")
	const scheduled = "MESSAGE_ID=5eb03494b6584870a536b337290809b3"
	text := m.run("journalctl", "--quiet", "--no-pager", "--output=short-unix", scheduled, "UNIT="+m.app+".service")
	for line := range strings.Lines(text) {
		at, _, _ := strings.Cut(line, " ")
		seconds, err := strconv.ParseFloat(at, 64)
		must(m.T, err)
		list = append(list, entry{time.UnixMicro(int64(seconds * 1e6)), "scheduled", ""})
	}
	return list
}

// status returns the first line of `puller status`.
func (m *machine) status() string {
	m.Helper()
	first, _, _ := strings.Cut(m.run("puller", "--app", m.app, "status"), "\n")
	return timeless(strings.NewReplacer(m.app+" on ", "mnw on ", m.app+".service", "mnw.service").Replace(first))
}
