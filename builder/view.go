package builder

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// Files in the channel repo.
const fleetFile = "fleet.toml"

func (b *Builder) seenFile(tier string) string { return b.state("seen", tier+".json") }

// view is the channel repo at one commit.
type view struct {
	b     *Builder
	snap  *repo.Snapshot
	trust *signing.Trust // the newest version that the anchor leads to
	fleet *channels.Fleet
}

func (b *Builder) view(snap *repo.Snapshot) (*view, error) {
	v := &view{b: b, snap: snap}
	var err error
	if v.trust, err = b.trust(snap); err != nil {
		return nil, fmt.Errorf("channel repo: %w", err)
	}
	data, err := snap.Read(fleetFile, channels.MaxFleet)
	if missing(err) {
		return nil, reason.Errorf(reason.Config, "channel repo %q has no %s: is channels.path right? builder init makes one", b.cfg.Channels.Repo, fleetFile)
	}
	if err != nil {
		return nil, fmt.Errorf("channel repo: %w", err)
	}
	if v.fleet, err = channels.ParseFleet(data); err != nil {
		return nil, fmt.Errorf("channel repo: %w", err)
	}
	if v.fleet.App != b.cfg.App {
		return nil, reason.Errorf(reason.Config, "channel repo: %s is of app %q, this configuration of app %q: is channels.path right?",
			fleetFile, v.fleet.App, b.cfg.App)
	}
	return v, nil
}

// trust returns the newest trust that the anchor leads to.
func (b *Builder) trust(snap *repo.Snapshot) (*signing.Trust, error) {
	t, err := snap.Walk(b.anchor, nil)
	if err == nil && t.Version == b.anchor.Version+channels.MaxWalk {
		err = reason.Errorf(reason.Limit, "trust: %d versions or more after the anchor: copy a newer one to signing.trust", channels.MaxWalk)
	}
	return t, err
}

// standing is how a channel stands.
type standing struct {
	doc   []byte            // in the repo; nil: none
	state *channels.Channel // what nodes take from it; nil: nothing
	fault error             // why they do not
	// last is the newest state known, which the next one must follow. It is not state
	// when the repo was rewound or its file is damaged.
	last    *channels.Channel
	lastDoc []byte
}

// channel looks at the channel of tier the way a node does, with what this builder has
// seen as the counter.
func (v *view) channel(tier string) (standing, error) {
	var st standing
	if err := v.recall(tier, &st); err != nil {
		return st, err
	}
	kids := v.trust.Kids(v.trust.ChannelRole(tier))
	signed, err := v.snap.Signed(repo.ChannelFile(tier), kids, layout.MaxChannel)
	if missing(err) {
		return st, nil
	}
	if err != nil {
		return st, fmt.Errorf("channel repo: %w", err)
	}
	st.doc = signed.Doc
	c, news, err := channels.Accept(v.trust, v.b.cfg.App, tier, signed, st.lastDoc)
	if err != nil {
		st.fault = err
		return st, nil
	}
	st.state, st.last, st.lastDoc = c, c, signed.Doc
	if news {
		return st, v.b.remember(tier, signed.Doc)
	}
	return st, nil
}

// recall fills in what was seen of the channel before. What does not count any more,
// because the anchor was set back or the file is damaged, is forgotten.
func (v *view) recall(tier string, st *standing) error {
	doc, err := readFile(v.b.seenFile(tier), layout.MaxChannel)
	if missing(err) {
		return nil
	}
	if err != nil {
		return err
	}
	c, err := channels.ParseChannel(doc)
	if err == nil && (c.App != v.b.cfg.App || c.Channel != tier) {
		err = errors.New("it is of another channel")
	}
	if err == nil && c.Trust > v.trust.Version {
		err = fmt.Errorf("it is of trust version %d, the newest now is %d", c.Trust, v.trust.Version)
	}
	if err != nil {
		v.b.log.Warn("what was seen of a channel is forgotten", "tier", tier, "file", v.b.seenFile(tier), "cause", err)
		return nil
	}
	st.last, st.lastDoc = c, doc
	return nil
}

func (b *Builder) remember(tier string, doc []byte) error {
	if err := durable.MkdirAll(b.state("seen"), 0o755); err != nil {
		return err
	}
	return durable.WriteFile(b.seenFile(tier), doc, 0o644)
}

// runs reports whether nodes that follow the channel have been told to run p, by a
// state that needs no renewal.
func (st *standing) runs(v *view, p *bundle.Published, now time.Time) bool {
	c := st.state
	return c != nil && c.Manifest == p.Digest && c.Rollout == 100 && c.Trust == v.trust.Version && !c.Expired(now)
}

// describe says for people what a channel document names.
func describe(doc []byte) string {
	if doc == nil {
		return "nothing"
	}
	c, err := channels.ParseChannel(doc)
	if err != nil {
		return "something malformed"
	}
	return fmt.Sprintf("%s (seq %d)", c.Version, c.Seq)
}

// unmoved refuses a channel whose document is not a.was any more: somebody else advanced
// it, and whether this advance is still wanted is not for the builder to say.
func (v *view) unmoved(a advance, st standing) error {
	if bytes.Equal(st.doc, a.was) {
		return nil
	}
	way := "--version " + a.bundle.Version
	if a.again != nil {
		way = "--retry"
	}
	return reason.Errorf(reason.Stale, "channel %q moved meanwhile: it named %s and now, at commit %s, names %s: "+
		"nothing was pushed; if version %s is still wanted there, run builder promote %s %s",
		a.tier, describe(a.was), v.snap.Commit, describe(st.doc), a.bundle.Version, a.tier, way)
}

// attempt returns the attempt that the next state carries on, 0 if there is none.
func (st *standing) attempt() int64 {
	if st.last == nil {
		return 0
	}
	return st.last.Attempt
}

// change is a signed channel state and the files that make it.
type change struct {
	*channels.Channel
	doc   []byte
	files map[string][]byte
	count Count
}

// next signs the state that follows st.
func (v *view) next(st standing, signer signer, c channels.Channel) (*change, error) {
	tier, kid := c.Channel, signer.Public().Kid()
	next := channels.Next(st.last, v.b.opt.Now(), v.trust.Version, c)
	doc, err := next.Encode()
	if err != nil {
		return nil, err
	}
	sig, err := signer.Sign(doc)
	if err != nil {
		return nil, err
	}
	// What this builder would not take as a node, once all have signed, it does not push.
	s := signing.Signed{Doc: doc, Sigs: signing.Signatures{kid: sig}}
	if _, news, err := channels.Accept(single(v.trust, v.trust.ChannelRole(tier)), v.b.cfg.App, tier, s, st.lastDoc); err != nil || !news {
		return nil, fmt.Errorf("state just signed for channel %q is not good: news %t: %w", tier, news, err)
	}
	files := map[string][]byte{repo.ChannelFile(tier): doc, signing.SignatureFile(repo.ChannelFile(tier), kid): sig}
	old, err := v.snap.Signed(repo.ChannelFile(tier), slices.Sorted(maps.Keys(v.trust.Keys)), layout.MaxChannel)
	if err != nil && !missing(err) {
		return nil, fmt.Errorf("channel repo: %w", err)
	}
	for other := range old.Sigs {
		if other != kid { // of the state that is replaced
			files[signing.SignatureFile(repo.ChannelFile(tier), other)] = nil
		}
	}
	return &change{next, doc, files, count(v.trust, v.trust.ChannelRole(tier), s)}, nil
}

// signer is the private half of a key.
type signer interface {
	Public() *signing.PublicKey
	Sign(doc []byte) ([]byte, error)
}

// expires returns when a state signed now ends to be good; the zero time for never.
func (b *Builder) expires() canon.Time {
	if b.cfg.expires == 0 {
		return canon.Time{}
	}
	return canon.At(b.opt.Now().Add(b.cfg.expires))
}
