package reliability

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/systemd"
)

// server is a host with everything installed as on a server: the programs, the shipped
// units. What builders would have elsewhere is in /srv.
type server struct {
	*host.Host
	seal *seal
	s3   *minio.Server
	apps int // that were installed
}

func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{Host: host.Boot(t), seal: newSeal(t), s3: minio.Start(t, minio.Options{})}
	for _, program := range []string{"builder", "puller"} {
		s.Copy(t, filepath.Join(testenv.Programs(t), program), "/usr/local/bin/"+program)
	}
	faults := filepath.Join(t.TempDir(), "puller")
	build(t, "-tags", "faults", "-o", faults, "makenot.work/sando/cmd/puller")
	s.Copy(t, faults, "/usr/local/bin/puller-with-faults")
	self, err := os.Executable()
	must(t, err)
	s.Copy(t, self, "/usr/local/bin/misbehave")
	units, err := fs.Glob(systemd.Units(), "*")
	must(t, err)
	for _, name := range units {
		data, err := fs.ReadFile(systemd.Units(), name)
		must(t, err)
		s.Write(t, "/usr/lib/systemd/system/"+name, string(data), 0o644)
	}
	// The unit is the shipped one, but that its result goes where the test reads it, and that
	// it may be started as often as the test likes.
	s.Write(t, "/etc/systemd/system/puller-once@.service.d/result.conf",
		"[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart=\nExecStart=/usr/local/bin/puller --app %i --json\nStandardOutput=truncate:/run/%i.result\nStandardError=journal\n", 0o644)
	s.Write(t, "/etc/systemd/system/puller@.service.d/soon.conf", "[Service]\nRestartSec=100ms\n", 0o644)
	return s
}

func build(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"build", "-buildvcs=false"}, args...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// machine is an app on the server, its builder, and its puller.
type machine struct {
	*testing.T
	*site
	s    *server
	addr string
	dir  *node.Dir
	// What was installed.
	config, unit, environment string

	proxy *hostile.Proxy // between the puller and its bucket, if that is a real one
}

// install installs an app as an operator does: its own unit and environment, the
// puller's configuration, the anchor. The caller makes systemd read it.
func (s *server) install(t *testing.T, c kase) *machine {
	t.Helper()
	// The host shares this machine's network. On 127.0.0.1 the port, which is free until the
	// app is started, could become that of some connection.
	s.apps++
	l, err := net.Listen("tcp", fmt.Sprintf("127.%d.%d.%d:0", 1+os.Getpid()>>8%128, os.Getpid()%256, s.apps))
	must(t, err)
	m := &machine{T: t, s: s, addr: l.Addr().String()}
	must(t, l.Close())
	store, storage := bucket.Config{URL: "file://" + s.Path("/srv/"+c.app+"/bucket")}, "url = \"file:///srv/"+c.app+"/bucket\""
	if c.s3 {
		name := s.s3.Bucket(t, minio.PublicRead)
		m.proxy = hostile.Start(t, hostile.Server{Endpoint: s.s3.Endpoint, Region: s.s3.Region})
		store = bucket.Config{
			URL: "s3://" + name, Endpoint: s.s3.Endpoint, Region: s.s3.Region, PathStyle: true,
			AccessKeyFile: s.s3.Root.AccessKeyFile, SecretKeyFile: s.s3.Root.SecretKeyFile,
		}
		storage = fmt.Sprintf("url = %q\nendpoint = %q\nregion = %q\npath_style = true\nanonymous = true", store.URL, m.proxy.Endpoint, store.Region)
	}
	m.site = newSite(t, s.seal, s.Host, c.app, store)
	m.find()
	m.environment = "ADDR=" + m.addr + "\nDATABASE=/run/" + m.app + ".database\n"
	s.Write(t, "/etc/"+m.app+"/"+m.app+".env", m.environment, 0o600)
	s.Write(t, "/etc/sando/"+m.app+"/trust.json", string(m.trust), 0o644)
	m.unit = fmt.Sprintf(unitFile, m.app, c.service)
	m.config = fmt.Sprintf(configFile, m.app, m.addr, startTimeout, interval, stableFor, storage) + strings.ReplaceAll(c.config, "APP", m.app)
	m.configure("")
	s.Write(t, "/etc/systemd/system/"+m.app+".service", m.unit, 0o644)
	return m
}

// find finds the app's root, which a reboot puts elsewhere.
func (m *machine) find() {
	m.Helper()
	dir, err := node.View(m.s.Path("/opt/" + m.app))
	must(m.T, err)
	m.dir = dir
}

const (
	unitFile = `[Unit]
Description=The app %[1]s
[Service]
ExecStart=/opt/%[1]s/current/run
WorkingDirectory=/opt/%[1]s/current
EnvironmentFile=/etc/%[1]s/%[1]s.env
User=www-data
StateDirectory=%[1]s
%[2]s
[Install]
WantedBy=multi-user.target
`
	configFile = `app = "%[1]s"
tier = "host"
node = "alpha"
[channels]
repo = "file:///srv/%[1]s/channels.git"
[storage]
%[6]s
[service]
unit = "%[1]s.service"
[health]
url = "http://%[2]s/"
json = { status = "operational", version = "{version}" }
start_timeout = "%[3]s"
interval = "%[4]s"
stable_for = "%[5]s"
[schedule]
poll = "@every 1s"
jitter = "0%%"
`
)

// configure sets the puller's configuration to the usual one, and more.
func (m *machine) configure(more string) {
	m.Helper()
	m.s.Write(m.T, "/etc/sando/"+m.app+".toml", m.config+more, 0o600)
}

func (m *machine) run(args ...string) string {
	m.Helper()
	return m.s.Run(m.T, args[0], args[1:]...)
}

func (m *machine) systemctl(args ...string) string {
	m.Helper()
	return m.run(append([]string{"systemctl"}, args...)...)
}

func (m *machine) property(unit, name string) string {
	m.Helper()
	return strings.TrimSpace(m.systemctl("show", "--property="+name, "--value", unit))
}

// good makes the node run versions that are well, one after the other.
func (m *machine) good(versions ...string) {
	m.Helper()
	for _, v := range versions {
		m.first(v, "")
	}
}

// first makes the node run a version that is well now, whatever it does later.
func (m *machine) first(version, how string) {
	m.Helper()
	m.release(version, how)
	// Good at once: it is not what is tested.
	if r := m.order("--set", "health.stable_for=0s"); r.Reason != reason.Updated {
		m.Fatalf("%s: %s, want %s", version, r.Reason, reason.Updated)
	}
	m.answers(version)
}

// cycle runs a cycle as the timer does, in the sandbox, and returns how it ended.
func (m *machine) cycle() puller.Result { m.Helper(); return m.begin()() }

// begin begins a cycle. What it returns waits for its end.
func (m *machine) begin() (end func() puller.Result) {
	m.Helper()
	unit := "puller-once@" + m.app + ".service"
	start := m.s.Command(m.Context(), "systemctl", "start", unit) // waits, as it is a oneshot
	must(m.T, start.Start())
	return func() puller.Result {
		m.Helper()
		_ = start.Wait() // the puller's own exit code is told below
		return m.result(m.s.Read(m.T, "/run/"+m.app+".result"), m.property(unit, "ExecMainStatus"))
	}
}

// order runs `puller` as a person does, and returns how it ended.
func (m *machine) order(args ...string) puller.Result {
	m.Helper()
	r := m.s.Try(m.T, "puller", append([]string{"--app", m.app, "--json"}, args...)...)
	return m.result(r.Out, strconv.Itoa(r.Code))
}

func (m *machine) result(text, exit string) puller.Result {
	m.Helper()
	var r puller.Result
	if err := json.Unmarshal([]byte(text), &r); err != nil {
		m.Fatalf("%v: %q\n%s", err, text, m.journals())
	}
	if exit != strconv.Itoa(r.Reason.Exit()) {
		m.Errorf("exit code %s, and the reason is %s: %s", exit, r.Reason, r.Message)
	}
	m.Logf("%s: %s", r.Reason, r.Message)
	return r
}

// daemon starts the daemon.
func (m *machine) daemon() { m.Helper(); m.systemctl("start", m.puller()) }

func (m *machine) journals() string {
	return m.s.Journal(m.T, m.app+".service") + m.s.Journal(m.T, "puller*@"+m.app+".service")
}

// until waits until a condition holds.
func (m *machine) until(what string, ok func() bool) {
	m.Helper()
	ctx, cancel := context.WithTimeout(m.Context(), 40*time.Second+4*startTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			m.Fatalf("it did not happen: %s\n%s", what, m.journals())
		}
	}
}

// answers waits until the app answers with version.
func (m *machine) answers(version string) {
	m.Helper()
	m.until("the app answers as "+version, func() bool { return m.ask() == version })
}

// ask returns the version with which the app answers, its status if that is not 200, and
// "nothing" when it does not.
func (m *machine) ask() string {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + m.addr)
	if err != nil {
		return "nothing"
	}
	defer resp.Body.Close()
	var said struct{ Version string }
	data, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(data, &said)
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		return strconv.Itoa(resp.StatusCode)
	case err != nil:
		return err.Error()
	}
	return said.Version
}

// state is state.json.
func (m *machine) state() *node.State {
	m.Helper()
	st, err := m.dir.State()
	must(m.T, err)
	if st == nil {
		return node.NewState()
	}
	return st
}

// history returns the events on this node.
func (m *machine) history() []node.Event {
	m.Helper()
	events, err := m.dir.History(1000)
	must(m.T, err)
	return events
}

// events counts the events of a kind.
func (m *machine) events(kind string) (n int) {
	m.Helper()
	for _, e := range m.history() {
		if e.Event == kind {
			n++
		}
	}
	return n
}

// log returns the lines that the app has written, of a kind.
func (m *machine) log(kind string) (lines []entry) {
	m.Helper()
	data, err := os.ReadFile(m.s.Path("/var/lib/" + m.app + "/log"))
	if err != nil {
		return nil // it never ran
	}
	for line := range strings.Lines(string(data)) {
		var micro int64
		var e entry
		if _, err := fmt.Sscan(line, &micro, &e.what, &e.version); err != nil {
			m.Fatalf("the app wrote %q: %v", line, err)
		}
		e.at = time.UnixMicro(micro)
		if e.what == kind {
			lines = append(lines, e)
		}
	}
	return lines
}

type entry struct {
	at            time.Time
	what, version string
}

// started waits until the app was started n times as version.
func (m *machine) started(version string, n int) {
	m.Helper()
	m.until(version+" starts", func() bool {
		count := 0
		for _, e := range m.log("start") {
			if e.version == version {
				count++
			}
		}
		return count >= n
	})
}

// decided waits until the daemon has written an event of a kind, and returns how that cycle
// ended.
func (m *machine) decided(kind string) (r puller.Result) {
	m.Helper()
	m.until("the event "+kind, func() bool {
		for _, e := range m.history() {
			if e.Event == kind && e.To != "1.0.0" || e.Event == kind && e.From == "2.0.0" {
				r.Reason, r.Message = e.Reason, e.Message
			}
		}
		return r.Reason != ""
	})
	return r
}

func (m *machine) puller() string { return "puller@" + m.app + ".service" }

// kill kills the daemon's process, and waits until systemd has started another.
func (m *machine) kill() {
	m.Helper()
	pid := m.property(m.puller(), "MainPID")
	m.systemctl("kill", "--signal=KILL", "--kill-who=main", m.puller())
	m.until("another puller", func() bool {
		now := m.property(m.puller(), "MainPID")
		return now != pid && now != "0"
	})
}
