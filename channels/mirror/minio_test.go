package mirror_test

import (
	"errors"
	"io/fs"
	"testing"

	"makenot.work/sando/channels/mirror"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// TestMinIO: a builder with credentials writes the mirror, and anybody reads it who may
// not list.
func TestMinIO(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	f := newFixture(t)
	open := func(c bucket.Config) bucket.Bucket {
		t.Helper()
		b, err := bucket.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	at := bucket.Config{URL: "s3://" + s.Bucket(t, minio.PublicRead) + "/apps", Endpoint: s.Endpoint, Region: s.Region, PathStyle: true}
	with := at
	with.AccessKeyFile, with.SecretKeyFile = s.Root.AccessKeyFile, s.Root.SecretKeyFile
	f.Bucket = open(with)
	at.Anonymous = true
	reader := mirror.Mirror{Bucket: open(at), App: "mnw"}

	if _, err := reader.Poll(t.Context(), "b", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("before anything was mirrored: %v, want fs.ErrNotExist", err)
	}
	first := f.state(1, 1000, "1.0")
	f.must(first)
	got, err := reader.Poll(t.Context(), "b", "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reader.Poll(t.Context(), "b", got.Version); !errors.Is(err, bucket.ErrSame) {
		t.Errorf("polled again: %v, want ErrSame", err)
	}
	signed, err := got.Signed(t.Context(), f.trust.Kids(signing.RoleChannel))
	if err == nil {
		err = f.trust.Verify(signing.RoleChannel, signed)
	}
	if err != nil {
		t.Error(err)
	}
	if out := f.must(first); out.Changed {
		t.Errorf("the same again: %+v", out)
	}
	if out := f.must(f.state(1, 2000, "2.0")); !out.Changed || out.Before.Version != "1.0" {
		t.Errorf("the next: %+v", out)
	}
	if _, err := f.put(first); reason.Of(err) != reason.Stale {
		t.Errorf("an older state: %v, want the reason stale", err)
	}
	if now, err := reader.Poll(t.Context(), "b", got.Version); err != nil || now.Version == got.Version {
		t.Errorf("after the next: %v", err)
	}
	f.walks(t, reader)
}

// walks publishes trust version 2 and wants the reader to find it.
func (f *fixture) walks(t *testing.T, reader mirror.Mirror) {
	t.Helper()
	if got, err := reader.Walk(t.Context(), f.trust, nil); err != nil || got != f.trust {
		t.Errorf("walked to %d, %v; there is nothing to walk to", got.Version, err)
	}
	next := *f.trust
	next.Version = 2
	doc, err := next.Encode()
	if err == nil {
		err = f.PutTrust(t.Context(), 2, f.sign(doc), f.trust)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got, err := reader.Walk(t.Context(), f.trust, nil); err != nil || got.Version != 2 {
		t.Errorf("walked to %d, %v; want version 2", got.Version, err)
	}
}
