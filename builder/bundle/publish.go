package bundle

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// Key returns the key of an object of a version.
func (s *Store) Key(version, name string) string {
	return layout.ReleaseKey(s.App, version, name)
}

// Find returns what the bucket has of version, nil when there is nothing. Errors
// have the reason "signature", "format" or "limit" for a manifest that nodes would not
// take either, "mismatch" for one of another app or version.
func (s *Store) Find(ctx context.Context, t *signing.Trust, version string) (*Published, error) {
	doc, err := bucket.ReadAll(ctx, s.Bucket, s.Key(version, layout.ManifestLatest), layout.MaxManifest)
	if missing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", version, err)
	}
	p, err := s.Check(ctx, t, version, doc)
	if reason.Of(err) == reason.Signature && t.Roles[signing.RoleRelease].Threshold > 1 {
		err = fmt.Errorf("%w; where another release key is, builder sign %s adds its signature", err, version)
	}
	if err != nil {
		return nil, fmt.Errorf("version %s as it is in the bucket: %w", version, err)
	}
	return p, nil
}

// Check checks the bytes of a manifest the way a node does.
func (s *Store) Check(ctx context.Context, t *signing.Trust, version string, doc []byte) (*Published, error) {
	signed, err := s.signatures(ctx, t, version, doc)
	if err != nil {
		return nil, err
	}
	if err := t.Verify(signing.RoleRelease, signed); err != nil {
		return nil, err
	}
	return s.parse(version, signed)
}

// Begun is Find for a version that at least one release key has signed, where others may
// still have to.
func (s *Store) Begun(ctx context.Context, t *signing.Trust, version string) (*Published, error) {
	p, err := s.Find(ctx, t, version)
	if reason.Of(err) != reason.Signature {
		return p, err
	}
	if begun, rerr := s.Read(ctx, t, version); rerr == nil && len(t.Signers(signing.RoleRelease, begun.Signed())) > 0 {
		return begun, nil
	}
	return nil, err
}

// Read returns what the bucket has of version, whoever signed it: to see who did. Its
// error has the reason "stale" when there is nothing.
func (s *Store) Read(ctx context.Context, t *signing.Trust, version string) (*Published, error) {
	doc, err := bucket.ReadAll(ctx, s.Bucket, s.Key(version, layout.ManifestLatest), layout.MaxManifest)
	if missing(err) {
		return nil, absent(version)
	}
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", version, err)
	}
	signed, err := s.signatures(ctx, t, version, doc)
	if err != nil {
		return nil, fmt.Errorf("version %s: %w", version, err)
	}
	p, err := s.parse(version, signed)
	if err != nil {
		return nil, fmt.Errorf("version %s as it is in the bucket: %w", version, err)
	}
	return p, nil
}

// signatures asks for those by the release keys.
func (s *Store) signatures(ctx context.Context, t *signing.Trust, version string, doc []byte) (signing.Signed, error) {
	d := layout.Sum(doc)
	signed := signing.Signed{Doc: doc, Sigs: signing.Signatures{}}
	for _, kid := range t.Kids(signing.RoleRelease) {
		sig, err := bucket.ReadAll(ctx, s.Bucket, s.Key(version, layout.ManifestSignature(d, kid)), layout.MaxSignature)
		if missing(err) {
			continue
		}
		if err != nil {
			return signed, err
		}
		signed.Sigs[kid] = sig
	}
	return signed, nil
}

func (s *Store) parse(version string, signed signing.Signed) (*Published, error) {
	m, err := layout.ParseManifest(signed.Doc)
	if err != nil {
		return nil, err
	}
	if m.App != s.App || m.Version != version {
		return nil, reason.Errorf(reason.Mismatch, "manifest is of app %q, version %q", m.App, m.Version)
	}
	return &Published{m, signed.Doc, layout.Sum(signed.Doc), signed.Sigs}, nil
}

// Sign adds the signature of a key to a manifest that is there. It reports false when the
// key has signed it already.
func (s *Store) Sign(ctx context.Context, p *Published, key Signer) (bool, error) {
	kid := key.Public().Kid()
	if there, ok := p.sigs[kid]; ok && signing.VerifyBundle(key.Public(), p.Doc, there) == nil {
		return false, nil
	}
	sig, err := key.Sign(p.Doc)
	if err != nil {
		return false, err
	}
	err = s.put(ctx, s.Key(p.Version, layout.ManifestSignature(p.Digest, kid)), sig, func(there []byte) bool {
		return signing.VerifyBundle(key.Public(), p.Doc, there) == nil
	})
	if err != nil {
		return false, err
	}
	p.sigs[kid] = sig
	return true, nil
}

func absent(version string) error {
	return reason.Errorf(reason.Stale, "version %s is not in the bucket: builder release --version %s --rev COMMIT makes it, from the commit that it was", version, version)
}

// Must is Find for a version that has to be there.
func (s *Store) Must(ctx context.Context, t *signing.Trust, version string) (*Published, error) {
	p, err := s.Find(ctx, t, version)
	if err == nil && p == nil {
		return nil, absent(version)
	}
	return p, err
}

// objects returns the names and sizes of the data that m names.
func objects(m *layout.Manifest) (list []layout.Bundle) {
	for _, bundle := range m.Bundles {
		list = append(list, layout.Bundle{Name: bundle.Name, Size: bundle.Size, SHA256: bundle.SHA256})
		for _, d := range bundle.Deltas {
			if d.Format == layout.DeltaFormat {
				list = append(list, layout.Bundle{Name: d.Name, Size: d.Size, SHA256: d.SHA256})
			}
		}
	}
	return list
}

// Whole reports whether every object of the bundle is there. The signatures are: p was
// made from them.
func (s *Store) Whole(ctx context.Context, p *Published) error {
	name := s.Key(p.Version, layout.ManifestName(p.Digest))
	doc, err := bucket.ReadAll(ctx, s.Bucket, name, layout.MaxManifest)
	if err != nil {
		return fmt.Errorf("version %s: %w", p.Version, lacks(name, err))
	}
	if !bytes.Equal(doc, p.Doc) {
		return reason.Errorf(reason.Mismatch, "version %s: object %q is not the manifest that %s is: the bucket is damaged; %s",
			p.Version, name, layout.ManifestLatest, UnderNew)
	}
	for _, o := range objects(p.Manifest) {
		info, err := s.Bucket.Stat(ctx, s.Key(p.Version, o.Name))
		if err != nil {
			return fmt.Errorf("version %s: %w", p.Version, lacks(s.Key(p.Version, o.Name), err))
		}
		if info.Size != o.Size {
			return reason.Errorf(reason.Mismatch, "version %s: object %q has %d bytes, the manifest says %d: the bucket is damaged; %s",
				p.Version, s.Key(p.Version, o.Name), info.Size, o.Size, UnderNew)
		}
	}
	return nil
}

// UnderNew is what to do about a bundle that is damaged.
const UnderNew = "put the object back, or release under a new version"

func lacks(key string, err error) error {
	if missing(err) {
		return reason.Errorf(reason.Stale, "object %q is not in the bucket: %s", key, UnderNew)
	}
	return fmt.Errorf("object %q: %w", key, err)
}

// sameTrees reports whether both manifests have the same tree for the same platforms.
func sameTrees(a, b *layout.Manifest) bool {
	return slices.EqualFunc(a.Bundles, b.Bundles, func(x, y layout.Bundle) bool {
		return x.Platform == y.Platform && x.Tree == y.Tree
	})
}

// Stands decides whether the bundle ours is covered by what has the version already:
// nil, or the reason "mismatch".
func Stands(there *Published, ours *layout.Manifest) error {
	if sameTrees(there.Manifest, ours) {
		return nil
	}
	err := fmt.Errorf("version %s is published from commit %s with other content than commit %s gives: "+
		"a version has one content for ever; release under a new version", ours.Version, there.Source.Commit, ours.Source.Commit)
	for i, x := range ours.Bundles {
		switch {
		case len(there.Bundles) != len(ours.Bundles) || there.Bundles[i].Platform != x.Platform:
			return reason.Errorf(reason.Mismatch, "%w (it has the platforms %s, this has %s)", err, Platforms(there.Manifest), Platforms(ours))
		case there.Bundles[i].Tree != x.Tree:
			return reason.Errorf(reason.Mismatch, "%w (tree for %s: %s there, %s here)", err, x.Platform, there.Bundles[i].Tree, x.Tree)
		}
	}
	return reason.Wrap(reason.Mismatch, err)
}

// Platforms returns what the manifest has a bundle for.
func Platforms(m *layout.Manifest) (list []string) {
	for _, bundle := range m.Bundles {
		list = append(list, bundle.Platform)
	}
	return list
}

// Publish writes the products and their manifest to the bucket. It returns what the
// version is now: ours, or what another builder published first, if that has the same
// content.
func (s *Store) Publish(ctx context.Context, t *signing.Trust, signer Signer, m *layout.Manifest, doc []byte, list []Product) (*Published, bool, error) {
	for _, p := range list {
		if err := s.upload(ctx, m.Version, p); err != nil {
			return nil, false, err
		}
	}
	d := layout.Sum(doc)
	sig, err := signer.Sign(doc)
	if err != nil {
		return nil, false, err
	}
	// In this order: who finds manifest.json finds all the rest.
	err = s.put(ctx, s.Key(m.Version, layout.ManifestSignature(d, signer.Public().Kid())), sig, func(there []byte) bool {
		return signing.VerifyBundle(signer.Public(), doc, there) == nil
	})
	if err != nil {
		return nil, false, err
	}
	if err := s.put(ctx, s.Key(m.Version, layout.ManifestName(d)), doc, func([]byte) bool { return false }); err != nil {
		return nil, false, err
	}
	err = s.Bucket.Create(ctx, s.Key(m.Version, layout.ManifestLatest), bytes.NewReader(doc), int64(len(doc)))
	switch {
	case err == nil:
		return &Published{m, doc, d, signing.Signatures{signer.Public().Kid(): sig}}, true, nil
	case !errors.Is(err, fs.ErrExist):
		return nil, false, fmt.Errorf("publish version %s: %w", m.Version, err)
	}
	there, err := s.Begun(ctx, t, m.Version)
	if err == nil && there == nil {
		err = absent(m.Version)
	}
	if err != nil {
		return nil, false, err
	}
	return there, false, Stands(there, m)
}

// put stores a small object. One that is there must hold the same bytes, or others
// that good finds as good.
func (s *Store) put(ctx context.Context, key string, data []byte, good func([]byte) bool) error {
	err := s.Bucket.Create(ctx, key, bytes.NewReader(data), int64(len(data)))
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("publish %q: %w", key, err)
	}
	there, err := bucket.ReadAll(ctx, s.Bucket, key, layout.MaxManifest)
	if err != nil {
		return fmt.Errorf("publish: %w", err)
	}
	if !bytes.Equal(there, data) && !good(there) {
		return reason.Errorf(reason.Mismatch, "object %q is in the bucket already and is not what belongs there: remove it, or %s", key, UnderNew)
	}
	return nil
}

// upload stores a tarball. One that is there, left by a release that died, must have
// the same bytes.
func (s *Store) upload(ctx context.Context, version string, p Product) (err error) {
	key := s.Key(version, p.Name)
	f, err := os.Open(p.File)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	bar := s.Progress("upload "+p.Platform, p.Size)
	defer bar.Done()
	err = s.Bucket.Create(ctx, key, &countedReader{ReadSeeker: f, bar: bar}, p.Size)
	if err == nil {
		return nil
	}
	if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("publish %q: %w", key, err)
	}
	if err := s.compare(ctx, key, p.Bundle, io.Discard); err != nil {
		return fmt.Errorf("object left by an earlier release: %w: remove it, or %s", err, UnderNew)
	}
	return nil
}

// countedReader tells a progress bar how much of it was read. It is read again when a
// bucket hashes it before it sends it, or tries again.
type countedReader struct {
	io.ReadSeeker
	bar Progress
	n   int64
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.ReadSeeker.Read(p)
	c.n += int64(n)
	c.bar.Add(int64(n))
	return n, err
}

func (c *countedReader) Seek(offset int64, whence int) (int64, error) {
	at, err := c.ReadSeeker.Seek(offset, whence)
	if err == nil {
		c.bar.Add(at - c.n)
		c.n = at
	}
	return at, err
}

// compare reads the object key, copies it to w, and holds it against what a manifest
// says of it. It reads at most one byte more than that.
func (s *Store) compare(ctx context.Context, key string, want layout.Bundle, w io.Writer) (err error) {
	r, _, err := s.Bucket.Get(ctx, key)
	if missing(err) {
		return reason.Errorf(reason.Stale, "object %q is not in the bucket", key)
	}
	if err != nil {
		return err
	}
	defer func() {
		if cerr := r.Close(); err == nil {
			err = cerr
		}
	}()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(h, w), io.LimitReader(r, want.Size+1))
	if err != nil {
		return fmt.Errorf("object %q: %w", key, err)
	}
	if n != want.Size {
		return reason.Errorf(reason.Mismatch, "object %q: size mismatch: got %s, want %d bytes", key, atLeast(n, want.Size), want.Size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != want.SHA256 {
		return reason.Errorf(reason.Mismatch, "object %q: digest mismatch: got %s, want %s", key, got, want.SHA256)
	}
	return nil
}

func atLeast(n, want int64) string {
	if n > want {
		return fmt.Sprintf("more than %d", want)
	}
	return fmt.Sprint(n)
}
