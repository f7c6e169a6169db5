package puller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/service"
)

// invocation names the run of the app that is live, or was last; "" when nobody knows.
func (c *cycle) invocation(ctx context.Context) string { return c.lookAtApp(ctx).Invocation }

// lookAtApp returns how the app runs; the zero Run when nobody knows.
func (c *cycle) lookAtApp(ctx context.Context) service.Run {
	if m, ok := c.service.(service.Manager); ok {
		if run, err := m.Look(ctx); err == nil {
			return run
		}
	}
	return service.Run{}
}

// startedSince reports whether the app was started after the intent was written and
// `current` moved, so that it runs what `current` names, or is about to: after a reboot for
// example, or when a puller died while the app was starting.
func (c *cycle) startedSince(ctx context.Context, before string) bool {
	m, ok := c.service.(service.Manager)
	if !ok || before == "" {
		return false
	}
	run, err := m.Look(ctx)
	// One that was restarted by itself as well may have been another release when that began.
	return err == nil && run.Invocation != before && run.Began.After(c.cur.Changed) && run.Restarts == 0 && !run.Again
}

// trial is what a release has to prove.
type trial struct {
	version string
	before  string // the service's invocation until now, "" when that is not known
	// An app that is ended and started again by its manager is borne until start_timeout:
	// where there is nothing better to go to.
	bears    bool
	restarts int       // by the manager itself, that do not count
	begun    time.Time // when this process called for the restart; zero: it did not
}

// start restarts the service on a release that is live, and waits until it proved
// itself. Any error but ctx's, errOrder, service.ErrGoingDown and service.ErrHindered means
// that it did not.
func (c *cycle) start(ctx context.Context, t trial) error {
	if err := c.afterSwap(ctx, t.version); err != nil {
		return err
	}
	before := c.lookAtApp(ctx)
	t.begun = c.proof.now()
	if err := c.restart(ctx, t.version); err != nil {
		return err
	}
	if before.Again {
		// What ran before may have been started once more while the manager was asked for t.
		t.restarts = c.lookAtApp(ctx).Restarts
	}
	return c.watch(ctx, t)
}

// restart restarts the service on a release that is live. It may take as long as a release
// hangs in its start: an order ends that with errOrder. Errors are those of start.
func (c *cycle) restart(ctx context.Context, v string) error {
	c.begin(Restarting, c.cfg.Health.StartTimeout+service.StopTime+shortly)
	begin := c.now()
	words := func() string { return fmt.Sprintf("starting %s, for %s", v, c.now().Sub(begin).Round(time.Second)) }
	err := c.attend(ctx, v, Restarting, words, func(ctx context.Context) error {
		return c.service.Restart(ctx, service.Start{App: c.cfg.App, Version: v, Release: c.dir.ReleasePath(v)}, c.cfg.Health.StartTimeout)
	})
	if err != nil {
		return c.excuse(ctx, err)
	}
	return nil
}

// excuse returns err, or that the machine is going down, which explains it.
func (c *cycle) excuse(ctx context.Context, err error) error {
	if ctx.Err() != nil || errors.Is(err, errOrder) {
		return err
	}
	if m, ok := c.service.(service.Manager); ok && m.Stopping(ctx) {
		return fmt.Errorf("%w: %w", service.ErrGoingDown, err)
	}
	return err
}

// watch waits until the app runs and the probe answers as it should, and then for as
// long as the release has to stay so. The first wrong answer after a right one ends it, and
// so does an app that has ended. When others restart the app it begins anew.
func (c *cycle) watch(ctx context.Context, t trial) error {
	if _, ok := c.service.(service.Manager); !ok && c.cfg.probe().Empty() {
		return nil // there is nobody to ask
	}
	err := c.attend(ctx, t.version, Probing, nil, func(ctx context.Context) error { return c.prove(ctx, t) })
	if err != nil {
		return c.excuse(ctx, err)
	}
	return nil
}

func (c *cycle) prove(ctx context.Context, t trial) error {
	h := c.cfg.Health
	begin := c.proof.now()
	heard := begin // when the app's state was known last
	var well time.Time
	past := service.Past{Before: t.before, Bears: t.bears, Restarts: t.restarts}
	for meddled := 0; ; {
		c.begin(Probing, h.Interval+time.Duration(1+len(h.Smoke))*probeTime+shortly)
		run, err := c.well(ctx, t.version, past)
		now := c.proof.now()
		blind := errors.Is(err, service.ErrBlind)
		if !blind {
			heard = now
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case blind && now.Sub(heard) < h.StartTimeout: // neither well nor unwell
		case blind:
			return reason.Errorf(reason.IO, "%w: for %s now %w", service.ErrHindered, h.StartTimeout, err)
		case err == nil && well.IsZero():
			well, past.Well = now, &run
			c.answers(t, now)
			c.log.Info("healthy", "version", t.version, "after", now.Sub(begin).Round(time.Millisecond))
		case err != nil && !well.IsZero() && meddled < maxMeddled && c.meddled(ctx, *past.Well):
			c.log.Info("restarted by others: it has to prove itself anew", "version", t.version)
			begin, well, past.Well, past.Restarts, c.seen = now, time.Time{}, nil, 0, ""
			meddled++
		case err != nil && !well.IsZero():
			return fmt.Errorf("was healthy for %s, then %w", now.Sub(well).Round(time.Millisecond), err)
		case errors.Is(err, service.ErrEnded), errors.Is(err, service.ErrAgain):
			return err
		case err != nil && now.Sub(begin) >= h.StartTimeout:
			return fmt.Errorf("after %s still %w", h.StartTimeout, err)
		}
		if err == nil && now.Sub(well) >= h.StableFor {
			return nil
		}
		if c.overtaken(t.version) {
			return errOrder
		}
		c.tell(Probing, func() string { return c.proving(t.version, begin, well, err) })
		if err := c.proof.sleep(ctx, h.Interval); err != nil {
			return err
		}
	}
}

// answers notes how long the app did not answer, at its first good answer: as far as anybody
// asked, so up to health.interval too long.
func (c *cycle) answers(t trial, now time.Time) {
	if !t.begun.IsZero() && c.downtime == 0 {
		c.downtime = max(1, now.Sub(t.begun).Milliseconds())
	}
}

// maxMeddled is how often others may restart an app that proves itself: one that ends, and
// is started again by a socket or a unit it is bound to, looks the same.
const maxMeddled = 3

// meddled reports whether an app that was well in the run first was, or is being, stopped or
// started by others: a person for example, or an upgrade of what it depends on.
func (c *cycle) meddled(ctx context.Context, first service.Run) bool {
	m, ok := c.service.(service.Manager)
	if !ok {
		return false
	}
	run, err := m.Look(ctx)
	return err == nil && !run.Ended && run.Restarts <= first.Restarts && (run.Job || run.Invocation != first.Invocation)
}

// well asks once whether the app is well.
func (c *cycle) well(ctx context.Context, v string, past service.Past) (service.Run, error) {
	var run service.Run
	if m, ok := c.service.(service.Manager); ok {
		var err error
		if run, err = m.Look(ctx); err == nil {
			c.note(run, past)
			err = run.Verdict(past)
		}
		if err != nil {
			return run, err
		}
	}
	return run, c.cfg.probe().Run(ctx, v)
}

// note remembers the run that will be asked for its last words if the release fails: where
// the first restart ends it the first one, else the last.
func (c *cycle) note(run service.Run, past service.Past) {
	if run.Invocation == past.Before || run.Invocation == service.Never || c.seen != "" && !past.Bears {
		return
	}
	c.seen = run.Invocation
}

// probeTime is above what one request of a probe may take.
const probeTime = 10 * time.Second

// clock is a time, and what lets it pass.
type clock struct {
	now   func() time.Time
	sleep func(context.Context, time.Duration) error
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
