package reliability

import (
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/puller"
)

// orders are pins, which wait for nothing.
func orders() []kase {
	return []kase{
		{app: "pin-probation", name: "`puller --pin 1.0.0` in the probation of 2.0.0", reason: reason.Pinned, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.daemon()
			m.release("2.0.0", "")
			m.answers("2.0.0")
			return m.order("--pin", "1.0.0")
		}},
		{app: "pin-start", name: "the same, while 2.0.0 hangs in its start", service: "Type=notify", reason: reason.Pinned, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.daemon()
			m.release("2.0.0", "hangs")
			m.started("2.0.0", 1)
			return m.order("--pin", "1.0.0")
		}},
		{app: "pin-other", name: "`puller --pin 1.0.0` in the probation of 3.0.0, which followed 2.0.0", reason: reason.Pinned, runs: "1.0.0", starts: "1.0.0 2.0.0 3.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			m.daemon()
			m.release("3.0.0", "")
			m.answers("3.0.0")
			return m.order("--pin", "1.0.0")
		}},
		{app: "pin-download", name: "`puller --pin 1.0.0` while 3.0.0 is being fetched, which followed 2.0.0", s3: true, reason: reason.Pinned, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			m.daemon()
			stalled := m.stall()
			m.release("3.0.0", "")
			<-stalled
			return m.order("--pin", "1.0.0")
		}},
		{app: "pin-alone", name: "`puller --pin 1.0.0` while no daemon runs", reason: reason.Updated, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0", "2.0.0")
			return m.order("--pin", "1.0.0")
		}},
		{app: "pin-bad", name: "`puller --pin 2.0.0`, which exits at once", reason: reason.Unhealthy, failed: 1, back: 1, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.publish("2.0.0", "exits", nil)
			return m.order("--pin", "2.0.0")
		}},
	}
}

// stall makes the next download stand still after its first bytes.
func (m *machine) stall() (stalled <-chan struct{}) {
	c := make(chan struct{})
	var once sync.Once
	m.proxy.Script(func(_ int, r *http.Request) (f hostile.Fault) {
		if strings.HasSuffix(r.URL.Path, ".tar.zst") {
			once.Do(func() {
				f = hostile.Silence(10)
				close(c)
			})
		}
		return f
	})
	return c
}

// databases are about an outage that no release is to be blamed for.
func databases() []kase {
	return []kase{
		{app: "database", name: "the database is down: neither version starts", reason: reason.Degraded, failed: 1, runs: "nothing", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			down := m.database()
			m.first("1.0.0", "database")
			m.release("2.0.0", "database")
			down()
			return m.cycle()
		}},
		{
			app: "database-retry", name: "the same with `Restart=on-failure`; the database is up again, then `builder promote --retry`",
			service: "Restart=on-failure\nRestartSec=200ms\n[Unit]\nStartLimitIntervalSec=0",
			reason:  reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0 1.0.0 2.0.0",
			test: func(m *machine) puller.Result {
				down := m.database()
				m.first("1.0.0", "database")
				m.release("2.0.0", "database")
				down()
				if r := m.cycle(); r.Reason != reason.Degraded {
					m.Fatalf("without a database: %s, want %s", r.Reason, reason.Degraded)
				}
				m.Cleanup(m.database())
				m.answers("1.0.0") // systemd has gone on
				m.builder("promote", "host", "--retry")
				return m.cycle()
			},
		},
	}
}

// database makes the app's database be there, until down is called.
func (m *machine) database() (down func()) {
	m.Helper()
	socket := m.s.Path("/run/" + m.app + ".database")
	l, err := net.Listen("unix", socket)
	must(m.T, err)
	must(m.T, os.Chmod(socket, 0o666))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	return func() {
		l.Close()
		<-ended
	}
}

// builder runs the real builder, in /srv/<app>, with the keys of this site.
func (m *machine) builder(args ...string) {
	m.Helper()
	dir := "/srv/" + m.app
	m.s.Write(m.T, dir+"/key", string(m.seal.pem), 0o600)
	m.s.Write(m.T, dir+"/trust.json", string(m.trust), 0o644)
	m.s.Write(m.T, dir+"/builder.toml", "app = \""+m.app+`"
[source]
repo = "./source"
[build]
version = ["true"]
[[release_contents]]
src = "."
dst = "."
[storage]
url = "./bucket"
[channels]
repo = "./channels.git"
auto = ["host"]
[signing]
release_key = "key"
channel_key = "key"
trust = "trust.json"
`, 0o644)
	m.run(append([]string{"env", "-C", dir, "SANDO_KEY_PASSWORD=" + m.seal.passphrase, "builder"}, args...)...)
}

// persons are what a person can do about a release that failed, or that waits.
func persons() []kase {
	const closed = "window = \"0 0 29 2 *\"\n"
	return []kase{
		{app: "unblock", name: "exits without its database; the database is up again, then `puller unblock 2.0.0`", reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0 1.0.0 2.0.0", back: 1, test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.release("2.0.0", "database")
			m.cycle()
			m.Cleanup(m.database())
			return m.order("unblock", "2.0.0")
		}},
		{app: "force", name: "`puller --pin 2.0.0 --force`, which answers 500", reason: reason.Updated, runs: "500", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.publish("2.0.0", "500", nil)
			return m.order("--pin", "2.0.0", "--force")
		}},
		{app: "window", name: "its maintenance window is closed", config: closed, reason: reason.Window, runs: "1.0.0", starts: "1.0.0", test: release("")},
		{app: "window-now", name: "the same, then `puller --now`", config: closed, reason: reason.Updated, runs: "2.0.0", starts: "1.0.0 2.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.release("2.0.0", "")
			m.cycle()
			return m.order("--now")
		}},
		{app: "window-back", name: "the channel names 1.0.0 again, which ran well here, and the maintenance window is closed", config: closed, reason: reason.Updated, runs: "1.0.0", starts: "1.0.0 2.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.release("2.0.0", "")
			m.order("--now")
			m.advance("1.0.0")
			return m.cycle()
		}},
		{app: "repair", name: "the live release is damaged on disk, then `puller verify --repair`", reason: reason.Current, runs: "1.0.0", starts: "1.0.0 1.0.0", test: func(m *machine) puller.Result {
			m.good("1.0.0")
			m.damage("1.0.0")
			m.run("puller", "--app", m.app, "verify", "--repair")
			m.run("puller", "--app", m.app, "verify")
			return m.cycle()
		}},
	}
}
