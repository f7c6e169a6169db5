package puller

import (
	"context"
	"errors"
	"fmt"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/service"
)

// A pin with --force is for the night in which the probe lies, or in which something worse
// than an unhealthy release must be ended. Its release is made live and started, and that is
// all: nobody watches it, nothing goes back, and it has proved nothing. What is known to run
// well stays what it was.

// settleForced starts what the open intent made live, and writes the result.
func (c *cycle) settleForced(ctx context.Context) (Result, error) {
	v := c.st.Intent.To
	err := c.restart(ctx, v)
	switch {
	case ctx.Err() != nil:
		return Result{}, fmt.Errorf("interrupted while %s is started, the next cycle goes on: %w", v, ctx.Err())
	case errors.Is(err, service.ErrGoingDown):
		return Result{}, fmt.Errorf("interrupted while %s is started, the next cycle goes on: %w", v, err)
	case errors.Is(err, service.ErrHindered):
		return Result{}, fmt.Errorf("%s is live and was not started yet, the next cycle goes on; %w", v, err)
	case errors.Is(err, errOrder):
		return Result{}, err
	}
	return c.forced(err)
}

// forced ends the open intent, whose release is live by force, whether or not it started.
func (c *cycle) forced(cause error) (Result, error) {
	i := c.st.Intent
	c.notePrevious(i.To)
	c.st.Running = &node.Release{Version: i.To, Manifest: i.Manifest, Since: canon.At(c.now()), Forced: i.Attempt}
	c.st.Intent, c.st.Retry, c.st.Degraded = nil, nil, nil
	if err := c.save(); err != nil {
		return Result{}, err
	}
	e := node.Event{Event: "forced", Reason: reason.Updated, From: ranBefore(i), To: i.To, Digest: i.Manifest, Message: c.by(i)}
	if cause != nil {
		e.Reason, e.Message = reason.Unhealthy, e.Message+"; it did not start: "+cause.Error()
		c.record(e)
		return Result{From: e.From}, reason.Errorf(reason.Unhealthy, "%s is live by force, and nothing goes back; the same order again starts it once more, `puller --pin VERSION` runs another one%s; its start failed with: %w", i.To, c.wellBefore(), cause)
	}
	c.record(e)
	return Result{Reason: reason.Updated, From: e.From, Message: fmt.Sprintf("runs %s by force%s: nobody looked whether it is well; %s", i.To, before(i), forcedWays(i.To))}, nil
}

// wellBefore names the release that proved itself last, for a person who looks for one.
func (c *cycle) wellBefore() string {
	if g := c.st.LastGood; g != nil && g.Version != c.cur.Version {
		return fmt.Sprintf(" (%s ran well last)", g.Version)
	}
	return ""
}

// forcedWays says what a person can do about a release that runs by force.
func forcedWays(v string) string {
	return fmt.Sprintf("`puller --pin %s` lets it prove itself, `puller --unpin` follows the channel again", v)
}

// unproven reports whether what runs did not prove itself.
func unproven(st *node.State) bool {
	return st.Retry != nil || st.Degraded != nil || isForced(st)
}

// isForced reports whether what runs was made live by force, and did not prove itself since.
func isForced(st *node.State) bool { return st.Running != nil && st.Running.Forced != 0 }
