package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/remote"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// checkRepo checks with git that the repo is sound and that its history is one line.
func checkRepo(t testing.TB, dir string) {
	t.Helper()
	if out := git(t, dir, "fsck", "--strict", "--no-dangling"); out != "" {
		t.Errorf("git fsck says: %s", out)
	}
	if merges := git(t, dir, "rev-list", "--merges", "main"); merges != "" {
		t.Errorf("the history has merges: %s", merges)
	}
}

func TestPush(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		base := fetch(t, r, "").Commit
		got, err := r.Push(t.Context(), tester, files("channels/a.json", "new", "trust/2.json", "trust"))
		if err != nil {
			t.Fatal(err)
		}
		if head := git(t, dir, "rev-parse", "main"); got != head {
			t.Errorf("Push = %s, want the head %s", got, head)
		}
		if parent := git(t, dir, "rev-parse", "main^"); parent != base {
			t.Errorf("the parent is %s, want %s", parent, base)
		}
		if diff := git(t, dir, "diff", "--name-status", "main^", "main"); diff != "M\tchannels/a.json\nA\ttrust/2.json" {
			t.Errorf("Push changed %q", diff)
		}
		s := fetch(t, r, base)
		if s.Commit != got || s.Rewritten {
			t.Errorf("Fetch = %+v, want %s", s, got)
		}
		checkRead(t, s, "trust/2.json", "trust")
		checkRepo(t, dir)
	})
}

func TestPushNothing(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		head := fetch(t, r, "").Commit
		broken := reason.Errorf(reason.Policy, "not now")
		for name, c := range map[string]struct {
			make func(*Snapshot) (*Commit, error)
			want string
			err  error
		}{
			"no commit":  {func(*Snapshot) (*Commit, error) { return nil, nil }, head, nil},
			"no files":   {files(), head, nil},
			"same bytes": {files("channels/a.json", "{\"a\":1}\n"), head, nil},
			"an error":   {func(*Snapshot) (*Commit, error) { return &Commit{Message: "x"}, broken }, "", broken},
		} {
			for _, push := range []func() (string, error){
				func() (string, error) { return r.Push(t.Context(), tester, c.make) },
				func() (string, error) { return r.Propose(t.Context(), tester, "bump/x", c.make) },
			} {
				if got, err := push(); got != c.want || err != c.err {
					t.Errorf("%s: %q, %v, want %q, %v", name, got, err, c.want, c.err)
				}
			}
		}
		if refs := git(t, dir, "for-each-ref", "--format=%(objectname) %(refname)"); refs != head+" refs/heads/main" {
			t.Errorf("the repo has %q", refs)
		}
	})
}

func TestPushRefused(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		for _, c := range []struct {
			name  string
			setup func(t *testing.T, dir string)
			code  reason.Code
			words string
		}{
			{"hook", func(t *testing.T, dir string) {
				write(t, dir+"/hooks/pre-receive", "#!/bin/sh\necho no pushes on fridays >&2\necho https://u:secret@host/x >&2\nexit 1\n")
				if err := os.Chmod(dir+"/hooks/pre-receive", 0o755); err != nil {
					t.Fatal(err)
				}
			}, reason.IO, "no pushes on fridays"},
			{"update hook", func(t *testing.T, dir string) {
				write(t, dir+"/hooks/update", "#!/bin/sh\nexit 1\n")
				if err := os.Chmod(dir+"/hooks/update", 0o755); err != nil {
					t.Fatal(err)
				}
			}, reason.IO, "hook declined"},
			{"stale lock", func(t *testing.T, dir string) {
				git(t, dir, "config", "core.filesRefLockTimeout", "0") // do not wait for it
				write(t, dir+"/refs/heads/main.lock", "")
			}, reason.IO, "given up after 20 tries"},
		} {
			t.Run(c.name, func(t *testing.T) {
				dir := newRepo(t)
				r := open(t, dir)
				r.wait = func(ctx context.Context, _ int) error { return ctx.Err() }
				head := fetch(t, r, "").Commit
				c.setup(t, dir)
				calls := 0
				_, err := r.Push(t.Context(), tester, func(s *Snapshot) (*Commit, error) {
					calls++
					return files("x", "y")(s)
				})
				checkReason(t, "Push", err, c.code, c.words)
				if want := map[bool]int{true: maxPushes, false: 1}[c.name == "stale lock"]; calls != want {
					t.Errorf("make was called %d times, want %d", calls, want)
				}
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("Push = %v, which holds a password", err)
				}
				if now := git(t, dir, "rev-parse", "main"); now != head {
					t.Errorf("the branch moved")
				}
				for _, f := range []string{"hooks/pre-receive", "hooks/update", "refs/heads/main.lock"} {
					if err := os.RemoveAll(filepath.Join(dir, f)); err != nil {
						t.Fatal(err)
					}
				}
				if _, err := r.Push(t.Context(), tester, files("x", "y")); err != nil {
					t.Errorf("Push afterwards: %v", err)
				}
			})
		}
	})
}

// TestPushCheckedOut pushes into a repository whose work tree has the branch.
func TestPushCheckedOut(t *testing.T) {
	work := clone(t, newRepo(t))
	git(t, work, "checkout", "-q", "-B", "main")
	_, err := open(t, work).Push(t.Context(), tester, files("x", "y"))
	checkReason(t, "Push", err, reason.IO, "branch is currently checked out")
	git(t, work, "checkout", "-q", "--detach")
	if _, err := open(t, work).Push(t.Context(), tester, files("x", "y")); err != nil {
		t.Error(err)
	}
}

func TestPushReadOnly(t *testing.T) {
	testenv.User(t, "root may write everywhere")
	dir := newRepo(t)
	r := open(t, dir)
	for _, d := range []string{"refs/heads", "objects"} {
		if err := os.Chmod(filepath.Join(dir, d), 0o555); err != nil {
			t.Fatal(err)
		}
		calls := 0
		_, err := r.Push(t.Context(), tester, func(s *Snapshot) (*Commit, error) {
			calls++
			return files("x", "y")(s)
		})
		if err == nil || reason.Of(err) != reason.IO || calls > 2 {
			t.Errorf("Push with read-only %s = %v after %d tries", d, err, calls)
		}
		if err := os.Chmod(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPushMoved moves the branch between make and push.
func TestPushMoved(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		r := open(t, dir)
		calls := 0
		var theirs string
		got, err := r.Push(t.Context(), tester, func(s *Snapshot) (*Commit, error) {
			if calls++; calls <= 3 {
				write(t, work+"/fleet.toml", fmt.Sprint(calls))
				theirs = commitAll(t, work, "theirs")
			} else {
				checkRead(t, s, "fleet.toml", "3")
			}
			return files("channels/a.json", "mine")(s)
		})
		if err != nil || calls != 4 {
			t.Fatalf("Push = %v after %d calls, want 4", err, calls)
		}
		if parent := git(t, dir, "rev-parse", got+"^"); parent != theirs {
			t.Errorf("the parent is %s, want %s", parent, theirs)
		}
		s := fetch(t, r, "")
		checkRead(t, s, "fleet.toml", "3")
		checkRead(t, s, "channels/a.json", "mine")
		checkRepo(t, dir)
	})
}

// TestPushMovedForGood stops when the change does not make sense any more.
func TestPushMovedForGood(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		replay := reason.Errorf(reason.Replay, "channel moved")
		calls := 0
		_, err := open(t, dir).Push(t.Context(), tester, func(s *Snapshot) (*Commit, error) {
			if calls++; calls == 1 {
				write(t, work+"/channels/a.json", "theirs")
				commitAll(t, work, "theirs")
				return files("channels/a.json", "mine")(s)
			}
			return nil, replay
		})
		if err != replay {
			t.Errorf("Push = %v, want the error of make", err)
		}
		checkRead(t, fetch(t, open(t, dir), ""), "channels/a.json", "theirs")
	})
}

// TestPushLost has git fail after the branch was updated.
func TestPushLost(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		for name, moved := range map[string]bool{"head": false, "below the head": true} {
			r := open(t, dir)
			before := git(t, dir, "rev-parse", "main")
			r.remote = lossy{r.remote, func() {
				if moved {
					git(t, work, "pull", "-q", "--ff-only", "origin", "main")
					commitAll(t, work, "theirs")
				}
			}}
			calls := 0
			got, err := r.Push(t.Context(), tester, func(s *Snapshot) (*Commit, error) {
				calls++
				return files("channels/a.json", name)(s)
			})
			if err != nil || calls != 1 {
				t.Errorf("%s: Push = %v after %d calls, want success after 1", name, err, calls)
			}
			if parent := git(t, dir, "rev-parse", got+"^"); parent != before {
				t.Errorf("%s: Push = %s, which has the parent %s, want %s", name, got, parent, before)
			}
		}
		r := open(t, dir)
		r.remote = lossy{r.remote, func() {}}
		if _, err := r.Propose(t.Context(), tester, "bump/x", files("x", "y")); err != nil {
			t.Errorf("Propose: %v", err)
		}
		checkRepo(t, dir)
	})
}

// lossy loses the answer of a push.
type lossy struct {
	remote.Remote
	then func()
}

func (l lossy) Push(ctx context.Context, gitDir string, commit plumbing.Hash, branch string, force bool) error {
	if err := l.Remote.Push(ctx, gitDir, commit, branch, force); err != nil {
		return err
	}
	l.then()
	return &remote.PushError{Verdict: remote.Unclear, Text: "connection lost"}
}

// TestPushUnclear has git fail without saying anything of the branch, as it does when
// it finds the mirror broken.
func TestPushUnclear(t *testing.T) {
	for _, c := range []struct {
		failures, calls int
		words           string
	}{
		{1, 2, ""},
		{2, 2, "mirror is odd"},
	} {
		r := open(t, newRepo(t))
		r.remote = &unclearly{r.remote, c.failures}
		if err := os.MkdirAll(r.m.dir+"/objects/stray", 0o700); err != nil {
			t.Fatal(err)
		}
		calls := 0
		_, err := r.Push(t.Context(), tester, func(s *Snapshot) (*Commit, error) {
			calls++
			return files("x", "y")(s)
		})
		if c.words == "" && err != nil || c.words != "" && (err == nil || !strings.Contains(err.Error(), c.words)) {
			t.Errorf("after %d failures: Push = %v, want the words %q", c.failures, err, c.words)
		}
		if calls != c.calls {
			t.Errorf("after %d failures: make was called %d times, want %d", c.failures, calls, c.calls)
		}
		if _, err := os.Stat(r.m.dir + "/objects/stray"); err == nil {
			t.Errorf("after %d failures: the mirror was not made anew", c.failures)
		}
	}
}

// unclearly fails a number of times.
type unclearly struct {
	remote.Remote
	failures int
}

func (u *unclearly) Push(ctx context.Context, gitDir string, commit plumbing.Hash, branch string, force bool) error {
	if u.failures > 0 {
		u.failures--
		return &remote.PushError{Verdict: remote.Unclear, Text: "mirror is odd"}
	}
	return u.Remote.Push(ctx, gitDir, commit, branch, force)
}

func TestPushCancelled(t *testing.T) {
	dir := newRepo(t)
	write(t, dir+"/hooks/pre-receive", "#!/bin/sh\necho >"+dir+"/started\nexec sleep 60\n")
	if err := os.Chmod(dir+"/hooks/pre-receive", 0o755); err != nil {
		t.Fatal(err)
	}
	r := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		for ctx.Err() == nil {
			if _, err := os.Stat(dir + "/started"); err == nil {
				cancel()
			}
		}
	})
	_, err := r.Push(ctx, tester, files("x", "y"))
	wg.Wait()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Push = %v, want context.Canceled", err)
	}
	if err := os.Remove(dir + "/hooks/pre-receive"); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Push(t.Context(), tester, files("x", "y")); err != nil {
		t.Errorf("Push afterwards: %v", err)
	}
	checkRepo(t, dir)
}

// TestPushConcurrent has 8 writers with a mirror each, half of them processes.
func TestPushConcurrent(t *testing.T) {
	const writers, pushes = 8, 4
	dir := newRepo(t)
	tmp := t.TempDir()
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		file, mirror := fmt.Sprintf("channels/w%d.json", i), filepath.Join(tmp, fmt.Sprint(i))
		wg.Go(func() {
			if i%2 == 0 {
				cmd := exec.CommandContext(t.Context(), os.Args[0])
				cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s %d", writerEnv, dir, mirror, file, pushes))
				out, err := cmd.CombinedOutput()
				if err != nil {
					errs[i] = fmt.Errorf("%w: %s", err, out)
				}
				return
			}
			r, err := Open(mirror, config(dir))
			if err == nil {
				err = pushMany(t.Context(), r, file, pushes)
			}
			errs[i] = err
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	var want []string
	s := fetch(t, open(t, dir), "")
	for i := range writers {
		file, text := fmt.Sprintf("channels/w%d.json", i), ""
		for n := range pushes {
			line := fmt.Sprintf("%s %d", file, n)
			text += line + "\n"
			want = append(want, line)
		}
		checkRead(t, s, file, text)
	}
	got := strings.Split(git(t, dir, "log", "--format=%s", "main"), "\n")
	got = got[:len(got)-1] // the first commit
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Errorf("the history has %q, want each of %q once", got, want)
	}
	checkRepo(t, dir)
}

// TestPushOnMerges pushes on top of what people do with git.
func TestPushOnMerges(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		write(t, work+"/deep/er/and/deeper/file", "x")
		write(t, work+"/.gitattributes", "channels/** -text -merge\n")
		git(t, work, "add", "-A")
		git(t, work, "commit", "-q", "-m", "deep")
		git(t, work, "checkout", "-q", "-b", "side", "HEAD^")
		write(t, work+"/fleet.toml", "changed")
		git(t, work, "commit", "-q", "-am", "side")
		git(t, work, "checkout", "-q", "-")
		git(t, work, "merge", "-q", "--no-ff", "-m", "merge", "side")
		head := commitAll(t, work, "head")
		got, err := open(t, dir).Push(t.Context(), tester, files("channels/b.json", "b"))
		if err != nil {
			t.Fatal(err)
		}
		if diff := git(t, dir, "diff", "--name-status", head, got); diff != "A\tchannels/b.json" {
			t.Errorf("Push changed %q", diff)
		}
		if out := git(t, dir, "fsck", "--strict", "--no-dangling"); out != "" {
			t.Errorf("git fsck says: %s", out)
		}
		git(t, work, "pull", "-q", "--ff-only", "origin", "main")
	})
}

// TestPushBesideBranches pushes from a mirror that has the tips of branches whose pasts
// it does not have.
func TestPushBesideBranches(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		git(t, work, "checkout", "-q", "-b", "bump/x")
		for i := range 3 {
			write(t, work+"/x", fmt.Sprint(i))
			git(t, work, "add", "-A")
			git(t, work, "commit", "-q", "-m", "by a person")
		}
		git(t, work, "push", "-q", "origin", "bump/x")
		r := open(t, dir)
		if found, err := r.Branches(t.Context(), "bump/"); err != nil || len(found) != 1 {
			t.Fatalf("Branches = %v, %v", found, err)
		}
		if _, err := r.Push(t.Context(), tester, files("y", "1")); err != nil {
			t.Errorf("Push: %v", err)
		}
		if _, err := r.Propose(t.Context(), tester, "bump/x", files("y", "2")); err != nil {
			t.Errorf("Propose: %v", err)
		}
		checkRepo(t, dir)
	})
}

// TestPushKilled kills a writer again and again, and lets it start over.
func TestPushKilled(t *testing.T) {
	dir := newRepo(t)
	mirror := filepath.Join(t.TempDir(), "m")
	for i := range 15 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(20+10*i)*time.Millisecond)
		cmd := exec.CommandContext(ctx, os.Args[0]) // killed with SIGKILL at the deadline
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s f%d 100", writerEnv, dir, mirror, i))
		out, err := cmd.CombinedOutput()
		if ctx.Err() == nil {
			t.Fatalf("the writer ends: %v: %s", err, out)
		}
		cancel()
	}
	r, err := Open(mirror, config(dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Push(t.Context(), tester, files("last", "x")); err != nil {
		t.Fatal(err)
	}
	s := fetch(t, r, "")
	for i := range 15 {
		text, err := s.Read(fmt.Sprintf("f%d", i), 1<<20)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
		for n, line := range strings.Split(strings.TrimSuffix(string(text), "\n"), "\n") {
			if want := fmt.Sprintf("f%d %d", i, n); len(text) > 0 && line != want {
				t.Errorf("line %d of f%d is %q", n, i, line)
			}
		}
	}
	checkRepo(t, dir)
	checkRead(t, fetch(t, open(t, dir), ""), "last", "x")
}

// contended fails once with a verdict.
type contended struct {
	remote.Remote
	verdict remote.Verdict
}

func (c *contended) Push(ctx context.Context, gitDir string, commit plumbing.Hash, branch string, force bool) error {
	if v := c.verdict; v != remote.Unclear {
		c.verdict = remote.Unclear
		return &remote.PushError{Verdict: v, Text: "somebody is in the way"}
	}
	return c.Remote.Push(ctx, gitDir, commit, branch, force)
}
