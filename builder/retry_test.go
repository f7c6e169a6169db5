package builder

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// A retry names the same once more, with the next attempt, as often as it is asked for.
func TestRetry(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	first := s.promote(PromoteRequest{Tier: "a"})
	for want := int64(2); want < 4; want++ {
		out := s.promote(PromoteRequest{Tier: "a", Retry: true})
		c := s.channel("a")
		if out.Outcome != OutcomeAdvanced || !out.Retry || out.Attempt != want || out.Previous != "1.0.0" || out.Seq <= first.Seq {
			t.Errorf("got %+v", out)
		}
		if c.Attempt != want || c.Version != "1.0.0" || c.Manifest != first.Manifest || c.Seq != out.Seq || c.Rollout != 100 {
			t.Errorf("the channel says %+v", c)
		}
	}
	if got := s.git(s.clone(), "log", "-1", "--format=%s"); got != "a: 1.0.0 once more, attempt 3" {
		t.Errorf("commit %q", got)
	}
	// The attempt is carried on, whatever the version.
	s.version("1.1.0")
	s.release(ReleaseRequest{})
	if out := s.promote(PromoteRequest{Tier: "a"}); out.Attempt != 3 || out.Retry {
		t.Errorf("the next version: %+v", out)
	}
	if out := s.promote(PromoteRequest{Tier: "a"}); out.Outcome != OutcomeAlready || out.Attempt != 3 {
		t.Errorf("again: %+v", out)
	}
}

// What the rest of the state says stays: the same part of the nodes, for the same cause.
func TestRetryKeepsRolloutAndHotfix(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.pushFiles("main", s.signedChannel("host", func(c *channels.Channel) { c.Seq++; c.Rollout, c.Hotfix = 20, "login broken" }))
	s.promote(PromoteRequest{Tier: "host", Retry: true})
	if c := s.channel("host"); c.Attempt != 2 || c.Rollout != 20 || c.Hotfix != "login broken" {
		t.Errorf("got %+v", c)
	}
}

func TestRetryRules(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(s *site)
		req    PromoteRequest
		code   reason.Code // "": promoted
		says   string
	}{
		"as it should be":           {func(*site) {}, PromoteRequest{Tier: "host"}, "", ""},
		"with a version":            {func(*site) {}, PromoteRequest{Tier: "host", Version: "1.0.0"}, reason.Config, "leave out the version"},
		"a tier that names nothing": {func(*site) {}, PromoteRequest{Tier: "a"}, reason.Stale, `channel "a" names nothing yet`},
		"unknown tier":              {func(*site) {}, PromoteRequest{Tier: "z"}, reason.Config, "it has host, a, b"},
		"yanked":                    {func(s *site) { s.fleet("yanked = []", `yanked = ["1.0.0"]`) }, PromoteRequest{Tier: "host"}, reason.Policy, "yanked"},
		"revoked": {func(s *site) {
			d := s.channel("host").Manifest
			s.trust(2, func(n *signing.Trust) { n.Revoked = []layout.Digest{d} })
		}, PromoteRequest{Tier: "host"}, reason.Policy, "revoked by trust version 2"},
		"not provisioned": {func(s *site) { s.fleet(`name = "host"`, "name = \"host\"\nprovisioned = false") }, PromoteRequest{Tier: "host"}, reason.Policy, "not provisioned"},
		"halted": {func(s *site) {
			s.pushFiles("main", s.signedChannel("host", func(c *channels.Channel) { c.Seq++; c.Rollout = 0 }))
		}, PromoteRequest{Tier: "host"}, reason.Policy, "builder promote host --version 1.0.0 ends that"},
		"reverted": {func(s *site) {
			s.pushFiles("main", s.signedChannel("host", func(c *channels.Channel) { c.Seq-- }))
		}, PromoteRequest{Tier: "host"}, reason.Replay, "a state that nodes refuse"},
		"tarball missing": {func(s *site) {
			found, err := filepath.Glob(filepath.Join(s.dir, "bucket/mnw/releases/1.0.0/*.tar.zst"))
			if err != nil || len(found) != 1 {
				s.t.Fatal(found, err)
			}
			if err := os.Remove(found[0]); err != nil {
				s.t.Fatal(err)
			}
		}, PromoteRequest{Tier: "host"}, reason.Stale, "is not in the bucket"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.release(ReleaseRequest{})
			c.change(s)
			before := s.snapshot("bucket", "channels.git/refs")
			c.req.Retry = true
			_, err := s.builder().Promote(t.Context(), c.req)
			if c.code == "" {
				if err != nil || s.channel("host").Attempt != 2 {
					t.Error(err)
				}
				return
			}
			if err == nil || reason.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got reason %q: %v\nwant %q: %s", reason.Of(err), err, c.code, c.says)
			}
			if diff := cmp.Diff(before, s.snapshot("bucket", "channels.git/refs")); diff != "" {
				t.Errorf("something changed:\n%s", diff)
			}
		})
	}
}

// Where promoting is proposed, so is a retry; and open proposals carry its attempt on.
func TestRetryAndProposals(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a"})
	s.version("1.1.0")
	s.release(ReleaseRequest{})

	out := s.promote(PromoteRequest{Tier: "a", Retry: true, Propose: true})
	if out.Outcome != OutcomeProposed || out.Branch != "bump/a/1.0.0" || out.Attempt != 2 {
		t.Fatalf("got %+v", out)
	}
	if again := s.promote(PromoteRequest{Tier: "a", Retry: true, Propose: true}); again.Commit != out.Commit || again.Attempt != 2 {
		t.Errorf("again: %+v", again)
	}
	s.promote(PromoteRequest{Tier: "a", Propose: true}) // of 1.1.0
	direct := s.promote(PromoteRequest{Tier: "a", Retry: true})
	if direct.Attempt != 2 || !slices.Equal(direct.Remade, []string{"bump/a/1.1.0"}) {
		t.Errorf("got %+v", direct)
	}
	dir := s.clone()
	if got := s.git(dir, "branch", "-r", "--list", "origin/bump/*"); got != "origin/bump/a/1.1.0" {
		t.Errorf("branches %q", got)
	}
	s.git(dir, "merge", "-q", "--no-ff", "-m", "merge", "origin/bump/a/1.1.0")
	s.git(dir, "push", "-q", "origin", "main")
	if c := s.channel("a"); c.Version != "1.1.0" || c.Attempt != 2 {
		t.Errorf("merged: %+v", c)
	}
}

// A proposal to retry is not what a renewal of the same version did.
func TestRenewalKeepsAProposedRetry(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a"})
	s.promote(PromoteRequest{Tier: "a", Retry: true, Propose: true})
	s.trust(2, func(*signing.Trust) {})
	out := s.promote(PromoteRequest{Tier: "a"})
	if out.Outcome != OutcomeAdvanced || out.Attempt != 1 || !slices.Equal(out.Remade, []string{"bump/a/1.0.0"}) {
		t.Fatalf("got %+v", out)
	}
	dir := s.clone()
	s.git(dir, "merge", "-q", "--no-ff", "-m", "merge", "origin/bump/a/1.0.0")
	s.git(dir, "push", "-q", "origin", "main")
	if c := s.channel("a"); c.Version != "1.0.0" || c.Attempt != 2 {
		t.Errorf("merged: %+v", c)
	}
}

// Somebody else's state is not tried again.
func TestRetryOfWhatMovedMeanwhile(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	moved := s.signedChannel("host", func(c *channels.Channel) { c.Seq += 5; c.Hotfix = "another promoter" })
	b := s.builder()
	r, err := repo.Open(filepath.Join(t.TempDir(), "mirror"), b.cfg.repo())
	if err != nil {
		t.Fatal(err)
	}
	a, err := b.plan(t.Context(), r, PromoteRequest{Tier: "host", Retry: true})
	if err != nil {
		t.Fatal(err)
	}
	s.pushFiles("main", moved)
	_, err = b.carryOut(t.Context(), r, a)
	if reason.Of(err) != reason.Stale || !strings.Contains(err.Error(), "run builder promote host --retry") {
		t.Errorf("got %v", err)
	}
	if c := s.channel("host"); c.Attempt != 1 {
		t.Errorf("got %+v", c)
	}
}
