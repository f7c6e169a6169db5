package mirror_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/mirror"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// fixture is a mirror in a directory, and one key for all roles.
type fixture struct {
	mirror.Mirror
	t     *testing.T
	dir   string
	key   *keys.Signer
	trust *signing.Trust
}

func newFixture(t *testing.T) *fixture {
	t.Helper()
	key, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	kid := key.Public().Kid()
	role := signing.Role{Keys: []string{kid}, Threshold: 1}
	f := &fixture{t: t, dir: t.TempDir(), key: key, trust: &signing.Trust{
		Schema: signing.TrustSchema, App: "mnw", Version: 1, Keys: map[string]canon.PEM{kid: key.Public().PEM()},
		Roles: map[string]signing.Role{signing.RoleRoot: role, signing.RoleRelease: role, signing.RoleChannel: role},
	}}
	b, err := bucket.Open(t.Context(), bucket.Config{URL: "file://" + f.dir})
	if err != nil {
		t.Fatal(err)
	}
	f.Mirror = mirror.Mirror{Bucket: b, App: "mnw"}
	return f
}

// state returns a signed state of tier b.
func (f *fixture) state(trust, seq int64, version string) signing.Signed {
	f.t.Helper()
	c := channels.Next(nil, time.UnixMilli(seq), trust, channels.Channel{App: "mnw", Channel: "b", Version: version, Manifest: layout.Sum([]byte(version)), Rollout: 100})
	doc, err := c.Encode()
	if err != nil {
		f.t.Fatal(err)
	}
	return f.sign(doc)
}

func (f *fixture) sign(doc []byte) signing.Signed {
	f.t.Helper()
	sig, err := f.key.Sign(doc)
	if err != nil {
		f.t.Fatal(err)
	}
	return signing.Signed{Doc: doc, Sigs: signing.Signatures{f.key.Public().Kid(): sig}}
}

func always() error { return nil }

func (f *fixture) put(s signing.Signed) (mirror.Put, error) {
	return f.PutChannel(f.t.Context(), "b", s, f.trust, always)
}

func (f *fixture) must(s signing.Signed) mirror.Put {
	f.t.Helper()
	out, err := f.put(s)
	if err != nil {
		f.t.Fatal(err)
	}
	return out
}

func (f *fixture) channel() string {
	f.t.Helper()
	data, err := os.ReadFile(filepath.Join(f.dir, layout.ChannelKey("mnw", "b")))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(data)
}

func TestPutChannel(t *testing.T) {
	f := newFixture(t)
	first := f.state(1, 1000, "1.0")
	if out := f.must(first); !out.Changed || out.Before != nil || out.Garbage != nil {
		t.Errorf("first: %+v", out)
	}
	if out := f.must(first); out.Changed || out.Before.Version != "1.0" {
		t.Errorf("again: %+v", out)
	}
	// Signed again, the signature is another one and as good.
	if out := f.must(f.sign(first.Doc)); out.Changed {
		t.Errorf("signed again: %+v", out)
	}
	f.must(f.state(1, 2000, "0.9"))
	if out := f.must(f.state(2, 10, "2.0")); !out.Changed || out.Before.Version != "0.9" {
		t.Errorf("higher trust: %+v", out)
	}
	got, err := f.Poll(t.Context(), "b", "")
	if err != nil {
		t.Fatal(err)
	}
	signed, err := got.Signed(t.Context(), f.trust.Kids(signing.RoleChannel))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.trust.Verify(signing.RoleChannel, signed); err != nil {
		t.Error(err)
	}
	if _, err := f.Poll(t.Context(), "b", got.Version); !errors.Is(err, bucket.ErrSame) {
		t.Errorf("polled again: %v, want ErrSame", err)
	}
	if _, err := f.Poll(t.Context(), "c", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a tier that is not mirrored: %v, want fs.ErrNotExist", err)
	}
}

func TestPutChannelRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		next  func(f *fixture) signing.Signed
		may   error
		want  reason.Code
		words string
	}{
		{"smaller seq", func(f *fixture) signing.Signed { return f.state(2, 1999, "3.0") }, nil, reason.Stale, "which is newer than version 3.0 (trust 2, seq 1999)"},
		{"smaller trust", func(f *fixture) signing.Signed { return f.state(1, 3000, "3.0") }, nil, reason.Stale, "which is newer than version 3.0 (trust 1, seq 3000)"},
		{"same counter", func(f *fixture) signing.Signed { return f.state(2, 2000, "3.0") }, nil, reason.Stale, "two states with the counter (trust 2, seq 2000)"},
		{"not allowed", func(f *fixture) signing.Signed { return f.state(2, 2001, "3.0") }, reason.Errorf(reason.Replay, "seen newer"), reason.Replay, "seen newer"},
		{"no channel", func(f *fixture) signing.Signed { return f.sign([]byte("{}")) }, nil, reason.Format, "schema"},
		{"another signature in its place", func(f *fixture) signing.Signed {
			s := f.state(2, 2001, "3.0")
			key := layout.ChannelSignatureKey("mnw", "b", layout.Sum(s.Doc), f.key.Public().Kid())
			if err := f.Bucket.Create(f.t.Context(), key, strings.NewReader("{}"), 2); err != nil {
				f.t.Fatal(err)
			}
			return s
		}, nil, reason.Mismatch, "is not a signature by the key that its name says"},
	} {
		t.Run(test.name, func(t *testing.T) {
			f := newFixture(t)
			f.must(f.state(2, 2000, "2.0"))
			before := f.channel()
			out, err := f.PutChannel(t.Context(), "b", test.next(f), f.trust, func() error { return test.may })
			if reason.Of(err) != test.want || !strings.Contains(err.Error(), test.words) {
				t.Errorf("error is %v, reason %q; want %q with %q", err, reason.Of(err), test.want, test.words)
			}
			if f.channel() != before {
				t.Errorf("the channel object was replaced: %+v", out)
			}
			f.must(f.state(2, 2002, "3.0"))
		})
	}
}

// TestGarbageIsReplaced: who can write the bucket cannot keep a mirror from being mended.
func TestGarbageIsReplaced(t *testing.T) {
	f := newFixture(t)
	other := f.state(9, 9000, "9.0")
	for _, garbage := range []string{"", "null", strings.Replace(string(other.Doc), `"b"`, `"a"`, 1), strings.Replace(string(other.Doc), `"mnw"`, `"other"`, 1)} {
		file := filepath.Join(f.dir, layout.ChannelKey("mnw", "b"))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(garbage), 0o644); err != nil {
			t.Fatal(err)
		}
		if out := f.must(f.state(1, 1000, "1.0")); !out.Changed || out.Garbage == nil {
			t.Errorf("%q: %+v", garbage, out)
		}
	}
}

// TestWritersRace: whoever comes last, the newest state stays.
func TestWritersRace(t *testing.T) {
	f := newFixture(t)
	const writers = 8
	states := make([]signing.Signed, writers)
	for i := range states {
		states[i] = f.state(1, int64(1000+i), "1.0")
	}
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range states {
		wg.Go(func() { _, errs[i] = f.put(states[i]) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil && reason.Of(err) != reason.Stale && !errors.Is(err, bucket.ErrChanged) {
			t.Errorf("writer %d: %v", i, err)
		}
	}
	f.must(states[writers-1])
	if f.channel() != string(states[writers-1].Doc) {
		t.Error("an older state won")
	}
}

// changing is a bucket in which somebody else replaces the object each time before we do.
type changing struct {
	bucket.Bucket
	tries int
}

func (c *changing) Replace(context.Context, string, []byte, string) (string, error) {
	c.tries++
	return "", bucket.ErrChanged
}

func TestGivesUp(t *testing.T) {
	f := newFixture(t)
	c := &changing{Bucket: f.Bucket}
	f.Bucket = c
	if _, err := f.put(f.state(1, 1000, "1.0")); !errors.Is(err, bucket.ErrChanged) || c.tries < 2 || c.tries > 100 {
		t.Errorf("after %d tries: %v, want ErrChanged after a bounded number", c.tries, err)
	}
}

func TestPutTrust(t *testing.T) {
	f := newFixture(t)
	next := *f.trust
	next.Version = 2
	doc, err := next.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.PutTrust(t.Context(), 2, f.sign(doc), f.trust); err != nil {
			t.Fatal(err)
		}
	}
	got, err := f.Walk(t.Context(), f.trust, nil)
	if err != nil || got.Version != 2 {
		t.Errorf("walked to %d, %v; want version 2", got.Version, err)
	}
	next.Revoked = []layout.Digest{layout.Sum(nil)}
	if doc, err = next.Encode(); err != nil {
		t.Fatal(err)
	}
	if err := f.PutTrust(t.Context(), 2, f.sign(doc), f.trust); reason.Of(err) != reason.Mismatch || !strings.Contains(err.Error(), "another version 2 of trust") {
		t.Errorf("another version 2: %v, want the reason mismatch", err)
	}
}
