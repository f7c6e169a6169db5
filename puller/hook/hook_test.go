package hook

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/node"
)

// me is this test's user.
func me(t *testing.T) string {
	t.Helper()
	who, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return who.Username
}

// shell returns a hook that runs a script as this test's user.
func shell(t *testing.T, script string, args ...string) Hook {
	t.Helper()
	return Hook{When: BeforeSwap, Run: append([]string{"/bin/sh", "-euc", script}, args...), User: me(t)}
}

func release(t *testing.T) Release {
	t.Helper()
	return Release{App: "mnw", Version: "2.0", Previous: "1.0", Dir: t.TempDir()}
}

// A hook gets what is written for it, and nothing of the puller's that may be a secret.
func TestEnvironment(t *testing.T) {
	for _, name := range []string{"AWS_SECRET_ACCESS_KEY", "SANDO_KEY_PASSWORD", "SANDO__STORAGE__SECRET_KEY_FILE", "NOTIFY_SOCKET", "TOKEN"} {
		t.Setenv(name, "secret")
	}
	t.Setenv("PATH", "/usr/bin:/bin")
	t.Setenv("LC_ALL", "C.UTF-8")
	dir := t.TempDir()
	var files []string
	for i, text := range []string{"A=1\nB='two words'\nexport C=3\n", "A=4\nSANDO_VERSION=lie\n"} {
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	rel := release(t)
	out, err := New(Config{EnvFiles: files}).Run(t.Context(), shell(t, `echo "$0 $1 in $PWD"; unset PWD OLDPWD SHLVL _; env | grep -v -e ^HOME= -e ^USER= -e ^LOGNAME= -e ^LANG -e ^TZ= | sort`, "{release}/x", "v{version}{version}{app}"), rel)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		rel.Dir + "/x v2.02.0{app} in " + rel.Dir,
		"A=4", "B=two words", "LC_ALL=C.UTF-8", "PATH=/usr/bin:/bin",
		"SANDO_APP=mnw", "SANDO_PREVIOUS=1.0", "SANDO_RELEASE=" + rel.Dir, "SANDO_VERSION=2.0",
	}
	if diff := cmp.Diff(want, out); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestFailures(t *testing.T) {
	short := 100 * time.Millisecond
	for name, c := range map[string]struct {
		change func(h *Hook, cfg *Config)
		want   string
		output []string
	}{
		"status":       {func(h *Hook, _ *Config) { h.Run[2] += "; echo no table >&2; exit 3" }, "ended with status 3", []string{"begins", "no table"}},
		"signal":       {func(h *Hook, _ *Config) { h.Run[2] += "; kill -KILL $$" }, "ended with signal: killed", []string{"begins"}},
		"missing":      {func(h *Hook, _ *Config) { h.Run[0] = "{release}/none" }, "was not run: fork/exec ", nil},
		"time":         {func(h *Hook, _ *Config) { h.Run[2] += "; sleep 1000"; h.Timeout = &short }, "took longer than its 100ms, and was ended", []string{"begins"}},
		"env file":     {func(_ *Hook, cfg *Config) { cfg.EnvFiles = []string{"/none/x.env"} }, "was not run: env file open /none/x.env: no such file or directory", nil},
		"bad env file": {func(_ *Hook, cfg *Config) { cfg.EnvFiles = []string{"/dev/null"} }, "was not run: env file not an environment file: /dev/null is not a regular file", nil},
	} {
		t.Run(name, func(t *testing.T) {
			h, cfg := shell(t, "echo begins"), Config{}
			c.change(&h, &cfg)
			out, err := New(cfg).Run(t.Context(), h, release(t))
			var failed *Failed
			if !errors.As(err, &failed) || !strings.HasPrefix(failed.Words, c.want) || !strings.HasPrefix(err.Error(), "hook before_swap "+h.Run[0]) {
				t.Fatalf("error %v, want %q", err, c.want)
			}
			if !slices.Equal(out, c.output) || !slices.Equal(failed.Output, c.output) {
				t.Errorf("output %q, want %q", out, c.output)
			}
		})
	}
}

// Nothing that a hook starts outlives it, and who keeps its output open holds nothing up.
func TestLeavesNothing(t *testing.T) {
	out, err := New(Config{}).Run(t.Context(), shell(t, "sleep 1000 & echo $!"), release(t))
	if err != nil || len(out) != 1 {
		t.Fatal(out, err)
	}
	ended(t, out[0])
}

// ended waits until a process has ended: it was killed, and may not have been waited for.
func ended(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.After(10 * time.Second)
	for tick := time.Tick(5 * time.Millisecond); ; {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("process %d runs", n)
		}
	}
}

// One that does not listen to SIGTERM is killed in the end, which is tested with less patience
// in package puller; one that listens may tidy up.
func TestStop(t *testing.T) {
	rel := release(t)
	errWhy := errors.New("somebody wants another version")
	ctx, stop := context.WithCancelCause(t.Context())
	begun := filepath.Join(rel.Dir, "begun")
	go func() {
		for tick := time.Tick(5 * time.Millisecond); ; <-tick {
			if _, err := os.Stat(begun); err == nil {
				stop(errWhy)
				return
			}
		}
	}()
	_, err := New(Config{}).Run(ctx, shell(t, `trap 'echo tidied >tidied; exit 0' TERM; echo >begun; sleep 1000 & wait`), rel)
	if !errors.Is(err, errWhy) {
		t.Fatalf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(rel.Dir, "tidied")); err != nil {
		t.Error(err)
	}
}

// What a hook prints without end costs no memory, and the end of it is kept.
func TestMuchOutput(t *testing.T) {
	out, err := New(Config{}).Run(t.Context(), shell(t, "yes | head -c 5000000; echo; echo last"), release(t))
	if err != nil || len(out) != node.MaxLines || out[node.MaxLines-1] != "last" {
		t.Errorf("%q, %v", out, err)
	}
}

func TestUsers(t *testing.T) {
	testenv.User(t, "the rules of a puller that is not root")
	r := New(Config{})
	if as, err := r.User(t.Context(), Hook{}); err != nil || as != strconv.Itoa(os.Geteuid()) {
		t.Errorf("%q, %v", as, err)
	}
	if _, err := r.User(t.Context(), Hook{User: "root"}); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "is not the user of this puller, which is not root") {
		t.Errorf("error %v", err)
	}
}

// A puller that is root runs hooks as whom the configuration says, and never as root by itself.
func TestAsRootUsers(t *testing.T) {
	testenv.Root(t, "to become somebody else")
	r := New(Config{})
	h := shell(t, "id -un; id -gn; id -Gn; echo $HOME $USER $LOGNAME; grep ^Cap /proc/self/status")
	h.User = ""
	if _, err := r.Run(t.Context(), h, release(t)); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "write `user`, also for root") {
		t.Errorf("error %v", err)
	}
	h.User = "nobody-has-this-name"
	if _, err := r.Run(t.Context(), h, release(t)); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "unknown user") {
		t.Errorf("error %v", err)
	}
	rel := release(t)
	rel.Dir = "/"
	who, err := user.Lookup("www-data")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"www-data", who.Uid} {
		h.User = name
		out, err := r.Run(t.Context(), h, rel)
		if err != nil || len(out) < 5 {
			t.Fatal(out, err)
		}
		want := []string{"www-data", "www-data", "www-data", who.HomeDir + " www-data www-data"}
		if diff := cmp.Diff(want, out[:4]); diff != "" {
			t.Errorf("user %s (-want +got)\n%s", name, diff)
		}
		for _, line := range out[4:] {
			if set, bits, _ := strings.Cut(line, ":"); set != "CapBnd" && strings.Trim(bits, " 0") != "" {
				t.Errorf("user %s: %s", name, line)
			}
		}
	}
	h.User = "root"
	if out, err := r.Run(t.Context(), h, rel); err != nil || out[0] != "root" {
		t.Error(out, err)
	}
}

// TestMain plays a puller that runs a hook, for TestKilled.
func TestMain(m *testing.M) {
	if dir := os.Getenv("PLAY_PULLER"); dir != "" {
		h := Hook{When: AfterSwap, Run: []string{"/bin/sh", "-c", "echo $$ >pid.new; mv pid.new pid; exec sleep 1000"}, User: strconv.Itoa(os.Geteuid())}
		_, _ = New(Config{}).Run(context.Background(), h, Release{Dir: dir})
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// The kernel ends a hook when its puller is killed.
func TestKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	puller := exec.CommandContext(t.Context(), self)
	puller.Env = append(os.Environ(), "PLAY_PULLER="+dir)
	if err := puller.Start(); err != nil {
		t.Fatal(err)
	}
	pid := ""
	for tick := time.Tick(5 * time.Millisecond); pid == ""; <-tick {
		data, err := os.ReadFile(filepath.Join(dir, "pid"))
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		pid = strings.TrimSpace(string(data))
	}
	if err := puller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = puller.Wait() // it was killed
	ended(t, pid)
}

// What comes after the swap is run on a full disk as well: nothing is started before it.
func TestAsRootMarkOnFullDisk(t *testing.T) {
	testenv.Root(t, "mounts")
	disk := t.TempDir()
	if err := unix.Mount("none", disk, "tmpfs", 0, "size=4m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	dir, err := node.Open(disk + "/mnw")
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Ballast(0); err != nil {
		t.Fatal(err)
	}
	for i, err := 0, error(nil); err == nil; i++ {
		err = os.WriteFile(fmt.Sprintf("%s/%d", disk, i), make([]byte, 64<<10), 0o600)
	}
	u := &units{Config{App: "mnw", Root: dir.Root()}}
	if err := u.marked(BeforeSwap); reason.Of(err) != reason.Disk {
		t.Errorf("before the swap: %v", err)
	}
	if err := u.marked(AfterSwap); err != nil {
		t.Errorf("after the swap: %v", err)
	}
	if data, err := os.ReadFile(u.mark()); err != nil || string(data) != u.unit()+"\n" {
		t.Errorf("the mark says %q, %v", data, err)
	}
}

// A dry run looks for what a hook is to run.
func TestLook(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"plain": 0o644, "tool": 0o755} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("tool", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ program, dir, want string }{
		{dir + "/tool", "", ""},
		{dir + "/link", "", ""},
		{dir + "/plain", "", `plain" is not executable (mode 0644)`},
		{dir + "/none", "", `none" is not there`},
		{dir, "", `" is no program but a directory`},
		{"/dev/null", "", `"/dev/null" is no program but a special file`},
		{"{release}/tool", dir, ""},
		{"{release}/none", dir, `none" is not there`},
		{"{release}/plain", dir, `plain" is not executable`},
		{"{release}/none", "", ""},
		{dir + "/current/none", "", ""},
	} {
		h := Hook{When: AfterSwap, Run: []string{c.program}}
		err := h.Look(c.dir, dir+"/current")
		if (err == nil) != (c.want == "") || err != nil && (reason.Of(err) != reason.Config || !strings.HasPrefix(err.Error(), "hook after_swap ") || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s in %q: %v, want %q", c.program, c.dir, err, c.want)
		}
	}
	if err := os.Symlink(".", filepath.Join(dir, "current")); err != nil {
		t.Fatal(err)
	}
	if err := (Hook{When: AfterSwap, Run: []string{dir + "/current/none"}}).Look("", dir+"/current"); reason.Of(err) != reason.Config {
		t.Errorf("not in what is live: %v", err)
	}
}

func TestExists(t *testing.T) {
	for name, want := range map[string]bool{me(t): true, "12345678": true, "nobody-has-this-name": false} {
		if got := exists(t.Context(), name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
