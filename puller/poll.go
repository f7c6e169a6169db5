package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/signing"
)

// accepted is the last accepted channel state.
type accepted struct {
	*channels.Channel
	doc  []byte
	sigs signing.Signatures // as polled in this cycle; nil: only those on disk are known
}

// poll fetches the channel repo, walks trust, and accepts the tier's channel state if
// it is a good next one. Whatever fails, what was accepted before stays in force.
func (c *cycle) poll(ctx context.Context) error {
	if err := c.loadTrust(); err != nil {
		return err
	}
	r, done, err := c.repo()
	if err != nil {
		return err
	}
	defer done()
	snap, err := r.Fetch(ctx, c.st.Head)
	if err != nil {
		return err
	}
	if snap.Rewritten {
		c.warn("the history of the channel repo was rewritten since commit %s; the signed counters still hold", c.st.Head)
	}
	return c.read(snap)
}

// repo returns the channel repo, seen through a mirror that is kept from cycle to cycle;
// a dry run has one of its own, and done takes it away.
func (c *cycle) repo() (r *repo.Repo, done func(), err error) {
	if c.dry {
		tmp, err := os.MkdirTemp("", "puller-dry-run-")
		if err != nil {
			return nil, nil, err
		}
		r, err := repo.Open(tmp, c.cfg.repo())
		return r, func() { os.RemoveAll(tmp) }, err
	}
	if c.mirror == nil {
		r, err := repo.Open(c.dir.Path("git"), c.cfg.repo())
		if err != nil {
			return nil, nil, err
		}
		c.mirror = r
	}
	return c.mirror, func() {}, nil
}

// read takes in what one commit of the channel repo says.
func (c *cycle) read(snap *repo.Snapshot) error {
	if err := c.walkTrust(snap); err != nil {
		return err
	}
	path := "channels/" + c.cfg.Tier + ".json"
	signed, err := snap.Signed(path, c.trust.Kids(c.trust.ChannelRole(c.cfg.Tier)), layout.MaxChannel)
	if errors.Is(err, fs.ErrNotExist) {
		return reason.Errorf(reason.Stale, "the channel repo has no %s: nothing was promoted to tier %q yet, or somebody removed it; what runs stays; `builder promote %s` makes one", path, c.cfg.Tier, c.cfg.Tier)
	}
	if err != nil {
		return fmt.Errorf("read channel %q: %w", c.cfg.Tier, err)
	}
	var last []byte
	if c.channel != nil {
		last = c.channel.doc
	}
	ch, news, err := channels.Accept(c.trust, c.cfg.App, c.cfg.Tier, signed, last)
	if err != nil {
		return err
	}
	if news {
		err = c.accept(ch, signed)
	} else {
		err = c.refreshSignatures(signed)
	}
	if err != nil {
		return err
	}
	return c.seen(snap)
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

// seen remembers the commit that was read, and whether its history was rewritten. A
// rewritten history is reported, not refused: the signed counter decides.
func (c *cycle) seen(snap *repo.Snapshot) error {
	if snap.Rewritten {
		c.record(node.Event{Event: "history rewritten", Message: fmt.Sprintf("%s is no ancestor of %s", c.st.Head, snap.Commit)})
	}
	if c.st.Head == snap.Commit {
		return nil
	}
	c.st.Head, c.st.Rewritten = snap.Commit, snap.Rewritten
	return c.save()
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
	c.warn("%s: %s; it was set aside as %s.broken: this node goes on as a fresh one, and would believe an older channel state", name, err, name)
	if c.dry {
		return nil
	}
	c.record(node.Event{Event: "counter lost", Message: err.Error()})
	return c.dir.SetAside(name)
}

// checkChannel verifies the accepted state again, under the newest trust: a key that
// was taken out of trust since then activates nothing any more.
func (c *cycle) checkChannel() error {
	if err := c.loadTrust(); err != nil {
		return err
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
