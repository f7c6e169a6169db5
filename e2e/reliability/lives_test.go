package reliability

import (
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// lives are what persons do to a node that is well, below its daemon. Nothing is restarted
// for it.
func lives() []kase {
	return []kase{
		{app: "emptied", name: "somebody deletes `.sando/` below the daemon", reason: reason.Current, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			m.daemon()
			// The daemon may write into what is being deleted: a person types it once more.
			m.run("sh", "-c", "for try in 1 2 3 4 5 6 7 8 9; do rm -r $1 && exit; done; exit 1", "sh", "/opt/"+m.app+"/.sando")
			m.until("the daemon can be seen again", func() bool {
				who, err := m.dir.Daemon()
				return err == nil && who != nil
			})
			return m.cycle()
		}},
		{app: "renamed", name: "the node gets another name below the daemon", reason: reason.Current, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			m.daemon()
			m.s.Write(m.T, "/etc/sando/"+m.app+".toml", strings.Replace(m.config, `"alpha"`, `"beta"`, 1), 0o600)
			m.until("the daemon has the name", func() bool {
				return strings.Contains(m.s.Journal(m.T, m.puller()), "msg=reloaded node=beta")
			})
			return m.cycle()
		}},
	}
}
