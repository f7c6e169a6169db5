package repo

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"makenot.work/sando/channels/repo/remote"
	"makenot.work/sando/internal/reason"
)

func TestPropose(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		head := fetch(t, r, "").Commit
		const branch = "bump/b/0.9.5"
		var proposed string
		for i := range 3 { // made again each time, on a head that moved
			var err error
			text := fmt.Sprint("state ", i)
			if proposed, err = r.Propose(t.Context(), tester, branch, files("channels/b.json", text)); err != nil {
				t.Fatal(err)
			}
			found, err := r.Branches(t.Context(), "bump/")
			if err != nil || len(found) != 1 || found[branch] == nil || found[branch].Commit != proposed {
				t.Fatalf("Branches = %v, %v, want %s", found, err, proposed)
			}
			checkRead(t, found[branch], "channels/b.json", text)
			if parent := git(t, dir, "rev-parse", proposed+"^"); parent != head {
				t.Errorf("the parent is %s, want the head %s", parent, head)
			}
			if now := fetch(t, r, "").Commit; now != head {
				t.Errorf("Propose moved main")
			}
			if head, err = r.Push(t.Context(), tester, files("fleet.toml", text)); err != nil {
				t.Fatal(err)
			}
		}
		work := clone(t, dir)
		git(t, work, "merge", "-q", "--no-ff", "-m", "merge", "origin/"+branch)
		git(t, work, "push", "-q", "origin", "HEAD:main")
		s := fetch(t, r, head)
		checkRead(t, s, "channels/b.json", "state 2")
		if merged, err := r.Merged(t.Context(), proposed, s); !merged || err != nil {
			t.Errorf("Merged = %t, %v", merged, err)
		}
		for range 2 { // the second time it is gone
			if err := r.Delete(t.Context(), branch); err != nil {
				t.Errorf("Delete: %v", err)
			}
		}
		write(t, dir+"/refs/heads/"+branch, head+"\n")
		busyOnce := &contended{Remote: r.remote, verdict: remote.Busy}
		r.remote = busyOnce
		if err := r.Delete(t.Context(), branch); err != nil || busyOnce.verdict != remote.Unclear {
			t.Errorf("Delete beside another writer: %v", err)
		}
		write(t, dir+"/refs/heads/"+branch, head+"\n")
		r.remote = &contended{Remote: busyOnce.Remote, verdict: remote.Refused}
		if err := r.Delete(t.Context(), branch); err == nil || !strings.Contains(err.Error(), "in the way") {
			t.Errorf("Delete that is refused = %v", err)
		}
		r.remote = busyOnce.Remote
		if err := r.Delete(t.Context(), branch); err != nil {
			t.Errorf("Delete: %v", err)
		}
		if found, err := r.Branches(t.Context(), "bump/"); err != nil || len(found) != 0 {
			t.Errorf("Branches after Delete = %v, %v", found, err)
		}
	})
}

func TestProposeRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		for _, branch := range []string{"main", "", "-x", "a b", "a..b", "bump/", ":main"} {
			_, err := r.Propose(t.Context(), tester, branch, files("x", "y"))
			checkReason(t, fmt.Sprintf("Propose to %q", branch), err, reason.Config, "branch")
			checkReason(t, fmt.Sprintf("Delete of %q", branch), r.Delete(t.Context(), branch), reason.Config, "branch")
		}
		if _, err := r.Propose(t.Context(), tester, "bump/b", files("x", "y")); err != nil {
			t.Fatal(err)
		}
		_, err := r.Propose(t.Context(), tester, "bump/b/1.0", files("x", "y"))
		checkReason(t, "Propose below a branch", err, reason.IO, "bump/b")
		if strings.Contains(err.Error(), "given up") {
			t.Errorf("Propose = %v, and was tried in vain", err)
		}
		for _, path := range []string{"", "/x", "../x", ".git/config", "a//b"} {
			_, err := r.Push(t.Context(), tester, files(path, "y"))
			checkReason(t, fmt.Sprintf("Push of %q", path), err, reason.Format, "path")
		}
		_, err = r.Push(t.Context(), Author{}, files("x", "y"))
		checkReason(t, "Push by nobody", err, reason.Config, "author: no name")
	})
}

func TestProposeConcurrent(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		const writers = 6
		dir := newRepo(t)
		commits, errs := make([]string, writers), make([]error, writers)
		var wg sync.WaitGroup
		for i := range writers {
			r := open(t, dir)
			wg.Go(func() {
				commits[i], errs[i] = r.Propose(t.Context(), tester, "bump/x", files("x", fmt.Sprint(i)))
			})
		}
		wg.Wait()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
		if head := git(t, dir, "rev-parse", "bump/x"); !slices.Contains(commits, head) {
			t.Errorf("the branch is %s, which nobody pushed", head)
		}
	})
}
