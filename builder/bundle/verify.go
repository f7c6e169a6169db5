package bundle

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/archive"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// Verified is what was found of a version in the bucket.
type Verified struct {
	App      string        `json:"app"`
	Version  string        `json:"version"`
	Commit   string        `json:"commit,omitempty"`
	Manifest layout.Digest `json:"manifest,omitempty"`
	OK       bool          `json:"ok"`
	Objects  []Checked     `json:"objects"`
	// Of the first fault; empty when there is none.
	Error  string      `json:"error,omitempty"`
	Reason reason.Code `json:"reason,omitempty"`
	Exit   int         `json:"exit"`
}

// Checked is one object.
type Checked struct {
	Key     string `json:"key"`
	What    string `json:"what"` // "manifest", "signature", "bundle", "delta"
	Size    int64  `json:"size,omitempty"`
	OK      bool   `json:"ok"`
	Problem string `json:"problem,omitempty"`
}

// Verify reads everything that a version has in the bucket, and holds it against the
// manifest, the manifest against its signatures. With an error that is about what it
// found, the result is there as well.
func (s *Store) Verify(ctx context.Context, t *signing.Trust, version string) (*Verified, error) {
	out := &Verified{App: s.App, Version: version, Objects: []Checked{}}
	err := s.verifyAll(ctx, t, version, out)
	if err != nil && reason.Of(err).Exit() != refusal {
		return nil, err
	}
	out.OK = err == nil
	if err != nil {
		err = fmt.Errorf("version %s: %w", version, err)
		out.Error, out.Reason, out.Exit = err.Error(), reason.Of(err), reason.Of(err).Exit()
	}
	return out, err
}

// note adds a line about an object, and returns its error unless that is a fault of the
// object and another was found before.
func (v *Verified) note(first *error, key, what string, size int64, err error) error {
	c := Checked{Key: key, What: what, Size: size, OK: err == nil}
	if err != nil {
		c.Problem = err.Error()
	}
	v.Objects = append(v.Objects, c)
	if err != nil && reason.Of(err).Exit() != refusal {
		return err
	}
	if *first == nil {
		*first = err
	}
	return nil
}

func (s *Store) verifyAll(ctx context.Context, t *signing.Trust, version string, out *Verified) error {
	var fault error
	latest := s.Key(version, layout.ManifestLatest)
	doc, err := bucket.ReadAll(ctx, s.Bucket, latest, layout.MaxManifest)
	var p *Published
	if err != nil {
		err = lacks(latest, err)
	} else {
		out.Manifest = layout.Sum(doc)
		p, err = s.Check(ctx, t, version, doc)
	}
	if err := out.note(&fault, latest, "manifest", int64(len(doc)), err); err != nil {
		return err
	}
	if fault != nil { // nothing to hold the rest against
		return fault
	}
	out.Commit = p.Source.Commit
	if err := s.verifyManifest(ctx, t, p, out, &fault); err != nil {
		return err
	}
	for _, o := range objects(p.Manifest) {
		what := "delta"
		var want *layout.Bundle
		for i := range p.Bundles {
			if p.Bundles[i].Name == o.Name {
				want, what = &p.Bundles[i], "bundle"
			}
		}
		err := s.verifyObject(ctx, p, o, want)
		if err := out.note(&fault, s.Key(version, o.Name), what, o.Size, err); err != nil {
			return err
		}
	}
	return fault
}

// verifyManifest checks the objects beside manifest.json: what nodes fetch.
func (s *Store) verifyManifest(ctx context.Context, t *signing.Trust, p *Published, out *Verified, fault *error) error {
	name := s.Key(p.Version, layout.ManifestName(p.Digest))
	doc, err := bucket.ReadAll(ctx, s.Bucket, name, layout.MaxManifest)
	switch {
	case err != nil:
		err = lacks(name, err)
	case !bytes.Equal(doc, p.Doc):
		err = reason.Errorf(reason.Mismatch, "bytes differ from those of %s", layout.ManifestLatest)
	}
	if err := out.note(fault, name, "manifest", int64(len(doc)), err); err != nil {
		return err
	}
	for _, kid := range t.Kids(signing.RoleRelease) {
		name := s.Key(p.Version, layout.ManifestSignature(p.Digest, kid))
		sig, err := bucket.ReadAll(ctx, s.Bucket, name, layout.MaxSignature)
		if missing(err) {
			continue // others were enough
		}
		if err == nil {
			var key *signing.PublicKey
			if key, err = signing.ParsePublicKey([]byte(t.Keys[kid])); err == nil {
				err = reason.Wrap(reason.Signature, signing.VerifyBundle(key, p.Doc, sig))
			}
		}
		if err := out.note(fault, name, "signature", int64(len(sig)), err); err != nil {
			return err
		}
	}
	return nil
}

// verifyObject reads an object into a file without a name, and parses it only when its
// hash is right. want is nil for what is no tarball.
func (s *Store) verifyObject(ctx context.Context, p *Published, o layout.Bundle, want *layout.Bundle) (err error) {
	f, err := os.CreateTemp(s.Spool, SpoolPrefix+"*")
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if err := os.Remove(f.Name()); err != nil && !missing(err) {
		return err
	}
	bar := s.Progress("verify "+o.Name, o.Size)
	defer bar.Done()
	if err := s.compare(ctx, s.Key(p.Version, o.Name), o, io.MultiWriter(f, counter{bar})); err != nil || want == nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	_, err = archive.Check(ctx, f, archive.Want{
		Unpacked: want.Unpacked, Entries: want.Entries, Tree: want.Tree, MTime: p.Source.Time.Time,
	})
	return err
}

// counter tells a progress bar what is written.
type counter struct{ bar Progress }

func (c counter) Write(p []byte) (int, error) {
	c.bar.Add(int64(len(p)))
	return len(p), nil
}
