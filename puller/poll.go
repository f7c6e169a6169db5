package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/signing"
)

// accepted is the last accepted channel state.
type accepted struct {
	*channels.Channel
	doc  []byte
	sigs signing.Signatures // as polled in this cycle; nil: only those on disk are known
}

// poll asks for news, walks trust, and accepts the tier's channel state if it is a good
// next one. Whatever fails, what was accepted before stays in force. A new order ends it
// with errOrder.
func (c *cycle) poll(ctx context.Context) error {
	if err := c.loadTrust(); err != nil {
		return err
	}
	// Each request has its own limit; an endless chain of slow ones ends here.
	limited, cancel := context.WithTimeout(ctx, pollLimit)
	defer cancel()
	watched, stop := until(limited, func() bool {
		c.tell(Polling, func() string { return "asking for news of channel " + c.cfg.Tier })
		return c.reordered()
	})
	err := c.pollOnce(watched)
	if ordered := stop(); err != nil && ordered && ctx.Err() == nil {
		return errOrder
	}
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return reason.Errorf(reason.IO, "poll: not done within %s: %w", pollLimit, err)
	}
	return err
}

// pollLimit is how long a poll may take. What of trust it has walked by then is kept.
const pollLimit = 5 * time.Minute

func (c *cycle) pollOnce(ctx context.Context) error {
	n, done, err := c.ask(ctx)
	defer done()
	if err != nil || n == nil {
		return err
	}
	return c.read(ctx, n)
}

// read takes in what one poll found.
func (c *cycle) read(ctx context.Context, n news) error {
	if err := c.walkTrust(ctx, n); err != nil {
		return c.doubt(err)
	}
	kids := c.trust.Kids(c.trust.ChannelRole(c.cfg.Tier))
	signed, err := n.channel(ctx, kids)
	if err != nil {
		return err
	}
	var last []byte
	if c.channel != nil {
		last = c.channel.doc
	}
	ch, fresh, err := c.floor().Accept(c.trust, c.cfg.App, c.cfg.Tier, signed, last)
	if err != nil {
		if by := c.outlived(ctx, n, signed, err); by != nil {
			return by
		}
		return c.doubt(n.refused(err, signed, kids))
	}
	if fresh {
		err = c.accept(ch, signed)
	} else {
		err = c.refreshSignatures(signed)
	}
	if err != nil {
		return err
	}
	return n.taken()
}

// accept makes ch the newest known state, durably, before anything acts on it.
func (c *cycle) accept(ch *channels.Channel, s signing.Signed) error {
	if c.dry {
		c.channel = &accepted{ch, s.Doc, s.Sigs}
		return nil
	}
	if err := c.dir.SaveChannel(c.cfg.Tier, s.Doc, s.Sigs); err != nil {
		return err
	}
	c.channel = &accepted{ch, s.Doc, s.Sigs}
	c.log.Info("accepted", "channel", c.cfg.Tier, "seq", ch.Seq, "version", ch.Version)
	c.record(node.Event{Event: "accepted", To: ch.Version, Digest: ch.Manifest, Message: fmt.Sprintf("channel %q, seq %d", c.cfg.Tier, ch.Seq)})
	return nil
}

// refreshSignatures takes over the signatures of a state that was accepted before, when
// those on disk are lost, or are by keys that do not count any more.
func (c *cycle) refreshSignatures(s signing.Signed) error {
	if c.checkChannel() == nil {
		return nil
	}
	c.channel.sigs = s.Sigs
	if c.dry {
		return nil
	}
	return c.dir.SaveChannel(c.cfg.Tier, s.Doc, s.Sigs)
}

// loadChannel reads the last accepted state. One that cannot be read is set aside, and
// the tier's counter begins anew.
func (c *cycle) loadChannel() error {
	if c.channel != nil || c.forgot {
		return nil
	}
	doc, err := c.dir.Channel(c.cfg.Tier)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil && !errors.Is(err, node.ErrBroken) {
		return err
	}
	var ch *channels.Channel
	if err == nil {
		ch, err = channels.ParseChannel(doc)
	}
	if err == nil && (ch.App != c.cfg.App || ch.Channel != c.cfg.Tier) {
		err = fmt.Errorf("it is of app %q, channel %q", ch.App, ch.Channel)
	}
	if err == nil {
		c.channel = &accepted{ch, doc, nil}
		return nil
	}
	name := "channels/" + c.cfg.Tier + ".json"
	c.warn("%s: %s; it was set aside as %s.broken: this node goes on as a fresh one, and %s", name, err, name, c.believes())
	if c.dry {
		return nil
	}
	c.record(node.Event{Event: "counter lost", Message: err.Error()})
	return c.dir.SetAside(name)
}

// believes says what a node may be shown whose counter is lost.
func (c *cycle) believes() string {
	if c.cfg.Channels.MinSeq > 0 {
		return "would believe an older channel state, down to channels.min_seq"
	}
	return fmt.Sprintf("would believe an older channel state: channels.min_seq keeps it from that, and `builder enroll %s --tier %s` says which", c.cfg.Node, c.cfg.Tier)
}

// floor is what the operator says about the counter. The anchor was looked at.
func (c *cycle) floor() channels.Floor {
	return channels.Floor{Seq: c.cfg.Channels.MinSeq, Trust: c.anchored}
}

// checkChannel verifies the accepted state again, under the newest trust: a key that
// was taken out of trust since then activates nothing any more, nor does a state that
// the operator's floor refuses by now.
func (c *cycle) checkChannel() error {
	if err := c.loadTrust(); err != nil {
		return err
	}
	if err := c.floor().Check(c.channel.Channel); err != nil {
		return fmt.Errorf("accepted state of channel %q: %w", c.cfg.Tier, err)
	}
	role := c.trust.ChannelRole(c.cfg.Tier)
	sigs := c.channel.sigs
	if sigs == nil {
		stored, err := c.dir.ChannelSignatures(c.cfg.Tier, c.channel.doc, c.trust.Kids(role))
		if err != nil {
			return err
		}
		sigs = stored
	}
	if err := c.trust.Verify(role, signing.Signed{Doc: c.channel.doc, Sigs: sigs}); err != nil {
		return fmt.Errorf("accepted state of channel %q: %w", c.cfg.Tier, err)
	}
	return nil
}
