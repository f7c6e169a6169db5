package bucket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// dir is a bucket in the directory path.
type dir struct {
	path string
}

// errNoObject is the outcome for a key without an object. It is not the error of the
// system call: that one names files, and may be ENOTDIR.
func errNoObject(key string) error {
	return fmt.Errorf("object %q: %w", key, fs.ErrNotExist)
}

func (d *dir) Get(ctx context.Context, key string) (io.ReadCloser, Info, error) {
	root, err := d.root(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	defer root.Close()
	if _, err := stat(root, key); err != nil {
		return nil, Info{}, err
	}
	// What stands there may have changed since; opening a pipe must not block.
	f, err := root.OpenFile(key, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, Info{}, missing(key, err)
	}
	info, err := f.Stat()
	if err == nil {
		err = regular(key, info)
	}
	if err != nil {
		f.Close()
		return nil, Info{}, err
	}
	return &reader{f: f, check: ctx.Err}, Info{Size: info.Size()}, nil
}

func (d *dir) Stat(ctx context.Context, key string) (Info, error) {
	root, err := d.root(ctx, key)
	if err != nil {
		return Info{}, err
	}
	defer root.Close()
	info, err := stat(root, key)
	if err != nil {
		return Info{}, err
	}
	return Info{Size: info.Size()}, nil
}

// root opens the directory for looking up key.
func (d *dir) root(ctx context.Context, key string) (*os.Root, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("object %q: %w", key, err)
	}
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(d.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("object %q: the bucket's directory %q is missing: %w", key, d.path, fs.ErrNotExist)
	}
	return root, err
}

func stat(root *os.Root, key string) (fs.FileInfo, error) {
	info, err := root.Lstat(key)
	if err != nil {
		return nil, missing(key, err)
	}
	return info, regular(key, info)
}

// missing turns the two errors that mean "no such file" into one.
func missing(key string, err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return errNoObject(key)
	}
	return fmt.Errorf("object %q: %w", key, err)
}

func regular(key string, info fs.FileInfo) error {
	switch {
	case info.Mode().IsRegular():
		return nil
	case info.IsDir():
		return errNoObject(key)
	default:
		return reason.Errorf(reason.IO, "object %q is not a regular file but %s; remove it from the bucket", key, info.Mode().Type())
	}
}

// reader is an object being read; it ends when its context does. It has no other
// methods of the file, because io.Copy would find WriteTo and never ask check.
type reader struct {
	f     *os.File
	check func() error
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.check(); err != nil {
		return 0, err
	}
	return r.f.Read(p)
}

func (r *reader) Close() error { return r.f.Close() }

func (d *dir) Create(ctx context.Context, key string, body io.ReadSeeker, size int64) error {
	err := d.create(ctx, key, body, size)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, fs.ErrExist):
		err = fs.ErrExist // without the name of the temporary file
	}
	return reason.OnDisk(fmt.Errorf("create object %q: %w", key, err))
}

func (d *dir) create(ctx context.Context, key string, body io.ReadSeeker, size int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := durable.MkdirAll(d.path, 0o755); err != nil {
		return err
	}
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := checkParents(root, key); err != nil {
		return err
	}
	if _, err := root.Lstat(key); err == nil {
		return fs.ErrExist
	}
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	parent := filepath.Join(d.path, filepath.FromSlash(path.Dir(key)))
	if err := durable.MkdirAll(parent, 0o755); err != nil {
		return err
	}
	if err := removeOldTemps(root, path.Dir(key), time.Now()); err != nil {
		return err
	}
	r := &exactly{r: body, left: size, size: size, check: ctx.Err}
	return durable.Create(filepath.Join(parent, path.Base(key)), r, 0o644)
}

// checkParents refuses a symlink on the way to key, because package durable works on
// path names and would follow it.
func checkParents(root *os.Root, key string) error {
	for i, c := range key {
		if c != '/' {
			continue
		}
		info, err := root.Lstat(key[:i])
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case !info.IsDir():
			return fmt.Errorf("%q in the bucket is not a directory", key[:i])
		}
	}
	return nil
}

// tempAge is how long a temporary file is left alone after the last write to it.
const tempAge = 24 * time.Hour

// removeOldTemps removes what creators that were killed left in a directory.
func removeOldTemps(root *os.Root, in string, now time.Time) error {
	f, err := root.Open(in)
	if err != nil {
		return err
	}
	names, err := f.Readdirnames(-1)
	f.Close()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !durable.IsTemp(name) {
			continue
		}
		tmp := path.Join(in, name)
		info, err := root.Lstat(tmp)
		if err == nil && info.Mode().IsRegular() && now.Sub(info.ModTime()) > tempAge {
			err = root.Remove(tmp)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// exactly reads size bytes from r and insists that there are no fewer and no more. It
// ends when the context of check does.
type exactly struct {
	r          io.Reader
	left, size int64
	check      func() error
}

func (e *exactly) Read(p []byte) (int, error) {
	if err := e.check(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if int64(len(p)) > e.left+1 {
		p = p[:e.left+1] // one more than there should be
	}
	n, err := e.r.Read(p)
	e.left -= int64(n)
	switch {
	case e.left < 0:
		return 0, fmt.Errorf("size mismatch: got more than the %d bytes announced", e.size)
	case err == io.EOF && e.left > 0:
		return 0, fmt.Errorf("size mismatch: got %d bytes, want %d", e.size-e.left, e.size)
	}
	return n, err
}
