package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

// Tree reads what a release on disk holds, whoever made it. An error may match tree.ErrTree.
func (d *Dir) Tree(ctx context.Context, version string) ([]tree.Entry, error) {
	root, err := os.OpenRoot(d.ReleasePath(version))
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	defer root.Close()
	entries, err := tree.Read(ctx, root)
	if err != nil {
		return nil, fmt.Errorf("read release %q: %w", version, reason.OnDisk(err))
	}
	return entries, nil
}

// Exposed returns the first path of a release that others than root and this process's user could
// change; "" if there is none.
func (d *Dir) Exposed(version string) (path string, err error) {
	root, err := os.OpenRoot(d.ReleasePath(version))
	if err != nil {
		return "", reason.OnDisk(err)
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := root.Lstat(name)
		if err != nil {
			return err
		}
		uid := int(info.Sys().(*syscall.Stat_t).Uid)
		open := info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSymlink == 0
		if open || uid != 0 && uid != os.Geteuid() {
			path = filepath.Join(d.ReleasePath(version), name)
			return fs.SkipAll
		}
		return nil
	})
	return path, reason.OnDisk(err)
}

// Own makes a foreign release one of Sando's: it gets meta, whose manifest names the tree that
// it holds. The release stays in place.
func (d *Dir) Own(version string, meta Meta, entries []tree.Entry) error {
	s, err := d.Stage()
	if err != nil {
		return err
	}
	defer s.Discard()
	if err := s.seal(version, meta, entries); err != nil {
		return err
	}
	if err := durable.Rename(filepath.Join(s.path, layout.MetaDir), filepath.Join(d.ReleasePath(version), layout.MetaDir)); err != nil {
		return reason.OnDisk(fmt.Errorf("store manifest of %q: %w", version, err))
	}
	return nil
}

// maxAside is how many releases of one version may be set aside.
const maxAside = 100

// AsideName returns the name that Aside gives a release: one that is free, or that an Aside of
// the same version which was interrupted had begun to use. It differs in what follows a plus
// sign, which probes do not compare: the app answers with the version that it was built as.
func (d *Dir) AsideName(version string) (string, error) {
	const longest = 64 - len("+foreign.99") // of a version there are 64
	base, sign := strings.TrimSuffix(version[:min(len(version), longest)], "."), "+"
	if strings.Contains(base, "+") {
		sign = "."
	}
	for n := 1; n < maxAside; n++ {
		name := base + sign + "foreign"
		if n > 1 {
			name = fmt.Sprintf("%s.%d", name, n)
		}
		_, err := os.Lstat(d.ReleasePath(name))
		if errors.Is(err, fs.ErrNotExist) || d.leadsTo(name, version) {
			return name, layout.CheckVersion(name)
		}
		if err != nil {
			return "", reason.OnDisk(err)
		}
	}
	return "", reason.Errorf(reason.Config, "releases/ has %d directories %s%sforeign…: move some of them away", maxAside-1, base, sign)
}

// leadsTo reports whether releases/<name> is a link to the release version beside it.
func (d *Dir) leadsTo(name, version string) bool {
	target, err := os.Readlink(d.ReleasePath(name))
	return err == nil && target == version
}

// Aside renames a release to name, of AsideName, also when it is live: `current` names a whole
// release at every moment, the same one. A crash leaves at most links that FinishAside, or
// another Aside, takes away. ErrNoExchange is matched where the filesystem cannot do that.
func (d *Dir) Aside(version, name string) error {
	err := d.aside(version, name)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.ENOTSUP) {
		return reason.Errorf(reason.Config, "release %q: %w (%w)", version, ErrNoExchange, err)
	}
	if err != nil {
		return reason.OnDisk(fmt.Errorf("rename release %q to %q: %w", version, name, err))
	}
	return nil
}

func (d *Dir) aside(version, name string) error {
	cur, err := d.Current()
	if err != nil {
		return err
	}
	begun := d.leadsTo(name, version)
	if !begun && cur.Version != version {
		return durable.Rename(d.ReleasePath(version), d.ReleasePath(name))
	}
	// The new name leads to the release, then `current` goes by it, then the two change
	// places, and the old name is a link that nobody needs.
	if !begun {
		if err := durable.Symlink(version, d.ReleasePath(name)); err != nil {
			return err
		}
	}
	if cur.Version == version {
		if err := durable.Symlink("releases/"+name, d.CurrentPath()); err != nil {
			return err
		}
	}
	if err := durable.Exchange(d.ReleasePath(version), d.ReleasePath(name)); err != nil {
		return err
	}
	return durable.Remove(d.ReleasePath(version))
}

// FinishAside takes away what an Aside of version left when it was interrupted at its end.
func (d *Dir) FinishAside(version string) error {
	if !d.leadsTo(version, version) {
		return nil
	}
	return reason.OnDisk(durable.Remove(d.ReleasePath(version)))
}
