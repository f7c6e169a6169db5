package appunit

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/testenv"
)

// full is a spec that uses everything.
func full() Spec {
	return Spec{
		App: "mnw", Unit: "makenotwork.service", Root: "/srv/mnw",
		Exec: `/srv/mnw/current/mnw serve --port=${PORT} --title "50% off; today" --home=$HOME`,
		Type: "notify", User: "mnw", Group: "www",
		EnvFiles:  []string{"/etc/mnw/mnw.env", "/etc/mnw/100%.env"},
		ReadWrite: []string{"/var/log/mnw", "/home/git"},
		State:     "mnw/data", StateMode: 0o750, StopStatus: []int{2, 78},
	}
}

func TestFile(t *testing.T) {
	for name, s := range map[string]Spec{
		"least.service": {App: "mnw", User: "mnw", Exec: "/opt/mnw/current/mnw"},
		"full.service":  full(),
	} {
		got, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		change func(*Spec)
		want   string
	}{
		{func(s *Spec) { s.App = "" }, `app: "" is not the name of an app`},
		{func(s *Spec) { s.App = "Mnw" }, `app: "Mnw" is not`},
		{func(s *Spec) { s.Unit = "mnw" }, `unit: "mnw" is not the name of a service, such as "mnw.service"`},
		{func(s *Spec) { s.Unit = "mnw@.service" }, `unit: "mnw@.service" is not`},
		{func(s *Spec) { s.Type = "oneshot" }, `type: "oneshot" is none of exec, simple, notify`},
		{func(s *Spec) { s.User = "" }, "user: none is named; write root if that is meant"},
		{func(s *Spec) { s.User = "a b" }, `user: "a b" is not`},
		{func(s *Spec) { s.Group = "-x" }, `group: "-x" is not`},
		{func(s *Spec) { s.Root = "opt/mnw" }, `root: "opt/mnw" is not an absolute path`},
		{func(s *Spec) { s.Root = "/" }, `root: "/" is not`},
		{func(s *Spec) { s.EnvFiles[1] = "-/etc/x" }, `env file: "-/etc/x" is not`},
		{func(s *Spec) { s.EnvFiles[1] = "/etc/*.env" }, `env file: "/etc/*.env" is not`},
		{func(s *Spec) { s.ReadWrite[0] = "/var/../etc" }, `read-write path: "/var/../etc" is not`},
		{func(s *Spec) { s.ReadWrite[0] = "/var/a b" }, `read-write path: "/var/a b" is not`},
		{func(s *Spec) { s.State = "../x" }, `state directory: "../x" is not the name of a directory in /var/lib`},
		{func(s *Spec) { s.State = "/var/lib/x" }, `state directory: "/var/lib/x" is not`},
		{func(s *Spec) { s.State = "x:y" }, `state directory: "x:y" is not`},
		{func(s *Spec) { s.State = "private/x" }, `state directory: "private/x" is not`},
		{func(s *Spec) { s.StateMode = 0 }, "mode of the state directory: 0000 does not let its owner in"},
		{func(s *Spec) { s.StateMode = 0o1777 }, "mode of the state directory: 1777 does not"},
		{func(s *Spec) { s.StateMode = 0o777 }, "mode of the state directory: 0777 lets everybody write there"},
		{func(s *Spec) { s.StopStatus = []int{0} }, "exit status: 0 is not between 1 and 255"},
		{func(s *Spec) { s.StopStatus = []int{256} }, "exit status: 256 is not"},
		{func(s *Spec) { s.Exec = "" }, `command: "" is not an absolute path: begin with that of the program, such as /srv/mnw/current/mnw`},
		{func(s *Spec) { s.Exec = "mnw serve" }, `command: "mnw" is not an absolute path`},
		{func(s *Spec) { s.Exec = "+/bin/x" }, `command: "+/bin/x" is not`},
		{func(s *Spec) { s.Exec = " /bin/x" }, `command: "" is not`},
		{func(s *Spec) { s.Exec = "/bin/x \\" }, `has a backslash: put it into a script`},
		{func(s *Spec) { s.Exec = "/bin/x\nUser=root" }, `command: "/bin/x\nUser=root" has characters that are not printable`},
		{func(s *Spec) { s.Exec = "/bin/x \xff" }, `has characters that are not printable`},
		{func(s *Spec) { s.Exec = "/bin/x ; /bin/y" }, `has a ";", which would begin a second command`},
		{func(s *Spec) { s.Exec = `/bin/x "it's` }, `has a " that is not closed`},
		{func(s *Spec) { s.Exec = `/bin/x it's` }, `has a ' that is not closed`},
		{func(s *Spec) { s.Exec = "/srv/mnw/releases/1.0/mnw" }, "names one release, and no other would ever run: write /srv/mnw/current"},
	} {
		s := full()
		c.change(&s)
		if text, err := s.File(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v\n%s\nwant %s", err, text, c.want)
		}
	}
}

var setting = regexp.MustCompile(`^(?:([A-Za-z]+)=\S.*|\[[A-Z][a-z]+\]|#.*|)$`)

// settings returns the names of the settings in a unit file, in turn.
func settings(t *testing.T, text string) []string {
	t.Helper()
	var names []string
	for _, line := range strings.Split(text, "\n") {
		m := setting.FindStringSubmatch(line)
		if m == nil {
			t.Fatalf("line %q of:\n%s", line, text)
		}
		if m[1] != "" {
			names = append(names, m[1])
		}
	}
	return names
}

// Whatever a value is, it is one value of one setting.
func TestInjection(t *testing.T) {
	plain, err := full().File()
	if err != nil {
		t.Fatal(err)
	}
	want := settings(t, plain)
	for _, nasty := range []string{
		"\nUser=root", "\r\nUser=root", "\rUser=root", "\x00", "\\\n", "\\", "%n", "%%n", "%", " -x", "\t", "\"", "'", "{user}", "{no_such}",
		";", " ; /bin/sh", "#", "\u2028User=root", "\u0085", "\xff", "[Service]", "=", "*", "$(id)", "`id`", "ü",
	} {
		for _, change := range []func(*Spec){
			func(s *Spec) { s.App += nasty },
			func(s *Spec) { s.Unit = nasty + s.Unit },
			func(s *Spec) { s.Root += nasty },
			func(s *Spec) { s.Exec += nasty },
			func(s *Spec) { s.Exec = nasty + s.Exec },
			func(s *Spec) { s.Type += nasty },
			func(s *Spec) { s.User += nasty },
			func(s *Spec) { s.Group += nasty },
			func(s *Spec) { s.EnvFiles[0] += nasty },
			func(s *Spec) { s.ReadWrite[0] += nasty },
			func(s *Spec) { s.State += nasty },
		} {
			s := full()
			change(&s)
			text, err := s.File()
			if err != nil {
				continue
			}
			if got := settings(t, text); !slices.Equal(got, want) {
				t.Errorf("%q: %s", nasty, cmp.Diff(want, got))
			}
			if strings.Contains(strings.ReplaceAll(text, "%%", ""), "%") {
				t.Errorf("%q: a specifier:\n%s", nasty, text)
			}
		}
	}
}

// What a template may not say is found out by who writes it.
func TestTemplate(t *testing.T) {
	values := map[string][]string{"one": {"1"}, "two": {"1", "2"}, "none": nil}
	for _, c := range []struct{ text, want string }{
		{"A={one}\nB={two}\n# of C\n# still\nC={none}\n# of D\nD=x{one}\n", "A=1\nB=1\nB=2\n# of D\nD=x1\n"},
		{"# a word\n# about {none}\n\nA={one}{one}\n", "\nA=11\n"},
		{"A={one} {two}\n", `template: "A={one} {two}\n" has marks with different numbers of values`},
		{"A={three}\n", "template: {three} is not known"},
	} {
		got, err := fill(c.text, values)
		if err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%q: got %q, want %q", c.text, got, c.want)
		}
	}
}

func TestVerify(t *testing.T) {
	analyze := testenv.Program(t, "systemd-analyze")
	dir := t.TempDir()
	program := filepath.Join(dir, "current", "mnw")
	if err := os.Mkdir(filepath.Dir(program), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, s := range map[string]Spec{
		"least.service": {App: "mnw", Root: dir, User: "mnw", Exec: program},
		"full.service":  full(),
	} {
		s.Root, s.Exec = dir, strings.Replace(s.Exec, "/srv/mnw", dir, 1)
		text, err := s.File()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(analyze, "verify", "--man=no", file).CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("systemd-analyze verify: %v\n%s", err, out)
		}
		out, err := exec.Command(analyze, "security", "--offline=yes", "--no-pager", file).CombinedOutput()
		exposure := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`).Find(out)
		if err != nil || exposure == nil {
			t.Fatalf("systemd-analyze security: %v\n%s", err, out)
		}
		t.Logf("%s", exposure)
	}
}
