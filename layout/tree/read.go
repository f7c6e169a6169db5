package tree

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"makenot.work/sando/layout"
)

// Read walks the directory root and hashes what is in it. The top-level ".sando" is
// left out. No link is followed.
//
// An error matches ErrTree when root holds what no tree has: another type of file, a
// path or link target that is not allowed, a mode that is not exactly 0644 or 0755
// (directories 0755). All other errors come from reading.
func Read(ctx context.Context, root *os.Root) ([]Entry, error) {
	var entries []Entry
	buf := make([]byte, 256<<10)
	visit := func(dir *os.Root, name string, f Found) error {
		e := Entry{Path: f.Path, Sum: NoSum}
		var err error
		if e.Kind, err = exactKind(f); err != nil {
			return err
		}
		switch {
		case e.Kind == Link:
			e.Sum = HexOf(f.Target)
		case e.Kind.Regular():
			if e.Sum, e.Size, err = hashFile(ctx, dir, name, f.Info, buf); err != nil {
				return fmt.Errorf("%q: %w", f.Path, err)
			}
		}
		entries = append(entries, e)
		return nil
	}
	if err := (walker{skip: layout.MetaDir, visit: visit}).walk(ctx, root, ""); err != nil {
		return nil, err
	}
	slices.SortFunc(entries, byPath)
	return entries, nil
}

func exactKind(f Found) (Kind, error) {
	switch mode := f.Info.Mode(); {
	case mode == 0o644:
		return File, nil
	case mode == 0o755:
		return Exec, nil
	case mode == fs.ModeDir|0o755:
		return Dir, nil
	case mode.Type() == fs.ModeSymlink:
		return Link, nil
	default:
		return "", fmt.Errorf("%w: %q has mode %s, want 0644 or 0755 (a directory 0755)", ErrTree, f.Path, mode)
	}
}

func hashFile(ctx context.Context, dir *os.Root, name string, info fs.FileInfo, buf []byte) (string, int64, error) {
	f, err := OpenSame(dir, name, info)
	if err != nil {
		return "", 0, err
	}
	defer f.Close() // was only read
	h := sha256.New()
	n, err := io.CopyBuffer(io.MultiWriter(h, ticker(ctx)), struct{ io.Reader }{f}, buf)
	return Hex(h), n, err
}

type writerFunc func(p []byte) (int, error)

func (w writerFunc) Write(p []byte) (int, error) { return w(p) }

// ticker returns a writer that fails once ctx is done.
func ticker(ctx context.Context) io.Writer {
	return writerFunc(func(p []byte) (int, error) { return len(p), ctx.Err() })
}

// OpenSame opens the regular file name in dir for reading, and makes sure that it is
// still as info describes it, and not another one that was put in its place.
func OpenSame(dir *os.Root, name string, info fs.FileInfo) (*os.File, error) {
	f, err := dir.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0) // a fifo must not hold us up
	if err != nil {
		return nil, err
	}
	now, err := f.Stat()
	if err == nil && !unchanged(now, info) {
		err = fmt.Errorf("%w: %q was changed while the tree was read", ErrTree, name)
	}
	if err != nil {
		f.Close() // was only read
		return nil, err
	}
	return f, nil
}

// unchanged compares more than the inode, because its number may be given to another
// file as soon as it is free.
func unchanged(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Mode() == b.Mode() && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// Found is a directory, regular file or link in a directory that was walked.
type Found struct {
	Path   string
	Info   fs.FileInfo // of the thing itself, never of what a link leads to
	Target string      // of a link
}

// Scan walks the directory root and returns what is in it, sorted by path. No link is
// followed. An error matches ErrTree when root holds another type of file, or a path
// or link target that is not allowed; the latter two match layout.ErrPath as well.
// Modes are for the caller to judge.
func Scan(ctx context.Context, root *os.Root) ([]Found, error) {
	var all []Found
	visit := func(_ *os.Root, _ string, f Found) error {
		all = append(all, f)
		return nil
	}
	if err := (walker{visit: visit}).walk(ctx, root, ""); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Found) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// walker calls visit for what it finds: in no order, but a directory comes before what
// is in it.
type walker struct {
	skip  string // a path to leave out
	visit func(dir *os.Root, name string, f Found) error
}

// walk visits what is in dir and below; prefix is the path of dir with a slash behind
// it. One descriptor is open for each level, and layout.MaxDepth bounds their number.
func (w walker) walk(ctx context.Context, dir *os.Root, prefix string) error {
	names, err := readNames(dir)
	if err != nil {
		return fmt.Errorf("directory %q: %w", prefix, err)
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if prefix+name == w.skip {
			continue
		}
		f, err := look(dir, name, prefix+name)
		if err != nil {
			return err
		}
		if err := w.visit(dir, name, f); err != nil {
			return err
		}
		if !f.Info.IsDir() {
			continue
		}
		if err := w.into(ctx, dir, name, f); err != nil {
			return err
		}
	}
	return nil
}

// into walks the directory f, which dir has under name.
func (w walker) into(ctx context.Context, dir *os.Root, name string, f Found) error {
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return fmt.Errorf("directory %q: %w", f.Path, err)
	}
	defer sub.Close() // was only read
	now, err := sub.Stat(".")
	if err != nil {
		return fmt.Errorf("directory %q: %w", f.Path, err)
	}
	if !os.SameFile(now, f.Info) {
		return fmt.Errorf("%w: directory %q was replaced while the tree was read", ErrTree, f.Path)
	}
	return w.walk(ctx, sub, f.Path+"/")
}

func readNames(dir *os.Root) (names []string, err error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close() // was only read
	return f.Readdirnames(-1)
}

func look(dir *os.Root, name, path string) (f Found, err error) {
	if err := layout.CheckPath(path); err != nil {
		return f, fmt.Errorf("%w: %w", ErrTree, err)
	}
	f.Path = path
	if f.Info, err = dir.Lstat(name); err != nil {
		return f, fmt.Errorf("%q: %w", path, err)
	}
	switch f.Info.Mode().Type() {
	case 0, fs.ModeDir:
		return f, nil
	case fs.ModeSymlink:
	default:
		return f, fmt.Errorf("%w: %q is a %s, want a directory, regular file or symlink", ErrTree, path, typeName(f.Info.Mode()))
	}
	if f.Target, err = dir.Readlink(name); err != nil {
		return f, fmt.Errorf("%q: %w", path, err)
	}
	if err := layout.CheckLink(path, f.Target); err != nil {
		return f, fmt.Errorf("%w: %w", ErrTree, err)
	}
	return f, nil
}

func typeName(mode fs.FileMode) string {
	switch {
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "device"
	}
	return "file of another type"
}
