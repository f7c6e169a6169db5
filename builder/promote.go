package builder

import (
	"context"
	"fmt"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// PromoteRequest says what to promote.
type PromoteRequest struct {
	Tier    string
	Version string // "": what the tier before it runs
	Propose bool   // on a branch, even if fleet.toml does not ask for that
	Retry   bool   // what the tier names already, with the next attempt; without Version
}

// Promote advances a tier. Errors have the reason "policy" for what the rules of fleet
// and trust refuse, "stale" for a bundle that is not whole, a tier before that names
// nothing, and a channel that moved meanwhile, and those of verifying a manifest.
func (b *Builder) Promote(ctx context.Context, req PromoteRequest) (out *Advanced, err error) {
	if err := layout.CheckTier(req.Tier); err != nil {
		return nil, reason.Wrap(reason.Config, err)
	}
	if req.Retry && req.Version != "" {
		return nil, reason.Errorf(reason.Config, "a retry is of the version that the tier names: leave out the version")
	}
	if req.Version != "" {
		if err := layout.CheckVersion(req.Version); err != nil {
			return nil, reason.Wrap(reason.Config, err)
		}
	}
	err = b.withChannels(ctx, "promote "+req.Tier, func(r *repo.Repo) error {
		a, err := b.plan(ctx, r, req)
		if err != nil {
			return err
		}
		out, err = b.carryOut(ctx, r, a)
		return err
	})
	return out, err
}

// plan decides what the tier is to run, from the channel repo as it is now.
func (b *Builder) plan(ctx context.Context, r *repo.Repo, req PromoteRequest) (advance, error) {
	head, err := r.Fetch(ctx, "")
	if err != nil {
		return advance{}, err
	}
	v, err := b.view(head)
	if err != nil {
		return advance{}, err
	}
	tier, err := v.fleet.Tier(req.Tier)
	if err != nil {
		return advance{}, err
	}
	if err := possible(tier); err != nil {
		return advance{}, err
	}
	a := advance{tier: tier.Name, propose: req.Propose || tier.Propose || several(v.trust, tier.Name)}
	st, err := v.channel(tier.Name)
	if err != nil {
		return advance{}, err
	}
	a.was = st.doc
	if req.Retry {
		a.again, a.bundle, err = b.named(ctx, v, tier.Name, st)
	} else {
		a.follow = req.Version == ""
		a.bundle, err = b.chosen(ctx, v, tier.Name, tier.From, req.Version)
	}
	if err != nil {
		return advance{}, err
	}
	if err := v.allow(a); err != nil {
		return advance{}, err
	}
	// A passphrase is asked for before anything else is done.
	_, err = b.channelKey(ctx, v, tier.Name)
	return a, err
}

// named returns the state of the tier that is to be tried once more, and its bundle.
func (b *Builder) named(ctx context.Context, v *view, tier string, st standing) (*channels.Channel, *bundle.Published, error) {
	switch {
	case st.fault != nil:
		return nil, nil, fmt.Errorf("channel %q has a state that nodes refuse, so there is nothing to try again; builder promote %s replaces it: %w", tier, tier, st.fault)
	case st.state == nil:
		return nil, nil, reason.Errorf(reason.Stale, "channel %q names nothing yet, so there is nothing to try again: builder promote %s", tier, tier)
	case st.state.Rollout == 0:
		return nil, nil, reason.Errorf(reason.Policy, "channel %q is halted, and no node would try %s again: builder promote %s --version %s ends that", tier, st.state.Version, tier, st.state.Version)
	}
	p, err := b.published(ctx, v, tier, st.state)
	return st.state, p, err
}

// published returns the bundle that the state c of a tier names.
func (b *Builder) published(ctx context.Context, v *view, tier string, c *channels.Channel) (*bundle.Published, error) {
	p, err := b.store.Must(ctx, v.trust, c.Version)
	if err == nil && p.Digest != c.Manifest {
		return nil, reason.Errorf(reason.Mismatch, "channel %q names manifest %s for version %s, the bucket has %s: %s",
			tier, c.Manifest, p.Version, p.Digest, bundle.UnderNew)
	}
	return p, err
}

// chosen returns the bundle to promote: of the version given, or the one that the tier
// from names.
func (b *Builder) chosen(ctx context.Context, v *view, tier, from, version string) (*bundle.Published, error) {
	if version != "" {
		return b.store.Must(ctx, v.trust, version)
	}
	if from == "" {
		return nil, reason.Errorf(reason.Config, "tier %q is the first, so it follows none: say which version with --version", tier)
	}
	st, err := v.channel(from)
	if err != nil {
		return nil, err
	}
	if st.fault != nil {
		return nil, st.fault
	}
	if st.state == nil {
		return nil, reason.Errorf(reason.Stale, "channel %q, which %q follows, names nothing yet: promote that first, or say which version with --version", from, tier)
	}
	return b.published(ctx, v, from, st.state)
}
