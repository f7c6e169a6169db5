package builder

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"

	"makenot.work/sando/builder/candidate"
	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// Outcomes of adding a signature.
const (
	OutcomeSigned = "signed" // the signature is there now
	OutcomePushed = "pushed" // a version of trust is in the channel repo now
)

// Signed is a document to which a signature was added.
type Signed struct {
	Kind    string        `json:"kind"` // "manifest", "channel", "trust"
	App     string        `json:"app"`
	Outcome string        `json:"outcome"`
	Version string        `json:"version,omitempty"` // of the app: of a manifest, or that a channel names
	Tier    string        `json:"tier,omitempty"`
	Trust   int64         `json:"trust"` // version that it is, that a channel says, or that a manifest was held to
	Seq     int64         `json:"seq,omitempty"`
	Digest  layout.Digest `json:"digest"`            // of the bytes that were signed
	Key     string        `json:"key,omitempty"`     // kid
	Place   string        `json:"place"`             // of the signature: object, file or path in the channel repo
	Branch  string        `json:"branch,omitempty"`  // of the channel repo
	Commit  string        `json:"commit,omitempty"`  // of the channel repo
	Changes []string      `json:"changes,omitempty"` // that a version of trust makes
	Counts  []Count       `json:"counts"`
	Older   []Older       `json:"older,omitempty"` // tiers to promote again, once a version of trust is pushed
}

// Older is what a tier names by a state of an older version of trust than the newest.
type Older struct {
	Tier    string `json:"tier"`
	Version string `json:"version"`
	Trust   int64  `json:"trust"`
}

// Count is how many signatures a document has of those that a role needs.
type Count struct {
	Role   string `json:"role"`
	Trust  int64  `json:"trust"` // version that has the role
	Signed int    `json:"signed"`
	Needed int    `json:"needed"`
}

// Complete reports whether nothing is missing.
func (s *Signed) Complete() bool {
	return !slices.ContainsFunc(s.Counts, func(c Count) bool { return c.Signed < c.Needed })
}

func count(t *signing.Trust, role string, s signing.Signed) Count {
	return Count{role, t.Version, len(t.Signers(role, s)), t.Roles[role].Threshold}
}

// single returns t with one signature being enough for role: to look at a document whose
// signatures are being collected, never to have it count.
func single(t *signing.Trust, role string) *signing.Trust {
	one := *t
	one.Roles = maps.Clone(t.Roles)
	r := one.Roles[role]
	r.Threshold = 1
	one.Roles[role] = r
	return &one
}

// newestTrust returns the newest trust of the channel repo.
func (b *Builder) newestTrust(ctx context.Context, what string) (t *signing.Trust, err error) {
	err = b.withChannels(ctx, what, func(r *repo.Repo) error {
		head, err := r.Fetch(ctx, "")
		if err != nil {
			return err
		}
		t, err = b.trust(head)
		return err
	})
	return t, err
}

// SignManifest adds a signature to the manifest of a published version, written
// VERSION or VERSION@sha256:DIGEST, by the key in the file, or the release key when that
// is empty. Without a digest a key that counts now must have signed it before: what is in
// a bucket is not signed on the bucket's word. Errors have the reason "signature" for
// that and for a key that would not count, "policy" for a revoked manifest, and those of
// what is missing in the bucket.
func (b *Builder) SignManifest(ctx context.Context, what, keyFile string) (*Signed, error) {
	version, digest, named := strings.Cut(what, "@")
	if err := layout.CheckVersion(version); err != nil {
		return nil, reason.Wrap(reason.Config, err)
	}
	if named {
		if err := layout.Digest(digest).Check(); err != nil {
			return nil, reason.Wrap(reason.Config, err)
		}
	}
	t, err := b.newestTrust(ctx, "sign "+version)
	if err != nil {
		return nil, err
	}
	key, err := b.signingKey(ctx, t, signing.RoleRelease, "signing.release_key", b.cfg.Signing.ReleaseKey, keyFile)
	if err != nil {
		return nil, err
	}
	p, err := b.store.Read(ctx, t, version)
	if err != nil {
		return nil, err
	}
	if named && p.Digest != layout.Digest(digest) {
		return nil, reason.Errorf(reason.Mismatch, "version %s has the manifest %s in the bucket, not %s", version, p.Digest, digest)
	}
	if !named && len(t.Signers(signing.RoleRelease, p.Signed())) == 0 {
		return nil, reason.Errorf(reason.Signature, "no key of role %q in trust version %d has signed manifest %s of version %s: it may be forged, or a key signed it that is not in trust any more; "+
			"compare the digest with one that you know, such as that of a node that runs it, and name it: builder sign %s@%s",
			signing.RoleRelease, t.Version, p.Digest, version, version, p.Digest)
	}
	if t.IsRevoked(p.Digest) {
		return nil, reason.Errorf(reason.Policy, "manifest %s of version %s is revoked by trust version %d: release under a new version", p.Digest, version, t.Version)
	}
	if err := b.store.Whole(ctx, p); err != nil {
		return nil, err
	}
	out := &Signed{Kind: "manifest", App: b.cfg.App, Outcome: OutcomeSigned, Version: version, Trust: t.Version, Digest: p.Digest,
		Key: key.Public().Kid(), Place: b.store.Key(version, layout.ManifestSignature(p.Digest, key.Public().Kid()))}
	fresh, err := b.store.Sign(ctx, p, key)
	if err != nil {
		return nil, err
	}
	if !fresh {
		out.Outcome = OutcomeAlready
	}
	out.Counts = []Count{count(t, signing.RoleRelease, p.Signed())}
	return out, nil
}

// signingKey opens the key in file, or the one of the configuration when that is empty,
// and refuses one that does not count for role.
func (b *Builder) signingKey(ctx context.Context, t *signing.Trust, role, setting, configured, file string) (signer, error) {
	if file != "" {
		setting, configured = "--key", file
	}
	s, err := b.keys.open(ctx, setting, configured)
	if err != nil {
		return nil, err
	}
	return s, counts(t, role, s, setting)
}

// SignTrust adds the signature of a root key to a candidate for the next version of
// trust, beside the file. It needs no builder: root keys are where there is none.
func SignTrust(ctx context.Context, file, keyFile string, opt Options) (*Signed, error) {
	c, err := candidate.Load(file)
	if err != nil {
		return nil, err
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	ring := keyring{ask: opt.Passphrase, log: opt.Log}
	key, err := ring.open(ctx, "--key", keyFile)
	if err != nil {
		return nil, err
	}
	place, fresh, err := c.Sign(key)
	if err != nil {
		return nil, err
	}
	out := trustSigned(c)
	out.Key, out.Place = key.Public().Kid(), place
	if !fresh {
		out.Outcome = OutcomeAlready
	}
	return out, nil
}

func trustSigned(c *candidate.Candidate) *Signed {
	out := &Signed{Kind: "trust", App: c.App, Outcome: OutcomeSigned, Trust: c.Version, Digest: layout.Sum(c.Signed.Doc), Changes: c.Changes()}
	if c.Before != nil {
		out.Counts = append(out.Counts, count(c.Before, signing.RoleRoot, c.Signed))
	}
	out.Counts = append(out.Counts, count(c.Trust, signing.RoleRoot, c.Signed))
	return out
}

// PushTrust puts a candidate with the signatures that lie beside it into the channel repo,
// if it is what follows there. One that lacks signatures is refused (reason
// "signature"): it would keep everybody from accepting anything new.
func (b *Builder) PushTrust(ctx context.Context, file string) (*Signed, error) {
	c, err := candidate.Load(file)
	if err != nil {
		return nil, err
	}
	out := trustSigned(c)
	out.Outcome, out.Place, out.Branch = OutcomePushed, repo.TrustFile(c.Version), b.cfg.Channels.Branch
	err = b.withChannels(ctx, "push trust", func(r *repo.Repo) error {
		var push *repo.Commit
		out.Commit, err = r.Push(ctx, author(), func(head *repo.Snapshot) (*repo.Commit, error) {
			push, err = b.trustCommit(head, c)
			return push, err
		})
		if err != nil {
			return err
		}
		if push == nil {
			out.Outcome = OutcomeAlready
		}
		out.Older, err = b.older(ctx, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// older returns the tiers whose states say an older version of trust than the newest.
func (b *Builder) older(ctx context.Context, r *repo.Repo) ([]Older, error) {
	head, err := r.Fetch(ctx, "")
	if err != nil {
		return nil, err
	}
	v, err := b.view(head)
	if err != nil {
		return nil, err
	}
	var out []Older
	for _, t := range v.fleet.Tiers {
		st, err := v.channel(t.Name)
		if err != nil {
			return nil, err
		}
		c := st.last
		if c == nil { // never seen here, and by a key that is gone, perhaps
			if c, err = channels.ParseChannel(st.doc); err != nil {
				continue // none, or none that names a version
			}
		}
		if c.Trust < v.trust.Version {
			out = append(out, Older{t.Name, c.Version, c.Trust})
		}
	}
	return out, nil
}

// trustCommit returns what brings the candidate into the channel repo; nil when it is
// there.
func (b *Builder) trustCommit(head *repo.Snapshot, c *candidate.Candidate) (*repo.Commit, error) {
	place := repo.TrustFile(c.Version)
	there, err := head.Signed(place, slices.Sorted(maps.Keys(c.Signed.Sigs)), layout.MaxTrust)
	if err != nil && !missing(err) {
		return nil, err
	}
	held, err := head.Walk(b.anchor, nil)
	// What is there and does not hold is what may have to be replaced.
	if err != nil && held.Version != c.Version-1 {
		return nil, fmt.Errorf("channel repo: %w", err)
	}
	commit := &repo.Commit{Message: fmt.Sprintf("trust %d\n\nApp: %s\nDigest: %s\n", c.Version, c.App, layout.Sum(c.Signed.Doc)), Files: map[string][]byte{place: c.Signed.Doc}}
	switch same := string(there.Doc) == string(c.Signed.Doc); {
	case held.Version == c.Version-1:
		if _, err := channels.Step(held, c.Signed); err != nil {
			return nil, fmt.Errorf("nodes would refuse it: %w", err)
		}
	case same: // a signature may have come since
	case held.Version >= c.Version:
		return nil, reason.Errorf(reason.Mismatch, "the channel repo has another %s: make the next version, %d", place, held.Version+1)
	default:
		return nil, reason.Errorf(reason.Mismatch, "the channel repo is at version %d of trust: version %d comes next", held.Version, held.Version+1)
	}
	news := string(there.Doc) != string(c.Signed.Doc)
	for kid, sig := range c.Signed.Sigs {
		commit.Files[signing.SignatureFile(place, kid)] = sig
		have := signing.Signed{Doc: c.Signed.Doc, Sigs: signing.Signatures{kid: there.Sigs[kid]}}
		news = news || len(good(have, c.Trust).Sigs) == 0 && (c.Before == nil || len(good(have, c.Before).Sigs) == 0)
	}
	if !news {
		return nil, nil
	}
	return commit, nil
}
