package puller

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
)

// Order is what a pin orders.
type Order struct {
	Version  string
	Manifest layout.Digest // "": whichever is on disk, or in the storage
	Until    canon.Time    // when it ends by itself; zero: it does not
	Force    bool          // the release need not prove itself
	Reason   string
}

// ParseOrder reads "0.9.5" or "0.9.5@sha256:…".
func ParseOrder(s string) (version string, manifest layout.Digest, err error) {
	version, digest, has := strings.Cut(s, "@")
	if err := layout.CheckVersion(version); err != nil {
		return "", "", reason.Wrap(reason.Config, err)
	}
	if has {
		manifest = layout.Digest(digest)
		if err := manifest.Check(); err != nil {
			return "", "", reason.Wrap(reason.Config, err)
		}
	}
	return version, manifest, nil
}

// ParseUntil reads when a pin ends: after a while, "2h", "3d", "1d12h", or at a moment,
// "2006-01-02T15:04:05Z". It must be after now.
func ParseUntil(s string, now time.Time) (canon.Time, error) {
	at, err := time.Parse(canon.TimeLayout, s)
	if err != nil {
		d, derr := parseSpan(s)
		if derr != nil {
			return canon.Time{}, reason.Errorf(reason.Config, "--until: %q is neither a time from now, such as 2h or 3d, nor a moment, such as %s", s, canon.At(now.Add(2*time.Hour)).Format(canon.TimeLayout))
		}
		at = now.Add(d)
	}
	until := canon.At(at)
	if !until.After(now) {
		return canon.Time{}, reason.Errorf(reason.Config, "--until: %q is not after now, %s: such a pin would end at once", s, canon.At(now).Format(canon.TimeLayout))
	}
	return until, nil
}

// maxSpan is the longest time from now, in days.
const maxSpan = 3660

// parseSpan reads a duration that may begin with days.
func parseSpan(s string) (time.Duration, error) {
	var span time.Duration
	if days, rest, has := strings.Cut(s, "d"); has {
		n, err := strconv.ParseUint(days, 10, 16)
		if err != nil || n > maxSpan {
			return 0, fmt.Errorf("%q is no number of days up to %d", days, maxSpan)
		}
		span = time.Duration(n) * 24 * time.Hour
		if rest == "" {
			return span, nil
		}
		s = rest
	}
	d, err := time.ParseDuration(s)
	if err != nil || d > maxSpan*24*time.Hour {
		return 0, fmt.Errorf("%q is no duration up to %d days", s, maxSpan)
	}
	return span + d, nil
}

// loadPin reads the operator's order. One that cannot be read holds the node: it
// said that the channel is not to be followed.
func (c *cycle) loadPin() error {
	p, err := c.dir.Pin()
	if errors.Is(err, node.ErrBroken) {
		return reason.Errorf(reason.Config, "%w: a pin is in force, and which is not known, so nothing is changed; `puller --pin VERSION` or `puller --unpin` mends it", err)
	}
	if err != nil {
		return err
	}
	c.order, c.pin, c.heard = p, c.inForce(p), true
	return nil
}

// inForce returns p unless its time is over.
func (c *cycle) inForce(p *node.Pin) *node.Pin {
	if p == nil || p.Ended(c.now(), c.issued()) || c.over(p) {
		return nil
	}
	return p
}

// putRight is by how much a clock may be set back without bringing back a pin that has ended:
// the app would be restarted to and fro.
const putRight = time.Hour

// over reports whether it was said already that p has ended. That stays so when a state is
// accepted that was signed by a clock ahead of this one, and when this one is put right.
func (c *cycle) over(p *node.Pin) bool {
	return c.st != nil && c.st.PinEnded == p.At && !p.Until.IsZero() && p.Until.Sub(c.now()) < putRight
}

// issued returns when the accepted channel state was signed; the zero time if there is none.
func (c *cycle) issued() time.Time {
	if c.channel != nil {
		return c.channel.Issued.Time
	}
	doc, err := c.dir.Channel(c.cfg.Tier)
	if err != nil {
		return time.Time{} // loadChannel says what is wrong with it
	}
	ch, err := channels.ParseChannel(doc)
	if err != nil {
		return time.Time{}
	}
	return ch.Issued.Time
}

// judgePin looks again whether the pin's time is over: a poll takes its time, and may have
// brought a state that shows the clock to be wrong. That a pin ended is said once.
func (c *cycle) judgePin() {
	p := c.order
	c.pin = c.inForce(p)
	switch {
	case p == nil || c.pin != nil:
		// Written with what comes of it: an order waits for no write that it does not need.
		c.st.PinEnded = 0
	case c.st.PinEnded != p.At:
		c.st.PinEnded = p.At
		if err := c.save(); err != nil {
			c.warn("that the pin has ended is not on record: %s", err)
			return
		}
		c.log.Info("the pin has ended", "version", p.Release, "until", p.Until.Format(canon.TimeLayout))
		c.record(node.Event{Event: "pin ended", To: p.Release, Digest: p.Manifest, Message: fmt.Sprintf("it held until %s; the channel is followed again", p.Until.Format(canon.TimeLayout))})
	}
}

// pending reports whether a pin waits that can be carried out without network: one that was
// given while no puller was at work. It does not wait for a poll.
func (c *cycle) pending() (bool, error) {
	if c.pin == nil {
		return false, nil
	}
	has, err := c.dir.Has(c.pin.Release)
	return has && (c.opts.Order || decide(c.facts()).Act), err
}

// ordered reports whether a pin came, since this cycle looked last, that asks for something
// else than to run v. The emergency exit waits for nothing.
func (c *cycle) ordered(v string) bool {
	p, err := c.dir.Pin()
	if err != nil || p.Same(c.order) || c.inForce(p) == nil {
		return false
	}
	return p.Release != v || p.Force && (c.pin == nil || !c.pin.Force)
}

// unpinned reports whether the pin that c knows was taken back.
func (c *cycle) unpinned() bool {
	p, err := c.dir.Pin()
	return err == nil && p == nil && c.order != nil
}

// overtaken reports whether an order came that ends the activation of v, or the one was taken
// back that it began with.
func (c *cycle) overtaken(v string) bool {
	i := c.st.Intent
	switch {
	case c.ordered(v):
		return true
	case c.pin == nil || !c.unpinned():
		return false
	case i != nil:
		return i.Pin && i.Phase == node.Switching
	}
	return v != c.cur.Version // it is only being prepared for
}

// reordered reports whether a pin was given or taken back since this cycle looked last. What
// is planned only waits for the poll that it was asked for.
func (c *cycle) reordered() bool {
	p, err := c.dir.Pin()
	return !c.dry && err == nil && !p.Same(c.order)
}

// attend does what waits for others and returns its error, or errOrder as soon as an order
// came that ends the probation of v. With words it says meanwhile what it waits for.
func (c *cycle) attend(ctx context.Context, v string, part Part, words func() string, do func(context.Context) error) error {
	watched, stop := until(ctx, func() bool {
		if words != nil {
			c.tell(part, words)
		}
		return c.overtaken(v)
	})
	err := do(watched)
	if ordered := stop(); err != nil && ordered && ctx.Err() == nil {
		return errOrder
	}
	return err
}
