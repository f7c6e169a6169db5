package objects

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"strings"

	"github.com/go-git/go-billy/v5"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

// ErrIrregular is matched by errors about something that is neither a regular file nor
// a directory.
var ErrIrregular = errors.New("not a regular file")

// Bounds on the files of a git directory that are read as a whole, in bytes.
const (
	maxIndex      = 64 << 20 // of a pack
	maxPackedRefs = 16 << 20
	maxPlain      = 1 << 20 // config, a reference, shallow, alternates
	maxNames      = 100_000 // in a directory
)

// files is a git directory as go-git gets to see it. The directory may belong to
// somebody who wants the reader to wait for ever or to fill the memory: what is opened
// for reading is a regular file of a bounded size, and links are followed only inside the
// directory.
type files struct {
	billy.Filesystem
	dir string
}

// plain is the name as os.Root wants it: relative.
func plain(name string) string { return path.Clean(strings.TrimLeft(name, "/")) }

// Open opens a file for reading.
func (s files) Open(name string) (billy.File, error) { return openRegular(s.dir, name, bound(name)) }

// OpenFile opens a file; only reading is special.
func (s files) OpenFile(name string, flag int, perm os.FileMode) (billy.File, error) {
	if flag&(os.O_WRONLY|os.O_RDWR|os.O_CREATE) != 0 {
		return s.Filesystem.OpenFile(name, flag, perm)
	}
	return s.Open(name)
}

// TempFile makes a file to be renamed, with the mode that git gives the files there: nobody
// writes to an object again, and the umask says who may read it.
func (s files) TempFile(dir, prefix string) (billy.File, error) {
	perm := fs.FileMode(0o666)
	if top, _, _ := strings.Cut(plain(dir), "/"); top == "objects" {
		perm = 0o444
	}
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if err := root.MkdirAll(plain(dir), 0o777); err != nil {
		return nil, err
	}
	name := path.Join(plain(dir), prefix+rand.Text())
	f, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	return &file{File: f, name: name, max: math.MaxInt64, left: math.MaxInt64}, nil
}

// Stat follows links inside the directory.
func (s files) Stat(name string) (os.FileInfo, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return root.Stat(plain(name))
}

// ReadDir lists a directory.
func (s files) ReadDir(name string) ([]os.FileInfo, error) {
	root, err := os.OpenRoot(s.dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	f, err := root.OpenFile(plain(name), os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	infos, err := f.Readdir(maxNames + 1)
	if len(infos) > maxNames {
		return nil, reason.Errorf(reason.Limit, "directory %q holds more than %d names", name, maxNames)
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return infos, err
}

// Chroot is for submodules and for go-git's way with alternates, which has no end when
// they name each other.
func (s files) Chroot(string) (billy.Filesystem, error) { return nil, billy.ErrNotSupported }

// bound returns how many bytes of a file are read, at most. Packs and loose objects
// are read in part, as far as their own headers allow.
func bound(name string) int64 {
	switch dir, base := path.Split(plain(name)); {
	case path.Ext(base) == ".idx":
		return maxIndex
	case base == "packed-refs":
		return maxPackedRefs
	case strings.HasPrefix(dir, "objects/") && dir != "objects/info/":
		return math.MaxInt64
	default:
		return maxPlain
	}
}

// ReadFile returns the regular file name of the git directory dir. Links are followed
// inside dir. Errors match ErrIrregular, or have the reason "limit" for more than max
// bytes.
func ReadFile(dir, name string, max int64) ([]byte, error) {
	f, err := openRegular(dir, name, max)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// openRegular opens a regular file of at most max bytes. It is looked at before it is
// opened, since to open a device can do something, and afterwards, since it may be
// another one by then; no open waits for a writer.
func openRegular(dir, name string, max int64) (billy.File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	info, err := root.Stat(plain(name))
	if err != nil {
		return nil, err
	}
	if err := checkRegular(name, info, max); err != nil {
		return nil, err
	}
	f, err := root.OpenFile(plain(name), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	if info, err = f.Stat(); err == nil {
		err = checkRegular(name, info, max)
	}
	if err != nil {
		f.Close() // was only read
		return nil, err
	}
	return &file{File: f, name: name, max: max, left: max}, nil
}

func checkRegular(name string, info fs.FileInfo, max int64) error {
	switch {
	case info.IsDir():
		return &fs.PathError{Op: "open", Path: name, Err: unix.EISDIR}
	case !info.Mode().IsRegular():
		return fmt.Errorf("%q is %w: %s", name, ErrIrregular, info.Mode().Type())
	case info.Size() > max:
		return tooBig(name, max)
	}
	return nil
}

func tooBig(name string, max int64) error {
	return reason.Errorf(reason.Limit, "file %q has more than %d bytes", name, max)
}

// file is a file open for reading.
type file struct {
	*os.File
	name      string
	max, left int64 // bytes that may be read in sequence: files grow
}

// Name returns what the file was opened as: go-git opens packs again by it.
func (f *file) Name() string { return f.name }

func (f *file) Read(p []byte) (int, error) {
	n, err := f.File.Read(p)
	if f.max != math.MaxInt64 {
		f.left -= int64(n)
	}
	if f.left < 0 {
		return 0, tooBig(f.name, f.max)
	}
	return n, err
}

// Lock and Unlock are for writers.
func (f *file) Lock() error   { return billy.ErrNotSupported }
func (f *file) Unlock() error { return billy.ErrNotSupported }
