package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// stage is where the demo plays: a directory, and what is known of what is in it.
type stage struct {
	*printer
	clone string // the clone of Sando that the demo was started in
	dir   string // the directory of the demo
	env   []string
	a, b  *node
}

// newStage makes the directory and the environment of everything that runs in it.
func newStage(ctx context.Context, p *printer) (d *stage, err error) {
	// Orphans of what the demo starts become its own children: so it finds all of them,
	// and no other process can have their ids.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("become the parent of orphans: %w", err)
	}
	syscall.Umask(0o022) // a puller refuses directories that others can write
	d = &stage{printer: p}
	if d.clone, err = clone(ctx); err != nil {
		return nil, err
	}
	tmp, err := filepath.EvalSymlinks(os.TempDir())
	if err == nil {
		tmp, err = filepath.Abs(tmp)
	}
	if err != nil {
		return nil, err
	}
	if d.dir, err = os.MkdirTemp(tmp, "sando-"); err != nil {
		return nil, err
	}
	if err := d.furnish(ctx); err != nil {
		return nil, errors.Join(err, d.clear())
	}
	return d, nil
}

// clone returns the root of the module that the demo was started in.
func clone(ctx context.Context) (string, error) {
	file, err := goEnv(ctx, "GOMOD")
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(file)
	if _, err := os.Stat(filepath.Join(dir, "e2e", "app", "VERSION")); err != nil {
		return "", fmt.Errorf("not in a clone of Sando: start it with `make demo` there: %w", err)
	}
	return dir, nil
}

func goEnv(ctx context.Context, name string) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", name).Output()
	if err != nil {
		return "", fmt.Errorf("go env %s: %w", name, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// furnish makes what is in the directory from the start.
func (d *stage) furnish(ctx context.Context) (err error) {
	for _, name := range []string{"home", "tmp"} {
		if err := os.Mkdir(d.path(name), 0o700); err != nil {
			return err
		}
	}
	cache, err := goEnv(ctx, "GOCACHE") // what is compiled already need not be again
	if err != nil {
		return err
	}
	if cache == "off" || unix.Access(cache, unix.W_OK) != nil {
		cache = d.path("home", "cache")
	}
	// Nothing of the person's own settings reaches the commands, nor do they leave
	// anything in the person's directories.
	d.env = []string{
		"PATH=" + d.path("bin") + ":" + os.Getenv("PATH"),
		"SANDO_KEY_PASSWORD=" + passphrase,
		"HOME=" + d.path("home"), "TMPDIR=" + d.path("tmp"), "LC_ALL=C", "TZ=UTC",
		"GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0",
		"GIT_AUTHOR_NAME=demo", "GIT_AUTHOR_EMAIL=demo@localhost",
		"GIT_COMMITTER_NAME=demo", "GIT_COMMITTER_EMAIL=demo@localhost",
		"GOCACHE=" + cache, "GOENV=off", "GOPROXY=off", "GOTOOLCHAIN=local",
	}
	addrs, err := freeAddresses(2)
	if err != nil {
		return err
	}
	d.a = &node{tier: "a", name: "node-a", addr: addrs[0]}
	d.b = &node{tier: "b", name: "node-b", addr: addrs[1]}
	return nil
}

// passphrase seals the keys of the demo, which live as long as it does.
const passphrase = "demo"

func (d *stage) path(elem ...string) string {
	return filepath.Join(append([]string{d.dir}, elem...)...)
}

// run prints scripts of shell and runs them one after the other in the directory of the
// demo, prints what they answer, and returns that. The last one must end with the given
// exit code, those before it with 0.
func (d *stage) run(ctx context.Context, exit int, scripts ...string) (string, error) {
	var all strings.Builder
	for i, script := range scripts {
		want := 0
		if i == len(scripts)-1 {
			want = exit
		}
		out, err := d.runIn(ctx, d.dir, d.env, want, script)
		all.WriteString(out)
		if err != nil {
			return all.String(), err
		}
	}
	return all.String(), nil
}

// runIn does one script, in a directory and an environment.
func (d *stage) runIn(ctx context.Context, dir string, env []string, exit int, script string) (string, error) {
	d.command(script)
	if d.err != nil {
		return "", d.err
	}
	out, code, err := shell(ctx, dir, env, script)
	d.wrap("   | ", "  ", out)
	if err != nil {
		return out, fmt.Errorf("%s: %w", script, err)
	}
	if code != 0 {
		d.printf("   exit code %d\n", code)
	}
	if code != exit {
		return out, fmt.Errorf("`%s` ended with exit code %d, want %d", script, code, exit)
	}
	return out, nil
}

// shell runs a script, and returns all that it printed, and its exit code. When ctx
// ends, it is killed with all that it started in its process group; what has a group of
// its own is left to clear.
func shell(ctx context.Context, dir string, env []string, script string) (string, int, error) {
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, "/bin/sh", "-e", "-c", script)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, env, &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return out.String(), 0, ctx.Err()
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) && ended.Exited() {
		return out.String(), ended.ExitCode(), nil
	}
	return out.String(), 0, err
}

// write makes a file in the directory of the demo, and shows it.
func (d *stage) write(name, text string, mode os.FileMode) error {
	d.printf("   %s:\n", name)
	d.wrap("   | ", "  ", text)
	return os.WriteFile(d.path(name), []byte(text), mode)
}

// clear ends every process that the demo started, and removes its directory.
func (d *stage) clear() error {
	err := endChildren(5 * time.Second)
	return errors.Join(err, os.RemoveAll(d.dir))
}
