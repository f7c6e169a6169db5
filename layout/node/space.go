package node

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/bits"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// Reserve is how many bytes of the filesystem are left to the app: what would take of
// them is not begun.
type Reserve int64

// Automatic is the reserve of a node whose operator set none: 512 MiB, or an eighth of a
// filesystem that is smaller than 4 GiB.
const Automatic Reserve = -1

const (
	automaticReserve = 512 << 20
	// reservedInodes stay free as well, unless there is no reserve at all.
	reservedInodes = 1024
	share          = 8 // of a small filesystem, 1/share is kept at most
)

// of returns what is kept of a filesystem with so many bytes and inodes.
func (r Reserve) of(bytes, inodes int64) (keepBytes, keepInodes int64) {
	switch {
	case r == 0:
		return 0, 0
	case r < 0:
		return min(automaticReserve, bytes/share), min(reservedInodes, inodes/share)
	}
	return int64(r), min(reservedInodes, inodes/share)
}

// Space reports whether bytes and inodes more fit on the filesystem, so that the reserve
// stays free; if not, the error has the reason "disk" and all figures. What only root may
// use does not count: the reserve is for the app, which is not root.
func (d *Dir) Space(bytes, inodes int64, reserve Reserve) error {
	var st unix.Statfs_t
	if err := unix.Statfs(d.root, &st); err != nil {
		return reason.OnDisk(&fs.PathError{Op: "statfs", Path: d.root, Err: err})
	}
	return d.fits(st, bytes, inodes, reserve)
}

func (d *Dir) fits(st unix.Statfs_t, bytes, inodes int64, reserve Reserve) error {
	keepBytes, keepInodes := reserve.of(times(st.Blocks, st.Bsize), atMost(st.Files))
	if free := times(st.Bavail, st.Bsize); free-keepBytes < bytes {
		return reason.Errorf(reason.Disk, "disk space: the filesystem of %s has %s free, want %s, and %s in reserve (limits.reserve)", d.root, size(free), size(bytes), size(keepBytes))
	}
	// btrfs has no inodes to count.
	if free := atMost(st.Ffree); st.Files > 0 && free-keepInodes < inodes {
		return reason.Errorf(reason.Disk, "inodes: the filesystem of %s has %d free, want %d, and %d in reserve (limits.reserve)", d.root, free, inodes, keepInodes)
	}
	return nil
}

// atMost returns n, as far as it goes: filesystems that count no inodes say that as many are
// free as there are numbers.
func atMost(n uint64) int64 { return int64(min(n, math.MaxInt64)) }

// times returns blocks of so many bytes as bytes.
func times(blocks uint64, bytes int64) int64 {
	if high, low := bits.Mul64(blocks, uint64(bytes)); high == 0 {
		return atMost(low)
	}
	return math.MaxInt64
}

// size writes a number of bytes as limits are written.
func size(n int64) string {
	if n < 1<<20 {
		return fmt.Sprintf("%d KiB", (n+1023)>>10)
	}
	return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
}

// The ballast is files, so that it is inodes as well: a pin takes one for good, and what
// replaces a file takes one for a moment.
const (
	ballastParts = 8
	ballastPart  = 128 << 10
)

// Ballast makes the ballast unless it is there. When there is no room for it and the reserve
// the error has the reason "disk". The caller holds the lock.
func (d *Dir) Ballast(reserve Reserve) error {
	parts, err := d.ballast()
	if err != nil || len(parts) >= ballastParts {
		return err
	}
	if err := d.Space(ballastParts*ballastPart, ballastParts, reserve); err != nil {
		return err
	}
	if err := d.makeBallast(); err != nil {
		return reason.OnDisk(fmt.Errorf("make ballast: %w", err))
	}
	return nil
}

// ballast returns the paths of the parts that are there.
func (d *Dir) ballast() ([]string, error) {
	entries, err := os.ReadDir(d.Path("ballast"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	var parts []string
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Size() >= ballastPart { // else a crash cut it
			parts = append(parts, d.Path("ballast", e.Name()))
		}
	}
	return parts, nil
}

// Ballasted returns how many parts of the ballast are there, and how many there should be.
func (d *Dir) Ballasted() (have, want int) {
	parts, _ := d.ballast() // what cannot be read is not there
	return len(parts), ballastParts
}

// makeBallast makes the ballast, whole, from nothing or from what is left of it.
func (d *Dir) makeBallast() error {
	// Random, so that it takes as much space where the filesystem compresses.
	data := make([]byte, ballastPart)
	rand.Read(data)
	if err := durable.MkdirAll(d.Path("ballast"), 0o700); err != nil {
		return err
	}
	for i := range ballastParts {
		path := d.Path("ballast", strconv.Itoa(i))
		if info, err := os.Lstat(path); err == nil && info.Size() == ballastPart {
			continue
		}
		// Not made durable: whoever needs it before the kernel has written it finds room.
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// Urgent does a write that going back depends on. When that finds no space the ballast is
// given up, part by part until it is enough, and it is done once more.
func (d *Dir) Urgent(write func() error) error {
	err := write()
	if reason.Of(err) != reason.Disk {
		return err
	}
	parts, _ := d.ballast() // one that cannot be read is none
	for _, p := range append(parts, "") {
		if p != "" {
			os.Remove(p) // the next part is given up if this one cannot be
		}
		if serr := d.syncFS(); serr != nil {
			return err
		}
		if err = write(); reason.Of(err) != reason.Disk {
			return err
		}
	}
	return err
}
