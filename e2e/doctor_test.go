package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/testenv/gitserver"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/puller/doctor"
)

// patient is a healthy node that is made ill in one way after the other: a channel repo behind
// https, a bucket on S3, the app and the puller under systemd.
type patient struct {
	*server
	s3     *minio.Server
	bucket string
	git    *gitserver.Web
	ahead  atomic.Int64 // seconds that the bucket's clock is
}

// front serves the bucket as a cache in front of it does, with the date that it has. It
// returns its address.
func (p *patient) front(t *testing.T) string {
	t.Helper()
	to, err := url.Parse(p.s3.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(p.s3.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	s := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(to)
			r.Out.Host = r.In.Host // which is signed
		},
		Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}},
		ModifyResponse: func(r *http.Response) error {
			at := time.Now().Add(time.Duration(p.ahead.Load()) * time.Second)
			r.Header.Set("Date", at.UTC().Format(http.TimeFormat))
			return nil
		},
	})
	t.Cleanup(s.Close)
	return s.URL
}

const doctorConfig = `app = "mnw"
tier = "host"
node = "alpha"
[channels]
repo = "%[1]s"
token_file = "/etc/sando/mnw/git.token"
ca_file = "/etc/sando/mnw/git-ca.pem"
[storage]
url = "s3://%[2]s"
endpoint = "%[3]s"
access_key_file = "/etc/sando/mnw/s3.access"
secret_key_file = "/etc/sando/mnw/s3.secret"
ca_file = "/etc/sando/mnw/s3-ca.pem"
[service]
unit = "mnw.service"
[env]
files = ["/etc/mnw/mnw.env"]
required = ["ADDR"]
[health]
url = "http://%[4]s/"
json = { version = "{version}" }
smoke = ["http://%[4]s/docs"]
start_timeout = "20s"
interval = "20ms"
stable_for = "200ms"
[schedule]
poll = "@every 3s"
[report]
enabled = true
access_key_file = "/etc/sando/mnw/report.access"
secret_key_file = "/etc/sando/mnw/report.secret"
`

func newPatient(t *testing.T) *patient {
	t.Helper()
	p := &patient{server: newServer(t, host.Boot(t)), s3: minio.Start(t, minio.Options{TLS: true})}
	p.bucket = p.s3.Bucket(t, minio.Private)
	writer := p.s3.User(t, minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, p.bucket+"/*"))
	reader := p.s3.User(t, minio.Allow([]string{"s3:GetObject"}, p.bucket+"/*"))
	reports := p.s3.User(t, fmt.Sprintf(`{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["s3:GetObject","s3:PutObject"],"Resource":["arn:aws:s3:::%[1]s/mnw/reports/alpha.json","arn:aws:s3:::%[1]s/mnw/reports/beta.json"]}]}`, p.bucket))
	repo := filepath.Join(t.TempDir(), "channels.git")
	p.git = gitserver.HTTPS(t, repo)
	for name, file := range map[string]string{
		"/srv/s3.access": writer.AccessKeyFile, "/srv/s3.secret": writer.SecretKeyFile, "/srv/s3-ca.pem": p.s3.CAFile,
		"/etc/sando/mnw/s3.access": reader.AccessKeyFile, "/etc/sando/mnw/s3.secret": reader.SecretKeyFile, "/etc/sando/mnw/s3-ca.pem": p.s3.CAFile,
		"/etc/sando/mnw/report.access": reports.AccessKeyFile, "/etc/sando/mnw/report.secret": reports.SecretKeyFile,
		"/etc/sando/mnw/git.token": p.git.TokenFile, "/etc/sando/mnw/git-ca.pem": p.git.CAFile,
	} {
		p.Copy(t, file, name)
	}
	p.Write(t, "/srv/builder.toml", strings.Replace(mnwBuilder, `url = "./bucket"`, fmt.Sprintf(
		"url = \"s3://%s\"\nendpoint = \"%s\"\naccess_key_file = \"s3.access\"\nsecret_key_file = \"s3.secret\"\nca_file = \"s3-ca.pem\"", p.bucket, p.s3.Endpoint), 1), 0o644)
	p.Write(t, "/etc/sando/mnw.toml", fmt.Sprintf(doctorConfig, p.git.URL, p.bucket, p.s3.Endpoint, p.addr), 0o644)
	// A disk of its own, that is soon full.
	p.sh(t, "mkdir /opt/mnw; mount -t tmpfs -o size=64M,mode=755 none /opt/mnw")
	p.Run(t, "systemctl", "disable", "mnw.service")
	p.Run(t, "mv", "/etc/systemd/system/mnw.service", "/usr/lib/systemd/system/") // it can be masked there
	p.Run(t, "systemctl", "daemon-reload")
	p.Run(t, "systemctl", "enable", "mnw.service")
	p.release(t, "1.0.0", "")
	// No git program can serve what is in another mount namespace.
	if err := os.CopyFS(repo, os.DirFS(p.Path("/srv/channels.git"))); err != nil {
		t.Fatal(err)
	}
	p.Run(t, "systemctl", "enable", "--now", "puller@mnw.service")
	p.answers(t, "1.0.0")
	p.until(t, "1.0.0 is good", func() bool { return p.status(t).LastGood != nil })
	return p
}

// said is what doctor printed.
type said struct {
	host.Result
	lines []string
}

func (p *patient) doctor(t *testing.T, args ...string) said {
	t.Helper()
	r := p.Try(t, "puller", append([]string{"doctor"}, args...)...)
	return said{r, strings.Split(r.Out, "\n")}
}

// healthy asserts that doctor finds nothing at all.
func (p *patient) healthy(t *testing.T) {
	t.Helper()
	r := p.doctor(t, "--json")
	var checks []doctor.Check
	if err := json.Unmarshal([]byte(r.Out), &checks); err != nil {
		t.Fatalf("%v\n%s%s", err, r.Out, r.Err)
	}
	names := map[string]bool{}
	for _, c := range checks {
		names[c.Name] = true
		if c.Result != doctor.OK {
			t.Errorf("false alarm: %+v", c)
		}
	}
	for _, name := range doctor.Names() {
		if !names[name] && name != "network" { // which is told by those that use it
			t.Errorf("nothing is said of %s", name)
		}
	}
	if r.Code != 0 {
		t.Errorf("exit code %d\n%s", r.Code, r.Out)
	}
}

// illness is one thing that is wrong.
type illness struct {
	name  string
	fall  string // a script that breaks it
	exit  int
	first string // in the first line that doctor prints
	mend  string // the second line, or its beginning
	heal  string // a script that does what the second line says in words; "": it is a command
	tidy  string // what is left to a person after that
}

// edit is a script that changes a file; unlike sed -i, it keeps owner and mode.
func edit(file, expression string) string {
	return fmt.Sprintf("cp %[1]s /tmp/edited; sed '%[2]s' /tmp/edited >%[1]s; ! cmp -s /tmp/edited %[1]s", file, expression)
}

const (
	toml  = "/etc/sando/mnw.toml"
	again = "systemctl daemon-reload"
)

func illnesses() []illness {
	restore := "cp -p /root/mnw.toml " + toml
	return []illness{
		{"typo", edit(toml, "s/^stable_for/stabel_for/"), 2, `failed   config: config "/etc/sando/mnw.toml": unknown key "health.stabel_for": did you mean "health.stable_for"?`,
			"  mend: correct that in /etc/sando/mnw.toml", restore, ""},
		{"group-writable root", "chmod g+w /opt/mnw", 2, "failed   permissions: /opt/mnw is writable by others (mode 0775)", "  mend: chmod go-w /opt/mnw", "", ""},
		{"foreign owner", "chown www-data /etc/sando", 2, "failed   permissions: /etc/sando belongs to uid 33", "  mend: chown root /etc/sando", "", ""},
		{"token for everybody", "chmod 644 /etc/sando/mnw/git.token", 2, "failed   permissions: channels.token_file: anybody may read /etc/sando/mnw/git.token (mode 0644)", "  mend: chmod 600 /etc/sando/mnw/git.token", "", ""},
		{"env file for everybody", "chmod 644 /etc/mnw/mnw.env", 2, "failed   permissions: anybody may read the env file /etc/mnw/mnw.env (mode 0644)", "  mend: chmod o= /etc/mnw/mnw.env", "", ""},
		{"env file of the app's", "chown www-data:www-data /etc/mnw/mnw.env; chmod 600 /etc/mnw/mnw.env", 3, "failed   permissions: the puller may not read the env file /etc/mnw/mnw.env (owner uid 33, mode 0600)", "  mend: chown root /etc/mnw/mnw.env && chmod u+r /etc/mnw/mnw.env", "", ""},
		{"required key missing", edit("/etc/mnw/mnw.env", "s/^ADDR=/ADRESS=/"), 3, "failed   environment: ADDR is not set in /etc/mnw/mnw.env", "  mend: correct it in /etc/mnw/mnw.env, then `systemctl restart mnw.service`",
			edit("/etc/mnw/mnw.env", "s/^ADRESS=/ADDR=/") + "; systemctl restart mnw.service", ""},
		{"program gone", "mv /opt/mnw/releases/1.0.0/run /root/run", 3, "failed   unit: mnw.service starts /opt/mnw/current/run, which is not in the release that is live", "  mend: see with `puller verify` whether the release is whole", "mv /root/run /opt/mnw/releases/1.0.0/run", ""},
		{"disk full", "fallocate -l 60M /opt/mnw/core", 1, "failed   disk: disk space: the filesystem of /opt/mnw has ", "  mend: make room there, or lower limits.reserve", "rm /opt/mnw/core", ""},
		{"anchor missing", "mv /etc/sando/mnw/trust.json /root", 2, "failed   anchor: trust anchor /etc/sando/mnw/trust.json is missing", "  mend: install -m 644 /opt/mnw/.sando/trust/1.json /etc/sando/mnw/trust.json", "", ""},
		{"anchor of another app", edit("/etc/sando/mnw/trust.json", "s/\"app\": \"mnw\"/\"app\": \"web\"/"), 2, `failed   anchor: trust anchor /etc/sando/mnw/trust.json is for app "web", want "mnw"`,
			"  mend: install -m 644 /opt/mnw/.sando/trust/1.json /etc/sando/mnw/trust.json", "", ""},
		{"token wrong", "echo expired >/etc/sando/mnw/git.token", 1, "failed   channel: ", "  mend: put a token that can read the channel repo into /etc/sando/mnw/git.token: one line", "cat /root/git.token >/etc/sando/mnw/git.token", ""},
		{"secret in two lines", "echo more >>/etc/sando/mnw/s3.secret", 2, `failed   credentials: storage.secret_key_file: "/etc/sando/mnw/s3.secret" does not hold one line with a key`,
			"  mend: write /etc/sando/mnw/s3.secret again: one line with the key, and nothing else in it", "cat /root/s3.secret >/etc/sando/mnw/s3.secret", ""},
		{"secret of another", "echo 0123456789012345678901234567890123456789 >/etc/sando/mnw/s3.secret", 1, "failed   storage: ",
			"  mend: the secret is not that of the access key: write both again into /etc/sando/mnw/s3.access and /etc/sando/mnw/s3.secret, one line each", "cat /root/s3.secret >/etc/sando/mnw/s3.secret", ""},
		{"authority not named", edit(toml, "/s3-ca/d"), 1, "failed   network: ", "  mend: name a file with the authority's certificate as storage.ca_file in /etc/sando/mnw.toml", restore, ""},
		{"bucket not there", edit(toml, `s/^endpoint.*/endpoint = "https:\/\/127.0.0.1:9"/`), 1, "failed   network: ", "  mend: see whether the server runs, and storage in /etc/sando/mnw.toml names the right port: `curl -sS https://127.0.0.1:9/`", restore, ""},
		{"unit missing", "mv /usr/lib/systemd/system/mnw.service /root; " + again, 2, "failed   unit: mnw.service does not exist", "  mend: write /etc/systemd/system/mnw.service", "mv /root/mnw.service /usr/lib/systemd/system; " + again, ""},
		{"unit masked", "systemctl mask mnw.service", 2, "failed   unit: mnw.service is masked: it cannot be started", "  mend: systemctl unmask mnw.service", "", ""},
		{"unit not read", "echo '# changed' >>/usr/lib/systemd/system/mnw.service", 2, "failed   unit: the unit file of mnw.service has changed on disk since systemd read it", "  mend: systemctl daemon-reload", "", ""},
		{"unit of the old place", "mkdir -p /opt/makenotwork; cp -r /opt/mnw/current/. /opt/makenotwork; " + edit("/usr/lib/systemd/system/mnw.service", "s,/opt/mnw/current,/opt/makenotwork,") + "; " + again + "; systemctl restart mnw", 2,
			"failed   unit: mnw.service runs /opt/makenotwork/run, which is not in /opt/mnw/current", "  mend: let ExecStart= begin with /opt/mnw/current/: `systemctl edit --full mnw.service`",
			edit("/usr/lib/systemd/system/mnw.service", "s,/opt/makenotwork,/opt/mnw/current,") + "; " + again + "; systemctl restart mnw.service", ""},
		{"app stopped", "systemctl stop mnw.service", 4, "failed   unit: mnw.service is inactive (dead), although 1.0.0 is live", "  mend: systemctl start mnw.service", "", ""},
		{"probe refused", edit(toml, `s,^url = "http://[^"]*,url = "http://127.0.0.1:9/,`), 4, "failed   app: 1.0.0, which is live, is not well: probe http://127.0.0.1:9/: ", "  mend: correct health.url in /etc/sando/mnw.toml", restore, ""},
		{"smoke guessed", edit(toml, "s,/docs,/none,"), 4, "failed   app: 1.0.0, which is live, is not well: smoke http://", "  mend: correct health.smoke in /etc/sando/mnw.toml", restore, ""},
		{"current a directory", "systemctl stop puller@mnw; rm /opt/mnw/current; mkdir /opt/mnw/current; systemctl start puller@mnw", 2, "failed   node: /opt/mnw/current is a directory, want a symlink into releases/", "  mend: mv /opt/mnw/current /opt/mnw/current.", "", "rmdir /opt/mnw/current.*"},
		{"another deployer", "systemctl stop puller@mnw; cp -r /opt/mnw/releases/1.0.0 /opt/mnw/releases/hot; rm -r /opt/mnw/releases/hot/.sando; ln -sfn releases/hot /opt/mnw/current; systemctl start puller@mnw", 2,
			"failed   deployer: `current` was changed to hot by another than the puller", "  mend: puller --unpin", "", "rm -r /opt/mnw/releases/hot"},
		{"credential of reports too mighty", "cat /srv/s3.access >/etc/sando/mnw/report.access; cat /srv/s3.secret >/etc/sando/mnw/report.secret", 3,
			"failed   reports: the credential in /etc/sando/mnw/report.access may write more than this node's report: also below mnw/channels/", "  mend: let it do s3:PutObject on arn:aws:s3:::",
			"cat /root/report.access >/etc/sando/mnw/report.access; cat /root/report.secret >/etc/sando/mnw/report.secret", ""},
		{"credential of reports for reading", "cat /root/s3.access >/etc/sando/mnw/report.access; cat /root/s3.secret >/etc/sando/mnw/report.secret", 2,
			"failed   reports: the credential in /etc/sando/mnw/report.access may not write this node's report, mnw/reports/alpha.json", "  mend: let it do s3:GetObject and s3:PutObject on arn:aws:s3:::",
			"cat /root/report.access >/etc/sando/mnw/report.access; cat /root/report.secret >/etc/sando/mnw/report.secret", ""},
		{"root in /home", "systemctl stop puller@mnw; cp -a /opt/mnw /home; " + edit(toml, `s,^node,root = "/home/mnw"\nnode,`) + "; " + edit("/usr/lib/systemd/system/mnw.service", "s,/opt/,/home/,") + "; " + again + "; systemctl restart mnw; systemctl start puller@mnw || true", 2,
			"failed   sandbox: root /home/mnw is where the sandbox of puller@mnw sees nothing (ProtectHome=yes)", "  mend: mkdir -p /etc/systemd/system/puller@mnw.service.d && printf ", "", ""},
		{"root in /srv", "systemctl stop puller@mnw; cp -a /home/mnw /srv; rm -r /etc/systemd/system/puller@mnw.service.d; " + edit(toml, `s,/home,/srv,`) + "; " + edit("/usr/lib/systemd/system/mnw.service", "s,/home/,/srv/,") + "; " + again + "; systemctl restart mnw; systemctl start puller@mnw || true", 2,
			"failed   sandbox: root /srv/mnw cannot be written in the sandbox of puller@mnw, which allows /opt/mnw", "  mend: mkdir -p /etc/systemd/system/puller@mnw.service.d && printf ", "",
			"systemctl stop puller@mnw; cp -p /srv/mnw/.sando/report.json /opt/mnw/.sando; rm -r /etc/systemd/system/puller@mnw.service.d; " + restore + "; " + edit("/usr/lib/systemd/system/mnw.service", "s,/srv/,/opt/,") + "; " + again + "; systemctl restart mnw; systemctl start puller@mnw"},
		{"puller stopped", "systemctl disable --now puller@mnw", 2, "failed   puller: no puller is at work: neither puller@mnw.service nor puller-once@mnw.timer is active", "  mend: systemctl enable --now puller@mnw", "", ""},
		{"puller not enabled", "systemctl disable puller@mnw", 0, "warning  puller: puller@mnw.service runs, and is not started with the machine", "  mend: systemctl enable puller@mnw.service", "", ""},
		{"puller twice", "systemctl start puller-once@mnw.timer", 0, "warning  deployer: puller@mnw.service and puller-once@mnw.timer are both at work", "  mend: systemctl disable --now puller-once@mnw.timer", "", ""},
		{"puller replaced", "cp /usr/local/bin/puller /tmp/new; mv /tmp/new /usr/local/bin/puller", 0, "warning  puller: /usr/local/bin/puller was installed anew since puller@mnw.service began", "  mend: systemctl restart puller@mnw.service", "", ""},
	}
}

// Each of them is found, its cause in the first line and its mend in the second, and what the
// second line says makes the node healthy again.
func TestAsRootDoctor(t *testing.T) {
	t.Parallel() // most of it is waiting
	p := newPatient(t)
	p.sh(t, "cp -p "+toml+" /etc/sando/mnw/*.* /root")
	p.healthy(t)
	for _, ill := range illnesses() {
		if !t.Run(ill.name, func(t *testing.T) { p.suffer(t, ill) }) {
			break
		}
	}
	if t.Failed() {
		return
	}
	t.Run("clock", p.wrongClock)
	t.Run("not root", p.notRoot)
	t.Run("namesake", p.namesake)
	t.Run("timer", p.byTimer)
}

// A node that a timer drives is as healthy.
func (p *patient) byTimer(t *testing.T) {
	p.sh(t, "systemctl disable --now puller@mnw; systemctl enable --now puller-once@mnw.timer; "+edit(toml, "/schedule/,/poll/d"))
	p.healthy(t)
}

// Who may not look everywhere is told so, and what was not looked at.
func (p *patient) notRoot(t *testing.T) {
	r := p.Try(t, "setpriv", "--reuid=www-data", "--regid=www-data", "--clear-groups", "puller", "doctor")
	lines := strings.Split(r.Out, "\n")
	if r.Code != 2 || !strings.HasPrefix(lines[0], "failed   user: this is uid 33, and the puller of /opt/mnw runs as uid 0") || !strings.HasPrefix(lines[1], "  mend: run `puller doctor` as that user: with `sudo`") {
		t.Errorf("exit code %d\n%s%s", r.Code, r.Out, r.Err)
	}
	for n, line := range lines[1:] {
		if strings.HasPrefix(line, "failed ") {
			t.Errorf("line %d: %s", n+2, line)
		}
	}
	for _, name := range []string{"node", "channel", "storage", "environment"} {
		if !strings.Contains(r.Out, "skipped  "+name+": not looked at: needs ") {
			t.Errorf("%s is not said to be left out:\n%s", name, r.Out)
		}
	}
}

// Another machine with the same name writes the same report, twice.
func (p *patient) namesake(t *testing.T) {
	writer := p.s3.Client(t, p.s3.Root)
	p.until(t, "another machine is seen", func() bool {
		if _, err := writer.PutObject(t.Context(), p.bucket, "mnw/reports/alpha.json", strings.NewReader("{}"), 2, miniogo.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		p.Run(t, "puller", "--pin", "1.0.0") // which is news
		p.Run(t, "puller", "--unpin")
		return p.status(t).Report.Namesake != nil
	})
	p.suffer(t, illness{"", "true", 3, `failed   reports: another machine reports as "alpha", last at `, "  mend: set `node` in /etc/sando/mnw.toml, here or there, to a name of its own", edit(toml, "s/alpha/beta/"), ""})
}

// Of what a server says it is the time that counts, not what is asked of it. What is wrong is
// the server's clock here, and so is what is set right.
func (p *patient) wrongClock(t *testing.T) {
	front := p.front(t)
	for _, c := range []struct {
		ahead       int64
		exit        int
		first, mend string
	}{
		{20 * 60, 2, "failed   clock: this machine's clock is 20 min 0 s behind that of 127.0.0.1:", "  mend: set the clock of this machine: `timedatectl set-ntp true`"},
		{-6 * 60, 0, "warning  clock: this machine's clock is 6 min 0 s ahead of that of 127.0.0.1:", "  mend: set the clock of this machine: "},
		{0, 0, "ok ", "ok "},
	} {
		p.ahead.Store(c.ahead)
		got := p.doctor(t, "--set", "storage.endpoint="+front, "--set", "storage.ca_file=")
		if got.Code != c.exit || !strings.HasPrefix(got.lines[0], c.first) || !strings.HasPrefix(got.lines[1], c.mend) {
			t.Errorf("%d s ahead: exit code %d, want %d, %q and %q\n%s%s", c.ahead, got.Code, c.exit, c.first, c.mend, got.Out, got.Err)
		}
	}
}

func (p *patient) suffer(t *testing.T, ill illness) {
	p.sh(t, ill.fall)
	got := p.doctor(t)
	if got.Code != ill.exit || !strings.HasPrefix(got.lines[0], ill.first) || !strings.HasPrefix(got.lines[1], ill.mend) {
		t.Errorf("exit code %d, want %d, and\n%s\n%s\nit said\n%s%s", got.Code, ill.exit, ill.first, ill.mend, got.Out, got.Err)
	}
	heal := ill.heal
	if heal == "" {
		heal = strings.TrimPrefix(got.lines[1], "  mend: ")
	}
	if r := p.Try(t, "sh", "-euc", heal); r.Code != 0 {
		t.Errorf("%s: exit code %d\n%s%s", heal, r.Code, r.Out, r.Err)
	}
	p.sh(t, ill.tidy)
	var last said
	for range 15 {
		if last = p.doctor(t); strings.HasPrefix(last.lines[0], "ok ") {
			break
		}
		p.settle(t)
	}
	if last.Code != 0 || !strings.HasPrefix(last.lines[0], "ok ") {
		t.Fatalf("after %q doctor exits %d and says\n%s", heal, last.Code, last.Out)
	}
}

// settle gives a daemon a second.
func (p *patient) settle(t *testing.T) {
	t.Helper()
	select {
	case <-time.After(time.Second):
	case <-t.Context().Done():
	}
}
