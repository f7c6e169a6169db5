package puller

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/systemd"
)

// unit is a service of systemd. Each call opens a connection of its own and closes it
// again: a puller has little to say to systemd, seldom, and outlives its bus.
type unit struct {
	name   string
	action systemd.Action
}

func (u *unit) connect(ctx context.Context) (*systemd.Conn, error) {
	conn, err := systemd.Connect(ctx)
	switch {
	case err == nil:
		return conn, nil
	case !systemd.Booted():
		return nil, reason.Errorf(reason.Config, "service.unit %q: %w: this machine was not booted with it; use service.command here", u.name, err)
	}
	return nil, reason.Errorf(reason.IO, "service.unit %q: %w", u.name, err)
}

func (u *unit) facts(ctx context.Context) (systemd.Facts, error) {
	conn, err := u.connect(ctx)
	if err != nil {
		return systemd.Facts{}, err
	}
	defer conn.Close()
	return conn.Facts(ctx, u.name)
}

// Check reports whether there is such a unit, and whether it can be started.
func (u *unit) Check(ctx context.Context) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Check(ctx, u.name)
	if errors.Is(err, systemd.ErrUnreachable) {
		return reason.Wrap(reason.IO, err)
	}
	return err
}

// Restart waits for the job that systemd makes of it. A job that another one replaced,
// and a connection that broke, say nothing about the release: then once more.
func (u *unit) Restart(ctx context.Context, _ Start, timeout time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var limit sync.WaitGroup
	defer limit.Wait()
	defer cancel(nil)
	before, err := u.facts(ctx)
	if err != nil {
		before = systemd.Facts{} // of no unit
	}
	limit.Go(func() { u.limit(ctx, cancel, timeout, before) })
	err = u.restart(ctx)
	var job *systemd.JobError
	if errors.As(err, &job) && job.Result == systemd.Canceled || errors.Is(err, systemd.ErrUnreachable) && ctx.Err() == nil {
		err = u.restart(ctx)
	}
	return err
}

// limit ends a restart that takes too long. What ran before may take as long to stop as its
// unit allows, and other units that this one waits for may take theirs: no release is to be
// blamed for that, so its time begins when systemd begins to start it.
func (u *unit) limit(ctx context.Context, end context.CancelCauseFunc, timeout time.Duration, before systemd.Facts) {
	began := time.Now()
	for last := began.Add(stopTime); sleep(ctx, min(time.Second, timeout/10)) == nil; {
		now := time.Now()
		f, err := u.facts(ctx)
		if err == nil && f.Unit == before.Unit && f.InvocationID == before.InvocationID && f.ActiveState != "reloading" && now.Before(last) {
			began = now
		}
		if now.Sub(began) >= timeout {
			end(errTimeout)
		}
	}
}

func (u *unit) restart(ctx context.Context) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Restart(ctx, u.name, u.action)
}

func (u *unit) Look(ctx context.Context) (Run, error) {
	f, err := u.facts(ctx)
	if errors.Is(err, systemd.ErrUnreachable) {
		return Run{}, fmt.Errorf("%w: %w", errBlind, err)
	}
	if err != nil {
		return Run{}, err
	}
	return u.run(f), nil
}

// run says what the facts of the unit mean for a release that has to prove itself.
func (u *unit) run(f systemd.Facts) Run {
	up := f.ActiveState == "active" || f.ActiveState == "reloading"
	ended := f.ActiveState == "inactive" || f.ActiveState == "failed"
	invocation := f.InvocationID
	if invocation == "" {
		invocation = never
	}
	run := Run{
		Fresh:      u.action == systemd.Restart,
		Invocation: invocation,
		Restarts:   f.NRestarts,
		Up:         up,
		Ended:      ended && !f.Job,
		Job:        f.Job,
		Words:      fmt.Sprintf("unit %q is %s; `journalctl -u %[1]s` tells more", u.name, f.Words()),
	}
	if up || f.ActiveState == "activating" {
		run.Began = f.Began
	}
	return run
}

func (u *unit) Stopping(ctx context.Context) bool {
	conn, err := u.connect(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	stopping, err := conn.Stopping(ctx)
	return err == nil && stopping
}

// completeService checks the keys of [service].
func (c *Config) completeService() error {
	s := &c.Service
	switch {
	case s.Unit != "" && len(s.Command) > 0:
		return errors.New("service.unit and service.command exclude each other: keep the one that restarts the app")
	case s.Unit == "" && s.Action != string(systemd.Restart):
		return fmt.Errorf("service.action: %q goes with service.unit", s.Action)
	case s.Unit == "":
		return nil
	case !unitName.MatchString(s.Unit):
		return fmt.Errorf("service.unit: %q is not the name of a service, such as %q", s.Unit, c.App+".service")
	}
	switch systemd.Action(s.Action) {
	case systemd.Restart:
	case systemd.ReloadOrRestart:
		if !c.probe().NamesVersion() {
			return fmt.Errorf("service.action: %q needs a version in health.json, such as version = \"{version}\": an app that was reloaded keeps its process, so only its answer shows what it runs", s.Action)
		}
	default:
		return fmt.Errorf("service.action: %q is neither %q nor %q", s.Action, systemd.Restart, systemd.ReloadOrRestart)
	}
	return nil
}

// unitName matches names of services, those of templates without an instance excepted.
var unitName = regexp.MustCompile(`^[A-Za-z0-9:_.\\-]{1,200}(@[A-Za-z0-9:_.\\-]{1,200})?\.service$`)

// UnitStatus is what systemd says of the app's unit.
type UnitStatus struct {
	Name       string     `json:"name"`
	Load       string     `json:"load"`           // "loaded", "not-found", "masked", …
	Active     string     `json:"active"`         // "active", "failed", …
	Sub        string     `json:"sub"`            // "running", "auto-restart", …
	Result     string     `json:"result"`         // of its last run: "success", "exit-code", …
	Since      canon.Time `json:"since,omitzero"` // it is active
	PID        int        `json:"pid,omitempty"`
	Restarts   int        `json:"restarts"` // by systemd itself
	Invocation string     `json:"invocation,omitempty"`
	User       string     `json:"user,omitempty"`
	Memory     int64      `json:"memory,omitempty"` // bytes
	Words      string     `json:"words"`
}

// askTimeout is how long status waits for systemd.
const askTimeout = 5 * time.Second

// describeUnit adds what systemd says of the app's unit.
func (c *cycle) describeUnit(ctx context.Context, s *Status) {
	u, ok := c.service.(*unit)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	f, err := u.facts(ctx)
	if err != nil {
		c.warn("%s", err)
		return
	}
	s.Unit = &UnitStatus{
		Name: u.name, Load: f.LoadState, Active: f.ActiveState, Sub: f.SubState, Result: f.Result,
		PID: f.MainPID, Restarts: f.NRestarts, Invocation: f.InvocationID, User: f.User, Memory: int64(f.Memory), Words: f.Words(),
	}
	if f.ActiveState == "active" {
		s.Unit.Since = canon.At(f.ActiveSince)
	}
	switch {
	case f.LoadState != "loaded":
		c.warn("%s", &systemd.UnitError{Unit: u.name, LoadState: f.LoadState, Detail: f.LoadError})
	case f.NeedReload:
		c.warn("the unit file of %q has changed on disk since systemd read it; `systemctl daemon-reload` reads it again", u.name)
	}
}
