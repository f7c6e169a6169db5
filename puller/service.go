package puller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"makenot.work/sando/layout/node"
)

// Service is what runs the app.
type Service interface {
	// Restart makes the app run the release that `current` names, and waits at most
	// timeout until it was told so. An error says that the release could not be
	// started.
	Restart(ctx context.Context, s Start, timeout time.Duration) error
}

// Start says what is to be started.
type Start struct {
	App     string
	Version string
	Release string // its directory
}

func newService(cfg *Config) Service {
	if len(cfg.Service.Command) > 0 {
		return command(cfg.Service.Command)
	}
	return nothing{}
}

// nothing is the service of an app that needs no restart.
type nothing struct{}

func (nothing) Restart(context.Context, Start, time.Duration) error { return nil }

// command is a program of the operator's that restarts the app. It gets SANDO_APP,
// SANDO_VERSION and SANDO_RELEASE in its environment and must exit with 0. What it
// leaves running in the background goes on.
type command []string

func (c command) Restart(ctx context.Context, s Start, timeout time.Duration) error {
	// Told to stop, the puller stops between steps: a restart cut in half could leave
	// nothing running.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), timeout, errTimeout)
	defer cancel()
	var out tail
	cmd := exec.CommandContext(ctx, c[0], c[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "SANDO_APP="+s.App, "SANDO_VERSION="+s.Version, "SANDO_RELEASE="+s.Release)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	// A background process may hold the output open: it is not waited for.
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("service command %q: %w%s", strings.Join(c, " "), err, out.last())
}

var errTimeout = errors.New("took longer than health.start_timeout")

// tail keeps the last few kilobytes that are written to it.
type tail struct{ buf []byte }

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if over := len(t.buf) - tailSize; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return len(p), nil
}

func (t *tail) last() string {
	text := bytes.TrimSpace(t.buf)
	if len(text) == 0 {
		return ""
	}
	return ": it said: " + node.Line(string(text))
}
