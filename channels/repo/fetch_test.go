package repo

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func TestOpenURL(t *testing.T) {
	for _, c := range []struct {
		url, want string // want: part of the error, "" none
	}{
		{"file:///srv/channels.git", ""},
		{"file:///srv/channels.git/", ""},
		{"file:///srv/a%20b", ""},
		{"file://srv/channels.git", "more than a path"},
		{"file://localhost/srv", "more than a path"},
		{"file:///srv?x", "more than a path"},
		{"file:srv", "more than a path"},
		{"file:///", "is the root"},
		{"file:///srv/../etc", "not absolute and plain"},
		{"https://u:secret@git.example/c.git", "https is not in this version"},
		{"ssh://git@git.example/c.git", "ssh is not in this version"},
		{"http://u:secret@git.example/c.git", `scheme "http" is refused`},
		{"http://127.0.0.1/c.git", `scheme "http" is refused`},
		{"git://git.example/c.git", `scheme "git" is refused`},
		{"ext::sh -c 'echo secret >&2'", `scheme "ext" is refused`},
		{"git@git.example:c.git", "malformed"},
		{"git.example:c.git", `scheme "git.example" is refused`},
		{"--upload-pack=touch /tmp/x", `scheme "" is refused`},
		{"-oProxyCommand=sh", `scheme "" is refused`},
		{"/srv/channels.git", `scheme "" is refused`},
		{"", `scheme "" is refused`},
		{"https://u:secret@\x7f", "malformed"},
	} {
		_, err := Open(filepath.Join(t.TempDir(), "m"), Config{URL: c.url, Branch: "main"})
		if c.want == "" {
			if err != nil {
				t.Errorf("Open(%q) = %v", c.url, err)
			}
			continue
		}
		checkReason(t, fmt.Sprintf("Open(%q)", c.url), err, reason.Config, c.want)
		if strings.Contains(err.Error(), "u:secret") {
			t.Errorf("Open(%q) = %v, which holds a password", c.url, err)
		}
	}
}

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
}

func TestFetchRewritten(t *testing.T) {
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
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
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

func TestRead(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	write(t, work+"/channels/exec.json", "exec")
	write(t, work+"/channels/empty.json", "")
	if err := os.Chmod(work+"/channels/exec.json", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a.json", work+"/channels/link.json"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("channels", work+"/linked"); err != nil {
		t.Fatal(err)
	}
	write(t, work+"/channels/dir.json/x", "x")
	git(t, work, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",channels/sub.json")
	git(t, work, "add", "-A", "--", "channels/exec.json", "channels/empty.json", "channels/link.json", "linked", "channels/dir.json")
	git(t, work, "commit", "-q", "-m", "kinds")
	git(t, work, "push", "-q", "origin", "HEAD:main")
	s := fetch(t, open(t, dir), "")
	checkRead(t, s, "channels/a.json", "{\"a\":1}\n")
	checkRead(t, s, "channels/exec.json", "exec")
	checkRead(t, s, "channels/empty.json", "")
	for _, c := range []struct{ path, words string }{
		{"channels/link.json", "is a symlink, want a file"},
		{"channels/sub.json", "is a submodule, want a file"},
		{"channels/dir.json", "is a directory, want a file"},
		{"channels", "is a directory, want a file"},
		{"linked/a.json", `"linked" is a symlink, want a directory`},
		{"channels/sub.json/x", "is a submodule, want a directory"},
		{"channels/a.json/x", "is a file, want a directory"},
		{"", `component ""`}, {"/channels/a.json", `component ""`}, {"channels//a.json", `component ""`},
		{"channels/../channels/a.json", `component ".."`}, {"./channels/a.json", `component "."`},
		{".git/config", `component ".git"`}, {"channels/a.json\x00", "U+0000"},
	} {
		_, err := s.Read(c.path, 100)
		checkReason(t, fmt.Sprintf("Read(%q)", c.path), err, reason.Format, c.words)
	}
	for _, path := range []string{"channels/none.json", "none/a.json", "channels/A.json", "fleet.toml "} {
		if _, err := s.Read(path, 100); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Read(%q) = %v, want fs.ErrNotExist", path, err)
		}
	}
	if _, err := s.Read("channels/a.json", 8); err != nil {
		t.Errorf("Read of exactly 8 bytes: %v", err)
	}
	_, err := s.Read("channels/a.json", 7)
	checkReason(t, "Read of 8 bytes with a cap of 7", err, reason.Limit, "8 bytes are more than 7")
}

func TestSigned(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	kid := func(c string) string { return strings.Repeat(c, 64) }
	file := func(c string) string {
		return work + "/channels/a.json." + strings.Repeat(c, 16) + ".sigstore.json"
	}
	write(t, file("1"), "one")
	write(t, file("2"), "two")
	write(t, file("3"), strings.Repeat("x", layout.MaxSignature+1))
	if err := os.Symlink("a.json", file("4")); err != nil {
		t.Fatal(err)
	}
	write(t, file("6")+"/x", "a directory")
	commitAll(t, work, "signatures")
	s := fetch(t, open(t, dir), "")
	got, err := s.Signed("channels/a.json", []string{kid("1"), kid("3"), kid("4"), kid("5"), kid("6")}, 100)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{kid("1"): "one", kid("3"): "", kid("4"): "", kid("6"): ""}
	if string(got.Doc) != "{\"a\":1}\n" || len(got.Sigs) != len(want) {
		t.Errorf("Signed = %q, want the document and %q", got, want)
	}
	for k, sig := range want {
		if have, ok := got.Sigs[k]; !ok || string(have) != sig {
			t.Errorf("signature by %.4s is %q (%t), want %q", k, have, ok, sig)
		}
	}
	if _, err := s.Signed("channels/none.json", []string{kid("1")}, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Signed without a document = %v, want fs.ErrNotExist", err)
	}
	_, err = s.Signed("channels/a.json", nil, 3)
	checkReason(t, "Signed with a small cap", err, reason.Limit, "more than 3")

	for i := range 20 {
		write(t, fmt.Sprintf("%s/channels/a.json.%016d.sigstore.json", work, i), "x")
	}
	commitAll(t, work, "more")
	var kids []string
	for i := range 20 {
		kids = append(kids, fmt.Sprintf("%016d%048d", i, 0))
	}
	if got, err = fetch(t, s.r, "").Signed("channels/a.json", kids, 100); err != nil || len(got.Sigs) != layout.MaxSignatures {
		t.Errorf("Signed with 20 signatures has %d, %v, want %d", len(got.Sigs), err, layout.MaxSignatures)
	}
}

func TestFetchLimits(t *testing.T) {
	for _, c := range []struct {
		name, words string
		fill        func(t *testing.T, s store) plumbing.Hash // returns the tree
	}{
		{"big file", "8388609 bytes are more than 8388608", func(t *testing.T, s store) plumbing.Hash {
			return tree(t, s, entry{modeFile, "x", blob(t, s, make([]byte, maxBlob+1))})
		}},
		{"big together", "33554432 bytes; keep other things", func(t *testing.T, s store) plumbing.Hash {
			var all []entry
			for i := range 5 {
				all = append(all, entry{modeFile, fmt.Sprint(i), blob(t, s, bytes.Repeat([]byte{byte(i)}, maxBlob))})
			}
			return tree(t, s, all...)
		}},
		{"many files", "more than 100 new objects", func(t *testing.T, s store) plumbing.Hash {
			var in strings.Builder
			in.WriteString("commit refs/heads/many\ncommitter X <x> 0 +0000\ndata 0\n")
			for i := range 100 {
				fmt.Fprintf(&in, "M 644 inline f%d\ndata %d\n%d\n", i, len(fmt.Sprint(i)), i)
			}
			cmd := exec.Command("git", "--git-dir="+s.st.Filesystem().Root(), "fast-import", "--quiet")
			cmd.Stdin = strings.NewReader(in.String())
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("git fast-import: %v\n%s", err, out)
			}
			return plumbing.NewHash(git(t, s.st.Filesystem().Root(), "rev-parse", "many^{tree}"))
		}},
		{"deep", "nested deeper than 64", func(t *testing.T, s store) plumbing.Hash {
			h := tree(t, s, entry{modeFile, "x", blob(t, s, nil)})
			for range maxDepth + 1 {
				h = tree(t, s, entry{modeDir, "d", h})
			}
			return h
		}},
		{"big tree", "bytes are more than 4194304", func(t *testing.T, s store) plumbing.Hash {
			var all []entry
			empty := blob(t, s, nil)
			for i := range 20_000 {
				all = append(all, entry{modeFile, fmt.Sprintf("%0200d", i), empty})
			}
			return tree(t, s, all...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := newRepo(t)
			r := open(t, dir)
			r.remote.(*fileRemote).maxObjects = 100
			last := fetch(t, r, "")
			s := openStore(dir)
			commit, err := s.writeCommit(c.fill(t, s), last.hash, tester, time.Now(), "big")
			if err != nil {
				t.Fatal(err)
			}
			write(t, dir+"/refs/heads/main", commit.String()+"\n")
			_, err = r.Fetch(t.Context(), last.Commit)
			checkReason(t, "Fetch", err, reason.Limit, c.words)
			write(t, dir+"/refs/heads/main", last.Commit+"\n")
			fetch(t, r, last.Commit)
		})
	}
}

func TestFetchManyRefs(t *testing.T) {
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
	dir := newRepo(t)
	r := open(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := r.Fetch(ctx, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Fetch = %v, want context.Canceled", err)
	}
	fetch(t, r, "")
}

func TestBranches(t *testing.T) {
	dir := newRepo(t)
	r := open(t, dir)
	if got, err := r.Branches(t.Context(), "bump/"); err != nil || len(got) != 0 {
		t.Errorf("Branches = %v, %v, want none", got, err)
	}
	work := clone(t, dir)
	for _, b := range []string{"bump/a/1.0", "bump/b/1.0", "other"} {
		git(t, work, "checkout", "-q", "-b", b, "origin/HEAD")
		write(t, work+"/channels/a.json", b)
		git(t, work, "commit", "-q", "-am", b)
		git(t, work, "push", "-q", "origin", b)
	}
	write(t, dir+"/refs/heads/bump/tree", git(t, dir, "rev-parse", "main^{tree}")+"\n")
	got, err := r.Branches(t.Context(), "bump/")
	if err != nil || len(got) != 2 {
		t.Fatalf("Branches = %v, %v, want two", got, err)
	}
	head := fetch(t, r, "")
	for _, b := range []string{"bump/a/1.0", "bump/b/1.0"} {
		checkRead(t, got[b], "channels/a.json", b)
		if merged, err := r.Merged(t.Context(), got[b].Commit, head); merged || err != nil {
			t.Errorf("Merged(%q) = %t, %v", b, merged, err)
		}
	}
	git(t, work, "checkout", "-q", "--detach", "origin/HEAD")
	git(t, work, "merge", "-q", "--no-ff", "-m", "merge", "bump/b/1.0")
	git(t, work, "push", "-q", "origin", "HEAD:main")
	head = fetch(t, r, head.Commit)
	for b, want := range map[string]bool{"bump/a/1.0": false, "bump/b/1.0": true} {
		if merged, err := r.Merged(t.Context(), got[b].Commit, head); merged != want || err != nil {
			t.Errorf("Merged(%q) = %t, %v, want %t", b, merged, err, want)
		}
	}
	if merged, err := r.Merged(t.Context(), strings.Repeat("1", 40), head); merged || err != nil {
		t.Errorf("Merged of a commit that does not exist = %t, %v", merged, err)
	}
}
