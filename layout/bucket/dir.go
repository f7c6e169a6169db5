package bucket

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"syscall"
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
	f, info, err := d.open(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	return &reader{f: f, check: ctx.Err}, info, nil
}

func (d *dir) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, Info, error) {
	f, info, err := d.open(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	switch {
	case version != "" && version != info.Version:
		err = fmt.Errorf("object %q: %w: its version is %q, want %q", key, ErrChanged, info.Version, version)
	case offset < 0 || offset >= info.Size:
		err = fmt.Errorf("object %q: %w: offset %d, size %d", key, ErrRange, offset, info.Size)
	default:
		_, err = f.Seek(offset, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, Info{}, err
	}
	return &reader{f: f, check: ctx.Err}, info, nil
}

func (d *dir) Stat(ctx context.Context, key string) (Info, error) {
	f, info, err := d.open(ctx, key)
	if err != nil {
		return Info{}, err
	}
	return info, f.Close()
}

// open opens the file of an object for reading from its start.
func (d *dir) open(ctx context.Context, key string) (*os.File, Info, error) {
	root, err := d.root(ctx, key)
	if err != nil {
		return nil, Info{}, err
	}
	defer root.Close()
	return open(root, key)
}

func open(root *os.Root, key string) (*os.File, Info, error) {
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
	var version string
	if err == nil {
		version, err = versionOf(f, info)
	}
	if err != nil {
		f.Close()
		return nil, Info{}, err
	}
	return f, Info{info.Size(), version}, nil
}

// versionOf names the bytes of a file, and leaves the file at its start.
func versionOf(f *os.File, info fs.FileInfo) (string, error) {
	if info.Size() > MaxReplace {
		// A file that took the place of another has another number or other times.
		st := info.Sys().(*syscall.Stat_t)
		return fmt.Sprintf("%x-%x-%x-%x", st.Ino, st.Size, info.ModTime().UnixNano(), st.Ctim.Nano()), nil
	}
	// Times are too coarse for what is replaced twice in a moment.
	h := sha256.New()
	if _, err := io.Copy(h, io.LimitReader(f, MaxReplace+1)); err != nil {
		return "", err
	}
	_, err := f.Seek(0, io.SeekStart)
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), err
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
		return nil, fmt.Errorf("object %q: %w: the bucket's directory %q is missing: %w", key, ErrNoBucket, d.path, fs.ErrNotExist)
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
	root, err := d.writable(ctx, key)
	if err != nil {
		return err
	}
	defer root.Close()
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

// writable opens the directory, which is made when it is missing, for writing key.
func (d *dir) writable(ctx context.Context, key string) (*os.Root, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := CheckKey(key); err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(d.path, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(d.path)
	if err != nil {
		return nil, err
	}
	if err := checkParents(root, key); err != nil {
		root.Close()
		return nil, err
	}
	return root, nil
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
