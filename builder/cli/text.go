package cli

import (
	"fmt"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"makenot.work/sando/builder"
	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/internal/cli"
)

func (p *program) printf(format string, args ...any) {
	fmt.Fprint(p.std.Out, cli.Printable(fmt.Sprintf(format, args...)))
}

// table prints lines of cells, aligned.
func (p *program) table(lines [][]string) {
	w := tabwriter.NewWriter(p.std.Out, 0, 0, 2, ' ', 0)
	for _, cells := range lines {
		fmt.Fprintln(w, cli.Printable("  "+strings.Join(cells, "\t")))
	}
	w.Flush()
}

func (p *program) printInit(m *builder.Initialized) {
	p.printf("made a builder for %s in %s\n\n", m.App, m.Dir)
	p.table([][]string{
		{"builder.toml", "its configuration"},
		{"keys/", "private keys (.key), sealed with the passphrase, and public ones (.pub)"},
		{"keys/trust.json", "the anchor of trust, the same file for every node"},
		{"channels.git", "the channel repo, tiers " + strings.Join(m.Tiers, ", ")},
		{"bucket", "where bundles are published"},
	})
	p.printf("\ntrust fingerprint  %s\n\nNext\n", m.Fingerprint)
	p.printf("  1. Take keys/root-1.key and keys/root-2.key off this machine, to two places. They can\n" +
		"     replace every other key, and are needed for nothing else. One of them is enough.\n")
	p.printf("  2. Edit %s: [source], [build], [[release_contents]].\n", m.Config)
	p.printf("  3. In %s: builder release publishes a version, and tier %s has it.\n", m.Dir, m.Tiers[0])
	if len(m.Tiers) > 1 {
		p.printf("     builder promote %s takes it on to tier %s, and so on from tier to tier.\n", m.Tiers[1], m.Tiers[1])
	}
	p.printf("  4. In %s: builder enroll NODE --tier TIER prints the command that makes a machine a\n"+
		"     node, with the fingerprint above; run it there, as root.\n", m.Dir)
	p.printf("     For nodes on other machines, bucket and channel repo go elsewhere: docs/quickstart.md.\n")
	p.printf("\nThis machine has the release key and the channel key, so it both builds and promotes, and\n" +
		"who takes it over can do both. docs/trust.md says how to part them.\n")
}

func (p *program) printRelease(cfg *builder.Config, r *builder.Released) {
	switch {
	case r.Outcome == builder.OutcomePublished:
		p.printf("published %s %s from commit %.12s\n", r.App, r.Version, r.Commit)
	case r.From != "":
		p.printf("%s %s stands: it was published from commit %.12s, and commit %.12s gives the same content\n", r.App, r.Version, r.From, r.Commit)
	default:
		p.printf("%s %s stands: it was published from commit %.12s already\n", r.App, r.Version, r.Commit)
	}
	for _, b := range r.Bundles {
		p.printf("\n%s  %s packed, %s unpacked, %d %s\n", b.Platform, cli.Size(b.Size), cli.Size(b.Unpacked), b.Entries, plural(b.Entries, "entry", "entries"))
		var lines [][]string
		for _, c := range b.Contents {
			lines = append(lines, []string{c.Dst, fmt.Sprintf("%d %s", c.Files, plural(c.Files, "file", "files")), cli.Size(c.Bytes), "from " + c.Src})
		}
		p.table(lines)
	}
	p.printf("\nmanifest  %s\n", r.Manifest)
	for _, c := range r.Channels {
		p.printAdvance(cfg, c)
	}
	if len(r.Channels) == 0 {
		p.printf("no tier was advanced: builder promote TIER --version %s does it\n", r.Version)
	}
}

func plural(n int64, one, more string) string {
	if n == 1 {
		return one
	}
	return more
}

// printAdvance says what became of a tier, and how to go on.
func (p *program) printAdvance(cfg *builder.Config, a builder.Advanced) {
	was := a.Previous
	if was == "" {
		was = "nothing"
	}
	switch a.Outcome {
	case builder.OutcomeAlready:
		p.printf("%s names %s already\n", a.Tier, a.Version)
	case builder.OutcomeProposed:
		p.printf("proposed %s: %s, branch %s\n", a.Tier, advanced(was, a), a.Branch)
		for _, c := range a.Counts {
			p.printf("  signatures: %d of %d that role %s needs", c.Signed, c.Needed, c.Role)
			if c.Signed < c.Needed {
				p.printf("; before it is merged, where another key is: builder sign --channel %s --branch %s", a.Tier, a.Branch)
			}
			p.printf("\n")
		}
		p.printMerge(cfg, a.Branch)
	default:
		p.printf("advanced %s: %s\n", a.Tier, advanced(was, a))
	}
	if a.Retry {
		p.printf("  nodes that blocked it try once more\n")
	}
	if a.Mirror != "" {
		p.printf("  mirror in the bucket: %s\n", a.Mirror)
	}
	for _, branch := range a.Remade {
		p.printf("  signed anew, since it was older than that: %s\n", branch)
	}
}

// advanced says what a tier names now, or would.
func advanced(was string, a builder.Advanced) string {
	if a.Retry {
		return fmt.Sprintf("%s once more, attempt %d", a.Version, a.Attempt)
	}
	return was + " -> " + a.Version
}

func (p *program) printMerge(cfg *builder.Config, branch string) {
	main := cfg.Channels.Branch
	url := cfg.Channels.Repo // may name a user, which ssh needs, and has no password
	name := strings.TrimSuffix(filepath.Base(url), ".git")
	p.printf("\nMerging it promotes. Open a pull request from %s to %s, or\n\n", branch, main)
	p.printf("  git clone --branch %s '%s' %s && cd %s\n", main, url, name, name)
	p.printf("  git merge --no-ff -m 'Merge %s' origin/%s && git push origin %s\n", branch, branch, main)
	p.printf("\nIf it conflicts, the channel moved meanwhile: promote again.\n")
}

// printSigned says what was signed, and what is missing.
func (p *program) printSigned(s *builder.Signed) {
	what := map[string]string{
		"manifest": fmt.Sprintf("manifest of %s %s", s.App, s.Version),
		"channel":  fmt.Sprintf("channel %s of %s: %s (trust %d, seq %d)", s.Tier, s.App, s.Version, s.Trust, s.Seq),
		"trust":    fmt.Sprintf("trust version %d of %s", s.Trust, s.App),
	}[s.Kind]
	switch s.Outcome {
	case builder.OutcomeSigned:
		p.printf("signed %s\n", what)
	case builder.OutcomePushed:
		p.printf("pushed %s\n", what)
	default:
		p.printf("%s has all of this already\n", what)
	}
	for _, change := range s.Changes {
		p.printf("  %s\n", change)
	}
	lines := [][]string{{"digest", string(s.Digest)}}
	if s.Key != "" {
		lines = append(lines, []string{"key", s.Key})
	}
	if s.Branch != "" {
		lines = append(lines, []string{"branch", s.Branch})
	}
	lines = append(lines, []string{"place", s.Place})
	for _, c := range s.Counts {
		lines = append(lines, []string{"signatures", fmt.Sprintf("%d of %d that role %s of trust version %d needs", c.Signed, c.Needed, c.Role, c.Trust)})
	}
	p.table(lines)
	switch {
	case !s.Complete():
		p.printf("It does not count yet: run builder sign where another key of the role is.\n")
	case s.Kind == "trust" && s.Outcome == builder.OutcomeSigned:
		p.printf("It is complete: builder sign --trust %s --push puts it into the channel repo.\n", filepath.Join(filepath.Dir(s.Place), fmt.Sprintf("%d.json", s.Trust)))
	case s.Kind == "trust" && len(s.Older) == 0:
		p.printf("Every tier's state is signed under this trust.\n")
	case s.Kind == "trust":
		p.printf("Promote these tiers again: their states are signed under an older trust, and nodes refuse those\n" +
			"that were signed by a key which is gone.\n")
		for _, o := range s.Older {
			p.printf("  builder promote %s --version %s\n", o.Tier, o.Version)
		}
	}
}

func (p *program) printMirror(m *builder.Mirrored) {
	var lines [][]string
	for _, t := range m.Tiers {
		line := []string{t.Tier, t.Outcome, t.Version}
		switch {
		case t.Error != "":
			line = append(line, string(t.Reason)+": "+strings.ReplaceAll(t.Error, "\n", "; "))
		case t.Previous != "" && t.Previous != t.Version:
			line = append(line, "before that "+t.Previous)
		}
		lines = append(lines, line)
	}
	p.table(lines)
	if len(m.Tiers) == 0 {
		p.printf("no tier has a channel yet: builder promote makes one\n")
	}
	p.printf("trust is at version %d in the mirror, channel repo at commit %.12s\n", m.Trust, m.Commit)
}

func (p *program) printVerify(v *bundle.Verified) {
	var lines [][]string
	for _, o := range v.Objects {
		state := "ok"
		if !o.OK {
			state = "FAULT"
		}
		line := []string{state, o.What, cli.Size(o.Size), o.Key}
		if o.Problem != "" {
			line = append(line, strings.ReplaceAll(o.Problem, "\n", "; "))
		}
		lines = append(lines, line)
	}
	p.table(lines)
	if v.OK {
		p.printf("%s %s is whole: manifest %s, commit %.12s\n", v.App, v.Version, v.Manifest, v.Commit)
	}
}
