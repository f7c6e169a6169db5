package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Action is how a unit is made to run something new.
type Action string

// The actions. ReloadOrRestart reloads a unit that runs and can reload; any other it
// restarts.
const (
	Restart         Action = "restart"
	ReloadOrRestart Action = "reload-or-restart"

	begin Action = "start"
	end   Action = "stop"
)

// Result is how a job ended, in systemd's words.
type Result string

// The results that are told apart. Others, which newer versions may add, are shown as
// they are.
const (
	Done       Result = "done"
	Canceled   Result = "canceled"
	TimedOut   Result = "timeout"
	Failed     Result = "failed"
	Dependency Result = "dependency"
	Skipped    Result = "skipped"
	Invalid    Result = "invalid"
	Assert     Result = "assert"
	Collected  Result = "collected"
)

// words says what each result means for who has to do something about it.
func (r Result) words(unit string) string {
	switch r {
	case Canceled:
		return "another job took its place: somebody stopped or started the unit meanwhile"
	case TimedOut:
		return "the job's own time limit (JobTimeoutSec=) ran out before the unit was up"
	case Failed:
		return "the unit did not start"
	case Dependency:
		return "a unit that it requires did not start; `systemctl list-dependencies " + unit + "` shows which"
	case Skipped:
		return "it does not apply to the state that the unit is in"
	case Invalid:
		return "the unit cannot be reloaded"
	case Assert:
		return "an Assert… of the unit file does not hold"
	case Collected:
		return "systemd dropped the unit before the job was done"
	}
	return "a result that this version does not know"
}

// JobError says that the job to restart a unit ended in another way than done.
type JobError struct {
	Unit   string
	Action Action
	Result Result
	Facts  Facts // of the unit after that, as far as they could be read
}

func (e *JobError) Error() string {
	text := fmt.Sprintf("%s of unit %q ended with %q: %s", e.Action, e.Unit, e.Result, e.Result.words(e.Unit))
	if e.Facts.ActiveState != "" {
		text += "; it is " + e.Facts.Words()
	}
	return text + "; `journalctl -u " + e.Unit + "` tells more"
}

// UnitError says why a unit cannot be started whatever the release.
type UnitError struct {
	Unit      string
	LoadState string // "not-found", "masked", "bad-setting", "error", …
	Detail    string // systemd's own words
}

func (e *UnitError) Error() string {
	switch e.LoadState {
	case "not-found":
		return fmt.Sprintf("unit %q does not exist: install its unit file and run `systemctl daemon-reload`, or name the right one", e.Unit)
	case "masked":
		return fmt.Sprintf("unit %q is masked, so it cannot be started: `systemctl unmask %[1]s` takes that back", e.Unit)
	}
	text := fmt.Sprintf("unit %q is not usable (%s)", e.Unit, e.LoadState)
	if e.Detail != "" {
		text += ": " + e.Detail
	}
	return text + "; `systemd-analyze verify " + e.Unit + "` tells more"
}

// UnfitError says why a unit cannot be what runs an app.
type UnfitError struct {
	Unit    string
	Setting string // of its unit file: "Type=oneshot", "RefuseManualStart=yes", …
}

func (e *UnfitError) Error() string {
	if e.Setting == oneshot {
		return fmt.Sprintf("unit %q has %s: it runs a program to its end, so nothing could be seen running after a restart; "+
			"name the unit that the app runs in as service.unit, or add RemainAfterExit=yes", e.Unit, e.Setting)
	}
	return fmt.Sprintf("unit %q has %s, so it cannot be restarted on purpose: "+
		"`systemctl edit %[1]s` changes that; or name another unit as service.unit", e.Unit, e.Setting)
}

const oneshot = "Type=oneshot"

// Fit returns what keeps a unit from being what runs an app, nil if nothing does: an
// *UnfitError.
func (f Facts) Fit() error {
	switch {
	case f.Type == "oneshot" && !f.RemainAfterExit:
		return &UnfitError{f.Unit, oneshot}
	case f.RefuseManualStart:
		return &UnfitError{f.Unit, "RefuseManualStart=yes"}
	case f.RefuseManualStop:
		return &UnfitError{f.Unit, "RefuseManualStop=yes"}
	}
	return nil
}

// Check reports whether a unit can be started, and be what runs an app, as far as that can
// be known without doing it: a *UnitError, a *UnfitError, ErrDenied, or ErrUnreachable. It
// makes systemd forget that the unit failed, which takes the same permission.
func (c *Conn) Check(ctx context.Context, unit string) error {
	f, err := c.usable(ctx, unit)
	if err != nil {
		return err
	}
	return f.Fit()
}

// usable is Check for a unit that need not be fit: to go back, whatever can be tried is.
func (c *Conn) usable(ctx context.Context, unit string) (Facts, error) {
	f, err := c.Facts(ctx, unit)
	if err != nil {
		return f, err
	}
	if f.LoadState != "loaded" {
		return f, &UnitError{unit, f.LoadState, f.LoadError}
	}
	return f, c.ResetFailed(ctx, unit)
}

// Restart makes a unit run anew and waits for that, as the package doc says. An error
// may be a *UnitError, a *JobError, match ErrDenied, match ErrUnreachable when the outcome is not known,
// ErrStopping, or be ctx's: the job goes on without being watched.
func (c *Conn) Restart(ctx context.Context, unit string, action Action) error {
	if _, err := c.usable(ctx, unit); err != nil {
		return err
	}
	return c.finish(ctx, unit, action)
}

// finish asks for a job and waits until it is done.
func (c *Conn) finish(ctx context.Context, unit string, action Action) error {
	result := make(chan string, 1)
	if err := c.start(ctx, unit, action, result); err != nil {
		return fmt.Errorf("%s unit %q: %w", action, unit, err)
	}
	r, err := c.await(ctx, unit, result)
	if err != nil && !errors.Is(err, ErrUnreachable) {
		err = fmt.Errorf("systemd has not finished it, and goes on with it by itself: %w", err)
	}
	if err != nil {
		return fmt.Errorf("%s unit %q: %w", action, unit, err)
	}
	if r == Done {
		return nil
	}
	if stopping, err := c.Stopping(ctx); err == nil && stopping {
		return fmt.Errorf("%s unit %q: %w: the job ended with %q", action, unit, ErrStopping, r)
	}
	facts, _ := c.Facts(ctx, unit) // what cannot be read is left out of the message
	return &JobError{unit, action, r, facts}
}

// start asks for a job, whose result goes to result.
func (c *Conn) start(ctx context.Context, unit string, action Action, result chan<- string) error {
	ask := c.dbus.RestartUnitContext
	switch action {
	case ReloadOrRestart:
		ask = c.dbus.ReloadOrRestartUnitContext
	case begin:
		ask = c.dbus.StartUnitContext
	case end:
		ask = c.dbus.StopUnitContext
	}
	limited, cancel := patient(ctx)
	defer cancel()
	_, err := ask(limited, unit, "replace", result)
	if named(err) == destructive {
		if stopping, serr := c.Stopping(ctx); serr == nil && stopping {
			return fmt.Errorf("%w: %w", ErrStopping, err)
		}
	}
	return c.failed(limited, err)
}

// await waits for a job's result as long as there is somebody to tell it. An error matches
// ErrUnreachable, or is ctx's cause.
func (c *Conn) await(ctx context.Context, unit string, result <-chan string) (Result, error) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case r := <-result:
			return Result(r), nil
		case <-ctx.Done():
			return "", context.Cause(ctx)
		case <-look.C:
			if _, err := c.Facts(ctx, unit); errors.Is(err, ErrUnreachable) {
				return "", fmt.Errorf("whether it was done is not known: %w", err)
			}
		}
	}
}

// ResetFailed makes systemd forget that a unit failed and how often it was started of
// late. It is no error when there is nothing to forget.
func (c *Conn) ResetFailed(ctx context.Context, unit string) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	err := c.dbus.ResetFailedUnitContext(ctx, unit)
	if err == nil || named(err) == noSuchUnit { // one that is not in memory
		return nil
	}
	return fmt.Errorf("reset-failed unit %q: %w", unit, c.failed(ctx, err))
}
