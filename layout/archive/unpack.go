package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

// bufSize is how much of a file is read, hashed and written at a time.
const bufSize = 256 << 10

// Want is what a manifest says about a tarball; all of it must hold exactly. The zero
// value lets nothing pass.
type Want struct {
	Unpacked int64 // bytes of all regular files together
	Entries  int64 // directories, files and links
	Tree     layout.Digest
	MTime    time.Time // of every entry
}

// Unpack unpacks the tarball r into dst, an empty directory, and returns the entries
// of its tree. Files get exactly their modes, whatever the umask; owner and times are
// what the process makes them. progress, unless nil, is called with the number of
// bytes of regular files that were written since it was called last.
//
// The caller has compared the size and the hash of r's bytes with the manifest before,
// and makes dst durable afterwards. After an error dst holds a part, to be deleted. ctx
// is looked at between reads of r, which must not hang.
//
// Errors have the reason "format" for bytes that are not of the profile, "limit" for
// more entries or bytes than want says or too large a window, "mismatch" for fewer, or
// another tree; "disk" for no space or inodes, else "io".
func Unpack(ctx context.Context, r io.Reader, dst *os.Root, want Want, progress func(bytes int64)) ([]tree.Entry, error) {
	out := &disk{dirs: dirs{root: dst}}
	if err := out.checkEmpty(); err != nil {
		return nil, reason.OnDisk(err)
	}
	entries, err := unpack(ctx, r, out, want, progress)
	if cerr := out.dirs.close(); err == nil && cerr != nil {
		return nil, reason.OnDisk(cerr)
	}
	return entries, err
}

// Check reads the tarball r as Unpack does, with the same errors, and writes nothing.
func Check(ctx context.Context, r io.Reader, want Want) ([]tree.Entry, error) {
	return unpack(ctx, r, nowhere{}, want, nil)
}

// sink is where unpacked entries go.
type sink interface {
	dir(path string) error
	link(path, target string) error
	// file makes a new regular file. Closing it is part of writing it.
	file(path string, kind tree.Kind) (io.WriteCloser, error)
}

// nowhere is the sink that keeps nothing.
type nowhere struct{}

func (nowhere) dir(string) error                               { return nil }
func (nowhere) link(string, string) error                      { return nil }
func (nowhere) file(string, tree.Kind) (io.WriteCloser, error) { return nowhere{}, nil }
func (nowhere) Write(p []byte) (int, error)                    { return len(p), nil }
func (nowhere) Close() error                                   { return nil }

func unpack(ctx context.Context, r io.Reader, out sink, want Want, progress func(int64)) ([]tree.Entry, error) {
	if err := want.check(); err != nil {
		return nil, reason.Wrap(reason.Format, err)
	}
	s, err := newStream(r)
	if err != nil {
		return nil, err
	}
	defer s.close()
	u := &unpacker{in: s, out: out, want: want, progress: progress, digest: sha256.New(), buf: make([]byte, bufSize)}
	if err := u.run(ctx); err != nil {
		return nil, err
	}
	if err := want.compare(u); err != nil {
		return nil, err
	}
	return u.entries, nil
}

func (w Want) check() error {
	if err := checkTime(w.MTime); err != nil {
		return err
	}
	if w.Entries < 1 || w.Unpacked < 0 {
		return fmt.Errorf("%d entries with %d bytes are wanted", w.Entries, w.Unpacked)
	}
	return w.Tree.Check()
}

func (w Want) compare(u *unpacker) error {
	if n := int64(len(u.entries)); n != w.Entries {
		return reason.Errorf(reason.Mismatch, "tarball has %d entries, the manifest says %d", n, w.Entries)
	}
	if u.unpacked != w.Unpacked {
		return reason.Errorf(reason.Mismatch, "tarball unpacks to %d bytes, the manifest says %d", u.unpacked, w.Unpacked)
	}
	if got := tree.Hash(u.entries); got != w.Tree {
		return reason.Errorf(reason.Mismatch, "tree mismatch: got %s, want %s", got, w.Tree)
	}
	return nil
}

// unpacker reads one tar archive.
type unpacker struct {
	in       io.Reader
	out      sink
	want     Want
	progress func(int64)

	entries  []tree.Entry
	unpacked int64
	rules    tree.Rules
	digest   hash.Hash
	buf      []byte
}

// run reads the archive up to the end of its bytes.
func (u *unpacker) run(ctx context.Context) error {
	for {
		h, end, err := u.header()
		if err != nil || end {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		e, err := u.entry(ctx, h)
		if err != nil {
			return fmt.Errorf("%q: %w", h.path, err)
		}
		u.entries = append(u.entries, e)
		u.unpacked += e.Size
	}
}

// fill reads exactly len(p) bytes.
func (u *unpacker) fill(p []byte) error {
	_, err := io.ReadFull(u.in, p)
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return reason.Errorf(reason.Format, "tar archive ends early")
	}
	return err
}

// header reads the header of the next entry, or the end of the archive.
func (u *unpacker) header() (h header, end bool, err error) {
	raw := u.buf[:blockSize]
	if err := u.fill(raw); err != nil {
		return h, false, err
	}
	if isZero(raw) {
		return h, true, u.end()
	}
	if raw[156] == typePAX {
		n, ok := number(raw[124:136])
		if !ok || n > maxRecords {
			return h, false, reason.Errorf(reason.Format, "PAX header announces %q bytes, want at most %d", trim(raw[124:136]), maxRecords)
		}
		raw = u.buf[:blockSize+n+padding(n)+blockSize]
		if err := u.fill(raw[blockSize:]); err != nil {
			return h, false, err
		}
	}
	if h, err = parse(raw, u.want.MTime); err != nil {
		return h, false, reason.Wrap(reason.Format, err)
	}
	return h, false, nil
}

// end reads what follows the first zero block: the second one, and nothing.
func (u *unpacker) end() error {
	raw := u.buf[:blockSize]
	if err := u.fill(raw); err != nil {
		return err
	}
	if !isZero(raw) {
		return reason.Errorf(reason.Format, "tar archive has a header after a zero block")
	}
	switch n, err := io.ReadFull(u.in, raw[:1]); {
	case n > 0:
		return reason.Errorf(reason.Format, "tar archive goes on after its end")
	case err != io.EOF:
		return err
	}
	return nil
}

func isZero(p []byte) bool { return len(bytes.TrimLeft(p, "\x00")) == 0 }

// entry takes one entry: first it is judged, then made.
func (u *unpacker) entry(ctx context.Context, h header) (tree.Entry, error) {
	e := tree.Entry{Path: h.path, Kind: h.kind, Sum: tree.NoSum, Size: h.size}
	if err := u.rules.Next(h.path, h.kind); err != nil {
		return e, reason.Wrap(reason.Format, err)
	}
	if int64(len(u.entries)) >= u.want.Entries {
		return e, reason.Errorf(reason.Limit, "tarball has more entries than the %d of the manifest", u.want.Entries)
	}
	if h.size > u.want.Unpacked-u.unpacked {
		return e, reason.Errorf(reason.Limit, "tarball unpacks to more bytes than the %d of the manifest", u.want.Unpacked)
	}
	var err error
	switch h.kind {
	case tree.Dir:
		return e, reason.OnDisk(u.out.dir(h.path))
	case tree.Link:
		if err := layout.CheckLink(h.path, h.link); err != nil {
			return e, reason.Wrap(reason.Format, err)
		}
		e.Sum = tree.HexOf(h.link)
		return e, reason.OnDisk(u.out.link(h.path, h.link))
	default:
		e.Sum, err = u.file(ctx, h)
		return e, err
	}
}

// file copies the content of a regular file, and reads what fills its last block.
func (u *unpacker) file(ctx context.Context, h header) (sum string, err error) {
	f, err := u.out.file(h.path, h.kind)
	if err != nil {
		return "", reason.OnDisk(err)
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = reason.OnDisk(cerr)
		}
	}()
	u.digest.Reset()
	for left := h.size; left > 0; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		p := u.buf[:min(left, bufSize)]
		if err := u.fill(p); err != nil {
			return "", err
		}
		u.digest.Write(p)
		if _, err := f.Write(p); err != nil {
			return "", reason.OnDisk(err)
		}
		left -= int64(len(p))
		report(u.progress, len(p))
	}
	rest := u.buf[:padding(h.size)]
	if err := u.fill(rest); err != nil {
		return "", err
	}
	if !isZero(rest) {
		return "", reason.Errorf(reason.Format, "last block is not filled with zeros")
	}
	return tree.Hex(u.digest), nil
}
