package adopt

import (
	"bytes"
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

// measure walks a directory. The fingerprint changes when a file in it is written to, by size
// and time, is made, removed or renamed.
func measure(ctx context.Context, dir string) (fingerprint string, bytes int64, err error) {
	h := sha256.New()
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		at := info.ModTime().UnixNano()
		if info.Mode().Type() == fs.ModeSocket {
			return nil // of a program that runs
		}
		fmt.Fprintf(h, "%q %d %d %v\n", path, info.Size(), at, info.Mode())
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

// replica is one directory to be copied while nobody writes to it.
type replica struct {
	from, to string
	uid, gid int // of the app's old user, whose files become
	newUID   int // the new one's
	newGID   int
}

// make copies, and puts the copy in place, durably. An unfinished copy of an earlier
// run is Sando's own, and is made anew.
func (r replica) make(ctx context.Context) error {
	tmp := r.to + ".sando-copy"
	if err := os.RemoveAll(tmp); err != nil {
		return reason.OnDisk(err)
	}
	// cp knows links, holes, attributes and access control lists.
	cmd := exec.CommandContext(ctx, "cp", "-a", "-T", "--reflink=auto", "--", r.from, tmp)
	if out, err := cmd.CombinedOutput(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return reason.Errorf(reason.IO, "copy %s to %s: %w: %s", r.from, r.to, err, bytes.TrimSpace(out))
	}
	if err := r.own(tmp); err != nil {
		return reason.OnDisk(fmt.Errorf("copy %s to %s: %w", r.from, r.to, err))
	}
	// A directory that was made for it has the owner and the mode that somebody wants.
	if info, err := os.Lstat(r.to); err == nil && info.IsDir() {
		st := info.Sys().(*syscall.Stat_t)
		if err := errors.Join(os.Chown(tmp, int(st.Uid), int(st.Gid)), os.Chmod(tmp, info.Mode().Perm())); err != nil {
			return reason.OnDisk(err)
		}
	}
	base, err := os.Open(tmp)
	if err != nil {
		return reason.OnDisk(err)
	}
	defer base.Close()
	if err := durable.SyncFS(base); err != nil {
		return reason.OnDisk(err)
	}
	if err := durable.Remove(r.to); err != nil && !errors.Is(err, fs.ErrNotExist) { // empty, or it stays
		return reason.OnDisk(fmt.Errorf("put the copy of %s in place: %w", r.from, err))
	}
	if err := durable.Rename(tmp, r.to); err != nil {
		return reason.OnDisk(fmt.Errorf("put the copy of %s in place: %w", r.from, err))
	}
	return nil
}

// own gives what belonged to the old user to the new one. What belonged to others still does.
func (r replica) own(dir string) error {
	if r.uid == r.newUID && r.gid == r.newGID {
		return nil
	}
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
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
		return os.Lchown(path, uid, gid)
	})
}
