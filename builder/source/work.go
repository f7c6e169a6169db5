package source

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

// Names of what is being made and what is being removed, for Sweep to find.
const (
	newPrefix   = ".new-"
	trashPrefix = ".trash-"
	busySuffix  = ".busy"
)

// Checkout returns the work tree of a commit that Resolve returned, made now or kept
// from before.
func (s *Source) Checkout(ctx context.Context, commit string) (Tree, error) {
	work := filepath.Join(s.State, "work")
	if err := durable.MkdirAll(work, 0o755); err != nil {
		return Tree{}, err
	}
	dir := filepath.Join(work, commit)
	if s.usable(ctx, dir, commit) {
		s.Log.Info("work tree is used again", "dir", dir)
	} else {
		if ctx.Err() != nil {
			return Tree{}, context.Cause(ctx)
		}
		if err := s.make(ctx, dir, commit); err != nil {
			return Tree{}, fmt.Errorf("check out commit %s: %w", commit, err)
		}
	}
	tree, err := s.describe(ctx, dir, commit)
	if err != nil {
		return Tree{}, err
	}
	tree.busy = dir + busySuffix
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err != nil { // the order of use
		return Tree{}, err
	}
	return tree, s.prune(work)
}

// usable reports whether dir is the commit and nothing else, as far as git sees.
func (s *Source) usable(ctx context.Context, dir, commit string) bool {
	if _, err := os.Lstat(dir + busySuffix); !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if _, err := os.Lstat(filepath.Join(dir, ".git")); err != nil {
		return false // without this git would look further up
	}
	head, err := s.git(ctx, dir, "", "rev-parse", "--verify", "HEAD^{commit}")
	if err != nil || strings.TrimSpace(head) != commit {
		return false
	}
	env, err := s.checkoutEnv(ctx, "")
	if err != nil {
		return false
	}
	changed, err := s.gitWith(ctx, env, dir, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none")
	return err == nil && changed == "" && s.unseen(ctx, dir) == nil && s.submodulesThere(ctx, env, dir) == nil
}

// unseen refuses a work tree with tracked files whose changes git was told not to see:
// those marked assume-unchanged, or skip-worktree, as in a sparse checkout.
func (s *Source) unseen(ctx context.Context, dir string) error {
	out, err := s.git(ctx, dir, "", "ls-files", "-v", "-z", "--recurse-submodules")
	if err != nil {
		return err
	}
	for line := range strings.SplitSeq(out, "\x00") {
		tag, name, _ := strings.Cut(line, " ")
		option := ""
		switch {
		case tag == "S" || tag == "s":
			option = "--no-skip-worktree"
		case tag != strings.ToUpper(tag):
			option = "--no-assume-unchanged"
		default:
			continue
		}
		full := filepath.Join(dir, name)
		top := filepath.Dir(full) // of the submodule that the file is in
		for top != dir {
			if _, err := os.Lstat(filepath.Join(top, ".git")); err == nil {
				break
			}
			top = filepath.Dir(top)
		}
		rel, err := filepath.Rel(top, full)
		if err != nil {
			return err
		}
		return reason.Errorf(reason.Config, "checkout %q: git was told not to look at %q, so it cannot say whether that is what was committed: "+
			"run git -C %q update-index %s %q", dir, name, top, option, rel)
	}
	return nil
}

// make makes the work tree dir of commit, instead of what is there.
func (s *Source) make(ctx context.Context, dir, commit string) error {
	if err := discard(dir); err != nil {
		return err
	}
	if err := os.Remove(dir + busySuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp := filepath.Join(filepath.Dir(dir), newPrefix+rand.Text())
	err := s.populate(ctx, tmp, commit)
	if err == nil {
		err = durable.Rename(tmp, dir)
	}
	if err != nil {
		return errors.Join(err, removeAll(tmp))
	}
	return nil
}

func (s *Source) populate(ctx context.Context, tmp, commit string) error {
	allow, err := protocols(s.Repo)
	if err != nil {
		return err
	}
	if _, err := s.git(ctx, s.State, "file", "clone", "--quiet", "--local", "--no-checkout", "--", s.mirror(), tmp); err != nil {
		return err
	}
	// Before the checkout: filters and relative submodules go to where it came from.
	if _, err := s.git(ctx, tmp, "", "config", "remote.origin.url", s.Repo); err != nil {
		return err
	}
	env, err := s.checkoutEnv(ctx, allow)
	if err != nil {
		return err
	}
	if _, err := s.gitWith(ctx, env, tmp, "checkout", "--quiet", "--force", "--detach", commit); err != nil {
		return err
	}
	if _, err := s.gitWith(ctx, env, tmp, "submodule", "--quiet", "update", "--init", "--recursive", "--force", "--checkout"); err != nil {
		return err
	}
	return s.submodulesThere(ctx, env, tmp)
}

// prune removes all work trees but the Keep used last.
func (s *Source) prune(work string) error {
	entries, err := os.ReadDir(work)
	if err != nil {
		return err
	}
	type used struct {
		path string
		at   time.Time
	}
	var trees []used
	for _, e := range entries {
		path := filepath.Join(work, e.Name())
		switch info, err := e.Info(); {
		case err != nil:
			return err
		case fullForm.MatchString(e.Name()) && e.IsDir():
			trees = append(trees, used{path, info.ModTime()})
		}
	}
	slices.SortFunc(trees, func(a, b used) int {
		return cmp.Or(b.at.Compare(a.at), cmp.Compare(a.path, b.path))
	})
	for _, t := range trees[min(len(trees), max(s.Keep, 1)):] {
		if err := discard(t.path); err != nil {
			return err
		}
		if err := os.Remove(t.path + busySuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// discard removes path under another name, so that nothing half removed is found
// where something whole is looked for.
func discard(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	trash := filepath.Join(filepath.Dir(path), trashPrefix+rand.Text())
	if err := durable.Rename(path, trash); err != nil {
		return err
	}
	return removeAll(trash)
}

// removeAll is os.RemoveAll that also gets into directories without write permission,
// which package managers like to make. It follows no links.
func removeAll(path string) error {
	err := os.RemoveAll(path)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	werr := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return os.Chmod(p, 0o700)
	})
	if werr != nil {
		return werr
	}
	return os.RemoveAll(path)
}

// Sweep removes what killed runs left in the state directory and in work: everything
// whose name begins with a dot. The caller holds the lock.
func Sweep(state string) error {
	for _, dir := range []string{state, filepath.Join(state, "work")} {
		entries, err := os.ReadDir(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Name(), ".") {
				if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
