package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/systemd"
	"makenot.work/sando/systemd/journal"
)

// Unit is a service of systemd. Each call opens a connection of its own and closes it
// again: a puller has little to say to systemd, seldom, and outlives its bus.
type Unit struct {
	Name   string
	action systemd.Action
}

func (u *Unit) connect(ctx context.Context) (*systemd.Conn, error) {
	conn, err := systemd.Connect(ctx)
	switch {
	case err == nil:
		return conn, nil
	case !systemd.Booted():
		return nil, reason.Errorf(reason.Config, "service.unit %q: %w: this machine was not booted with it; use service.command here", u.Name, err)
	}
	return nil, reason.Errorf(reason.IO, "service.unit %q: %w", u.Name, err)
}

// Facts asks systemd about the unit.
func (u *Unit) Facts(ctx context.Context) (systemd.Facts, error) {
	conn, err := u.connect(ctx)
	if err != nil {
		return systemd.Facts{}, err
	}
	defer conn.Close()
	return conn.Facts(ctx, u.Name)
}

// Check reports whether there is such a unit, and whether it can be started.
func (u *Unit) Check(ctx context.Context) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	err = conn.Check(ctx, u.Name)
	if errors.Is(err, systemd.ErrUnreachable) {
		return reason.Wrap(reason.IO, err)
	}
	return err
}

// Restart waits for the job that systemd makes of it. A job that another one replaced,
// and a connection that broke, say nothing about the release: then once more. An error that
// says nothing about it either matches ErrHindered.
func (u *Unit) Restart(ctx context.Context, _ Start, timeout time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var limit sync.WaitGroup
	defer limit.Wait()
	defer cancel(nil)
	before, err := u.Facts(ctx)
	if err != nil {
		before = systemd.Facts{} // of no unit
	}
	limit.Go(func() { u.limit(ctx, cancel, timeout, before) })
	err = u.restart(ctx)
	var job *systemd.JobError
	if errors.As(err, &job) && job.Result == systemd.Canceled || errors.Is(err, systemd.ErrUnreachable) && ctx.Err() == nil {
		err = u.restart(ctx)
	}
	return hindered(ctx, err)
}

// hindered returns err of a restart as what it says about the release: nothing, unless
// systemd came as far as to start it.
func hindered(ctx context.Context, err error) error {
	var job *systemd.JobError
	isJob := errors.As(err, &job)
	switch {
	case err == nil, ctx.Err() != nil, errors.Is(err, systemd.ErrStopping), isJob && job.Result != systemd.Canceled:
		return err
	}
	code := reason.Config
	if known := (*reason.Error)(nil); errors.As(err, &known) {
		code = known.Code
	} else if isJob || errors.Is(err, systemd.ErrUnreachable) {
		code = reason.IO
	}
	return reason.Errorf(code, "%w: %w", ErrHindered, err)
}

// limit ends a restart that takes too long. What ran before may take as long to stop as its
// unit allows, and other units that this one waits for may take theirs: no release is to be
// blamed for that, so its time begins when systemd begins to start it.
func (u *Unit) limit(ctx context.Context, end context.CancelCauseFunc, timeout time.Duration, before systemd.Facts) {
	began := time.Now()
	for last := began.Add(StopTime); sleep(ctx, min(time.Second, timeout/10)) == nil; {
		now := time.Now()
		f, err := u.Facts(ctx)
		if err == nil && f.Unit == before.Unit && f.InvocationID == before.InvocationID && f.ActiveState != "reloading" && now.Before(last) {
			began = now
		}
		if now.Sub(began) >= timeout {
			end(errTimeout)
		}
	}
}

func (u *Unit) restart(ctx context.Context) error {
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Restart(ctx, u.Name, u.action)
}

// Look says how the unit runs; see Manager.
func (u *Unit) Look(ctx context.Context) (Run, error) {
	f, err := u.Facts(ctx)
	if errors.Is(err, systemd.ErrUnreachable) {
		return Run{}, fmt.Errorf("%w: %w", ErrBlind, err)
	}
	if err != nil {
		return Run{}, err
	}
	return u.run(f), nil
}

// run says what the facts of the unit mean for a release that has to prove itself.
func (u *Unit) run(f systemd.Facts) Run {
	// RemainAfterExit= leaves a unit active when nothing of it runs any more, which only a
	// oneshot unit means.
	remains := f.SubState == "exited" && f.Type != "oneshot"
	up := (f.ActiveState == "active" || f.ActiveState == "reloading") && !remains
	ended := f.ActiveState == "inactive" || f.ActiveState == "failed" || remains
	invocation := f.InvocationID
	if invocation == "" {
		invocation = Never
	}
	run := Run{
		Fresh:      u.action == systemd.Restart,
		Invocation: invocation,
		Restarts:   f.NRestarts,
		Up:         up,
		Ended:      ended && !f.Job,
		Again:      f.SubState == "auto-restart",
		Job:        f.Job,
	}
	words := f.Words()
	if run.Ended && remains {
		words += ": all that it started has ended"
	} else if run.Ended && f.Result == "success" {
		words += ": it ended by itself and with success, or somebody stopped it"
	}
	words += fmt.Sprintf("; `journalctl -u %s` tells more", cmp.Or(f.Unit, u.Name))
	run.Words, run.Was = fmt.Sprintf("unit %q is %s", u.Name, words), fmt.Sprintf("unit %q was %s", u.Name, words)
	if up || f.ActiveState == "activating" {
		run.Began = f.Began
	}
	return run
}

// Output asks the journal; see Witness.
func (u *Unit) Output(ctx context.Context, run string) []string {
	if run == "" || run == Never {
		return nil // whose lines there are is not known
	}
	ctx, cancel := context.WithTimeout(ctx, outputTime)
	defer cancel()
	name := u.Name
	if f, err := u.Facts(ctx); err == nil {
		name = f.Unit // the journal knows no alias
	}
	lines, err := journal.Tail(ctx, name, run, node.MaxLines)
	if err != nil {
		return nil
	}
	return lines
}

// Stopping reports whether the machine is going down; see Manager.
func (u *Unit) Stopping(ctx context.Context) bool {
	conn, err := u.connect(ctx)
	if err != nil {
		return false
	}
	defer conn.Close()
	stopping, err := conn.Stopping(ctx)
	return err == nil && stopping
}
