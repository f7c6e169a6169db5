package proc

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func env() []string { return []string{"PATH=" + os.Getenv("PATH")} }

func TestRun(t *testing.T) {
	var out bytes.Buffer
	c := Cmd{Dir: t.TempDir(), Args: []string{"sh", "-c", `printf %s "$SANDO_RUN"`}, Env: env(), Stdout: &out}
	if err := (Runner{Cookie: "crumb"}).Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if out.String() != "crumb" {
		t.Errorf("cookie in the child is %q, want crumb", out.String())
	}

	c.Args = []string{"sh", "-c", "exit 7"}
	var exit *exec.ExitError
	if err := (Runner{}).Run(t.Context(), c); !errors.As(err, &exit) || exit.ExitCode() != 7 {
		t.Errorf("got %v, want exit status 7", err)
	}

	c.Args = []string{"no-such-program-here"}
	if err := (Runner{}).Run(t.Context(), c); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v, want ErrNotFound", err)
	}
}

// alive waits until the child of a script has written its number to file, and returns
// a function that waits for its end.
func alive(t *testing.T, file string) (pid int, gone func()) {
	t.Helper()
	for {
		data, err := os.ReadFile(file)
		if err == nil && bytes.HasSuffix(data, []byte("\n")) {
			pid, err = strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			break
		}
		if t.Context().Err() != nil {
			t.Fatal("the script did not start")
		}
		pause(t)
	}
	return pid, func() {
		t.Helper()
		for unix.Kill(pid, 0) == nil && !zombie(pid) {
			pause(t)
		}
	}
}

func zombie(pid int) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

func pause(t *testing.T) {
	select {
	case <-t.Context().Done():
	case <-time.After(5 * time.Millisecond):
	}
}

func TestCancelKillsTheGroup(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	file := filepath.Join(t.TempDir(), "pid")
	done := make(chan error, 1)
	go func() {
		done <- Runner{}.Run(ctx, Cmd{Args: []string{"sh", "-c", `sleep 1000 & echo $! >` + file + `; wait`}, Env: env()})
	}()
	_, gone := alive(t, file)
	stop := errors.New("told to stop")
	cancel(stop)
	if err := <-done; !errors.Is(err, stop) {
		t.Errorf("got %v, want the cause %v", err, stop)
	}
	gone()
}

func TestChildrenDoNotOutliveTheProgram(t *testing.T) {
	file := filepath.Join(t.TempDir(), "pid")
	c := Cmd{Args: []string{"sh", "-c", `sleep 1000 & echo $! >` + file}, Env: env(), Stdout: new(bytes.Buffer)}
	if err := (Runner{}).Run(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	_, gone := alive(t, file)
	gone()
}

func TestReap(t *testing.T) {
	// Two sleepers that the builder does not own: one with the cookie, one without.
	start := func(extra ...string) *exec.Cmd {
		c := exec.Command("sleep", "1000")
		c.Env = append(env(), extra...)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			c.Process.Kill()
			c.Wait()
		})
		return c
	}
	ours, other := start(Variable+"=reap-test"), start(Variable+"=reap-test-2")
	if n, err := Reap(t.Context(), "reap-test"); err != nil || n != 1 {
		t.Fatalf("Reap = %d, %v, want 1", n, err)
	}
	if !zombie(ours.Process.Pid) {
		t.Error("the process with the cookie lives")
	}
	if zombie(other.Process.Pid) {
		t.Error("a process with another cookie was killed")
	}
	if n, err := Reap(t.Context(), "reap-test"); err != nil || n != 0 {
		t.Fatalf("second Reap = %d, %v, want 0", n, err)
	}
}

func TestTail(t *testing.T) {
	tail := &Tail{Max: 2}
	for _, s := range []string{"one\ntw", "o\nthree\n", "fo", "ur"} {
		if n, err := tail.Write([]byte(s)); err != nil || n != len(s) {
			t.Fatal(n, err)
		}
	}
	if got, want := tail.Lines(), []string{"three", "four"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	long := &Tail{Max: 1}
	long.Write(bytes.Repeat([]byte("x"), 5000))
	if got := len(long.Lines()[0]); got != maxLine {
		t.Errorf("kept %d bytes of a long line, want %d", got, maxLine)
	}
}
