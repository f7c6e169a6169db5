// Package node is the directories and files of one app on a node, and the few
// operations on them that must not go wrong: install a release, swap `current`, keep
// the state.
//
//	ROOT/releases/<version>/   a release; .sando/ in it holds manifest, signatures, tree
//	ROOT/current               symlink to releases/<version>, the live release
//	ROOT/.sando/               0700, the puller's own:
//	  state.json               what runs, what ran, an open intent, what is blocked
//	  pin.json                 an operator's order to run one version
//	  channels/<tier>.json     the last accepted channel state: the replay counter
//	  channels/<tier>-<digest16>.<kid16>.sigstore.json   its signatures
//	  trust/<N>.json           the trust chain, with its signatures
//	  staging/ trash/          work in progress; emptied by every cycle
//	  ballast/                 1 MiB of nothing, see below
//	  fetch/<name>             a tarball that is being fetched; at most one, see Fetched
//	  git/                     a mirror of the channel repo; may be deleted
//	  history.jsonl            what happened, a line each
//	  service.log              what the last service command printed
//	  hook                     the unit of a hook that may be running
//	  lock                     held by the one puller that changes anything
//	  daemon                   held by the one daemon, if there is one; says who it is
//	  report.json              what is known of the reports of this node in the bucket
//	  report.lock              held by who writes one
//
// Everything is owned by the puller's user, root on a server. Who can write ROOT or a
// directory above it could replace what runs, so Open refuses a ROOT of which any
// parent is writable by others. Who can write .sando/ can make the node forget
// counters and blocks; signatures still hold.
//
// The ballast is real blocks and a few inodes. What going back depends on (Urgent, Swap,
// SavePin) deletes of it when the disk is full, and is done once more: so a node can go back
// then too. It is made again when there is room.
//
// A release directory without .sando/ is foreign: made by another deployer. It is
// never deleted. Other entries of ROOT are never touched.
//
// state.json and pin.json carry an integer version. A newer one than this program
// knows is refused with the reason "config"; unreadable bytes match ErrBroken.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Dir is the root directory of one app on this node.
type Dir struct{ root string }

// subdirectories of .sando/, each made by Open.
var private = [...]string{"channels", "trust", "staging", "fetch", "trash"}

// Open returns the directory root, made when missing, after checking that nobody
// else can change it. Errors have the reason "config" when a person must mend
// something, "io" or "disk" otherwise.
func Open(root string) (*Dir, error) {
	d, err := View(root)
	if err != nil {
		return nil, err
	}
	if err := durable.MkdirAll(d.root, 0o755); err != nil {
		return nil, reason.OnDisk(fmt.Errorf("make root: %w", err))
	}
	if err := checkParents(d.root); err != nil {
		return nil, err
	}
	if err := makeDir(d.ReleasesPath(), 0o755); err != nil {
		return nil, err
	}
	for _, sub := range append([]string{""}, private[:]...) {
		if err := makeDir(d.Path(sub), 0o700); err != nil {
			return nil, err
		}
	}
	return d, d.checkPlaces()
}

// makeDir makes a directory unless something is there, which checkPlaces looks at.
func makeDir(path string, perm fs.FileMode) error {
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	if err := durable.Mkdir(path, perm); err != nil {
		return reason.OnDisk(fmt.Errorf("make directory: %w", err))
	}
	return nil
}

// Check reports what Open would refuse about a root that is there.
func (d *Dir) Check() error {
	if _, err := os.Lstat(d.Path("staging")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := checkParents(d.root); err != nil {
		return err
	}
	return d.checkPlaces()
}

// View returns the directory root without making or checking anything.
func View(root string) (*Dir, error) {
	if !filepath.IsAbs(root) || filepath.Clean(root) != root || root == "/" {
		return nil, reason.Errorf(reason.Config, "root %q is not a clean absolute path below /", root)
	}
	return &Dir{root}, nil
}

// Root returns the path of the directory.
func (d *Dir) Root() string { return d.root }

// Path returns the path of a file or directory in .sando/.
func (d *Dir) Path(elem ...string) string {
	return filepath.Join(append([]string{d.root, layout.MetaDir}, elem...)...)
}

// ReleasesPath returns the path of the directory of all releases.
func (d *Dir) ReleasesPath() string { return filepath.Join(d.root, "releases") }

// ReleasePath returns the path of one release.
func (d *Dir) ReleasePath(version string) string { return filepath.Join(d.root, "releases", version) }

// CurrentPath returns the path of the symlink to the live release.
func (d *Dir) CurrentPath() string { return filepath.Join(d.root, "current") }

// CheckAbove reports what Open would refuse about the directories above the root, which need
// not be there: who can change those can put anything in its place.
func (d *Dir) CheckAbove() error {
	starts := []string{filepath.Dir(d.root)}
	if info, err := os.Lstat(d.root); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		real, err := filepath.EvalSymlinks(d.root)
		if err != nil {
			return reason.OnDisk(err)
		}
		starts = append(starts, filepath.Dir(real))
	}
	for _, p := range starts {
		for {
			if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			p = filepath.Dir(p)
		}
		if err := checkParents(p); err != nil {
			return err
		}
	}
	return nil
}

// checkParents refuses a root that somebody else than root and the puller's own user
// could replace.
func checkParents(root string) error {
	real, err := filepath.EvalSymlinks(root)
	if err != nil {
		return reason.OnDisk(err)
	}
	for _, start := range []string{root, real} {
		for p := start; ; p = filepath.Dir(p) {
			if err := checkOwner(p); err != nil {
				return err
			}
			if p == "/" {
				break
			}
		}
	}
	return nil
}

func checkOwner(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return reason.OnDisk(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	if st.Uid != 0 && int(st.Uid) != os.Geteuid() {
		return reason.Errorf(reason.Config, "%s is owned by uid %d, want root or the puller's own user: its owner could replace what runs; chown it, or choose another root", path, st.Uid)
	}
	open := info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0
	if open && info.Mode()&fs.ModeSymlink == 0 {
		return reason.Errorf(reason.Config, "%s is writable by others (mode %s): they could replace what runs; chmod go-w %s, or choose another root", path, info.Mode(), path)
	}
	return nil
}

// checkPlaces refuses a root whose parts lie on different filesystems, where a rename
// would be no single step, and parts that are not directories.
func (d *Dir) checkPlaces() error {
	var dev uint64
	places := []string{d.root, d.ReleasesPath(), d.Path()}
	for _, sub := range private {
		places = append(places, d.Path(sub))
	}
	for i, p := range places {
		info, err := os.Lstat(p)
		if err != nil {
			return reason.OnDisk(err)
		}
		st := info.Sys().(*syscall.Stat_t)
		if i == 0 {
			if info.Mode()&fs.ModeSymlink != 0 {
				info, err = os.Stat(p)
				if err != nil {
					return reason.OnDisk(err)
				}
				st = info.Sys().(*syscall.Stat_t)
			}
			dev = st.Dev
		}
		if !info.IsDir() {
			return reason.Errorf(reason.Config, "%s is not a directory: move it away", p)
		}
		if st.Dev != dev {
			return reason.Errorf(reason.Config, "%s is on another filesystem than %s: a release could not be put in place in one step", p, d.root)
		}
		if err := checkOwner(p); err != nil {
			return err
		}
		if i > 1 && info.Mode().Perm()&0o077 != 0 {
			return reason.Errorf(reason.Config, "%s has mode %o, want 700: others could look into it or change it; chmod 700 it", p, info.Mode().Perm())
		}
		if i > 0 && int(st.Uid) != os.Geteuid() {
			return reason.Errorf(reason.Config, "%s is owned by uid %d, and this puller runs as uid %d", p, st.Uid, os.Geteuid())
		}
	}
	return nil
}

// Lock waits until this process is the only one that changes the node, and returns
// what gives the lock back. waiting is called with what is known of the holder, again and
// again while the lock is not free. The kernel frees the lock when its holder dies.
func (d *Dir) Lock(ctx context.Context, me string, waiting func(holder string)) (unlock func(), err error) {
	f, err := os.OpenFile(d.Path("lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, reason.OnDisk(fmt.Errorf("open lock: %w", err))
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, reason.OnDisk(fmt.Errorf("lock %s: %w", f.Name(), err))
		}
		waiting(d.Holder())
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the lock held by %s: %w", d.Holder(), ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
	// Who holds it is for people; it need not survive anything, and a full disk may lose it.
	if err := errors.Join(f.Truncate(0), writeAt(f, fmt.Sprintf("pid %d (%s)", os.Getpid(), me))); err != nil && reason.Of(reason.OnDisk(err)) != reason.Disk {
		f.Close()
		return nil, reason.OnDisk(fmt.Errorf("write lock: %w", err))
	}
	return func() { f.Close() }, nil
}

func writeAt(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

// Holder says who holds the lock, or held it last.
func (d *Dir) Holder() string {
	b, err := readCapped(d.Path("lock"), 256)
	if err != nil || len(b) == 0 {
		return "another puller"
	}
	return strings.ToValidUTF8(string(b), "?")
}

// ReadOnly reports whether nothing can be written because the filesystem is read-only. One
// that its kernel made so after a fault may not say it, so it is tried, with a file that never
// has a name.
func (d *Dir) ReadOnly() bool {
	fd, err := unix.Open(d.Path(), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, 0o600)
	if err == nil {
		unix.Close(fd)
	}
	return errors.Is(err, unix.EROFS)
}

// Busy says who holds the lock now; "" when it is free.
func (d *Dir) Busy() string {
	f, err := os.OpenFile(d.Path("lock"), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return ""
	}
	defer f.Close()
	// Taken for a moment, with others who look: nobody can be asked without.
	if err := unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return d.Holder()
	}
	return ""
}

// LastCycle returns when a puller last took the lock; the zero time if never.
func (d *Dir) LastCycle() time.Time {
	info, err := os.Stat(d.Path("lock"))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// readCapped reads a regular file of at most max bytes. Anything else matches ErrBroken.
func readCapped(path string, max int64) (data []byte, err error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%w: %s is a symlink", ErrBroken, path)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrBroken, path)
	}
	data, err = io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("%w: %s has more than %d bytes", ErrBroken, path, max)
	}
	return data, nil
}
