// Package objects is the format of git's commits and trees, and their storage: enough to
// read a file by its path in a commit, and to write a commit that changes some files and
// keeps every other byte of the tree.
//
//	commit   "tree HASH" LF ("parent HASH" LF)* "author …" LF …
//	tree     (MODE SP NAME NUL 20 bytes of hash)*, sorted
//
// Everything read is checked against the hash it was asked for, and against a size before
// its content is read. What is not as it should be is an error, never skipped; package
// repo decides whose fault it is.
//
// Files are opened as if their owner meant harm: only regular ones, of a bounded size, and
// through no link that leads out of the git directory; its alternates are looked into, but
// not the alternates of those.
//
// It does not protect from SHA-1 collisions: nothing is trusted because of a git hash.
package objects

import (
	"bufio"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"makenot.work/sando/internal/reason"
)

// Bounds on single objects, in bytes. Each is checked before the content is read.
const (
	MaxCommit = 1 << 20
	MaxTree   = 1 << 20
	MaxBlob   = 8 << 20
)

// ErrAbsent and ErrCorrupt are what can be wrong with an object of a known name. Whose
// fault that is, the mirror's or the remote's, the caller of Store.Read knows.
var (
	ErrAbsent  = errors.New("object is missing")
	ErrCorrupt = errors.New("object is corrupt")
)

// wrong is the error about something that is there and was not read for cause. What this user
// may not read is not corrupt: such an error matches fs.ErrPermission.
func wrong(what string, cause error) error {
	if errors.Is(cause, fs.ErrPermission) {
		return fmt.Errorf("%s: %w", what, cause)
	}
	return fmt.Errorf("%w: %s: %w", ErrCorrupt, what, cause)
}

// Store reads and writes the objects of one git directory.
type Store struct {
	st     *filesystem.Storage
	dir    string
	shared *shared // nil: alternates are not looked at
	trees  *trees
}

// shared is the directories that objects are shared with, once they are known.
type shared struct {
	known  bool
	stores []Store
}

// maxShared bounds how many of them there are.
const maxShared = 16

// Open opens a git directory that no other process writes to.
func Open(dir string) Store { return open(dir, filesystem.Options{}) }

// OpenBusy opens a git directory that others write to: packs that were opened can be
// read after git has removed them. The caller closes the store.
func OpenBusy(dir string) Store {
	s := open(dir, filesystem.Options{KeepDescriptors: true})
	s.shared = new(shared)
	return s
}

func open(dir string, o filesystem.Options) Store {
	o.LargeObjectThreshold = 1 << 20 // bigger ones are streamed
	st := filesystem.NewStorageWithOptions(files{osfs.New(dir), dir}, cache.NewObjectLRU(2*cache.MiByte), o)
	return Store{st: st, dir: dir, trees: new(trees)}
}

// Close closes what OpenBusy keeps open.
func (s Store) Close() {
	s.st.Close() // files that were only read: no error matters
	if s.shared != nil {
		for _, other := range s.shared.stores {
			other.Close()
		}
	}
}

// Git returns the git directory as go-git sees it, for its references and its config.
func (s Store) Git() *filesystem.Storage { return s.st }

// Read returns the content of the object h, which must be of the type t. The content
// is checked against h: go-git does not. Errors match ErrAbsent, ErrCorrupt or fs.ErrPermission, or have
// the reason "format" for another type, "limit" for more than max bytes.
func (s Store) Read(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	data, err := s.readHere(t, h, max)
	if s.shared == nil || !errors.Is(err, ErrAbsent) {
		return data, err
	}
	others, serr := s.others()
	if serr != nil {
		return nil, wrong(fmt.Sprintf("%s %s: alternates", t, h), serr)
	}
	for _, other := range others {
		if data, oerr := other.readHere(t, h, max); !errors.Is(oerr, ErrAbsent) {
			return data, oerr
		}
	}
	return nil, err
}

// others returns the directories that objects are shared with, one step away.
func (s Store) others() ([]Store, error) {
	if s.shared.known {
		return s.shared.stores, nil
	}
	data, err := ReadFile(s.dir, "objects/info/alternates", maxPlain)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		dir := strings.TrimSuffix(line, "\n")
		if dir == "" || dir[0] == '#' {
			continue
		}
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(s.dir, "objects", dir)
		}
		if len(s.shared.stores) == maxShared {
			return nil, reason.Errorf(reason.Limit, "more than %d directories", maxShared)
		}
		s.shared.stores = append(s.shared.stores, open(filepath.Dir(dir), filesystem.Options{KeepDescriptors: true}))
	}
	s.shared.known = true
	return s.shared.stores, nil
}

// readHere reads an object of this directory itself.
func (s Store) readHere(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	data, err := s.readLoose(t, h, max)
	if errors.Is(err, fs.ErrNotExist) {
		data, err = s.readPacked(t, h, max)
	}
	if err != nil {
		return nil, err
	}
	if got := plumbing.ComputeHash(t, data); got != h {
		return nil, fmt.Errorf("%w: %s %s: its content is that of %s", ErrCorrupt, t, h, got)
	}
	return data, nil
}

// readLoose reads an object that has a file of its own. go-git would unpack all that
// is in it, whatever size the header says.
func (s Store) readLoose(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	corrupt := func(err error) error { return wrong(fmt.Sprintf("%s %s", t, h), err) }
	f, err := openRegular(s.dir, "objects/"+h.String()[:2]+"/"+h.String()[2:], math.MaxInt64)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err != nil {
		return nil, corrupt(err)
	}
	defer f.Close()
	z, err := zlib.NewReader(f)
	if err != nil {
		return nil, corrupt(err)
	}
	defer z.Close()
	r := bufio.NewReaderSize(z, 64) // longer than any header
	head, err := r.ReadSlice(0)
	if err != nil {
		return nil, corrupt(err)
	}
	kind, digits, _ := strings.Cut(string(head[:len(head)-1]), " ")
	size, err := strconv.ParseInt(digits, 10, 64)
	switch {
	case err != nil || size < 0:
		return nil, corrupt(errors.New("its header is malformed"))
	}
	if err := Check(t, h, kind, size, max); err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(r, size+1))
	if err == nil && int64(len(data)) != size {
		err = fmt.Errorf("its size is not %d", size)
	}
	if err != nil {
		return nil, corrupt(err)
	}
	return data, nil
}

// Check refuses, with the reason "format", an object h that is not of the type t, and, with
// the reason "limit", one of more than max bytes.
func Check(t plumbing.ObjectType, h plumbing.Hash, kind string, size, max int64) error {
	if kind != t.String() {
		return reason.Errorf(reason.Format, "object %s is a %s, want a %s", h, kind, t)
	}
	if size > max {
		return reason.Errorf(reason.Limit, "%s %s: %d bytes are more than %d", t, h, size, max)
	}
	return nil
}

// Absent returns the error about an object that is not there. It matches ErrAbsent.
func Absent(t plumbing.ObjectType, h plumbing.Hash) error {
	return fmt.Errorf("%w: %s %s", ErrAbsent, t, h)
}

func (s Store) readPacked(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	o, err := s.st.EncodedObject(plumbing.AnyObject, h)
	switch {
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return nil, Absent(t, h)
	case err != nil:
		return nil, wrong(fmt.Sprintf("%s %s", t, h), err)
	}
	if err := Check(t, h, o.Type().String(), o.Size(), max); err != nil {
		return nil, err
	}
	r, err := o.Reader()
	if err != nil {
		return nil, wrong(fmt.Sprintf("%s %s", t, h), err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, wrong(fmt.Sprintf("%s %s", t, h), err)
	}
	return data, nil
}

// Has reports whether there is an object h; it may still be corrupt.
func (s Store) Has(h plumbing.Hash) (bool, error) {
	err := s.st.HasEncodedObject(h)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return false, nil
	default:
		return false, wrong(h.String(), err)
	}
}

// Write stores an object and returns its name.
func (s Store) Write(t plumbing.ObjectType, data []byte) (plumbing.Hash, error) {
	o := new(plumbing.MemoryObject)
	o.SetType(t)
	if _, err := o.Write(data); err != nil {
		return plumbing.ZeroHash, err
	}
	if err := s.makeDir(o.Hash()); err != nil {
		return plumbing.ZeroHash, reason.OnDisk(err)
	}
	h, err := s.st.SetEncodedObject(o)
	return h, reason.OnDisk(err)
}

// makeDir makes the directory of an object, for those who may use the one that it is in.
// go-git would make it whatever the umask was.
func (s Store) makeDir(h plumbing.Hash) error {
	all := filepath.Join(s.dir, "objects")
	if err := os.MkdirAll(all, 0o777); err != nil {
		return err
	}
	info, err := os.Stat(all)
	if err != nil {
		return err
	}
	return os.MkdirAll(filepath.Join(all, h.String()[:2]), info.Mode().Perm())
}
