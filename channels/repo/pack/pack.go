// Package pack reads a pack that came over the network: git's format for many objects in one
// stream, some of them as differences (deltas) to others.
//
//	"PACK" VERSION COUNT (HEADER [BASE] ZLIB)* SHA-1      with HEADER = type and unpacked size
//
// Whoever sends it may want the reader's memory, disk or time. So every size is looked at
// before anything is unpacked: that in an object's header, and that which a delta says of its
// result. All content together has a bound, and what is kept is in memory, under that bound,
// because what Sando fetches is small and a file would have to be cleaned up. Objects are
// known by the hash of what was unpacked, never by what the pack says.
//
// It does not know what is missing in a pack, nor whether what is in it was asked for.
package pack

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/reason"
)

// Limits bound what one pack may hold.
type Limits struct {
	Objects int
	Bytes   int64 // of what is kept: all contents and differences, unpacked
	Skipped int64 // of what is not, unpacked
}

// Pack is the objects of one pack.
type Pack struct {
	objects map[plumbing.Hash]object
}

type object struct {
	kind plumbing.ObjectType
	data []byte
}

// Read reads all objects of a pack. Errors have the reason "limit" for more than l allows, or
// more than a single object may have, and "format" for a pack that is malformed; an error of r,
// and a pack that ends early, stay as they are.
func Read(r io.Reader, l Limits) (*Pack, error) {
	return read(r, l, func(plumbing.ObjectType) bool { return true })
}

// History reads the commits of a pack; all else is unpacked and thrown away. Errors are
// those of Read.
func History(r io.Reader, l Limits) (*Pack, error) {
	return read(r, l, func(t plumbing.ObjectType) bool { return t == plumbing.CommitObject })
}

// Len returns how many objects there are.
func (p *Pack) Len() int { return len(p.objects) }

// Read returns the content of the object h, which must be of the type t. Errors are those of
// objects.Store.
func (p *Pack) Read(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	o, ok := p.objects[h]
	if !ok {
		return nil, objects.Absent(t, h)
	}
	if err := objects.Check(t, h, o.kind.String(), int64(len(o.data)), max); err != nil {
		return nil, err
	}
	return o.data, nil
}

// maxSize returns the most bytes that an object may have. A delta is a little longer than
// what it makes, at worst.
func maxSize(t plumbing.ObjectType) int64 {
	switch t {
	case plumbing.CommitObject, plumbing.TagObject:
		return objects.MaxCommit
	case plumbing.TreeObject:
		return objects.MaxTree
	case plumbing.OFSDeltaObject, plumbing.REFDeltaObject:
		return objects.MaxBlob + objects.MaxBlob/64
	default:
		return objects.MaxBlob
	}
}

// source remembers why reading ended, which the layers above wrap in their own words.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// reading is a pack that is being read.
type reading struct {
	scan  *packfile.Scanner
	l     Limits
	keep  func(plumbing.ObjectType) bool
	p     *Pack
	place map[int64]plumbing.Hash // of what is kept, by offset
	gone  map[int64]bool          // what is not kept, by offset
	// Deltas that came before what they need.
	atPlace map[int64][]delta
	atHash  map[plumbing.Hash][]delta
}

// delta is an object that is written as the difference to another.
type delta struct {
	offset int64
	data   []byte
}

func read(r io.Reader, l Limits, keep func(plumbing.ObjectType) bool) (*Pack, error) {
	src := &source{r: r}
	d := &reading{
		scan: packfile.NewScanner(src), l: l, keep: keep,
		p:     &Pack{objects: make(map[plumbing.Hash]object)},
		place: make(map[int64]plumbing.Hash), gone: make(map[int64]bool),
		atPlace: make(map[int64][]delta), atHash: make(map[plumbing.Hash][]delta),
	}
	err := d.all()
	var coded *reason.Error
	switch {
	case err == nil:
		return d.p, nil
	case src.err != nil:
		return nil, src.err
	case errors.As(err, &coded):
		return nil, err
	case errors.Is(err, packfile.ErrEmptyPackfile), strings.HasSuffix(err.Error(), "EOF"): // some come as text only
		return nil, fmt.Errorf("pack ends early: %w", io.ErrUnexpectedEOF)
	default:
		return nil, reason.Errorf(reason.Format, "pack is malformed: %w", err)
	}
}

func (d *reading) all() error {
	_, count, err := d.scan.Header()
	if err != nil {
		return err
	}
	if int64(count) > int64(d.l.Objects) {
		return reason.Errorf(reason.Limit, "pack holds %d objects, more than %d", count, d.l.Objects)
	}
	for range count {
		if err := d.next(); err != nil {
			return err
		}
	}
	_, err = d.scan.Checksum()
	return err
}

// next reads one entry.
func (d *reading) next() error {
	h, err := d.scan.NextObjectHeader()
	if err != nil {
		return err
	}
	switch h.Type {
	case plumbing.CommitObject, plumbing.TreeObject, plumbing.BlobObject, plumbing.TagObject:
		if !d.keep(h.Type) {
			return d.skip(h)
		}
		data, err := d.content(h)
		if err != nil {
			return err
		}
		return d.found(h.Offset, h.Type, data)
	case plumbing.OFSDeltaObject:
		if d.gone[h.OffsetReference] {
			return d.skip(h)
		}
		data, err := d.content(h)
		if err != nil {
			return err
		}
		if base, ok := d.place[h.OffsetReference]; ok {
			return d.patch(base, delta{h.Offset, data})
		}
		d.atPlace[h.OffsetReference] = append(d.atPlace[h.OffsetReference], delta{h.Offset, data})
		return nil
	case plumbing.REFDeltaObject:
		data, err := d.content(h)
		if err != nil {
			return err
		}
		if _, ok := d.p.objects[h.Reference]; ok {
			return d.patch(h.Reference, delta{h.Offset, data})
		}
		d.atHash[h.Reference] = append(d.atHash[h.Reference], delta{h.Offset, data})
		return nil
	default:
		return fmt.Errorf("object of the type %d", h.Type)
	}
}

// skip unpacks an entry, and keeps nothing of it.
func (d *reading) skip(h *packfile.ObjectHeader) error {
	if h.Length < 0 || h.Length > d.l.Skipped {
		return reason.Errorf(reason.Limit, "pack unpacks to too much beside its commits")
	}
	d.l.Skipped -= h.Length
	d.gone[h.Offset] = true
	return d.unpack(io.Discard, h)
}

// content returns the content of an entry.
func (d *reading) content(h *packfile.ObjectHeader) ([]byte, error) {
	if h.Length < 0 || h.Length > maxSize(h.Type) {
		return nil, reason.Errorf(reason.Limit, "pack holds a %s of %d bytes, more than %d", h.Type, h.Length, maxSize(h.Type))
	}
	if err := d.take(h.Length); err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	buf.Grow(int(h.Length))
	if err := d.unpack(&buf, h); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func (d *reading) unpack(w io.Writer, h *packfile.ObjectHeader) error {
	n, _, err := d.scan.NextObject(w)
	if err == nil && n != h.Length {
		err = fmt.Errorf("object of %d bytes, which says that it has %d", n, h.Length)
	}
	return err
}

// take counts bytes before they are unpacked.
func (d *reading) take(n int64) error {
	if n > d.l.Bytes {
		return reason.Errorf(reason.Limit, "pack unpacks to more than is allowed; keep other things in another repository")
	}
	d.l.Bytes -= n
	return nil
}

// found takes in an object, and those that waited for it.
func (d *reading) found(offset int64, kind plumbing.ObjectType, data []byte) error {
	type arrival struct {
		offset int64
		object
	}
	for todo := []arrival{{offset, object{kind, data}}}; len(todo) > 0; {
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		h := plumbing.ComputeHash(at.kind, at.data)
		d.p.objects[h] = at.object
		d.place[at.offset] = h
		waited := append(d.atPlace[at.offset], d.atHash[h]...)
		delete(d.atPlace, at.offset)
		delete(d.atHash, h)
		for _, w := range waited {
			made, err := d.apply(at.object, w.data)
			if err != nil {
				return err
			}
			todo = append(todo, arrival{w.offset, object{at.kind, made}})
		}
	}
	return nil
}

// patch makes an object of a base that is known, and a delta.
func (d *reading) patch(base plumbing.Hash, w delta) error {
	from := d.p.objects[base]
	made, err := d.apply(from, w.data)
	if err != nil {
		return err
	}
	return d.found(w.offset, from.kind, made)
}

// apply looks at the size that a delta says of its result before there is one.
func (d *reading) apply(base object, patch []byte) ([]byte, error) {
	_, n := binary.Uvarint(patch)
	if n <= 0 {
		return nil, packfile.ErrInvalidDelta
	}
	size, n := binary.Uvarint(patch[n:])
	if n <= 0 {
		return nil, packfile.ErrInvalidDelta
	}
	if max := maxSize(base.kind); size > uint64(max) {
		return nil, reason.Errorf(reason.Limit, "pack holds a %s of %d bytes, more than %d", base.kind, size, max)
	}
	if err := d.take(int64(size)); err != nil {
		return nil, err
	}
	return packfile.PatchDelta(base.data, patch)
}
