package remote

import (
	"bytes"
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
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"golang.org/x/sys/unix"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// The remotes are tested through package repo, which brings a real mirror. Here is what
// needs none.

// git runs the git program in dir and returns what it wrote.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testenv.Program(t, "git"), args...)
	cmd.Dir = dir
	cmd.Env = gitEnv(os.Environ())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// newRepo makes a repository with one empty commit.
func newRepo(t *testing.T) (dir string, commit plumbing.Hash) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, "init", "-q", "--bare", "-b", "main")
	s := objects.Open(dir)
	commit, err := s.WriteCommit(tree(t, s), plumbing.ZeroHash, objects.Author{Name: "Test"}, time.Now(), "first")
	if err != nil {
		t.Fatal(err)
	}
	return dir, commit
}

// memory knows what was fetched.
type memory map[plumbing.Hash]bool

func (m memory) Head() plumbing.Hash { return plumbing.ZeroHash }

func (m memory) Has(h plumbing.Hash) (bool, error) { return m[h], nil }

func (m memory) Write(t plumbing.ObjectType, data []byte) error {
	m[plumbing.ComputeHash(t, data)] = true
	return nil
}

func regular(name string, h plumbing.Hash) objects.Entry {
	return objects.Entry{Mode: objects.ModeFile, Name: name, Hash: h}
}

func blob(t *testing.T, s objects.Store, data []byte) plumbing.Hash {
	t.Helper()
	h, err := s.Write(plumbing.BlobObject, data)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tree(t *testing.T, s objects.Store, entries ...objects.Entry) plumbing.Hash {
	t.Helper()
	h, err := s.Write(plumbing.TreeObject, objects.EncodeTree(entries))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// checkReason reports an error unless err has the reason code and says words.
func checkReason(t *testing.T, what string, err error, code reason.Code, words string) {
	t.Helper()
	if err == nil || reason.Of(err) != code || !strings.Contains(err.Error(), words) {
		t.Errorf("%s = %v, want the reason %s and the words %q", what, err, code, words)
	}
}

func TestOpen(t *testing.T) {
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
		{"https://git.example/c.git", ""},
		{"https://u@git.example:8443/c.git", ""},
		{"https://u:secret@git.example/c.git", "holds a password"},
		{"ssh://git@git.example/c.git", "ssh needs ssh_key"},
		{"ssh://git.example/c.git", "want a user"},
		{"http://u:secret@git.example/c.git", "holds a password"},
		{"http://git.example/c.git", "http is for loopback addresses only"},
		{"http://127.0.0.1/c.git", ""},
		{"http://[::1]:80/c.git", ""},
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
		_, err := Open(Config{URL: c.url})
		if c.want == "" {
			if err != nil {
				t.Errorf("Open(%q) = %v", c.url, err)
			}
			continue
		}
		checkReason(t, fmt.Sprintf("Open(%q)", c.url), err, reason.Config, c.want)
		if _, err := Dir(c.url); reason.Of(err) != reason.Config {
			t.Errorf("Dir(%q) = %v, want the reason config", c.url, err)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%q) = %v, which holds a password", c.url, err)
		}
	}
}

// TestFetchLimits has commits that are too big in one way each.
func TestFetchLimits(t *testing.T) {
	for _, c := range []struct {
		name, words string
		fill        func(t *testing.T, s objects.Store) plumbing.Hash // returns the tree
	}{
		{"big file", "8388609 bytes are more than 8388608", func(t *testing.T, s objects.Store) plumbing.Hash {
			return tree(t, s, regular("x", blob(t, s, make([]byte, objects.MaxBlob+1))))
		}},
		{"big together", "33554432 bytes; keep other things", func(t *testing.T, s objects.Store) plumbing.Hash {
			var all []objects.Entry
			for i := range 5 {
				all = append(all, regular(fmt.Sprint(i), blob(t, s, bytes.Repeat([]byte{byte(i)}, objects.MaxBlob))))
			}
			return tree(t, s, all...)
		}},
		{"many files", "more than 100 new objects", func(t *testing.T, s objects.Store) plumbing.Hash {
			var all []objects.Entry
			for i := range 100 {
				all = append(all, regular(fmt.Sprintf("%03d", i), blob(t, s, []byte(fmt.Sprint(i)))))
			}
			return tree(t, s, all...)
		}},
		{"deep", "nested deeper than 64", func(t *testing.T, s objects.Store) plumbing.Hash {
			h := tree(t, s, regular("x", blob(t, s, nil)))
			for range maxDepth + 1 {
				h = tree(t, s, objects.Entry{Mode: objects.ModeDir, Name: "d", Hash: h})
			}
			return h
		}},
		{"big tree", "bytes are more than 1048576", func(t *testing.T, s objects.Store) plumbing.Hash {
			var all []objects.Entry
			empty := blob(t, s, nil)
			for i := range 20_000 {
				all = append(all, regular(fmt.Sprintf("%0200d", i), empty))
			}
			return tree(t, s, all...)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir, first := newRepo(t)
			r := newFile(dir)
			r.maxObjects = 100
			s := objects.Open(dir)
			commit, err := s.WriteCommit(c.fill(t, s), first, objects.Author{Name: "Test"}, time.Now(), "big")
			if err != nil {
				t.Fatal(err)
			}
			checkReason(t, "Fetch", r.Fetch(t.Context(), make(memory), commit), reason.Limit, c.words)
			if err := r.Fetch(t.Context(), make(memory), first); err != nil {
				t.Errorf("Fetch of the parent: %v", err)
			}
		})
	}
}

// TestFetchDamagedPack flips bits in the packs of the repository. Whatever go-git makes of
// them, what is fetched is right or an error.
func TestFetchDamagedPack(t *testing.T) {
	dir, head := newRepo(t)
	s := objects.Open(dir)
	for i := range 10 {
		var all []objects.Entry
		for j := range i {
			all = append(all, regular(fmt.Sprint(j), blob(t, s, []byte(strings.Repeat("same\n", 500)+fmt.Sprint(j)))))
		}
		var err error
		if head, err = s.WriteCommit(tree(t, s, all...), head, objects.Author{Name: "Test"}, time.Now(), "more"); err != nil {
			t.Fatal(err)
		}
	}
	git(t, dir, "update-ref", "refs/heads/main", head.String())
	git(t, dir, "gc", "-q", "--aggressive", "--prune=now")
	f := newFile(dir)
	right, wrong := 0, 0
	for _, ext := range []string{"pack", "idx"} {
		found, err := filepath.Glob(dir + "/objects/pack/*." + ext)
		if err != nil || len(found) != 1 {
			t.Fatalf("packs: %q, %v", found, err)
		}
		if err := os.Chmod(found[0], 0o644); err != nil {
			t.Fatal(err)
		}
		healthy, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		for at := 0; at < len(healthy); at += 5 {
			data := slices.Clone(healthy)
			data[at] ^= 1 << (at % 8)
			if err := os.WriteFile(found[0], data, 0o644); err != nil {
				t.Fatal(err)
			}
			got := make(memory)
			if _, err := f.fetchOnce(t.Context(), got, head); err != nil {
				wrong++
				continue
			}
			right++
			if !got[head] {
				t.Errorf("%s with byte %d changed: Fetch succeeded without the commit", ext, at)
			}
		}
		if err := os.WriteFile(found[0], healthy, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if right == 0 || wrong == 0 {
		t.Errorf("%d fetches succeeded and %d failed, want some of both", right, wrong)
	}
}

// TestIrregular has something else in the place of each file that is read. Nothing waits
// for it, and nothing takes it for a file that is missing.
func TestIrregular(t *testing.T) {
	branch := func(ctx context.Context, f *file, _ plumbing.Hash) error {
		_, err := f.Branch(ctx, "main")
		return err
	}
	branches := func(ctx context.Context, f *file, _ plumbing.Hash) error {
		_, err := f.Branches(ctx, "")
		return err
	}
	fetch := func(ctx context.Context, f *file, head plumbing.Hash) error {
		_, err := f.fetchOnce(ctx, make(memory), head)
		return err
	}
	absent := func(ctx context.Context, f *file, _ plumbing.Hash) error {
		_, err := f.fetchOnce(ctx, make(memory), plumbing.NewHash(strings.Repeat("1", 40)))
		return err
	}
	kinds := map[string]func(string) error{
		"not a regular file":  func(p string) error { return unix.Mkfifo(p, 0o644) },
		"escapes from parent": func(p string) error { return os.Symlink("/dev/null", p) },
	}
	for _, c := range []struct {
		file string
		do   func(context.Context, *file, plumbing.Hash) error
	}{
		{"config", branch},
		{"refs/heads/main", branch},
		{"packed-refs", branch},
		{"HEAD", branches},
		{"refs/heads/main", branches},
		{"packed-refs", branches},
		{"objects/OBJECT", fetch},
		{"objects/pack/*.pack", fetch},
		{"objects/pack/*.idx", fetch},
		{"objects/info/alternates", absent},
	} {
		for words, put := range kinds {
			dir, head := newRepo(t)
			git(t, dir, "update-ref", "refs/heads/main", head.String())
			if strings.HasPrefix(c.file, "objects/pack") || c.file == "packed-refs" {
				git(t, dir, "gc", "-q")
			}
			name := strings.Replace(c.file, "OBJECT", head.String()[:2]+"/"+head.String()[2:], 1)
			path := filepath.Join(dir, name)
			if found, err := filepath.Glob(path); err == nil && len(found) == 1 {
				path = found[0]
			}
			if err := errors.Join(os.RemoveAll(path), put(path)); err != nil {
				t.Fatal(err)
			}
			what := fmt.Sprintf("%s that is %s", c.file, words)
			within(t, what, path, func() {
				checkReason(t, what, c.do(t.Context(), newFile(dir), head), reason.IO, words)
			})
		}
	}
}

// within reports an error unless do ends soon. A do that waits for the fifo is let go.
func within(t *testing.T, what, fifo string, do func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Errorf("%s: it waits", what)
		if f, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0); err == nil {
			f.Close()
		}
		<-done
	}
}

// TestLinksInside has links to other files of the repository, as old programs make them.
func TestLinksInside(t *testing.T) {
	dir, head := newRepo(t)
	git(t, dir, "update-ref", "refs/heads/main", head.String())
	for _, name := range []string{"objects", "config", "refs/heads/main"} {
		path := filepath.Join(dir, name)
		to := filepath.Join(dir, "moved-"+filepath.Base(name))
		rel, err := filepath.Rel(filepath.Dir(path), to)
		if err := errors.Join(err, os.Rename(path, to), os.Symlink(rel, path)); err != nil {
			t.Fatal(err)
		}
	}
	f := newFile(dir)
	if got, err := f.Branch(t.Context(), "main"); err != nil || got != head {
		t.Errorf("Branch = %s, %v, want %s", got, err, head)
	}
	if err := f.Fetch(t.Context(), make(memory), head); err != nil {
		t.Error(err)
	}
}

// TestAlternates borrows objects of another repository, loose and packed, and has
// repositories that borrow of each other.
func TestAlternates(t *testing.T) {
	dir, head := newRepo(t)
	git(t, dir, "update-ref", "refs/heads/main", head.String())
	other, _ := newRepo(t)
	for name, line := range map[string]string{
		"absolute": "# here\n" + dir + "/objects\n",
		"relative": "../../" + filepath.Base(dir) + "/objects",
	} {
		for _, packed := range []bool{false, true} {
			if packed {
				git(t, dir, "gc", "-q")
			}
			for repo, line := range map[string]string{other: line, dir: other + "/objects\nobjects\n"} {
				if err := os.WriteFile(repo+"/objects/info/alternates", []byte(line), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			f := newFile(other)
			if err := f.Fetch(t.Context(), make(memory), head); err != nil {
				t.Errorf("%s, packed %t: %v", name, packed, err)
			}
			_, err := f.fetchOnce(t.Context(), make(memory), plumbing.NewHash(strings.Repeat("1", 40)))
			checkReason(t, "Fetch of nothing", err, reason.IO, "object is missing")
			if err := os.Remove(dir + "/objects/info/alternates"); err != nil { // git gc minds
				t.Fatal(err)
			}
		}
	}
}

// TestContainsBounds looks for commits on both sides of a bound.
func TestContainsBounds(t *testing.T) {
	dir, head := newRepo(t)
	s := objects.Open(dir)
	history := []plumbing.Hash{head}
	for range 9 {
		var err error
		head, err = s.WriteCommit(tree(t, s), head, objects.Author{Name: "Test"}, time.Now(), strings.Repeat("x", 1000))
		if err != nil {
			t.Fatal(err)
		}
		history = append([]plumbing.Hash{head}, history...)
	}
	for name, bound := range map[string]func(*file){
		"commits": func(f *file) { f.maxCommits = 5 },
		"bytes":   func(f *file) { f.maxHistory = 4 * 1000 },
	} {
		f := newFile(dir)
		for back, old := range history {
			if found, err := f.Contains(t.Context(), nil, old, head); err != nil || !found {
				t.Errorf("%d commits back without a bound: %t, %v", back, found, err)
			}
		}
		bound(f)
		for back, old := range history {
			if found, err := f.Contains(t.Context(), nil, old, head); err != nil || found != (back < 5) {
				t.Errorf("%d commits back with a bound on %s: %t, %v", back, name, found, err)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := f.Contains(ctx, nil, history[1], head); !errors.Is(err, context.Canceled) {
			t.Errorf("Contains = %v after it was told to stop", err)
		}
	}
}

// counting counts how often it is asked.
type counting struct {
	memory
	asked int
}

func (c *counting) Has(h plumbing.Hash) (bool, error) {
	c.asked++
	return c.memory.Has(h)
}

// TestFetchOnce names one object thousands of times.
func TestFetchOnce(t *testing.T) {
	dir, first := newRepo(t)
	s := objects.Open(dir)
	small := blob(t, s, nil)
	var all []objects.Entry
	for i := range 5000 {
		all = append(all, regular(fmt.Sprintf("%05d", i), small))
	}
	commit, err := s.WriteCommit(tree(t, s, all...), first, objects.Author{Name: "Test"}, time.Now(), "many")
	if err != nil {
		t.Fatal(err)
	}
	into := &counting{memory: make(memory)}
	if err := newFile(dir).Fetch(t.Context(), into, commit); err != nil || into.asked > 3 || !into.memory[small] {
		t.Errorf("Fetch = %v, and asked %d times for 3 objects", err, into.asked)
	}
}

func TestUnreadable(t *testing.T) {
	testenv.User(t, "root may read everything")
	dir, commit := newRepo(t)
	object := filepath.Join(dir, "objects", commit.String()[:2], commit.String()[2:])
	if err := newFile(dir).Fetch(t.Context(), memory{}, commit); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(object, 0); err != nil {
		t.Fatal(err)
	}
	err := newFile(dir).Fetch(t.Context(), memory{}, commit)
	checkReason(t, "an object that may not be read", err, reason.IO, "must be able to read all of the repo")
	if !errors.Is(err, fs.ErrPermission) || errors.Is(err, objects.ErrCorrupt) {
		t.Errorf("it is called something else than unreadable: %v", err)
	}
}
