package remote

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/storer"
	"golang.org/x/sys/unix"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// file is a repository in a directory of this machine. It is read in process, object
// by object, while git programs may be writing to it.
type file struct {
	dir        string
	maxObjects int // that one fetch brings
	maxCommits int // of history that are looked at
	maxHistory int // bytes of them
}

func newFile(dir string) *file { return &file{dir, maxObjects, maxCommits, maxHistory} }

// openFile opens the repository that a file URL names.
func openFile(u *url.URL) (*file, error) {
	dir, err := dirOf(u)
	if err != nil {
		return nil, err
	}
	return newFile(dir), nil
}

// Bounds on what one fetch brings.
const (
	maxFetch   = 32 << 20 // bytes of all objects together, unpacked
	maxObjects = 20_000
	maxDepth   = 64 // of directories in each other
)

// dirOf returns the directory that a file URL names.
func dirOf(u *url.URL) (string, error) {
	switch {
	case u.Host != "" || u.User != nil || u.Opaque != "" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", reason.Errorf(reason.Config, "repo URL %q holds more than a path; a directory is written file:///dir, with three slashes", layout.Place(u))
	case !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") || strings.ContainsRune(u.Path, 0):
		return "", reason.Errorf(reason.Config, "repo URL %q: the path is not absolute and plain, or is the root; write file:///dir", layout.Place(u))
	}
	return filepath.Clean(u.Path), nil
}

// Close has nothing to do: nothing stays open.
func (f *file) Close() error { return nil }

func (f *file) url() string { return (&url.URL{Scheme: "file", Path: f.dir}).String() }

// maxRef is the longest file of a branch, in bytes.
const maxRef = 1 << 20

// looks is how often something is looked for that git may be packing elsewhere.
const looks = 5

// open opens the repository: bare, or the .git in a work tree. The caller closes it.
func (f *file) open() (objects.Store, error) {
	if _, err := os.Stat(f.dir); err != nil {
		return objects.Store{}, fmt.Errorf("repo %q: %w", f.dir, err)
	}
	for _, dir := range []string{f.dir, filepath.Join(f.dir, ".git")} {
		_, err := os.Stat(filepath.Join(dir, "HEAD"))
		switch {
		case err == nil:
			s := objects.OpenBusy(dir)
			return s, f.checkFormat(s)
		case errors.Is(err, fs.ErrPermission):
			return objects.Store{}, fmt.Errorf("repo %q: %w", f.dir, err)
		}
	}
	return objects.Store{}, fmt.Errorf("repo %q is not a git repository: it has no HEAD", f.dir)
}

// checkFormat refuses the repository formats that go-git would misread.
func (f *file) checkFormat(s objects.Store) error {
	c, err := s.Git().Config()
	if err != nil {
		return fmt.Errorf("repo %q: config: %w", f.dir, err)
	}
	for _, o := range c.Raw.Section("extensions").Options {
		switch v := strings.ToLower(o.Value); strings.ToLower(o.Key) + "=" + v {
		case "objectformat=sha1", "refstorage=files":
		default:
			if k := strings.ToLower(o.Key); k == "objectformat" || k == "refstorage" {
				return reason.Errorf(reason.Config, "repo %q has %s %q, which is not in this version; make it with git's defaults", f.dir, k, v)
			}
		}
	}
	return nil
}

// readable adds to an error about what this user may not read who has to be able to.
func (f *file) readable(err error) error {
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return reason.Errorf(reason.IO, "%w; this user (uid %d) must be able to read all of the repo: make it readable for it, such as with `chmod -R a+rX %s`, the directories above it as well; a root without capabilities, as in a sandbox, reads only what others may, too", err, os.Geteuid(), f.dir)
}

func (f *file) Branch(ctx context.Context, name string) (plumbing.Hash, error) {
	h, err := f.branch(ctx, name)
	return h, f.readable(err)
}

func (f *file) branch(_ context.Context, name string) (plumbing.Hash, error) {
	s, err := f.open()
	if err != nil {
		return plumbing.ZeroHash, err
	}
	defer s.Close()
	ref, err := storer.ResolveReference(s.Git(), plumbing.NewBranchReferenceName(name))
	switch {
	case errors.Is(err, plumbing.ErrReferenceNotFound):
		return plumbing.ZeroHash, f.noBranch(s, name)
	case err != nil:
		return plumbing.ZeroHash, fmt.Errorf("repo %q: branch %q: %w", f.dir, name, err)
	case ref.Hash() == plumbing.ZeroHash:
		return plumbing.ZeroHash, fmt.Errorf("repo %q: branch %q names no object", f.dir, name)
	}
	return ref.Hash(), nil
}

// noBranch says why a branch was not found: go-git takes a file that is empty or cannot
// be read for none.
func (f *file) noBranch(s objects.Store, name string) error {
	data, err := objects.ReadFile(s.Git().Filesystem().Root(), "refs/heads/"+name, maxRef)
	none := errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOTDIR)
	switch {
	case err != nil && !none:
		return fmt.Errorf("repo %q: branch %q: %w", f.dir, name, err)
	case err == nil && len(data) == 0:
		return fmt.Errorf("repo %q: branch %q names no object", f.dir, name)
	default:
		return reason.Errorf(reason.Stale, "repo %q has no branch %q; %s", f.dir, name, noBranch)
	}
}

func (f *file) Branches(ctx context.Context, prefix string) (map[string]plumbing.Hash, error) {
	s, err := f.open()
	if err != nil {
		return nil, f.readable(err)
	}
	defer s.Close()
	refs, err := s.Git().IterReferences()
	if err != nil {
		return nil, f.readable(fmt.Errorf("repo %q: %w", f.dir, err))
	}
	found := make(map[string]plumbing.Hash)
	err = refs.ForEach(func(ref *plumbing.Reference) error {
		name, ok := strings.CutPrefix(ref.Name().String(), "refs/heads/")
		if ok && strings.HasPrefix(name, prefix) && ref.Type() == plumbing.HashReference && ref.Hash() != plumbing.ZeroHash {
			found[name] = ref.Hash()
		}
		return ctx.Err()
	})
	return found, err
}

// Fetch copies the commit and its tree.
func (f *file) Fetch(ctx context.Context, into Into, commit plumbing.Hash) error {
	var err error
	for look := range looks {
		if perr := Pause(ctx, look); perr != nil {
			return perr
		}
		var here bool
		here, err = f.fetchOnce(ctx, into, commit)
		if !here {
			return err
		}
	}
	return err
}

// fetchOnce reports as well whether the error is about an object missing or corrupt here.
func (f *file) fetchOnce(ctx context.Context, into Into, commit plumbing.Hash) (here bool, err error) {
	s, err := f.open()
	if err != nil {
		return false, f.readable(err)
	}
	defer s.Close()
	c := &copying{from: s, to: into, maxObjects: f.maxObjects, seen: make(map[plumbing.Hash]bool)}
	if err := c.commit(ctx, commit); err != nil {
		err = fmt.Errorf("repo %q: %w", f.dir, err)
		if c.denied {
			err = f.readable(err)
		}
		return c.here, err
	}
	return false, nil
}

// reader reads objects, as objects.Store does.
type reader interface {
	Read(t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error)
}

// copying copies objects, each after the ones that it names.
type copying struct {
	from       reader
	to         Into
	maxObjects int
	seen       map[plumbing.Hash]bool // is in to
	objects    int
	bytes      int64
	here       bool // something is wrong with an object of from
	denied     bool // an object of from may not be read
}

func (c *copying) commit(ctx context.Context, h plumbing.Hash) error {
	data, err := c.read(ctx, plumbing.CommitObject, h, objects.MaxCommit)
	if err != nil {
		return err
	}
	head, err := objects.ParseCommit(data)
	if err != nil {
		return err
	}
	if err := c.tree(ctx, head.Tree, 0); err != nil {
		return err
	}
	return c.to.Write(plumbing.CommitObject, data)
}

func (c *copying) tree(ctx context.Context, h plumbing.Hash, depth int) error {
	if depth > maxDepth {
		return reason.Errorf(reason.Limit, "directories are nested deeper than %d", maxDepth)
	}
	if have, err := c.has(ctx, h); have || err != nil {
		return err
	}
	data, err := c.read(ctx, plumbing.TreeObject, h, objects.MaxTree)
	if err != nil {
		return err
	}
	entries, err := objects.ParseTree(data)
	if err != nil {
		return err
	}
	for _, e := range entries {
		switch {
		case e.IsDir():
			err = c.tree(ctx, e.Hash, depth+1)
		case e.Mode != objects.ModeSubmodule:
			err = c.blob(ctx, e.Hash)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", e.Name, err)
		}
	}
	return c.to.Write(plumbing.TreeObject, data)
}

// has reports whether h is in to, or will be when what was begun is done.
func (c *copying) has(ctx context.Context, h plumbing.Hash) (bool, error) {
	if c.seen[h] {
		return true, nil
	}
	if err := ctx.Err(); err != nil {
		return false, err
	}
	c.seen[h] = true
	return c.to.Has(h)
}

func (c *copying) blob(ctx context.Context, h plumbing.Hash) error {
	if have, err := c.has(ctx, h); have || err != nil {
		return err
	}
	data, err := c.read(ctx, plumbing.BlobObject, h, objects.MaxBlob)
	if err != nil {
		return err
	}
	return c.to.Write(plumbing.BlobObject, data)
}

func (c *copying) read(ctx context.Context, t plumbing.ObjectType, h plumbing.Hash, max int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, err := c.from.Read(t, h, max)
	if err != nil {
		c.here = errors.Is(err, objects.ErrAbsent) || errors.Is(err, objects.ErrCorrupt)
		c.denied = errors.Is(err, fs.ErrPermission)
		return nil, err
	}
	c.objects++
	c.bytes += int64(len(data))
	if c.objects > c.maxObjects || c.bytes > maxFetch {
		return nil, reason.Errorf(reason.Limit, "commit holds more than %d new objects or %d bytes; keep other things in another repository", c.maxObjects, maxFetch)
	}
	return data, nil
}

// Contains reports whether old is commit or one of its ancestors. A commit that stays
// missing ends the history there: the repository is a shallow one, or the commit was
// thrown away after a rewrite.
func (f *file) Contains(ctx context.Context, _ Into, old, commit plumbing.Hash) (bool, error) {
	var err error
	for look := range looks {
		if perr := Pause(ctx, look); perr != nil {
			return false, perr
		}
		var found, whole bool
		found, whole, err = f.walk(ctx, old, commit)
		if found || whole || err != nil && !errors.Is(err, objects.ErrCorrupt) {
			return found, f.readable(err)
		}
	}
	return false, err
}

// Bounds on how much history is looked at.
const (
	maxCommits = 100_000
	maxHistory = 64 << 20
)

// walk goes back from commit until it meets old; whole says whether it got everywhere.
// What is further back than the bounds counts as not there.
func (f *file) walk(ctx context.Context, old, commit plumbing.Hash) (found, whole bool, err error) {
	s, err := f.open()
	if err != nil {
		return false, false, err
	}
	defer s.Close()
	whole = true
	bytes := 0
	seen := map[plumbing.Hash]bool{commit: true}
	for todo := []plumbing.Hash{commit}; len(todo) > 0; {
		h := todo[0]
		todo = todo[1:]
		if h == old {
			return true, whole, nil
		}
		if err := ctx.Err(); err != nil {
			return false, false, err
		}
		if bytes > f.maxHistory {
			return false, true, nil
		}
		data, err := s.Read(plumbing.CommitObject, h, objects.MaxCommit)
		if errors.Is(err, objects.ErrAbsent) {
			whole = false
			continue
		}
		bytes += len(data)
		var c objects.Commit
		if err == nil {
			c, err = objects.ParseCommit(data)
		}
		if err != nil {
			return false, false, fmt.Errorf("repo %q: %w", f.dir, err)
		}
		for _, p := range c.Parents {
			if !seen[p] && len(seen) < f.maxCommits {
				seen[p] = true
				todo = append(todo, p)
			}
		}
	}
	return false, whole, nil
}
