// Package stage lays out the tree of a bundle: it copies what a plan names from a work
// tree into an empty directory.
//
//	bins      bin_dir/NAME becomes NAME at the root of the bundle, 0755
//	contents  a file src becomes the file dst; of a directory src, what is in it
//	          goes into the directory dst, "." for the root
//
// # Rules
//
// Several entries may fill one directory. Two with one path must agree in kind, bytes
// and executable bit. A missing source is an error, or a warning when the entry is not
// required. Files keep their executable bit (the owner's) and nothing else of their
// mode, directories are 0755, whatever the umask. Anything named ".git" is left out.
//
// Nothing in the bundle reaches back into the work tree: files are copied, never
// linked. A symlink below src stays a symlink and must stay inside the bundle; one to
// nothing in the bundle is a warning. Src itself may be a symlink inside the work tree
// and is followed. Devices, sockets and pipes are refused, and so are paths that a
// bundle may not hold (layout.CheckPath).
//
// A forbidden string is refused wherever it occurs: in the bytes of a file, with the
// offset, in a path, in the target of a link.
//
// # Reasons
//
// "config" for a missing source, a conflict of two entries, and a malformed plan;
// "policy" for content that no bundle may have.
package stage

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Plan says what a bundle is made of. Paths are relative, with slashes.
type Plan struct {
	BinDir    string
	Bins      []string
	Contents  []Content
	Forbidden []string // strings that no bundle may hold
}

// Content is one entry of a plan.
type Content struct {
	Src      string
	Dst      string
	Required bool
}

// Summary says what was staged.
type Summary struct {
	Entries  []Size   // bins, then contents, as in the plan
	Warnings []string // for a person to read
}

// Size is how much one entry put into the bundle.
type Size struct {
	Src   string `json:"src"`
	Dst   string `json:"dst"`
	Files int64  `json:"files"`
	Bytes int64  `json:"bytes"`
}

// Check reports whether the plan is well formed.
func (p Plan) Check() error {
	if len(p.Bins) == 0 && len(p.Contents) == 0 {
		return malformed("nothing to stage: set build.bin_names or add [[release_contents]]")
	}
	if len(p.Bins) > 0 {
		if err := checkSource("build.bin_dir", p.BinDir); err != nil {
			return err
		}
	}
	for _, b := range p.Bins {
		if err := layout.CheckPath(b); err != nil || strings.Contains(b, "/") {
			return malformed("build.bin_names: %q is not the name of a file", b)
		}
	}
	for _, c := range p.Contents {
		if err := checkSource("release_contents src", c.Src); err != nil {
			return err
		}
		if c.Dst == "." {
			continue
		}
		if err := layout.CheckPath(c.Dst); err != nil {
			return malformed("release_contents dst %q: %w", c.Dst, err)
		}
	}
	if slices.Contains(p.Forbidden, "") {
		return malformed("forbidden_strings: an empty string is in everything")
	}
	return nil
}

func checkSource(key, p string) error {
	if p == "." || fs.ValidPath(p) && !strings.Contains(p, "\x00") {
		return nil
	}
	return malformed("%s %q: want a path below the work tree, without \"..\", \"./\" or a leading slash", key, p)
}

func malformed(format string, args ...any) error {
	return reason.Errorf(reason.Config, format, args...)
}

// entry is what is known of a path that is staged.
type entry struct {
	dir  bool
	exec bool
	sum  [sha256.Size]byte // of the bytes of a file
	link string            // target; only of a link
	from string            // where it came from, for people
}

type stager struct {
	work, dst *os.Root
	scan      *scanner
	staged    map[string]entry
	sum       Summary
	current   *Size
	buf       []byte
	found     []string // forbidden strings
}

// maxFound is how many forbidden strings are listed.
const maxFound = 20

// Fill copies what the plan names from work into dst, an empty directory.
func Fill(ctx context.Context, work, dst *os.Root, p Plan) (Summary, error) {
	if err := p.Check(); err != nil {
		return Summary{}, err
	}
	s := &stager{
		work: work, dst: dst, scan: newScanner(p.Forbidden),
		staged: map[string]entry{}, buf: make([]byte, 256<<10),
	}
	for _, name := range p.Bins {
		if err := s.bin(ctx, path.Join(p.BinDir, name), name); err != nil {
			return Summary{}, err
		}
	}
	for _, c := range p.Contents {
		if err := s.content(ctx, c); err != nil {
			return Summary{}, err
		}
	}
	if len(s.found) > 0 {
		return Summary{}, reason.Errorf(reason.Policy, "forbidden string in the bundle:\n  %s", strings.Join(s.found, "\n  "))
	}
	if len(s.staged) == 0 {
		return Summary{}, malformed("nothing was staged: every source is empty or missing")
	}
	s.dangling()
	return s.sum, nil
}

func (s *stager) begin(src, dst string) {
	s.sum.Entries = append(s.sum.Entries, Size{Src: src, Dst: dst})
	s.current = &s.sum.Entries[len(s.sum.Entries)-1]
}

func (s *stager) bin(ctx context.Context, src, name string) error {
	s.begin(src, name)
	info, err := s.work.Stat(src)
	if err != nil {
		return s.missing(err, "binary", src, "the build did not make it, or build.bin_dir or build.bin_names is wrong")
	}
	if !info.Mode().IsRegular() {
		return malformed("binary %q: not a file", src)
	}
	return s.file(ctx, src, name, true)
}

func (s *stager) content(ctx context.Context, c Content) error {
	s.begin(c.Src, c.Dst)
	info, err := s.work.Stat(c.Src)
	if absent(err) && !c.Required {
		s.sum.Warnings = append(s.sum.Warnings, fmt.Sprintf("release_contents src %q is not in this commit; left out (it is not required)", c.Src))
		return nil
	}
	if err != nil {
		return s.missing(err, "release_contents src", c.Src, "this commit or its build does not have it; set required = false if that is fine")
	}
	switch {
	case info.IsDir():
		if err := s.dir(c.Dst, c.Src); err != nil {
			return err
		}
		return s.tree(ctx, c.Src, c.Dst)
	case info.Mode().IsRegular() && c.Dst == ".":
		return malformed("release_contents src %q is a file: dst must name it, not be \".\"", c.Src)
	case info.Mode().IsRegular():
		return s.file(ctx, c.Src, c.Dst, info.Mode()&0o100 != 0)
	}
	return refused("%q: neither a file nor a directory", c.Src)
}

// missing explains the error of looking at a source.
func (s *stager) missing(err error, what, src, wayOut string) error {
	switch {
	case absent(err):
		return malformed("%s %q is missing: %s", what, src, wayOut)
	case leaves(err):
		return refused("%s %q: a link on the way leaves the work tree", what, src)
	}
	return fmt.Errorf("%s %q: %w", what, src, err)
}

// absent reports whether err says that there is nothing at a path.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// leaves reports whether err is that of an os.Root for a path that leaves it.
func leaves(err error) bool {
	var perr *fs.PathError
	return errors.As(err, &perr) && strings.Contains(perr.Err.Error(), "escapes from parent")
}

func refused(format string, args ...any) error {
	return reason.Errorf(reason.Policy, format, args...)
}

// tree copies what is in the directory src into the directory dst.
func (s *stager) tree(ctx context.Context, src, dst string) error {
	d, err := s.work.Open(src)
	if err != nil {
		return err
	}
	list, err := d.ReadDir(-1)
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("read directory %q: %w", src, err)
	}
	slices.SortFunc(list, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	for _, e := range list {
		if e.Name() == ".git" {
			continue
		}
		if err := s.one(ctx, path.Join(src, e.Name()), path.Join(dst, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *stager) one(ctx context.Context, src, dst string) error {
	info, err := s.work.Lstat(src)
	if err != nil {
		return err
	}
	switch mode := info.Mode(); {
	case mode.IsDir():
		if err := s.dir(dst, src); err != nil {
			return err
		}
		return s.tree(ctx, src, dst)
	case mode.IsRegular():
		return s.file(ctx, src, dst, mode&0o100 != 0)
	case mode.Type() == fs.ModeSymlink:
		return s.symlink(src, dst)
	}
	return refused("%q: neither a file nor a directory nor a link", src)
}

// dir makes the directory p of the bundle and those above it.
func (s *stager) dir(p, from string) error {
	if p == "." {
		return nil
	}
	if old, ok := s.staged[p]; ok {
		if !old.dir {
			return conflict(p, old, from)
		}
		return nil
	}
	if err := s.admit(p, from); err != nil {
		return err
	}
	if err := s.dst.Mkdir(p, 0o755); err != nil {
		return err
	}
	s.staged[p] = entry{dir: true, from: from}
	return s.dst.Chmod(p, 0o755) // whatever the umask is
}

// admit holds the path p to the rules and makes the directories above it.
func (s *stager) admit(p, from string) error {
	if err := layout.CheckPath(p); err != nil {
		return refused("%q: %w", from, err)
	}
	s.note("path "+p, s.scan.text(p))
	return s.dir(path.Dir(p), from)
}

func (s *stager) note(where string, hits []hit) {
	for _, h := range hits {
		if len(s.found) < maxFound {
			s.found = append(s.found, fmt.Sprintf("%q in %s at offset %d", h.text, where, h.at))
		}
	}
}

func (s *stager) file(ctx context.Context, src, dst string, exec bool) error {
	old, again := s.staged[dst]
	if again && (old.dir || old.link != "" || old.exec != exec) {
		return conflict(dst, old, src)
	}
	if !again {
		if err := s.admit(dst, src); err != nil {
			return err
		}
	}
	sum, n, err := s.copy(ctx, src, dst, exec, !again)
	if err != nil {
		return fmt.Errorf("copy %q: %w", src, err)
	}
	if again && old.sum != sum {
		return conflict(dst, old, src)
	}
	s.staged[dst] = entry{exec: exec, sum: sum, from: src}
	s.current.Files++
	s.current.Bytes += n
	return nil
}

// copy reads src to its end and, if write is set, makes the file dst of it.
func (s *stager) copy(ctx context.Context, src, dst string, exec, write bool) (sum [sha256.Size]byte, n int64, err error) {
	in, err := s.work.Open(src)
	if err != nil {
		return sum, 0, err
	}
	defer in.Close()
	h := sha256.New()
	s.scan.reset()
	to := []io.Writer{h, s.scan}
	if write {
		out, err := create(s.dst, dst, exec)
		if err != nil {
			return sum, 0, err
		}
		defer func() {
			if cerr := out.Close(); err == nil {
				err = cerr
			}
		}()
		to = append(to, out)
	}
	if n, err = s.stream(ctx, io.MultiWriter(to...), in); err != nil {
		return sum, n, err
	}
	s.note(fmt.Sprintf("%q", src), s.scan.hits)
	return sumOf(h), n, nil
}

func create(root *os.Root, name string, exec bool) (*os.File, error) {
	perm := fs.FileMode(0o644)
	if exec {
		perm = 0o755
	}
	f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(perm); err != nil { // whatever the umask is
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func sumOf(h hash.Hash) (sum [sha256.Size]byte) {
	copy(sum[:], h.Sum(nil))
	return sum
}

func (s *stager) stream(ctx context.Context, w io.Writer, r io.Reader) (n int64, err error) {
	for {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		k, rerr := r.Read(s.buf)
		if _, err := w.Write(s.buf[:k]); err != nil {
			return n, err
		}
		n += int64(k)
		if rerr == io.EOF {
			return n, nil
		}
		if rerr != nil {
			return n, rerr
		}
	}
}

func (s *stager) symlink(src, dst string) error {
	target, err := s.work.Readlink(src)
	if err != nil {
		return err
	}
	if old, ok := s.staged[dst]; ok {
		if old.link != target {
			return conflict(dst, old, src)
		}
		s.current.Files++
		return nil
	}
	if err := s.admit(dst, src); err != nil {
		return err
	}
	if err := layout.CheckLink(dst, target); err != nil {
		return refused("%q would leave the bundle or is not plain: %w", src, err)
	}
	s.note(fmt.Sprintf("the target of link %q", src), s.scan.text(target))
	if err := s.dst.Symlink(target, dst); err != nil {
		return err
	}
	s.staged[dst] = entry{link: target, from: src}
	s.current.Files++
	return nil
}

func conflict(p string, old entry, src string) error {
	return malformed("two entries put different things at %q of the bundle: %q and %q", p, old.from, src)
}

// dangling warns about the links that lead to nothing in the bundle.
func (s *stager) dangling() {
	for _, p := range slices.Sorted(maps.Keys(s.staged)) {
		if target := s.staged[p].link; target != "" {
			if _, err := s.dst.Stat(p); err != nil {
				s.sum.Warnings = append(s.sum.Warnings, fmt.Sprintf("link %q leads to %q, which is not in the bundle", p, target))
			}
		}
	}
}
