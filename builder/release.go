package builder

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/builder/proc"
	"makenot.work/sando/builder/source"
	"makenot.work/sando/builder/stage"
	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// ReleaseRequest says what to release: a revision of the source repository, or a
// checkout somebody made. Neither means the branch of the configuration.
type ReleaseRequest struct {
	Rev     string
	Dir     string
	Version string // "": what build.version prints
}

// Outcomes of a release.
const (
	OutcomePublished = "published" // the bundle is new
	OutcomeStands    = "stands"    // the version was published already, with this content
)

// Released is what became of a release.
type Released struct {
	App      string           `json:"app"`
	Version  string           `json:"version"`
	Commit   string           `json:"commit"` // of the source
	Manifest layout.Digest    `json:"manifest"`
	Outcome  string           `json:"outcome"`
	From     string           `json:"from,omitempty"` // the commit that a bundle which stands was made from, if another
	Bundles  []ReleasedBundle `json:"bundles"`
	Channels []Advanced       `json:"channels"`
	Warnings []string         `json:"warnings"`
}

// ReleasedBundle is the bundle for one platform.
type ReleasedBundle struct {
	Platform string        `json:"platform"`
	Name     string        `json:"name"`
	Size     int64         `json:"size"`     // bytes of the tarball
	Unpacked int64         `json:"unpacked"` // bytes of its files
	Entries  int64         `json:"entries"`
	Tree     layout.Digest `json:"tree"`
	Contents []stage.Size  `json:"contents,omitempty"` // what was staged; not when nothing was built
}

// release is a release under way.
type release struct {
	req    ReleaseRequest
	trust  *signing.Trust
	fleet  *channels.Fleet
	tiers  []channels.Tier   // to advance
	was    map[string][]byte // their channels when the release began
	signer *keys.Signer
	out    *Released
}

func (r *release) warn(b *Builder, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.log.Warn(text)
	r.out.Warnings = append(r.out.Warnings, text)
}

// Release builds and publishes a bundle and advances the tiers that advance by
// themselves. A version that is published already stands or is refused (reason
// "mismatch"); see the package's description. What it began and did not finish, the
// next call finishes.
func (b *Builder) Release(ctx context.Context, req ReleaseRequest) (out *Released, err error) {
	if req.Rev != "" && req.Dir != "" {
		return nil, reason.Errorf(reason.Config, "a revision and a directory exclude each other")
	}
	if err := b.cfg.plan().Check(); err != nil {
		return nil, err
	}
	if err := b.openState(); err != nil {
		return nil, err
	}
	l, err := b.lock(ctx, "lock", "release "+req.subject(&b.cfg))
	if err != nil {
		return nil, err
	}
	defer func() {
		if uerr := l.release(); err == nil {
			err = uerr
		}
	}()
	if err := b.sweep(); err != nil {
		return nil, err
	}
	r := &release{req: req, out: &Released{App: b.cfg.App, Bundles: []ReleasedBundle{}, Channels: []Advanced{}, Warnings: []string{}}}
	if err := b.prepare(ctx, r); err != nil {
		return nil, err
	}
	p, err := b.make(ctx, r, proc.Runner{Cookie: l.cookie})
	if err != nil {
		return nil, err
	}
	if err := b.advanceAll(ctx, r, p); err != nil {
		return nil, fmt.Errorf("version %s is published, but: %w", p.Version, err)
	}
	return r.out, nil
}

// subject says for people what is released.
func (req ReleaseRequest) subject(c *Config) string {
	switch {
	case req.Dir != "":
		return req.Dir
	case req.Rev != "":
		return req.Rev
	}
	return c.Source.Branch
}

// prepare finds out, before anything is built, whether the release can end well: which
// tiers it will advance, whether the keys are there and have their roles.
func (b *Builder) prepare(ctx context.Context, r *release) error {
	err := b.withChannels(ctx, "release", func(cr *repo.Repo) error {
		head, err := cr.Fetch(ctx, "")
		if err != nil {
			return err
		}
		v, err := b.view(head)
		if err != nil {
			return err
		}
		r.trust, r.fleet = v.trust, v.fleet
		return b.choose(ctx, v, r)
	})
	if err != nil {
		return err
	}
	const setting = "signing.release_key"
	if r.signer, err = b.keys.open(ctx, setting, b.cfg.Signing.ReleaseKey); err != nil {
		return err
	}
	return counts(r.trust, signing.RoleRelease, r.signer, setting)
}

// choose finds the tiers that fleet.toml asks to advance and this builder may.
func (b *Builder) choose(ctx context.Context, v *view, r *release) error {
	r.was = map[string][]byte{}
	for _, tier := range v.fleet.Tiers {
		asked, allowed := tier.Advance == channels.AdvanceAuto, slices.Contains(b.cfg.Channels.Auto, tier.Name)
		switch {
		case asked && !allowed:
			r.warn(b, "tier %q is not advanced: %s asks for it, channels.auto does not allow it", tier.Name, fleetFile)
		case !asked && allowed:
			r.warn(b, "tier %q is not advanced: channels.auto allows it, %s does not ask for it", tier.Name, fleetFile)
		case asked && !tier.Provisioned:
			r.warn(b, "tier %q is not advanced: it is not provisioned", tier.Name)
		case asked:
			if err := possible(tier); err != nil {
				return err
			}
			st, err := v.channel(tier.Name)
			if err != nil {
				return err
			}
			if _, err := b.channelKey(ctx, v, tier.Name); err != nil {
				return err
			}
			r.tiers, r.was[tier.Name] = append(r.tiers, tier), st.doc
		}
	}
	for _, name := range b.cfg.Channels.Auto {
		if _, err := v.fleet.Tier(name); err != nil {
			r.warn(b, "channels.auto: %v", err)
		}
	}
	return nil
}

// make makes sure that the version is published.
func (b *Builder) make(ctx context.Context, r *release, runner proc.Runner) (*bundle.Published, error) {
	tree, err := b.checkout(ctx, r.req, runner)
	if err != nil {
		return nil, err
	}
	j := job{runner: runner, tree: tree}
	version, err := b.version(ctx, j, r.req.Version)
	if err != nil {
		return nil, err
	}
	r.out.Version, r.out.Commit = version, tree.Commit
	if len(r.tiers) > 0 && slices.Contains(r.fleet.Yanked, version) {
		return nil, reason.Errorf(reason.Policy, "version %s is yanked in %s: release under a new version", version, fleetFile)
	}
	there, err := b.store.Begun(ctx, r.trust, version)
	if err != nil {
		return nil, err
	}
	if there != nil && there.Source.Commit == tree.Commit {
		b.log.Info("version is published already from this commit; it is not built again", "version", version, "commit", tree.Commit)
		return there, b.report(r, there, false, nil)
	}
	return b.produce(ctx, r, j, version, there)
}

// checkout returns the tree to build.
func (b *Builder) checkout(ctx context.Context, req ReleaseRequest, runner proc.Runner) (source.Tree, error) {
	s := &source.Source{State: b.cfg.State, Repo: b.cfg.Source.Repo, Keep: b.cfg.Source.KeepWork, Run: runner, Log: b.log}
	if req.Dir != "" {
		return s.Existing(ctx, req.Dir)
	}
	commit, err := s.Resolve(ctx, req.subject(&b.cfg))
	if err != nil {
		return source.Tree{}, err
	}
	return s.Checkout(ctx, commit)
}

// produce builds the bundle and publishes it, or holds it against what has the version.
func (b *Builder) produce(ctx context.Context, r *release, j job, version string, there *bundle.Published) (p *bundle.Published, err error) {
	tmp, err := b.scratch()
	if err != nil {
		return nil, err
	}
	defer func() {
		if rerr := os.RemoveAll(tmp); err == nil {
			err = rerr
		}
	}()
	list, err := b.products(ctx, j, version, tmp)
	if err != nil {
		return nil, err
	}
	for _, one := range list {
		for _, w := range one.Warnings {
			r.warn(b, "%s: %s", one.Platform, w)
		}
	}
	m, doc, err := b.manifest(j, version, list)
	if err != nil {
		return nil, err
	}
	if there == nil { // it was before the build
		if there, err = b.store.Begun(ctx, r.trust, version); err != nil {
			return nil, err
		}
	}
	if there != nil {
		if err := bundle.Stands(there, m); err != nil {
			return nil, err
		}
		b.log.Info("version is published already with this content", "version", version, "commit", there.Source.Commit)
		return there, b.report(r, there, false, list)
	}
	p, fresh, err := b.store.Publish(ctx, r.trust, r.signer, m, doc, list)
	if err != nil {
		return nil, err
	}
	if !fresh {
		b.log.Info("another builder published the version meanwhile, with this content", "version", version, "commit", p.Source.Commit)
	}
	return p, b.report(r, p, fresh, list)
}

// report notes what the version is now.
func (b *Builder) report(r *release, p *bundle.Published, fresh bool, list []bundle.Product) error {
	r.out.Manifest, r.out.Outcome = p.Digest, OutcomeStands
	if fresh {
		r.out.Outcome = OutcomePublished
	}
	if p.Source.Commit != r.out.Commit {
		r.out.From = p.Source.Commit
	}
	for i, x := range p.Bundles {
		one := ReleasedBundle{Platform: x.Platform, Name: x.Name, Size: x.Size, Unpacked: x.Unpacked, Entries: x.Entries, Tree: x.Tree}
		if i < len(list) {
			one.Contents = list[i].Contents
		}
		r.out.Bundles = append(r.out.Bundles, one)
	}
	var want []string
	for _, p := range b.cfg.Platforms {
		want = append(want, p.String())
	}
	if have := bundle.Platforms(p.Manifest); !slices.Equal(have, want) {
		r.warn(b, "version %s is published for %s; builder.toml wants %s: that takes a new version", p.Version, have, want)
	}
	return nil
}

// advanceAll advances the tiers, in their order. One that fails does not keep the
// others from it.
func (b *Builder) advanceAll(ctx context.Context, r *release, p *bundle.Published) error {
	if c := count(r.trust, signing.RoleRelease, p.Signed()); c.Signed < c.Needed {
		r.warn(b, "version %s has %d of the %d signatures that role %q needs: no tier is advanced; where another release key is, run builder sign %s, then release or promote",
			p.Version, c.Signed, c.Needed, c.Role, p.Version)
		return nil
	}
	if len(r.tiers) == 0 {
		return nil
	}
	return b.withChannels(ctx, "release "+p.Version, func(cr *repo.Repo) error {
		var errs []error
		for _, tier := range r.tiers {
			done, err := b.carryOut(ctx, cr, advance{tier: tier.Name, bundle: p, was: r.was[tier.Name], propose: tier.Propose || several(r.trust, tier.Name)})
			if err != nil {
				errs = append(errs, err)
				continue
			}
			r.out.Channels = append(r.out.Channels, *done)
		}
		return errors.Join(errs...)
	})
}
