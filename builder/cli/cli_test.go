package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"makenot.work/sando/builder"
	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
)

// TestMain lets the test program be builder, so that one can be killed.
func TestMain(m *testing.M) {
	if os.Getenv("TEST_BE_BUILDER") == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	os.Exit(Run(ctx, os.Args[1:], cli.OS()))
}

// result is what one run of the program gave.
type result struct {
	exit     int
	out, err string
}

func run(t *testing.T, args ...string) result {
	t.Helper()
	var out, errs bytes.Buffer
	std := cli.Std{In: strings.NewReader(""), Out: &out, Err: &errs, Env: os.Getenv}
	exit := Run(t.Context(), args, std)
	return result{exit, out.String(), errs.String()}
}

// want runs the program and asserts the exit code and texts of both outputs.
func want(t *testing.T, exit int, out, errs string, args ...string) result {
	t.Helper()
	r := run(t, args...)
	if r.exit != exit || !strings.Contains(r.out, out) || !strings.Contains(r.err, errs) {
		t.Errorf("builder %s: exit %d, want %d\nstdout, want %q:\n%s\nstderr, want %q:\n%s", strings.Join(args, " "), r.exit, exit, out, r.out, errs, r.err)
	}
	return r
}

// decode reads the one JSON object that is all of the output.
func decode(t *testing.T, text string, v any) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	if d.More() {
		t.Errorf("more than one object:\n%s", text)
	}
}

func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	c := exec.Command("git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.org", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.org")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func put(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// workshop is a directory with a source and what builder init made; it is the working
// directory.
func workshop(t *testing.T) (dir, src string) {
	t.Helper()
	dir = t.TempDir()
	src = filepath.Join(dir, "src")
	t.Chdir(dir)
	t.Setenv("SANDO_KEY_PASSWORD", "secret")
	git(t, dir, "init", "-q", "-b", "main", src)
	put(t, src, map[string]string{"VERSION": "1.0.0\n", "code": "one", "build.sh": "mkdir -p out\ncp code out/app\necho compiling\n", ".gitignore": "out/\n"})
	git(t, src, "add", "-A")
	git(t, src, "commit", "-q", "-m", "one")
	want(t, 0, "trust fingerprint  sha256:", "", "init", "--app", "mnw", "--source", "./src")
	text, err := os.ReadFile("builder.toml")
	if err != nil {
		t.Fatal(err)
	}
	for old, new := range map[string]string{
		"command = []": `command = ["sh", "build.sh"]`, "version = []": `version = ["cat", "VERSION"]`,
		`bin_dir = ""`: `bin_dir = "out"`, "bin_names = []": `bin_names = ["app"]`,
	} {
		if !bytes.Contains(text, []byte(old)) {
			t.Fatalf("builder.toml has no %q", old)
		}
		text = bytes.Replace(text, []byte(old), []byte(new), 1)
	}
	put(t, dir, map[string]string{"builder.toml": string(text)})
	return dir, src
}

func TestSession(t *testing.T) {
	dir, src := workshop(t)
	want(t, 0, "published mnw 1.0.0 from commit", "compiling", "release")
	want(t, 0, "mnw 1.0.0 stands: it was published from commit", "", "release", "--rev", "main")
	want(t, 0, "host names 1.0.0 already", "", "release", "--dir", "src")
	want(t, 0, "advanced a: nothing -> 1.0.0", "", "promote", "a")
	want(t, 0, "a names 1.0.0 already", "", "promote", "a")
	want(t, 0, "mnw 1.0.0 is whole", "", "verify", "1.0.0")

	put(t, src, map[string]string{"VERSION": "1.1.0", "code": "two"})
	git(t, src, "commit", "-qam", "two")
	quiet := want(t, 0, "advanced host: 1.0.0 -> 1.1.0", "", "release", "-q")
	if quiet.err != "" {
		t.Errorf("--quiet said %q", quiet.err)
	}
	if !strings.Contains(quiet.out, "app  1 file  3 B  from out/app") {
		t.Errorf("no size summary:\n%s", quiet.out)
	}
	proposed := want(t, 0, "proposed a: 1.0.0 -> 1.1.0, branch bump/a/1.1.0", "", "promote", "a", "--propose")
	for line := range strings.Lines(proposed.out) {
		if script, ok := strings.CutPrefix(line, "  git "); ok { // as it is printed
			c := exec.Command("sh", "-ec", "git "+script)
			c.Dir = dir
			if _, err := os.Stat("channels"); err == nil {
				c.Dir = filepath.Join(dir, "channels")
			}
			c.Env = append(os.Environ(), "GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@x", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@x")
			if out, err := c.CombinedOutput(); err != nil {
				t.Fatalf("%s: %v\n%s", line, err, out)
			}
		}
	}
	want(t, 0, "a names 1.1.0 already", "", "promote", "a")
	want(t, 0, "advanced a: 1.1.0 -> 1.0.0", "", "promote", "a", "--version", "1.0.0")

	put(t, src, map[string]string{"code": "three"})
	git(t, src, "commit", "-qam", "three")
	want(t, 3, "", "release under a new version", "release")
	want(t, 0, "manifest", "", "verify", "1.1.0")
}

func TestJSON(t *testing.T) {
	workshop(t)
	var made builder.Initialized
	decode(t, want(t, 0, "", "", "init", "other", "--app", "x", "--tier", "one", "--json").out, &made)
	if made.App != "x" || len(made.Keys) != 4 || len(made.Tiers) != 1 {
		t.Errorf("got %+v", made)
	}
	var key builder.Key
	decode(t, want(t, 0, "", "", "keygen", "--out", "k.key", "--json").out, &key)
	if key.Private != "k.key" || key.Public != "k.pub" || len(key.Kid) != 64 {
		t.Errorf("got %+v", key)
	}
	var released builder.Released
	decode(t, want(t, 0, "", "", "release", "--json").out, &released)
	if released.Outcome != builder.OutcomePublished || released.Bundles[0].Contents[0].Bytes != 3 || released.Channels[0].Tier != "host" {
		t.Errorf("got %+v", released)
	}
	var advanced builder.Advanced
	decode(t, want(t, 0, "", "", "promote", "a", "--json").out, &advanced)
	if advanced.Outcome != builder.OutcomeAdvanced || advanced.Manifest != released.Manifest {
		t.Errorf("got %+v", advanced)
	}
	var failure cli.Failure
	decode(t, want(t, 2, "", "", "promote", "zz", "--json").out, &failure)
	if failure.Reason != reason.Config || failure.Exit != 2 {
		t.Errorf("got %+v", failure)
	}
	found, err := filepath.Glob("bucket/mnw/releases/1.0.0/*.tar.zst")
	if err != nil || len(found) != 1 {
		t.Fatal(found, err)
	}
	put(t, ".", map[string]string{found[0]: "x"})
	var verified bundle.Verified
	decode(t, want(t, 3, "", "builder: version 1.0.0: object", "verify", "1.0.0", "--json").out, &verified)
	if verified.OK || verified.Reason != reason.Mismatch || verified.Exit != 3 || len(verified.Objects) != 4 {
		t.Errorf("got %+v", verified)
	}
	want(t, 3, "FAULT  bundle", "size mismatch", "verify", "1.0.0")
}

func TestUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("SANDO_KEY_PASSWORD", "x")
	t.Setenv("SANDO_CONFIG", filepath.Join(t.TempDir(), "none.toml"))
	for _, c := range []struct {
		exit int
		out  string
		errs string
		args string
	}{
		{0, "Usage:", "", ""},
		{0, "roll", "", "promote --help"},
		{0, "bash completion", "", "completion bash"},
		{0, "fish", "", "completion"},
		{2, "", `unknown command "foo" for "builder completion"`, "completion foo"},
		{2, "", "unknown command", "relase"},
		{2, "", "unknown flag", "release --json --rv x"},
		{2, "", "an argument is missing: usage: builder promote TIER [--version", "promote"},
		{2, "", `argument "2" is one too many: usage: builder verify VERSION;`, "verify 1 2"},
		{2, "", "--app is missing: usage: builder init [DIR] --app NAME;", "init"},
		{2, "", "--retry and --version exclude each other", "promote a --version 1 --retry"},
		{2, "", "none.toml", "release"},
		{2, "", "given.toml", "release --config given.toml"},
		{2, "", "--rev is empty", "release --rev="},
		{2, "", "--version is empty", "promote a --version="},
		{2, "", "either NAME or --out", "keygen"},
		{2, "", "either NAME or --out", "keygen a --out b"},
		{2, "", "not a name for a key", "keygen dir/"},
		{2, "", "app", "init --app Upper"},
	} {
		want(t, c.exit, c.out, c.errs, strings.Fields(c.args)...)
	}
	if left, err := os.ReadDir("."); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestPassphraseFromNowhere(t *testing.T) {
	t.Chdir(t.TempDir())
	t.Setenv("SANDO_KEY_PASSWORD", "x") // restored at the end
	os.Unsetenv("SANDO_KEY_PASSWORD")
	want(t, 2, "", "set SANDO_KEY_PASSWORD", "init", "--app", "mnw")
	want(t, 2, "", "set SANDO_KEY_PASSWORD", "keygen", "k")
	if left, err := os.ReadDir("."); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
	t.Setenv("SANDO_KEY_PASSWORD", "")
	want(t, 0, "key id", "passphrase is empty", "keygen", "k")
}

func TestWrongPassphrase(t *testing.T) {
	workshop(t)
	t.Setenv("SANDO_KEY_PASSWORD", "not it")
	r := want(t, 2, "", "wrong passphrase", "release")
	if strings.Contains(r.err, "not it") {
		t.Errorf("the passphrase is shown: %s", r.err)
	}
}

// A release that is killed at any moment is finished by the next one, and at no moment
// does the channel name a version that is not whole.
func TestKilled(t *testing.T) {
	dir, src := workshop(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func() *exec.Cmd {
		c := exec.Command(self, "release", "-q")
		c.Env = append(os.Environ(), "TEST_BE_BUILDER=1")
		c.Stderr = os.Stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	begun := time.Now()
	if err := start().Wait(); err != nil {
		t.Fatal(err)
	}
	whole := time.Since(begun)
	killed := 0
	for i := range 6 {
		v := fmt.Sprintf("2.%d.0", i)
		put(t, src, map[string]string{"VERSION": v, "code": v})
		git(t, src, "commit", "-qam", v)
		c := start()
		timer := time.AfterFunc(rand.N(whole), func() { c.Process.Signal(syscall.SIGKILL) })
		err := c.Wait()
		timer.Stop()
		var exit *exec.ExitError
		if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled() {
			killed++
		} else if err != nil {
			t.Fatal(err)
		}
		// A git push that the killed builder had begun may end at any time now.
		promoted := run(t, "promote", "a", "--json")
		if promoted.exit == reason.Stale.Exit() && strings.Contains(promoted.err, "moved meanwhile") {
			promoted = want(t, 0, "", "", "promote", "a", "--json")
		}
		var named builder.Advanced
		decode(t, promoted.out, &named) // what host names
		want(t, 0, "is whole", "", "verify", named.Version)

		var out builder.Released
		decode(t, want(t, 0, "", "", "release", "-q", "--json").out, &out)
		if out.Version != v || len(out.Channels) != 1 {
			t.Fatalf("the release after the kill: %+v", out)
		}
		want(t, 0, "is whole", "", "verify", v)
	}
	t.Logf("%d of 6 were killed", killed)
	for _, pattern := range []string{"state/.[!.]*", "state/tmp/*", "state/work/.[!.]*", "state/work/*.busy", "state/seen/.[!.]*"} {
		if left, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}
