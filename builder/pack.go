package builder

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/builder/stage"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/archive"
)

// products builds, stages and packs each platform in the directory tmp, which is the
// caller's to remove. The build of one may overwrite that of another.
func (b *Builder) products(ctx context.Context, j job, version, tmp string) (list []bundle.Product, err error) {
	if err := j.tree.Busy(); err != nil {
		return nil, err
	}
	defer func() {
		if ctx.Err() == nil && !errors.Is(err, errTimeout) { // else a build was killed: its tree is not used again
			if ierr := j.tree.Idle(); err == nil {
				err = ierr
			}
		}
	}()
	for _, p := range b.cfg.Platforms {
		if err := b.build(ctx, j, p, version); err != nil {
			return nil, err
		}
		one, err := b.pack(ctx, j, p, version, tmp)
		if err != nil {
			return nil, fmt.Errorf("bundle for %s: %w", p, err)
		}
		list = append(list, one)
	}
	return list, nil
}

// pack stages the work tree and makes the tarball of it.
func (b *Builder) pack(ctx context.Context, j job, p Platform, version, tmp string) (bundle.Product, error) {
	name := strings.ReplaceAll(p.String(), "/", "-")
	dir := filepath.Join(tmp, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return bundle.Product{}, err
	}
	work, err := os.OpenRoot(j.tree.Dir)
	if err != nil {
		return bundle.Product{}, err
	}
	defer work.Close()
	staged, err := os.OpenRoot(dir)
	if err != nil {
		return bundle.Product{}, err
	}
	defer staged.Close()
	sum, err := stage.Fill(ctx, work, staged, b.cfg.plan())
	if err != nil {
		return bundle.Product{}, err
	}
	out := bundle.Product{File: dir + ".tar.zst", Contents: sum.Entries, Warnings: sum.Warnings}
	info, err := b.tarball(ctx, j, staged, out.File, total(sum))
	if err != nil {
		return bundle.Product{}, err
	}
	out.Bundle = layout.Bundle{
		Platform: p.String(), Size: info.Size, SHA256: info.SHA256,
		Unpacked: info.Unpacked, Entries: info.Entries, Tree: info.Tree,
	}
	out.Name = layout.BundleName(b.cfg.App, version, out.Bundle)
	return out, os.RemoveAll(dir) // room for the next one
}

func total(sum stage.Summary) (n int64) {
	for _, e := range sum.Entries {
		n += e.Bytes
	}
	return n
}

func (b *Builder) tarball(ctx context.Context, j job, staged *os.Root, file string, size int64) (info archive.Info, err error) {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return info, err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	bar := b.opt.Progress("pack", size)
	defer bar.Done()
	info, _, err = archive.Pack(ctx, f, staged, j.tree.Time, bar.Add)
	return info, err
}

// manifest returns the manifest of the products and its bytes.
func (b *Builder) manifest(j job, version string, list []bundle.Product) (*layout.Manifest, []byte, error) {
	m := &layout.Manifest{
		Schema: layout.ManifestSchema, App: b.cfg.App, Version: version,
		Source: layout.Source{Commit: j.tree.Commit, Time: canon.At(j.tree.Time)},
	}
	// A path of this machine means nothing elsewhere.
	if !strings.HasPrefix(b.cfg.Source.Repo, "file:") {
		m.Source.Repo = layout.StripUserInfo(b.cfg.Source.Repo)
	}
	for _, p := range list {
		m.Bundles = append(m.Bundles, p.Bundle)
	}
	doc, err := m.Encode()
	return m, doc, err
}

// scratch makes the directory for a release under way.
func (b *Builder) scratch() (string, error) {
	if err := durable.MkdirAll(b.state("tmp"), 0o700); err != nil {
		return "", err
	}
	dir := b.state("tmp", rand.Text())
	return dir, os.Mkdir(dir, 0o700)
}
