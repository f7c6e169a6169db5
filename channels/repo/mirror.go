package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// privateRef names the commit fetched last in the mirror.
const privateRef = "refs/sando/head"

// markerFile says that a directory is a mirror, to be emptied when it is broken.
const markerFile = "sando-mirror"

// The other files of a mirror that never change.
const (
	mirrorHead   = "ref: refs/heads/none\n" // git wants one
	mirrorConfig = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = true\n"
	mirrorMarker = "A copy of the channel repo, made and thrown away by Sando. Nothing in it is worth keeping.\n"
)

// errBroken is matched by errors about the mirror. It holds nothing that cannot be
// fetched again, so the answer is to throw it away.
var errBroken = errors.New("local mirror is broken")

// mirror is a bare git repository that holds the newest commits of the channel repo:
// each with its whole tree, and none with its parents (they are listed as shallow). An
// object is written after those it names, so what has a commit has all of it, unless
// the mirror is broken.
type mirror struct {
	objects.Store
	dir     string
	written int64 // bytes of objects, so far
}

// openMirror opens the mirror in dir, and makes it when there is none or a broken one.
func openMirror(dir string, owned bool) (*mirror, error) {
	m := &mirror{dir: dir}
	if owned {
		if err := clearPlace(dir); err != nil {
			return nil, fmt.Errorf("remove what is in the place of mirror %q: %w", dir, err)
		}
	}
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("open mirror: %w", err)
	}
	if _, err := os.Lstat(filepath.Join(dir, markerFile)); err != nil && !unmade(entries) {
		return nil, reason.Errorf(reason.Config, "mirror directory %q holds something else; name another, or empty it", dir)
	}
	for name, want := range map[string]string{"HEAD": mirrorHead, "config": mirrorConfig} {
		if got, err := objects.ReadFile(dir, name, int64(len(want))); err != nil || string(got) != want {
			return m, m.empty()
		}
	}
	m.Store = objects.Open(dir)
	return m, m.removeTemps()
}

// clearPlace removes dir unless it is a directory with a marker. No link is followed.
func clearPlace(dir string) error {
	info, err := os.Lstat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		if marker, err := os.Lstat(filepath.Join(dir, markerFile)); err == nil && marker.Mode().IsRegular() {
			return nil
		}
	}
	return os.RemoveAll(dir)
}

// unmade reports whether a directory holds nothing but what a process leaves that was
// killed while it wrote the marker, the first file of a mirror.
func unmade(entries []fs.DirEntry) bool {
	for _, e := range entries {
		if !durable.IsTemp(e.Name()) || !strings.HasPrefix(e.Name(), "."+markerFile+".") {
			return false
		}
	}
	return true
}

// empty makes the mirror anew. HEAD is written last: without it a mirror is broken.
func (m *mirror) empty() error {
	m.Store = objects.Open(m.dir)
	if err := m.makeEmpty(); err != nil {
		return fmt.Errorf("make mirror in %q: %w", m.dir, reason.OnDisk(err))
	}
	return nil
}

func (m *mirror) makeEmpty() error {
	if err := durable.MkdirAll(m.dir, 0o700); err != nil {
		return err
	}
	// It is left alone where it is there: a disk that is full must not keep it from being emptied.
	if info, err := os.Lstat(filepath.Join(m.dir, markerFile)); err != nil || !info.Mode().IsRegular() {
		if err := durable.WriteFile(filepath.Join(m.dir, markerFile), []byte(mirrorMarker), 0o600); err != nil {
			return err
		}
	}
	entries, err := os.ReadDir(m.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == markerFile {
			continue
		}
		if err := os.RemoveAll(filepath.Join(m.dir, e.Name())); err != nil {
			return err
		}
	}
	for _, d := range []string{"objects/info", "objects/pack", path.Dir(privateRef)} {
		if err := durable.MkdirAll(filepath.Join(m.dir, d), 0o700); err != nil {
			return err
		}
	}
	if err := durable.WriteFile(filepath.Join(m.dir, "config"), []byte(mirrorConfig), 0o600); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(m.dir, "HEAD"), []byte(mirrorHead), 0o600)
}

// removeTemps removes what a process that was killed had begun to write.
func (m *mirror) removeTemps() error {
	for _, pattern := range []string{".*", "objects/pack/tmp_*", "objects/*/tmp_*", path.Dir(privateRef) + "/.*"} {
		found, err := filepath.Glob(filepath.Join(escapeGlob(m.dir), pattern))
		if err != nil {
			return err
		}
		for _, f := range found {
			if err := os.RemoveAll(f); err != nil {
				return fmt.Errorf("open mirror: %w", err)
			}
		}
	}
	return nil
}

func escapeGlob(dir string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(dir)
}

// Bounds on a mirror. Beyond them it is time to begin anew: nothing in it is ever deleted,
// and the host decides what comes.
const (
	maxMirrorObjects = 27 << 8 // about as many as `git gc --auto` lets be
	maxMirrorBytes   = 256 << 20
)

// crowded reports whether the mirror has become too big.
func (m *mirror) crowded() bool {
	var count, size int64
	err := filepath.WalkDir(filepath.Join(m.dir, "objects"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if count, size = count+1, size+info.Size(); count > maxMirrorObjects || size > maxMirrorBytes {
			return fs.SkipAll
		}
		return nil
	})
	return err == nil && (count > maxMirrorObjects || size > maxMirrorBytes)
}

// setHead records commit as the newest one.
func (m *mirror) setHead(commit plumbing.Hash) error {
	line := []byte(commit.String() + "\n")
	for _, name := range []string{"shallow", privateRef} {
		if have, err := objects.ReadFile(m.dir, name, int64(len(line))); err == nil && bytes.Equal(have, line) {
			continue
		}
		if err := durable.WriteFile(filepath.Join(m.dir, name), line, 0o600); err != nil {
			return unwritable(err)
		}
	}
	return nil
}

// Head returns the newest commit, if it is there.
func (m *mirror) Head() plumbing.Hash {
	line, err := objects.ReadFile(m.dir, privateRef, int64(len(plumbing.ZeroHash.String())+1))
	if err != nil || !plumbing.IsHash(strings.TrimSpace(string(line))) {
		return plumbing.ZeroHash
	}
	h := plumbing.NewHash(strings.TrimSpace(string(line)))
	if have, err := m.Has(h); err != nil || !have {
		return plumbing.ZeroHash
	}
	return h
}

// Has reports whether the object is there.
func (m *mirror) Has(h plumbing.Hash) (bool, error) {
	have, err := m.Store.Has(h)
	return have, m.broken(err)
}

// Write stores an object.
func (m *mirror) Write(t plumbing.ObjectType, data []byte) error {
	if _, err := m.Store.Write(t, data); err != nil {
		return unwritable(err)
	}
	m.written += int64(len(data))
	return nil
}

// broken makes an errBroken of what must not happen in a mirror.
func (m *mirror) broken(err error) error {
	if isBroken(err) {
		return fmt.Errorf("%w: %w", errBroken, err)
	}
	return err
}

// isBroken reports whether err says that an object of a mirror cannot be read, for good.
func isBroken(err error) bool {
	return errors.Is(err, objects.ErrAbsent) || errors.Is(err, objects.ErrCorrupt) || errors.Is(err, fs.ErrPermission)
}

// unwritable makes an errBroken of an error of writing, unless there is no space: then
// a new mirror would not help.
func unwritable(err error) error {
	if err = reason.OnDisk(err); reason.Of(err) == reason.Disk {
		if e := (*fs.PathError)(nil); errors.As(err, &e) {
			// The file is a temporary one, and another one each time: that is no news.
			err = reason.OnDisk(&fs.PathError{Op: e.Op, Path: filepath.Dir(e.Path), Err: e.Err})
		}
		return fmt.Errorf("write to mirror: %w", err)
	}
	return fmt.Errorf("%w: %w", errBroken, err)
}

// Bounds on what one verification reads.
const (
	maxVerify      = 4096     // objects
	maxVerifyBlob  = 1 << 20  // bytes of a file
	maxVerifyBytes = 32 << 20 // bytes together, unpacked
)

// verification is what was verified in one fetch: each object is read once, however
// often it is named.
type verification struct {
	seen  map[plumbing.Hash]bool
	bytes int
}

func newVerification() *verification { return &verification{seen: make(map[plumbing.Hash]bool)} }

// verify reads everything below path in the commit and checks it against its hash, so
// that a broken mirror is found while it can be mended. What goes beyond the bounds is
// checked when it is read.
func (m *mirror) verify(ctx context.Context, v *verification, commit plumbing.Hash, path string) error {
	c, err := m.Commit(commit)
	if err != nil {
		return m.broken(err)
	}
	top := objects.Entry{Mode: objects.ModeDir, Hash: c.Tree}
	if path != "" {
		top, err = m.Find(c.Tree, path)
		switch {
		case errors.Is(err, fs.ErrNotExist) || reason.Of(err) == reason.Format:
			return nil // the reader will hear of it
		case err != nil:
			return m.broken(err)
		}
	}
	todo := v.add(nil, top)
	for len(todo) > 0 && v.bytes < maxVerifyBytes {
		if err := ctx.Err(); err != nil {
			return err
		}
		at := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		below, err := m.verifyObject(v, at)
		if isBroken(err) {
			return m.broken(err)
		}
		todo = v.add(todo, below...)
	}
	return nil
}

// unverified is an object that is still to be looked at.
type unverified struct {
	t plumbing.ObjectType
	h plumbing.Hash
}

// add adds what entries name to todo, unless it was seen or is beyond the bounds.
func (v *verification) add(todo []unverified, entries ...objects.Entry) []unverified {
	for _, e := range entries {
		if len(v.seen) == maxVerify {
			break
		}
		if e.Mode == objects.ModeSubmodule || v.seen[e.Hash] {
			continue
		}
		v.seen[e.Hash] = true
		t := plumbing.BlobObject
		if e.IsDir() {
			t = plumbing.TreeObject
		}
		todo = append(todo, unverified{t, e.Hash})
	}
	return todo
}

// verifyObject reads an object, and returns what is in it when it is a directory.
func (m *mirror) verifyObject(v *verification, u unverified) ([]objects.Entry, error) {
	max := int64(maxVerifyBlob)
	if u.t == plumbing.TreeObject {
		max = objects.MaxTree
	}
	data, err := m.Read(u.t, u.h, max)
	v.bytes += len(data)
	if err != nil || u.t != plumbing.TreeObject {
		return nil, err
	}
	return objects.ParseTree(data)
}
