package node

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Trash takes the release version away from releases/, in one step; its bytes are
// deleted by EmptyTrash or by a later Clean. The caller makes sure that it is not
// live and not foreign.
func (d *Dir) Trash(version string) error {
	if err := durable.Rename(d.ReleasePath(version), d.trash(version)); err != nil {
		return reason.OnDisk(fmt.Errorf("trash release %q: %w", version, err))
	}
	return nil
}

// trash returns a name for what version was.
func (d *Dir) trash(version string) string {
	return d.Path("trash", fmt.Sprintf("%s.%d", version, time.Now().UnixNano()))
}

// EmptyTrash deletes what Trash took away, as long as more says so: it is asked before
// each file, and what it leaves is for another time.
func (d *Dir) EmptyTrash(more func() bool) error { return d.clear("trash", more) }

// Reclaim deletes trash and staging, and waits until their space is free again. The caller
// holds the lock and has nothing staged.
func (d *Dir) Reclaim(more func() bool) error {
	if err := errors.Join(d.clear("staging", more), d.EmptyTrash(more)); err != nil {
		return err
	}
	return reason.OnDisk(d.syncFS())
}

// syncFS makes everything durable. Some filesystems, btrfs for one, have the space of what was
// deleted again only then.
func (d *Dir) syncFS() (err error) {
	base, err := os.Open(d.root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, base.Close()) }()
	return durable.SyncFS(base)
}

// Clean deletes what a puller that died left behind: temporary files and links, in fetch/
// all but the newest file, which may be gone on with, and staging and trash, these as
// long as more says so. It follows no links. The caller holds the lock.
func (d *Dir) Clean(more func() bool) error {
	err := d.cleanTemps()
	for _, sub := range []string{"staging", "trash"} {
		err = errors.Join(err, d.clear(sub, more))
	}
	return err
}

func (d *Dir) cleanTemps() error {
	r, err := os.OpenRoot(d.root)
	if err != nil {
		return reason.OnDisk(err)
	}
	defer r.Close()
	if err := cleanFetched(r); err != nil {
		return reason.OnDisk(fmt.Errorf("clean fetch: %w", err))
	}
	dirs := []string{".", layout.MetaDir, layout.MetaDir + "/channels", layout.MetaDir + "/trust"}
	versions, err := d.Releases()
	if err != nil {
		return err
	}
	for _, v := range versions {
		dirs = append(dirs, "releases/"+v+"/"+layout.MetaDir)
	}
	for _, dir := range dirs {
		if err := removeTemps(r, dir); err != nil {
			return reason.OnDisk(fmt.Errorf("clean %s: %w", dir, err))
		}
	}
	return nil
}

// clear deletes what is in a directory of .sando/.
func (d *Dir) clear(sub string, more func() bool) error {
	r, err := os.OpenRoot(d.Path(sub))
	if err != nil {
		return reason.OnDisk(err)
	}
	defer r.Close()
	if err := empty(r, more); err != nil && !errors.Is(err, errEnough) {
		return reason.OnDisk(fmt.Errorf("empty %s: %w", sub, err))
	}
	return nil
}

var errEnough = errors.New("enough for now")

// empty deletes everything in r. Whoever deletes a million files at once is away for minutes,
// so more is asked before each.
func empty(r *os.Root, more func() bool) error {
	for {
		names, err := readSome(r)
		if err != nil || len(names) == 0 {
			return err
		}
		for _, n := range names {
			if err := remove(r, n, more); err != nil {
				return err
			}
		}
	}
}

func remove(r *os.Root, name string, more func() bool) error {
	if !more() {
		return errEnough
	}
	err := r.Remove(name) // links too, and never what they lead to
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		return err
	}
	sub, err := r.OpenRoot(name)
	if err != nil {
		return err
	}
	err = empty(sub, more)
	sub.Close()
	if err != nil {
		return err
	}
	return r.Remove(name)
}

func readSome(r *os.Root) ([]string, error) {
	f, err := r.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1000)
	if errors.Is(err, io.EOF) {
		return nil, nil
	}
	return names, err
}

// removeTemps deletes the leftovers of internal/durable in one directory. In the root
// itself, which is also other people's, only links that were meant for `current`.
func removeTemps(r *os.Root, dir string) error {
	names, err := readNames(r, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if !durable.IsTemp(n) || dir == "." && !strings.HasPrefix(n, ".current.") {
			continue
		}
		info, err := r.Lstat(dir + "/" + n)
		if err != nil {
			return err
		}
		if dir == "." && info.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		// A pin is written without the lock: its temporary file may be in use.
		if strings.HasPrefix(n, ".pin.json.") && time.Since(info.ModTime()) < time.Hour {
			continue
		}
		if err := r.Remove(dir + "/" + n); err != nil {
			return err
		}
	}
	return nil
}

func readNames(r *os.Root, dir string) ([]string, error) {
	f, err := r.Open(dir)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return f.Readdirnames(-1)
}
