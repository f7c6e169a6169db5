package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
	"makenot.work/sando/systemd"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write writes a file in dir, and returns its name.
func write(t *testing.T, dir, name, text string, mode fs.FileMode) string {
	t.Helper()
	file := filepath.Join(dir, name)
	must(t, os.WriteFile(file, []byte(text), mode))
	must(t, os.Chmod(file, mode))
	return file
}

// bare is a node without anything but a configuration and an anchor.
func bare(t *testing.T, more string) Options {
	t.Helper()
	dir := t.TempDir()
	must(t, os.Chmod(dir, 0o755))
	key, err := keys.New()
	must(t, err)
	public := key.Public()
	trust := &signing.Trust{Schema: signing.TrustSchema, App: "mnw", Version: 1, Keys: map[string]canon.PEM{public.Kid(): public.PEM()}, Roles: map[string]signing.Role{}}
	for _, role := range []string{"root", "release", "channel"} {
		trust.Roles[role] = signing.Role{Keys: []string{public.Kid()}, Threshold: 1}
	}
	doc, err := trust.Encode()
	must(t, err)
	anchor := write(t, dir, "trust.json", string(doc), 0o644)
	head := fmt.Sprintf("app = \"mnw\"\ntier = \"b\"\nnode = \"alpha\"\nroot = %q\ntrust = %q\n", filepath.Join(dir, "mnw"), anchor)
	return Options{File: write(t, dir, "mnw.toml", head+more, 0o644)}
}

const local = "channels.repo = \"file:///none/channels.git\"\nstorage.url = \"file:///none/bucket\"\n"

// named returns the checks of one name.
func named(checks []Check, name string) (found []Check) {
	for _, c := range checks {
		if c.Name == name {
			found = append(found, c)
		}
	}
	return found
}

// What follows from something else that failed is left out, and causes come first.
func TestArrange(t *testing.T) {
	is := func(name string, r Result, needs ...string) Check {
		return Check{Name: name, Result: r, Found: "x"}.because(needs...)
	}
	got := arrange([]Check{
		is("app", Failed, "unit"), is("config", OK), is("storage", Failed, "clock", "permissions"), is("unit", Warning), is("channel", Failed, "clock"),
		is("clock", Failed), is("anchor", Failed), is("clock", Failed), is("anchor", Skipped),
	})
	var lines []string
	for _, c := range got {
		lines = append(lines, fmt.Sprintf("%s %s", c.Result, c.Name))
	}
	want := []string{"failed clock", "failed anchor", "failed app", "warning unit", "skipped channel", "skipped storage", "ok config"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if skipped := named(got, "channel")[0].Found; skipped != "not looked at: needs clock" {
		t.Errorf("channel: %s", skipped)
	}
}

// What depends on something that failed for itself is left out also where that could have depended
// on a third thing, which is good.
func TestArrangeChain(t *testing.T) {
	got := arrange([]Check{
		failed("credentials", reason.Config, "x", do("y")).because("user", "permissions", "credentials"),
		failed("permissions", reason.Config, "x", do("y")).because("user"),
	})
	if got[0].Name != "permissions" || got[0].Result != Failed || got[1].Name != "credentials" || got[1].Result != Skipped {
		t.Errorf("got %+v", got)
	}
}

// An activation that a puller is at work on needs nobody; one that was left does.
func TestNodeAtWork(t *testing.T) {
	e, s := &examiner{}, &puller.Survey{Recover: "recover first", Current: node.Current{Version: "1.0.0"}}
	if c := e.node(s, "puller, since then"); c.Result != OK || c.Found != "1.0.0 is live; a cycle is at work on it (puller, since then)" {
		t.Errorf("at work: %+v", c)
	}
	if c := e.node(s, ""); c.Result != Warning || c.Mend != "puller" {
		t.Errorf("left: %+v", c)
	}
}

// The exit code is that of what failed first, whatever there is besides.
func TestVerdict(t *testing.T) {
	if err := Verdict([]Check{warning("unit", "x", do("y")), ok("config", "z")}); err != nil {
		t.Errorf("a warning fails: %v", err)
	}
	err := Verdict([]Check{failed("anchor", reason.Config, "x", do("y")), failed("app", reason.Unhealthy, "z", do("y"))})
	if reason.Of(err) != reason.Config {
		t.Errorf("got %v of %v", reason.Of(err), err)
	}
}

// Whatever is looked at has a place among the names.
func TestNames(t *testing.T) {
	for _, o := range []Options{bare(t, local), bare(t, "nonsense = 1\n"), {File: filepath.Join(t.TempDir(), "none.toml")}} {
		for _, c := range Examine(t.Context(), o) {
			if !slices.Contains(Names(), c.Name) {
				t.Errorf("%q is no name: %+v", c.Name, c)
			}
			if (c.Result == Failed || c.Result == Warning) && c.Mend == "" {
				t.Errorf("it says no mend: %+v", c)
			}
		}
	}
}

// A configuration that is refused is the first thing, and what can be looked at without one is.
func TestRefusedConfig(t *testing.T) {
	checks := Examine(t.Context(), bare(t, local+"schedule.windw = \"@daily\"\n"))
	first := checks[0]
	if first.Name != "config" || first.Result != Failed || first.Reason != reason.Config || !strings.Contains(first.Found, `did you mean "schedule.window"?`) {
		t.Errorf("first comes %+v", first)
	}
	for name, want := range map[string]Result{"anchor": OK, "kernel": OK, "permissions": OK, "channel": Skipped, "app": Skipped, "storage": Skipped} {
		if found := named(checks, name); len(found) != 1 || found[0].Result != want {
			t.Errorf("%s: %+v, want %s", name, found, want)
		}
	}
}

func TestIdleKeys(t *testing.T) {
	for more, want := range map[string]string{
		"":                                "",
		"health.interval = \"2s\"\n":      "health.interval has no effect: neither a unit nor a probe is asked",
		"schedule.timezone = \"UTC\"\n":   "schedule.timezone has no effect: there is no window, and polls go by the interval",
		"report.heartbeat = \"20m\"\n":    "the rest of [report] has no effect: report.enabled is false",
		"schedule.poll = \"* * * * *\"\n": "",
	} {
		found := named(Examine(t.Context(), bare(t, local+more)), "config")
		if got := found[0]; len(found) != 1 || want == "" && got.Result != OK || want != "" && (got.Result != Warning || got.Found != want) {
			t.Errorf("%q: %+v, want %q", more, found, want)
		}
	}
}

// A server that accepts connections and never says anything ends no check, and holds none up.
func TestSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	o := bare(t, fmt.Sprintf("channels.repo = \"http://%[1]s/channels.git\"\nstorage.url = \"s3://releases\"\nstorage.endpoint = \"http://%[1]s\"\nstorage.anonymous = true\n", l.Addr()))
	o.limit = 100 * time.Millisecond
	checks := Examine(t.Context(), o)
	found := named(checks, "network")
	if len(found) != 1 || found[0].Result != Failed || found[0].Reason != reason.IO || !strings.HasPrefix(found[0].Found, "no end within 100ms: ") ||
		found[0].Mend != fmt.Sprintf("see whether the server answers at all: `curl -sS http://%s/`", l.Addr()) {
		t.Errorf("network: %+v", found)
	}
	if c := named(checks, "channel"); len(c) != 1 || c[0].Result != Skipped {
		t.Errorf("channel: %+v", c)
	}
}

// A clock is compared with what is past, and with servers: with those of a bucket that counts
// the minutes it fails.
func TestClock(t *testing.T) {
	at := time.Now()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Method != http.MethodHead || r.URL.Path != "/" {
			t.Errorf("asked %s %s with %q", r.Method, r.URL, r.Header)
		}
		// An answer that a cache gave an hour ago.
		w.Header().Set("Date", at.Add(-time.Hour).UTC().Format(http.TimeFormat))
		w.Header().Set("Age", "3600")
	}))
	t.Cleanup(s.Close)
	dir := t.TempDir()
	files := fmt.Sprintf("storage.access_key_file = %q\nstorage.secret_key_file = %q\n", write(t, dir, "a", "a\n", 0o600), write(t, dir, "s", "s\n", 0o600))
	for _, tt := range []struct {
		storage string
		off     time.Duration
		want    Result
	}{
		{files, 0, OK},
		{files, 4 * time.Minute, OK},
		{files, -6 * time.Minute, Warning},
		{files, 16 * time.Minute, Failed},
		{files, -16 * time.Minute, Failed},
		{"storage.anonymous = true\n", 16 * time.Minute, Warning},
	} {
		o := bare(t, fmt.Sprintf("channels.source = \"bucket\"\nstorage.url = \"s3://releases\"\nstorage.endpoint = %q\n%s", s.URL, tt.storage))
		o.limit = standardLimit
		e := &examiner{o: o, now: at.Add(tt.off)}
		e.configuration()
		if got := e.clock(t.Context()); len(got) != 1 || got[0].Result != tt.want {
			t.Errorf("%s, %q: %+v, want %s", tt.off, tt.storage, got, tt.want)
		}
	}
}

// Of programs that copy files only those that write count.
func TestWritten(t *testing.T) {
	for line, want := range map[string]string{
		"rsync -a build/ /opt/mnw/releases/2/":                "/opt/mnw/releases/2",
		"rsync --server -logDtpre.iLsfxCIvu . /opt/mnw":       "/opt/mnw",
		"rsync --server --sender -logDtpre.iLsfxC . /opt/mnw": "",
		"rsync -a /opt/mnw backup:mnw":                        "",
		"scp -r -t /opt/mnw/releases":                         "/opt/mnw/releases",
		"scp deploy@build:mnw /opt/mnw/releases/2":            "/opt/mnw/releases/2",
		"scp /opt/mnw/current/mnw /opt/mnw":                   "",
		"/usr/bin/rsync":                                      "",
		"less /opt/mnw/current/mnw":                           "",
	} {
		if got := written(strings.Fields(line)); got != want {
			t.Errorf("%s: writes %q, want %q", line, got, want)
		}
	}
}

func TestConfigOf(t *testing.T) {
	for want, d := range map[string]systemd.Definition{
		"/etc/sando/mnw.toml": {Start: []string{"/usr/local/bin/puller", "--app", "mnw", "run"}},
		"/srv/mnw.toml":       {Start: []string{"/usr/local/bin/puller", "--config=/srv/mnw.toml", "run"}},
		"/srv/env.toml":       {Start: []string{"/usr/local/bin/puller", "run"}, Env: []string{"A=b", "SANDO_CONFIG=/srv/env.toml"}},
		"":                    {Start: []string{"/usr/local/bin/puller", "run"}},
	} {
		if got := configOf(d); got != want {
			t.Errorf("%+v: %q, want %q", d, got, want)
		}
	}
}

// An app is run through `current` in more than one way; a release by its own name is none.
func TestThrough(t *testing.T) {
	o := bare(t, local)
	e := &examiner{o: o}
	e.configuration()
	cur, dir := e.dir.CurrentPath(), t.TempDir()
	wrapper := write(t, dir, "start", "#!/bin/sh\nexec "+cur+"/mnw\n", 0o755)
	other := write(t, dir, "other", "#!/bin/sh\nexec /opt/old/mnw\n", 0o755)
	for _, tt := range []struct {
		name string
		d    systemd.Definition
		want bool
	}{
		{"program", systemd.Definition{Start: []string{cur + "/mnw", "serve"}}, true},
		{"argument", systemd.Definition{Start: []string{"/usr/bin/python3", cur + "/app.py"}}, true},
		{"directory", systemd.Definition{Start: []string{"/usr/bin/node", "app.js"}, WorkDir: cur}, true},
		{"variable", systemd.Definition{Start: []string{"/usr/bin/java"}, Env: []string{"CLASSPATH=" + cur + "/lib"}}, true},
		{"script", systemd.Definition{Start: []string{wrapper}}, true},
		{"script of another", systemd.Definition{Start: []string{other}}, false},
		{"container", systemd.Definition{Start: []string{"/usr/bin/podman", "run", "-v", cur + ":/app", "mnw"}}, true},
		{"old place", systemd.Definition{Start: []string{"/opt/old/mnw"}}, false},
		{"one release", systemd.Definition{Start: []string{e.dir.ReleasePath("1.0.0") + "/mnw"}}, false},
		{"beside it", systemd.Definition{Start: []string{cur + "-old/mnw"}}, false},
	} {
		if got := e.through(unit{Definition: tt.d}); got != tt.want {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Two configurations of one directory are two pullers at work in it.
func TestNeighbours(t *testing.T) {
	o := bare(t, local)
	e := &examiner{o: o}
	e.configuration()
	if got := e.neighbours(); len(got) != 0 {
		t.Errorf("alone: %+v", got)
	}
	write(t, filepath.Dir(o.File), "shop.toml", "app = \"shop\"\ntier = \"b\"\nroot = \""+e.cfg.Root+"\"\n"+local, 0o644)
	got := e.neighbours()
	if len(got) != 1 || got[0].Result != Failed || !strings.Contains(got[0].Found, "shop.toml names the same root as") {
		t.Errorf("got %+v", got)
	}
}

// Errors of what is asked over a network say whose matter they are.
func TestJudge(t *testing.T) {
	e := &examiner{o: Options{File: "/etc/sando/mnw.toml"}, cfg: &puller.Config{}}
	a := asked{name: "channel", where: "channels", url: "https://git.example:8443/ops.git", keys: []string{"/etc/sando/mnw/git.token"}}
	for _, tt := range []struct {
		err               error
		name, needs, mend string
	}{
		{errors.New("dial tcp: lookup git.example: no such host"), "network", "", "`getent hosts git.example`"},
		{errors.New("dial tcp 192.0.2.1:8443: connect: connection refused"), "network", "", "`curl -sS https://git.example:8443/`"},
		{errors.New("tls: failed to verify certificate: x509: certificate has expired or is not yet valid"), "network", "clock", "`date -u`"},
		{errors.New("the host does not accept the token in channels.token_file"), "channel", "", "/etc/sando/mnw/git.token"},
		{reason.Errorf(reason.Signature, "too few"), "channel", "", "sha256sum keys/trust.json"},
		{reason.Errorf(reason.Config, "token_file: none"), "credentials", "user permissions credentials", "section [channels] of /etc/sando/mnw.toml"},
		{reason.Errorf(reason.Replay, "older"), "channel", "", "as it says"},
	} {
		c := e.judge(a, tt.err)
		if c.Result != Failed || c.Name != tt.name || c.needs != tt.needs || !strings.Contains(c.Mend, tt.mend) || c.Reason != reason.Of(tt.err) {
			t.Errorf("%v: %+v, want %s, needs %q, mend %q", tt.err, c, tt.name, tt.needs, tt.mend)
		}
	}
}

// A command that is pasted gives nothing away that somebody linked to.
func TestGiveGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "mnw.env")
	link := file + ".link"
	if err := errors.Join(os.WriteFile(file, nil, 0o640), os.Symlink("/etc/shadow", link)); err != nil {
		t.Fatal(err)
	}
	if m := giveGroup("17", file); m != run("chgrp -h 17 %s", file) {
		t.Errorf("a file: %+v", m)
	}
	if m := giveGroup("17", link); m.command || !strings.HasPrefix(m.text, link+" is a link to /etc/shadow: put a file in its place") {
		t.Errorf("a link: %+v", m)
	}
}

// What is no file, put where one should be by mistake or by somebody else, is told and not waited for.
func TestPipes(t *testing.T) {
	keys := map[string]string{
		"trust": "", "storage.access_key_file": "", "storage.secret_key_file": "", "storage.ca_file": "",
		"channels.token_file": "https://127.0.0.1:1/x.git", "channels.ca_file": "https://127.0.0.1:1/x.git",
		"channels.ssh_key": "ssh://git@127.0.0.1:1/x.git", "channels.known_hosts": "ssh://git@127.0.0.1:1/x.git", "env": "",
	}
	for key, repo := range keys {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			o := bare(t, "")
			dir := filepath.Dir(o.File)
			pipe := filepath.Join(dir, "pipe")
			must(t, unix.Mkfifo(pipe, 0o600))
			good := write(t, dir, "good", "x\n", 0o600)
			if repo == "" {
				repo = "file:///none/channels.git"
			}
			o.Flags = map[string]any{"channels.repo": repo, "storage.url": "file:///none/bucket", key: pipe}
			switch {
			case key == "env":
				delete(o.Flags, "env")
				o.Flags["env.files"] = []string{pipe}
			case strings.HasPrefix(key, "storage."):
				o.Flags = map[string]any{"channels.repo": repo, "storage.url": "s3://releases", "storage.endpoint": "https://127.0.0.1:1", "storage.access_key_file": good, "storage.secret_key_file": good}
				o.Flags[key] = pipe
			case strings.HasPrefix(repo, "ssh:"):
				o.Flags["channels.ssh_key"], o.Flags["channels.known_hosts"] = good, good
				o.Flags[key] = pipe
			}
			o.limit = time.Second
			done := make(chan []Check, 1)
			go func() { done <- Examine(t.Context(), o) }()
			select {
			case checks := <-done:
				if Verdict(checks) == nil {
					t.Errorf("nothing failed: %+v", checks)
				}
			case <-time.After(15 * time.Second):
				buf := make([]byte, 1<<16)
				t.Fatalf("it hangs:\n%s", buf[:runtime.Stack(buf, true)])
			}
		})
	}
}
