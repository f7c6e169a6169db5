package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/remote"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/gitserver"
)

// opener opens the repo in dir, over some transport, with a new mirror.
type opener func(t testing.TB, dir string) *Repo

// everywhere runs a test over each transport.
func everywhere(t *testing.T, test func(t *testing.T, open opener)) {
	t.Run("file", func(t *testing.T) { test(t, open) })
	t.Run("https", func(t *testing.T) {
		test(t, func(t testing.TB, dir string) *Repo { return openWith(t, overHTTPS(gitserver.HTTPS(t, dir))) })
	})
	t.Run("ssh", func(t *testing.T) {
		s := gitserver.SSH(t, "/")
		test(t, func(t testing.TB, dir string) *Repo { return openWith(t, overSSH(s, dir)) })
	})
}

func overHTTPS(w *gitserver.Web) Config {
	return Config{URL: w.URL, Branch: "main", TokenFile: w.TokenFile, CAFile: w.CAFile}
}

// overSSH reaches a directory of the host s, which was asked to serve "/".
func overSSH(s *gitserver.Shell, dir string) Config {
	return Config{URL: strings.TrimSuffix(s.URL, "/") + dir, Branch: "main", SSHKey: s.KeyFile, KnownHosts: s.KnownHosts}
}

func openWith(t testing.TB, c Config) *Repo {
	t.Helper()
	r, err := Open(filepath.Join(t.TempDir(), "mirror"), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// noise returns n words that do not become smaller.
func noise(n int) string {
	var b strings.Builder
	for range n {
		b.WriteString(rand.Text())
	}
	return b.String()
}

// TestPollRequests counts what polls cost over https.
func TestPollRequests(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	write(t, work+"/big", noise(2000))
	commitAll(t, work, "big")
	w := gitserver.HTTPS(t, dir)
	r := openWith(t, overHTTPS(w))
	last := fetch(t, r, "").Commit
	if n := len(w.Requests()); n != 3 {
		t.Errorf("the first fetch took %d requests, want 3", n)
	}
	fetch(t, r, last)
	w.Requests()
	_, first := w.Bytes()

	for range 5 {
		fetch(t, r, last)
	}
	if got := w.Requests(); len(got) != 5 || got[0] != "GET /channels.git/info/refs?service=git-upload-pack" {
		t.Errorf("5 idle polls asked for %q, want one thing each", got)
	}
	if _, out := w.Bytes(); out > 5*1000 {
		t.Errorf("5 idle polls brought %d bytes", out)
	}

	write(t, work+"/channels/a.json", "2")
	commitAll(t, work, "second")
	if s := fetch(t, r, last); s.Rewritten {
		t.Error("a commit on top is taken for a rewritten history")
	}
	if n := len(w.Requests()); n != 3 { // the branch; is it still so; and what is it
		t.Errorf("news took %d requests, want 3", n)
	}
	if _, out := w.Bytes(); out > 5000 || out*5 > first {
		t.Errorf("news brought %d bytes, everything is %d", out, first)
	}
	if n := w.Connections(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
}

// TestPollConnection looks at the connections that polls over ssh make.
func TestPollConnection(t *testing.T) {
	dir := newRepo(t)
	s := gitserver.SSH(t, dir)
	r := openWith(t, overSSH(s, ""))
	last := fetch(t, r, "").Commit
	for range 3 {
		fetch(t, r, last)
	}
	if n := s.Connections(); n != 1 {
		t.Errorf("%d connections were made, want 1", n)
	}
	s.Drop()
	if got := fetch(t, r, last).Commit; got != last {
		t.Errorf("Fetch after the connection was lost = %s", got)
	}
	if n := s.Connections(); n != 2 {
		t.Errorf("%d connections were made after one was lost, want 2", n)
	}
}

// TestFetchAbsent has a mirror that lacks a file that its commit has, where nothing looks.
func TestFetchAbsent(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	write(t, work+"/app/channels/a.json", "1")
	write(t, work+"/other", "elsewhere")
	commitAll(t, work, "first")
	c := overHTTPS(gitserver.HTTPS(t, dir))
	c.Path = "app"
	r := openWith(t, c)
	last := fetch(t, r, "").Commit
	other := git(t, dir, "rev-parse", "main:other")
	git(t, "/", "--git-dir="+r.m.dir, "cat-file", "-e", other)
	if err := os.Remove(r.m.dir + "/objects/" + other[:2] + "/" + other[2:]); err != nil {
		t.Fatal(err)
	}
	write(t, work+"/app/channels/a.json", "2")
	commitAll(t, work, "second")
	checkRead(t, fetch(t, r, last), "channels/a.json", "2")
	git(t, "/", "--git-dir="+r.m.dir, "cat-file", "-e", other)
}

// TestNetworkMissing asks for what is not there.
func TestNetworkMissing(t *testing.T) {
	dir := newRepo(t)
	s := gitserver.SSH(t, "/")
	for name, c := range map[string]Config{"https": overHTTPS(gitserver.HTTPS(t, dir)), "ssh": overSSH(s, dir)} {
		good := openWith(t, c)
		fetch(t, good, "")
		none := c
		none.Branch = "none"
		_, err := openWith(t, none).Fetch(t.Context(), "")
		checkReason(t, name+": Fetch of no branch", err, reason.Stale, `has no branch "none"`)
		none = c
		none.URL = strings.Replace(none.URL, "channels.git", "none.git", 1)
		_, err = openWith(t, none).Fetch(t.Context(), "")
		checkReason(t, name+": Fetch of no repo", err, reason.Stale, "there is no such repository")
		fetch(t, good, "")
	}
}

// TestNetworkRace moves the branch between two looks at it.
func TestNetworkRace(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	r := openWith(t, overHTTPS(gitserver.HTTPS(t, dir)))
	last := fetch(t, r, "").Commit
	commitAll(t, work, "one")
	moving := &moving{Remote: r.remote, move: func() {
		git(t, work, "reset", "-q", "--hard", "HEAD^")
		commitAll(t, work, "two")
	}}
	r.remote = moving
	s := fetch(t, r, last)
	if want := git(t, dir, "rev-parse", "main"); s.Commit != want || s.Rewritten || moving.move != nil {
		t.Errorf("Fetch = %s, rewritten %t, want %s", s.Commit, s.Rewritten, want)
	}
}

// moving moves the branch once, after somebody looked at it.
type moving struct {
	remote.Remote
	move func()
}

func (m *moving) Branch(ctx context.Context, name string) (plumbing.Hash, error) {
	h, err := m.Remote.Branch(ctx, name)
	if m.move != nil {
		m.move()
		m.move = nil
	}
	return h, err
}

// TestFetchReturned has an old state of a file come back, which the mirror does not have.
func TestFetchReturned(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		work := clone(t, dir)
		write(t, work+"/channels/a.json", "other")
		write(t, work+"/channels/new/b.json", "b")
		last := commitAll(t, work, "other")
		git(t, dir, "repack", "-adbq") // with a bitmap, the host knows of all that old commits have
		r := open(t, dir)
		fetch(t, r, "")
		git(t, work, "revert", "--no-edit", "HEAD")
		want := commitAll(t, work, "revert")
		s := fetch(t, r, last)
		checkRead(t, s, "channels/a.json", "{\"a\":1}\n")
		if s.Commit != want || s.Rewritten {
			t.Errorf("Fetch = %s, rewritten %t, want %s", s.Commit, s.Rewritten, want)
		}
	})
}

// TestNetworkBadRef gives the branch other things to name than a commit.
func TestNetworkBadRef(t *testing.T) {
	dir := newRepo(t)
	git(t, dir, "tag", "-a", "-m", "x", "v1", "main")
	head := git(t, dir, "rev-parse", "main")
	s := gitserver.SSH(t, "/")
	for _, c := range []struct {
		name, ref string
		code      reason.Code
		words     string
	}{
		{"tag", git(t, dir, "rev-parse", "v1"), reason.Format, "is a tag, want a commit"},
		{"tree", git(t, dir, "rev-parse", "main^{tree}"), reason.Format, "is a tree, want a commit"},
		{"blob", git(t, dir, "rev-parse", "main:fleet.toml"), reason.Format, "is a blob, want a commit"},
		{"missing object", strings.Repeat("1", 40), reason.IO, "not our ref"}, // says the host
	} {
		for _, conf := range []Config{overHTTPS(gitserver.HTTPS(t, dir)), overSSH(s, dir)} {
			for _, known := range []bool{false, true} {
				r := openWith(t, conf)
				if known {
					fetch(t, r, "")
				}
				write(t, dir+"/refs/heads/main", c.ref+"\n")
				_, err := r.Fetch(t.Context(), "")
				checkReason(t, c.name+": Fetch", err, c.code, c.words)
				write(t, dir+"/refs/heads/main", head+"\n")
				checkRead(t, fetch(t, r, head), "fleet.toml", "app = \"mnw\"\n")
			}
		}
	}
}

// TestNetworkRacers has several writers of one branch, over both transports.
func TestNetworkRacers(t *testing.T) {
	const writers, pushes = 4, 3
	dir := newRepo(t)
	s := gitserver.SSH(t, "/")
	w := gitserver.HTTPS(t, dir)
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		conf := overHTTPS(w)
		if i%2 == 0 {
			conf = overSSH(s, dir)
		}
		r := openWith(t, conf)
		wg.Go(func() { errs[i] = pushMany(t.Context(), r, fmt.Sprintf("channels/w%d.json", i), pushes) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	snap := fetch(t, openWith(t, overHTTPS(w)), "")
	for i := range writers {
		file, text := fmt.Sprintf("channels/w%d.json", i), ""
		for n := range pushes {
			text += fmt.Sprintf("%s %d\n", file, n)
		}
		checkRead(t, snap, file, text)
	}
	if n := git(t, dir, "rev-list", "--count", "main"); n != fmt.Sprint(writers*pushes+1) {
		t.Errorf("the history has %s commits, want %d", n, writers*pushes+1)
	}
	checkRepo(t, dir)
}

// TestNetworkPushRefused may read, and not write.
func TestNetworkPushRefused(t *testing.T) {
	dir := newRepo(t)
	w := gitserver.HTTPS(t, dir)
	r := openWith(t, overHTTPS(w))
	head := fetch(t, r, "").Commit
	w.Answer = func(rw http.ResponseWriter, req *http.Request) bool {
		if !strings.Contains(req.URL.RequestURI(), "receive-pack") {
			return false
		}
		rw.WriteHeader(http.StatusForbidden)
		return true
	}
	_, err := r.Push(t.Context(), tester, files("x", "y"))
	checkReason(t, "Push with a token that may only read", err, reason.IO, "may do receive-pack here")
	// The answer to a push gets lost, before and after it is done.
	for _, done := range []bool{false, true} {
		var lost bool
		w.Answer = func(rw http.ResponseWriter, req *http.Request) bool {
			if lost || req.Method != http.MethodPost || !strings.HasSuffix(req.URL.Path, "receive-pack") {
				return false
			}
			lost = true
			if done {
				data, err := io.ReadAll(req.Body)
				if err == nil {
					err = push(dir, data)
				}
				if err != nil {
					t.Error(err)
				}
			}
			panic(http.ErrAbortHandler) // which ends the connection
		}
		got, err := r.Push(t.Context(), tester, files("x", fmt.Sprint(done)))
		if err != nil || !lost {
			t.Errorf("Push whose answer was lost (done: %t) = %v", done, err)
		}
		if now := git(t, dir, "rev-parse", "main"); now != got {
			t.Errorf("the branch is at %s, want %s", now, got)
		}
	}
	w.Answer = nil
	if n := git(t, dir, "rev-list", "--count", head+"..main"); n != "2" {
		t.Errorf("%s commits were made, want 2", n)
	}
}

// push does what a request to git-receive-pack asks for.
func push(dir string, request []byte) error {
	cmd := exec.Command("git", "receive-pack", "--stateless-rpc", dir)
	cmd.Stdin = bytes.NewReader(request)
	return cmd.Run()
}

// TestHistoryFilter asks a host for the history that can leave out all else, and one that
// cannot.
func TestHistoryFilter(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	last := git(t, work, "rev-parse", "HEAD")
	for range 5 {
		write(t, work+"/channels/a.json", noise(100))
		git(t, work, "add", "-A")
		git(t, work, "commit", "-q", "-m", "next")
	}
	commitAll(t, work, "head")
	w := gitserver.HTTPS(t, dir)
	r := openWith(t, overHTTPS(w))
	fetch(t, r, "")
	var brought [2]int64
	for i, allow := range []string{"false", "true"} {
		git(t, dir, "config", "uploadpack.allowFilter", allow)
		r.past = past{}
		w.Bytes()
		if s := fetch(t, r, last); s.Rewritten {
			t.Errorf("allowFilter=%s: a history that goes on is taken for another", allow)
		}
		_, brought[i] = w.Bytes()
	}
	if brought[1]*2 > brought[0] {
		t.Errorf("the history took %d bytes with a filter, %d without", brought[1], brought[0])
	}
}
