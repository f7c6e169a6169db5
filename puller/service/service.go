// Package service is how a puller makes an app run what `current` names: a unit of systemd
// (Unit), a program of the operator's, or nothing at all, as the section [service] of the
// configuration says.
//
// A Service restarts the app. One that is a Manager also knows how the app runs: Run is what
// it saw, and Run.Verdict what that means for a release that has to prove itself. What the
// app answers is the affair of package probe.
package service

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/systemd"
	"makenot.work/sando/systemd/notify"
)

// Service is what runs the app.
type Service interface {
	// Check reports what keeps Restart from working at all, whatever the release. It has
	// the reason "config", unless it names another.
	Check(ctx context.Context) error
	// Restart makes the app run the release that `current` names, and waits at most
	// timeout until it was told so; the time that the release before it takes to stop,
	// where that is known, does not count, up to StopTime. An error says that the release
	// could not be started.
	Restart(ctx context.Context, s Start, timeout time.Duration) error
}

// Manager is a Service that knows how the app runs.
type Manager interface {
	Service
	// Look says how the app runs. An error that matches ErrBlind says nothing about it.
	Look(ctx context.Context) (Run, error)
	// Stopping reports whether the machine is going down, as far as that is known.
	Stopping(ctx context.Context) bool
}

// Witness is a Service that knows what the app printed. A Manager's can be asked at any time;
// another forgets it with the next Restart.
type Witness interface {
	// Output returns the last lines of it, in the run of that name where it can tell, within
	// 2 s. What cannot be had is left out.
	Output(ctx context.Context, run string) []string
}

// outputTime is how long Output may take.
const outputTime = 2 * time.Second

// Inspect is Check that leaves everything as it is, for a dry run.
func Inspect(ctx context.Context, s Service) error {
	u, ok := s.(*Unit)
	if !ok {
		return s.Check(ctx)
	}
	f, err := u.Facts(ctx)
	switch {
	case err != nil:
		return reason.Wrap(reason.IO, err)
	case f.LoadState != "loaded":
		return &systemd.UnitError{Unit: u.Name, LoadState: f.LoadState, Detail: f.LoadError}
	}
	return f.Fit()
}

// Start says what is to be started.
type Start struct {
	App     string
	Version string
	Release string // its directory
}

// Config is the section [service].
type Config struct {
	Unit    string   // the systemd service that runs the app
	Action  string   // "restart" or "reload-or-restart"
	Command []string // restarts the app, instead; neither: nothing to restart
	Root    string   // of the app
}

// New returns the service that a good configuration names.
func New(cfg Config) Service {
	switch {
	case cfg.Unit != "":
		return &Unit{cfg.Unit, systemd.Action(cfg.Action)}
	case len(cfg.Command) > 0:
		return &command{cfg.Command, cfg.Root}
	}
	return nothing{}
}

// Check reports what is wrong with the keys; versioned says that the probe names the version
// that answers.
func (c Config) Check(versioned bool) error {
	switch {
	case len(c.Command) > 0 && !filepath.IsAbs(c.Command[0]):
		return fmt.Errorf("service.command: %q is not an absolute path", c.Command[0])
	case c.Unit != "" && len(c.Command) > 0:
		return errors.New("service.unit and service.command exclude each other: keep the one that restarts the app")
	case c.Unit == "" && c.Action != string(systemd.Restart):
		return fmt.Errorf("service.action: %q goes with service.unit", c.Action)
	case c.Unit == "":
		return nil
	case !unitName.MatchString(c.Unit):
		return fmt.Errorf("service.unit: %q is not the name of a service, such as %q", c.Unit, "mnw.service")
	}
	switch systemd.Action(c.Action) {
	case systemd.Restart:
	case systemd.ReloadOrRestart:
		if !versioned {
			return fmt.Errorf("service.action: %q needs a version in health.json, such as version = \"{version}\": an app that was reloaded keeps its process, so only its answer shows what it runs", c.Action)
		}
	default:
		return fmt.Errorf("service.action: %q is neither %q nor %q", c.Action, systemd.Restart, systemd.ReloadOrRestart)
	}
	return nil
}

// unitName matches names of services, those of templates without an instance excepted.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]{1,200}(@[A-Za-z0-9:_.\\-]{1,200})?\.service$`)

// nothing is the service of an app that needs no restart.
type nothing struct{}

func (nothing) Restart(context.Context, Start, time.Duration) error { return nil }
func (nothing) Check(context.Context) error                         { return nil }

// command is a program of the operator's that restarts the app. It gets SANDO_APP,
// SANDO_VERSION and SANDO_RELEASE in its environment and must exit with 0. What it
// leaves running in the background goes on. What both print goes to .sando/service.log,
// which begins anew at each restart.
type command struct {
	args []string
	root string
}

// Check reports whether there is a program to run. One that a release brings is not
// there before its first install.
func (c *command) Check(context.Context) error {
	program := c.args[0]
	if strings.HasPrefix(program, filepath.Join(c.root, "current")+"/") {
		return nil
	}
	if _, err := exec.LookPath(program); err != nil {
		return fmt.Errorf("service.command %s: %w", program, errors.Unwrap(err))
	}
	return nil
}

func (c *command) Restart(ctx context.Context, s Start, timeout time.Duration) error {
	// Told to stop, the puller stops between steps: a restart cut in half could leave
	// nothing running.
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), timeout, errTimeout)
	defer cancel()
	// A file, not a pipe: a pipe would end with the puller, and so would the app that
	// goes on to write to it.
	out, err := os.OpenFile(c.log(), os.O_RDWR|os.O_CREATE|os.O_TRUNC|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer out.Close()
	cmd := exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(Environ(), "SANDO_APP="+s.App, "SANDO_VERSION="+s.Version, "SANDO_RELEASE="+s.Release)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err = cmd.Run(); err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return fmt.Errorf("service command %q: %w%s", strings.Join(c.args, " "), err, lastWords(out))
}

// Output returns the end of service.log.
func (c *command) Output(context.Context, string) []string {
	f, err := os.OpenFile(c.log(), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	return node.Lines(tail(f, 64<<10))
}

// log is the file that has what the program, and what it left running, prints.
func (c *command) log() string { return filepath.Join(c.root, layout.MetaDir, "service.log") }

// Environ is this process's environment without what its own service manager says to it
// alone, and without the keys of the bucket, which are none of the app's business.
func Environ() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(notify.Private(), name) || slices.Contains(bucket.Variables(), name)
	})
}

var errTimeout = errors.New("took longer than health.start_timeout")

// StopTime is how long a service manager may take to stop what ran before.
const StopTime = 10 * time.Minute

// lastWords returns what is at the end of a file, for an error.
func lastWords(f *os.File) string {
	text := bytes.TrimSpace(tail(f, 4<<10))
	if len(text) == 0 {
		return ""
	}
	return ": " + node.Said + node.Line(string(text))
}

// tail returns the end of a file, as far as it can be read.
func tail(f *os.File, size int64) []byte {
	info, err := f.Stat()
	if err != nil {
		return nil
	}
	buf := make([]byte, min(size, info.Size()))
	n, _ := f.ReadAt(buf, info.Size()-int64(len(buf)))
	return buf[:n]
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
