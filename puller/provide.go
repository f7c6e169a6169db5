package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/archive"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/tree"
	"makenot.work/sando/signing"
)

// provide makes sure that t's release is on disk and whole, and returns t with its
// manifest filled in. For an order by channel both signatures are checked first.
func (c *cycle) provide(ctx context.Context, t target) (target, error) {
	if !t.Pin {
		if err := c.checkChannel(); err != nil {
			return t, err
		}
	}
	if err := c.finishAside(t); err != nil {
		return t, err
	}
	rel, err := c.dir.Release(t.Version)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c.install(ctx, t)
	case errors.Is(err, node.ErrForeign):
		return c.foreign(ctx, t)
	case reason.Of(err) == reason.Format && err != nil:
		// Its manifest is damaged, so nothing is known of it.
		return c.replace(ctx, t, err)
	case err != nil:
		return t, err
	}
	if t.Manifest != "" && t.Manifest != rel.Digest {
		return c.otherManifest(ctx, t, rel)
	}
	if !t.Pin {
		if err := c.checkInstalled(ctx, t, rel); err != nil {
			return t, err
		}
	}
	t.Manifest = rel.Digest
	// What the app's environment does not fit is refused at every poll, until somebody mends
	// that: so before the whole of it is read.
	if err := c.audit(t); err != nil {
		return t, err
	}
	c.beginBulk(Hashing)
	if _, err := c.dir.Verify(ctx, t.Version); err != nil {
		if reason.Of(err) != reason.Mismatch {
			return t, err
		}
		return c.replace(ctx, t, err)
	}
	return t, nil
}

// replace fetches a damaged release again. The live one is never taken away.
func (c *cycle) replace(ctx context.Context, t target, damage error) (target, error) {
	if t.Version == c.cur.Version {
		return t, reason.Errorf(reason.Mismatch, "the live release is damaged, and is never taken away; `puller verify --repair` fetches it again and restarts the app: %w", damage)
	}
	c.warn("%s; it is fetched again", damage)
	p, err := c.prepare(ctx, t)
	if err != nil {
		return t, err
	}
	if err := c.dir.Trash(t.Version); err != nil {
		return t, err
	}
	return c.unpack(ctx, t, p, install(t))
}

// placing puts a release that is unpacked in place.
type placing func(s *node.Stage, meta node.Meta, entries []tree.Entry) error

// install is the placing of a release that is not on disk.
func install(t target) placing {
	return func(s *node.Stage, meta node.Meta, entries []tree.Entry) error {
		return s.Install(t.Version, meta, entries)
	}
}

// otherManifest is about a version on disk whose manifest is not the wanted one: with
// the same tree the manifest is taken over, otherwise one version has two contents.
func (c *cycle) otherManifest(ctx context.Context, t target, rel *node.Installed) (target, error) {
	p, err := c.prepare(ctx, t)
	if err != nil {
		return t, err
	}
	if p.bundle.Tree != rel.Bundle.Tree {
		return t, reason.Errorf(reason.Mismatch, "version %s is on disk with other content (tree %s, want %s): one version has one content for ever; release under a new version", t.Version, rel.Bundle.Tree, p.bundle.Tree)
	}
	c.beginBulk(Hashing)
	if _, err := c.dir.Verify(ctx, t.Version); err != nil {
		if reason.Of(err) != reason.Mismatch {
			return t, err
		}
		return c.replace(ctx, t, err)
	}
	return t, c.dir.Adopt(t.Version, p.meta)
}

// checkInstalled verifies the manifest of an installed release under the newest trust,
// with signatures from disk, or from the bucket where a newer key signed it again.
func (c *cycle) checkInstalled(ctx context.Context, t target, rel *node.Installed) error {
	if c.trust.IsRevoked(rel.Digest) {
		return reason.Errorf(reason.Policy, "%s %s is revoked by the trust in force: a channel activates it no more", t.Version, rel.Digest)
	}
	kids := c.trust.Kids(signing.RoleRelease)
	sigs, err := c.dir.Signatures(rel, kids)
	if err != nil {
		return err
	}
	if c.trust.Verify(signing.RoleRelease, signing.Signed{Doc: rel.Manifest, Sigs: sigs}) == nil {
		return nil
	}
	c.begin(Asking, askTime)
	sigs, err = c.signatures(ctx, t.Version, rel.Digest, kids)
	if err != nil {
		return err
	}
	if err := c.trust.Verify(signing.RoleRelease, signing.Signed{Doc: rel.Manifest, Sigs: sigs}); err != nil {
		return fmt.Errorf("manifest of %q: %w", t.Version, err)
	}
	return c.dir.Adopt(t.Version, node.Meta{Manifest: rel.Manifest, Signatures: sigs})
}

// prepared is what is verified and known before a tarball is fetched.
type prepared struct {
	meta     node.Meta
	manifest *layout.Manifest
	bundle   layout.Bundle
}

// prepare fetches and verifies t's manifest and picks the bundle for this platform.
func (c *cycle) prepare(ctx context.Context, t target) (*prepared, error) {
	c.begin(Asking, askTime)
	if err := c.loadTrust(); err != nil {
		return nil, err
	}
	doc, err := c.manifest(ctx, t)
	if err != nil {
		return nil, err
	}
	digest := layout.Sum(doc)
	sigs, err := c.signatures(ctx, t.Version, digest, c.trust.Kids(signing.RoleRelease))
	if err != nil {
		return nil, err
	}
	if err := c.trust.Verify(signing.RoleRelease, signing.Signed{Doc: doc, Sigs: sigs}); err != nil {
		return nil, fmt.Errorf("manifest of %q: %w", t.Version, err)
	}
	m, err := layout.ParseManifest(doc)
	if err != nil {
		return nil, err
	}
	p := &prepared{meta: node.Meta{Manifest: doc, Signatures: sigs}, manifest: m}
	return p, c.checkManifest(t, p, digest)
}

func (c *cycle) checkManifest(t target, p *prepared, digest layout.Digest) (err error) {
	if p.manifest.App != c.cfg.App {
		return reason.Errorf(reason.Policy, "manifest of %q is for app %q, want %q", t.Version, p.manifest.App, c.cfg.App)
	}
	if p.manifest.Version != t.Version {
		return reason.Errorf(reason.Mismatch, "manifest %s is of version %q, want %q", digest, p.manifest.Version, t.Version)
	}
	if c.trust.IsRevoked(digest) {
		if !t.Force {
			return reason.Errorf(reason.Policy, "%s %s is revoked by the trust in force and is not on disk: it is not fetched any more", t.Version, digest)
		}
		c.warn("%s %s is revoked by the trust in force: fetched by force", t.Version, digest)
	}
	var ok bool
	if p.bundle, ok = p.manifest.For(runtime.GOOS, runtime.GOARCH); !ok {
		return reason.Errorf(reason.Policy, "version %s has no bundle for %s/%s: add the platform to builder.toml and release a new version", t.Version, runtime.GOOS, runtime.GOARCH)
	}
	b := p.bundle
	if b.Size > c.cfg.maxBundle || b.Unpacked > c.cfg.maxBundle {
		return reason.Errorf(reason.Limit, "bundle of %s has %d bytes, unpacked %d; limits.max_bundle is %d", t.Version, b.Size, b.Unpacked, c.cfg.maxBundle)
	}
	if b.Entries > c.cfg.Limits.MaxEntries {
		return reason.Errorf(reason.Limit, "bundle of %s has %d entries; limits.max_entries is %d", t.Version, b.Entries, c.cfg.Limits.MaxEntries)
	}
	return nil
}

// manifest fetches the bytes of t's manifest: by digest, or for a pin without one what
// the bucket says the version has.
func (c *cycle) manifest(ctx context.Context, t target) ([]byte, error) {
	name := layout.ManifestLatest
	if t.Manifest != "" {
		name = layout.ManifestName(t.Manifest)
	}
	key := layout.ReleaseKey(c.cfg.App, t.Version, name)
	doc, err := bucket.ReadAll(ctx, c.bucket, key, layout.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		if t.Pin {
			return nil, reason.Errorf(reason.IO, "version %s is neither on disk nor in the storage (%v): the order stays; `puller --unpin` takes it back", t.Version, err)
		}
		return nil, reason.Errorf(reason.IO, "manifest of %s is not in the storage yet (%v): the next puller looks again", t.Version, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read manifest of %q: %w", t.Version, err)
	}
	if got := layout.Sum(doc); t.Manifest != "" && got != t.Manifest {
		return nil, reason.Errorf(reason.Mismatch, "manifest of %s: digest is %s, want %s: the object %s was altered in the storage; restore it, or release under a new version", t.Version, got, t.Manifest, key)
	}
	return doc, nil
}

// signatures fetches those signatures over a manifest that exist, by trusted keys only.
func (c *cycle) signatures(ctx context.Context, version string, digest layout.Digest, kids []string) (signing.Signatures, error) {
	sigs := signing.Signatures{}
	for _, kid := range kids[:min(len(kids), layout.MaxSignatures)] {
		c.begin(Asking, askTime)
		key := layout.ReleaseKey(c.cfg.App, version, layout.ManifestSignature(digest, kid))
		sig, err := bucket.ReadAll(ctx, c.bucket, key, layout.MaxSignature)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read signature of %q: %w", version, err)
		}
		sigs[kid] = sig
	}
	return sigs, nil
}

// install fetches and unpacks a release that is not on disk.
func (c *cycle) install(ctx context.Context, t target) (target, error) {
	p, err := c.prepare(ctx, t)
	if err != nil {
		return t, err
	}
	return c.unpack(ctx, t, p, install(t))
}

// unpack fetches the tarball unless it was refused just now, and puts what it holds in
// place, durably.
func (c *cycle) unpack(ctx context.Context, t target, p *prepared, place placing) (target, error) {
	t.Manifest = layout.Sum(p.meta.Manifest)
	if err := c.refused(ctx, t, p.bundle); err != nil {
		return t, err
	}
	err := c.bring(ctx, t, p, place)
	if reason.Of(err) == reason.Disk {
		// Not all that bounds what can be written can be asked for before: a quota cannot.
		if freed, ferr := c.free(ctx); ferr != nil || !freed {
			return t, errors.Join(err, ferr)
		}
		err = c.bring(ctx, t, p, place)
	}
	if err != nil && reason.Of(err).Exit() == 3 {
		err = c.refuse(ctx, t, p.bundle, err)
	}
	return t, err
}

func (c *cycle) bring(ctx context.Context, t target, p *prepared, place placing) error {
	f, err := c.fetch(ctx, t, p.bundle)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", p.bundle.Name, err)
	}
	defer f.Close()
	stage, err := c.dir.Stage()
	if err != nil {
		return err
	}
	defer stage.Discard()
	add, done := c.meter("unpack", p.bundle.Unpacked)
	defer done()
	want := archive.Want{Unpacked: p.bundle.Unpacked, Entries: p.bundle.Entries, Tree: p.bundle.Tree, MTime: p.manifest.Source.Time.Time}
	entries, err := archive.Unpack(ctx, f, stage.Root, want, add)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", p.bundle.Name, err)
	}
	c.beginBulk(Installing)
	if err := place(stage, p.meta, entries); err != nil {
		return err
	}
	c.st.Refused = nil
	if err := c.dir.DropFetched(""); err != nil {
		c.warn("%s", err)
	}
	c.log.Info("unpacked", "version", t.Version, "bytes", p.bundle.Unpacked, "entries", p.bundle.Entries)
	return nil
}
