package puller

import (
	"context"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
)

// A tarball that was fetched and refused would be transferred and refused again in every
// cycle. So it is left alone for a while, longer each time, as long as it is the
// same in the storage. Whoever restores the object, or gives another order, waits
// for nothing.

// refused returns the refusal that still holds for the tarball of t, nil if it is to be
// fetched.
func (c *cycle) refused(ctx context.Context, t target, b layout.Bundle) error {
	r := c.st.Refused
	if r == nil || r.Object != b.Name || r.Order != c.orderOf(t) || c.opts.Now {
		return nil
	}
	// A time that is too far away was set by a clock that was wrong.
	if wait := r.Next.Sub(c.now()); wait <= 0 || wait > maxWait {
		return nil
	}
	if version, err := c.objectVersion(ctx, t, b); err != nil || version != r.Version {
		return nil // fetching finds out
	}
	return reason.Errorf(r.Reason, "%s is the same as when it was refused (%s so far), and is not fetched again before %s; `puller --now`, a pin or a new channel state do not wait; it was refused with: %s",
		b.Name, times(r.Count), r.Next.Format(canon.TimeLayout), r.Cause)
}

// refuse notes that the tarball of t was fetched and refused.
func (c *cycle) refuse(ctx context.Context, t target, b layout.Bundle, cause error) error {
	version, err := c.objectVersion(ctx, t, b)
	if err != nil {
		return cause // nothing to compare with next time
	}
	r := &node.Refused{Object: b.Name, Version: version, Order: c.orderOf(t), Count: 1, Reason: reason.Of(cause), Cause: node.Line(cause.Error())}
	if last := c.st.Refused; last != nil && last.Object == r.Object && last.Version == r.Version && last.Order == r.Order {
		r.Count = last.Count + 1
	}
	r.Next = canon.At(c.now().Add(min(time.Minute<<min(r.Count-1, 10), maxWait)))
	c.st.Refused = r
	if err := c.saveUrgently(); err != nil { // else it is fetched and refused at every poll
		return reason.Errorf(reason.Of(err), "%w; %w", err, cause)
	}
	return cause
}

// orderOf names what made t the target: the channel state, or the pin.
func (c *cycle) orderOf(t target) int64 {
	switch {
	case t.Pin:
		return t.Attempt
	case c.channel == nil:
		return 0 // a repair needs no order
	}
	return c.channel.Seq
}

// objectVersion asks which object the storage has now.
func (c *cycle) objectVersion(ctx context.Context, t target, b layout.Bundle) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	info, err := c.bucket.Stat(ctx, layout.ReleaseKey(c.cfg.App, t.Version, b.Name))
	return info.Version, err
}
