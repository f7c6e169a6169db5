// Package tree is the tree of a release: what lies below its root, and the one hash
// that names all of it.
//
// # Listing
//
// A tree is written as one line for each directory, regular file and symlink below the
// root, sorted by PATH bytewise, each ending in a newline:
//
//	KIND SP SHA256 SP PATH LF
//
// KIND is 0644 or 0755 for a regular file with that mode, "link" for a symlink, "dir"
// for a directory (whose mode is 0755). SHA256 is 64 lower-case hex digits: of the
// file's bytes, of the link's target text; a directory has "-". PATH is relative and
// has no slash at its end. For example:
//
//	dir - docs
//	0644 b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9 docs/readme
//	link c65cde6a5c389cd91158a5aec887eee0203942da572e56f9f75b4cbb2121dc40 latest
//	0755 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae server
//
// The tree hash is the SHA-256 of the listing. It depends on nothing else: not on
// times, owners, the order of names on disk, or on how the tree got there.
//
// # Rules
//
// Every path is one that layout.CheckPath allows, each comes once, and the directory
// that holds it is in the listing before it; so nothing lies below a link or a file.
// Link targets follow layout.CheckLink. A listing is at most MaxListing bytes long.
//
// # Parties
//
// The builder computes the hash of what it packs and signs it within the manifest. The
// puller computes it again from what it unpacked, and later from the disk (Read). Its
// own directory ".sando" at the root is in no tree.
//
// # What this does not protect from
//
// Owners, extended attributes, ACLs, times and hard links are not looked at: who can
// set those on a node is its operator. Read sees one moment after the other; a tree
// that is changed while it is read may get a hash that it never had as a whole.
package tree

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"regexp"
	"slices"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// MaxListing bounds a listing, in bytes: about 200 000 entries with long paths.
const MaxListing = 32 << 20

// ErrTree is matched by every error about something that a tree does not have.
var ErrTree = errors.New("not allowed in a tree")

// Kind says what an entry is, and the mode of a regular file.
type Kind string

// The kinds.
const (
	File Kind = "0644"
	Exec Kind = "0755"
	Link Kind = "link"
	Dir  Kind = "dir"
)

// Regular reports whether k is a kind of regular file.
func (k Kind) Regular() bool { return k == File || k == Exec }

// NoSum is written in place of the SHA-256 of a directory.
const NoSum = "-"

// Entry is one line of a listing.
type Entry struct {
	Path string
	Kind Kind
	Sum  string // 64 hex digits: of the content, or of a link's target; NoSum for a directory
	Size int64  // of a regular file, when known; it is not in the listing
}

// Hex returns the Sum of the bytes that were written to h.
func Hex(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

// HexOf returns the Sum of text.
func HexOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Listing returns the listing of entries, in whatever order they come.
func Listing(entries []Entry) []byte {
	var b bytes.Buffer
	write(&b, entries)
	return b.Bytes()
}

// Hash returns the tree hash of entries, in whatever order they come.
func Hash(entries []Entry) layout.Digest {
	h := sha256.New()
	write(h, entries)
	return layout.Digest("sha256:" + Hex(h))
}

// write writes the listing to w, which does not fail.
func write(w io.Writer, entries []Entry) {
	var line []byte
	for _, e := range sorted(entries) {
		line = fmt.Appendf(line[:0], "%s %s %s\n", e.Kind, e.Sum, e.Path)
		w.Write(line)
	}
}

func sorted(entries []Entry) []Entry {
	if slices.IsSortedFunc(entries, byPath) {
		return entries
	}
	entries = slices.Clone(entries)
	slices.SortFunc(entries, byPath)
	return entries
}

func byPath(a, b Entry) int { return cmp.Compare(a.Path, b.Path) }

// ParseListing reads a listing. What it accepts, Listing prints back to the same
// bytes. Errors match ErrTree and have the reason "format", or "limit".
func ParseListing(data []byte) ([]Entry, error) {
	if len(data) > MaxListing {
		return nil, tooLong()
	}
	var entries []Entry
	var rules Rules
	for n := 1; len(data) > 0; n++ {
		line, rest, whole := bytes.Cut(data, []byte("\n"))
		if !whole {
			return nil, reason.Errorf(reason.Format, "%w: listing line %d has no end", ErrTree, n)
		}
		data = rest
		e, err := parseLine(string(line))
		if err == nil {
			err = rules.Next(e.Path, e.Kind)
		}
		if err != nil {
			return nil, reason.Wrap(reason.Format, fmt.Errorf("listing line %d: %w", n, err))
		}
		entries = append(entries, e)
	}
	return entries, nil
}

var sumForm = regexp.MustCompile(`^[0-9a-f]{64}$`)

func parseLine(line string) (Entry, error) {
	kind, rest, _ := strings.Cut(line, " ")
	sum, path, ok := strings.Cut(rest, " ")
	if !ok {
		return Entry{}, fmt.Errorf("%w: %q is not KIND SHA256 PATH", ErrTree, line)
	}
	e := Entry{Path: path, Kind: Kind(kind), Sum: sum}
	switch e.Kind {
	case Dir:
		if sum != NoSum {
			return Entry{}, fmt.Errorf("%w: directory %q has the sum %q, want %q", ErrTree, path, sum, NoSum)
		}
	case File, Exec, Link:
		if !sumForm.MatchString(sum) {
			return Entry{}, fmt.Errorf("%w: sum %q of %q is not 64 hex digits", ErrTree, sum, path)
		}
	default:
		return Entry{}, fmt.Errorf("%w: kind %q of %q is not one of 0644, 0755, link, dir", ErrTree, kind, path)
	}
	return e, nil
}

// Rules holds the entries of a tree, as they come one by one, to the rules of a tree.
// Its zero value waits for the first entry.
type Rules struct {
	last    string
	dirs    map[string]struct{}
	listing int
}

// Next reports whether an entry may come after the ones before it. Its errors match
// ErrTree, those about the path itself layout.ErrPath too; more than MaxListing has
// the reason "limit".
func (r *Rules) Next(path string, kind Kind) error {
	if err := layout.CheckPath(path); err != nil {
		return fmt.Errorf("%w: %w", ErrTree, err)
	}
	if path <= r.last {
		return fmt.Errorf("%w: %q comes after %q: not sorted and distinct", ErrTree, path, r.last)
	}
	r.last = path
	if i := strings.LastIndexByte(path, '/'); i >= 0 {
		if _, ok := r.dirs[path[:i]]; !ok {
			return fmt.Errorf("%w: %q is not below a directory that came before it", ErrTree, path)
		}
	}
	if kind == Dir {
		if r.dirs == nil {
			r.dirs = make(map[string]struct{})
		}
		r.dirs[path] = struct{}{}
	}
	r.listing += lineLen(path, kind)
	if r.listing > MaxListing {
		return tooLong()
	}
	return nil
}

func lineLen(path string, kind Kind) int {
	sum := sha256.Size * 2
	if kind == Dir {
		sum = len(NoSum)
	}
	return len(kind) + sum + len(path) + len("  \n")
}

func tooLong() error {
	return reason.Errorf(reason.Limit, "%w: listing is longer than %d bytes", ErrTree, MaxListing)
}

// maxDiff bounds the lines of a Diff.
const maxDiff = 20

// Diff says for people, in at most 20 lines sorted by path, how have differs from
// want: "missing PATH", "extra PATH", "changed PATH".
func Diff(have, want []Entry) []string {
	have, want = sorted(have), sorted(want)
	var lines []string
	for len(have) > 0 || len(want) > 0 {
		switch {
		case len(have) == 0 || len(want) > 0 && want[0].Path < have[0].Path:
			lines = append(lines, "missing "+want[0].Path)
			want = want[1:]
		case len(want) == 0 || have[0].Path < want[0].Path:
			lines = append(lines, "extra "+have[0].Path)
			have = have[1:]
		default:
			if line := changed(have[0], want[0]); line != "" {
				lines = append(lines, line)
			}
			have, want = have[1:], want[1:]
		}
	}
	if more := len(lines) - (maxDiff - 1); more > 1 {
		lines = append(lines[:maxDiff-1], fmt.Sprintf("and %d more", more))
	}
	return lines
}

func changed(have, want Entry) string {
	switch {
	case have.Kind != want.Kind:
		return fmt.Sprintf("changed %s: is %s, want %s", have.Path, have.Kind, want.Kind)
	case have.Sum != want.Sum:
		return "changed " + have.Path
	}
	return ""
}
