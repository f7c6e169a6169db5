package systemd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	bus "github.com/godbus/dbus/v5"
	"golang.org/x/sys/unix"
)

// Hook is a program that systemd runs once, as a unit of its own that is gone afterwards.
type Hook struct {
	Unit        string // its name, "….service"; nothing else has it
	Description string
	Run         []string // the program, an absolute path, and its arguments, as they are: nothing in them is expanded
	User        string   // "root" has to be written as well
	Group       string   // "": the user's
	Groups      []string // besides
	EnvFiles    []string // as for EnvironmentFile=: what they say counts more than Env
	Env         []string // "NAME=VALUE"; everybody on the machine may read these
	Dir         string   // "": /
	Timeout     time.Duration
}

// Ended is how a hook ended.
type Ended struct {
	Unit       string
	Invocation string // of the journal's lines; "": it never ran
	Result     string // "success", "exit-code", "signal", "timeout", "resources", "canceled", …
	Code       int    // as Facts.ExecMainCode
	Status     int    // as Facts.ExecMainStatus
	Timeout    time.Duration
}

// OK reports whether the hook did what it should.
func (e Ended) OK() bool { return e.Result == "success" }

// Words says how the hook ended, for an error.
func (e Ended) Words() string {
	switch e.Result {
	case "success":
		return "succeeded"
	case "timeout":
		return fmt.Sprintf("took longer than its %s, and was ended", e.Timeout)
	case "resources":
		return "was not run: systemd could not prepare it, for example because an env file cannot be read"
	case "oom-kill":
		return "was ended because it used too much memory"
	case string(Canceled):
		return "was stopped by somebody: another job of its unit took its place"
	}
	switch e.Code {
	case cldExited:
		text := fmt.Sprintf("ended with status %d", e.Status)
		if step := setupSteps(e.Status); step != "" {
			text += ", by which systemd says that " + step
		}
		return text
	case cldKilled, cldDumped:
		return "was ended by " + unix.SignalName(unix.Signal(e.Status))
	}
	return "failed (" + e.Result + ")"
}

// setupSteps returns what an exit status of systemd's own says, where a hook can meet it;
// see systemd.exec(5). A program may use the same number for something else.
func setupSteps(status int) string {
	switch status {
	case 200:
		return "it could not change to the working directory"
	case 203:
		return "the program is missing, or cannot be executed"
	case 216:
		return "there is no such group"
	case 217:
		return "there is no such user"
	}
	return ""
}

const (
	hookStop = 10 * time.Second // between SIGTERM and SIGKILL
	// hookGone is how long the end of a hook may take: both signals, and what the kernel
	// needs after the second.
	hookGone = 45 * time.Second
)

func (h *Hook) check() error {
	switch {
	case !hookName.MatchString(h.Unit):
		return fmt.Errorf("%q is not the name of a service", h.Unit)
	case len(h.Run) == 0 || !path.IsAbs(h.Run[0]):
		return fmt.Errorf("program of %q is not an absolute path", h.Run)
	case h.User == "":
		return errors.New("no user is named: write root if that is meant")
	case h.Timeout <= 0:
		return fmt.Errorf("timeout %s is not a time", h.Timeout)
	}
	return nil
}

var hookName = regexp.MustCompile(`^[A-Za-z0-9:_.-]{1,200}\.service$`)

// properties are the hook's, as systemd has them on D-Bus.
func (h *Hook) properties() []dbus.Property {
	type file struct {
		Path   string
		Ignore bool // a file that is missing
	}
	files := make([]file, 0, len(h.EnvFiles))
	for _, name := range h.EnvFiles {
		files = append(files, file{name, false})
	}
	run := make([]string, 0, len(h.Run))
	for _, arg := range h.Run {
		run = append(run, strings.ReplaceAll(arg, "$", "$$")) // it would be expanded
	}
	type command struct {
		Path   string
		Args   []string // with the name of the program
		Ignore bool     // a bad end
	}
	dir := h.Dir
	if dir == "" {
		dir = "/"
	}
	list := []dbus.Property{
		dbus.PropDescription(h.Description),
		dbus.PropType("oneshot"),
		// So that it can be asked how it ended: a unit that is done is forgotten at once.
		dbus.PropRemainAfterExit(true),
		property("ExecStart", []command{{h.Run[0], run, false}}),
		property("User", h.User),
		property("WorkingDirectory", dir),
		property("EnvironmentFiles", files),
		property("Environment", append([]string{}, h.Env...)),
		property("StandardInput", "null"),
		property("StandardOutput", "journal"),
		property("StandardError", "journal"),
		property("TimeoutStartUSec", uint64(h.Timeout.Microseconds())),
		property("TimeoutStopUSec", uint64(hookStop.Microseconds())),
		property("KillMode", "control-group"),
	}
	if h.Group != "" {
		list = append(list, property("Group", h.Group))
	}
	if len(h.Groups) > 0 {
		list = append(list, property("SupplementaryGroups", h.Groups))
	}
	return list
}

func property(name string, value any) dbus.Property {
	return dbus.Property{Name: name, Value: bus.MakeVariant(value)}
}

// RunHook runs a hook and waits for its end, whatever that is, which takes at most its
// timeout and 45 s more. What it left running is ended then, and what a hook of the same
// unit left before is ended first. When ctx ends, the hook is ended, and the error is ctx's
// cause. Any error says that it is not known how the hook ended, or that it did not run: one
// may match ErrUnreachable, when it may still run; EndHook ends that; ErrStopping; or
// ErrDenied.
func (c *Conn) RunHook(ctx context.Context, h Hook) (Ended, error) {
	if err := h.check(); err != nil {
		return Ended{}, fmt.Errorf("hook unit %q: %w", h.Unit, err)
	}
	if err := c.EndHook(ctx, h.Unit); err != nil {
		return Ended{}, err
	}
	ended, err := c.runHook(ctx, h)
	if gone := c.EndHook(context.WithoutCancel(ctx), h.Unit); gone != nil && err == nil {
		err = gone
	}
	if err != nil {
		return Ended{}, fmt.Errorf("hook unit %q: %w", h.Unit, err)
	}
	return ended, nil
}

func (c *Conn) runHook(ctx context.Context, h Hook) (Ended, error) {
	result := make(chan string, 1)
	if err := c.startHook(ctx, h, result); err != nil {
		return Ended{}, err
	}
	r, err := c.await(ctx, h.Unit, result)
	if err != nil {
		return Ended{}, err
	}
	ctx = context.WithoutCancel(ctx) // it has ended by itself
	if r != Done {
		if stopping, err := c.Stopping(ctx); err == nil && stopping {
			return Ended{}, fmt.Errorf("%w: the job ended with %q", ErrStopping, r)
		}
	}
	f, err := c.Facts(ctx, h.Unit)
	if err != nil {
		return Ended{}, err
	}
	ended := Ended{Unit: h.Unit, Invocation: f.InvocationID, Result: f.Result, Code: f.ExecMainCode, Status: f.ExecMainStatus, Timeout: h.Timeout}
	switch {
	case r == Done:
		ended.Result = "success"
	case r != Failed || ended.OK() || f.LoadState != "loaded": // somebody else did something with the unit
		ended.Result = string(r)
	}
	return ended, nil
}

// startHook asks for the job that runs h, whose result goes to result.
func (c *Conn) startHook(ctx context.Context, h Hook, result chan<- string) error {
	limited, cancel := patient(ctx)
	defer cancel()
	_, err := c.dbus.StartTransientUnitContext(limited, h.Unit, "fail", h.properties(), result)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if named(err) == destructive {
		if stopping, serr := c.Stopping(ctx); serr == nil && stopping {
			return fmt.Errorf("%w: %w", ErrStopping, err)
		}
	}
	return c.failed(limited, err)
}

// EndHook ends what a hook may have left, the unit itself and its processes, and waits for
// that. It is no error when there is nothing.
func (c *Conn) EndHook(ctx context.Context, unit string) error {
	if !hookName.MatchString(unit) {
		return fmt.Errorf("end hook unit %q: that is not the name of a service", unit)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, hookGone, errGone)
	defer cancel()
	if err := c.endHook(ctx, unit); err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		return fmt.Errorf("end hook unit %q: %w", unit, err)
	}
	return nil
}

var errGone = fmt.Errorf("it is still there after %s", hookGone)

func (c *Conn) endHook(ctx context.Context, unit string) error {
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for asked := false; ; {
		if there, err := c.loaded(ctx, unit); err != nil || !there {
			return err
		}
		f, err := c.Facts(ctx, unit)
		switch {
		case err != nil:
			return err
		case f.LoadState == "not-found": // gone meanwhile
			return nil
		case !f.Transient:
			return errors.New("the name is taken by a unit that is no hook: rename its unit file")
		case !asked && f.ActiveState != "inactive" && f.ActiveState != "failed":
			asked = true
			if err := c.stop(ctx, unit); err != nil {
				return err
			}
			continue
		case f.ActiveState == "failed":
			if err := c.ResetFailed(ctx, unit); err != nil {
				return err
			}
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// loaded reports whether systemd has a unit in memory. To ask for its facts would load it,
// and log that its file is missing.
func (c *Conn) loaded(ctx context.Context, unit string) (bool, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	found, err := c.dbus.ListUnitsByPatternsContext(ctx, nil, []string{unit})
	if err != nil {
		return false, fmt.Errorf("look for unit %q: %w", unit, c.failed(ctx, err))
	}
	return len(found) > 0, nil
}

// stop stops a unit and waits for that.
func (c *Conn) stop(ctx context.Context, unit string) error {
	result := make(chan string, 1)
	limited, cancel := patient(ctx)
	_, err := c.dbus.StopUnitContext(limited, unit, "replace", result)
	err = c.failed(limited, err)
	cancel()
	if err != nil {
		if named(err) == noSuchUnit {
			return nil
		}
		return err
	}
	_, err = c.await(ctx, unit, result)
	return err
}
