// Package proc runs the programs that the builder needs: git and the build command.
//
// Each runs in a session of its own: without a terminal to ask questions on, and in a
// process group of its own. When the context ends, or the program itself ends and leaves
// children behind, the whole group is killed: nothing writes to a work tree that is
// being staged.
//
// A builder that is killed cannot do that. So every child carries the cookie of its
// run in the environment as SANDO_RUN; the run that finds the lock of a dead one reads
// the cookie there and calls Reap, which kills what still carries it. A process that
// drops the variable from its environment escapes that.
//
// # What it does not protect from
//
// Every program runs as the user of the builder. Conceal keeps it from reading what the
// builder was given in its environment, unless that user is root; it does not keep it
// from reading and changing this user's files.
package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Variable is the name of the environment variable that holds the cookie.
const Variable = "SANDO_RUN"

// drain is how long output is still read from a pipe that a process outside of the
// group keeps open after the program has ended.
const drain = 2 * time.Second

// Runner starts programs with one cookie.
type Runner struct{ Cookie string }

// Cmd is one program to run.
type Cmd struct {
	Dir    string   // working directory
	Args   []string // program and arguments
	Env    []string // the whole environment, but for the cookie
	Stdout io.Writer
	Stderr io.Writer
}

// ErrNotFound is matched by the error of a program that is not there.
var ErrNotFound = errors.New("program not found")

// Run runs c to its end. The error of a program that failed is an *exec.ExitError;
// that of one stopped by ctx matches context.Cause(ctx).
func (r Runner) Run(ctx context.Context, c Cmd) error {
	cmd := exec.CommandContext(ctx, c.Args[0], c.Args[1:]...)
	cmd.Dir = c.Dir
	cmd.Env = append(append([]string{}, c.Env...), Variable+"="+r.Cookie)
	cmd.Stdout, cmd.Stderr = c.Stdout, c.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Cancel = func() error { return killGroup(cmd.Process.Pid) }
	cmd.WaitDelay = drain
	if err := cmd.Start(); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var perr *fs.PathError
		chdir := errors.As(err, &perr) && perr.Op == "chdir"
		if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) && !chdir {
			return fmt.Errorf("%w: %q", ErrNotFound, c.Args[0])
		}
		return err
	}
	awaitExit(cmd.Process.Pid)
	// The leader is still a zombie, so its number cannot name another group yet.
	kerr := killGroup(cmd.Process.Pid)
	err := cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrWaitDelay) {
		err = nil // a daemon outside of the group holds the pipe; the program did well
	}
	if err == nil {
		err = kerr
	}
	return err
}

// awaitExit waits until pid has ended, and leaves it to be waited for.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

// Conceal makes the environment and the memory of this process unreadable for other
// programs of the same user, through /proc/PID and ptrace. What it starts is as readable
// as ever. Nothing is concealed from root.
// See https://man7.org/linux/man-pages/man2/PR_SET_DUMPABLE.2const.html.
func Conceal() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("conceal this process: %w", err)
	}
	return nil
}

func killGroup(pid int) error {
	err := unix.Kill(-pid, unix.SIGKILL)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}

// Reap kills the processes that carry the cookie, children of a run that was killed,
// and waits until they are gone. It returns how many there were.
func Reap(ctx context.Context, cookie string) (int, error) {
	killed := make(map[int]bool)
	for range 250 {
		alive, err := carriers(cookie)
		if err != nil {
			return len(killed), err
		}
		if len(alive) == 0 {
			return len(killed), nil
		}
		for _, pid := range alive {
			killed[pid] = true
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return len(killed), fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return len(killed), context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
	}
	return len(killed), fmt.Errorf("processes of a killed builder do not end: see %s=%s in /proc/*/environ", Variable, cookie)
}

// carriers returns the processes whose environment holds the cookie, of those that
// this user may look at.
func carriers(cookie string) ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range files {
		env, err := os.ReadFile(name)
		if err != nil {
			continue // ended meanwhile, or somebody else's
		}
		if !bytes.Contains(append([]byte{0}, env...), []byte("\x00"+Variable+"="+cookie+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(strings.Split(name, "/")[2])
		if err != nil {
			return nil, err
		}
		if pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// Tail is a writer that keeps the last lines written to it.
type Tail struct {
	Max   int // lines
	lines []string
	part  []byte
}

// maxLine is what is kept of one line.
const maxLine = 1000

// Write never fails.
func (t *Tail) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		line, after, whole := bytes.Cut(rest, []byte("\n"))
		t.part = append(t.part, line[:min(len(line), maxLine-len(t.part))]...)
		rest = after
		if whole {
			t.end()
		}
	}
	return len(p), nil
}

func (t *Tail) end() {
	t.lines = append(t.lines, strings.TrimRight(string(t.part), "\r"))
	if len(t.lines) > t.Max {
		t.lines = append(t.lines[:0], t.lines[1:]...)
	}
	t.part = t.part[:0]
}

// Lines returns the last lines, the unfinished one included.
func (t *Tail) Lines() []string {
	if len(t.part) == 0 {
		return append([]string{}, t.lines...)
	}
	all := append(append([]string{}, t.lines...), string(t.part))
	return all[max(0, len(all)-t.Max):]
}
