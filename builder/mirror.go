package builder

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/mirror"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// Outcomes of mirroring a tier.
const (
	OutcomeMirrored  = "mirrored"  // the bucket has the state of the channel repo now
	OutcomeUnchanged = "unchanged" // it had it before
	OutcomeRefused   = "refused"   // nothing was written
)

// Mirrored is what became of a mirror.
type Mirrored struct {
	App    string         `json:"app"`
	Commit string         `json:"commit"` // of the channel repo
	Trust  int64          `json:"trust"`  // newest version, in the mirror now
	Tiers  []MirroredTier `json:"tiers"`
	// Of the first tier that was refused; empty when there is none.
	Error  string      `json:"error,omitempty"`
	Reason reason.Code `json:"reason,omitempty"`
	Exit   int         `json:"exit"`
}

// MirroredTier is what became of one tier.
type MirroredTier struct {
	Tier     string      `json:"tier"`
	Outcome  string      `json:"outcome"`
	Version  string      `json:"version,omitempty"`
	Seq      int64       `json:"seq,omitempty"`
	Previous string      `json:"previous,omitempty"` // version that the mirror named before
	Error    string      `json:"error,omitempty"`
	Reason   reason.Code `json:"reason,omitempty"`
}

// Mirror copies trust and the channels of the tiers, or of all provisioned tiers that
// have one, to the bucket. A tier whose state nodes would refuse, or that is older than
// what the mirror has, is refused, and the others go on; with the error of the first
// such tier the result is there as well.
func (b *Builder) Mirror(ctx context.Context, tiers []string) (out *Mirrored, err error) {
	err = b.withChannels(ctx, "mirror", func(r *repo.Repo) error {
		out, err = b.mirror(ctx, r, tiers)
		return err
	})
	return out, err
}

func (b *Builder) mirror(ctx context.Context, r *repo.Repo, tiers []string) (*Mirrored, error) {
	head, err := r.Fetch(ctx, "")
	if err != nil {
		return nil, err
	}
	v, err := b.view(head)
	if err != nil {
		return nil, err
	}
	if tiers, err = v.mirrorable(tiers); err != nil {
		return nil, err
	}
	// Who sees a channel state must be able to have the trust it was signed under.
	if err := v.mirrorTrust(ctx); err != nil {
		return nil, err
	}
	out := &Mirrored{App: b.cfg.App, Commit: head.Commit, Trust: v.trust.Version, Tiers: []MirroredTier{}}
	var first error
	for _, tier := range tiers {
		one, err := v.mirrorTier(ctx, tier)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if err != nil {
			one.Outcome, one.Error, one.Reason = OutcomeRefused, err.Error(), reason.Of(err)
			if first == nil {
				first = fmt.Errorf("mirror %s: %w", tier, err)
				out.Error, out.Reason, out.Exit = first.Error(), reason.Of(first), reason.Of(first).Exit()
			}
		}
		out.Tiers = append(out.Tiers, one)
	}
	return out, first
}

// mirrorable returns the tiers to mirror: those given, or all that have nodes and a
// channel.
func (v *view) mirrorable(tiers []string) ([]string, error) {
	for _, name := range tiers {
		if _, err := v.fleet.Tier(name); err != nil {
			return nil, err
		}
	}
	if len(tiers) > 0 {
		slices.Sort(tiers)
		return slices.Compact(tiers), nil
	}
	for _, tier := range v.fleet.Tiers {
		_, err := v.snap.Read(repo.ChannelFile(tier.Name), layout.MaxChannel)
		if tier.Provisioned && !missing(err) {
			tiers = append(tiers, tier.Name)
		}
	}
	return tiers, nil
}

// mirrorTier copies the channel of one tier.
func (v *view) mirrorTier(ctx context.Context, tier string) (MirroredTier, error) {
	out := MirroredTier{Tier: tier}
	role := v.trust.ChannelRole(tier)
	signed, err := v.snap.Signed(repo.ChannelFile(tier), v.trust.Kids(role), layout.MaxChannel)
	if missing(err) {
		return out, reason.Errorf(reason.Stale, "the channel repo has no %s: builder promote %s makes one", repo.ChannelFile(tier), tier)
	}
	if err != nil {
		return out, err
	}
	c, _, err := channels.Accept(v.trust, v.b.cfg.App, tier, signed, nil)
	if err != nil {
		return out, err
	}
	out.Version, out.Seq = c.Version, c.Seq
	put, err := v.b.channels().PutChannel(ctx, tier, good(signed, v.trust), v.trust, func() error { return v.newest(tier) })
	if err != nil {
		return out, err
	}
	if put.Garbage != nil {
		v.b.log.Warn("what the mirror had was no state of this channel, and was replaced", "tier", tier, "cause", put.Garbage)
	}
	if out.Outcome = OutcomeUnchanged; put.Changed {
		out.Outcome = OutcomeMirrored
		if put.Before != nil {
			out.Previous = put.Before.Version
		}
	}
	return out, nil
}

// newest refuses a channel of which this builder has seen a newer state: the channel
// repo was rewound.
func (v *view) newest(tier string) error {
	st, err := v.channel(tier)
	if err == nil {
		err = st.fault
	}
	return err
}

func (b *Builder) channels() mirror.Mirror {
	return mirror.Mirror{Bucket: b.store.Bucket, App: b.cfg.App}
}

// good returns s with those signatures only that are good and by keys of by.
func good(s signing.Signed, by ...*signing.Trust) signing.Signed {
	out := signing.Signed{Doc: s.Doc, Sigs: signing.Signatures{}}
	for kid, sig := range s.Sigs {
		if slices.ContainsFunc(by, func(t *signing.Trust) bool { return t.VerifyBy(kid, s) == nil }) {
			out.Sigs[kid] = sig
		}
	}
	return out
}

// link is one version of trust, with its signatures.
type link struct {
	*signing.Trust
	signed signing.Signed
}

// mirrorTrust copies the versions of trust, the oldest first.
func (v *view) mirrorTrust(ctx context.Context) error {
	chain, err := v.trustBefore()
	if err != nil {
		return err
	}
	_, err = v.snap.Walk(v.b.anchor, func(next *signing.Trust, s signing.Signed) error {
		chain = append(chain, link{next, s})
		return nil
	})
	if err != nil {
		return err
	}
	before := new(signing.Trust)
	for _, l := range chain {
		if err := v.b.channels().PutTrust(ctx, l.Version, good(l.signed, before, l.Trust), before, l.Trust); err != nil {
			return fmt.Errorf("mirror trust version %d: %w", l.Version, err)
		}
		before = l.Trust
	}
	return nil
}

// errThere ends a walk that has come to where it goes.
var errThere = errors.New("there")

// trustBefore returns the versions of trust in the channel repo that lead to the anchor,
// and the anchor: a node may hold an older one. They prove themselves by leading there.
func (v *view) trustBefore() ([]link, error) {
	anchor := v.b.anchor.Version
	low := anchor + 1
	for low > 1 && anchor-low < channels.MaxWalk {
		if _, err := v.snap.Read(repo.TrustFile(low-1), layout.MaxTrust); missing(err) {
			break
		} else if err != nil {
			return nil, err
		}
		low--
	}
	if low > anchor {
		return nil, nil
	}
	doc, err := v.snap.Read(repo.TrustFile(low), layout.MaxTrust)
	if err != nil {
		return nil, err
	}
	t, err := signing.ParseTrust(doc)
	if err != nil {
		return nil, fmt.Errorf("channel repo: %s: %w", repo.TrustFile(low), err)
	}
	signed, err := v.snap.Signed(repo.TrustFile(low), t.Kids(signing.RoleRoot), layout.MaxTrust)
	if err != nil {
		return nil, err
	}
	chain := []link{{t, signed}}
	if low < anchor {
		_, err = v.snap.Walk(t, func(next *signing.Trust, s signing.Signed) error {
			if chain = append(chain, link{next, s}); next.Version == anchor {
				return errThere
			}
			return nil
		})
		if err != nil && !errors.Is(err, errThere) {
			return nil, fmt.Errorf("channel repo: %w", err)
		}
	}
	return chain, v.leadsTo(chain)
}

// leadsTo refuses a chain that ends in another document than the anchor.
func (v *view) leadsTo(chain []link) error {
	want, err := v.b.anchor.Encode()
	if err != nil {
		return err
	}
	last := chain[len(chain)-1]
	if string(last.signed.Doc) != string(want) {
		return reason.Errorf(reason.Mismatch, "channel repo: %s is another document than signing.trust: one of them is of other keys; see docs/trust.md",
			repo.TrustFile(v.b.anchor.Version))
	}
	return nil
}
