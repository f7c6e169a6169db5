package reliability

import (
	"fmt"
	"slices"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

func cases() []kase {
	return slices.Concat(bad(), units(), ways(), databases(), persons(), killed(), orders(), disks(), hooks(), environments(), lives())
}

// release is a test in which 2.0.0 follows a good 1.0.0, and does as how says.
func release(how string) func(m *machine) puller.Result {
	return func(m *machine) puller.Result {
		m.good("1.0.0")
		m.release("2.0.0", how)
		return m.cycle()
	}
}

// after is HOW with a time.
func after(what string, seconds int) string {
	return fmt.Sprintf("%s %s", what, time.Duration(seconds)*second)
}

// bad are releases that are not well, and one that only looks like it.
func bad() []kase {
	all := []kase{
		{app: "exits", name: "exits at once", test: release("exits")},
		{app: "exits-soon", name: "exits at once, `Restart=on-failure`, `RestartSec=100ms`", service: "Restart=on-failure\nRestartSec=100ms", test: release("exits")},
		{app: "exits-late", name: "exits at once, `Restart=on-failure`, `RestartSec=5s`", service: "Restart=on-failure\nRestartSec=5s", test: release("exits")},
		{app: "exits-after", name: "exits after 20 s, before it ever answered", test: release(after("exits-after", 20))},
		{app: "hangs", name: "hangs while it starts, `Type=notify`", service: "Type=notify", test: release("hangs")},
		{app: "hangs-simple", name: "hangs while it starts, `Type=simple`", test: release("hangs")},
		{app: "dies", name: "is healthy, and dies within the stable window", test: release(after("dies", 10))},
		{app: "dies-again", name: "the same, with `Restart=always`", service: "Restart=always", test: release(after("dies", 10))},
		{app: "sick", name: "is healthy, and answers 500 within the stable window", test: release(after("sick", 10))},
		{app: "says-old", name: "answers with the old version", test: release("says 1.0.0")},
		{app: "says-500", name: "answers 500", test: release("500")},
		{app: "limit", name: "eats the start limit", service: "Restart=always\nRestartSec=1ms\n[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=2", test: release("exits")},
		{app: "status", name: "exits with status 2, `RestartPreventExitStatus=2`", service: "Restart=always\nRestartPreventExitStatus=2", test: release("exits 2")},
	}
	for i := range all {
		all[i].reason, all[i].runs, all[i].starts = reason.Unhealthy, "1.0.0", "1.0.0 2.0.0 1.0.0"
		all[i].failed, all[i].back = 1, 1
	}
	return append(all,
		kase{app: "slow", name: "answers after 40 s only", test: release(after("slow", 40)), reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0"},
		kase{app: "slow-notify", name: "the same, `Type=notify`", service: "Type=notify", test: release(after("slow", 40)), reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0"},
	)
}

// units are about the app's unit, whatever the release.
func units() []kase {
	unit := func(m *machine) string { return "/etc/systemd/system/" + m.app + ".service" }
	return []kase{
		{app: "missing", name: "the unit is missing", reason: reason.Config, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.run("rm", unit(m))
			m.systemctl("daemon-reload")
			m.release("2.0.0", "")
			return m.cycle()
		}},
		{app: "masked", name: "the unit is masked", reason: reason.Config, runs: "1.0.0", starts: "1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.run("ln", "-sf", "/dev/null", unit(m))
			m.systemctl("daemon-reload")
			m.release("2.0.0", "")
			return m.cycle()
		}},
		{app: "unmasked", name: "the unit was masked, and is not any more", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.run("ln", "-sf", "/dev/null", unit(m))
			m.systemctl("daemon-reload")
			m.release("2.0.0", "")
			m.cycle()
			m.run("rm", unit(m))
			m.s.Write(m.T, unit(m), m.unit, 0o644)
			m.systemctl("daemon-reload")
			return m.cycle()
		}},
		// A job of another's takes the place of ours, which is asked for once more.
		{app: "cancelled", name: "somebody stops the unit while it starts", service: "Type=notify", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.release("2.0.0", after("slow", 10))
			end := m.begin()
			m.started("2.0.0", 1)
			m.s.Try(m.T, "systemctl", "stop", m.app) // which may be cancelled in turn
			return end()
		}},
	}
}

// ways are about the way back.
func ways() []kase {
	return []kase{
		{app: "both", name: "exits at once, and so does the old version by now", reason: reason.Degraded, failed: 1, runs: "nothing", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.first("1.0.0", "once")
			m.release("2.0.0", "exits")
			return m.cycle()
		}},
		{app: "both-mended", name: "the same, then a release that is well", reason: reason.Updated, failed: 1, runs: "3.0.0", starts: "1.0.0 2.0.0 1.0.0 3.0.0", test: func(m *machine) puller.Result {
			m.first("1.0.0", "once")
			m.release("2.0.0", "exits")
			m.cycle()
			m.release("3.0.0", "")
			return m.cycle()
		}},
		{app: "damaged", name: "dies, and the release to go back to is damaged on disk: another is whole", reason: reason.Unhealthy, failed: 1, back: 1, runs: "1.0.0", starts: "1.0.0 2.0.0 3.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			m.release("3.0.0", after("dies", 10))
			end := m.begin()
			m.started("3.0.0", 1)
			m.damage("2.0.0")
			return end()
		}},
		{app: "damaged-all", name: "the same, and none is whole", service: "Restart=no", reason: reason.Degraded, failed: 1, runs: "500", starts: "1.0.0 2.0.0 3.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			m.release("3.0.0", after("sick", 10))
			end := m.begin()
			m.started("3.0.0", 1)
			m.damage("2.0.0")
			m.damage("1.0.0")
			return end()
		}},
		{app: "first", name: "exits at once, and nothing ran before", reason: reason.Unhealthy, runs: "nothing", starts: "1.0.0", test: func(m *machine) puller.Result {
			m.release("1.0.0", "exits")
			return m.cycle()
		}},
		{app: "first-mended", name: "the same, then a release that is well", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.release("1.0.0", "exits")
			m.cycle()
			m.release("2.0.0", "")
			return m.cycle()
		}},
	}
}

// damage changes a release on disk.
func (m *machine) damage(version string) {
	m.Helper()
	m.run("sh", "-c", "echo >>/opt/"+m.app+"/releases/"+version+"/VERSION")
}
