package repo

import (
	"context"
	"errors"
	"fmt"
	"path"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/channels/repo/remote"
	"makenot.work/sando/internal/reason"
)

// Author is who makes a commit.
type Author = objects.Author

// Commit is a change to the channel repo.
type Commit struct {
	Message string
	Files   map[string][]byte // below Config.Path; nil deletes
}

// Push commits what make returns on top of the branch. When others moved the branch
// meanwhile, make is called again with the new head, at most 20 times; it decides anew
// whether its change still makes sense, and returns nil when there is nothing to do.
// Errors of make are returned as they are.
//
// The commit returned is in the branch's history: the new one, or the head when there
// was nothing to change. A push whose answer was lost is found there and not done twice.
func (r *Repo) Push(ctx context.Context, author Author, make func(head *Snapshot) (*Commit, error)) (string, error) {
	return r.publish(ctx, author, target{branch: r.c.Branch}, make)
}

// Propose commits what make returns on top of the branch, and makes that commit the
// other branch, whatever that was before. To merge it is to push it. Like Push it
// returns the head, and touches nothing, when there was nothing to change.
func (r *Repo) Propose(ctx context.Context, author Author, branch string, make func(head *Snapshot) (*Commit, error)) (string, error) {
	if err := r.checkOther(branch); err != nil {
		return "", err
	}
	return r.publish(ctx, author, target{branch: branch, force: true}, make)
}

// Delete deletes a branch, other than the one that decides. It may be gone already.
func (r *Repo) Delete(ctx context.Context, branch string) error {
	if err := r.checkOther(branch); err != nil {
		return err
	}
	for try := 1; ; try++ {
		err := r.remote.Push(ctx, r.m.dir, plumbing.ZeroHash, branch, true)
		if err == nil {
			return nil
		}
		if _, gone := r.remote.Branch(ctx, branch); reason.Of(gone) == reason.Stale {
			return nil
		}
		var refused *remote.PushError
		if !errors.As(err, &refused) || refused.Verdict != remote.Busy || try == maxPushes {
			return fmt.Errorf("delete branch %q of the channel repo: %w", branch, err)
		}
		if err := r.wait(ctx, try); err != nil {
			return err
		}
	}
}

func (r *Repo) checkOther(branch string) error {
	if branch == r.c.Branch {
		return reason.Errorf(reason.Config, "branch %q is the one that decides, not one for proposals", branch)
	}
	return checkBranch(branch)
}

// maxPushes bounds how often a push is tried.
const maxPushes = 20

// target is the branch that a commit is pushed to.
type target struct {
	branch string
	force  bool
}

func (r *Repo) publish(ctx context.Context, author Author, to target, make func(*Snapshot) (*Commit, error)) (string, error) {
	mended := false
	for try := 1; ; try++ {
		head, commit, err := r.build(ctx, author, make)
		next := landed
		switch {
		case errors.Is(err, errBroken):
			next = mend
		case errors.Is(err, remote.ErrMoved):
			next = again // others are at it, faster than it can be looked at
		case err != nil:
			return "", err
		case commit != head.hash:
			next, err = r.push(ctx, head, commit, to)
		}
		switch {
		case next == landed:
			return commit.String(), nil
		case next == giveUp, next == mend && mended:
			return "", err
		case try == maxPushes:
			return "", fmt.Errorf("given up after %d tries: %w", try, err)
		case next == mend:
			mended = true
			if derr := r.drop(); derr != nil {
				return "", errors.Join(err, derr)
			}
		}
		if perr := r.wait(ctx, try); perr != nil {
			return "", errors.Join(err, perr)
		}
	}
}

// build makes a commit in the mirror on top of the newest head. It is the head itself
// when there is nothing to change.
func (r *Repo) build(ctx context.Context, author Author, make func(*Snapshot) (*Commit, error)) (*Snapshot, plumbing.Hash, error) {
	head, err := r.Fetch(ctx, "")
	if err != nil {
		return nil, plumbing.ZeroHash, err
	}
	change, err := make(head)
	if err != nil || change == nil {
		return head, head.hash, err
	}
	commit, err := r.commit(head, author, change)
	if err != nil {
		return nil, plumbing.ZeroHash, fmt.Errorf("commit to channel repo: %w", err)
	}
	return head, commit, nil
}

// commit writes the change on top of head into the mirror. A change that changes
// nothing is head.
func (r *Repo) commit(head *Snapshot, author Author, change *Commit) (plumbing.Hash, error) {
	files := make(map[string][]byte, len(change.Files))
	for p, data := range change.Files {
		if err := objects.CheckPath(p); err != nil {
			return plumbing.ZeroHash, err
		}
		files[path.Join(r.c.Path, p)] = data
	}
	tree, err := r.m.Replace(head.tree, files)
	if err != nil || tree == head.tree {
		return head.hash, r.m.broken(err)
	}
	return r.m.WriteCommit(tree, head.hash, author, time.Now(), change.Message)
}

// step is what comes after a push that failed.
type step int

const (
	giveUp step = iota
	landed      // the commit is there nevertheless
	again       // on the new head
	mend        // once more, from a new mirror
)

// push pushes the commit, made on top of base, and says what comes next. The error is
// nil only after landed.
func (r *Repo) push(ctx context.Context, base *Snapshot, commit plumbing.Hash, to target) (step, error) {
	failed := r.remote.Push(ctx, r.m.dir, commit, to.branch, to.force)
	if failed == nil {
		return landed, nil
	}
	failed = fmt.Errorf("push to branch %q of the channel repo: %w", to.branch, failed)
	var p *remote.PushError
	if !errors.As(failed, &p) {
		return giveUp, failed
	}
	head, err := r.Fetch(ctx, commit.String())
	switch {
	case errors.Is(err, remote.ErrMoved) && p.Verdict == remote.Busy:
		return again, errors.Join(failed, err)
	case err != nil:
		return giveUp, errors.Join(failed, err)
	}
	there := !head.Rewritten
	if to.force {
		now, err := r.remote.Branch(ctx, to.branch)
		there = err == nil && now == commit
	}
	switch {
	case there:
		return landed, nil
	case p.Verdict == remote.Busy || head.hash != base.hash:
		return again, failed
	case p.Verdict == remote.Unclear:
		return mend, failed
	default:
		return giveUp, failed
	}
}
