package durable

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// CreateOwned is Create of a file that belongs to a user and a group. It has its owner and
// its mode from the moment it has its name.
func CreateOwned(path string, r io.Reader, perm fs.FileMode, uid, gid int) error {
	tmp, err := writeTemp(path, perm, func(f *os.File) error {
		if err := f.Chown(uid, gid); err != nil {
			return err
		}
		_, err := io.Copy(f, r)
		return err
	})
	if err != nil {
		return err
	}
	return place(tmp, path)
}

// MkdirOwned makes the directory path, in one that exists. It has its owner and its mode from
// the moment it has its name. It fails with fs.ErrExist, and changes nothing, when there is
// something.
func MkdirOwned(path string, perm fs.FileMode, uid, gid int) error {
	if _, err := os.Lstat(path); err == nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: fs.ErrExist}
	}
	tmp := tempName(path)
	err := op("mkdir", tmp, func() error { return os.Mkdir(tmp, 0o700) })
	if err == nil {
		err = Own(tmp, perm, uid, gid)
	}
	if err == nil {
		err = op("rename", path, func() error { return os.Rename(tmp, path) })
	}
	if err != nil {
		if rm := os.Remove(tmp); !errors.Is(rm, fs.ErrNotExist) {
			err = errors.Join(err, rm)
		}
		return unnamed(err, tmp, path)
	}
	return SyncDir(filepath.Dir(path))
}

// Own gives the directory path to a user and a group, with a mode. A symlink is no directory: who
// can put one there has nothing else changed.
func Own(path string, perm fs.FileMode, uid, gid int) (err error) {
	d, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	return errors.Join(d.Chown(uid, gid), d.Chmod(perm)) // after chown, which may take bits away
}

// Leftovers returns what crashes in this package have left behind of path, beside it.
func Leftovers(path string) ([]string, error) {
	entries, err := os.ReadDir(filepath.Dir(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		if IsTemp(e.Name()) && strings.TrimSuffix(e.Name(), filepath.Ext(e.Name())) == tempPrefix+filepath.Base(path) {
			found = append(found, filepath.Join(filepath.Dir(path), e.Name()))
		}
	}
	return found, nil
}
