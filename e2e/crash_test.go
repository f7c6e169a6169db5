package e2e

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestKillPuller kills updates, pins and ways back at random moments. The next puller
// ends on a complete, right release each time, with no stray files.
func TestKillPuller(t *testing.T) {
	t.Parallel() // most of it is waiting
	s := newSite(t, "1.0", "2.0", "3.0", "4.0")
	versions := []string{"1.0", "2.0", "3.0", "4.0"}
	for _, v := range versions {
		s.release(v)
	}
	m := s.machine("node")
	s.promote("1.0")
	m.cycle(0) // makes the mirror, which takes longer
	s.promote("2.0")
	start := time.Now()
	m.cycle(0)
	k, live := killer{whole: time.Since(start)}, "2.0"
	n := rounds(25, 300) // about a quarter of them end before they are killed
	for i := range n {
		want := versions[rand.IntN(len(versions))]
		var cmd *exec.Cmd
		switch i % 3 {
		case 0: // an update
			s.promote(want)
			cmd = m.puller("--unpin")
		case 1: // a pin
			cmd = m.puller("--pin", want)
		case 2: // a way back by pin
			want = live
			cmd = m.puller("--pin", want)
		}
		k.kill(t, cmd)
		m.invariants()
		if i%3 == 0 {
			m.cycle(0, "--unpin") // whether the order was taken back before the kill is not known
		} else if m.pinned() == want {
			m.cycle(0)
		} else {
			m.cycle(0, "--pin", want)
		}
		m.settled(want)
		live = want
	}
	k.enough(t, n)
}

// pinned returns the version that pin.json names.
func (m *machine) pinned() string {
	data, err := os.ReadFile(m.root + "/.sando/pin.json")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), `"release": "`)
	version, _, _ := strings.Cut(rest, `"`)
	return version
}

// TestKillBuilder kills releases at random moments and runs them again. Each version
// ends published whole, and no channel ever names one that is not.
func TestKillBuilder(t *testing.T) {
	t.Parallel() // most of it is waiting
	n := rounds(6, 50)
	versions := make([]string, n)
	for i := range versions {
		versions[i] = fmt.Sprintf("1.%d", i)
	}
	s := newSite(t, append([]string{"0.1", "0.2"}, versions...)...)
	s.release("0.1") // makes the mirrors, which takes longer
	start := time.Now()
	s.release("0.2")
	k := killer{whole: time.Since(start)}
	for _, v := range versions {
		k.kill(t, s.command("builder", "release", "--rev", v))
		s.run(0, "builder", "verify", s.named("host"))
		s.release(v)
		s.run(0, "builder", "verify", v)
		if got := s.named("host"); got != v {
			t.Fatalf("host names %s, want %s", got, v)
		}
	}
	k.enough(t, n)
	must(t, noTemps(s.path("site", "bucket")))
}

// named returns the version that a channel names in the channel repo.
func (s *site) named(tier string) string {
	s.t.Helper()
	cmd := exec.Command("git", "-C", s.path("site", "channels.git"), "show", "main:channels/"+tier+".json")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%v: %s", err, out)
	}
	_, rest, _ := strings.Cut(string(out), `"version": "`)
	version, _, _ := strings.Cut(rest, `"`)
	return version
}

// noTemps reports temporary files that are older than the builder lets them become.
func noTemps(dir string) error {
	out, err := exec.Command("find", dir, "-name", ".*", "-type", "f", "-mtime", "+1").CombinedOutput()
	if err == nil && len(out) > 0 {
		err = fmt.Errorf("left behind: %s", out)
	}
	return err
}

// TestTwoBuilders releases at once from two hosts that share a bucket and a channel
// repo. One wins, the other says so, and nothing is broken.
func TestTwoBuilders(t *testing.T) {
	t.Parallel() // most of it is waiting
	for name, c := range map[string]struct {
		revs  [2]string
		exits string // the exit codes that may come together, sorted
	}{
		"the same commit":                      {[2]string{"1.0", "1.0"}, "0 0"},
		"one version from two commits":         {[2]string{"1.0", "other"}, "0 3"},
		"two versions, one channel to advance": {[2]string{"1.0", "2.0"}, "0 0, 0 3"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, "1.0", "2.0")
			s.git("checkout", "-q", "-b", "other", "1.0")
			must(t, os.WriteFile(s.path("src", "files", "0"), []byte("other content"), 0o644))
			s.git("commit", "-q", "-am", "the same version, other content")
			type ended struct {
				rev  string
				exit int
				out  string
			}
			results := make(chan ended)
			for i, rev := range c.revs {
				cmd := s.command("builder", "release", "--rev", rev)
				cmd.Env = append(cmd.Env, fmt.Sprintf("SANDO__STATE=%s/state%d", s.dir, i))
				go func() {
					out, _ := cmd.CombinedOutput()
					results <- ended{rev, cmd.ProcessState.ExitCode(), string(out)}
				}()
			}
			a, b := <-results, <-results
			if a.exit > b.exit {
				a, b = b, a
			}
			if got := fmt.Sprintf("%d %d", a.exit, b.exit); !strings.Contains(c.exits, got) {
				t.Fatalf("exit codes %s, want %s\n%s\n%s", got, c.exits, a.out, b.out)
			}
			if b.exit == 3 && !strings.Contains(b.out, "mismatch") && !strings.Contains(b.out, "stale") {
				t.Errorf("the loser does not say why: %s", b.out)
			}
			s.run(0, "builder", "verify", s.named("host"))
			m := s.machine("node")
			s.run(0, "builder", "promote", "a")
			m.cycle(0)
			m.settled(s.named("host"))
		})
	}
}
