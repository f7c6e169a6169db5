// Package download brings one object of known size and hash into a file, over links that
// break, and goes on with what an earlier attempt left in the file.
//
// # What counts
//
// Size and sha256 come from a signed manifest. Nothing that a server says about the
// object is believed: its size is compared before a byte is read, at most one byte more
// than the size is read, and the whole is hashed. A version of the object, which the
// server gives, only sees to it that one file is not made of two objects without need.
//
// # Going on
//
// The file may hold the beginning of the object, from an earlier attempt of this process or
// of one that was killed, or after a power cut anything at all. What it holds is hashed
// and counts as the beginning; only the rest is asked for, by range. After a break the same
// is done again, with the version that was seen in this call, as often as Limits allow.
//
// If the hash is wrong in the end and not all bytes came from one version of the object
// in this call, the file is emptied and all is fetched again, once. So a bad beginning
// costs one more transfer, and never the update. The same is done, once, when a server
// knows the object and opens it by range not once in a whole row of tries: there are
// some that know no ranges.
//
// # How it ends
//
//	nil         the file holds exactly the wanted bytes, and is at its start
//	"io"        a limit was reached; the file is left for going on
//	ctx ended   matches its error; the file is left for going on
//	no object   matches fs.ErrNotExist; the file is left for going on
//	"mismatch"  the object is not the wanted one; the file is empty
//	the disk    "disk" when it is full; the file is empty, and its space is free
//
// Any other error of the bucket (of its configuration, for example) is passed on at once,
// and the file is left. File and package hold one buffer in memory, whatever the size.
//
// # What it does not protect from
//
// Who can withhold the object, or answer slowly, delays a download up to the limits, at
// each attempt anew. Who can alter it in the storage can make each attempt transfer it
// twice. The file belongs to the caller, who sees to it that nobody else writes it.
package download

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket"
)

// Source is what of a bucket.Bucket is needed.
type Source interface {
	Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error)
	Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, bucket.Info, error)
	Stat(ctx context.Context, key string) (bucket.Info, error)
}

// Want is what the object must be.
type Want struct {
	Size   int64
	SHA256 string // hex
}

// Options change how a download is done, never what its outcome must be.
type Options struct {
	// Progress gets the number of bytes that were added to what is there: first what
	// the file held, then what arrives. It is negative when all begins again, and 0
	// after a break. May be nil.
	Progress func(n int64)
	Limits   Limits
}

// File makes f hold the object with the key, as the package says. f is open for reading
// and writing.
func File(ctx context.Context, src Source, key string, f *os.File, want Want, o Options) error {
	d := &download{
		src: src, key: key, f: f, want: want, limits: o.Limits.orDefault(),
		progress: o.Progress, hash: sha256.New(), buf: make([]byte, 256<<10),
	}
	if d.progress == nil {
		d.progress = func(int64) {}
	}
	err := d.run(ctx)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
		return reason.OnDisk(err)
	}
	var local *diskError
	if errors.As(err, &local) || reason.Of(err) == reason.Mismatch {
		if terr := f.Truncate(0); terr != nil {
			return errors.Join(err, terr)
		}
	}
	return err
}

// download is one call of File.
type download struct {
	src      Source
	key      string
	f        *os.File
	want     Want
	limits   Limits
	progress func(int64)
	buf      []byte

	hash    hash.Hash // of the first at bytes
	at      int64     // bytes that are there
	version string    // of the object, as seen in this call; "" unknown
	mixed   bool      // not all bytes are known to be of one version
	again   bool      // all was begun again
	breaks  int
	unrange int // times in a row that the source opened nothing by range
}

// diskError is an error of the file, not of the source.
type diskError struct{ err error }

func (e *diskError) Error() string { return e.err.Error() }
func (e *diskError) Unwrap() error { return e.err }

func onDisk(err error) error {
	if err == nil {
		return nil
	}
	return &diskError{reason.OnDisk(err)}
}

func (d *download) run(ctx context.Context) error {
	if err := d.rehash(ctx); err != nil {
		return err
	}
	for {
		if err := d.rest(ctx); err != nil {
			return err
		}
		got := hex.EncodeToString(d.hash.Sum(nil))
		switch {
		case got == d.want.SHA256:
			return nil
		case !d.mixed || d.again:
			return altered("sha256 is %s, want %s", got, d.want.SHA256)
		}
		d.again = true
		if err := d.empty(); err != nil {
			return err
		}
	}
}

func altered(format string, args ...any) error {
	return reason.Errorf(reason.Mismatch, format+": the object was altered in the storage; restore it, or release under a new version", args...)
}

// rehash takes in what the file holds. What cannot be read is as good as not there.
func (d *download) rehash(ctx context.Context) error {
	info, err := d.f.Stat()
	if err != nil {
		return onDisk(err)
	}
	if info.Size() > d.want.Size {
		if err := d.f.Truncate(d.want.Size); err != nil {
			return onDisk(err)
		}
	}
	for have := min(info.Size(), d.want.Size); d.at < have; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("interrupted: %w", err)
		}
		n, err := d.f.ReadAt(d.buf[:min(int64(len(d.buf)), have-d.at)], d.at)
		d.took(d.buf[:n])
		if err != nil && d.at < have {
			return d.empty()
		}
	}
	d.mixed = d.at > 0
	return nil
}

// took counts bytes that are in the file.
func (d *download) took(p []byte) {
	d.hash.Write(p)
	d.at += int64(len(p))
	d.progress(int64(len(p)))
}

// empty begins with nothing.
func (d *download) empty() error {
	d.progress(-d.at)
	d.hash.Reset()
	d.at, d.version, d.mixed = 0, "", false
	return onDisk(d.f.Truncate(0))
}

// open opens the object where the file ends.
func (d *download) open(ctx context.Context) (body io.ReadCloser, err error) {
	var info bucket.Info
	switch {
	case d.at == 0:
		// Also after a break: no byte is there that another version would not fit to.
		d.version = ""
		body, info, err = d.src.Get(ctx, d.key)
	default:
		if d.version == "" { // what is asked for by range must be there, and be the same next time
			if info, err = d.src.Stat(ctx, d.key); err != nil {
				return nil, err
			}
			if err = d.meet(info); err != nil {
				return nil, err
			}
		}
		if body, info, err = d.src.Range(ctx, d.key, d.at, d.version); err != nil && ctx.Err() == nil {
			d.unrange++
		} else {
			d.unrange = 0
		}
	}
	if errors.Is(err, bucket.ErrChanged) {
		d.version, d.mixed = "", true
	}
	if err != nil {
		return nil, err
	}
	if err := d.meet(info); err != nil {
		body.Close()
		return nil, err
	}
	return body, nil
}

// meet compares what is known of the object with what is wanted and with what was known.
func (d *download) meet(info bucket.Info) error {
	if info.Size != d.want.Size {
		return altered("size is %d, want %d bytes", info.Size, d.want.Size)
	}
	if d.at > 0 && info.Version == "" {
		d.mixed = true
	}
	if d.version == "" {
		d.version = info.Version
	}
	return nil
}

// passing reports whether an error of the source may be gone at the next try. One of a file,
// in a bucket that is a directory, is not.
func passing(err error) bool {
	var file *fs.PathError
	switch {
	case errors.Is(err, bucket.ErrChanged):
		return true
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission), errors.As(err, &file):
		return false
	}
	return reason.Of(err) == reason.IO
}
