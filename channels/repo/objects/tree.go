package objects

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
	ModeFile       = "100644"
	ModeExecutable = "100755"
	ModeGroup      = "100664" // by old versions of git
	ModeDir        = "40000"
	ModeOldDir     = "040000" // by other programs
	ModeLink       = "120000"
	ModeSubmodule  = "160000"
)

// Entry is one line of a tree. The mode is kept as it was written, so that a tree which
// is read and written again stays the same.
type Entry struct {
	Mode, Name string
	Hash       plumbing.Hash
}

// IsDir reports whether e is a directory.
func (e Entry) IsDir() bool { return e.Mode == ModeDir || e.Mode == ModeOldDir }

// IsFile reports whether e is a regular file.
func (e Entry) IsFile() bool {
	return e.Mode == ModeFile || e.Mode == ModeExecutable || e.Mode == ModeGroup
}

// Kind says to people what e is.
func (e Entry) Kind() string {
	switch {
	case e.IsFile():
		return "a file"
	case e.IsDir():
		return "a directory"
	case e.Mode == ModeLink:
		return "a symlink"
	case e.Mode == ModeSubmodule:
		return "a submodule"
	default:
		return "an entry with mode " + e.Mode
	}
}

// maxName is the longest name that git checks out, in bytes, beside a mode.
const maxName = 4096

// ParseTree reads the content of a tree object. Errors have the reason "format".
func ParseTree(data []byte) ([]Entry, error) {
	var entries []Entry
	for len(data) > 0 {
		head, rest, ok := bytes.Cut(data, []byte{0})
		if len(head) > len(ModeOldDir)+1+maxName {
			return nil, reason.Errorf(reason.Format, "tree is malformed at entry %d: its name has more than %d bytes", len(entries), maxName)
		}
		mode, name, spaced := strings.Cut(string(head), " ")
		var h plumbing.Hash
		if !ok || !spaced || name == "" || strings.Trim(mode, "01234567") != "" || len(rest) < len(h) {
			return nil, reason.Errorf(reason.Format, "tree is malformed at entry %d", len(entries))
		}
		copy(h[:], rest)
		entries = append(entries, Entry{mode, name, h})
		data = rest[len(h):]
	}
	return entries, nil
}

// EncodeTree writes entries as ParseTree reads them.
func EncodeTree(entries []Entry) []byte {
	var buf bytes.Buffer
	for _, e := range entries {
		buf.WriteString(e.Mode + " " + e.Name + "\x00")
		buf.Write(e.Hash[:])
	}
	return buf.Bytes()
}

// sortTree brings entries into git's order: bytewise, as if the name of a directory
// ended in a slash.
func sortTree(entries []Entry) {
	key := func(e Entry) string {
		if e.IsDir() {
			return e.Name + "/"
		}
		return e.Name
	}
	slices.SortStableFunc(entries, func(a, b Entry) int { return cmp.Compare(key(a), key(b)) })
}

// trees remembers the trees read last: to look for files is to read the same few trees
// again and again.
type trees struct {
	known map[plumbing.Hash][]Entry
	bytes int // of their objects
}

// maxTrees bounds what trees remembers, in bytes of objects.
const maxTrees = 4 * MaxTree

// Tree reads the tree h. The caller changes nothing in it.
func (s Store) Tree(h plumbing.Hash) ([]Entry, error) {
	if entries, ok := s.trees.known[h]; ok {
		return entries, nil
	}
	data, err := s.Read(plumbing.TreeObject, h, MaxTree)
	if err != nil {
		return nil, err
	}
	entries, err := ParseTree(data)
	if err != nil {
		return nil, err
	}
	if s.trees.known == nil || s.trees.bytes+len(data) > maxTrees {
		*s.trees = trees{known: make(map[plumbing.Hash][]Entry)}
	}
	s.trees.known[h] = entries
	s.trees.bytes += len(data)
	return entries, nil
}

// Find returns the entry at path below the tree root. The error matches fs.ErrNotExist
// when there is none, and has the reason "format" when something on the way is not a
// directory.
func (s Store) Find(root plumbing.Hash, path string) (Entry, error) {
	at := Entry{Mode: ModeDir, Hash: root}
	done := ""
	for name := range strings.SplitSeq(path, "/") {
		if !at.IsDir() {
			return Entry{}, reason.Errorf(reason.Format, "%q is %s, want a directory", done, at.Kind())
		}
		entries, err := s.Tree(at.Hash)
		if err != nil {
			return Entry{}, err
		}
		i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
		if i < 0 {
			return Entry{}, fmt.Errorf("%q: %w", path, fs.ErrNotExist)
		}
		at = entries[i]
		done = strings.TrimPrefix(done+"/"+name, "/")
	}
	return at, nil
}

// File returns the content of the regular file at path below the tree root.
func (s Store) File(root plumbing.Hash, path string, max int64) ([]byte, error) {
	e, err := s.Find(root, path)
	if err != nil {
		return nil, err
	}
	if !e.IsFile() {
		return nil, reason.Errorf(reason.Format, "%q is %s, want a file", path, e.Kind())
	}
	return s.Read(plumbing.BlobObject, e.Hash, max)
}

// Replace writes the tree root again with other files: each path in files gets the
// content given, nil removes it. Everything else stays byte for byte, the modes of
// replaced files too. A directory that becomes empty goes. The zero root is empty.
func (s Store) Replace(root plumbing.Hash, files map[string][]byte) (plumbing.Hash, error) {
	var entries []Entry
	if root != plumbing.ZeroHash {
		var err error
		if entries, err = s.Tree(root); err != nil {
			return plumbing.ZeroHash, err
		}
		entries = slices.Clone(entries)
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
	return s.Write(plumbing.TreeObject, EncodeTree(entries))
}

func (s Store) replaceFile(entries []Entry, name string, data []byte) ([]Entry, error) {
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
	if i >= 0 && !entries[i].IsFile() {
		return nil, reason.Errorf(reason.Format, "%q is %s, want a file", name, entries[i].Kind())
	}
	if data == nil {
		return slices.DeleteFunc(entries, func(e Entry) bool { return e.Name == name }), nil
	}
	h, err := s.Write(plumbing.BlobObject, data)
	switch {
	case err != nil:
		return nil, err
	case i >= 0:
		entries[i].Hash = h
		return entries, nil
	default:
		return append(entries, Entry{ModeFile, name, h}), nil
	}
}

func (s Store) replaceDir(entries []Entry, name string, files map[string][]byte) ([]Entry, error) {
	i := slices.IndexFunc(entries, func(e Entry) bool { return e.Name == name })
	if i < 0 {
		i = len(entries)
		entries = append(entries, Entry{Mode: ModeDir, Name: name})
	}
	if !entries[i].IsDir() {
		return nil, reason.Errorf(reason.Format, "%q is %s, want a directory", name, entries[i].Kind())
	}
	h, err := s.Replace(entries[i].Hash, files)
	if err != nil {
		return nil, fmt.Errorf("in %q: %w", name, err)
	}
	entries[i].Hash = h
	if h == plumbing.ComputeHash(plumbing.TreeObject, nil) {
		return slices.Delete(entries, i, i+1), nil
	}
	return entries, nil
}

// CheckPath reports, with the reason "format", whether p may name something in the
// channel repo: relative, single slashes, no "." or ".." or ".git", no control
// characters or backslashes.
func CheckPath(p string) error {
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
