package repo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/reason"
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
}

func TestPushNothing(t *testing.T) {
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
}

func TestPushRefused(t *testing.T) {
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
			write(t, dir+"/refs/heads/main.lock", "")
		}, reason.IO, "given up after 20 tries"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newRepo(t)
			r := open(t, dir)
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
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
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
}

// TestPushMovedForGood stops when the change does not make sense any more.
func TestPushMovedForGood(t *testing.T) {
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
}

// TestPushLost has git fail after the branch was updated.
func TestPushLost(t *testing.T) {
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
}

// lossy loses the answer of a push.
type lossy struct {
	remote
	then func()
}

func (l lossy) push(ctx context.Context, m *mirror, commit plumbing.Hash, branch string, force bool) error {
	if err := l.remote.push(ctx, m, commit, branch, force); err != nil {
		return err
	}
	l.then()
	return &pushError{unclear, "connection lost"}
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
	remote
	failures int
}

func (u *unclearly) push(ctx context.Context, m *mirror, commit plumbing.Hash, branch string, force bool) error {
	if u.failures > 0 {
		u.failures--
		return &pushError{unclear, "mirror is odd"}
	}
	return u.remote.push(ctx, m, commit, branch, force)
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
}

func TestPropose(t *testing.T) {
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
	if found, err := r.Branches(t.Context(), "bump/"); err != nil || len(found) != 0 {
		t.Errorf("Branches after Delete = %v, %v", found, err)
	}
}

func TestProposeRefused(t *testing.T) {
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
}

func TestProposeConcurrent(t *testing.T) {
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
}

func TestPushEnvironment(t *testing.T) {
	dir := newRepo(t)
	other := newRepo(t)
	evil := filepath.Join(t.TempDir(), "config")
	write(t, evil, "[url \"file://"+other+"\"]\n\tinsteadOf = file://"+dir+"\n[push]\n\tdefault = nothing\n")
	for name, value := range map[string]string{
		"GIT_CONFIG_GLOBAL": evil, "GIT_CONFIG_SYSTEM": evil, "GIT_DIR": other, "GIT_WORK_TREE": "/nowhere",
		"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url.file://" + other + ".insteadOf", "GIT_CONFIG_VALUE_0": "file://" + dir,
		"GIT_OBJECT_DIRECTORY": "/nowhere", "GIT_TRACE": "1", "GIT_NAMESPACE": "x", "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de",
	} {
		t.Setenv(name, value)
	}
	before := git(t, other, "rev-parse", "main")
	got, err := open(t, dir).Push(t.Context(), tester, files("x", "y"))
	if err != nil {
		t.Fatal(err)
	}
	if head := git(t, dir, "rev-parse", "main"); head != got {
		t.Errorf("the repo has %s, want %s", head, got)
	}
	if head := git(t, other, "rev-parse", "main"); head != before {
		t.Errorf("another repo was pushed to")
	}
}

func TestPushNoGit(t *testing.T) {
	dir := newRepo(t)
	r := open(t, dir)
	t.Setenv("PATH", t.TempDir())
	fetch(t, r, "")
	_, err := r.Push(t.Context(), tester, files("x", "y"))
	checkReason(t, "Push", err, reason.Config, "no git program in PATH")
}

func TestGitEnv(t *testing.T) {
	got := gitEnv([]string{"PATH=/bin", "HOME=/h", "GIT_DIR=x", "SANDO_KEY_PASSWORD=secret", "SANDO__A=b", "LANG=de", "LC_ALL=de", "GITHUB=keep", "odd"})
	want := []string{"PATH=/bin", "HOME=/h", "GITHUB=keep", "odd", "LC_ALL=C", "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=file"}
	if !slices.Equal(got, want) {
		t.Errorf("gitEnv = %q, want %q", got, want)
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		out, err string
		want     verdict
	}{
		{"", "", unclear},
		{"", "fatal: the remote end hung up unexpectedly", unclear},
		{"To file:///x\n!\ta:b\t[rejected] (fetch first)\nDone\n", "error: failed to push", busy},
		{"!\ta:b\t[rejected] (non-fast-forward)\n", "", busy},
		{"!\ta:b\t[remote rejected] (failed to update ref)\n", "remote: error: cannot lock ref 'b': is at 1 but expected 2", busy},
		{"!\ta:b\t[remote rejected] (failed to update ref)\n", "remote: error: cannot lock ref 'b': Unable to create 'b.lock': Permission denied", refused},
		{"!\ta:b\t[remote rejected] (failed to update ref)\n", "remote: error: cannot lock ref 'b/c': 'b' exists; cannot create 'b/c'", refused},
		{"!\ta:b\t[remote rejected] (incorrect old value provided)\n", "", busy},
		{"!\ta:b\t[remote rejected] (pre-receive hook declined)\n", "remote: failed to update ref? no", refused},
		{"!\ta:b\t[remote rejected] (branch is currently checked out)\n", "", refused},
		{"!\ta:b\t[remote rejected] (non-fast-forward)\n", "error: denying non-fast-forward b", refused},
		{"remote said !\tx\n", "", unclear},
	} {
		s := &said{tail{[]byte(c.out)}, tail{[]byte(c.err)}}
		if got := judge(s); got != c.want {
			t.Errorf("judge(%q, %q) = %d, want %d", c.out, c.err, got, c.want)
		}
	}
}

func TestTail(t *testing.T) {
	var w tail
	for i := range 5000 {
		fmt.Fprintf(&w, "line %d\n", i)
	}
	if n := len(w.data); n != maxOutput {
		t.Errorf("kept %d bytes, want %d", n, maxOutput)
	}
	s := &said{err: w}
	if got, want := s.lastLines(), "line 4994; line 4995; line 4996; line 4997; line 4998; line 4999"; got != want {
		t.Errorf("lastLines = %q, want %q", got, want)
	}
	s = &said{out: tail{[]byte("To https://u:p@h/x\nDone\n")}, err: tail{[]byte("a\x1b[31mb\u202e\n  see ssh://u:secret@h/x\t.\r\n\n")}}
	if got, want := s.lastLines(), "a [31mb; see ssh://h/x ."; got != want {
		t.Errorf("lastLines = %q, want %q", got, want)
	}
}
