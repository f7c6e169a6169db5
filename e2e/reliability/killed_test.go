package reliability

import (
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// killed are daemons that are killed in the middle of an update. What runs then is
// recovery, and nothing else can be seen of it.
func killed() []kase {
	all := []kase{
		{app: "killed-fetch", name: "the puller is killed while it fetches", s3: true, test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.daemon()
			stalled := m.stall()
			m.release("2.0.0", "")
			<-stalled
			m.kill()
			return m.decided("updated")
		}},
		{app: "killed-unpack", name: "the puller is killed while it unpacks", test: killedAt("stop:syncfs:")},
		{app: "killed-intent", name: "the puller is killed after the intent, before the swap", test: killedAt("stop:rename:/current")},
		{app: "killed-swap", name: "the puller is killed after the swap, before the restart", test: killedAt("stopped:rename:/current")},
		{app: "killed-start", name: "the puller is killed while the unit starts, `Type=notify`", service: "Type=notify", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.daemon()
			m.release("2.0.0", after("slow", 20))
			m.started("2.0.0", 1)
			m.kill()
			return m.decided("updated")
		}},
		{app: "killed-probation", name: "the puller is killed in the probation", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.daemon()
			m.release("2.0.0", "")
			m.answers("2.0.0")
			m.kill()
			return m.decided("updated")
		}},
	}
	for i := range all {
		all[i].reason, all[i].runs, all[i].starts = reason.Updated, "2.0.0", "1.0.0 2.0.0"
	}
	return append(all, kase{
		app: "killed-back", name: "exits at once; the puller is killed on the way back", reason: reason.Unhealthy, failed: 1, back: 1, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0",
		test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.daemon()
			m.release("2.0.0", "exits")
			m.started("1.0.0", 2)
			m.kill()
			return m.decided("rolled back")
		},
	})
}

// rebooted is a host that goes down in a probation. It is the last of all cases.
func rebooted() kase {
	return kase{
		app: "reboot", name: "the host is rebooted in the probation of 2.0.0, which starts it once more",
		reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0 2.0.0",
		test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.systemctl("enable", m.app)
			m.systemctl("enable", "--now", m.puller())
			m.release("2.0.0", "")
			m.answers("2.0.0")
			m.s.Reboot(m.T)
			m.find()
			return m.decided("updated")
		},
	}
}

// killedAt is a test in which the daemon is killed at an operation on the disk, which is
// named as for SANDO_FAULT.
func killedAt(fault string) func(m *machine) puller.Result {
	return func(m *machine) puller.Result {
		const dropIn = "[Service]\nExecStart=\nExecStart=/usr/local/bin/puller-with-faults --app %i run\nEnvironmentFile=-/run/%i.fault\n"
		m.s.Write(m.T, "/etc/systemd/system/"+m.puller()+".d/faults.conf", dropIn, 0o644)
		m.s.Write(m.T, "/run/"+m.app+".fault", "SANDO_FAULT="+fault+"\n", 0o644)
		m.systemctl("daemon-reload")
		m.good("1.0.0")
		m.daemon()
		m.release("2.0.0", "")
		pid := m.property(m.puller(), "MainPID")
		m.until("the daemon stops at "+fault, func() bool {
			return strings.Contains(m.s.Read(m.T, "/proc/"+pid+"/status"), "\nState:\tT")
		})
		m.run("rm", "/run/"+m.app+".fault")
		m.kill()
		return m.decided("updated")
	}
}
