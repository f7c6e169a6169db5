package builder

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strings"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// Outcomes of an advance.
const (
	OutcomeAdvanced = "advanced" // the channel names the version now
	OutcomeProposed = "proposed" // a branch does; merging it advances
	OutcomeAlready  = "already"  // it did before
)

// Advanced is what became of one tier.
type Advanced struct {
	Tier     string        `json:"tier"`
	Outcome  string        `json:"outcome"`
	Version  string        `json:"version"`
	Manifest layout.Digest `json:"manifest"`
	Previous string        `json:"previous,omitempty"` // version named before
	Seq      int64         `json:"seq"`
	Attempt  int64         `json:"attempt"`
	Retry    bool          `json:"retry,omitempty"`  // nodes that blocked the version try it once more
	Commit   string        `json:"commit"`           // in the channel repo
	Branch   string        `json:"branch,omitempty"` // of the proposal
	Remade   []string      `json:"remade,omitempty"` // branches of other proposals, signed anew
	Counts   []Count       `json:"counts,omitempty"` // signatures of a proposal, when one is not enough
	Mirror   string        `json:"mirror,omitempty"` // what became of the mirror, where it is kept up
}

// advance is an order to have a tier run a bundle.
type advance struct {
	tier    string
	bundle  *bundle.Published
	was     []byte // the channel's document when the decision was made
	propose bool
	// follow holds the version to be what the tier it follows names.
	follow bool
	// again is the state whose release is tried once more; nil: the tier is to run another.
	again *channels.Channel
}

const branchPrefix = "bump/"

func branchOf(tier, version string) string { return branchPrefix + tier + "/" + version }

// carryOut advances the tier, or proposes to. The caller holds the channel repo.
func (b *Builder) carryOut(ctx context.Context, r *repo.Repo, a advance) (*Advanced, error) {
	out := &Advanced{Tier: a.tier, Version: a.bundle.Version, Manifest: a.bundle.Digest, Retry: a.again != nil}
	var err error
	if a.propose {
		err = b.propose(ctx, r, a, out)
	} else {
		err = b.push(ctx, r, a, out)
	}
	if err != nil {
		return nil, fmt.Errorf("advance %s to %s: %w", a.tier, a.bundle.Version, err)
	}
	// Also what was done before: a builder may have died in between.
	if b.cfg.Channels.Mirror && out.Outcome != OutcomeProposed {
		done, err := b.mirror(ctx, r, []string{a.tier})
		if err != nil {
			return nil, fmt.Errorf("channel %q names version %s, but: %w: nodes that follow the bucket do not see it; builder mirror %s", a.tier, a.bundle.Version, err, a.tier)
		}
		out.Mirror = done.Tiers[0].Outcome
	}
	return out, nil
}

// push writes the channel itself.
func (b *Builder) push(ctx context.Context, r *repo.Repo, a advance, out *Advanced) error {
	var before standing
	var signed *change
	commit, err := r.Push(ctx, author(), func(head *repo.Snapshot) (*repo.Commit, error) {
		signed = nil
		v, st, err := b.decide(ctx, head, a, out)
		if err != nil || out.Outcome == OutcomeAlready {
			return nil, err
		}
		if err := v.unmoved(a, st); err != nil {
			return nil, err
		}
		before = st
		switch {
		case st.fault == nil:
		case st.last != nil && st.last.Trust < v.trust.Version && bytes.Equal(st.doc, st.lastDoc):
			b.log.Info("the state in the channel repo is of an older version of trust; this advance replaces it", "tier", a.tier, "trust", st.last.Trust)
		default:
			b.log.Warn("the state in the channel repo is one that nodes refuse; this advance replaces it", "tier", a.tier, "cause", st.fault)
		}
		if signed, err = b.sign(ctx, v, st, a); err != nil {
			return nil, err
		}
		if several(v.trust, a.tier) {
			return nil, reason.Errorf(reason.Stale, "trust moved to version %d meanwhile, and the channel needs several signatures now: run again, and it is proposed", v.trust.Version)
		}
		return &repo.Commit{Message: b.message(a, st, signed), Files: signed.files}, nil
	})
	if err != nil {
		return err
	}
	out.Commit = commit
	if signed == nil {
		return nil
	}
	out.Outcome, out.Seq, out.Attempt = OutcomeAdvanced, signed.Seq, signed.Attempt
	if err := b.remember(a.tier, signed.doc); err != nil {
		return err
	}
	if out.Remade, err = b.remake(ctx, r, a, before, signed.Attempt); err != nil { // the advance itself is done
		b.log.Warn("open proposals were not made again: promote them again", "tier", a.tier, "cause", err)
	}
	return nil
}

// decide looks at the channel at head and holds the order to the rules. The outcome is
// "already" when there is nothing to do.
func (b *Builder) decide(ctx context.Context, head *repo.Snapshot, a advance, out *Advanced) (*view, standing, error) {
	v, err := b.view(head)
	if err != nil {
		return nil, standing{}, err
	}
	st, err := v.channel(a.tier)
	if err != nil {
		return nil, st, err
	}
	out.Outcome, out.Previous = "", ""
	if st.last != nil { // also when the repo was rewound: it is what nodes run
		out.Previous = st.last.Version
	}
	if a.again == nil && st.runs(v, a.bundle, b.opt.Now()) {
		out.Outcome, out.Seq, out.Attempt = OutcomeAlready, st.state.Seq, st.state.Attempt
		return v, st, nil
	}
	if err := v.allow(a); err != nil {
		return nil, st, err
	}
	// Under the trust of this head, and whole: no channel names a bundle that is not.
	p, err := b.store.Check(ctx, v.trust, a.bundle.Version, a.bundle.Doc)
	if err != nil {
		return nil, st, fmt.Errorf("manifest %s: %w", a.bundle.Digest, err)
	}
	return v, st, b.store.Whole(ctx, p)
}

// allow holds an advance to the rules of fleet and trust.
func (v *view) allow(a advance) error {
	tier, err := v.fleet.Tier(a.tier)
	if err != nil {
		return err
	}
	if err := possible(tier); err != nil {
		return err
	}
	if slices.Contains(v.fleet.Yanked, a.bundle.Version) {
		return reason.Errorf(reason.Policy, "version %s is yanked in %s: promote another, or take it out of the list", a.bundle.Version, fleetFile)
	}
	if v.trust.IsRevoked(a.bundle.Digest) {
		return reason.Errorf(reason.Policy, "manifest %s of version %s is revoked by trust version %d: release under a new version",
			a.bundle.Digest, a.bundle.Version, v.trust.Version)
	}
	if tier.From == "" || a.again != nil {
		return nil
	}
	from, err := v.channel(tier.From)
	if err != nil {
		return err
	}
	same := from.state != nil && from.state.Manifest == a.bundle.Digest
	if same && from.state.Rollout < 100 {
		return reason.Errorf(reason.Policy, "tier %q, which %q follows, is at %s with version %s: promote when it is at 100 %%, or name another version with --version",
			tier.From, a.tier, rollout(from.state.Rollout), a.bundle.Version)
	}
	if a.follow && !same {
		return reason.Errorf(reason.Stale, "channel %q moved meanwhile and does not name version %s any more: nothing was pushed; look and run again",
			tier.From, a.bundle.Version)
	}
	return nil
}

func rollout(percent int) string {
	if percent == 0 {
		return "0 % (halted)"
	}
	return fmt.Sprintf("%d %%", percent)
}

// possible refuses what fleet.toml asks for a tier and this version does not do: a gate
// that is not looked at must not look as if it had opened.
func possible(t channels.Tier) error {
	if !t.Provisioned {
		return reason.Errorf(reason.Policy, "tier %q is not provisioned: set provisioned = true in %s when it has nodes", t.Name, fleetFile)
	}
	if t.BurnIn > 0 || len(t.Nodes) > 0 || t.MinNodes > 0 {
		return reason.Errorf(reason.Config, "tier %q: burn_in, nodes and min_nodes in %s are not in this version; remove them", t.Name, fleetFile)
	}
	return nil
}

// sign makes the next state of the channel.
func (b *Builder) sign(ctx context.Context, v *view, st standing, a advance) (*change, error) {
	key, err := b.channelKey(ctx, v, a.tier)
	if err != nil {
		return nil, err
	}
	return v.next(st, key, b.ordered(a))
}

// ordered is the part of the channel state that the order decides.
func (b *Builder) ordered(a advance) channels.Channel {
	c := channels.Channel{
		App: b.cfg.App, Channel: a.tier, Expires: b.expires(),
		Version: a.bundle.Version, Manifest: a.bundle.Digest, Rollout: 100,
	}
	if a.again != nil { // the same to the same nodes
		c.Attempt, c.Rollout, c.Hotfix = a.again.Attempt+1, a.again.Rollout, a.again.Hotfix
	}
	return c
}

func (b *Builder) channelKey(ctx context.Context, v *view, tier string) (signer, error) {
	const setting = "signing.channel_key"
	s, err := b.keys.open(ctx, setting, b.cfg.Signing.ChannelKey)
	if err != nil {
		return nil, err
	}
	return s, counts(v.trust, v.trust.ChannelRole(tier), s, setting)
}

// message is the commit message of an advance, the audit log.
func (b *Builder) message(a advance, st standing, c *change) string {
	was := "nothing"
	if st.last != nil {
		was = st.last.Version
	}
	what := c.Version
	if a.again != nil {
		what = fmt.Sprintf("%s once more, attempt %d", c.Version, c.Attempt)
	}
	return fmt.Sprintf("%s: %s\n\nApp: %s\nBefore: %s\nManifest: %s\nCommit: %s\nTrust: %d\nSeq: %d\nAttempt: %d\n",
		a.tier, what, b.cfg.App, was, c.Manifest, a.bundle.Source.Commit, c.Trust, c.Seq, c.Attempt)
}

// author is who runs the builder, as the channel repo's history shows it.
func author() repo.Author {
	name, host := "builder", "localhost"
	if u, err := user.Current(); err == nil && u.Username != "" {
		name = u.Username
	}
	if h, err := os.Hostname(); err == nil && h != "" {
		host = h
	}
	clean := func(s string) string {
		return strings.Map(func(r rune) rune {
			if canon.Unprintable(r) || strings.ContainsRune("<> ", r) {
				return '-'
			}
			return r
		}, strings.ToValidUTF8(s, "-"))
	}
	return repo.Author{Name: clean(name), Email: clean(name) + "@" + clean(host)}
}

// propose writes the state to a branch of its own.
func (b *Builder) propose(ctx context.Context, r *repo.Repo, a advance, out *Advanced) error {
	branch := branchOf(a.tier, a.bundle.Version)
	open, err := r.Branches(ctx, branch)
	if err != nil {
		return err
	}
	var signed *change
	commit, err := r.Propose(ctx, author(), branch, func(head *repo.Snapshot) (*repo.Commit, error) {
		signed = nil
		v, st, err := b.decide(ctx, head, a, out)
		if err != nil || out.Outcome == OutcomeAlready {
			return nil, err
		}
		if err := v.unmoved(a, st); err != nil {
			return nil, err
		}
		if c, n := v.proposal(open[branch], a.tier, st); c != nil && b.asked(v, a, c) {
			out.Outcome, out.Seq, out.Attempt = OutcomeProposed, c.Seq, c.Attempt
			out.collect(n)
			return nil, nil
		}
		if signed, err = b.sign(ctx, v, st, a); err != nil {
			return nil, err
		}
		out.collect(signed.count)
		return &repo.Commit{Message: b.message(a, st, signed), Files: signed.files}, nil
	})
	if err != nil || out.Outcome == OutcomeAlready {
		out.Commit = commit
		return err
	}
	out.Branch, out.Commit = branch, commit
	if signed == nil {
		out.Commit = open[branch].Commit
		return nil
	}
	out.Outcome, out.Seq, out.Attempt = OutcomeProposed, signed.Seq, signed.Attempt
	return nil
}

// asked reports whether a proposal asks for the advance already.
func (b *Builder) asked(v *view, a advance, c *channels.Channel) bool {
	if a.again != nil {
		return c.Manifest == a.bundle.Digest && c.Attempt == a.again.Attempt+1 && c.Trust == v.trust.Version && !c.Expired(b.opt.Now())
	}
	return (&standing{state: c}).runs(v, a.bundle, b.opt.Now())
}

// several reports whether one key cannot make a channel state: such a state is proposed,
// because nodes would refuse it until the others have signed.
func several(t *signing.Trust, tier string) bool { return t.Roles[t.ChannelRole(tier)].Threshold > 1 }

// collect notes the signatures of a proposal that one is not enough for.
func (a *Advanced) collect(c Count) {
	if a.Counts = nil; c.Needed > 1 {
		a.Counts = []Count{c}
	}
}

// proposal returns the state that the branch proposes for a tier, if nodes that have
// accepted st would take it once enough have signed it, and how many have; nil otherwise.
func (v *view) proposal(branch *repo.Snapshot, tier string, st standing) (*channels.Channel, Count) {
	if branch == nil {
		return nil, Count{}
	}
	role := v.trust.ChannelRole(tier)
	signed, err := branch.Signed(repo.ChannelFile(tier), v.trust.Kids(role), layout.MaxChannel)
	if err != nil {
		return nil, Count{}
	}
	c, news, err := channels.Accept(single(v.trust, role), v.b.cfg.App, tier, signed, st.lastDoc)
	if err != nil || !news {
		return nil, Count{}
	}
	return c, count(v.trust, role, signed)
}

// remake signs the tier's open proposals anew, since the advance made them older than
// what the tier runs. Only those are open that nodes would have taken before the
// advance: whoever can write the repo could bring back an old branch, and must not get
// a new signature for it.
func (b *Builder) remake(ctx context.Context, r *repo.Repo, a advance, before standing, attempt int64) ([]string, error) {
	branches, err := r.Branches(ctx, branchPrefix+a.tier+"/")
	if err != nil {
		return nil, err
	}
	var remade []string
	for _, name := range slices.Sorted(maps.Keys(branches)) {
		done, err := b.remakeOne(ctx, r, a, before, attempt, name, branches[name])
		if err != nil {
			return remade, fmt.Errorf("proposal %q: %w", name, err)
		}
		if done {
			remade = append(remade, name)
		}
	}
	return remade, nil
}

// remakeOne reports whether it signed the proposal anew.
func (b *Builder) remakeOne(ctx context.Context, r *repo.Repo, a advance, before standing, attempt int64, name string, branch *repo.Snapshot) (bool, error) {
	head, err := r.Fetch(ctx, "")
	if err != nil {
		return false, err
	}
	v, err := b.view(head)
	if err != nil {
		return false, err
	}
	var c *channels.Channel
	if before.lastDoc != nil { // without a counter nothing is known to be new
		c, _ = v.proposal(branch, a.tier, before)
	}
	if name == branchOf(a.tier, a.bundle.Version) && (c == nil || c.Attempt <= attempt) {
		b.log.Info("this advance did what a proposal asks for; its branch is deleted", "branch", name)
		return false, r.Delete(ctx, name)
	}
	if c == nil || branchOf(a.tier, c.Version) != name {
		merged, err := r.Merged(ctx, branch.Commit, head)
		if err == nil && !merged {
			b.log.Warn("proposal is older than the channel and stays so: promote again, or delete the branch", "branch", name)
		}
		return false, err
	}
	return b.renew(ctx, r, a.tier, name, c)
}

// refusal is the exit code of reasons that waiting does not mend.
const refusal = 3

// stillGood returns the bundle that a proposal names, if it may be promoted now.
func (b *Builder) stillGood(ctx context.Context, v *view, a advance, c *channels.Channel) (p *bundle.Published, err error) {
	if p, err = b.store.Must(ctx, v.trust, c.Version); err != nil {
		return nil, err
	}
	if p.Digest != c.Manifest {
		return nil, reason.Errorf(reason.Mismatch, "it names manifest %s, the version has %s", c.Manifest, p.Digest)
	}
	a.bundle = p
	return p, v.allow(a)
}

// renew proposes what c says again, on top of the newest state.
func (b *Builder) renew(ctx context.Context, r *repo.Repo, tier, name string, c *channels.Channel) (bool, error) {
	var refused error
	_, err := r.Propose(ctx, author(), name, func(head *repo.Snapshot) (*repo.Commit, error) {
		v, err := b.view(head)
		if err != nil {
			return nil, err
		}
		a := advance{tier: tier}
		if a.bundle, err = b.stillGood(ctx, v, a, c); reason.Of(err).Exit() == refusal {
			refused = err
			return nil, nil
		}
		if err != nil {
			return nil, err
		}
		st, err := v.channel(tier)
		if err != nil {
			return nil, err
		}
		key, err := b.channelKey(ctx, v, tier)
		if err != nil {
			return nil, err
		}
		again := b.ordered(a)
		again.Attempt, again.Rollout, again.Hotfix = max(c.Attempt, st.attempt()), c.Rollout, c.Hotfix
		signed, err := v.next(st, key, again)
		if err != nil {
			return nil, err
		}
		return &repo.Commit{Message: b.message(a, st, signed), Files: signed.files}, nil
	})
	if refused != nil && err == nil {
		b.log.Warn("proposal was not made again: promote again, or delete the branch", "branch", name, "cause", refused)
		return false, nil
	}
	return err == nil, err
}
