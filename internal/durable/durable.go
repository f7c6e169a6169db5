// Package durable is the only place that renames, links and syncs. What its functions
// did is on disk, not merely in memory, when they return without an error: the file's
// bytes first, then its name, then the directory that holds the name. Atomic is not
// durable: a rename that is not followed by an fsync of the directory can be undone
// by a power cut.
//
// After an error the step may have happened, happened in memory only, or not at all;
// the caller must be able to repeat it or to look. A failed fsync is never retried:
// the kernel drops the dirty pages and reports the error once.
//
// Every change of the disk is one numbered operation. A build with the tag "faults"
// stops, fails or lies at a chosen one; see fault.go. All other builds contain
// nothing of that.
package durable

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tempPrefix begins the names of temporary files and links. A leftover after a crash
// is deleted by name: tempPrefix, the name it was meant for, a dot, 16 hex digits.
const tempPrefix = "."

func tempName(path string) string {
	var b [8]byte
	rand.Read(b[:])
	return filepath.Join(filepath.Dir(path), tempPrefix+filepath.Base(path)+"."+hex.EncodeToString(b[:]))
}

// WriteFile replaces the file path by data, or creates it. Readers see the old bytes
// or the new ones, also after a crash.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	tmp, err := writeTemp(path, perm, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	if err := op("rename", path, func() error { return os.Rename(tmp, path) }); err != nil {
		return errors.Join(unnamed(err, tmp, path), os.Remove(tmp))
	}
	return SyncDir(filepath.Dir(path))
}

// Create writes what r yields to the new file path. It fails with fs.ErrExist, and
// changes nothing, when path exists.
func Create(path string, r io.Reader, perm fs.FileMode) error {
	tmp, err := writeTemp(path, perm, func(f *os.File) error {
		_, err := io.Copy(f, r)
		return err
	})
	if err != nil {
		return err
	}
	return place(tmp, path)
}

// place gives a temporary file the name path, if that is free.
func place(tmp, path string) error {
	err := unnamed(op("link", path, func() error { return os.Link(tmp, path) }), tmp, path)
	if rm := os.Remove(tmp); err == nil {
		err = rm
	}
	if err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// writeTemp writes and syncs a new temporary file beside path and returns its name.
func writeTemp(path string, perm fs.FileMode, write func(*os.File) error) (_ string, err error) {
	tmp := tempName(path)
	var f *os.File
	err = op("create", tmp, func() (err error) {
		f, err = os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
		return err
	})
	if err != nil {
		if f != nil {
			f.Close()
			os.Remove(tmp)
		}
		return "", unnamed(err, tmp, path)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
		if err != nil {
			os.Remove(tmp)
			err = unnamed(err, tmp, path)
		}
	}()
	if err := f.Chmod(perm); err != nil { // whatever the umask is
		return "", err
	}
	if err := op("write", tmp, func() error { return write(f) }); err != nil {
		return "", err
	}
	return tmp, Sync(f)
}

// unnamed has err speak of path instead of its temporary file: whoever reads it knows only
// that, and the same fault, met again and again, is the same error.
func unnamed(err error, tmp, path string) error {
	switch e := err.(type) {
	case *fs.PathError:
		if e.Path == tmp {
			return &fs.PathError{Op: e.Op, Path: path, Err: e.Err}
		}
	case *os.LinkError:
		if e.Old == tmp || e.New == tmp {
			return &fs.PathError{Op: e.Op, Path: path, Err: e.Err}
		}
	}
	return err
}

// Append adds data to the file path with one write, creating the file when needed. A
// crash may leave a part of data at the end; readers skip a torn last line.
func Append(path string, data []byte, perm fs.FileMode) (err error) {
	_, serr := os.Lstat(path)
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, perm)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	err = op("append", path, func() error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	if err := Sync(f); err != nil {
		return err
	}
	if errors.Is(serr, fs.ErrNotExist) {
		return SyncDir(filepath.Dir(path))
	}
	return nil
}

// Rename renames from to to and syncs the directories of both.
func Rename(from, to string) error {
	if err := op("rename", to, func() error { return os.Rename(from, to) }); err != nil {
		return err
	}
	if d := filepath.Dir(from); d != filepath.Dir(to) {
		if err := SyncDir(d); err != nil {
			return err
		}
	}
	return SyncDir(filepath.Dir(to))
}

// Exchange makes a what b was and b what a was, in one step, and syncs the directories of
// both. Where the filesystem cannot do that the error is EINVAL, ENOSYS or ENOTSUP.
func Exchange(a, b string) error {
	err := op("exchange", b, func() error {
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			return &os.LinkError{Op: "exchange", Old: a, New: b, Err: err}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if d := filepath.Dir(a); d != filepath.Dir(b) {
		if err := SyncDir(d); err != nil {
			return err
		}
	}
	return SyncDir(filepath.Dir(b))
}

// Symlink makes path a symlink to target, replacing another symlink in one step. The
// caller makes sure that path is not a file or a directory.
func Symlink(target, path string) error {
	tmp := tempName(path)
	if err := op("symlink", tmp, func() error { return os.Symlink(target, tmp) }); err != nil {
		return unnamed(err, tmp, path)
	}
	if err := op("rename", path, func() error { return os.Rename(tmp, path) }); err != nil {
		return errors.Join(unnamed(err, tmp, path), os.Remove(tmp))
	}
	return SyncDir(filepath.Dir(path))
}

// Mkdir makes the directory path with exactly the mode perm, whatever the umask, and
// syncs its parent. It fails with fs.ErrExist when there is something.
func Mkdir(path string, perm fs.FileMode) error {
	if err := op("mkdir", path, func() error { return os.Mkdir(path, perm) }); err != nil {
		return err
	}
	if err := os.Chmod(path, perm); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// MkdirAll makes path and every missing directory above it.
func MkdirAll(path string, perm fs.FileMode) error {
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return fmt.Errorf("%s: %w", path, unix.ENOTDIR)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := MkdirAll(filepath.Dir(path), perm); err != nil {
		return err
	}
	if err := Mkdir(path, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// Remove deletes the file, link or empty directory path, and syncs its directory.
func Remove(path string) error {
	if err := op("remove", path, func() error { return os.Remove(path) }); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// Sync makes the bytes of f durable.
func Sync(f *os.File) error { return op("fsync", f.Name(), f.Sync) }

// SyncDir makes the names in the directory path durable.
func SyncDir(path string) (err error) {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := d.Close(); err == nil {
			err = cerr
		}
	}()
	return Sync(d)
}

// SyncFS makes everything on the filesystem of f durable. When f was opened before
// the writes began, it also reports an error of any of them (Linux 5.8 and later), so
// one call stands for an fsync of each file.
func SyncFS(f *os.File) error {
	return op("syncfs", f.Name(), func() error {
		if err := unix.Syncfs(int(f.Fd())); err != nil {
			return &fs.PathError{Op: "syncfs", Path: f.Name(), Err: err}
		}
		return nil
	})
}

// IsTemp reports whether name is one that a crash in this package can leave behind.
func IsTemp(name string) bool {
	dot := len(name) - 17
	if dot < 2 || name[0] != '.' || name[dot] != '.' {
		return false
	}
	_, err := hex.DecodeString(name[dot+1:])
	return err == nil
}
