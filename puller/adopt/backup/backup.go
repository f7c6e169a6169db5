// Package backup keeps what an adoption may have to give back: the files that name a former
// install, as they were, and the script that goes back to it.
//
//	/var/backups/sando/<app>-<UTC time>/     0700, root's alone: env files hold secrets
//	  files/<path>     each file under its own path, with its owner, mode and time
//	  list.json        what is in files/, and what the former install was; written last
//	  SHA256SUMS       of files/, for sha256sum -c
//	  back.sh          goes back to the former install
//
// A directory without list.json is of a run that was interrupted, and counts for nothing. No
// directory is ever written to again, but by its back.sh, nor deleted; who may read them is
// root alone, and who can write them chooses what back.sh restores.
//
// Files are copied, links are copied as links, together with what they lead to. Nothing else is
// looked at: no access control lists, no extended attributes.
package backup

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// Base is where the directories are.
const Base = "/var/backups/sando"

const (
	listFile   = "list.json"
	sumsFile   = "SHA256SUMS"
	scriptFile = "back.sh"
	filesDir   = "files"
	version    = 1
)

// MaxFile bounds a file, in bytes: these are configuration.
const MaxFile = 16 << 20

// List is list.json.
type List struct {
	Version int        `json:"version"` // of the file
	App     string     `json:"app"`
	At      canon.Time `json:"at"`
	OldRoot string     `json:"old_root"`
	OldUnit string     `json:"old_unit"`
	Enabled bool       `json:"enabled"` // the old unit started with the machine
	Files   []File     `json:"files"`   // sorted by path
}

// File is one of them.
type File struct {
	Path   string `json:"path"`
	Mode   string `json:"mode"` // octal
	UID    int    `json:"uid"`
	GID    int    `json:"gid"`
	Target string `json:"link,omitempty"` // what a link leads to
	SHA256 string `json:"sha256,omitempty"`
}

// Dir is a backup on disk.
type Dir struct {
	Path string
	List
}

// Needs says what the script needs to know besides.
type Needs struct {
	Root    string      // of the app
	Unit    string      // the app's new one
	Restore []string    // paths that the script restores without being asked
	State   [][2]string // directories of which there is a copy: from, to
}

// Make copies the files, which have to be there, and writes the script.
func Make(ctx context.Context, base string, list List, paths []string, needs Needs) (_ *Dir, err error) {
	if err := durable.MkdirAll(base, 0o700); err != nil {
		return nil, reason.OnDisk(err)
	}
	d := &Dir{List: list}
	d.Version = version
	if d.Path, err = fresh(base, list); err != nil {
		return nil, err
	}
	todo := slices.Clone(paths)
	for len(todo) > 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		path := todo[0]
		todo = todo[1:]
		if d.Has(path) {
			continue
		}
		if strings.ContainsFunc(path, canon.Unprintable) {
			return nil, reason.Errorf(reason.Config, "back up %q: a path with such characters is not written into a script: rename the file", path)
		}
		f, err := d.copy(path)
		if err != nil {
			return nil, fmt.Errorf("back up %s: %w", path, reason.OnDisk(err))
		}
		d.Files = append(d.Files, f)
		if f.Target != "" {
			to := f.Target
			if !filepath.IsAbs(to) {
				to = filepath.Join(filepath.Dir(path), to)
			}
			if info, err := os.Stat(to); err == nil && info.Mode().IsRegular() && info.Size() <= MaxFile {
				todo = append(todo, to)
			}
		}
	}
	slices.SortFunc(d.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	return d, reason.OnDisk(d.seal(needs))
}

// fresh makes a directory with a name that was never used.
func fresh(base string, list List) (string, error) {
	name := list.App + "-" + list.At.UTC().Format("20060102T150405Z")
	for n := 1; n < 100; n++ {
		path := filepath.Join(base, name)
		if n > 1 {
			path += fmt.Sprintf("-%d", n)
		}
		err := durable.Mkdir(path, 0o700)
		if err == nil {
			return path, reason.OnDisk(durable.Mkdir(filepath.Join(path, filesDir), 0o700))
		}
		if !errors.Is(err, fs.ErrExist) {
			return "", reason.OnDisk(err)
		}
	}
	return "", reason.Errorf(reason.IO, "%s has too many directories of this second: try again", base)
}

// copy copies one file with its owner, mode and time.
func (d *Dir) copy(path string) (File, error) {
	f, data, err := look(path)
	if err != nil {
		return f, err
	}
	to := d.File(path)
	if err := durable.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return f, err
	}
	if f.Target != "" {
		return f, durable.Symlink(f.Target, to)
	}
	if err := durable.WriteFile(to, data, 0o600); err != nil {
		return f, err
	}
	info, err := os.Stat(path)
	if err != nil {
		return f, err
	}
	return f, errors.Join(os.Chown(to, f.UID, f.GID), os.Chmod(to, info.Mode().Perm()), os.Chtimes(to, time.Time{}, info.ModTime()))
}

// look describes what is at path, and returns what is in it.
func look(path string) (File, []byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return File{}, nil, err
	}
	st := info.Sys().(*syscall.Stat_t)
	f := File{Path: path, Mode: fmt.Sprintf("%04o", info.Mode().Perm()), UID: int(st.Uid), GID: int(st.Gid)}
	switch {
	case info.Mode()&fs.ModeSymlink != 0:
		f.Target, err = os.Readlink(path)
		return f, nil, err
	case !info.Mode().IsRegular():
		return f, nil, fmt.Errorf("it is no regular file")
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return f, nil, err
	}
	defer r.Close()
	if opened, err := r.Stat(); err != nil || !os.SameFile(info, opened) {
		return f, nil, fmt.Errorf("somebody puts others in its place")
	}
	data, err := io.ReadAll(io.LimitReader(r, MaxFile+1))
	if err == nil && len(data) > MaxFile {
		err = fmt.Errorf("it has more than %d bytes", MaxFile)
	}
	sum := sha256.Sum256(data)
	f.SHA256 = hex.EncodeToString(sum[:])
	return f, data, err
}

// seal writes what makes the directory complete.
func (d *Dir) seal(needs Needs) error {
	var sums strings.Builder
	for _, f := range d.Files {
		if f.Target == "" {
			fmt.Fprintf(&sums, "%s  %s\n", f.SHA256, filesDir+f.Path)
		}
	}
	list, err := json.MarshalIndent(d.List, "", "  ")
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode fs.FileMode
	}{
		{sumsFile, []byte(sums.String()), 0o600}, {scriptFile, []byte(d.script(needs)), 0o700}, {listFile, append(list, '\n'), 0o600},
	} {
		if err := durable.WriteFile(filepath.Join(d.Path, f.name), f.data, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// File returns where the copy of path is.
func (d *Dir) File(path string) string { return filepath.Join(d.Path, filesDir) + path }

// Script returns where the way back is.
func (d *Dir) Script() string { return filepath.Join(d.Path, scriptFile) }

// Latest returns the newest complete backup of a former install; nil if there is none.
func Latest(base, app, oldRoot, oldUnit string) (*Dir, error) {
	all, err := Of(base, app)
	if err != nil {
		return nil, err
	}
	var latest *Dir
	for _, d := range all {
		same := d.OldRoot == oldRoot && d.OldUnit == oldUnit
		if same && (latest == nil || !d.At.Before(latest.At.Time)) {
			latest = d
		}
	}
	return latest, nil
}

// Of returns the backups of an app in base, whatever it was adopted from.
func Of(base, app string) (all []*Dir, err error) {
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	for _, e := range entries {
		if !e.IsDir() || !strings.HasPrefix(e.Name(), app+"-") {
			continue
		}
		d, err := open(filepath.Join(base, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if d.App == app {
			all = append(all, d)
		}
	}
	return all, nil
}

func open(path string) (*Dir, error) {
	data, err := os.ReadFile(filepath.Join(path, listFile))
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	d := &Dir{Path: path}
	if err := json.Unmarshal(data, &d.List); err != nil {
		return nil, reason.Errorf(reason.Format, "%s/%s: %w", path, listFile, err)
	}
	if d.Version != version {
		return nil, reason.Errorf(reason.Config, "%s/%s: version is %d, and this puller knows %d", path, listFile, d.Version, version)
	}
	return d, nil
}

// Has reports whether the backup has a file.
func (d *Dir) Has(path string) bool {
	return slices.ContainsFunc(d.Files, func(f File) bool { return f.Path == path })
}

// Changed returns those of paths that are not as the backup has them, or that it does not have.
func (d *Dir) Changed(paths []string) []string {
	var changed []string
	for _, path := range paths {
		i := slices.IndexFunc(d.Files, func(f File) bool { return f.Path == path })
		now, _, err := look(path)
		if i < 0 || err != nil || now != d.Files[i] {
			changed = append(changed, path)
		}
	}
	return changed
}

// Check reports what of the backup is not as it was written.
func (d *Dir) Check() error {
	for _, f := range d.Files {
		now, _, err := look(d.File(f.Path))
		now.Path = f.Path
		if f.Target != "" { // a link has no owner or mode worth a word
			now.Mode, now.UID, now.GID = f.Mode, f.UID, f.GID
		}
		if err == nil && now != f {
			err = errors.New("it is not what list.json says")
		}
		if err != nil {
			return reason.Errorf(reason.Mismatch, "backup %s: %s: %w", d.Path, f.Path, err)
		}
	}
	return nil
}
