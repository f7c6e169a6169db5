package puller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/signing"
)

// trusted is the newest trust that the node holds.
type trusted struct {
	forgot   bool // the operator's reset: the counters do not count any more
	trust    *signing.Trust
	anchored int64 // version of the anchor
	looked   bool  // trust was loaded, or could not be: once a cycle, so that it holds for all of it
	trustErr error
}

// loadTrust reads the operator's anchor and the chain that was walked from it. The
// newest valid version counts. An anchor that is newer than the chain replaces it; one
// that contradicts it is the operator's reset.
func (c *cycle) loadTrust() error {
	if !c.looked {
		c.looked, c.trustErr = true, c.readTrust()
	}
	return c.trustErr
}

func (c *cycle) readTrust() error {
	doc, anchor, err := c.anchor()
	if err != nil {
		return err
	}
	c.anchored = anchor.Version
	chain, err := c.chain()
	if err != nil {
		return err
	}
	switch {
	case len(chain) == 0:
	case anchor.Version > chain[len(chain)-1].Version:
		c.log.Info("the anchor is newer than the trust chain and replaces it", "version", anchor.Version)
		if err := c.forgetTrust(false); err != nil {
			return err
		}
	case !contains(chain, anchor, doc):
		c.warn("%s contradicts the trust that this node had walked to (version %d): taken for the operator's reset; walked trust and counters are forgotten", c.cfg.Trust, chain[len(chain)-1].Version)
		if err := c.forgetTrust(true); err != nil {
			return err
		}
		c.record(node.Event{Event: "trust reset", Message: "the anchor was replaced by the operator"})
	default:
		c.trust = chain[len(chain)-1].Trust
		return nil
	}
	if err := c.saveTrust(anchor.Version, signing.Signed{Doc: doc}); err != nil {
		return err
	}
	c.trust = anchor
	return nil
}

// link is one version of the chain.
type link struct {
	*signing.Trust
	doc []byte
}

func contains(chain []link, anchor *signing.Trust, doc []byte) bool {
	for _, l := range chain {
		if l.Version == anchor.Version {
			return bytes.Equal(l.doc, doc)
		}
	}
	return false
}

// anchor reads the trust file that the operator put on this node.
func (c *cycle) anchor() ([]byte, *signing.Trust, error) {
	f, err := os.OpenFile(c.cfg.Trust, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe does not hold it up
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, reason.Errorf(reason.Config, "trust anchor %s is missing: %s", c.cfg.Trust, c.anchorWay())
	}
	if err != nil {
		return nil, nil, reason.Errorf(reason.Config, "trust anchor: %w", err)
	}
	defer f.Close()
	doc, err := io.ReadAll(io.LimitReader(f, layout.MaxTrust+1))
	if err != nil {
		return nil, nil, reason.Errorf(reason.IO, "trust anchor: %w", err)
	}
	t, err := signing.ParseTrust(doc)
	if err != nil {
		return nil, nil, reason.Errorf(reason.Config, "trust anchor %s: %w: %s", c.cfg.Trust, err, c.anchorWay())
	}
	if t.App != c.cfg.App {
		return nil, nil, reason.Errorf(reason.Config, "trust anchor %s is for app %q, want %q: %s", c.cfg.Trust, t.App, c.cfg.App, c.anchorWay())
	}
	return doc, t, nil
}

// anchorWay says how the anchor is made good.
func (c *cycle) anchorWay() string {
	return fmt.Sprintf("put the newest trust/<N>.json of the channel repo there; `sha256sum %s` must say the fingerprint that `builder enroll %s --tier %s` prints", c.cfg.Trust, c.cfg.Node, c.cfg.Tier)
}

// doubt is an error about the signatures of what was polled. When nothing at all that the
// node knows of the channel is good under its trust, the anchor may be the wrong one.
func (c *cycle) doubt(err error) error {
	if reason.Of(err) != reason.Signature || c.channel != nil && c.checkChannel() == nil {
		return err
	}
	return fmt.Errorf("%w; or %s is not the right anchor: %s", err, c.cfg.Trust, c.anchorWay())
}

// outlived returns what a refusal for its signatures means when the keys of an earlier version
// of trust did sign the state: keys were changed, and nobody has promoted this tier since. It is
// nil when that is not so.
func (c *cycle) outlived(ctx context.Context, n news, refused signing.Signed, refusal error) error {
	if reason.Of(refusal) != reason.Signature || len(c.trust.Signers(c.trust.ChannelRole(c.cfg.Tier), refused)) > 0 {
		return nil // a key that counts has signed it: others are missing
	}
	versions, err := c.dir.TrustVersions()
	if err != nil {
		return nil // there is the refusal to tell
	}
	for _, v := range slices.Backward(versions) {
		if v >= c.trust.Version {
			continue
		}
		was, err := c.heldBefore(v)
		if err != nil {
			return nil
		}
		role := was.ChannelRole(c.cfg.Tier)
		s, err := n.channel(ctx, was.Kids(role))
		if err != nil || was.Verify(role, s) != nil {
			return nil
		}
		ch, err := channels.ParseChannel(s.Doc)
		if err != nil {
			return nil
		}
		return reason.Errorf(reason.Signature, "channel %q was last promoted under trust version %d, by keys that version %d does not name any more: "+
			"nothing of it is activated until it is promoted again; on the builder: `builder promote %s --version %s`", c.cfg.Tier, v, c.trust.Version, c.cfg.Tier, ch.Version)
	}
	return nil
}

// heldBefore reads a version of trust that this node has walked through.
func (c *cycle) heldBefore(n int64) (*signing.Trust, error) {
	doc, err := c.dir.Trust(n)
	if err != nil {
		return nil, err
	}
	return signing.ParseTrust(doc)
}

// chain reads the stored versions, from the first up to the last that follows from the
// one before it.
func (c *cycle) chain() ([]link, error) {
	versions, err := c.dir.TrustVersions()
	if err != nil {
		return nil, err
	}
	var chain []link
	for _, n := range versions {
		doc, err := c.dir.Trust(n)
		if err != nil {
			return nil, err
		}
		next, err := c.follows(chain, n, doc)
		if err != nil {
			c.warn("stored trust version %d is ignored: %s", n, err)
			break
		}
		chain = append(chain, link{next, doc})
	}
	return chain, nil
}

func (c *cycle) follows(chain []link, n int64, doc []byte) (*signing.Trust, error) {
	t, err := signing.ParseTrust(doc)
	if err != nil {
		return nil, err
	}
	if t.Version != n {
		return nil, fmt.Errorf("it says version %d", t.Version)
	}
	if len(chain) == 0 {
		return t, nil // the anchor was compared with it when it was stored
	}
	held := chain[len(chain)-1].Trust
	kids := append(held.Kids(signing.RoleRoot), t.Kids(signing.RoleRoot)...)
	sigs, err := c.dir.TrustSignatures(n, kids)
	if err != nil {
		return nil, err
	}
	return channels.Step(held, signing.Signed{Doc: doc, Sigs: sigs})
}

// walkTrust follows the chain that the news have from the newest version held.
func (c *cycle) walkTrust(ctx context.Context, n news) error {
	t, err := n.walk(ctx, c.trust, func(next *signing.Trust, s signing.Signed) error {
		if err := c.saveTrust(next.Version, s); err != nil {
			return err
		}
		c.log.Info("trust", "version", next.Version)
		c.record(node.Event{Event: "trust", Message: fmt.Sprintf("version %d is in force", next.Version)})
		return nil
	})
	c.trust = t
	return err
}

func (c *cycle) saveTrust(n int64, s signing.Signed) error {
	if c.dry {
		return nil
	}
	return c.dir.SaveTrust(n, s.Doc, s.Sigs)
}

func (c *cycle) forgetTrust(counters bool) error {
	if counters {
		c.channel, c.forgot = nil, true
	}
	if c.dry {
		return nil
	}
	return c.dir.ForgetTrust(counters)
}
