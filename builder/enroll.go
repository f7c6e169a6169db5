package builder

import (
	"context"
	"fmt"
	"strings"

	"makenot.work/sando/builder/enroll"
	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
)

// EnrollRequest says which node is to be enrolled.
type EnrollRequest struct {
	Node, Tier string
	Record     bool     // in fleet.toml
	Storage    string   // URL for nodes, where it is not storage.url
	Channels   string   // URL for nodes, where it is not channels.repo; enroll.Bucket: the mirror
	Rest       []string // flags for the node's own command line
}

// Enrolled is what makes a node of a machine.
type Enrolled struct {
	App         string        `json:"app"`
	Node        string        `json:"node"`
	Tier        string        `json:"tier"`
	Line        string        `json:"line"`               // for a shell
	Words       []string      `json:"words"`              // the same, a word each
	Trust       int64         `json:"trust"`              // version of the anchor that the line names
	Fingerprint layout.Digest `json:"fingerprint"`        // of it
	MinSeq      int64         `json:"min_seq,omitempty"`  // 0: nothing was promoted to the tier yet
	Previous    string        `json:"previous,omitempty"` // tier that fleet.toml had the node in, where that was another
	Outcome     string        `json:"outcome,omitempty"`  // OutcomeRecorded or OutcomeAlready; empty: not asked for
	Commit      string        `json:"commit,omitempty"`   // of the channel repo that has the record
	Notes       []string      `json:"notes,omitempty"`    // what a person should know before the line is run
}

// OutcomeRecorded says that fleet.toml was changed.
const OutcomeRecorded = "recorded"

// Enroll returns the command line that makes a node of a machine, and records the node in
// fleet.toml if asked to. It signs nothing. Errors have the reason "config" for a
// malformed node and a tier that fleet.toml does not have, and those of reading and
// writing the channel repo.
func (b *Builder) Enroll(ctx context.Context, req EnrollRequest) (*Enrolled, error) {
	if err := layout.CheckNode(req.Node); err != nil {
		return nil, reason.Wrap(reason.Config, err)
	}
	line, err := b.line(req)
	if err != nil {
		return nil, err
	}
	var out *Enrolled
	err = b.withChannels(ctx, "enroll "+req.Node, func(r *repo.Repo) error {
		head, err := r.Fetch(ctx, "")
		if err != nil {
			return err
		}
		v, err := b.view(head)
		if err != nil {
			return err
		}
		if out, err = v.enroll(ctx, req, line); err != nil || !req.Record {
			return err
		}
		return b.recordNode(ctx, r, channels.Node{Name: req.Node, Tier: req.Tier}, out)
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// line returns what the configuration and the request say of the line.
func (b *Builder) line(req EnrollRequest) (enroll.Line, error) {
	l := enroll.Line{App: b.cfg.App, Tier: req.Tier, Node: req.Node, Storage: b.cfg.bucket(), Channels: b.cfg.repo(), Rest: req.Rest}
	if req.Storage != "" {
		l.Storage.URL = req.Storage
		if !strings.HasPrefix(req.Storage, "s3:") {
			l.Storage = bucket.Config{URL: req.Storage}
		}
		c := l.Storage
		c.Anonymous, c.AccessKeyFile, c.SecretKeyFile = true, "", ""
		if err := c.Check(); err != nil {
			return l, fmt.Errorf("--storage: %w", err)
		}
	}
	switch req.Channels {
	case "":
	case enroll.Bucket:
		l.Channels = repo.Config{URL: enroll.Bucket}
	default:
		l.Channels = repo.Config{URL: req.Channels, Branch: b.cfg.Channels.Branch, Path: b.cfg.Channels.Path}
		c := l.Channels
		if strings.HasPrefix(c.URL, "ssh:") { // the node's, which are not known here
			c.SSHKey, c.KnownHosts = "key", "hosts"
		}
		if err := repo.Check(c); err != nil {
			return l, fmt.Errorf("--channels: %w", err)
		}
	}
	return l, nil
}

// enroll completes the line with what the channel repo knows.
func (v *view) enroll(ctx context.Context, req EnrollRequest, l enroll.Line) (*Enrolled, error) {
	tier, err := v.fleet.Tier(req.Tier)
	if err != nil {
		return nil, err
	}
	out := &Enrolled{App: v.b.cfg.App, Node: req.Node, Tier: req.Tier, Trust: v.trust.Version}
	note := func(format string, args ...any) { out.Notes = append(out.Notes, fmt.Sprintf(format, args...)) }
	if !tier.Provisioned {
		note("tier %q is not provisioned: nothing is promoted to it before fleet.toml says otherwise", tier.Name)
	}
	if was, there := v.fleet.Node(req.Node); there && was.Tier != req.Tier {
		if out.Previous = was.Tier; !req.Record {
			note("fleet.toml has %s in tier %q: with --record it says %q", req.Node, was.Tier, req.Tier)
		}
	}
	doc, err := v.trust.Encode()
	if err != nil {
		return nil, err
	}
	out.Fingerprint = layout.Sum(doc)
	st, err := v.channel(tier.Name)
	if err != nil {
		return nil, err
	}
	if st.fault != nil {
		note("nodes refuse what the channel repo has for tier %q: %s", tier.Name, st.fault)
	}
	if st.fault == nil && st.last == nil && tier.Provisioned {
		next := "builder promote " + tier.Name
		if tier.From == "" {
			next = "builder release"
		}
		note("nothing was promoted to tier %q yet: the node waits for %s, and the line has no --min-seq", tier.Name, next)
	}
	out.MinSeq = v.minSeq(st)
	l.Fingerprint, l.MinSeq = out.Fingerprint, out.MinSeq
	if out.Words, err = l.Words(); err != nil {
		return nil, err
	}
	out.Line = enroll.Quote(out.Words)
	out.Notes = append(out.Notes, l.Notes()...)
	return out, v.available(ctx, l, out.Fingerprint, note)
}

// minSeq returns the counter that a fresh node need not believe less than; 0 when there
// is none. Under a newer trust than the newest state's the counter starts again from the
// clock, so one that somebody drove ahead of it must not hold there.
func (v *view) minSeq(st standing) int64 {
	switch c := st.last; {
	case c == nil:
		return 0
	case c.Trust < v.trust.Version:
		return min(c.Seq, v.b.opt.Now().UnixMilli())
	default:
		return c.Seq
	}
}

// available notes when the trust that the line names is not where the node will look for
// it.
func (v *view) available(ctx context.Context, l enroll.Line, fingerprint layout.Digest, note func(string, ...any)) error {
	const byHand = "copy %s to the node, and give -- --trust FILE"
	if l.Channels.URL != enroll.Bucket {
		doc, err := v.snap.Read(repo.TrustFile(v.trust.Version), layout.MaxTrust)
		if err != nil && !missing(err) {
			return err
		}
		if layout.Sum(doc) != fingerprint {
			note("the channel repo does not have trust version %d as this builder has it: "+byHand, v.trust.Version, v.b.cfg.Signing.Trust)
		}
		return nil
	}
	doc, err := bucket.ReadAll(ctx, v.b.store.Bucket, layout.TrustKey(v.b.cfg.App, v.trust.Version), layout.MaxTrust)
	if err != nil && !missing(err) {
		return err
	}
	if layout.Sum(doc) != fingerprint {
		note("trust version %d is not in the bucket yet: run builder mirror before the node is made", v.trust.Version)
	}
	if !v.b.cfg.Channels.Mirror {
		note("builder.toml has no channels.mirror = true: the node sees what is promoted only after builder mirror")
	}
	return nil
}

// recordNode enters the node in fleet.toml.
func (b *Builder) recordNode(ctx context.Context, r *repo.Repo, n channels.Node, out *Enrolled) error {
	commit, err := r.Push(ctx, author(), func(head *repo.Snapshot) (*repo.Commit, error) {
		v, err := b.view(head)
		if err != nil {
			return nil, err
		}
		if was, there := v.fleet.Node(n.Name); there && was == n {
			out.Outcome = OutcomeAlready
			return nil, nil
		}
		text, err := head.Read(fleetFile, channels.MaxFleet)
		if err != nil {
			return nil, err
		}
		if text, err = channels.SetNode(text, n); err != nil {
			return nil, err
		}
		out.Outcome = OutcomeRecorded
		return &repo.Commit{Message: fmt.Sprintf("enroll %s into tier %s", n.Name, n.Tier), Files: map[string][]byte{fleetFile: text}}, nil
	})
	if err != nil {
		return fmt.Errorf("record %s in %s: %w", n.Name, fleetFile, err)
	}
	out.Commit = commit
	return nil
}

// Tiers returns the names of the tiers of fleet.toml.
func (b *Builder) Tiers(ctx context.Context) (names []string, err error) {
	err = b.withChannels(ctx, "look at fleet.toml", func(r *repo.Repo) error {
		head, err := r.Fetch(ctx, "")
		if err != nil {
			return err
		}
		v, err := b.view(head)
		if err != nil {
			return err
		}
		for _, t := range v.fleet.Tiers {
			names = append(names, t.Name)
		}
		return nil
	})
	return names, err
}
