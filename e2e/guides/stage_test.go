package guides

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv/host"
)

// A stage has the machines on which one document is followed.
type stage struct {
	t      *testing.T
	hosts  map[string]*host.Host
	shells map[string]*shell // by MACHINE/USER
	said   []string          // all lines that were printed

	// before and after have what happens around a section, by its heading: what a reader
	// would find, and what has to be true then.
	before, after map[string]func()
}

func newStage(t *testing.T) *stage {
	return &stage{
		t: t, hosts: map[string]*host.Host{}, shells: map[string]*shell{},
		before: map[string]func(){}, after: map[string]func(){},
	}
}

// goEnv asks Go for a setting of this machine.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	must(t, err)
	return strings.TrimSpace(string(out))
}

// boot boots a machine: a server with systemd, Go, git and make, as a distribution leaves it.
func (s *stage) boot(name string) *host.Host {
	s.t.Helper()
	h := host.Boot(s.t, host.Private, host.Named(name))
	s.hosts[name] = h
	h.Write(s.t, "/etc/hosts", "127.0.0.1 localhost\n", 0o644)
	// A reader waits half a minute for a release to prove itself, and a minute for a look.
	const hurry = "[Service]\nEnvironment=SANDO__HEALTH__STABLE_FOR=500ms SANDO__HEALTH__INTERVAL=50ms \"SANDO__SCHEDULE__POLL=@every 1s\"\n"
	for _, unit := range []string{"puller@.service", "puller-once@.service"} {
		h.Write(s.t, "/etc/systemd/system/"+unit+".d/hurry.conf", hurry, 0o644)
	}
	// Every user finds what Go has built on this machine before.
	cache := goEnv(s.t, "GOCACHE")
	h.Run(s.t, "sh", "-c", fmt.Sprintf("mkdir -p %[1]s; chmod a+x /root; chmod a+rx /root/.cache; chmod 777 %[1]s %[1]s/??", cache))
	return h
}

// clone puts what a fresh clone of this repository has, as far as Go needs it, on a machine.
func (s *stage) clone(h *host.Host, dir string) {
	s.t.Helper()
	must(s.t, filepath.WalkDir("../..", func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel("../..", path)
		if err != nil {
			return err
		}
		switch {
		case e.IsDir() && name != "." && (strings.HasPrefix(name, ".") || name == "bin" || e.Name() == "testdata"):
			return fs.SkipDir
		case e.Type().IsRegular():
			h.Copy(s.t, path, filepath.Join(dir, name))
		}
		return nil
	}))
}

// open returns a user's terminal on a machine.
func (s *stage) open(machine, user string) *shell {
	s.t.Helper()
	name := machine + "/" + user
	if sh := s.shells[name]; sh != nil {
		return sh
	}
	h := s.hosts[machine]
	if h == nil {
		s.t.Fatalf("there is no machine %q", machine)
	}
	home := strings.Split(strings.TrimSpace(h.Run(s.t, "getent", "passwd", user)), ":")[5]
	args := []string{
		"--reuid=" + user, "--regid=" + user, "--init-groups", "env", "-C", home, "HOME=" + home, "USER=" + user,
		"GOCACHE=" + goEnv(s.t, "GOCACHE"), "GOMODCACHE=" + goEnv(s.t, "GOMODCACHE"), "GOTOOLCHAIN=local", "GOPROXY=off", "GOFLAGS=-mod=mod",
	}
	if user == "root" { // waits as short as the units', and Go where the profile of root has it, and nobody else's
		args = append(args, "SANDO__HEALTH__STABLE_FOR=500ms", "SANDO__HEALTH__INTERVAL=50ms",
			"PATH="+filepath.Join(goEnv(s.t, "GOROOT"), "bin")+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	} else {
		args = append(args, "PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games")
	}
	sh := open(s.t, h.Command(s.t.Context(), "setpriv", append(args, "bash", "--norc", "--noprofile")...))
	s.shells[name] = sh
	return sh
}

// follow does what a document says, from its first line to its last.
func (s *stage) follow(name string, sections []*section) {
	s.t.Helper()
	known := map[string]bool{}
	for _, sec := range sections {
		known[sec.heading] = true
		if do := s.before[sec.heading]; do != nil {
			do()
		}
		for _, b := range sec.blocks {
			if b.lang == "sh" {
				s.paste(name, b)
			}
		}
		if do := s.after[sec.heading]; do != nil {
			do()
		}
	}
	for _, hooks := range []map[string]func(){s.before, s.after} {
		for heading := range hooks {
			if !known[heading] {
				s.t.Errorf("docs/%s has no section %q", name, heading)
			}
		}
	}
}

// paste runs the commands of a block, and compares.
func (s *stage) paste(name string, b *block) {
	s.t.Helper()
	sh := s.open(b.machine, b.user)
	all, rest := "", ""
	for _, c := range commands(s.t, b) {
		text := s.complete(c.text)
		printed, exit, err := sh.run(text)
		all += printed
		if c.prints == "" {
			rest += printed
		}
		s.said = append(s.said, lines(printed)...)
		where := fmt.Sprintf("docs/%s:%d: on %s, as %s:\n%s", name, c.line, b.machine, b.user, c.text)
		switch {
		case err != nil:
			s.t.Fatalf("%s%v\n%s", where, err, printed)
		case exit != c.exit:
			s.t.Fatalf("%sexit status %d, want %d\n%s", where, exit, c.exit, printed)
		case c.prints != "" && !same(c.prints, strings.TrimSuffix(printed, "\n")):
			s.t.Fatalf("%sprinted\n%swant\n%s\n", where, printed, c.prints)
		}
	}
	if os.Getenv("SANDO_GUIDES") != "" {
		s.t.Logf("%s docs/%s:%d: on %s, as %s:\n%s%s", time.Now().Format("05.0"), name, b.line, b.machine, b.user, b.text, all)
	}
	if b.prints != nil && !agree(lines(b.prints.text), lines(rest)) {
		s.t.Fatalf("docs/%s:%d: the commands before it printed\n%swant\n%s", name, b.prints.line, rest, b.prints.text)
	}
}

// complete puts what was printed in the place of a line that a document abbreviates, because
// every reader sees another one: "puller bootstrap … --dry-run" is the latest line that begins
// so, and what is behind the ellipsis.
func (s *stage) complete(text string) string {
	s.t.Helper()
	whole := strings.Split(text, "\n")
	for i, line := range whole {
		begin, end, abbreviated := strings.Cut(line, " …")
		if !abbreviated || end != "" && !strings.HasPrefix(end, " ") {
			continue
		}
		whole[i] = ""
		for _, said := range s.said {
			if strings.HasPrefix(said, begin+" ") {
				whole[i] = said + end
			}
		}
		if whole[i] == "" {
			s.t.Fatalf("nothing has printed %s", line)
		}
	}
	return strings.Join(whole, "\n")
}
