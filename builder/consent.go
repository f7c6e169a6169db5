package builder

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// ConsentRequest says which channel state to add a signature to.
type ConsentRequest struct {
	Tier   string
	Branch string // of a proposal; "": the state that is merged
	Key    string // file; "": the channel key of the configuration
}

// SignChannel adds a signature to a channel state in the channel repo: to a proposal, or
// to what is merged. A state that is not what the tier runs is held to the rules of
// Promote, since who signs it wants it, and a key that counts now must have signed it
// before. Errors are those of Promote; "signature" for a state that nobody signed or a
// key that does not count, "stale" for a proposal that is not there or is overtaken.
func (b *Builder) SignChannel(ctx context.Context, req ConsentRequest) (out *Signed, err error) {
	if err := layout.CheckTier(req.Tier); err != nil {
		return nil, reason.Wrap(reason.Config, err)
	}
	err = b.withChannels(ctx, "sign "+req.Tier, func(r *repo.Repo) error {
		out, err = b.consent(ctx, r, req)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("channel %q: %w", req.Tier, err)
	}
	return out, nil
}

func (b *Builder) consent(ctx context.Context, r *repo.Repo, req ConsentRequest) (*Signed, error) {
	head, err := r.Fetch(ctx, "")
	if err != nil {
		return nil, err
	}
	v, err := b.view(head)
	if err != nil {
		return nil, err
	}
	role, file := v.trust.ChannelRole(req.Tier), repo.ChannelFile(req.Tier)
	key, err := b.signingKey(ctx, v.trust, role, "signing.channel_key", b.cfg.Signing.ChannelKey, req.Key)
	if err != nil {
		return nil, err
	}
	at := head
	if req.Branch != "" {
		if at, err = proposed(ctx, r, req); err != nil {
			return nil, err
		}
	}
	s, err := at.Signed(file, v.trust.Kids(role), layout.MaxChannel)
	if missing(err) {
		return nil, reason.Errorf(reason.Stale, "there is no %s in the channel repo: builder promote %s makes one", file, req.Tier)
	}
	if err != nil {
		return nil, err
	}
	c, err := v.consentable(ctx, req, s)
	if err != nil {
		return nil, err
	}
	kid := key.Public().Kid()
	out := &Signed{Kind: "channel", App: b.cfg.App, Outcome: OutcomeAlready, Version: c.Version, Tier: c.Channel, Trust: c.Trust, Seq: c.Seq,
		Digest: layout.Sum(s.Doc), Key: kid, Place: signing.SignatureFile(file, kid), Branch: req.Branch, Commit: at.Commit}
	if out.Branch == "" {
		out.Branch = b.cfg.Channels.Branch
	}
	if v.trust.VerifyBy(kid, s) != nil {
		if s.Sigs[kid], err = key.Sign(s.Doc); err != nil {
			return nil, err
		}
		out.Outcome = OutcomeSigned
		if out.Commit, err = b.addSignature(ctx, r, req, s, out); err != nil {
			return nil, err
		}
	}
	out.Counts = []Count{count(v.trust, role, s)}
	if b.cfg.Channels.Mirror && req.Branch == "" && out.Complete() {
		if _, err := b.mirror(ctx, r, []string{req.Tier}); err != nil {
			return nil, fmt.Errorf("it is signed, but: %w", err)
		}
	}
	return out, nil
}

// proposed returns the branch of a proposal.
func proposed(ctx context.Context, r *repo.Repo, req ConsentRequest) (*repo.Snapshot, error) {
	open, err := r.Branches(ctx, branchPrefix+req.Tier+"/")
	if err != nil {
		return nil, err
	}
	if at := open[req.Branch]; at != nil {
		return at, nil
	}
	names := "none is open"
	if len(open) > 0 {
		names = "open are " + strings.Join(slices.Sorted(maps.Keys(open)), ", ")
	}
	return nil, reason.Errorf(reason.Stale, "there is no proposal %q: %s; builder promote %s --propose makes one", req.Branch, names, req.Tier)
}

// consentable returns the state that s holds, if it may get another signature.
func (v *view) consentable(ctx context.Context, req ConsentRequest, s signing.Signed) (*channels.Channel, error) {
	st, err := v.channel(req.Tier)
	if err != nil {
		return nil, err
	}
	if req.Branch == "" && bytes.Equal(s.Doc, st.lastDoc) {
		return st.last, nil // this builder took it as a node does: a key is added, and nothing else changes
	}
	role := v.trust.ChannelRole(req.Tier)
	c, news, err := channels.Accept(single(v.trust, role), v.b.cfg.App, req.Tier, s, st.lastDoc)
	if len(v.trust.Signers(role, s)) == 0 {
		return nil, reason.Errorf(reason.Signature, "no key of role %q in trust version %d has signed the state: nothing says that a promoter wants it; builder promote %s signs a new one",
			role, v.trust.Version, req.Tier)
	}
	if err != nil {
		return nil, fmt.Errorf("it is not signed: %w", err)
	}
	if !news {
		return nil, reason.Errorf(reason.Stale, "the tier runs it already: builder sign --channel %s, without --branch", req.Tier)
	}
	if _, err := v.b.stillGood(ctx, v, advance{tier: req.Tier}, c); err != nil {
		return nil, err
	}
	return c, nil
}

// addSignature commits the signature and nothing else, on top of the state it is for.
func (b *Builder) addSignature(ctx context.Context, r *repo.Repo, req ConsentRequest, s signing.Signed, out *Signed) (commit string, err error) {
	to := r
	if req.Branch != "" {
		cfg := b.cfg.repo()
		cfg.Branch = req.Branch
		if to, err = repo.Open(b.state("channels.git"), cfg); err != nil {
			return "", err
		}
		defer func() {
			if cerr := to.Close(); err == nil {
				err = cerr
			}
		}()
	}
	return to.Push(ctx, author(), func(head *repo.Snapshot) (*repo.Commit, error) {
		doc, err := head.Read(repo.ChannelFile(req.Tier), layout.MaxChannel)
		if err != nil {
			return nil, err
		}
		if !bytes.Equal(doc, s.Doc) {
			return nil, reason.Errorf(reason.Stale, "it moved meanwhile and names %s now: nothing was pushed; look and run again", describe(doc))
		}
		return &repo.Commit{
			Message: fmt.Sprintf("%s: %s, signed by %.16s\n\nApp: %s\nSeq: %d\nDigest: %s\n", req.Tier, out.Version, out.Key, b.cfg.App, out.Seq, out.Digest),
			Files:   map[string][]byte{out.Place: s.Sigs[out.Key]},
		}, nil
	})
}
