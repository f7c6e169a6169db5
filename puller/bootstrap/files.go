package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// owner is who a file or directory is to belong to. Users of the app may not exist yet when
// a step looks.
type owner struct {
	user, group string
	ids         func(ctx context.Context) (uid, gid int, err error)
}

func byRoot() owner {
	return owner{"root", "root", func(context.Context) (int, int, error) { return 0, 0, nil }}
}

func (o owner) String() string { return o.user + ":" + o.group }

// has reports whether a file belongs to o. To a user that is not there yet nothing does.
func (o owner) has(ctx context.Context, info fs.FileInfo) bool {
	uid, gid, err := o.ids(ctx)
	st := info.Sys().(*syscall.Stat_t)
	return err == nil && int(st.Uid) == uid && int(st.Gid) == gid
}

// describe says who has a file, and its mode.
func describe(info fs.FileInfo) string {
	st := info.Sys().(*syscall.Stat_t)
	name, group := strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return fmt.Sprintf("%s:%s %04o", name, group, permissions(info))
}

// permissions returns the mode as chmod writes it.
func permissions(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Mode & 0o7777 }

// directory is a directory that is to be there.
type directory struct {
	path string
	perm fs.FileMode
	by   owner
	ours bool // one of Sando's own: owner and mode are mended
}

// look returns what is missing for d.
func (d directory) look(ctx context.Context) ([]Change, error) {
	changes, err := leftovers(d.path)
	if err != nil {
		return nil, err
	}
	info, err := os.Stat(d.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return append(changes, Change{What: fmt.Sprintf("make directory %s, %s %04o", d.path, d.by, d.perm)}), nil
	case err != nil:
		return nil, reason.OnDisk(err)
	case !info.IsDir():
		return nil, refuse("%s is no directory: move it away", d.path)
	}
	have, want := describe(info), fmt.Sprintf("%s %04o", d.by, d.perm)
	switch {
	case d.by.has(ctx, info) && permissions(info) == uint32(d.perm):
		return changes, nil
	case d.ours:
		return append(changes, Change{What: fmt.Sprintf("set directory %s to %s, it is %s", d.path, want, have)}), nil
	}
	return append(changes, Change{Kept: true, What: fmt.Sprintf("keep directory %s as it is, %s; if nothing else needs that: `chown %s %[1]s && chmod %04[4]o %[1]s`", d.path, have, d.by, d.perm)}), nil
}

// do makes d as it should be.
func (d directory) do(ctx context.Context) error {
	if err := sweep(d.path); err != nil {
		return err
	}
	uid, gid, err := d.by.ids(ctx)
	if err != nil {
		return err
	}
	err = makeDirectory(d.path, d.perm, uid, gid)
	if errors.Is(err, fs.ErrExist) {
		err = nil
		if d.ours {
			err = d.mend(uid, gid)
		}
	}
	return reason.OnDisk(err)
}

// mend gives d its owner and mode. It may be root's own link to where it is.
func (d directory) mend(uid, gid int) error {
	real, err := filepath.EvalSymlinks(d.path)
	if err != nil {
		return err
	}
	return durable.Own(real, d.perm, uid, gid)
}

// makeDirectory makes a directory, and what is missing above it.
func makeDirectory(path string, perm fs.FileMode, uid, gid int) error {
	if parent := filepath.Dir(path); parent != path {
		if _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist) {
			if err := makeDirectory(parent, 0o755, 0, 0); err != nil {
				return err
			}
		}
	}
	return durable.MkdirOwned(path, perm, uid, gid)
}

// file is a file that is to be there, and is made when there is none.
type file struct {
	path  string
	want  []byte
	perm  fs.FileMode
	by    owner
	what  string // for people: "trust anchor"
	quiet bool   // another content is no matter: it is the operator's
	show  bool   // with its content, also when there is none yet
	diff  func(name string, have, want []byte) string
	hint  string // what a person can do about another content
}

func (f file) look(context.Context) ([]Change, error) {
	changes, err := leftovers(f.path)
	if err != nil {
		return nil, err
	}
	have, err := readFile(f.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c := Change{What: fmt.Sprintf("write %s %s, %s %04o", f.what, f.path, f.by, f.perm)}
		if f.show {
			c.Diff = Diff(f.path, nil, f.want)
		}
		return append(changes, c), nil
	case err != nil:
		return nil, reason.OnDisk(fmt.Errorf("read %s: %w", f.what, err))
	case bytes.Equal(have, f.want) || f.quiet:
		return changes, nil
	}
	diff := f.diff
	if diff == nil {
		diff = Diff
	}
	return append(changes, Change{Kept: true, What: fmt.Sprintf("keep %s %s, which holds something else; %s", f.what, f.path, f.hint), Diff: diff(f.path, have, f.want)}), nil
}

// maxFile is more than any of these files has.
const maxFile = 1 << 20

// readFile reads a file, and nothing that waits for ever or has no end.
func readFile(path string) (data []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close() // only read
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, refuse("%s is no file: move it away", path)
	}
	if data, err = io.ReadAll(io.LimitReader(f, maxFile+1)); len(data) > maxFile {
		return nil, refuse("%s has more than %d bytes: move it away", path, maxFile)
	}
	return data, err
}

func (f file) do(ctx context.Context) error {
	if err := sweep(f.path); err != nil {
		return err
	}
	if _, err := os.Lstat(f.path); err == nil {
		return nil
	}
	uid, gid, err := f.by.ids(ctx)
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Dir(f.path)); errors.Is(err, fs.ErrNotExist) {
		if err := makeDirectory(filepath.Dir(f.path), 0o755, 0, 0); err != nil {
			return reason.OnDisk(err)
		}
	}
	return reason.OnDisk(durable.CreateOwned(f.path, bytes.NewReader(f.want), f.perm, uid, gid))
}

// leftovers finds what an interrupted run left beside path.
func leftovers(path string) (changes []Change, err error) {
	left, err := durable.Leftovers(path)
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	for _, name := range left {
		changes = append(changes, Change{What: "remove " + name + ", which an interrupted run left"})
	}
	return changes, nil
}

// sweep removes leftovers.
func sweep(path string) error {
	left, err := durable.Leftovers(path)
	for _, name := range left {
		err = errors.Join(err, durable.Remove(name))
	}
	return reason.OnDisk(err)
}

// part is a directory or a file of a step.
type part interface {
	look(ctx context.Context) ([]Change, error)
	do(ctx context.Context) error
}

// step makes a step of parts.
func step(name string, parts ...part) Step {
	return Step{
		Name: name,
		Look: func(ctx context.Context) (all []Change, err error) {
			for _, p := range parts {
				changes, err := p.look(ctx)
				if err != nil {
					return nil, err
				}
				all = append(all, changes...)
			}
			return all, nil
		},
		Do: func(ctx context.Context) error {
			for _, p := range parts {
				if err := p.do(ctx); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
