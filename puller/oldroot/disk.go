package oldroot

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	maxLinks   = 40      // that a path may lead through
	maxText    = 1 << 20 // bytes of a file that is read as a whole
	maxEntries = 500_000 // files and directories of one tree
)

// disk is the machine's files, as they look from the directory that stands for its root. Links
// are followed by name: an absolute one must stay inside, and one that leads into the old
// directory is what is looked for.
type disk struct {
	root  *os.Root
	old   string
	plain map[string]bool // directories that are no links
}

// inOldError says that a path leads into the old directory, by the link at.
type inOldError struct{ at, to string }

func (e *inOldError) Error() string { return fmt.Sprintf("%s leads to %s", e.at, e.to) }

// errKind is matched by errors about what is neither a file nor a directory.
var errKind = errors.New("neither a file nor a directory")

// within reports whether name, a clean path, is dir or in it.
func within(name, dir string) bool {
	return name == dir || dir == "/" || strings.HasPrefix(name, dir+"/")
}

// relative is how an os.Root wants an absolute path.
func relative(name string) string {
	if name == "/" {
		return "."
	}
	return name[1:]
}

// parts splits a path. A ".." is one: it is taken only once it is known where it begins.
func parts(name string) []string {
	return slices.DeleteFunc(strings.Split(name, "/"), func(p string) bool { return p == "" || p == "." })
}

// follow returns where name is, without links. An error may be an *inOldError.
func (d *disk) follow(name string) (string, error) {
	done, rest, first := "/", parts(name), ""
	for links := 0; len(rest) > 0; {
		next := path.Join(done, rest[0])
		rest = rest[1:]
		if within(next, d.old) {
			return "", &inOldError{cmp.Or(first, next), path.Join(append([]string{next}, rest...)...)}
		}
		if d.plain[next] {
			done = next
			continue
		}
		target, err := d.root.Readlink(relative(next))
		switch {
		case errors.Is(err, unix.EINVAL): // no link
			d.plain[next] = len(rest) > 0
			done = next
			continue
		case err != nil:
			return "", err
		case links == maxLinks:
			return "", unix.ELOOP
		}
		links++
		first = cmp.Or(first, next)
		if path.IsAbs(target) {
			done = "/"
		}
		rest = append(parts(target), rest...)
	}
	return done, nil
}

// open opens a regular file, which must be at name without links. What is none is not opened
// at all: with some devices that does something.
func (d *disk) open(name string) (*os.File, int64, error) {
	info, err := d.root.Lstat(relative(name))
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errKind
	}
	f, err := d.root.OpenFile(relative(name), os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, err
	}
	if made(f) {
		f.Close() // only looked at
		return nil, 0, errKind
	}
	return f, info.Size(), nil
}

// made reports whether the kernel makes a file as it is read: a jail may have a /proc of its own.
func made(f *os.File) bool {
	var st unix.Statfs_t
	conn, err := f.SyscallConn()
	if err == nil {
		err = errors.Join(conn.Control(func(fd uintptr) { err = unix.Fstatfs(int(fd), &st) }), err)
	}
	return err == nil && slices.Contains([]int64{unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.DEBUGFS_MAGIC, unix.TRACEFS_MAGIC}, int64(st.Type))
}

// list returns what is in a directory, which must be at name without links, in order of the
// names; of more than max entries only some.
func (d *disk) list(name string, max int) (entries []fs.DirEntry, err error) {
	f, err := d.root.OpenFile(relative(name), os.O_RDONLY|unix.O_NONBLOCK|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	for len(entries) < max {
		some, err := f.ReadDir(min(max-len(entries), 1000))
		entries = append(entries, some...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// absent reports whether err says that there is nothing.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }
