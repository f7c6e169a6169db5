// Package convert makes the releases of an older deployer safe to live beside Sando's, in place.
//
//	/opt/mnw/releases/<version>/     made by a deploy user, writable by its group
//	/opt/mnw/current -> releases/…   followed by the app's unit
//
// The releases stay what they are, foreign: nothing is known of what they should hold, none is
// ever deleted, and a node can go back to each. What changes is who could change them. Afterwards
// each directory and file of them is root's, and writable by nobody else; the app may read and run what
// it could before, and so may everybody else, but for former owners. The app goes on running.
//
// # Rules
//
// Files and directories lose the right to write for group and others, and setuid, setgid and
// sticky bits (a setuid file would be setuid root). The group stays. Where the app could read
// something only as its owner, that gets the app's group, which may read it. File capabilities are kept:
// a change of owner takes them away, so they are put back, and are in the record in case it is interrupted.
//
// Refused, with the path, and then nothing at all is changed:
//
//   - a file that a process has open for writing: it is state, and the app could not open it again
//   - a socket, a pipe or a device: something that runs has put it there
//   - a file with another name (hard link) outside releases/: its owner would change there as well.
//     Names within releases/ are fine, as rsync --link-dest makes them
//   - what its group can read and the app only as its owner: one of them would lose
//
// Links are never followed. Directories come before what is in them, so nobody can put
// something else in their place meanwhile; what is changed is opened first, and looked at again.
//
// # The record
//
// /var/backups/sando/<name of the root directory>-owners-<UTC time>.txt, root's alone, has a line
// for each change, as it was before: mode, owner, group, capability or "-", and the path, quoted as in Go. It
// is on disk before anything changes; until all is done its name ends in ".begun".
//
//	0664 1000:1000 - "releases/1.4.0/static/app.css"
//
// # What this does not look at
//
// Access control lists and extended attributes; the mask that follows from a mode keeps
// lists from giving the right to write. What the app would create in a release later: it cannot
// any more.
package convert

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
)

// change is what becomes of one file, directory or link.
type change struct {
	path string // below the root of the app
	ino  uint64
	link bool
	was  Node
	now  Node
	caps string // security.capability, as bytes
}

// Plan is what a conversion would change.
type Plan struct {
	root    string // without links
	link    string // that leads to it and is another's; ""
	name    string // of the root, as it is written
	changes []change
	begun   []string // records of runs that were interrupted
	// Releases are the foreign ones that change, Own how many of their files belong to the app: what it
	// writes to them it cannot write any more.
	Releases []string
	Own      int
	OwnFirst string
	Dropped  []string // paths that lose setuid or setgid
}

// Nothing reports whether all is as it should be.
func (p *Plan) Nothing() bool { return len(p.changes) == 0 && len(p.begun) == 0 && p.link == "" }

// Words says in one line what would change.
func (p *Plan) Words() string {
	if len(p.changes) == 0 && p.link != "" {
		return "make the link " + p.link + " root's"
	}
	if len(p.changes) == 0 {
		return "see that a conversion that was interrupted is finished: " + strings.Join(p.begun, ", ")
	}
	text := fmt.Sprintf("make %d files and directories of %s root's, writable by nobody else; what the app could read it still can", len(p.changes), strings.Join(p.Releases, ", "))
	if p.Own > 0 {
		text += fmt.Sprintf("; %d of them belong to the app, such as %s: it cannot write to them any more", p.Own, p.OwnFirst)
	}
	if len(p.Dropped) > 0 {
		text += fmt.Sprintf("; setuid and setgid go from %s", strings.Join(p.Dropped, ", "))
	}
	return text
}

// scan is a walk over the foreign releases.
type scan struct {
	app   App
	root  string
	plan  *Plan
	links map[[2]uint64]*linked // files with several names
	lost  map[string]string     // capabilities that an interrupted run may have taken away, by path
}

// linked is a file with several names.
type linked struct {
	path  string
	names uint64 // that it has
	seen  uint64 // that were met
}

// Look plans the conversion of the foreign releases of d. It changes nothing. An error has the
// reason "config" when something is refused.
func Look(ctx context.Context, d *node.Dir, base string, app App) (*Plan, error) {
	s := &scan{app: app, plan: &Plan{name: filepath.Base(d.Root())}, links: map[[2]uint64]*linked{}}
	if err := s.place(d); err != nil {
		return nil, err
	}
	d, err := node.View(s.root)
	if err != nil {
		return nil, err
	}
	begun, err := filepath.Glob(filepath.Join(base, s.plan.name+"-owners-*"+unfinished))
	if err != nil {
		return nil, err
	}
	if s.lost, err = lost(begun); err != nil {
		return nil, err
	}
	s.plan.begun = begun
	versions, err := d.Releases()
	if err != nil {
		return nil, err
	}
	foreign := false
	for _, v := range versions {
		_, own, err := d.Placed(v)
		if err != nil {
			return nil, err
		}
		if own {
			continue
		}
		foreign = true
		before := len(s.plan.changes)
		if err := s.walk(ctx, d.ReleasePath(v)); err != nil {
			return nil, fmt.Errorf("release %q: %w", v, err)
		}
		if len(s.plan.changes) > before {
			s.plan.Releases = append(s.plan.Releases, v)
		}
	}
	if !foreign {
		return s.plan, nil
	}
	for _, l := range s.links {
		if l.seen < l.names {
			return nil, refused("%s has another name outside of the foreign releases (hard link), whose owner would change as well: copy it over itself, `cp -a --remove-destination` from a copy", l.path)
		}
	}
	// The directories that hold them, and who is at work in what changes.
	for _, p := range []string{d.Root(), d.ReleasesPath(), d.CurrentPath()} {
		if err := s.one(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	if s.plan.Nothing() {
		return s.plan, nil
	}
	if err := busy(s.root); err != nil {
		return nil, refused("%w", err)
	}
	return s.plan, nil
}

// place finds where the root is: others may have it as a link to another disk.
func (s *scan) place(d *node.Dir) error {
	real, err := filepath.EvalSymlinks(d.Root())
	if errors.Is(err, fs.ErrNotExist) {
		real, err = d.Root(), nil // and there is nothing to convert
	}
	if err != nil {
		return reason.OnDisk(err)
	}
	s.root, s.plan.root = real, real
	if info, err := os.Lstat(d.Root()); err == nil && info.Mode()&fs.ModeSymlink != 0 && info.Sys().(*syscall.Stat_t).Uid != 0 {
		s.plan.link = d.Root()
	}
	releases := filepath.Join(real, "releases")
	if info, err := os.Lstat(releases); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return refused("%s is a link: releases have to lie in the root itself; choose another --root, or let the root be the link", releases)
	}
	return nil
}

func refused(format string, args ...any) error {
	return reason.Errorf(reason.Config, format+"; nothing was changed", args...)
}

func (s *scan) walk(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return reason.OnDisk(err)
		}
		return s.one(path)
	})
}

// one decides about one path.
func (s *scan) one(path string) error {
	info, err := os.Lstat(path)
	if err != nil {
		return reason.OnDisk(err)
	}
	st := info.Sys().(*syscall.Stat_t)
	was := Node{info.Mode(), int(st.Uid), int(st.Gid)}
	rel, err := filepath.Rel(s.root, path)
	if err != nil {
		return err
	}
	c := change{path: rel, ino: st.Ino, was: was, now: was}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		c.link, c.now.UID = true, 0
	case info.IsDir() || info.Mode().IsRegular():
		var conflict string
		if c.now, conflict = rule(was, s.app); conflict != "" {
			return refused("%s (%s): %s: add the members of its group to the app's group and `chgrp` it, or `chmod o+r` it", path, was, conflict)
		}
	default:
		return refused("%s is neither a file nor a directory nor a link (%s): what made it there must make it elsewhere, such as /run", path, info.Mode().Type())
	}
	if info.Mode().IsRegular() && st.Nlink > 1 {
		key := [2]uint64{uint64(st.Dev), st.Ino}
		if s.links[key] == nil {
			s.links[key] = &linked{path: path, names: uint64(st.Nlink)}
		}
		s.links[key].seen++
	}
	var caps string
	if info.Mode().IsRegular() {
		if caps, err = capability(path); err != nil {
			return reason.OnDisk(err)
		}
		if c.caps = caps; caps == "" {
			c.caps = s.lost[rel]
		}
	}
	if c.now == c.was && c.caps == caps {
		return nil
	}
	if info.Mode().IsRegular() {
		if int(st.Uid) == s.app.UID && s.app.UID != 0 && info.Mode()&0o200 != 0 {
			s.plan.Own++
			if s.plan.OwnFirst == "" {
				s.plan.OwnFirst = path
			}
		}
		if was.Mode&(fs.ModeSetuid|fs.ModeSetgid) != 0 {
			s.plan.Dropped = append(s.plan.Dropped, path)
		}
	}
	s.plan.changes = append(s.plan.changes, c)
	return nil
}

const capabilityName = "security.capability"

func capability(path string) (string, error) {
	buf := make([]byte, 256)
	n, err := unix.Lgetxattr(path, capabilityName, buf)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.ENOTSUP) {
		return "", nil
	}
	if err != nil {
		return "", &fs.PathError{Op: "getxattr", Path: path, Err: err}
	}
	return string(buf[:n]), nil
}

// busy refuses releases in which a process has a file open for writing.
func busy(root string) error {
	below := filepath.Join(root, "releases") + "/"
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, proc := range procs {
		fds, err := os.ReadDir(proc + "/fd")
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			target, err := os.Readlink(proc + "/fd/" + fd.Name())
			if err != nil || !strings.HasPrefix(target, below) {
				continue
			}
			info, err := os.ReadFile(proc + "/fdinfo/" + fd.Name())
			if err != nil || !writes(string(info)) {
				continue
			}
			name, err := os.ReadFile(proc + "/comm")
			if err != nil {
				continue
			}
			return reason.Errorf(reason.Config, "%s is open for writing (process %s, %q): it is state, which belongs to /var/lib; have the app write it there first", target, filepath.Base(proc), strings.TrimSpace(string(name)))
		}
	}
	return nil
}

// writes reads the flags of a file in /proc/PID/fdinfo.
func writes(info string) bool {
	for line := range strings.Lines(info) {
		if octal, ok := strings.CutPrefix(line, "flags:"); ok {
			flags, err := strconv.ParseUint(strings.TrimSpace(octal), 8, 64)
			return err == nil && flags&unix.O_ACCMODE != unix.O_RDONLY && flags&unix.O_PATH == 0
		}
	}
	return false
}

// unfinished ends the name of a record of which not all may be done.
const unfinished = ".begun"

// lost reads from records which capabilities files had.
func lost(records []string) (map[string]string, error) {
	caps := map[string]string{}
	for _, r := range records {
		data, err := os.ReadFile(r)
		if err != nil {
			return nil, reason.OnDisk(err)
		}
		for line := range strings.Lines(string(data)) {
			fields := strings.SplitN(strings.TrimSpace(line), " ", 4)
			if len(fields) != 4 || fields[2] == "-" {
				continue
			}
			path, perr := strconv.Unquote(fields[3])
			value, herr := hex.DecodeString(fields[2])
			if err := errors.Join(perr, herr); err != nil {
				return nil, reason.Errorf(reason.Format, "%s: %q: %w", r, line, err)
			}
			caps[path] = string(value)
		}
	}
	return caps, nil
}

// record is the text of the record.
func (p *Plan) record() string {
	var b strings.Builder
	for _, c := range p.changes {
		caps := "-"
		if c.caps != "" {
			caps = hex.EncodeToString([]byte(c.caps))
		}
		of, mode, _ := strings.Cut(c.was.String(), " ")
		fmt.Fprintf(&b, "%s %s %s %q\n", mode, of, caps, c.path)
	}
	return b.String()
}

// Do converts as planned, and returns where the record is. Whoever interrupts it plans anew and
// does the rest.
func (p *Plan) Do(ctx context.Context, base string, now time.Time) (record string, err error) {
	if err := durable.MkdirAll(base, 0o700); err != nil {
		return "", reason.OnDisk(err)
	}
	record = filepath.Join(base, fmt.Sprintf("%s-owners-%s.txt", p.name, now.UTC().Format("20060102T150405.000Z")))
	if err := durable.Create(record+unfinished, strings.NewReader(p.record()), 0o600); err != nil {
		return "", reason.OnDisk(err)
	}
	root, err := os.Open(p.root)
	if err != nil {
		return record, reason.OnDisk(err)
	}
	defer root.Close()
	// What holds others comes first: from then on nobody else can change what is in it.
	slices.SortStableFunc(p.changes, func(a, b change) int { return strings.Count(a.path, "/") - strings.Count(b.path, "/") })
	for _, c := range p.changes {
		if err := ctx.Err(); err != nil {
			return record, err
		}
		if err := c.apply(int(root.Fd())); err != nil {
			return record, reason.OnDisk(fmt.Errorf("convert %s: %w", filepath.Join(p.root, c.path), err))
		}
	}
	if err := durable.SyncFS(root); err != nil {
		return record, reason.OnDisk(err)
	}
	if p.link != "" {
		if err := os.Lchown(p.link, 0, -1); err != nil {
			return record, reason.OnDisk(err)
		}
	}
	// Nobody can open anything for writing any more. Who did meanwhile still writes.
	if err := busy(p.root); err != nil {
		return record, fmt.Errorf("%w; then run this again", err)
	}
	for _, begun := range append(p.begun, record+unfinished) {
		if err := durable.Rename(begun, strings.TrimSuffix(begun, unfinished)); err != nil {
			return record, reason.OnDisk(err)
		}
	}
	return record, nil
}

// errChanged says that somebody changes what is being converted.
var errChanged = errors.New("it was replaced by another one meanwhile: is a deployer at work? Stop it, and run this again")

// apply makes one change, below the directory root. Nothing above it is a link.
func (c change) apply(root int) error {
	how := &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS}
	if c.link {
		how.Flags = unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC
		how.Resolve = unix.RESOLVE_BENEATH
	}
	fd, err := unix.Openat2(root, c.path, how)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Ino != c.ino {
		return errChanged
	}
	if c.link {
		return unix.Fchownat(fd, "", 0, -1, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
	}
	// The group first, then what it may do, the owner last: at every moment the app may read it,
	// and whatever was done, the rule wants the same again.
	if c.now.GID != c.was.GID {
		if err := unix.Fchown(fd, -1, c.now.GID); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, uint32(c.now.Mode.Perm())); err != nil {
		return err
	}
	if err := unix.Fchown(fd, 0, -1); err != nil {
		return err
	}
	// Some kernels take bits away with the owner, and all of them capabilities.
	if err := unix.Fchmod(fd, uint32(c.now.Mode.Perm())); err != nil {
		return err
	}
	if c.caps != "" {
		return unix.Fsetxattr(fd, capabilityName, []byte(c.caps), 0)
	}
	return nil
}
