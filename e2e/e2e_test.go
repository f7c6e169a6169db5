// Package e2e tests both programs the way people use them.
//
// # Scripts
//
// A promise of the command line is a script: testdata/NAME.txtar, one topic a file.
// The programs builder and puller are this test binary, run as processes. Besides the
// commands of testscript, scripts have
//
//	world                     begin in the world of testdata/world (see make.sh there)
//	exitcode N PROGRAM ARG…   run a program that must exit with N
//	remember PATH…            note mode, time and bytes of everything at PATH
//	unchanged [PATH…]         everything remembered is as it was
//	empty DIR…                nothing is in DIR, if there is one
//	flip FILE WHERE           change one bit: at an offset, or right after a text
//	json FILE KEY [VALUE]     a value of a JSON document, such as bundles.0.name
//	jsonenv NAME FILE KEY     the same, into an environment variable
//	resign FILE KEY=VALUE…    change a channel state, and sign it as a builder would
//	nexttrust FILE ROLE=KEY,…/THRESHOLD…   the version of trust that follows, not signed
//	expand FILE…              replace $VARIABLES in a file
//	await TEXT FILE           wait until the file holds the text
//	manager FILE              be the service manager of what is run from now on: what it is
//	                          told is in the file, a line each
//	health NAME ROOT          serve what runs in ROOT, and its health; NAME gets the URL
//
// A FILE may be a pattern that matches one file. A failure that is expected is followed
// by lines that show that nothing was left behind.
package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/testscript"

	builder "makenot.work/sando/builder/cli"
	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/cli"
	puller "makenot.work/sando/puller/cli"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"builder": program(builder.Run),
		"puller":  program(puller.Run),
		"idle":    program(idle),
		"mnw":     program(mnw),
		"fill":    program(fill),
	})
}

// program is what the main function of a command does.
func program(run func(ctx context.Context, args []string, std cli.Std) int) func() {
	return func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		os.Exit(run(ctx, os.Args[1:], cli.OS()))
	}
}

const passphrase = "correct horse battery staple"

func TestScripts(t *testing.T) {
	world := newWorld(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata",
		RequireUniqueNames:  true,
		RequireExplicitExec: false,
		Setup: func(env *testscript.Env) error {
			env.Vars = append(env.Vars, environment()...)
			env.Values["remembered"] = remembered{}
			// A node refuses a root that others could replace, whatever the umask is.
			return os.Chmod(env.WorkDir, 0o755)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"world":     world,
			"exitcode":  exitcode,
			"remember":  remember,
			"unchanged": unchanged,
			"empty":     empty,
			"flip":      flip,
			"json":      jsonIs,
			"jsonenv":   jsonenv,
			"resign":    resign,
			"nexttrust": nexttrust,
			"expand":    expand,
			"await":     await,
			"health":    health,
			"manager":   manager,
		},
	})
}

// environment is what scripts have besides testscript's own.
func environment() []string {
	return []string{
		"SANDO_KEY_PASSWORD=" + passphrase,
		"PLATFORM=" + runtime.GOOS + "/" + runtime.GOARCH,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=Ada", "GIT_AUTHOR_EMAIL=ada@example.org", "GIT_AUTHOR_DATE=2026-06-02T21:00:00Z",
		"GIT_COMMITTER_NAME=Ada", "GIT_COMMITTER_EMAIL=ada@example.org", "GIT_COMMITTER_DATE=2026-06-02T21:00:00Z",
	}
}

type command = func(ts *testscript.TestScript, neg bool, args []string)

// newWorld returns the command world. What it copies is made once, when the first
// script asks for it.
func newWorld(t *testing.T) command {
	make := sync.OnceValues(func() (string, error) {
		from, err := filepath.Abs("testdata/world")
		if err != nil {
			return "", err
		}
		dir := t.TempDir()
		cmd := exec.Command("sh", filepath.Join(from, "make.sh"), from)
		cmd.Dir = dir
		cmd.Env = append(append(os.Environ(), "HOME=/no-home"), environment()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("make the world: %w\n%s", err, out)
		}
		return dir, nil
	})
	return func(ts *testscript.TestScript, neg bool, args []string) {
		usage(ts, !neg && len(args) == 0, "world")
		dir, err := make()
		ts.Check(err)
		ts.Check(ts.Exec("cp", "-a", dir+"/.", ts.Getenv("WORK")))
		ts.Check(os.Chmod(ts.Getenv("WORK"), 0o755))
		expand(ts, false, []string{"a.toml", "b.toml"})
	}
}

func usage(ts *testscript.TestScript, ok bool, text string) {
	if !ok {
		ts.Fatalf("usage: %s", text)
	}
}

// file returns the path of the one file that pattern matches.
func file(ts *testscript.TestScript, pattern string) string {
	found, err := filepath.Glob(ts.MkAbs(pattern))
	ts.Check(err)
	if len(found) != 1 {
		ts.Fatalf("%q matches %d files, want one: %q", pattern, len(found), found)
	}
	return found[0]
}

func exitcode(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 1, "exitcode N PROGRAM ARG…")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	var exit *exec.ExitError
	switch err := ts.Exec(args[1], args[2:]...); {
	case errors.As(err, &exit):
		got = exit.ExitCode()
	default:
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code is %d, want %d", got, want)
	}
}

// remembered is what was at some paths, by path.
type remembered map[string][]string

func remember(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "remember PATH…")
	was := ts.Value("remembered").(remembered)
	clear(was)
	for _, arg := range args {
		was[arg] = list(ts, arg)
	}
}

func unchanged(ts *testscript.TestScript, neg bool, args []string) {
	was := ts.Value("remembered").(remembered)
	usage(ts, !neg && len(was) > 0, "unchanged [PATH…]")
	if len(args) == 0 {
		args = slices.Sorted(maps.Keys(was))
	}
	for _, arg := range args {
		before, ok := was[arg]
		if !ok {
			ts.Fatalf("%q was not remembered", arg)
		}
		if diff := cmp.Diff(before, list(ts, arg)); diff != "" {
			ts.Fatalf("%s changed:\n%s", arg, diff)
		}
	}
}

// list returns a line about each thing at and below name.
func list(ts *testscript.TestScript, name string) (lines []string) {
	top := ts.MkAbs(name)
	ts.Check(filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == top {
			lines = append(lines, "nothing")
			return nil
		}
		if err != nil {
			return err
		}
		line, err := describe(path)
		lines = append(lines, line+" "+strings.TrimPrefix(path, top))
		return err
	}))
	return lines
}

// describe returns mode, time and content of the file at path.
func describe(path string) (string, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", err
	}
	at, content := info.ModTime().UTC().Format(time.RFC3339Nano), "-"
	switch mode := info.Mode(); {
	case mode.IsDir():
		at = "-" // changes with every temporary file
	case mode.Type() == fs.ModeSymlink:
		content, err = os.Readlink(path)
	case mode.IsRegular():
		var data []byte
		data, err = os.ReadFile(path)
		content = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	return fmt.Sprintf("%s %s %s", info.Mode(), at, content), err
}

func empty(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "empty DIR…")
	for _, arg := range args {
		entries, err := os.ReadDir(ts.MkAbs(arg))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			ts.Check(err)
		}
		if len(entries) > 0 {
			ts.Fatalf("%s is not empty: %q", arg, entries)
		}
	}
}

func flip(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "flip FILE WHERE")
	name := file(ts, args[0])
	data, err := os.ReadFile(name)
	ts.Check(err)
	at, err := strconv.Atoi(args[1])
	if err != nil {
		i := strings.Index(string(data), args[1])
		if i < 0 {
			ts.Fatalf("%s does not hold %q", name, args[1])
		}
		at = i + len(args[1])
	}
	if at >= len(data) {
		ts.Fatalf("%s has %d bytes", name, len(data))
	}
	data[at] ^= 1
	info, err := os.Stat(name)
	ts.Check(err)
	ts.Check(os.WriteFile(name, data, info.Mode().Perm()))
}

// lookUp returns the value at key, with dots between levels, of the JSON document in
// file, as text.
func lookUp(ts *testscript.TestScript, file, key string) (string, bool) {
	var v any
	dec := json.NewDecoder(strings.NewReader(ts.ReadFile(file)))
	dec.UseNumber()
	ts.Check(dec.Decode(&v))
	if _, err := dec.Token(); err != io.EOF {
		ts.Fatalf("%s: more than one JSON document", file)
	}
	for _, step := range strings.Split(key, ".") {
		var ok bool
		switch at := v.(type) {
		case map[string]any:
			v, ok = at[step]
		case []any:
			i, err := strconv.Atoi(step)
			if ok = err == nil && i < len(at); ok {
				v = at[i]
			}
		}
		if !ok {
			return "", false
		}
	}
	if s, ok := v.(string); ok {
		return s, true
	}
	text, err := json.Marshal(v)
	ts.Check(err)
	return string(text), true
}

func jsonIs(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, len(args) == 2 || !neg && len(args) == 3, "json FILE KEY [VALUE]")
	got, there := lookUp(ts, args[0], args[1])
	switch {
	case there == neg:
		ts.Fatalf("%s: there is %q: %t", args[0], args[1], there)
	case len(args) == 3 && got != args[2]:
		ts.Fatalf("%s: %q is %q, want %q", args[0], args[1], got, args[2])
	}
}

func jsonenv(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 3, "jsonenv NAME FILE KEY")
	got, there := lookUp(ts, args[1], args[2])
	if !there {
		ts.Fatalf("%s: there is no %q", args[1], args[2])
	}
	ts.Setenv(args[0], got)
}

func expand(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "expand FILE…")
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), ts.Getenv)
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

// resign makes the next state of a channel out of the one in FILE. What is not given
// stays, but for the counter, which goes up by one.
func resign(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) > 0, "resign FILE KEY=VALUE…")
	name := file(ts, args[0])
	c, err := channels.ParseChannel([]byte(ts.ReadFile(name)))
	ts.Check(err)
	c.Seq++
	for _, arg := range args[1:] {
		key, value, _ := strings.Cut(arg, "=")
		ts.Check(set(c, key, value))
	}
	doc, err := c.Encode()
	ts.Check(err)
	key, err := keys.Load([]byte(ts.ReadFile("keys/channel.key")), []byte(passphrase))
	ts.Check(err)
	sig, err := key.Sign(doc)
	ts.Check(err)
	ts.Check(os.WriteFile(name, doc, 0o644))
	ts.Check(os.WriteFile(signing.SignatureFile(name, key.Public().Kid()), sig, 0o644))
}

// set changes one field of a channel state.
func set(c *channels.Channel, key, value string) (err error) {
	switch key {
	case "seq":
		c.Seq, err = strconv.ParseInt(value, 10, 64)
	case "attempt":
		c.Attempt, err = strconv.ParseInt(value, 10, 64)
	case "rollout":
		c.Rollout, err = strconv.Atoi(value)
	case "hotfix":
		c.Hotfix = value
	case "issued":
		c.Issued.Time, err = time.Parse(canon.TimeLayout, value)
	case "expires":
		c.Expires.Time, err = time.Parse(canon.TimeLayout, value)
	default:
		err = fmt.Errorf("unknown key %q", key)
	}
	return err
}

func await(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "await TEXT FILE")
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 3000 {
		if data, err := os.ReadFile(ts.MkAbs(args[1])); err == nil && strings.Contains(string(data), args[0]) {
			return
		}
		<-tick.C
	}
	ts.Fatalf("%s does not hold %q within 30 s", args[1], args[0])
}

// health serves what ROOT/current holds, and at /health {"status", "version"}: the
// version is what the file VERSION there says, the status "operational", or what the
// file status-VERSION of the work directory says.
func health(ts *testscript.TestScript, neg bool, args []string) {
	usage(ts, !neg && len(args) == 2, "health NAME ROOT")
	current, work := filepath.Join(ts.MkAbs(args[1]), "current"), ts.Getenv("WORK")
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(current)))
	mux.HandleFunc("/health", func(w http.ResponseWriter, _ *http.Request) {
		v, err := os.ReadFile(filepath.Join(current, "VERSION"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		answer := map[string]string{"status": "operational", "version": strings.TrimSpace(string(v))}
		if text, err := os.ReadFile(filepath.Join(work, "status-"+answer["version"])); err == nil {
			answer["status"] = strings.TrimSpace(string(text))
		}
		if err := json.NewEncoder(w).Encode(answer); err != nil {
			panic(http.ErrAbortHandler) // who asked has gone
		}
	})
	s := httptest.NewServer(mux)
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.URL)
}
