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
	"testing"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

var tester = Author{Name: "Test", Email: "test@example.org"}

// git runs the git program in dir and returns what it wrote.
func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testenv.Program(t, "git"), args...)
	cmd.Dir = dir
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "GIT_") }),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
		"GIT_AUTHOR_NAME=Person", "GIT_AUTHOR_EMAIL=p@example.org", "GIT_COMMITTER_NAME=Person", "GIT_COMMITTER_EMAIL=p@example.org")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// newRepo makes a channel repo and returns its directory.
func newRepo(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "channels.git")
	err := Create(t.Context(), "file://"+dir, "main", tester, map[string][]byte{
		"fleet.toml":      []byte("app = \"mnw\"\n"),
		"channels/a.json": []byte("{\"a\":1}\n"),
	})
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func config(dir string) Config { return Config{URL: "file://" + dir, Branch: "main"} }

// open opens the repo in dir with a new mirror.
func open(t testing.TB, dir string) *Repo {
	t.Helper()
	r, err := Open(filepath.Join(t.TempDir(), "mirror"), config(dir))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// clone makes a work tree of the repo in dir.
func clone(t testing.TB, dir string) string {
	t.Helper()
	work := filepath.Join(t.TempDir(), "work")
	git(t, "/", "clone", "-q", "file://"+dir, work)
	return work
}

func write(t testing.TB, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// commitAll commits everything in the work tree, pushes it, and returns the commit.
func commitAll(t testing.TB, work, message string) string {
	t.Helper()
	git(t, work, "add", "-A")
	git(t, work, "commit", "-q", "--allow-empty", "-m", message)
	git(t, work, "push", "-q", "-f", "origin", "HEAD:main")
	return git(t, work, "rev-parse", "HEAD")
}

func fetch(t testing.TB, r *Repo, last string) *Snapshot {
	t.Helper()
	s, err := r.Fetch(t.Context(), last)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func checkRead(t testing.TB, s *Snapshot, path, want string) {
	t.Helper()
	if got, err := s.Read(path, 1<<20); err != nil || string(got) != want {
		t.Errorf("Read(%q) = %q, %v, want %q", path, got, err, want)
	}
}

// checkReason reports an error unless err has the reason code and says words.
func checkReason(t testing.TB, what string, err error, code reason.Code, words string) {
	t.Helper()
	if err == nil || reason.Of(err) != code || !strings.Contains(err.Error(), words) {
		t.Errorf("%s = %v (reason %s), want the reason %s and the words %q", what, err, reason.Of(err), code, words)
	}
}

// files returns a make function that writes these files in any case.
func files(pairs ...string) func(*Snapshot) (*Commit, error) {
	m := make(map[string][]byte)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = []byte(pairs[i+1])
	}
	return func(*Snapshot) (*Commit, error) { return &Commit{Message: "change", Files: m}, nil }
}

// The test binary runs itself as a writer, to have several processes, and as a reader, to
// see what memory one takes.
const (
	writerEnv = "TEST_WRITER"
	readerEnv = "TEST_READER"
)

func TestMain(m *testing.M) {
	if arg := os.Getenv(readerEnv); arg != "" {
		fmt.Println(reader(arg))
		os.Exit(0)
	}
	if arg := os.Getenv(writerEnv); arg != "" {
		if err := writer(arg); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// writer pushes a number of commits: "REPO MIRROR FILE COUNT".
func writer(arg string) error {
	var dir, mirror, file string
	var count int
	if _, err := fmt.Sscan(arg, &dir, &mirror, &file, &count); err != nil {
		return err
	}
	r, err := Open(mirror, config(dir))
	if err != nil {
		return err
	}
	return pushMany(context.Background(), r, file, count)
}

// pushMany adds a line to file count times, by a commit each.
func pushMany(ctx context.Context, r *Repo, file string, count int) error {
	for i := range count {
		_, err := r.Push(ctx, tester, func(head *Snapshot) (*Commit, error) {
			old, err := head.Read(file, 1<<20)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			line := fmt.Sprintf("%s %d\n", file, i)
			return &Commit{Message: line, Files: map[string][]byte{file: append(old, line...)}}, nil
		})
		if err != nil {
			return fmt.Errorf("push %d of %s: %w", i, file, err)
		}
	}
	return nil
}

func blob(t testing.TB, s objects.Store, data []byte) plumbing.Hash {
	t.Helper()
	h, err := s.Write(plumbing.BlobObject, data)
	if err != nil {
		t.Fatal(err)
	}
	return h
}
