package builder

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// TestTwoKeysNeeded: one signature of two is a proposal, never a push, and a second
// promotion leaves it as it is.
func TestTwoKeysNeeded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.trust(2, func(t *signing.Trust) {
		r := t.Roles["channel"]
		r.Keys = slices.Sorted(slices.Values(append(r.Keys, t.Roles["release"].Keys...)))
		t.Roles["channel:a"] = signing.Role{Keys: r.Keys, Threshold: 2}
	})
	before := s.git(filepath.Join(s.dir, "channels.git"), "rev-parse", "main")
	first := s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"})
	want := []Count{{"channel:a", 2, 1, 2}}
	if first.Outcome != OutcomeProposed || first.Branch != "bump/a/1.0.0" || !slices.Equal(first.Counts, want) {
		t.Errorf("promoted: %+v", first)
	}
	if again := s.promote(PromoteRequest{Tier: "a", Version: "1.0.0"}); again.Seq != first.Seq || again.Commit != first.Commit {
		t.Errorf("promoted again: %+v, want %+v", again, first)
	}
	if now := s.git(filepath.Join(s.dir, "channels.git"), "rev-parse", "main"); now != before {
		t.Errorf("main moved to %s", now)
	}
}

// TestSignRefuses: a bucket or a channel repo that others wrote gets no signature out of
// a builder.
func TestSignRefuses(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.release(ReleaseRequest{})
	s.promote(PromoteRequest{Tier: "a", Version: "1.0.0", Propose: true})
	revoke := func() {
		s.trust(2, func(t *signing.Trust) { t.Revoked = []layout.Digest{s.channel("host").Manifest} })
	}
	for _, step := range []struct {
		name   string
		change func()
		sign   func(b *Builder) error
		code   reason.Code
		says   string
	}{
		{"no such version", nil, func(b *Builder) error { _, err := b.SignManifest(t.Context(), "9.9", ""); return err }, reason.Stale, "version 9.9 is not in the bucket"},
		{"malformed version", nil, func(b *Builder) error { _, err := b.SignManifest(t.Context(), "../1", ""); return err }, reason.Config, "malformed name"},
		{"malformed digest", nil, func(b *Builder) error { _, err := b.SignManifest(t.Context(), "1.0.0@sha256:12", ""); return err }, reason.Config, "malformed name"},
		{"a key of no role", nil, func(b *Builder) error {
			_, err := b.SignManifest(t.Context(), "1.0.0", filepath.Join(s.dir, "keys/channel.key"))
			return err
		}, reason.Signature, "--key is the key"},
		{"a channel without a state", nil, func(b *Builder) error {
			_, err := b.SignChannel(t.Context(), ConsentRequest{Tier: "b"})
			return err
		}, reason.Stale, "there is no channels/b.json"},
		{"a branch that is no proposal of the tier", nil, func(b *Builder) error {
			_, err := b.SignChannel(t.Context(), ConsentRequest{Tier: "a", Branch: "main"})
			return err
		}, reason.Stale, "open are bump/a/1.0.0"},
		{"revoked version", revoke, func(b *Builder) error { _, err := b.SignManifest(t.Context(), "1.0.0", ""); return err }, reason.Policy, "revoked by trust version 2"},
		{"revoked proposal", nil, func(b *Builder) error {
			_, err := b.SignChannel(t.Context(), ConsentRequest{Tier: "a", Branch: "bump/a/1.0.0"})
			return err
		}, reason.Policy, "revoked by trust version 2"},
	} {
		if step.change != nil {
			step.change()
		}
		before := s.snapshot("bucket", "channels.git/refs")
		if err := step.sign(s.builder()); reason.Of(err) != step.code || !strings.Contains(err.Error(), step.says) {
			t.Errorf("%s: got reason %q: %v\nwant %q: %s", step.name, reason.Of(err), err, step.code, step.says)
		}
		if diff := cmp.Diff(before, s.snapshot("bucket", "channels.git/refs")); diff != "" {
			t.Errorf("%s: something changed:\n%s", step.name, diff)
		}
	}
}
