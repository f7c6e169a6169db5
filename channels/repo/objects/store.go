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
// It does not protect from SHA-1 collisions: nothing is trusted because of a git hash.
package objects

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"

	"makenot.work/sando/internal/reason"
)

// Bounds on single objects, in bytes. Each is checked before the content is read.
const (
	MaxCommit = 1 << 20
	MaxTree   = 4 << 20
	MaxBlob   = 8 << 20
)

// ErrAbsent and ErrCorrupt are what can be wrong with an object of a known name. Whose
// fault that is, the mirror's or the remote's, the caller of Store.Read knows.
var (
	ErrAbsent  = errors.New("object is missing")
	ErrCorrupt = errors.New("object is corrupt")
)

// Store reads and writes the objects of one git directory.
type Store struct {
	st *filesystem.Storage
}

// Open opens a git directory that no other process writes to.
func Open(dir string) Store { return open(dir, filesystem.Options{}) }

// OpenBusy opens a git directory that others write to: packs that were opened can be
// read after git has removed them. The caller closes the store.
func OpenBusy(dir string) Store { return open(dir, filesystem.Options{KeepDescriptors: true}) }

func open(dir string, o filesystem.Options) Store {
	o.LargeObjectThreshold = 1 << 20 // bigger ones are streamed
	o.AlternatesFS = osfs.New(string(filepath.Separator))
	return Store{filesystem.NewStorageWithOptions(osfs.New(dir), cache.NewObjectLRU(2*cache.MiByte), o)}
}

// Close closes what OpenBusy keeps open.
func (s Store) Close() { s.st.Close() } // files that were only read: no error matters

// Git returns the git directory as go-git sees it, for its references and its config.
func (s Store) Git() *filesystem.Storage { return s.st }

// Read returns the content of the object h, which must be of the type t. The content
// is checked against h: go-git does not. Errors match ErrAbsent or ErrCorrupt, or have
// the reason "format" for another type, "limit" for more than max bytes.
func (s Store) Read(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	o, err := s.st.EncodedObject(plumbing.AnyObject, h)
	switch {
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return nil, fmt.Errorf("%w: %s %s", ErrAbsent, t, h)
	case err != nil:
		return nil, fmt.Errorf("%w: %s %s: %w", ErrCorrupt, t, h, err)
	case o.Type() != t:
		return nil, reason.Errorf(reason.Format, "object %s is a %s, want a %s", h, o.Type(), t)
	case o.Size() > max:
		return nil, reason.Errorf(reason.Limit, "%s %s: %d bytes are more than %d", t, h, o.Size(), max)
	}
	r, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("%w: %s %s: %w", ErrCorrupt, t, h, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s %s: %w", ErrCorrupt, t, h, err)
	}
	if got := plumbing.ComputeHash(t, data); got != h {
		return nil, fmt.Errorf("%w: %s %s: its content is that of %s", ErrCorrupt, t, h, got)
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
		return false, fmt.Errorf("%w: %s: %w", ErrCorrupt, h, err)
	}
}

// Write stores an object and returns its name.
func (s Store) Write(t plumbing.ObjectType, data []byte) (plumbing.Hash, error) {
	o := new(plumbing.MemoryObject)
	o.SetType(t)
	if _, err := o.Write(data); err != nil {
		return plumbing.ZeroHash, err
	}
	h, err := s.st.SetEncodedObject(o)
	return h, reason.OnDisk(err)
}
