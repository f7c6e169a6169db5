package puller

import (
	"context"
	"errors"
	"fmt"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/puller/schedule"
)

// What waits for the maintenance window is fetched, verified and unpacked meanwhile, so that
// a download that takes longer than the window is there when it opens. From then on a poll
// outside the window costs nothing: no hash, no request. In the window everything is verified
// as always.

// awaited is what a cycle knows of it.
type awaited struct {
	again        time.Time // when what waits is activated; zero: nothing waits
	reconsidered int       // how often something else had to be done than was decided
}

// await makes ready what d keeps for the window.
func (c *cycle) await(ctx context.Context, d decision) (Result, error) {
	began := c.now()
	// Whether or not it can be made ready now: what keeps it from that may pass, and who looks
	// seldom must not miss the window for it.
	c.wake()
	if err := c.makeReady(ctx, d.Target); err != nil {
		return Result{}, fmt.Errorf("%w; %s", err, c.facts().keeps())
	}
	if err := c.reconsider(ctx, d, began); err != nil {
		return Result{}, err
	}
	c.wake()
	if now := decide(c.facts()); now.Await {
		d = now // the window may have opened and closed meanwhile
	}
	return Result{Reason: d.Reason, Message: d.Message}, nil
}

// wake has the daemon wake when the window opens next.
func (c *cycle) wake() {
	c.again = c.cfg.window.Wake(c.now(), schedule.Offset(c.cfg.App, c.cfg.Node))
}

func (c *cycle) makeReady(ctx context.Context, t target) error {
	if !c.isReady(t) {
		t, err := c.provide(ctx, t)
		if err != nil {
			return err
		}
		return c.audit(t)
	}
	// What was found out about keys and revocations since then is told in time, and so is
	// what the app's environment lacks.
	if err := c.checkChannel(); err != nil {
		return err
	}
	rel, err := c.dir.Release(t.Version)
	if err != nil {
		return err
	}
	if err := c.checkInstalled(ctx, t, rel); err != nil {
		return err
	}
	return c.audit(t)
}

// isReady reports whether t is on disk with the manifest that is wanted.
func (c *cycle) isReady(t target) bool {
	rel, err := c.dir.Release(t.Version)
	return err == nil && rel.Digest == t.Manifest
}

// errNews says that what was decided does not hold any more.
var errNews = errors.New("it is decided anew")

// maxReconsidered is how often one cycle decides anew; then it does what it decided last.
const maxReconsidered = 3

// reconsider is called when the release that d is about is on disk, which may have taken
// long. It returns errNews when something else is to be done now: the window has opened or
// closed, or the channel, which is asked again after a while, was halted or moved on.
// A poll that fails changes nothing. When d is by a pin that was taken back meanwhile it
// returns errOrder, and when that has ended errNews.
func (c *cycle) reconsider(ctx context.Context, d decision, began time.Time) error {
	if d.Target.Pin {
		switch {
		case c.unpinned():
			return errOrder
		case c.inForce(c.order) == nil:
			return errNews // its time is over
		}
		return nil
	}
	if c.reconsidered == maxReconsidered {
		return nil
	}
	if took := c.now().Sub(began); took >= min(c.cfg.polls.Interval(began), time.Minute) {
		c.log.Info("asks for news again before it activates", "version", d.Target.Version, "after", took.Round(time.Second))
		c.begin(Polling, pollLimit+shortly)
		err := c.poll(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errOrder):
			return err
		case err != nil:
			c.warn("poll: %s", err)
		}
		c.begin(Deciding, shortly)
	}
	now := c.restarts(decide(c.facts()))
	if now.Act == d.Act && now.Await == d.Await && now.Target == d.Target {
		return nil
	}
	c.reconsidered++
	return errNews
}

// WindowStatus is the maintenance window of this node.
type WindowStatus struct {
	Window string     `json:"window"` // in words
	Open   bool       `json:"open"`
	Opens  canon.Time `json:"opens,omitzero"` // the next time after now
	Says   string     `json:"-"`              // the same in the zone of the window
}

func (c *cycle) windowStatus() *WindowStatus {
	w := c.cfg.window
	if !w.Limited() {
		return nil
	}
	next := w.Next(c.now())
	return &WindowStatus{Window: w.String(), Open: w.Open(c.now()), Opens: canon.At(next), Says: w.Say(next)}
}
