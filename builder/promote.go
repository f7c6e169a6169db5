package builder

import (
	"context"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// PromoteRequest says what to promote.
type PromoteRequest struct {
	Tier    string
	Version string // "": what the tier before it runs
	Propose bool   // on a branch, even if fleet.toml does not ask for that
}

// Promote advances a tier. Errors have the reason "policy" for what the rules of fleet
// and trust refuse, "stale" for a bundle that is not whole, a tier before that names
// nothing, and a channel that moved meanwhile, and those of verifying a manifest.
func (b *Builder) Promote(ctx context.Context, req PromoteRequest) (out *Advanced, err error) {
	if err := layout.CheckTier(req.Tier); err != nil {
		return nil, reason.Wrap(reason.Config, err)
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
	if a.bundle, err = b.chosen(ctx, v, tier.Name, tier.From, req.Version); err != nil {
		return advance{}, err
	}
	a.follow = req.Version == ""
	if err := v.allow(a); err != nil {
		return advance{}, err
	}
	st, err := v.channel(tier.Name)
	if err != nil {
		return advance{}, err
	}
	a.was = st.doc
	// A passphrase is asked for before anything else is done.
	_, err = b.channelKey(ctx, v, tier.Name)
	return a, err
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
	p, err := b.store.Must(ctx, v.trust, st.state.Version)
	if err == nil && p.Digest != st.state.Manifest {
		return nil, reason.Errorf(reason.Mismatch, "channel %q names manifest %s for version %s, the bucket has %s: %s",
			from, st.state.Manifest, p.Version, p.Digest, bundle.UnderNew)
	}
	return p, err
}
