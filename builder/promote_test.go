package builder

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func (s *site) key(name string) *keys.Signer {
	s.t.Helper()
	k := template.keys[name+".key"]
	if k == nil {
		s.t.Fatalf("no key %q", name)
	}
	return k
}

// pushFiles commits files to a branch of the channel repo, as anyone with write access
// could.
func (s *site) pushFiles(branch string, files map[string][]byte) {
	s.t.Helper()
	dir := s.clone()
	for name, data := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			s.t.Fatal(err)
		}
	}
	s.git(dir, "add", "-A")
	s.git(dir, "commit", "-q", "-m", "by hand")
	s.git(dir, "push", "-q", "origin", "+HEAD:refs/heads/"+branch)
}

// signedChannel signs the state of a channel with one thing changed.
func (s *site) signedChannel(tier string, change func(*channels.Channel)) map[string][]byte {
	s.t.Helper()
	c := s.channel(tier)
	change(c)
	doc, err := c.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	k := s.key("channel")
	sig, err := k.Sign(doc)
	if err != nil {
		s.t.Fatal(err)
	}
	file := repo.ChannelFile(c.Channel)
	return map[string][]byte{file: doc, signing.SignatureFile(file, k.Public().Kid()): sig}
}

func TestPromote(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	if out := s.promote(PromoteRequest{Tier: "a"}); out.Outcome != OutcomeAdvanced || out.Version != "1.0.0" || out.Previous != "" {
		t.Errorf("first: %+v", out)
	}
	first := s.channel("a")
	if out := s.promote(PromoteRequest{Tier: "a"}); out.Outcome != OutcomeAlready || out.Seq != first.Seq {
		t.Errorf("again: %+v", out)
	}
	s.version("1.1.0")
	s.release(ReleaseRequest{})
	s.names("host", "1.1.0")
	s.names("a", "1.0.0")
	if out := s.promote(PromoteRequest{Tier: "a"}); out.Outcome != OutcomeAdvanced || out.Version != "1.1.0" || out.Previous != "1.0.0" {
		t.Errorf("next: %+v", out)
	}
	if out := s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"}); out.Outcome != OutcomeAdvanced || out.Seq <= first.Seq {
		t.Errorf("back: %+v", out)
	}
	s.names("a", "1.0.0")
	s.promote(PromoteRequest{Tier: "host", Version: "1.0.0"})
	s.names("host", "1.0.0")
	log := s.git(s.clone(), "log", "--format=%s", "main")
	want := "host: 1.0.0\na: 1.0.0\na: 1.1.0\nhost: 1.1.0\na: 1.0.0\nhost: 1.0.0\nCreate the channel repo"
	if log != want {
		t.Errorf("history:\n%s\nwant:\n%s", log, want)
	}
}

// promoteCase changes one thing about a released version 1.0.0, and promotes.
type promoteCase struct {
	change func(s *site)
	req    PromoteRequest
	code   reason.Code // "": promoted
	says   string
}

// fleetCases are about what is asked for, and what fleet.toml says.
func fleetCases() map[string]promoteCase {
	return map[string]promoteCase{
		"as it should be":       {func(*site) {}, PromoteRequest{Tier: "a"}, "", ""},
		"by version":            {func(*site) {}, PromoteRequest{Tier: "b", Version: "1.0.0"}, "", ""},
		"unknown tier":          {func(*site) {}, PromoteRequest{Tier: "z"}, reason.Config, "it has host, a, b"},
		"malformed tier":        {func(*site) {}, PromoteRequest{Tier: "A/b"}, reason.Config, "malformed name"},
		"malformed version":     {func(*site) {}, PromoteRequest{Tier: "a", Version: "../x"}, reason.Config, "malformed name"},
		"unknown version":       {func(*site) {}, PromoteRequest{Tier: "a", Version: "9.9.9"}, reason.Stale, "9.9.9 is not in the bucket"},
		"first without version": {func(*site) {}, PromoteRequest{Tier: "host"}, reason.Config, "--version"},
		"nothing before it":     {func(*site) {}, PromoteRequest{Tier: "b"}, reason.Stale, `channel "a", which "b" follows, names nothing yet`},
		"not provisioned": {
			func(s *site) { s.fleet(`name = "a"`, "name = \"a\"\nprovisioned = false") }, PromoteRequest{Tier: "a"}, reason.Policy, "not provisioned",
		},
		"burn-in": {
			func(s *site) { s.fleet(`name = "a"`, "name = \"a\"\nburn_in = \"1h\"") }, PromoteRequest{Tier: "a"}, reason.Config, "not in this version",
		},
		"nodes": {
			func(s *site) { s.fleet(`name = "a"`, "name = \"a\"\nnodes = [\"n1\"]") }, PromoteRequest{Tier: "a", Version: "1.0.0"}, reason.Config, "not in this version",
		},
		"yanked": {
			func(s *site) { s.fleet("yanked = []", `yanked = ["1.0.0"]`) }, PromoteRequest{Tier: "a"}, reason.Policy, "yanked",
		},
		"from another tier": {
			func(s *site) { s.fleet(`name = "b"`, "name = \"b\"\nfrom = \"host\"") }, PromoteRequest{Tier: "b"}, "", "",
		},
	}
}

// beforeCases are about the tier that the promoted one follows.
func beforeCases() map[string]promoteCase {
	return map[string]promoteCase{
		"halted before it": {
			func(s *site) {
				s.pushFiles("main", s.signedChannel("host", func(c *channels.Channel) { c.Rollout = 0; c.Seq++ }))
			}, PromoteRequest{Tier: "a"}, reason.Policy, `tier "host", which "a" follows, is at 0 % (halted)`,
		},
		"half of them before it": {
			func(s *site) {
				s.pushFiles("main", s.signedChannel("host", func(c *channels.Channel) { c.Rollout = 50; c.Seq++ }))
			}, PromoteRequest{Tier: "a", Version: "1.0.0"}, reason.Policy, "50 %",
		},
		"reverted before it": {
			func(s *site) {
				s.pushFiles("main", s.signedChannel("host", func(c *channels.Channel) { c.Seq-- }))
			}, PromoteRequest{Tier: "a"}, reason.Replay, "builder promote host --version 1.0.0",
		},
		"forged before it": {
			func(s *site) {
				files := s.signedChannel("host", func(c *channels.Channel) { c.Seq++ })
				files[repo.ChannelFile("host")] = []byte(strings.Replace(string(files[repo.ChannelFile("host")]), `"attempt": 1`, `"attempt": 2`, 1))
				s.pushFiles("main", files)
			}, PromoteRequest{Tier: "a"}, reason.Signature, "forged",
		},
	}
}

// bundleCases are about what is in the bucket.
func bundleCases() map[string]promoteCase {
	object := func(s *site, pattern string) string {
		found, err := filepath.Glob(filepath.Join(s.dir, "bucket/mnw/releases/1.0.0", pattern))
		if err != nil || len(found) != 1 {
			s.t.Fatal(pattern, found, err)
		}
		return found[0]
	}
	remove := func(pattern string) func(s *site) {
		return func(s *site) {
			if err := os.Remove(object(s, pattern)); err != nil {
				s.t.Fatal(err)
			}
		}
	}
	return map[string]promoteCase{
		"tarball missing":      {remove("*.tar.zst"), PromoteRequest{Tier: "a"}, reason.Stale, "is not in the bucket"},
		"manifest by digest":   {remove("manifest-????????????????.json"), PromoteRequest{Tier: "a"}, reason.Stale, "is not in the bucket"},
		"signature missing":    {remove("*.sigstore.json"), PromoteRequest{Tier: "a"}, reason.Signature, "no signature"},
		"manifest.json absent": {remove("manifest.json"), PromoteRequest{Tier: "a"}, reason.Stale, "version 1.0.0 is not in the bucket"},
		"tarball too short": {
			func(s *site) {
				if err := os.Truncate(object(s, "*.tar.zst"), 10); err != nil {
					s.t.Fatal(err)
				}
			}, PromoteRequest{Tier: "a"}, reason.Mismatch, "has 10 bytes",
		},
	}
}

// trustCases are about trust documents after the first.
func trustCases() map[string]promoteCase {
	return map[string]promoteCase{
		"revoked": {
			func(s *site) {
				s.trust(2, func(t *signing.Trust) { t.Revoked = []layout.Digest{s.channel("host").Manifest} })
			},
			PromoteRequest{Tier: "a"}, reason.Policy, "revoked by trust version 2",
		},
		"release key replaced": {
			func(s *site) {
				s.trust(2, func(t *signing.Trust) { t.Roles["release"] = t.Roles["root"] })
			}, PromoteRequest{Tier: "a"}, reason.Signature, "trust",
		},
		"unsigned trust version": {
			func(s *site) { s.pushFiles("main", map[string][]byte{"trust/2.json": []byte("{}")}) },
			PromoteRequest{Tier: "a"}, reason.Signature, "trust version 2",
		},
	}
}

func TestPromoteRules(t *testing.T) {
	t.Parallel()
	for _, cases := range []map[string]promoteCase{fleetCases(), beforeCases(), bundleCases(), trustCases()} {
		for name, c := range cases {
			t.Run(name, c.run)
		}
	}
}

func (c promoteCase) run(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	c.change(s)
	before := s.snapshot("bucket", "channels.git/refs")
	_, err := s.builder().Promote(t.Context(), c.req)
	if c.code == "" {
		if err != nil {
			t.Error(err)
		}
		s.names(c.req.Tier, "1.0.0")
		return
	}
	if err == nil || reason.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
		t.Errorf("got reason %q: %v\nwant %q: %s", reason.Of(err), err, c.code, c.says)
	}
	if diff := cmp.Diff(before, s.snapshot("bucket", "channels.git/refs")); diff != "" {
		t.Errorf("something changed:\n%s", diff)
	}
}

// trust pushes the next version of trust, with one thing changed. Keys that are in no
// role any more are dropped.
func (s *site) trust(version int64, change func(*signing.Trust)) {
	s.t.Helper()
	t, err := readAnchor(filepath.Join(s.dir, "keys/trust.json"), "mnw")
	if err != nil {
		s.t.Fatal(err)
	}
	t.Version = version
	change(t)
	for kid := range t.Keys {
		used := false
		for _, r := range t.Roles {
			used = used || slices.Contains(r.Keys, kid)
		}
		if !used {
			delete(t.Keys, kid)
		}
	}
	doc, err := t.Encode()
	if err != nil {
		s.t.Fatal(err)
	}
	k := s.key("root-2")
	sig, err := k.Sign(doc)
	if err != nil {
		s.t.Fatal(err)
	}
	s.pushFiles("main", map[string][]byte{repo.TrustFile(version): doc, signing.SignatureFile(repo.TrustFile(version), k.Public().Kid()): sig})
}

// A new trust version and an expiry that has passed both call for a new state, although
// the channel names the version already.
func TestRenewal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.edit(`auto = ["host"]`, "auto = [\"host\"]\nexpires = \"1h\"")
	s.release(ReleaseRequest{})
	first := s.channel("host")
	if got := first.Expires.Sub(first.Issued.Time); got != time.Hour {
		t.Errorf("expires after %s, want 1h", got)
	}
	s.trust(2, func(*signing.Trust) {})
	if out := s.promote(PromoteRequest{Tier: "host", Version: "1.0.0"}); out.Outcome != OutcomeAdvanced {
		t.Errorf("new trust: %+v", out)
	}
	second := s.channel("host")
	if second.Trust != 2 {
		t.Errorf("signed under trust %d", second.Trust)
	}
	later := func(_ *Config, o *Options) { o.Now = func() time.Time { return time.Now().Add(2 * time.Hour) } }
	out, err := s.builder(later).Promote(t.Context(), PromoteRequest{Tier: "host", Version: "1.0.0"})
	if err != nil || out.Outcome != OutcomeAdvanced {
		t.Errorf("expired: %+v, %v", out, err)
	}
}

// A repo that was rewound or reverted is healed by the next advance: the counter goes
// on from the newest state that this builder knows of, even with a slow clock.
func TestRewoundRepo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.version("1.1.0")
	s.release(ReleaseRequest{})
	newest := s.channel("host")
	dir := s.clone()
	s.git(dir, "push", "-q", "--force", "origin", "HEAD~1:main")
	s.names("host", "1.0.0")
	slow := func(_ *Config, o *Options) { o.Now = func() time.Time { return newest.Issued.Add(-time.Hour) } }
	out, err := s.builder(slow).Promote(t.Context(), PromoteRequest{Tier: "host", Version: "1.1.0"})
	if err != nil || out.Outcome != OutcomeAdvanced || out.Seq != newest.Seq+1 {
		t.Errorf("got %+v, %v, want seq %d", out, err, newest.Seq+1)
	}
}

func TestAnchorWasReset(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.trust(2, func(*signing.Trust) {})
	s.release(ReleaseRequest{})
	dir := s.clone()
	s.git(dir, "rm", "-q", "trust/2.json", "channels/host.json")
	s.git(dir, "commit", "-q", "-m", "begin again")
	s.git(dir, "push", "-q", "origin", "main")
	var log lockedBuffer
	out, err := s.builder(logTo(&log)).Promote(t.Context(), PromoteRequest{Tier: "host", Version: "1.0.0"})
	if err != nil || out.Outcome != OutcomeAdvanced || s.channel("host").Trust != 1 {
		t.Errorf("got %+v, %v", out, err)
	}
	if !strings.Contains(log.String(), "forgotten") {
		t.Errorf("nothing was said:\n%s", log.String())
	}
}

// Signatures of the replaced state are removed with it.
func TestOldSignaturesGo(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	other := signing.SignatureFile(repo.ChannelFile("host"), s.key("release").Public().Kid())
	s.pushFiles("main", map[string][]byte{other: []byte("{}")})
	s.version("1.1.0")
	s.release(ReleaseRequest{})
	files := s.git(s.clone(), "ls-files", "channels")
	if want := "channels/host.json\n" + signing.SignatureFile(repo.ChannelFile("host"), s.key("channel").Public().Kid()); files != want {
		t.Errorf("channels holds\n%s\nwant\n%s", files, want)
	}
}

func TestPropose(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a"})
	s.promote(PromoteRequest{Tier: "b"})
	s.version("1.1.0")
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a"})

	out := s.promote(PromoteRequest{Tier: "b", Propose: true})
	if out.Outcome != OutcomeProposed || out.Branch != "bump/b/1.1.0" || out.Previous != "1.0.0" {
		t.Fatalf("got %+v", out)
	}
	s.names("b", "1.0.0")
	if again := s.promote(PromoteRequest{Tier: "b", Propose: true}); again.Commit != out.Commit || again.Seq != out.Seq || again.Outcome != OutcomeProposed {
		t.Errorf("again: %+v, want %+v", again, out)
	}

	// As printed: other changes do not matter.
	s.fleet("yanked = []", "yanked = [\"0.1\"]")
	dir := s.clone()
	s.git(dir, "merge", "-q", "--no-ff", "-m", "merge", "origin/bump/b/1.1.0")
	s.git(dir, "push", "-q", "origin", "main")
	s.names("b", "1.1.0")
	if done := s.promote(PromoteRequest{Tier: "b", Propose: true}); done.Outcome != OutcomeAlready {
		t.Errorf("after the merge: %+v", done)
	}
}

func TestFleetAsksForProposals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fleet(`name = "a"`, "name = \"a\"\npropose = true")
	s.release(ReleaseRequest{})
	if out := s.promote(PromoteRequest{Tier: "a"}); out.Outcome != OutcomeProposed {
		t.Errorf("got %+v", out)
	}
	s.names("a", "")
}

func TestProposalsAreRemade(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for _, v := range []string{"1.1.0", "1.2.0", "1.3.0"} {
		s.release(ReleaseRequest{})
		s.version(v)
	}
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})
	old := s.promote(PromoteRequest{Tier: "a", Version: "1.1.0", Propose: true})
	s.promote(PromoteRequest{Tier: "a", Version: "1.2.0", Propose: true})

	out := s.promote(PromoteRequest{Tier: "a", Version: "1.2.0"})
	if !slices.Equal(out.Remade, []string{"bump/a/1.1.0"}) {
		t.Errorf("remade %v, want bump/a/1.1.0", out.Remade)
	}
	dir := s.clone()
	if got := s.git(dir, "branch", "-r", "--list", "origin/bump/*"); got != "origin/bump/a/1.1.0" {
		t.Errorf("branches %q", got)
	}
	now := s.git(dir, "rev-parse", "origin/bump/a/1.1.0")
	if now == old.Commit {
		t.Error("the proposal is the old one")
	}
	s.git(dir, "merge", "-q", "--no-ff", "-m", "merge", "origin/bump/a/1.1.0")
	s.git(dir, "push", "-q", "origin", "main")
	if c := s.channel("a"); c.Version != "1.1.0" || c.Seq <= out.Seq {
		t.Errorf("merged: %+v, want a seq above %d", c, out.Seq)
	}

	// Yanked meanwhile: it stays outdated.
	s.promote(PromoteRequest{Tier: "a", Version: "1.3.0", Propose: true})
	s.fleet("yanked = []", `yanked = ["1.3.0"]`)
	var log lockedBuffer
	done, err := s.builder(logTo(&log)).Promote(t.Context(), PromoteRequest{Tier: "a", Version: "1.2.0"})
	if err != nil || len(done.Remade) != 0 || !strings.Contains(log.String(), "yanked") {
		t.Errorf("got %+v, %v\n%s", done, err, log.String())
	}
}

// Whoever can write the channel repo can bring back a branch that was signed long ago,
// or rewind the main branch to before it. Neither gets a new signature.
func TestOldBranchGetsNoNewSignature(t *testing.T) {
	t.Parallel()
	for name, rewind := range map[string]bool{"branch brought back": false, "repo rewound as well": true} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			s.release(ReleaseRequest{})
			s.promote(PromoteRequest{Tier: "a"})
			s.version("1.1.0")
			s.release(ReleaseRequest{})
			s.promote(PromoteRequest{Tier: "a", Version: "1.1.0", Propose: true})
			kept := s.clone() // with main and the branch as they were then
			s.version("1.2.0")
			s.release(ReleaseRequest{})
			s.promote(PromoteRequest{Tier: "a", Version: "1.1.0"})
			s.promote(PromoteRequest{Tier: "a", Version: "1.2.0"})

			s.git(kept, "push", "-q", "--force", "origin", "origin/bump/a/1.1.0:refs/heads/bump/a/1.1.0")
			if rewind {
				s.git(kept, "push", "-q", "--force", "origin", "main")
			}
			before := s.git(s.clone(), "rev-parse", "origin/bump/a/1.1.0")
			var log lockedBuffer
			out, err := s.builder(logTo(&log)).Promote(t.Context(), PromoteRequest{Tier: "a", Version: "1.0.0"})
			if rewind { // the repo names 1.0.0, but that state does not count any more
				if err != nil || out.Outcome != OutcomeAdvanced {
					t.Fatalf("got %+v, %v", out, err)
				}
			} else if err != nil || len(out.Remade) != 0 {
				t.Fatalf("got %+v, %v", out, err)
			}
			if after := s.git(s.clone(), "rev-parse", "origin/bump/a/1.1.0"); after != before {
				t.Errorf("an old branch was signed anew")
			}
			if !strings.Contains(log.String(), "older than the channel") {
				t.Errorf("nothing was said:\n%s", log.String())
			}
		})
	}
}

// A branch with a state that no channel key signed is left alone.
func TestForgedProposal(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a"})
	s.version("1.1.0")
	s.release(ReleaseRequest{})
	files := s.signedChannel("a", func(c *channels.Channel) {
		h := s.channel("host")
		c.Seq, c.Version, c.Manifest = c.Seq+1, h.Version, h.Manifest
	})
	for name := range files {
		if strings.HasSuffix(name, ".sigstore.json") {
			sig, err := s.key("release").Sign(files[repo.ChannelFile("a")]) // of another role
			if err != nil {
				t.Fatal(err)
			}
			files[name] = sig
		}
	}
	s.pushFiles("bump/a/1.1.0", files)
	before := s.git(s.clone(), "rev-parse", "origin/bump/a/1.1.0")
	s.version("1.2.0")
	s.release(ReleaseRequest{})
	if out := s.promote(PromoteRequest{Tier: "a", Version: "1.2.0"}); len(out.Remade) != 0 {
		t.Errorf("got %+v", out)
	}
	if after := s.git(s.clone(), "rev-parse", "origin/bump/a/1.1.0"); after != before {
		t.Error("a forged proposal was signed")
	}
}

// What the channel was when the decision was made is what it must be when it is pushed.
func TestMovedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.version("1.1.0")
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})

	// The passphrase is asked for when it is decided what to promote.
	meanwhile := func(tier string, change func(*channels.Channel)) func(*Config, *Options) {
		return func(_ *Config, o *Options) {
			o.Passphrase = func(context.Context, string) ([]byte, error) {
				s.pushFiles("main", s.signedChannel(tier, change))
				return []byte{}, nil
			}
		}
	}
	_, err := s.builder(meanwhile("a", func(c *channels.Channel) { c.Seq++; c.Attempt++ })).Promote(t.Context(), PromoteRequest{Tier: "a"})
	if err == nil || reason.Of(err) != reason.Stale || !strings.Contains(err.Error(), `channel "a" moved meanwhile`) ||
		!strings.Contains(err.Error(), "builder promote a --version 1.1.0") {
		t.Errorf("got %v", err)
	}
	s.names("a", "1.0.0")

	// The tier that it follows matters as well, unless the version was named.
	back := func(c *channels.Channel) {
		a := s.channel("a")
		c.Seq, c.Version, c.Manifest = c.Seq+1, a.Version, a.Manifest
	}
	_, err = s.builder(meanwhile("host", back)).Promote(t.Context(), PromoteRequest{Tier: "a"})
	if err == nil || reason.Of(err) != reason.Stale || !strings.Contains(err.Error(), `channel "host" moved meanwhile`) {
		t.Errorf("got %v", err)
	}
	s.names("a", "1.0.0")

	// Other changes do not.
	_, err = s.builder(meanwhile("host", func(c *channels.Channel) { c.Seq++ })).Promote(t.Context(), PromoteRequest{Tier: "a", Version: "1.1.0"})
	if err != nil {
		t.Error(err)
	}
	s.names("a", "1.1.0")
}

func TestSeqAndAttempt(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	at := time.Date(2030, 1, 1, 0, 0, 0, 5e6, time.UTC)
	fixed := func(_ *Config, o *Options) { o.Now = func() time.Time { return at } }
	if _, err := s.builder(fixed).Release(t.Context(), ReleaseRequest{}); err != nil {
		t.Fatal(err)
	}
	first := s.channel("host")
	if first.Seq != at.UnixMilli() || !first.Issued.Equal(canon.At(at).Time) {
		t.Errorf("got %+v", first)
	}
	s.pushFiles("main", s.signedChannel("host", func(c *channels.Channel) { c.Seq++; c.Attempt = 4 }))
	s.version("1.1.0")
	if _, err := s.builder(fixed).Release(t.Context(), ReleaseRequest{}); err != nil {
		t.Fatal(err)
	}
	if c := s.channel("host"); c.Seq != first.Seq+2 || c.Attempt != 4 {
		t.Errorf("got seq %d, attempt %d, want %d, 4", c.Seq, c.Attempt, first.Seq+2)
	}
}
