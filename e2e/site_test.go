package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"makenot.work/sando/layout/node"
)

// site is a builder with a few released versions, and nodes that follow tier a. The
// programs are run as processes, so that they can be killed.
type site struct {
	t   testing.TB
	dir string
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newSite makes a builder whose source has the given versions, each a commit and a tag.
func newSite(t testing.TB, versions ...string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	must(t, os.MkdirAll(s.path("src", "files"), 0o755))
	s.git("init", "-q", "-b", "main")
	for _, v := range versions {
		s.commit(v)
	}
	s.run(0, "builder", "init", s.path("site"), "--app", "mnw", "--source", "file://"+s.path("src"))
	config, err := os.ReadFile(s.path("site", "builder.toml"))
	must(t, err)
	text := strings.NewReplacer(
		"version = []", `version = ["cat", "VERSION"]`,
		"\n[storage]", "\n[[release_contents]]\nsrc = \"files\"\ndst = \"files\"\nrequired = true\n[[release_contents]]\nsrc = \"VERSION\"\ndst = \"VERSION\"\nrequired = true\n\n[storage]",
	).Replace(string(config))
	must(t, os.WriteFile(s.path("site", "builder.toml"), []byte(text), 0o644))
	return s
}

func (s *site) path(elem ...string) string { return filepath.Join(append([]string{s.dir}, elem...)...) }

// commit makes a version of the source: 30 files that differ, and a bigger one.
func (s *site) commit(version string) {
	s.t.Helper()
	must(s.t, os.WriteFile(s.path("src", "VERSION"), []byte(version+"\n"), 0o644))
	for i := range 30 {
		must(s.t, os.WriteFile(s.path("src", "files", fmt.Sprint(i)), []byte(strings.Repeat(version+" ", i*50)), 0o644))
	}
	big := make([]byte, 1<<20)
	chacha := rand.NewChaCha8([32]byte([]byte(fmt.Sprintf("%-32s", version))))
	if _, err := chacha.Read(big); err != nil {
		s.t.Fatal(err)
	}
	must(s.t, os.WriteFile(s.path("src", "files", "big"), big, 0o644))
	s.git("add", "-A")
	s.git("commit", "-q", "-m", version)
	s.git("tag", version)
}

func (s *site) git(args ...string) {
	s.t.Helper()
	cmd := exec.Command("git", append([]string{"-C", s.path("src"), "-c", "user.name=dev", "-c", "user.email=dev@example.org"}, args...)...)
	if out, err := cmd.CombinedOutput(); err != nil {
		s.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
}

func (s *site) command(args ...string) *exec.Cmd {
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "SANDO_KEY_PASSWORD=secret", "SANDO_CONFIG="+s.path("site", "builder.toml"))
	return cmd
}

// run runs a program to its end, demands its exit code and returns what it printed.
func (s *site) run(want int, args ...string) string {
	s.t.Helper()
	return finish(s.t, s.command(args...), want)
}

func finish(t testing.TB, cmd *exec.Cmd, want int) string {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if got := cmd.ProcessState.ExitCode(); got != want {
		t.Fatalf("%s: exit %d, want %d\n%s%s", strings.Join(cmd.Args, " "), got, want, out.String(), errs.String())
	}
	return out.String()
}

// release publishes a version and advances the first tier.
func (s *site) release(version string) {
	s.t.Helper()
	s.run(0, "builder", "release", "--quiet", "--rev", version)
}

func (s *site) promote(version string) {
	s.t.Helper()
	s.run(0, "builder", "promote", "a", "--version", version)
}

// machine is one node of a site.
type machine struct {
	*site
	root string
	side string // begins the names of the files beside the root: .toml, .running
}

// machine makes the configuration of a node. Its service writes the live version to
// the file SIDE.running.
func (s *site) machine(name string) *machine {
	s.t.Helper()
	m := &machine{s, s.path(name), s.path(name)}
	s.configure(m)
	return m
}

func (s *site) configure(m *machine) {
	s.t.Helper()
	script := fmt.Sprintf("cat %s/current/VERSION > %s.running", m.root, m.side)
	must(s.t, os.WriteFile(m.side+".toml", []byte(fmt.Sprintf(`
app = "mnw"
tier = "a"
node = "%s"
root = "%s"
trust = "%s"
retain = 1
[channels]
repo = "file://%s"
[storage]
url = "file://%s"
[service]
command = ["/bin/sh", "-c", "%s"]
`, filepath.Base(m.side), m.root, s.path("site", "keys", "trust.json"), s.path("site", "channels.git"), s.path("site", "bucket"), script)), 0o644))
}

func (m *machine) puller(args ...string) *exec.Cmd {
	cmd := m.command(append([]string{"puller"}, args...)...)
	cmd.Env = append(cmd.Env, "SANDO_CONFIG="+m.side+".toml")
	return cmd
}

// cycle runs one cycle to its end, demands its exit code and returns its reason.
func (m *machine) cycle(want int, args ...string) string {
	m.t.Helper()
	out := finish(m.t, m.puller(append(args, "--json")...), want)
	var r struct{ Reason string }
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		m.t.Fatalf("%v: %s", err, out)
	}
	return r.Reason
}

// killer kills programs at random moments of the time that they take. A machine is busier
// at one time than at another, so it learns how long that is as it goes.
type killer struct {
	whole time.Duration
	n     int // how many were killed
}

// kill starts cmd and kills it, unless it ends before.
func (k *killer) kill(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	start := time.Now()
	must(t, cmd.Start())
	timer := time.AfterFunc(time.Duration(rand.Int64N(int64(k.whole))), func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	if cmd.ProcessState.Sys().(syscall.WaitStatus).Signaled() {
		k.n++
		k.whole += k.whole / 16
	} else {
		k.whole = (k.whole + time.Since(start)) / 2
	}
}

// enough reports an error unless enough of so many were killed for the test to mean anything.
func (k *killer) enough(t testing.TB, of int) {
	t.Helper()
	t.Logf("%d of %d were killed", k.n, of)
	if k.n < of/4 {
		t.Errorf("only %d of %d were killed in the middle: the test tests little", k.n, of)
	}
}

// invariants asserts what must hold at any moment, however a puller ended.
func (m *machine) invariants() {
	m.t.Helper()
	must(m.t, m.violated())
}

// violated returns the first invariant that does not hold, by its name in the list of
// docs/hacking.md.
func (m *machine) violated() error {
	dir, err := node.View(m.root)
	if err != nil {
		return err
	}
	cur, err := dir.Current()
	if err != nil {
		return err
	}
	if cur.Odd != "" || cur.Dangling != "" {
		return fmt.Errorf("I1: current is %+v", cur)
	}
	if cur.Version != "" {
		if _, err := dir.Verify(m.t.Context(), cur.Version); err != nil {
			return fmt.Errorf("I1: %w", err)
		}
	}
	st, err := dir.State()
	if err != nil {
		return fmt.Errorf("I2: %w", err)
	}
	if st == nil {
		st = node.NewState()
	}
	running := ""
	if st.Running != nil {
		running = st.Running.Version
	}
	if st.Intent == nil && running != cur.Version {
		return fmt.Errorf("I3, I4: idle at %q, current is %q", running, cur.Version)
	}
	return nil
}

// settled asserts that the node runs exactly version and nothing was left behind.
func (m *machine) settled(version string) {
	m.t.Helper()
	m.invariants()
	dir, err := node.View(m.root)
	must(m.t, err)
	cur, err := dir.Current()
	must(m.t, err)
	running, err := os.ReadFile(m.side + ".running")
	must(m.t, err)
	if cur.Version != version || strings.TrimSpace(string(running)) != version {
		m.t.Fatalf("current is %q and %q runs, want %q", cur.Version, running, version)
	}
	st, err := dir.State()
	must(m.t, err)
	if st.Intent != nil || len(st.Blocked) != 0 {
		m.t.Fatalf("state is not settled: %+v", st)
	}
	must(m.t, filepath.WalkDir(m.root, func(path string, e os.DirEntry, err error) error {
		rel, _ := filepath.Rel(m.root, path)
		if err == nil && stray(rel) {
			m.t.Errorf("stray file %s", rel)
		}
		return err
	}))
	finish(m.t, m.puller("verify"), 0)
}

// stray reports whether a path below a node's root is one that no settled node has.
func stray(rel string) bool {
	for _, dir := range []string{"staging", "fetch", "trash"} {
		if strings.HasPrefix(rel, ".sando/"+dir+"/") {
			return true
		}
	}
	if strings.HasPrefix(rel, ".sando/git/") {
		return false
	}
	name := filepath.Base(rel)
	if strings.HasPrefix(rel, ".sando/.pin.json.") {
		return false // written without the lock, so it may be in use; deleted when it is an hour old
	}
	top := !strings.Contains(rel, "/")
	return name[0] == '.' && name != ".sando" && rel != "." || top && rel != "." && rel != ".sando" && rel != "current" && rel != "releases" ||
		strings.HasSuffix(name, ".broken")
}

// rounds scales the number of repetitions: few in a plain run, all in the crash lane.
func rounds(few, all int) int {
	if os.Getenv("SANDO_CRASH") != "" {
		return all
	}
	return few
}
