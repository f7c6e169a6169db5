package doctor

import (
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// kernel looks whether syncfs reports what could not be written.
func (e *examiner) kernel() Check {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return failed("kernel", reason.IO, fmt.Sprintf("uname: %s", err), do("see why this machine does not say what it is"))
	}
	release := unix.ByteSliceToString(u.Release[:])
	var major, minor int
	if n, err := fmt.Sscanf(release, "%d.%d", &major, &minor); n < 2 {
		return warning("kernel", fmt.Sprintf("%q is no release of Linux that is known (%v)", release, err), do("see that it is Linux 5.8 or later"))
	}
	if major < 5 || major == 5 && minor < 8 {
		return failed("kernel", reason.Config, fmt.Sprintf("Linux %s is too old: before 5.8, syncfs does not report what could not be written", release), do("boot Linux 5.8 or later"))
	}
	return ok("kernel", "Linux %s", release)
}

// disk looks for room, beside the reserve; s is nil where the configuration is refused.
func (e *examiner) disk(s *puller.Survey) Check {
	room := error(nil)
	var spare []string
	if s != nil {
		room, spare = s.Room, s.Expendable
	} else if err := e.dir.Space(0, 0, e.cfg.Reserve()); reason.Of(err) == reason.Disk {
		room = err
	}
	switch {
	case e.dir.ReadOnly():
		return failed("disk", reason.IO, fmt.Sprintf("the filesystem of %s can only be read", e.dir.Root()), do("mend and remount it: `dmesg` tells whether a fault of the disk made it so, `findmnt -T %s` how it is mounted", quoted(e.dir.Root())))
	case room != nil && len(spare) > 0:
		return warning("disk", fmt.Sprintf("%s: for what is new, old releases would go first: %s", room, strings.Join(spare, " ")), do("make room there, or lower limits.reserve"))
	case room != nil:
		return failed("disk", reason.Disk, room.Error(), do("make room there, or lower limits.reserve: `du -xh %s | sort -h | tail` shows what is big", quoted(e.dir.Root())))
	}
	if have, want := e.dir.Ballasted(); have < want && !e.dir.LastCycle().IsZero() && e.dir.Busy() == "" {
		return warning("disk", fmt.Sprintf("%d of the %d parts of the ballast are gone, which the way back needs on a full disk", want-have, want),
			do("see that there is room: the next cycle makes them again"))
	}
	return ok("disk", "%s", free(e.dir.Root()))
}

// free says how much room there is.
func free(root string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return root + " is not there yet"
	}
	text := fmt.Sprintf("%d MiB free", st.Bavail*(uint64(st.Bsize)>>10)>>10)
	if st.Files > 0 && st.Ffree < math.MaxInt64 {
		text += fmt.Sprintf(", %d inodes", st.Ffree)
	}
	return text
}

// unconfiguredAnchor looks at the anchor where nothing else is known.
func (e *examiner) unconfiguredAnchor() Check {
	if _, err := os.Lstat(e.cfg.Trust); err != nil {
		return e.anchorMissing(&fs.PathError{Op: "open", Path: e.cfg.Trust, Err: err})
	}
	return ok("anchor", "%s, fingerprint %s", e.cfg.Trust, fingerprint(e.cfg.Trust))
}
