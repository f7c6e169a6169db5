package source

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/builder/proc"
	"makenot.work/sando/internal/reason"
)

// repo is a real repository to release from.
type repo struct {
	t   *testing.T
	dir string
}

func newRepo(t *testing.T) *repo {
	t.Helper()
	r := &repo{t, filepath.Join(t.TempDir(), "repo")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "-q", "-b", "main")
	return r
}

func (r *repo) url() string { return "file://" + r.dir }

func (r *repo) git(args ...string) string {
	r.t.Helper()
	c := exec.Command("git", args...)
	c.Dir = r.dir
	c.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_ALLOW_PROTOCOL=file",
		"GIT_AUTHOR_NAME=t", "GIT_AUTHOR_EMAIL=t@example.org", "GIT_COMMITTER_NAME=t", "GIT_COMMITTER_EMAIL=t@example.org",
		"GIT_AUTHOR_DATE=2026-01-02T03:04:05Z", "GIT_COMMITTER_DATE=2026-01-02T03:04:05Z")
	out, err := c.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes the files, name and content in turn, and commits them.
func (r *repo) commit(files ...string) string {
	r.t.Helper()
	for i := 0; i < len(files); i += 2 {
		path := filepath.Join(r.dir, files[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(files[i+1]), 0o644); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "--allow-empty", "-m", "c")
	return r.git("rev-parse", "HEAD")
}

func newSource(t *testing.T, url string) *Source {
	return &Source{State: t.TempDir(), Repo: url, Keep: 3, Run: proc.Runner{Cookie: "test"}, Log: slog.New(slog.DiscardHandler)}
}

func checkout(t *testing.T, s *Source, rev string) Tree {
	t.Helper()
	commit, err := s.Resolve(t.Context(), rev)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := s.Checkout(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func want(t *testing.T, path, content string) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || string(got) != content {
		t.Errorf("%s: got %q, %v, want %q", path, got, err, content)
	}
}

func TestResolve(t *testing.T) {
	r := newRepo(t)
	c1 := r.commit("a", "1")
	r.git("tag", "v1")
	r.git("tag", "-a", "-m", "annotated", "v1a")
	c2 := r.commit("a", "2")
	r.git("tag", "same", c1)
	r.git("branch", "same", c2)
	r.git("branch", "feature/x", c1)
	s := newSource(t, r.url())
	for rev, commit := range map[string]string{
		"main": c2, "v1": c1, "v1a": c1, "feature/x": c1, c1: c1, c1[:9]: c1,
		"refs/tags/same": c1, "refs/heads/same": c2,
	} {
		if got, err := s.Resolve(t.Context(), rev); err != nil || got != commit {
			t.Errorf("Resolve(%q) = %q, %v, want %q", rev, got, err, commit)
		}
	}
	for rev, says := range map[string]string{
		"same":                   "branch and a tag",
		"nothing":                "no such commit",
		strings.Repeat("0", 40):  "was it pushed?",
		"0000000":                "no such commit",
		"-u":                     "want a commit id",
		"--upload-pack=touch /x": "want a commit id",
		"":                       "want a commit id",
		"main~1":                 "want a commit id",
		"main@{1}":               "want a commit id",
		"a..b":                   "want a commit id",
		"main\n":                 "want a commit id",
	} {
		_, err := s.Resolve(t.Context(), rev)
		if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), says) {
			t.Errorf("Resolve(%q): got %v, want %q", rev, err, says)
		}
	}

	c3 := r.commit("a", "3")
	if got, err := s.Resolve(t.Context(), "main"); err != nil || got != c3 {
		t.Errorf("a branch that moved: got %q, %v, want %q", got, err, c3)
	}
	r.git("branch", "-D", "feature/x")
	if _, err := s.Resolve(t.Context(), "feature/x"); reason.Of(err) != reason.Config {
		t.Errorf("a branch that is gone: got %v", err)
	}
}

func TestResolveOffline(t *testing.T) {
	r := newRepo(t)
	c1 := r.commit("a", "1")
	s := newSource(t, r.url())
	checkout(t, s, "main")
	if err := os.Rename(r.dir, r.dir+".away"); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Resolve(t.Context(), c1); err != nil || got != c1 {
		t.Errorf("known commit: got %q, %v", got, err)
	}
	if _, err := s.Resolve(t.Context(), "main"); reason.Of(err) != reason.IO || !strings.Contains(err.Error(), "fetch source") {
		t.Errorf("branch without network: got %v", err)
	}
}

func TestCommitOnNoBranch(t *testing.T) {
	r := newRepo(t)
	r.commit("a", "1")
	lost := r.commit("a", "lost")
	r.git("reset", "-q", "--hard", "HEAD~1")
	r.git("config", "uploadpack.allowAnySHA1InWant", "true")
	s := newSource(t, r.url())
	want(t, filepath.Join(checkout(t, s, lost).Dir, "a"), "lost")
}

func TestCheckURL(t *testing.T) {
	for _, good := range []string{
		"https://git.example/a/b.git", "ssh://git@git.example:22/a.git", "git@git.example:a/b.git", "git.example:a",
		"file:///srv/a.git", "http://127.0.0.1:8080/a.git", "http://[::1]/a", "http://localhost/a",
	} {
		if err := CheckURL(good); err != nil {
			t.Errorf("CheckURL(%q): %v", good, err)
		}
	}
	for _, bad := range []string{
		"", "http://git.example/a.git", "git://git.example/a", "ftp://x/y", "ext::sh -c touch% /x", "--upload-pack=x",
		"-oProxyCommand=x:y", "/srv/a.git", "a/b", "http://127.0.0.1.evil.example/a",
	} {
		if err := CheckURL(bad); reason.Of(err) != reason.Config {
			t.Errorf("CheckURL(%q): got %v, want reason config", bad, err)
		}
	}
	if err := CheckURL("http://me:hunter2@git.example/a"); strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a password is shown: %v", err)
	}
}

func TestSubmodules(t *testing.T) {
	lib := newRepo(t)
	lib.commit("lib.txt", "lib")
	r := newRepo(t)
	// Relative to the URL of the source, not to the mirror.
	rel, err := filepath.Rel(r.dir, lib.dir)
	if err != nil {
		t.Fatal(err)
	}
	r.git("submodule", "--quiet", "add", "./"+rel, "deps/lib")
	r.commit("a", "1")
	s := newSource(t, r.url())
	tree := checkout(t, s, "main")
	want(t, filepath.Join(tree.Dir, "deps/lib/lib.txt"), "lib")

	if err := os.WriteFile(filepath.Join(tree.Dir, "deps/lib/lib.txt"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	want(t, filepath.Join(checkout(t, s, "main").Dir, "deps/lib/lib.txt"), "lib")
}

func TestSubmoduleOfAnotherTransport(t *testing.T) {
	for _, u := range []string{"ext::sh -c 'touch " + filepath.Join(t.TempDir(), "owned") + "'", "git://127.0.0.1:1/x"} {
		r := newRepo(t)
		c := r.commit("a", "1")
		r.git("update-index", "--add", "--cacheinfo", "160000,"+c+",sub")
		r.git("config", "-f", ".gitmodules", "submodule.sub.path", "sub")
		r.git("config", "-f", ".gitmodules", "submodule.sub.url", u)
		r.git("add", ".gitmodules")
		r.git("commit", "-q", "-m", "hostile")
		s := newSource(t, r.url())
		commit, err := s.Resolve(t.Context(), "main")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Checkout(t.Context(), commit); err == nil || !strings.Contains(err.Error(), "not allowed") {
			t.Errorf("%s: got %v, want a transport that is not allowed", u, err)
		}
		left, err := os.ReadDir(filepath.Join(s.State, "work"))
		if err != nil || len(left) != 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	}
}

func TestWorkTreeReuse(t *testing.T) {
	r := newRepo(t)
	r.commit("a", "1", ".gitignore", "out/\n")
	s := newSource(t, r.url())
	tree := checkout(t, s, "main")
	if got := tree.Time; !got.Equal(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)) {
		t.Errorf("time of the commit is %v", got)
	}
	kept := filepath.Join(tree.Dir, "out", "kept")
	put := func() {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(kept, nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	put()
	checkout(t, s, "main")
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("a clean tree was not used again: %v", err)
	}
	for name, spoil := range map[string]func() error{
		"tracked file changed": func() error { return os.WriteFile(filepath.Join(tree.Dir, "a"), []byte("2"), 0o644) },
		"tracked file gone":    func() error { return os.Remove(filepath.Join(tree.Dir, "a")) },
		"untracked file":       func() error { return os.WriteFile(filepath.Join(tree.Dir, "b"), nil, 0o644) },
		"build was killed":     tree.Busy,
		"no repository":        func() error { return os.RemoveAll(filepath.Join(tree.Dir, ".git")) },
		"read-only directory": func() error {
			return errors.Join(os.Chmod(filepath.Dir(kept), 0o555), os.Remove(filepath.Join(tree.Dir, "a")))
		},
	} {
		t.Run(name, func(t *testing.T) {
			put()
			if err := spoil(); err != nil {
				t.Fatal(err)
			}
			checkout(t, s, "main")
			want(t, filepath.Join(tree.Dir, "a"), "1")
			if _, err := os.Stat(kept); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the spoilt tree was used again")
			}
			if _, err := os.Stat(filepath.Join(tree.Dir, "b")); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("the untracked file is there")
			}
		})
	}
	if err := tree.Busy(); err != nil {
		t.Fatal(err)
	}
	if err := tree.Idle(); err != nil {
		t.Fatal(err)
	}
	put()
	checkout(t, s, "main")
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("a tree after a build was not used again: %v", err)
	}
}

func TestKeepWork(t *testing.T) {
	r := newRepo(t)
	s := newSource(t, r.url())
	s.Keep = 2
	var commits []string
	for i, v := range []string{"1", "2", "3"} {
		commits = append(commits, r.commit("a", v))
		tree := checkout(t, s, "main")
		at := time.Unix(int64(1000+i), 0)
		if err := os.Chtimes(tree.Dir, at, at); err != nil {
			t.Fatal(err)
		}
	}
	names := func() []string {
		entries, err := os.ReadDir(filepath.Join(s.State, "work"))
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}
	sorted := func(c ...string) []string { slices.Sort(c); return c }
	if got, want := names(), sorted(commits[1], commits[2]); !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
	if err := os.Mkdir(filepath.Join(s.State, "work", ".new-XYZ"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(s.State); err != nil {
		t.Fatal(err)
	}
	checkout(t, s, commits[1]) // now the one used last
	checkout(t, s, commits[0])
	if got, want := names(), sorted(commits[0], commits[1]); !slices.Equal(got, want) {
		t.Errorf("kept %v, want %v", got, want)
	}
}

func TestBrokenMirror(t *testing.T) {
	for name, spoil := range map[string]func(dir string) error{
		"no objects":   func(dir string) error { return os.RemoveAll(filepath.Join(dir, "objects")) },
		"bad config":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "config"), []byte("[["), 0o644) },
		"no head":      func(dir string) error { return os.Remove(filepath.Join(dir, "HEAD")) },
		"stale lock":   func(dir string) error { return os.WriteFile(filepath.Join(dir, "packed-refs.lock"), nil, 0o644) },
		"not a mirror": func(dir string) error { return errors.Join(os.RemoveAll(dir), os.WriteFile(dir, nil, 0o644)) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			r.commit("a", "1")
			s := newSource(t, r.url())
			checkout(t, s, "main")
			if err := spoil(s.mirror()); err != nil {
				t.Fatal(err)
			}
			r.commit("a", "2")
			want(t, filepath.Join(checkout(t, s, "main").Dir, "a"), "2")
		})
	}
}

func TestEnvironmentOfGit(t *testing.T) {
	r := newRepo(t)
	r.commit("a", "1\n")
	t.Setenv("GIT_DIR", "/nonexistent")
	t.Setenv("GIT_WORK_TREE", "/nonexistent")
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "core.bare")
	t.Setenv("GIT_CONFIG_VALUE_0", "true")
	config := filepath.Join(t.TempDir(), "gitconfig")
	if err := os.WriteFile(config, []byte("[core]\n\tautocrlf = true\n\teol = crlf\n[log]\n\tshowSignature = true\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("GIT_CONFIG_GLOBAL", config)
	s := newSource(t, r.url())
	want(t, filepath.Join(checkout(t, s, "main").Dir, "a"), "1\n")
}

func TestExisting(t *testing.T) {
	r := newRepo(t)
	commit := r.commit("a", "1", "d/b", "1")
	s := newSource(t, "")
	tree, err := s.Existing(t.Context(), r.dir)
	if err != nil || tree.Commit != commit || tree.Dir != r.dir {
		t.Fatalf("got %+v, %v", tree, err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "untracked"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Existing(t.Context(), r.dir); err != nil {
		t.Errorf("untracked file: %v", err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "d/b"), []byte("2"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Existing(t.Context(), r.dir); reason.Of(err) != reason.Policy || !strings.Contains(err.Error(), "d/b") {
		t.Errorf("changed file: got %v", err)
	}
	r.git("add", "d/b")
	if _, err := s.Existing(t.Context(), r.dir); reason.Of(err) != reason.Policy {
		t.Errorf("staged change: got %v", err)
	}
	for _, dir := range []string{filepath.Join(r.dir, "d"), filepath.Join(r.dir, "none"), t.TempDir()} {
		if _, err := s.Existing(t.Context(), dir); reason.Of(err) != reason.Config {
			t.Errorf("%s: got %v, want reason config", dir, err)
		}
	}
}

func TestExistingWithSubmodule(t *testing.T) {
	lib := newRepo(t)
	lib.commit("lib.txt", "lib")
	r := newRepo(t)
	r.git("submodule", "--quiet", "add", lib.url(), "lib")
	r.commit("a", "1")
	s := newSource(t, "")
	if _, err := s.Existing(t.Context(), r.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "lib/lib.txt"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Existing(t.Context(), r.dir); reason.Of(err) != reason.Policy || !strings.Contains(err.Error(), "tracked files are changed") {
		t.Errorf("changed submodule: got %v", err)
	}
	r.git("submodule", "--quiet", "deinit", "--force", "lib")
	if _, err := s.Existing(t.Context(), r.dir); reason.Of(err) != reason.Policy || !strings.Contains(err.Error(), "submodule is not checked out") {
		t.Errorf("absent submodule: got %v", err)
	}
}

func TestCancelled(t *testing.T) {
	r := newRepo(t)
	r.commit("a", "1")
	s := newSource(t, r.url())
	commit, err := s.Resolve(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Checkout(ctx, commit); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
}

// Git makes the URL of a submodule out of that of the source, and says it when the
// submodule cannot be had.
func TestNoPasswordInErrors(t *testing.T) {
	r := newRepo(t)
	c := r.commit(".gitmodules", "[submodule \"lib\"]\n\tpath = lib\n\turl = ../lib.git\n")
	r.git("update-index", "--add", "--cacheinfo", "160000,"+c+",lib")
	r.git("commit", "-q", "-m", "submodule")
	s := newSource(t, r.url())
	commit, err := s.Resolve(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	s.Repo = "http://user:s3cr3t@127.0.0.1:1/g/app.git"
	_, err = s.Checkout(t.Context(), commit)
	if err == nil || !strings.Contains(err.Error(), "'http://127.0.0.1:1/g/lib.git'") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("submodule: got %v, want its URL without user and password", err)
	}
	_, err = s.Resolve(t.Context(), "main")
	if err == nil || !strings.Contains(err.Error(), "'http://127.0.0.1:1/g/app.git/'") || strings.Contains(err.Error(), "s3cr3t") {
		t.Errorf("source: got %v, want its URL without user and password", err)
	}
}
