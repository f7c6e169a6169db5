//go:build soak

package reliability

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// TestAsRootDowntime prints how long an app does not answer: in an update, beside what
// `systemctl restart` of the same unit takes, and from a failure to the answer of the version
// that was gone back to.
func TestAsRootDowntime(t *testing.T) {
	testenv.Root(t, "a host with a real systemd")
	s := newServer(t)
	m := s.install(t, kase{app: "downtime", service: "Restart=on-failure"})
	s.Run(t, "systemctl", "daemon-reload")
	m.good("1.0.0")
	m.downtimes(t, 20)
	m.backs(t, "exits", "end", 10)
	m.backs(t, after("sick", 3), "sick", 10)
}

// downtimes updates the app, and restarts it, by turns.
func (m *machine) downtimes(t *testing.T, rounds int) {
	var updates, restarts []time.Duration
	for i := range rounds {
		v := fmt.Sprintf("2.%d.0", i)
		m.release(v, "")
		updates = append(updates, m.silence(t, func() {
			if r := m.order("--set", "health.stable_for=1s"); r.Reason != reason.Updated {
				t.Fatalf("%s: %s", r.Reason, r.Message)
			}
		}))
		restarts = append(restarts, m.silence(t, func() {
			m.systemctl("restart", m.app)
			m.answers(v)
		}))
	}
	t.Logf("downtime of an update:            %s", figures(updates))
	t.Logf("downtime of `systemctl restart`:  %s", figures(restarts))
	t.Logf("ratio of the medians:             %.2f", float64(median(updates))/float64(median(restarts)))
}

// backs releases versions that fail, and looks how long it takes until the old one answers.
func (m *machine) backs(t *testing.T, how, from string, rounds int) {
	t.Helper()
	old := m.ask()
	var times []time.Duration
	for i := range rounds {
		bad := fmt.Sprintf("3.%d.%d", i, len(how))
		m.release(bad, how)
		stop := m.listen()
		if r := m.order("--set", "health.stable_for=5s"); r.Reason != reason.Unhealthy {
			t.Fatalf("%s: %s", r.Reason, r.Message)
		}
		heard := stop()
		log := m.log(from)
		// The first time: systemd may have started it again.
		failed := log[slices.IndexFunc(log, func(e entry) bool { return e.version == bad })].at
		i := slices.IndexFunc(heard, func(e entry) bool { return e.version == old && e.at.After(failed) })
		if i < 0 {
			t.Fatalf("after the failure of %s nobody heard %s", bad, old)
		}
		times = append(times, heard[i].at.Sub(failed))
	}
	t.Logf("from %q of a release that %q to an answer of the old one: %s (interval %s)", from, how, figures(times), interval)
}

// listen asks the app every 5 ms until stop is called, which returns the good answers.
func (m *machine) listen() (stop func() []entry) {
	var heard []entry
	var asking sync.WaitGroup
	end := make(chan struct{})
	asking.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			if v := m.ask(); v != "nothing" && v != "500" {
				heard = append(heard, entry{time.Now(), "answer", v})
			}
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	})
	return func() []entry {
		close(end)
		asking.Wait()
		return heard
	}
}

// silence returns the longest time between two good answers while do runs.
func (m *machine) silence(t *testing.T, do func()) (longest time.Duration) {
	t.Helper()
	stop := m.listen()
	do()
	heard := stop()
	for i := range heard[1:] {
		longest = max(longest, heard[i+1].at.Sub(heard[i].at))
	}
	return longest
}

func median(d []time.Duration) time.Duration {
	d = slices.Sorted(slices.Values(d))
	return d[len(d)/2]
}

func figures(d []time.Duration) string {
	return fmt.Sprintf("median %s, max %s, of %d", median(d).Round(time.Millisecond), slices.Max(d).Round(time.Millisecond), len(d))
}
