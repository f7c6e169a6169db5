package adopt

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// copied says of which directory there is a copy, and what it was made of.
type copied struct {
	From string `json:"from"`
	To   string `json:"to"`
	Of   string `json:"of"` // fingerprint of From when the copy was made
}

// good reports whether the copy is of what there is now, by its fingerprint, and is there: a
// person may have taken it away to begin anew.
func (c copied) good(of string) bool { return c.Of == of && (empty(c.From) || !empty(c.To)) }

// openState opens a directory of state below the old root. Whoever can write there may have put
// links in its place: what lies elsewhere is neither copied nor given to the app.
func openState(oldRoot, from string) (*os.Root, error) {
	old, err := os.OpenRoot(oldRoot)
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	defer old.Close()
	state, err := old.OpenRoot(from)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return state, reason.OnDisk(err)
	}
	real, lerr := filepath.EvalSymlinks(filepath.Join(oldRoot, from))
	if below, rerr := filepath.Rel(oldRoot, real); lerr == nil && (rerr != nil || !filepath.IsLocal(below)) {
		return nil, reason.Errorf(reason.Config, "--state %s: it is a link that leads out of %s, to %s: leave this --state out, and the state stays there", from, oldRoot, real)
	}
	return nil, reason.OnDisk(err)
}

// measure walks a directory. The fingerprint changes when a file in it is written to, by size
// and time, is made, removed or renamed.
func measure(ctx context.Context, dir *os.Root) (fingerprint string, bytes int64, err error) {
	h := sha256.New()
	err = fs.WalkDir(dir.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var info fs.FileInfo
		if err == nil {
			info, err = dir.Lstat(path)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // an app at work has removed it
		}
		if err != nil {
			return err
		}
		if info.Mode().Type() == fs.ModeSocket {
			return nil // of a program that runs
		}
		fmt.Fprintf(h, "%q %d %d %v\n", path, info.Size(), info.ModTime().UnixNano(), info.Mode())
		if info.Mode().IsRegular() {
			bytes += info.Sys().(*syscall.Stat_t).Blocks * 512
		}
		return nil
	})
	return hex.EncodeToString(h.Sum(nil)), bytes, reason.OnDisk(err)
}

// checkTarget reports what keeps a copy of from from being put at to. An existing directory
// must be empty, unless it is such a copy already.
func checkTarget(from, to string, size int64, ours bool) error {
	parent := filepath.Dir(to)
	up, err := os.Stat(parent)
	if err != nil || !up.IsDir() {
		return reason.Errorf(reason.Config, "--state: %s is not there to put %s into: make it", parent, filepath.Base(to))
	}
	info, err := os.Lstat(to)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return reason.OnDisk(err)
	case !info.IsDir():
		return reason.Errorf(reason.Config, "--state: %s is not a directory: move it away", to)
	case info.Sys().(*syscall.Stat_t).Dev != up.Sys().(*syscall.Stat_t).Dev:
		return reason.Errorf(reason.Config, "--state: %s is a mount point, and a copy could not be put in its place in one step: name a directory below it", to)
	case !ours:
		entries, err := os.ReadDir(to)
		if err != nil {
			return reason.OnDisk(err)
		}
		if len(entries) > 0 {
			return reason.Errorf(reason.Config, "--state: %s is not empty (it has %q), and nothing in it is overwritten: move it away, or leave the state of %s where it is", to, entries[0].Name(), from)
		}
	}
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return reason.OnDisk(err)
	}
	if free := int64(st.Bavail) * st.Bsize; free < size {
		return reason.Errorf(reason.Disk, "--state: a copy of %s takes %d MiB, and the filesystem of %s has %d MiB", from, size>>20, to, free>>20)
	}
	return nil
}

// empty reports whether there is nothing at path, or nothing in it.
func empty(path string) bool {
	entries, err := os.ReadDir(path)
	return errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0
}

// replica is one directory to be copied while nobody writes to it.
type replica struct {
	from     *os.Root
	name, to string // of from, and where the copy goes
	uid, gid int    // of the app's old user, whose files become
	newUID   int    // the new one's
	newGID   int
}

// make copies, and puts the copy in place, durably. Until then it is in a directory that only
// root may enter: both users could exchange what is theirs for a link, while owners are changed
// there. An unfinished copy of an earlier run is Sando's own, and is made anew; what cannot be finished
// is taken away, for the old app needs the room.
func (r replica) make(ctx context.Context) (err error) {
	private := r.to + ".sando-copy"
	if err := os.RemoveAll(private); err != nil {
		return reason.OnDisk(err)
	}
	if err := durable.Mkdir(private, 0o700); err != nil {
		return reason.OnDisk(err)
	}
	defer func() { err = errors.Join(err, reason.OnDisk(os.RemoveAll(private))) }()
	tmp := filepath.Join(private, "copy")
	if err := r.copy(ctx, private); err != nil {
		return fmt.Errorf("copy %s to %s: %w", r.name, r.to, err)
	}
	if err := durable.Remove(r.to); err != nil && !errors.Is(err, fs.ErrNotExist) { // empty, or it stays
		return reason.OnDisk(fmt.Errorf("put the copy of %s in place: %w", r.name, err))
	}
	if err := durable.Rename(tmp, r.to); err != nil {
		return reason.OnDisk(fmt.Errorf("put the copy of %s in place: %w", r.name, err))
	}
	return nil
}

// copy makes the directory "copy" in private.
func (r replica) copy(ctx context.Context, private string) error {
	from, err := r.from.Open(".")
	if err != nil {
		return reason.OnDisk(err)
	}
	defer from.Close()
	into, err := os.OpenRoot(private)
	if err != nil {
		return reason.OnDisk(err)
	}
	defer into.Close()
	base, err := into.Open(".")
	if err != nil {
		return reason.OnDisk(err)
	}
	defer base.Close()
	// cp knows links, holes, attributes and access control lists. By descriptors: what somebody puts in
	// the place of either directory meanwhile is not looked at.
	cmd := exec.CommandContext(ctx, "cp", "-a", "-T", "--reflink=auto", "--", "/proc/self/fd/3/.", "/proc/self/fd/4/copy")
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.ExtraFiles = []*os.File{from, base}
	if out, err := cmd.CombinedOutput(); err != nil {
		code := reason.IO
		if bytes.Contains(out, []byte("No space left on device")) {
			code = reason.Disk
		}
		return cmp.Or(ctx.Err(), reason.Errorf(code, "%w: %s", err, firstLine(out)))
	}
	made, err := into.OpenRoot("copy")
	if err != nil {
		return reason.OnDisk(err)
	}
	defer made.Close()
	if err := r.own(made); err != nil {
		return reason.OnDisk(err)
	}
	if err := r.likeTarget(made); err != nil {
		return reason.OnDisk(err)
	}
	return reason.OnDisk(durable.SyncFS(base))
}

// likeTarget gives the copy the owner and the mode of a directory that was made for it: somebody
// wants them.
func (r replica) likeTarget(made *os.Root) error {
	info, err := os.Lstat(r.to)
	if err != nil || !info.IsDir() {
		return nil //nolint:nilerr // there is none
	}
	top, err := made.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	st := info.Sys().(*syscall.Stat_t)
	return errors.Join(top.Chown(int(st.Uid), int(st.Gid)), top.Chmod(info.Mode().Perm()))
}

func firstLine(out []byte) []byte {
	line, _, _ := bytes.Cut(bytes.TrimSpace(out), []byte("\n"))
	return line
}

// own gives what belonged to the old user to the new one. What belonged to others still does.
func (r replica) own(dir *os.Root) error {
	if r.uid == r.newUID && r.gid == r.newGID {
		return nil
	}
	return fs.WalkDir(dir.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := dir.Lstat(path)
		if err != nil {
			return err
		}
		st, uid, gid := info.Sys().(*syscall.Stat_t), -1, -1
		if int(st.Uid) == r.uid {
			uid = r.newUID
		}
		if int(st.Gid) == r.gid {
			gid = r.newGID
		}
		if uid < 0 && gid < 0 {
			return nil
		}
		return dir.Lchown(path, uid, gid)
	})
}
