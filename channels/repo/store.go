package repo

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/go-git/go-billy/v5/osfs"
	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/cache"
	"github.com/go-git/go-git/v5/storage/filesystem"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

// Bounds on single objects, in bytes. Each is checked before the content is read.
const (
	maxCommit = 1 << 20
	maxTree   = 4 << 20
	maxBlob   = 8 << 20
)

// errAbsent and errCorrupt are what can be wrong with an object of a known name. Whose
// fault that is, the mirror's or the remote's, the caller of store.read knows.
var (
	errAbsent  = errors.New("object is missing")
	errCorrupt = errors.New("object is corrupt")
)

// store reads and writes the objects of one git directory.
type store struct {
	st *filesystem.Storage
}

func openStore(dir string) store { return openWith(dir, filesystem.Options{}) }

// openBusy opens a git directory that others write to: packs that were opened can be
// read after git has removed them. The caller closes the store.
func openBusy(dir string) store { return openWith(dir, filesystem.Options{KeepDescriptors: true}) }

func openWith(dir string, o filesystem.Options) store {
	o.LargeObjectThreshold = 1 << 20 // bigger ones are streamed
	o.AlternatesFS = osfs.New(string(filepath.Separator))
	return store{filesystem.NewStorageWithOptions(osfs.New(dir), cache.NewObjectLRU(2*cache.MiByte), o)}
}

func (s store) close() { s.st.Close() } // of files only read

// read returns the content of the object h, which must be of the type t. The content
// is checked against h: go-git does not. Errors match errAbsent or errCorrupt, or have
// the reason "format" for another type, "limit" for more than max bytes.
func (s store) read(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	o, err := s.st.EncodedObject(plumbing.AnyObject, h)
	switch {
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return nil, fmt.Errorf("%w: %s %s", errAbsent, t, h)
	case err != nil:
		return nil, fmt.Errorf("%w: %s %s: %w", errCorrupt, t, h, err)
	case o.Type() != t:
		return nil, reason.Errorf(reason.Format, "object %s is a %s, want a %s", h, o.Type(), t)
	case o.Size() > max:
		return nil, reason.Errorf(reason.Limit, "%s %s: %d bytes are more than %d", t, h, o.Size(), max)
	}
	r, err := o.Reader()
	if err != nil {
		return nil, fmt.Errorf("%w: %s %s: %w", errCorrupt, t, h, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err != nil {
		return nil, fmt.Errorf("%w: %s %s: %w", errCorrupt, t, h, err)
	}
	if got := plumbing.ComputeHash(t, data); got != h {
		return nil, fmt.Errorf("%w: %s %s: its content is that of %s", errCorrupt, t, h, got)
	}
	return data, nil
}

// has reports whether there is an object h; it may still be corrupt.
func (s store) has(h plumbing.Hash) (bool, error) {
	err := s.st.HasEncodedObject(h)
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, plumbing.ErrObjectNotFound):
		return false, nil
	default:
		return false, fmt.Errorf("%w: %s: %w", errCorrupt, h, err)
	}
}

// write stores an object and returns its name.
func (s store) write(t plumbing.ObjectType, data []byte) (plumbing.Hash, error) {
	o := new(plumbing.MemoryObject)
	o.SetType(t)
	if _, err := o.Write(data); err != nil {
		return plumbing.ZeroHash, err
	}
	h, err := s.st.SetEncodedObject(o)
	return h, onDisk(err)
}

// onDisk gives an error of writing its reason.
func onDisk(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return reason.Wrap(reason.Disk, err)
	}
	return err
}
