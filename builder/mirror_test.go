package builder

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// bucketFile is the file of an object.
func (s *site) bucketFile(key string) string { return filepath.Join(s.dir, "bucket", key) }

// TestMirrorOldTrust: a builder whose anchor is new serves nodes whose anchor is old.
func TestMirrorOldTrust(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	first, err := readAnchor(filepath.Join(s.dir, "keys/trust.json"), "mnw")
	if err != nil {
		t.Fatal(err)
	}
	s.trust(2, func(*signing.Trust) {})
	s.trust(3, func(t *signing.Trust) { t.Revoked = []layout.Digest{layout.Sum(nil)} })
	s.promote(PromoteRequest{Tier: "host", Version: "1.0.0"})
	dir := s.clone()
	newer, err := os.ReadFile(filepath.Join(dir, repo.TrustFile(2)))
	if err != nil {
		t.Fatal(err)
	}
	s.write("keys/trust.json", string(newer))
	b := s.builder()
	out, err := b.Mirror(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if out.Trust != 3 || len(out.Tiers) != 1 || out.Tiers[0].Outcome != OutcomeMirrored {
		t.Errorf("mirrored: %+v", out)
	}
	walked, err := b.channels().Walk(t.Context(), first, nil)
	if err != nil || walked.Version != 3 {
		t.Errorf("from version 1 a node walks to %d, %v; want 3", walked.Version, err)
	}
	if _, err := os.Stat(s.bucketFile(layout.TrustKey("mnw", 1))); err != nil {
		t.Error(err)
	}
}

func TestMirrorRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *testing.T, s *site)
		tiers  []string
		code   reason.Code
		says   string
	}{
		"no such tier": {nil, []string{"nowhere"}, reason.Config, "nowhere"},
		"no channel":   {nil, []string{"b"}, reason.Stale, "the channel repo has no channels/b.json: builder promote b makes one"},
		"another first trust": {func(t *testing.T, s *site) {
			other, err := readAnchor(filepath.Join(s.dir, "keys/trust.json"), "mnw")
			if err != nil {
				t.Fatal(err)
			}
			other.Revoked = []layout.Digest{layout.Sum(nil)}
			doc, err := other.Encode()
			if err != nil {
				t.Fatal(err)
			}
			s.pushFiles("main", map[string][]byte{repo.TrustFile(1): doc})
		}, nil, reason.Mismatch, "channel repo: trust/1.json is another document than signing.trust"},
		"another trust in the bucket": {func(t *testing.T, s *site) {
			s.object(layout.TrustKey("mnw", 1), "{}")
		}, nil, reason.Mismatch, "is another version 1 of trust than the channel repo has"},
		"no signature by that key in the bucket": {func(t *testing.T, s *site) {
			doc := s.read("keys/trust.json")
			s.object(layout.TrustSignatureKey("mnw", 1, layout.Sum([]byte(doc)), s.key("root-1").Public().Kid()), "{}")
		}, nil, reason.Mismatch, "is not a signature by the key that its name says"},
		"rewound": {func(t *testing.T, s *site) {
			s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})
			s.signedAgain("a")
			s.git(s.clone(), "push", "-qf", "origin", "HEAD~1:main")
		}, []string{"a"}, reason.Replay, "counter went back"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			s.release(ReleaseRequest{})
			if c.change != nil {
				c.change(t, s)
			}
			before := s.snapshot("bucket")
			_, err := s.builder().Mirror(t.Context(), c.tiers)
			if reason.Of(err) != c.code || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got reason %q: %v\nwant %q: %s", reason.Of(err), err, c.code, c.says)
			}
			after := s.snapshot("bucket")
			for key := range after {
				if strings.Contains(key, "/trust/") && before[key] == "" {
					delete(after, key) // written before the tier is looked at
				}
			}
			if diff := cmp.Diff(before, after); diff != "" {
				t.Errorf("something changed:\n%s", diff)
			}
		})
	}
}

func (s *site) read(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, name))
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data)
}

// object puts something into the bucket.
func (s *site) object(key, text string) {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.bucketFile(key)), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(s.bucketFile(key), []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

// signedAgain pushes the next state of the channel and lets the builder see it.
func (s *site) signedAgain(tier string) {
	s.t.Helper()
	s.pushFiles("main", s.signedChannel(tier, func(c *channels.Channel) { c.Seq++ }))
	if _, err := s.builder().Mirror(s.t.Context(), []string{tier}); err != nil {
		s.t.Fatal(err)
	}
	// A new bucket, to which nothing was mirrored yet.
	if err := os.RemoveAll(s.bucketFile("mnw/channels")); err != nil {
		s.t.Fatal(err)
	}
}

// TestMirrorsAtOnce: builders that share nothing but the repo and the bucket.
func TestMirrorsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		b := s.builder(func(c *Config, _ *Options) { c.State = t.TempDir() })
		wg.Go(func() { _, errs[i] = b.Mirror(t.Context(), nil) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	out, err := s.builder().Mirror(t.Context(), nil)
	if err != nil || len(out.Tiers) != 2 || out.Tiers[0].Outcome != OutcomeUnchanged || out.Tiers[1].Outcome != OutcomeUnchanged {
		t.Errorf("afterwards: %+v, %v", out, err)
	}
}

// TestMirrorFails: an advance stands, its message says what is missing, and running it again
// finishes.
func TestMirrorFails(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.edit(`auto = ["host"]`, "auto = [\"host\"]\nmirror = true")
	s.object(layout.TrustKey("mnw", 1), "{}")
	_, err := s.builder().Promote(t.Context(), PromoteRequest{Tier: "a", Version: "1.0.0"})
	if reason.Of(err) != reason.Mismatch || !strings.Contains(err.Error(), `channel "a" names version 1.0.0, but: `) {
		t.Errorf("error is %v, want the reason mismatch and what was done", err)
	}
	s.names("a", "1.0.0")
	if err := os.Remove(s.bucketFile(layout.TrustKey("mnw", 1))); err != nil {
		t.Fatal(err)
	}
	if out := s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"}); out.Outcome != OutcomeAlready || out.Mirror != OutcomeMirrored {
		t.Errorf("promoted again: %+v", out)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.builder().Mirror(ctx, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v, want context.Canceled", err)
	}
}
