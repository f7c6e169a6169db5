// Package source turns a revision of the source repository into a work tree.
//
// # Files
//
// Below the builder's state directory, all of it made again when it is lost:
//
//	mirror.git          bare mirror of the branches and tags of the repository
//	work/<commit>/      a work tree, submodules included; a clone of the mirror
//	work/<commit>.busy  a build is under way there, or one was killed
//
// A work tree is made under another name and renamed when it is complete. It is used
// again for the same commit, with what the last build left in ignored files, unless
// git finds a change in it or a build in it was killed; then it is made anew. The Keep
// trees used last stay.
//
// The caller holds the lock of the state directory.
//
// # Git
//
// The git program is run with the user's own configuration (credential helpers, proxies),
// and without any other GIT_ variable than those that say how to reach a server. Hooks are
// off. Only the commit says which bytes a checkout has: settings that change them are
// fixed, attributes and filters of the user and of the machine are off, replaced objects
// count for nothing. Files that the commit gives to git-lfs come from git-lfs, and without
// that program there is no checkout.
// Transports are https and ssh, and file or http for a source that uses them itself;
// that holds for submodules too, whatever .gitmodules says. Submodule URLs that are
// relative are relative to the URL of the source.
//
// # What it does not protect from
//
// The build runs the source's own commands with the rights of the builder. Who can
// choose the commit chooses what is signed.
package source

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"makenot.work/sando/builder/proc"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Source is the source repository and where its copies are kept.
type Source struct {
	State string // directory
	Repo  string // URL; only Existing works without one
	Keep  int    // work trees
	Run   proc.Runner
	Log   *slog.Logger
}

// Tree is a work tree at a commit.
type Tree struct {
	Dir    string
	Commit string
	Time   time.Time // of the commit
	busy   string    // marker file; empty for a tree that is not ours
}

// Busy marks the tree: when Idle is not called, it is not used again.
func (t Tree) Busy() error {
	if t.busy == "" {
		return nil
	}
	return durable.WriteFile(t.busy, nil, 0o600)
}

// Idle takes the mark of Busy away.
func (t Tree) Idle() error {
	if t.busy == "" {
		return nil
	}
	return durable.Remove(t.busy)
}

var scpForm = regexp.MustCompile(`^([A-Za-z0-9._-]+@)?[A-Za-z0-9][A-Za-z0-9.-]*:[^:].*$`)

// CheckURL reports whether repo is a URL that may be fetched from: https, ssh (also as
// user@host:path), file, and http of this machine.
func CheckURL(repo string) error {
	_, err := protocols(repo)
	return err
}

// protocols returns the transports that git may use for repo and its submodules.
func protocols(repo string) (string, error) {
	if scheme, _, ok := strings.Cut(repo, "://"); ok {
		switch scheme {
		case "https", "ssh":
			return "https:ssh", nil
		case "file":
			return "https:ssh:file", nil
		case "http":
			u, err := url.Parse(repo)
			if err == nil && loopback(u.Hostname()) {
				return "https:ssh:http", nil
			}
		}
	} else if scpForm.MatchString(repo) {
		return "https:ssh", nil
	}
	return "", reason.Errorf(reason.Config,
		"source repository %q: want https://, ssh://, user@host:path, file:///dir, or http:// of this machine", layout.StripUserInfo(repo))
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

func (s *Source) mirror() string { return filepath.Join(s.State, "mirror.git") }

// update brings the mirror up to date. A mirror that git cannot use is thrown away
// when the repository itself can be reached.
func (s *Source) update(ctx context.Context) error {
	allow, err := protocols(s.Repo)
	if err != nil {
		return err
	}
	if err := s.initMirror(ctx); err != nil {
		return err
	}
	if err := removeLocks(s.mirror()); err != nil {
		return err
	}
	err = s.fetch(ctx, allow)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if _, rerr := s.git(ctx, s.State, allow, "ls-remote", "--quiet", "--heads", "--", s.Repo); rerr != nil {
		return err // the repository is the trouble, not the mirror
	}
	s.Log.Warn("mirror of the source is broken; it is made again", "dir", s.mirror(), "cause", err)
	if err := discard(s.mirror()); err != nil {
		return err
	}
	if err := s.initMirror(ctx); err != nil {
		return err
	}
	return s.fetch(ctx, allow)
}

func (s *Source) fetch(ctx context.Context, allow string) error {
	_, err := s.git(ctx, s.mirror(), allow, "fetch", "--quiet", "--prune", "--force", "--no-tags", "--no-write-fetch-head",
		"--end-of-options", s.Repo, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
	if err != nil {
		return fmt.Errorf("fetch source %q: %w", layout.StripUserInfo(s.Repo), err)
	}
	return nil
}

func (s *Source) initMirror(ctx context.Context) error {
	if _, err := os.Stat(filepath.Join(s.mirror(), "HEAD")); err == nil {
		return nil
	}
	if err := discard(s.mirror()); err != nil {
		return err
	}
	tmp := filepath.Join(s.State, newPrefix+"mirror")
	if err := removeAll(tmp); err != nil {
		return err
	}
	if _, err := s.git(ctx, s.State, "", "init", "--quiet", "--bare", "--", tmp); err != nil {
		return err
	}
	return durable.Rename(tmp, s.mirror())
}

// removeLocks deletes the lock files that a killed git left in a bare repository. The
// caller holds the state's lock, and what was left running has been reaped.
func removeLocks(repo string) error {
	return filepath.WalkDir(repo, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path == filepath.Join(repo, "objects") {
			return fs.SkipDir
		}
		if d.Type().IsRegular() && strings.HasSuffix(path, ".lock") {
			return os.Remove(path)
		}
		return nil
	})
}

var (
	fullForm  = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	shortForm = regexp.MustCompile(`^[0-9a-f]{4,63}$`)
	badRev    = regexp.MustCompile(`^-|[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|^$`)
)

// Resolve returns the commit that rev names: a full or short commit id, a tag, or a
// branch as it is in the repository now. A full id that is known already needs no
// network.
func (s *Source) Resolve(ctx context.Context, rev string) (string, error) {
	if badRev.MatchString(rev) {
		return "", reason.Errorf(reason.Config, "revision %q: want a commit id, a tag or a branch", rev)
	}
	if s.Repo == "" {
		return "", reason.Errorf(reason.Config, "no source repository: set [source] repo, or release a checkout with --dir")
	}
	if fullForm.MatchString(rev) && s.has(ctx, rev) {
		return rev, nil
	}
	if err := s.update(ctx); err != nil {
		return "", err
	}
	if fullForm.MatchString(rev) {
		return rev, s.fetchCommit(ctx, rev)
	}
	return s.find(ctx, rev)
}

func (s *Source) has(ctx context.Context, commit string) bool {
	_, err := s.git(ctx, s.mirror(), "", "cat-file", "-e", commit+"^{commit}")
	return err == nil
}

// fetchCommit asks for a commit that no branch and no tag holds; many servers give it.
// A reference keeps it.
func (s *Source) fetchCommit(ctx context.Context, commit string) error {
	if s.has(ctx, commit) {
		return nil
	}
	allow, err := protocols(s.Repo)
	if err != nil {
		return err
	}
	_, err = s.git(ctx, s.mirror(), allow, "fetch", "--quiet", "--no-tags", "--no-write-fetch-head",
		"--end-of-options", s.Repo, commit+":refs/sando/"+commit)
	if ctx.Err() != nil {
		return err
	}
	if err != nil || !s.has(ctx, commit) {
		return reason.Errorf(reason.Config, "commit %s is on no branch or tag of %q, and the server does not give it: was it pushed?",
			commit, layout.StripUserInfo(s.Repo))
	}
	return nil
}

// find looks rev up in the mirror.
func (s *Source) find(ctx context.Context, rev string) (string, error) {
	names := []string{"refs/heads/" + rev, "refs/tags/" + rev}
	if strings.HasPrefix(rev, "refs/heads/") || strings.HasPrefix(rev, "refs/tags/") {
		names = []string{rev}
	}
	found := make(map[string]string) // commit -> reference
	for _, name := range names {
		if out, err := s.git(ctx, s.mirror(), "", "rev-parse", "--verify", "--quiet", "--end-of-options", name+"^{commit}"); err == nil {
			found[strings.TrimSpace(out)] = name
		} else if ctx.Err() != nil {
			return "", err
		}
	}
	if len(found) == 2 {
		return "", reason.Errorf(reason.Config, "revision %q is a branch and a tag: say refs/heads/%s or refs/tags/%s", rev, rev, rev)
	}
	for commit := range found {
		return commit, nil
	}
	if shortForm.MatchString(rev) {
		if out, err := s.git(ctx, s.mirror(), "", "rev-parse", "--verify", "--end-of-options", rev+"^{commit}"); err == nil {
			return strings.TrimSpace(out), nil
		} else if strings.Contains(err.Error(), "ambiguous") {
			return "", reason.Errorf(reason.Config, "revision %q: more than one commit begins with it: give more digits", rev)
		}
	}
	return "", reason.Errorf(reason.Config, "revision %q: no such commit, tag or branch in %q", rev, layout.StripUserInfo(s.Repo))
}

// Existing returns the checkout in dir, somebody's own. It is refused (reason
// "policy") when a tracked file is changed, since the commit would not say what was
// built, and (reason "config") when git was told not to look at one; untracked files are
// not looked at.
func (s *Source) Existing(ctx context.Context, dir string) (Tree, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return Tree{}, err
	}
	top, err := s.git(ctx, dir, "", "rev-parse", "--show-toplevel")
	if err != nil {
		var notGit *gitError
		if errors.As(err, &notGit) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, proc.ErrNotFound) {
			return Tree{}, reason.Errorf(reason.Config, "checkout %q: %w", dir, err)
		}
		return Tree{}, err
	}
	if top = strings.TrimSuffix(top, "\n"); !sameDir(top, dir) {
		return Tree{}, reason.Errorf(reason.Config, "checkout %q: its top is %q: give that directory", dir, top)
	}
	changed, err := s.git(ctx, dir, "", "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=untracked")
	if err != nil {
		return Tree{}, err
	}
	if changed != "" {
		return Tree{}, reason.Errorf(reason.Policy, "checkout %q: tracked files are changed, so no commit says what would be built: commit or stash them\n%s",
			dir, firstLines(changed, 10))
	}
	if err := s.unseen(ctx, dir); err != nil {
		return Tree{}, err
	}
	if err := s.submodulesThere(ctx, gitEnv(""), dir); err != nil {
		return Tree{}, err
	}
	return s.describe(ctx, dir, "HEAD")
}

func sameDir(a, b string) bool {
	x, err1 := os.Stat(a)
	y, err2 := os.Stat(b)
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

func (s *Source) submodulesThere(ctx context.Context, env []string, dir string) error {
	out, err := s.gitWith(ctx, env, dir, "submodule", "status", "--recursive")
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		if strings.HasPrefix(line, "-") {
			return reason.Errorf(reason.Policy, "checkout %q: submodule is not checked out: %s: run git submodule update --init --recursive",
				dir, strings.TrimSpace(line[1:]))
		}
	}
	return nil
}

func firstLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) > n {
		lines = append(lines[:n], fmt.Sprintf("and %d more", len(lines)-n))
	}
	return "  " + strings.Join(lines, "\n  ")
}

func (s *Source) describe(ctx context.Context, dir, rev string) (Tree, error) {
	out, err := s.git(ctx, dir, "", "show", "--no-patch", "--no-notes", "--format=%H %ct", rev)
	if err != nil {
		return Tree{}, fmt.Errorf("read commit %s: %w", rev, err)
	}
	commit, at, _ := strings.Cut(strings.TrimSpace(out), " ")
	sec, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return Tree{}, fmt.Errorf("commit %s: time %q is not a number", rev, at)
	}
	return Tree{Dir: dir, Commit: commit, Time: time.Unix(sec, 0).UTC()}, nil
}
