package repo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

func TestOpenConfig(t *testing.T) {
	dir := newRepo(t)
	for _, branch := range []string{"", "-x", "a..b", "a b", "a:b", "a.lock", "/a", "a/", "@{", "a\nb", ".a"} {
		c := config(dir)
		c.Branch = branch
		_, err := Open(filepath.Join(t.TempDir(), "m"), c)
		checkReason(t, fmt.Sprintf("Open with branch %q", branch), err, reason.Config, "branch")
	}
	for _, path := range []string{"/", "/a", "a/", "a//b", "..", "a/../b", ".", ".git", "a/.GIT", "a\nb", `a\b`} {
		c := config(dir)
		c.Path = path
		_, err := Open(filepath.Join(t.TempDir(), "m"), c)
		checkReason(t, fmt.Sprintf("Open with path %q", path), err, reason.Config, "path")
	}
}

// TestOpenOther gives Open directories that it must not empty.
func TestOpenOther(t *testing.T) {
	dir := newRepo(t)
	precious := filepath.Join(t.TempDir(), "precious")
	write(t, precious+"/file", "x")
	for _, other := range []string{precious, dir} {
		before := listing(t, other)
		_, err := Open(other, config(dir))
		checkReason(t, "Open over something else", err, reason.Config, "holds something else")
		if after := listing(t, other); after != before {
			t.Errorf("Open changed it:\n%s\nwas\n%s", after, before)
		}
	}
	if _, err := Open(precious+"/file", config(dir)); err == nil {
		t.Error("Open made a mirror of a file")
	}
}

func listing(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		fmt.Fprintln(&b, info.Mode(), info.Size(), path)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestFetch(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		first := fetch(t, r, "")
		if want := git(t, dir, "rev-parse", "main"); first.Commit != want || first.Rewritten {
			t.Errorf("Fetch = %+v, want %s", first, want)
		}
		checkRead(t, first, "channels/a.json", "{\"a\":1}\n")

		work := clone(t, dir)
		write(t, work+"/channels/a.json", "two")
		second := commitAll(t, work, "two")
		s := fetch(t, r, first.Commit)
		if s.Commit != second || s.Rewritten {
			t.Errorf("Fetch after a commit = %+v, want %s", s, second)
		}
		checkRead(t, s, "channels/a.json", "two")
		checkRead(t, first, "channels/a.json", "{\"a\":1}\n") // the old one stays readable

		// Merges, and some that were not fetched one by one.
		git(t, work, "checkout", "-q", "-b", "side", first.Commit)
		write(t, work+"/channels/b.json", "b")
		git(t, work, "add", "-A")
		git(t, work, "commit", "-q", "-m", "side")
		git(t, work, "checkout", "-q", "-")
		git(t, work, "merge", "-q", "--no-ff", "-m", "merge", "side")
		merged := commitAll(t, work, "after")
		for _, last := range []string{first.Commit, second, git(t, work, "rev-parse", "side"), merged} {
			if s := fetch(t, r, last); s.Commit != merged || s.Rewritten {
				t.Errorf("Fetch after %s = %+v, want %s", last, s, merged)
			}
		}
		checkRead(t, fetch(t, r, ""), "channels/b.json", "b")
	})
}

func TestFetchRewritten(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		for name, rewrite := range map[string]func(t *testing.T, work string){
			"rewound": func(t *testing.T, work string) { git(t, work, "reset", "-q", "--hard", "HEAD^") },
			"diverging": func(t *testing.T, work string) {
				git(t, work, "reset", "-q", "--hard", "HEAD^")
				write(t, work+"/new", "x")
			},
			"amended": func(t *testing.T, work string) { git(t, work, "commit", "-q", "--amend", "-m", "other words") },
			"unrelated": func(t *testing.T, work string) {
				git(t, work, "checkout", "-q", "--orphan", "other")
			},
		} {
			t.Run(name, func(t *testing.T) {
				dir := newRepo(t)
				work := clone(t, dir)
				write(t, work+"/channels/a.json", "two")
				last := commitAll(t, work, "two")
				r := open(t, dir)
				if s := fetch(t, r, last); s.Commit != last || s.Rewritten {
					t.Fatalf("Fetch before = %+v", s)
				}
				rewrite(t, work)
				head := commitAll(t, work, "after")
				for range 2 { // as long as last stays the same
					if s := fetch(t, r, last); s.Commit != head || !s.Rewritten {
						t.Errorf("Fetch = %+v, want %s, rewritten", s, head)
					}
				}
				git(t, dir, "reflog", "expire", "--expire=now", "--all")
				git(t, dir, "gc", "-q", "--prune=now")
				if s := fetch(t, open(t, dir), last); s.Commit != head || !s.Rewritten {
					t.Errorf("Fetch after last is gone = %+v, want %s, rewritten", s, head)
				}
				next := commitAll(t, work, "next")
				if s := fetch(t, r, head); s.Commit != next || s.Rewritten {
					t.Errorf("Fetch afterwards = %+v, want %s", s, next)
				}
				_, err := r.Fetch(t.Context(), "HEAD")
				checkReason(t, "Fetch with last HEAD", err, reason.Format, "not an object name")
			})
		}
	})
}

// TestFetchBadRef gives the branch other things to name than a commit.
func TestFetchBadRef(t *testing.T) {
	for _, c := range []struct {
		name  string
		ref   func(t *testing.T, dir string) string
		code  reason.Code
		words string
	}{
		{"tag", func(t *testing.T, dir string) string {
			git(t, dir, "tag", "-a", "-m", "x", "v1", "main")
			return git(t, dir, "rev-parse", "v1") + "\n"
		}, reason.Format, "is a tag, want a commit"},
		{"tree", func(t *testing.T, dir string) string { return git(t, dir, "rev-parse", "main^{tree}") + "\n" }, reason.Format, "is a tree, want a commit"},
		{"blob", func(t *testing.T, dir string) string { return git(t, dir, "rev-parse", "main:fleet.toml") + "\n" }, reason.Format, "is a blob, want a commit"},
		{"missing object", func(*testing.T, string) string { return strings.Repeat("1", 40) + "\n" }, reason.IO, "object is missing"},
		{"zeros", func(*testing.T, string) string { return strings.Repeat("0", 40) + "\n" }, reason.IO, "names no object"},
		{"empty", func(*testing.T, string) string { return "" }, reason.IO, "names no object"},
		{"garbage", func(*testing.T, string) string { return "garbage\n" }, reason.IO, "names no object"},
		{"no branch behind", func(*testing.T, string) string { return "ref: refs/heads/none\n" }, reason.Stale, `no branch "main"`},
		{"itself", func(*testing.T, string) string { return "ref: refs/heads/main\n" }, reason.IO, "branch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newRepo(t)
			r := open(t, dir)
			last := fetch(t, r, "").Commit
			write(t, dir+"/refs/heads/main", c.ref(t, dir))
			_, err := r.Fetch(t.Context(), last)
			checkReason(t, "Fetch", err, c.code, c.words)
			write(t, dir+"/refs/heads/main", last+"\n")
			checkRead(t, fetch(t, r, last), "fleet.toml", "app = \"mnw\"\n")
		})
	}
}

func TestFetchMissing(t *testing.T) {
	dir := newRepo(t)
	r := open(t, dir)
	last := fetch(t, r, "").Commit
	git(t, dir, "update-ref", "refs/heads/other", "main")
	git(t, dir, "update-ref", "-d", "refs/heads/main")
	_, err := r.Fetch(t.Context(), last)
	checkReason(t, "Fetch without the branch", err, reason.Stale, `no branch "main"`)

	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	_, err = r.Fetch(t.Context(), last)
	checkReason(t, "Fetch without the repo", err, reason.IO, "no such file")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err = r.Fetch(t.Context(), last)
	checkReason(t, "Fetch from an empty directory", err, reason.IO, "not a git repository")

	git(t, "/", "init", "-q", "--bare", "-b", "main", dir)
	_, err = r.Fetch(t.Context(), last)
	checkReason(t, "Fetch from an empty repo", err, reason.Stale, `no branch "main"`)
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	git(t, dir, "update-ref", "refs/heads/main", last)
	fetch(t, r, last)
}

func TestFetchUnreadable(t *testing.T) {
	testenv.User(t, "root may read everything")
	for _, name := range []string{"", "HEAD", "config", "refs/heads/main", "objects"} {
		dir := newRepo(t)
		path := filepath.Join(dir, name)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0); err != nil {
			t.Fatal(err)
		}
		_, err = open(t, dir).Fetch(t.Context(), "")
		if name != "HEAD" { // it need not be read
			checkReason(t, fmt.Sprintf("Fetch with unreadable %q", name), err, reason.IO, "")
		}
		if err := os.Chmod(path, info.Mode()); err != nil {
			t.Fatal(err)
		}
		fetch(t, open(t, dir), "")
	}
}

func TestFetchFormats(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "sha256.git")
	git(t, "/", "init", "-q", "--bare", "-b", "main", "--object-format=sha256", dir)
	_, err := open(t, dir).Fetch(t.Context(), "")
	checkReason(t, "Fetch from sha256", err, reason.Config, `objectformat "sha256"`)

	dir = newRepo(t)
	git(t, dir, "config", "core.repositoryformatversion", "1")
	git(t, dir, "config", "extensions.objectFormat", "sha1")
	git(t, dir, "config", "extensions.worktreeConfig", "true")
	fetch(t, open(t, dir), "")
	git(t, dir, "config", "extensions.refStorage", "reftable")
	_, err = open(t, dir).Fetch(t.Context(), "")
	checkReason(t, "Fetch from reftables", err, reason.Config, `refstorage "reftable"`)
}

// TestFetchKinds reads repositories of every make.
func TestFetchKinds(t *testing.T) {
	bare := newRepo(t)
	work := clone(t, bare)
	first := git(t, work, "rev-parse", "HEAD")
	write(t, work+"/big", strings.Repeat("some line\n", 10_000))
	commitAll(t, work, "big")
	write(t, work+"/big", strings.Repeat("some line\n", 10_000)+"changed")
	head := commitAll(t, work, "big changed")
	tmp := t.TempDir()
	git(t, "/", "clone", "-q", "--bare", "--shared", bare, tmp+"/shared.git")
	git(t, "/", "clone", "-q", "--bare", "--depth=1", "file://"+bare, tmp+"/shallow.git")
	git(t, "/", "clone", "-q", "--bare", "file://"+bare, tmp+"/packed.git")
	git(t, tmp+"/packed.git", "gc", "-q")
	git(t, "/", "clone", "-q", "--bare", "file://"+bare, tmp+"/a b%c.git")
	git(t, work, "branch", "-M", "main")
	for _, c := range []struct {
		dir       string
		rewritten bool
	}{
		{bare, false}, {work, false}, {tmp + "/shared.git", false}, {tmp + "/packed.git", false},
		{tmp + "/shallow.git", true}, // first is not in it
		{tmp + "/a%20b%25c.git", false},
	} {
		s := fetch(t, open(t, c.dir), first)
		if s.Commit != head || s.Rewritten != c.rewritten {
			t.Errorf("%s: Fetch = %+v, want %s, rewritten %t", c.dir, s, head, c.rewritten)
		}
		checkRead(t, s, "big", strings.Repeat("some line\n", 10_000)+"changed")
	}
	for _, d := range []string{tmp + "/shared.git", tmp + "/shallow.git", tmp + "/packed.git", tmp + "/a%20b%25c.git"} {
		if _, err := open(t, d).Push(t.Context(), tester, files("x", "y")); err != nil {
			t.Errorf("%s: Push: %v", d, err)
		}
	}
}

// TestFetchWhileGC packs the repo again and again while it is read.
func TestFetchWhileGC(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	var first string
	for i := range 20 {
		write(t, fmt.Sprintf("%s/channels/%d.json", work, i), fmt.Sprint(i))
		git(t, work, "add", "-A")
		git(t, work, "commit", "-q", "-m", fmt.Sprint(i))
		if i == 0 {
			first = git(t, work, "rev-parse", "HEAD")
		}
	}
	head := commitAll(t, work, "last")
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
				git(t, dir, "update-ref", "refs/heads/noise", git(t, dir, "commit-tree", "-p", "main", "-m", rand.Text(), "main^{tree}"))
				git(t, dir, "repack", "-adq") // into a pack with a new name
			}
		}
	}()
	for range 15 {
		s := fetch(t, open(t, dir), first)
		if s.Commit != head || s.Rewritten {
			t.Errorf("Fetch = %+v, want %s", s, head)
		}
		checkRead(t, s, "channels/7.json", "7")
	}
	close(stop)
	<-done
}

func TestFetchPath(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	write(t, work+"/apps/mnw/channels/a.json", "mine")
	write(t, work+"/apps/other/channels/a.json", "not mine")
	commitAll(t, work, "two apps")
	c := config(dir)
	c.Path = "apps/mnw"
	r, err := Open(filepath.Join(t.TempDir(), "m"), c)
	if err != nil {
		t.Fatal(err)
	}
	s := fetch(t, r, "")
	checkRead(t, s, "channels/a.json", "mine")
	_, err = s.Read("../other/channels/a.json", 100)
	checkReason(t, "Read above the path", err, reason.Format, "..")
	if _, err := s.Read("fleet.toml", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read of a file above the path = %v, want fs.ErrNotExist", err)
	}
	if _, err := r.Push(t.Context(), tester, files("channels/b.json", "new")); err != nil {
		t.Fatal(err)
	}
	if got := git(t, dir, "show", "--stat=80", "--format=", "main"); !strings.Contains(got, "apps/mnw/channels/b.json | 1 +") || !strings.Contains(got, "1 file changed") {
		t.Errorf("Push changed %s", got)
	}
	c.Path = "apps/none"
	if r, err = Open(filepath.Join(t.TempDir(), "m"), c); err != nil {
		t.Fatal(err)
	}
	if _, err := fetch(t, r, "").Read("channels/a.json", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Read below a path that is not there = %v, want fs.ErrNotExist", err)
	}
}

func TestFetchManyRefs(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		head := git(t, dir, "rev-parse", "main")
		var packed strings.Builder
		packed.WriteString("# pack-refs with: peeled fully-peeled sorted \n")
		for i := range 10_000 {
			fmt.Fprintf(&packed, "%s refs/heads/a%05d\n", head, i)
		}
		write(t, dir+"/packed-refs", packed.String())
		r := open(t, dir)
		if s := fetch(t, r, ""); s.Commit != head {
			t.Errorf("Fetch = %s, want %s", s.Commit, head)
		}
		_, err := r.Branches(t.Context(), "a")
		checkReason(t, "Branches", err, reason.Limit, "10000 are more than 1000")
		got, err := r.Branches(t.Context(), "a0001")
		if err != nil || len(got) != 10 {
			t.Errorf("Branches with a longer prefix = %d, %v, want 10", len(got), err)
		}
		if _, err := r.Push(t.Context(), tester, files("x", "y")); err != nil {
			t.Errorf("Push: %v", err)
		}
	})
}

// TestFetchIdle shows that nothing but the branch is looked at when nothing is new.
func TestFetchIdle(t *testing.T) {
	dir := newRepo(t)
	r := open(t, dir)
	last := fetch(t, r, "").Commit
	fetch(t, r, last)
	if err := os.Rename(dir+"/objects", dir+"/away"); err != nil {
		t.Fatal(err)
	}
	if s := fetch(t, r, last); s.Commit != last || s.Rewritten {
		t.Errorf("idle Fetch = %+v", s)
	}
	checkRead(t, fetch(t, r, last), "fleet.toml", "app = \"mnw\"\n")
}

func TestFetchCancelled(t *testing.T) {
	everywhere(t, func(t *testing.T, open opener) {
		dir := newRepo(t)
		r := open(t, dir)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := r.Fetch(ctx, ""); !errors.Is(err, context.Canceled) {
			t.Errorf("Fetch = %v, want context.Canceled", err)
		}
		fetch(t, r, "")
	})
}
