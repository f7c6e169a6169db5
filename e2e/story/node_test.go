package story

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	miniogo "github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/internal/testenv/secrets"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/report"
)

// schedule is how pullers run on a machine.
type schedule int

const (
	timer schedule = iota
	daemon
)

// machine is a host that runs apps.
type machine struct {
	*stage
	name  string
	host  *host.Host
	by    schedule
	addrs map[string]string // of the apps
}

// newMachine boots a host, and installs the programs and the units as a package would.
// source is where its pullers find channels.
func (s *stage) newMachine(source string, by schedule) *machine {
	s.t.Helper()
	m := &machine{stage: s, name: source, host: host.Boot(s.t), by: by, addrs: map[string]string{}}
	for _, program := range []string{"builder", "puller"} {
		m.host.Copy(s.t, s.path("bin", program), "/usr/local/bin/"+program)
	}
	units, err := filepath.Glob("../../systemd/*@.*")
	must(s.t, err)
	for _, unit := range units {
		m.host.Copy(s.t, unit, "/usr/lib/systemd/system/"+filepath.Base(unit))
	}
	// Not once a minute: it is a test.
	m.host.Write(s.t, "/etc/systemd/system/puller-once@.timer.d/often.conf",
		"[Timer]\nOnActiveSec=0\nOnUnitInactiveSec=500ms\nAccuracySec=100ms\nRandomizedDelaySec=0\n", 0o644)
	m.host.Write(s.t, "/etc/systemd/system/puller-once@.service.d/often.conf", "[Unit]\nStartLimitIntervalSec=0\n", 0o644)
	return m
}

// install sets a machine up for an app as an operator does: the app's own unit and
// environment, the puller's configuration, the anchor.
func (m *machine) install(a *app) {
	m.t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") // the hosts share this machine's network
	must(m.t, err)
	m.addrs[a.name] = l.Addr().String()
	must(m.t, l.Close())
	m.host.Write(m.t, "/etc/systemd/system/"+a.name+".service", fmt.Sprintf(`[Unit]
Description=The app %[1]s
ConditionPathExists=/opt/%[1]s/current

[Service]
ExecStart=/opt/%[1]s/current/%[1]s
WorkingDirectory=/opt/%[1]s/current
EnvironmentFile=/etc/%[1]s/%[1]s.env
DynamicUser=yes

[Install]
WantedBy=multi-user.target
`, a.name), 0o644)
	m.host.Write(m.t, "/etc/"+a.name+"/"+a.name+".env", "ADDR="+m.addrs[a.name]+"\n", 0o600)
	etc := "/etc/sando/" + a.name
	m.host.Copy(m.t, m.path(a.name, "site", "keys", "trust.json"), etc+"/trust.json")
	m.host.Write(m.t, etc+".toml", m.config(a), 0o644)
	reporter := m.s3.User(m.t, minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, m.bucket+"/releases/"+layout.ReportKey(a.name, "node-"+m.name)))
	m.reporters = append(m.reporters, reporter)
	for name, from := range map[string]string{
		"report-access": reporter.AccessKeyFile, "report-secret": reporter.SecretKeyFile,
		"s3-access": m.reader.AccessKeyFile, "s3-secret": m.reader.SecretKeyFile, "s3-ca.pem": m.s3.CAFile,
		"git-token": m.pull.TokenFile, "git-ca.pem": m.pull.CAFile,
	} {
		data, err := os.ReadFile(from)
		must(m.t, err)
		m.host.Write(m.t, etc+"/"+name, string(data), 0o600)
	}
	m.run("systemctl", "daemon-reload")
	m.run("systemctl", "enable", a.name+".service")
	m.run("systemctl", "enable", "--now", m.unit(a))
}

// config is a puller's. The machine "bucket" knows a URL and no secret.
func (m *machine) config(a *app) string {
	etc := "/etc/sando/" + a.name
	channels := fmt.Sprintf("repo = \"%s\"\npath = \"%s\"\ntoken_file = \"%s/git-token\"\nca_file = \"%[3]s/git-ca.pem\"", m.pull.URL, a.name, etc)
	credentials := fmt.Sprintf("access_key_file = \"%s/s3-access\"\nsecret_key_file = \"%[1]s/s3-secret\"", etc)
	if m.name == "bucket" {
		channels, credentials = `source = "bucket"`, "anonymous = true"
	}
	return fmt.Sprintf(`
app = "%[1]s"
tier = "a"
node = "node-%[2]s"
[channels]
%[3]s
[storage]
%[4]s
%[5]s
ca_file = "%[6]s/s3-ca.pem"
[service]
unit = "%[1]s.service"
[health]
url = "http://%[7]s/api/health"
json = { status = "operational", version = "{version}" }
smoke = ["http://%[7]s/"]
start_timeout = "20s"
interval = "50ms"
stable_for = "300ms"
[schedule]
poll = "@every 1s"
[report]
enabled = true
access_key_file = "%[6]s/report-access"
secret_key_file = "%[6]s/report-secret"
`, a.name, m.name, channels, m.storage(), credentials, etc, m.addrs[a.name])
}

// unit is what runs an app's puller.
func (m *machine) unit(a *app) string {
	return map[schedule]string{timer: "puller-once@" + a.name + ".timer", daemon: "puller@" + a.name + ".service"}[m.by]
}

// change goes over from the timer to the daemon, or back.
func (m *machine) change(apps ...*app) {
	m.t.Helper()
	for _, a := range apps {
		m.run("systemctl", "disable", "--now", m.unit(a))
	}
	m.by = daemon - m.by
	for _, a := range apps {
		m.run("systemctl", "enable", "--now", m.unit(a))
	}
}

// run runs a program on the machine, which must end well, and returns what it printed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	r := m.host.Try(m.t, args[0], args[1:]...)
	m.heard(args, r.Out, r.Err)
	if r.Code != 0 {
		m.t.Fatalf("%s: %s: exit code %d\n%s%s", m.name, strings.Join(args, " "), r.Code, r.Out, r.Err)
	}
	return r.Out
}

func (m *machine) puller(a *app, args ...string) string {
	m.t.Helper()
	return m.run(append([]string{"puller", "--app", a.name}, args...)...)
}

// await asks until ok says yes.
func (m *machine) await(a *app, what string, ok func() bool) {
	m.t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for range 1200 {
		if ok() {
			return
		}
		<-tick.C
	}
	status := m.host.Try(m.t, "puller", "--app", a.name, "status")
	m.t.Fatalf("%s: %s did not happen within a minute\n%s%s\n%s\n%s", m.name, what, status.Out, status.Err,
		m.host.Try(m.t, "journalctl", "--no-pager", "--lines=100").Out, m.host.Try(m.t, "systemctl", "status", "--no-pager", m.unit(a), a.name).Out)
}

// answers waits until the app answers over HTTP as that version, with its page.
func (m *machine) answers(a *app, version string) {
	m.t.Helper()
	m.await(a, a.name+" answering as "+version, func() bool {
		var said struct{ Version string }
		return json.Unmarshal(m.get(a, "/api/health"), &said) == nil && said.Version == version &&
			strings.Contains(string(m.get(a, "/")), version)
	})
}

// get returns what the app answers, nil when it does not.
func (m *machine) get(a *app, path string) []byte {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + m.addrs[a.name] + path)
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return nil
	}
	return data
}

// knows waits until the puller has accepted a channel state that names version.
func (m *machine) knows(a *app, version string) {
	m.t.Helper()
	m.await(a, "a channel state with "+version, func() bool { return m.status(a).Channel.Version == version })
}

type status struct {
	Reason  string
	Running struct{ Version string }
	Channel struct{ Version string }
	Blocked []json.RawMessage
}

func (m *machine) status(a *app) (s status) {
	m.t.Helper()
	must(m.t, json.Unmarshal([]byte(m.puller(a, "status", "--json")), &s))
	return s
}

// remember notes the releases of an app, what its puller keeps besides the repository's
// copy, and its process. What it returns fails the test when any of it has changed.
func (m *machine) remember(a *app) (same func()) {
	m.t.Helper()
	was := m.all(a)
	return func() {
		m.t.Helper()
		if diff := cmp.Diff(was, m.all(a)); diff != "" {
			m.t.Errorf("%s: %s was touched:\n%s", m.name, a.name, diff)
		}
	}
}

func remember(machines []*machine, a *app) (same func()) {
	all := make([]func(), len(machines))
	for i, m := range machines {
		all[i] = m.remember(a)
	}
	return func() {
		for _, same := range all {
			same()
		}
	}
}

// all returns a line about each thing of an app that stays while nothing happens to it.
func (m *machine) all(a *app) []string {
	m.t.Helper()
	lines := []string{m.run("systemctl", "show", "--property=MainPID,InvocationID,NRestarts", a.name+".service")}
	top := m.host.Path("/opt/" + a.name)
	for _, dir := range []string{"current", "releases", ".sando/channels", ".sando/trust", "/etc/" + a.name, "/etc/sando/" + a.name} {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(top, dir)
		} else {
			dir = m.host.Path(dir)
		}
		must(m.t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			line, err := describe(path)
			lines = append(lines, strings.TrimPrefix(path, m.host.Path("/"))+" "+line)
			return err
		}))
	}
	return lines
}

func describe(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	content := ""
	switch {
	case info.Mode().IsRegular():
		var data []byte
		data, err = os.ReadFile(path)
		content = fmt.Sprintf("%x", sha256.Sum256(data))
	case info.Mode().Type() == fs.ModeSymlink:
		content, err = os.Readlink(path)
	}
	return fmt.Sprintf("%s %s %s", info.Mode(), info.ModTime().UTC().Format(time.RFC3339Nano), content), err
}

// ends asserts how the story ends for an app.
func (m *machine) ends(a *app, version string) {
	m.t.Helper()
	m.await(a, "status current at "+version, func() bool {
		s := m.status(a)
		return s.Reason == "current" && s.Running.Version == version && len(s.Blocked) == 0
	})
	m.reports(a, version)
	m.puller(a, "--verbose") // says more than units do
	m.puller(a, "verify")
	m.puller(a, "history")
	m.puller(a, "history", "--json")
	m.puller(a, "status")
	if failed := m.run("systemctl", "list-units", "--failed", "--plain", "--no-legend"); strings.TrimSpace(failed) != "" {
		m.t.Errorf("%s: units failed:\n%s", m.name, failed)
	}
}

// reports waits until the bucket says that the app runs as that version, and well.
func (m *machine) reports(a *app, version string) {
	m.t.Helper()
	client := m.s3.Client(m.t, m.s3.Root)
	name := "node-" + m.name
	m.await(a, "a report of "+version, func() bool {
		o, err := client.GetObject(m.t.Context(), m.bucket, "releases/"+layout.ReportKey(a.name, name), miniogo.GetObjectOptions{})
		must(m.t, err)
		defer o.Close()
		data, err := io.ReadAll(o)
		must(m.t, err)
		r, err := report.Parse(data, report.Want{App: a.name, Node: name, Now: time.Now(), Ahead: 2 * time.Second})
		must(m.t, err)
		return r.Healthy && r.Running.Version == version && r.Desired.Version == version && r.Downtime > 0 && r.Disk.Free > 0
	})
}

// search searches what was written on the machine, but for where credentials were put.
func (m *machine) search(s *secrets.Search) []secrets.Finding {
	m.t.Helper()
	for _, name := range []string{"mnw", "web"} {
		for _, file := range []string{"s3-access", "s3-secret", "report-access", "report-secret", "git-token"} {
			s.Except(m.host.Path("/etc/sando/" + name + "/" + file))
		}
	}
	var found []secrets.Finding
	for _, dir := range []string{"/opt", "/etc/sando", "/etc/mnw", "/etc/web", "/etc/systemd", "/var/log", "/var/tmp", "/var/lib/systemd", "/tmp"} {
		found = append(found, s.Tree(m.t, m.host.Path(dir))...)
	}
	return append(found, s.Text(m.journal(), []byte(m.host.Run(m.t, "journalctl", "--no-pager", "--output=export")))...)
}

// journal is what findings in the journal are called.
func (m *machine) journal() string { return "journal of " + m.name }
