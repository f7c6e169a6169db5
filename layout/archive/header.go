package archive

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
	"time"

	"makenot.work/sando/layout"
	"makenot.work/sando/layout/tree"
)

const (
	blockSize = 512
	// endSize is the length of the end of a tar archive: two zero blocks.
	endSize = 2 * blockSize
	// maxNumber is the largest number that eleven octal digits hold: the largest
	// size of a file, and the last time.
	maxNumber = 1<<33 - 1
	// maxRecords bounds the PAX records of an entry: a path (a directory's has a slash
	// at its end) and a link target, each with its length and key.
	maxRecords = 2*layout.MaxPath + 64
	// paxName is the name of every PAX header, the one that Python's tarfile uses.
	paxName = "././@PaxHeader"
)

// The type flags of the profile.
const (
	typeFile = '0'
	typeLink = '2'
	typeDir  = '5'
	typePAX  = 'x'
)

// header is what an entry's header blocks say. Everything else in them is fixed.
type header struct {
	path string // without a slash at its end
	kind tree.Kind
	size int64  // of a regular file
	link string // the target of a link
}

// append adds the header blocks of h to dst: a USTAR header, and before it a PAX
// header for what USTAR cannot hold.
func (h header) append(dst []byte, mtime time.Time) []byte {
	name := h.path
	if h.kind == tree.Dir {
		name += "/"
	}
	var records []byte
	prefix, base, ok := split(name)
	if !ok {
		records = appendRecord(records, "path", name)
	}
	if !fits(h.link, 100) {
		records = appendRecord(records, "linkpath", h.link)
	}
	if len(records) > 0 {
		dst = appendBlock(dst, block{name: paxName, mode: 0o644, size: int64(len(records)), flag: typePAX}, mtime)
		dst = append(dst, records...)
		dst = append(dst, make([]byte, padding(int64(len(records))))...)
	}
	b := block{prefix: prefix, name: base, mode: 0o755, size: h.size, link: h.link}
	switch h.kind {
	case tree.Dir:
		b.flag = typeDir
	case tree.Link:
		b.flag = typeLink
	case tree.Exec:
		b.flag = typeFile
	default:
		b.flag, b.mode = typeFile, 0o644
	}
	return appendBlock(dst, b, mtime)
}

// block holds the fields of a USTAR header that vary.
type block struct {
	prefix, name, link string // cut off where they do not fit
	mode, size         int64
	flag               byte
}

func appendBlock(dst []byte, v block, mtime time.Time) []byte {
	var b [blockSize]byte
	copy(b[0:100], v.name)
	octal(b[100:108], v.mode)
	octal(b[108:116], 0) // uid
	octal(b[116:124], 0) // gid
	octal(b[124:136], v.size)
	octal(b[136:148], mtime.Unix())
	copy(b[148:156], "        ") // counts as spaces in its own sum
	b[156] = v.flag
	copy(b[157:257], v.link)
	copy(b[257:265], "ustar\x0000")
	octal(b[329:337], 0) // devmajor
	octal(b[337:345], 0) // devminor
	copy(b[345:500], v.prefix)
	sum := int64(0)
	for _, c := range b {
		sum += int64(c)
	}
	octal(b[148:155], sum)
	return append(dst, b[:]...)
}

// octal fills field with the digits of n and one NUL.
func octal(field []byte, n int64) {
	last := len(field) - 1
	field[last] = 0
	for i := last - 1; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
}

// split divides a name that is too long for USTAR's name field at the last slash that
// its prefix field has room for. ok is false when USTAR cannot hold the name; prefix
// is empty then.
func split(name string) (prefix, base string, ok bool) {
	if fits(name, 100) {
		return "", name, true
	}
	if i := strings.LastIndexByte(name[:min(len(name)-1, 156)], '/'); i > 0 && fits(name[:i], 155) && fits(name[i+1:], 100) {
		return name[:i], name[i+1:], true
	}
	return "", name, false
}

// fits reports whether a USTAR field of n bytes holds s. What a byte above 0x7f means
// there is not defined, so a name with one is PAX's, which is UTF-8.
func fits(s string, n int) bool {
	return len(s) <= n && strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 }) < 0
}

// appendRecord adds a PAX record, which begins with its own length.
func appendRecord(dst []byte, key, value string) []byte {
	rest := " " + key + "=" + value + "\n"
	n := len(rest)
	for digits := 0; digits != len(strconv.Itoa(n)); {
		digits = len(strconv.Itoa(n))
		n = digits + len(rest)
	}
	return append(strconv.AppendInt(dst, int64(n), 10), rest...)
}

// padding returns how many bytes follow n bytes to fill the last block.
func padding(n int64) int64 { return -n & (blockSize - 1) }

// parse reads the header blocks of one entry, as append writes them. It looks at the
// fields that vary, encodes what they say, and refuses what is not the same bytes.
func parse(raw []byte, mtime time.Time) (header, error) {
	last := raw[len(raw)-blockSize:]
	name, prefix, link := text(last[0:100]), text(last[345:500]), text(last[157:257])
	if prefix != "" {
		name = prefix + "/" + name
	}
	for key, value := range records(raw[:len(raw)-blockSize]) {
		switch key {
		case "path":
			name = value
		case "linkpath":
			link = value
		}
	}
	h := header{path: name}
	switch flag := last[156]; flag {
	case typeFile:
		h.kind = tree.Exec
		if bytes.Equal(last[100:108], []byte("0000644\x00")) {
			h.kind = tree.File
		}
		h.size, _ = number(last[124:136]) // 0 is not what was written, or is right
	case typeDir:
		h.kind = tree.Dir
		h.path = strings.TrimSuffix(name, "/")
	case typeLink:
		h.kind, h.link = tree.Link, link
	default:
		return h, fmt.Errorf("entry %q has type %q, want 0 (file), 2 (symlink) or 5 (directory)", name, flag)
	}
	var room [2*blockSize + maxRecords + blockSize]byte
	if want := h.append(room[:0], mtime); !bytes.Equal(want, raw) {
		return h, fmt.Errorf("header of %q: %s", name, difference(raw, want))
	}
	return h, nil
}

// text returns a field up to its first NUL.
func text(field []byte) string {
	s, _, _ := bytes.Cut(field, []byte{0})
	return string(s)
}

// number reads a field that octal wrote.
func number(field []byte) (int64, bool) {
	n, err := strconv.ParseUint(string(field[:len(field)-1]), 8, 63)
	return int64(n), err == nil
}

// records yields the PAX records in the blocks of a PAX header, as far as they make
// sense.
func records(raw []byte) func(yield func(key, value string) bool) {
	return func(yield func(key, value string) bool) {
		if len(raw) < blockSize {
			return
		}
		for raw = raw[blockSize:]; ; {
			digits, _, _ := bytes.Cut(raw, []byte(" "))
			n, err := strconv.ParseUint(string(digits), 10, 16)
			if err != nil || int(n) <= len(digits)+1 || int(n) > len(raw) {
				return
			}
			record := string(raw[len(digits)+1 : n])
			raw = raw[n:]
			key, value, _ := strings.Cut(strings.TrimSuffix(record, "\n"), "=")
			if !yield(key, value) {
				return
			}
		}
	}
}

// difference says where header blocks differ from the ones that they should be.
func difference(raw, want []byte) string {
	if len(raw) != len(want) {
		return fmt.Sprintf("has %d blocks, want %d: PAX is for a path and a link target that USTAR cannot hold, and for nothing else",
			len(raw)/blockSize, len(want)/blockSize)
	}
	if len(raw) > blockSize && !bytes.Equal(raw[:len(raw)-blockSize], want[:len(raw)-blockSize]) {
		return "PAX header is not the one for this path and link target, and nothing else"
	}
	raw, want = raw[len(raw)-blockSize:], want[len(want)-blockSize:]
	fields := []struct {
		name       string
		start, end int
	}{
		{"name", 0, 100}, {"mode", 100, 108}, {"uid", 108, 116}, {"gid", 116, 124}, {"size", 124, 136}, {"mtime", 136, 148},
		{"typeflag", 156, 157}, {"linkname", 157, 257}, {"magic", 257, 265}, {"uname", 265, 297}, {"gname", 297, 329},
		{"devmajor", 329, 337}, {"devminor", 337, 345}, {"prefix", 345, 500}, {"padding", 500, 512},
		{"chksum", 148, 156}, // last: it differs with every other field
	}
	for _, f := range fields {
		if a, b := raw[f.start:f.end], want[f.start:f.end]; !bytes.Equal(a, b) {
			return fmt.Sprintf("field %s is %q, want %q", f.name, trim(a), trim(b))
		}
	}
	return "does not differ"
}

func trim(field []byte) string { return strings.TrimRight(string(field), "\x00") }
