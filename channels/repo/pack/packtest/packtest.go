// Package packtest writes packs as nobody should, for tests of those who read them: objects
// that say another size than they have, deltas that make much of little, checksums that hold
// nevertheless.
//
// Only tests import this package.
package packtest

import (
	"bytes"
	"compress/zlib"
	"crypto/sha1"
	"encoding/binary"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"
)

// Entry is an object as it stands in a pack.
type Entry struct {
	Type    plumbing.ObjectType
	Content []byte
	Says    int64         // the size that its header says; 0: that of Content
	Base    plumbing.Hash // of a delta by name
	Back    int           // of a delta by offset: how many entries before this one
}

// Pack writes a pack.
func Pack(t testing.TB, entries ...Entry) []byte {
	t.Helper()
	var buf bytes.Buffer
	buf.WriteString("PACK")
	header := binary.BigEndian.AppendUint32(nil, 2)
	buf.Write(binary.BigEndian.AppendUint32(header, uint32(len(entries))))
	var places []int
	for i, e := range entries {
		places = append(places, buf.Len())
		size := e.Says
		if size == 0 {
			size = int64(len(e.Content))
		}
		first := byte(e.Type)<<4 | byte(size&15)
		for size >>= 4; size > 0; size >>= 7 {
			buf.WriteByte(first | 0x80)
			first = byte(size & 0x7f)
		}
		buf.WriteByte(first)
		switch e.Type {
		case plumbing.OFSDeltaObject:
			buf.Write(offset(places[i] - places[max(i-e.Back, 0)]))
		case plumbing.REFDeltaObject:
			buf.Write(e.Base[:])
		}
		z := zlib.NewWriter(&buf)
		if _, err := z.Write(e.Content); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return Seal(buf.Bytes())
}

// Seal writes the checksum behind a pack.
func Seal(pack []byte) []byte {
	sum := sha1.Sum(pack)
	return append(pack, sum[:]...)
}

// offset writes how far back a base is, as git does.
func offset(n int) []byte {
	out := []byte{byte(n & 0x7f)}
	for n >>= 7; n > 0; n >>= 7 {
		n--
		out = append([]byte{0x80 | byte(n&0x7f)}, out...)
	}
	return out
}

// Delta writes a delta for a base of a size, to a result of a size, that copies the first
// 64 KiB of the base again and again, as far as the result is made of whole ones.
func Delta(base, result int64) []byte {
	out := binary.AppendUvarint(nil, uint64(base))
	out = binary.AppendUvarint(out, uint64(result))
	for range result >> 16 {
		out = append(out, 0x80) // copy, from 0, 64 KiB
	}
	return out
}
