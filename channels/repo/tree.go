package repo

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

// The modes of tree entries, as git writes them.
const (
	modeFile       = "100644"
	modeExecutable = "100755"
	modeGroup      = "100664" // by old versions of git
	modeDir        = "40000"
	modeOldDir     = "040000" // by other programs
	modeLink       = "120000"
	modeSubmodule  = "160000"
)

// entry is one line of a tree. The mode is kept as it was written, so that a tree which
// is read and written again stays the same.
type entry struct {
	mode, name string
	hash       plumbing.Hash
}

func (e entry) isDir() bool { return e.mode == modeDir || e.mode == modeOldDir }

func (e entry) isFile() bool {
	return e.mode == modeFile || e.mode == modeExecutable || e.mode == modeGroup
}

// kind says to people what e is.
func (e entry) kind() string {
	switch {
	case e.isFile():
		return "a file"
	case e.isDir():
		return "a directory"
	case e.mode == modeLink:
		return "a symlink"
	case e.mode == modeSubmodule:
		return "a submodule"
	default:
		return "an entry with mode " + e.mode
	}
}

// parseTree reads the content of a tree object: MODE SP NAME NUL HASH, again and again.
func parseTree(data []byte) ([]entry, error) {
	var entries []entry
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		mode, name, spaced := strings.Cut(string(head), " ")
		var h plumbing.Hash
		if !ok || !spaced || name == "" || strings.Trim(mode, "01234567") != "" || len(rest) < len(h) {
			return nil, reason.Errorf(reason.Format, "tree is malformed at entry %d", len(entries))
		}
		copy(h[:], rest)
		entries = append(entries, entry{mode, name, h})
		data = rest[len(h):]
	}
	return entries, nil
}

// encodeTree writes entries as parseTree reads them.
func encodeTree(entries []entry) []byte {
	var buf bytes.Buffer
	for _, e := range entries {
		buf.WriteString(e.mode + " " + e.name + "\x00")
		buf.Write(e.hash[:])
	}
	return buf.Bytes()
}

// sortTree brings entries into git's order: bytewise, as if the name of a directory
// ended in a slash.
func sortTree(entries []entry) {
	key := func(e entry) string {
		if e.isDir() {
			return e.name + "/"
		}
		return e.name
	}
	slices.SortStableFunc(entries, func(a, b entry) int { return cmp.Compare(key(a), key(b)) })
}

func (s store) tree(h plumbing.Hash) ([]entry, error) {
	data, err := s.read(plumbing.TreeObject, h, maxTree)
	if err != nil {
		return nil, err
	}
	return parseTree(data)
}

// find returns the entry at path below the tree root. The error matches fs.ErrNotExist
// when there is none, and has the reason "format" when something on the way is not a
// directory.
func (s store) find(root plumbing.Hash, path string) (entry, error) {
	at := entry{mode: modeDir, hash: root}
	done := ""
	for name := range strings.SplitSeq(path, "/") {
		if !at.isDir() {
			return entry{}, reason.Errorf(reason.Format, "%q is %s, want a directory", done, at.kind())
		}
		entries, err := s.tree(at.hash)
		if err != nil {
			return entry{}, err
		}
		i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
		if i < 0 {
			return entry{}, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		}
		at = entries[i]
		done = strings.TrimPrefix(done+"/"+name, "/")
	}
	return at, nil
}

// file returns the content of the regular file at path below the tree root.
func (s store) file(root plumbing.Hash, path string, max int64) ([]byte, error) {
	e, err := s.find(root, path)
	if err != nil {
		return nil, err
	}
	if !e.isFile() {
		return nil, reason.Errorf(reason.Format, "%q is %s, want a file", path, e.kind())
	}
	return s.read(plumbing.BlobObject, e.hash, max)
}

// replace writes the tree root again with other files: each path in files gets the
// content given, nil removes it. Everything else stays byte for byte, the modes of
// replaced files too. A directory that becomes empty goes. The zero root is empty.
func (s store) replace(root plumbing.Hash, files map[string][]byte) (plumbing.Hash, error) {
	var entries []entry
	if root != plumbing.ZeroHash {
		var err error
		if entries, err = s.tree(root); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	below := make(map[string]map[string][]byte) // directory -> paths in it
	for path, data := range files {
		name, rest, deeper := strings.Cut(path, "/")
		if deeper {
			if below[name] == nil {
				below[name] = make(map[string][]byte)
			}
			below[name][rest] = data
			continue
		}
		var err error
		if entries, err = s.replaceFile(entries, name, data); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	for name, files := range below {
		var err error
		if entries, err = s.replaceDir(entries, name, files); err != nil {
			return plumbing.ZeroHash, err
		}
	}
	sortTree(entries)
	return s.write(plumbing.TreeObject, encodeTree(entries))
}

func (s store) replaceFile(entries []entry, name string, data []byte) ([]entry, error) {
	i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
	if i >= 0 && !entries[i].isFile() {
		return nil, reason.Errorf(reason.Format, "%q is %s, want a file", name, entries[i].kind())
	}
	if data == nil {
		return slices.DeleteFunc(entries, func(e entry) bool { return e.name == name }), nil
	}
	h, err := s.write(plumbing.BlobObject, data)
	switch {
	case err != nil:
		return nil, err
	case i >= 0:
		entries[i].hash = h
		return entries, nil
	default:
		return append(entries, entry{modeFile, name, h}), nil
	}
}

func (s store) replaceDir(entries []entry, name string, files map[string][]byte) ([]entry, error) {
	i := slices.IndexFunc(entries, func(e entry) bool { return e.name == name })
	if i < 0 {
		i = len(entries)
		entries = append(entries, entry{mode: modeDir, name: name})
	}
	if !entries[i].isDir() {
		return nil, reason.Errorf(reason.Format, "%q is %s, want a directory", name, entries[i].kind())
	}
	h, err := s.replace(entries[i].hash, files)
	if err != nil {
		return nil, fmt.Errorf("in %q: %w", name, err)
	}
	entries[i].hash = h
	if h == plumbing.ComputeHash(plumbing.TreeObject, nil) {
		return slices.Delete(entries, i, i+1), nil
	}
	return entries, nil
}

// checkPath reports, with the reason "format", whether p may name something in the
// channel repo: relative, single slashes, no "." or ".." or ".git", no control
// characters or backslashes.
func checkPath(p string) error {
	if err := canon.Text(p, false); err != nil {
		return reason.Errorf(reason.Format, "path in the channel repo: %w", err)
	}
	for c := range strings.SplitSeq(p, "/") {
		if c == "" || c == "." || c == ".." || strings.EqualFold(c, ".git") || strings.Contains(c, `\`) {
			return reason.Errorf(reason.Format, "path %q in the channel repo has a component %q", p, c)
		}
	}
	return nil
}
