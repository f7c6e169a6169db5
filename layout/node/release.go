package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

// ErrForeign is matched when a release was not installed by Sando, so nothing is
// known of what it should hold.
var ErrForeign = errors.New("release of another deployer")

const (
	manifestFile = layout.ManifestLatest
	listingFile  = "tree"
)

// Installed is what a release directory holds about itself.
type Installed struct {
	Version  string
	Manifest []byte // the exact bytes
	Digest   layout.Digest
	Bundle   layout.Bundle // the one for this platform
	At       time.Time     // when it was put in place
}

// Has reports whether releases/<version> is a directory.
func (d *Dir) Has(version string) (bool, error) {
	info, err := os.Lstat(d.ReleasePath(version))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, reason.OnDisk(err)
	}
	return info.IsDir(), nil
}

// checkDir reports whether releases/<version> is a directory, as fs.ErrNotExist when
// there is nothing.
func (d *Dir) checkDir(version string) error {
	path := d.ReleasePath(version)
	info, err := os.Lstat(path)
	if err == nil && !info.IsDir() {
		return reason.Errorf(reason.Mismatch, "%s is not a directory: move it away", path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fs.ErrNotExist
	}
	return reason.OnDisk(err)
}

// Releases returns the versions on disk, sorted by name. Entries of releases/ that
// cannot be a release are left out.
func (d *Dir) Releases() ([]string, error) {
	entries, err := os.ReadDir(d.ReleasesPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	var versions []string
	for _, e := range entries {
		if e.IsDir() && layout.CheckVersion(e.Name()) == nil {
			versions = append(versions, e.Name())
		}
	}
	return versions, nil
}

// Release reads what the release version says about itself. It fails with
// fs.ErrNotExist, with ErrForeign, or with the reason "format" when its manifest was
// damaged.
func (d *Dir) Release(version string) (*Installed, error) {
	if err := d.checkDir(version); err != nil {
		return nil, fmt.Errorf("release %q: %w", version, err)
	}
	meta := filepath.Join(d.ReleasePath(version), layout.MetaDir)
	info, err := os.Lstat(meta)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, reason.Errorf(reason.Mismatch, "release %q: %w", version, ErrForeign)
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	data, err := readCapped(filepath.Join(meta, manifestFile), layout.MaxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, reason.Errorf(reason.Format, "release %q: %s is missing", version, manifestFile)
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	m, err := layout.ParseManifest(data)
	if err != nil {
		return nil, fmt.Errorf("release %q: %w", version, err)
	}
	b, ok := m.For(runtime.GOOS, runtime.GOARCH)
	if !ok || m.Version != version {
		return nil, reason.Errorf(reason.Format, "release %q: its manifest is of version %q", version, m.Version)
	}
	return &Installed{Version: version, Manifest: data, Digest: layout.Sum(data), Bundle: b, At: info.ModTime()}, nil
}

// Placed returns when the release version was put in place, and whether Sando did it. It
// reads nothing of it.
func (d *Dir) Placed(version string) (at time.Time, own bool, err error) {
	info, err := os.Lstat(filepath.Join(d.ReleasePath(version), layout.MetaDir))
	if errors.Is(err, fs.ErrNotExist) {
		return time.Time{}, false, nil
	}
	if err != nil {
		return time.Time{}, false, reason.OnDisk(err)
	}
	return info.ModTime(), true, nil
}

// Verify hashes the whole release and compares it with its manifest. Damage has the
// reason "mismatch" and names the first differences; ErrForeign is passed on.
func (d *Dir) Verify(ctx context.Context, version string) (*Installed, error) {
	rel, err := d.Release(version)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(d.ReleasePath(version))
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	defer root.Close()
	have, err := tree.Read(ctx, root)
	if errors.Is(err, tree.ErrTree) {
		return nil, reason.Errorf(reason.Mismatch, "release %q is damaged: %w", version, err)
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	if got := tree.Hash(have); got != rel.Bundle.Tree {
		return nil, reason.Errorf(reason.Mismatch, "release %q is damaged: %stree is %s, want %s", version, d.differences(version, rel, have), got, rel.Bundle.Tree)
	}
	return rel, nil
}

// differences names what differs, if the listing that was stored at installation is
// still the one of the manifest.
func (d *Dir) differences(version string, rel *Installed, have []tree.Entry) string {
	data, err := readCapped(filepath.Join(d.ReleasePath(version), layout.MetaDir, listingFile), tree.MaxListing)
	if err != nil {
		return ""
	}
	want, err := tree.ParseListing(data)
	if err != nil || tree.Hash(want) != rel.Bundle.Tree {
		return ""
	}
	return strings.Join(tree.Diff(have, want), ", ") + "; "
}

// Stage is a release in the making.
type Stage struct {
	Root *os.Root // the empty directory to unpack into
	dir  *Dir
	base *os.File // opened before anything is written: syncfs reports errors since then
	path string
}

// Stage makes an empty staging directory. The caller ends with Install or Discard.
func (d *Dir) Stage() (*Stage, error) {
	base, err := os.Open(d.root)
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	path, err := os.MkdirTemp(d.Path("staging"), "")
	if err != nil {
		base.Close()
		return nil, reason.OnDisk(fmt.Errorf("make staging directory: %w", err))
	}
	s := &Stage{dir: d, base: base, path: path}
	if s.Root, err = os.OpenRoot(path); err == nil {
		err = os.Chmod(path, 0o755) // whatever the umask is; staging/ itself is private
	}
	if err != nil {
		s.Discard()
		return nil, reason.OnDisk(fmt.Errorf("open staging directory: %w", err))
	}
	return s, nil
}

// Meta is what is stored in a release beside the bundle's content.
type Meta struct {
	Manifest   []byte
	Signatures map[string][]byte // by key id
}

func (m Meta) files() map[string][]byte {
	digest := layout.Sum(m.Manifest)
	files := map[string][]byte{manifestFile: m.Manifest}
	for kid, sig := range m.Signatures {
		files[layout.ManifestSignature(digest, kid)] = sig
	}
	return files
}

// Install stores meta in the staged release, makes all of it durable and puts it in
// place as releases/<version>. An error condemns the stage: Discard it, never retry.
func (s *Stage) Install(version string, meta Meta, entries []tree.Entry) error {
	if err := s.seal(version, meta, entries); err != nil {
		return err
	}
	if err := durable.Rename(s.path, s.dir.ReleasePath(version)); err != nil {
		return reason.OnDisk(fmt.Errorf("put release %q in place: %w", version, err))
	}
	return nil
}

// ErrNoExchange is matched where the filesystem cannot exchange two directories.
var ErrNoExchange = errors.New("the filesystem cannot exchange two directories in one step")

// Exchange is Install over a release that is in place: in one step, so that it is there at
// any moment. What it was goes to the trash. announce is called when only that step is left,
// and an error of it ends it all. Of another error, ErrNoExchange excepted, the release may
// be the old one or the new one.
func (s *Stage) Exchange(version string, meta Meta, entries []tree.Entry, announce func() error) error {
	if err := s.seal(version, meta, entries); err != nil {
		return err
	}
	if err := announce(); err != nil {
		return err
	}
	err := durable.Exchange(s.path, s.dir.ReleasePath(version))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return reason.Errorf(reason.Config, "release %q: %w (%w)", version, ErrNoExchange, err)
	}
	if err == nil {
		err = durable.Rename(s.path, s.dir.trash(version))
	}
	if err != nil {
		return reason.OnDisk(fmt.Errorf("exchange release %q: %w", version, err))
	}
	return nil
}

// seal stores meta in the staged release and makes all of it durable.
func (s *Stage) seal(version string, meta Meta, entries []tree.Entry) error {
	if err := s.Root.Mkdir(layout.MetaDir, 0o755); err != nil {
		return reason.OnDisk(err)
	}
	if err := s.Root.Chmod(layout.MetaDir, 0o755); err != nil {
		return reason.OnDisk(err)
	}
	files := meta.files()
	files[listingFile] = tree.Listing(entries)
	for name, data := range files {
		if err := s.writeMeta(layout.MetaDir+"/"+name, data); err != nil {
			return reason.OnDisk(err)
		}
	}
	if err := durable.SyncFS(s.base); err != nil {
		return reason.OnDisk(fmt.Errorf("make release %q durable: %w", version, err))
	}
	return nil
}

func (s *Stage) writeMeta(name string, data []byte) error {
	f, err := s.Root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chmod(0o644), f.Close())
}

// Discard deletes what is left of the stage; after Install, nothing is.
func (s *Stage) Discard() error {
	s.base.Close()
	if s.Root != nil {
		s.Root.Close()
	}
	return os.RemoveAll(s.path)
}

// Adopt replaces the manifest of a release whose tree is the one that meta's manifest
// names as well. The release stays in place and is not restarted.
func (d *Dir) Adopt(version string, meta Meta) error {
	files := meta.files()
	names := make([]string, 0, len(files))
	for name := range files {
		if name != manifestFile {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range append(names, manifestFile) { // the manifest last: it decides
		if err := durable.WriteFile(filepath.Join(d.ReleasePath(version), layout.MetaDir, name), files[name], 0o644); err != nil {
			return reason.OnDisk(fmt.Errorf("store manifest of %q: %w", version, err))
		}
	}
	return nil
}

// Signatures returns the stored signatures by the keys kids over the manifest of an
// installed release.
func (d *Dir) Signatures(rel *Installed, kids []string) (map[string][]byte, error) {
	return readSignatures(filepath.Join(d.ReleasePath(rel.Version), layout.MetaDir), kids,
		func(kid string) string { return layout.ManifestSignature(rel.Digest, kid) })
}
