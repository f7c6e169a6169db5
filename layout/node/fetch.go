package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

const fetchDir = layout.MetaDir + "/fetch"

// Fetched opens the file name in fetch/ for reading and writing, made when missing, and
// deletes everything else there. It may hold what an earlier puller wrote, after a power cut
// anything: nothing is synced, since whoever goes on with it hashes all of it. The caller
// holds the lock, and closes the file.
func (d *Dir) Fetched(name string) (*os.File, error) {
	f, err := d.fetched(name)
	if err != nil {
		return nil, reason.OnDisk(fmt.Errorf("open what was fetched: %w", err))
	}
	return f, nil
}

func (d *Dir) fetched(name string) (*os.File, error) {
	r, err := os.OpenRoot(d.root)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := dropFetched(r, func(n string) bool { return n == name }); err != nil {
		return nil, err
	}
	path := fetchDir + "/" + name
	if info, err := r.Lstat(path); err == nil && !info.Mode().IsRegular() {
		if err := r.RemoveAll(path); err != nil {
			return nil, err
		}
	}
	return r.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
}

// DropFetched deletes everything in fetch/ but what has a name that begins with keep; an
// empty one keeps nothing.
func (d *Dir) DropFetched(keep string) error {
	r, err := os.OpenRoot(d.root)
	if err != nil {
		return reason.OnDisk(err)
	}
	defer r.Close()
	if err := dropFetched(r, func(n string) bool { return keep != "" && strings.HasPrefix(n, keep) }); err != nil {
		return reason.OnDisk(fmt.Errorf("delete what was fetched: %w", err))
	}
	return nil
}

func dropFetched(r *os.Root, keep func(name string) bool) error {
	names, err := readNames(r, fetchDir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if keep(n) {
			continue
		}
		if err := r.RemoveAll(fetchDir + "/" + n); err != nil {
			return err
		}
	}
	return nil
}

// cleanFetched leaves the file in fetch/ that was written last.
func cleanFetched(r *os.Root) error {
	names, err := readNames(r, fetchDir)
	if err != nil {
		return err
	}
	newest, at := "", time.Time{}
	for _, n := range names {
		info, err := r.Lstat(fetchDir + "/" + n)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case info.Mode().IsRegular() && info.ModTime().After(at):
			newest, at = n, info.ModTime()
		}
	}
	return dropFetched(r, func(n string) bool { return n == newest })
}
