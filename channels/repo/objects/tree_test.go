package objects

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// git runs the git program in dir and returns what it wrote.
func git(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.Command(testenv.Program(t, "git"), args...)
	cmd.Dir = dir
	cmd.Env = []string{"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null"}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

// write makes a file that holds its own name.
func write(t *testing.T, file string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(filepath.Base(file)), 0o644); err != nil {
		t.Fatal(err)
	}
}

// checkReason reports an error unless err has the reason code and says words.
func checkReason(t *testing.T, what string, err error, code reason.Code, words string) {
	t.Helper()
	if err == nil || reason.Of(err) != code || !strings.Contains(err.Error(), words) {
		t.Errorf("%s = %v, want the reason %s and the words %q", what, err, code, words)
	}
}

func blob(t *testing.T, s Store, data []byte) plumbing.Hash {
	t.Helper()
	h, err := s.Write(plumbing.BlobObject, data)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func tree(t *testing.T, s Store, entries ...Entry) plumbing.Hash {
	t.Helper()
	h, err := s.Write(plumbing.TreeObject, EncodeTree(entries))
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// TestReplace changes trees that git made and compares with what git makes of them.
func TestReplace(t *testing.T) {
	work := t.TempDir()
	git(t, work, "init", "-q")
	for _, f := range []string{"a", "a-b", "a.b", "a0", "ab/x", "dir/sub/deep/er/file", "dir/sub/other", "dir.x", "dir-x", "channels/b.json", "z"} {
		write(t, work+"/"+f)
	}
	write(t, work+"/odd \"name\"\t\xff")
	if err := os.Chmod(work+"/a.b", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a", work+"/link"); err != nil {
		t.Fatal(err)
	}
	git(t, work, "add", "-A")
	git(t, work, "update-index", "--add", "--cacheinfo", "160000,"+strings.Repeat("1", 40)+",sub/module")
	for name, files := range map[string]map[string]string{ // "-" deletes
		"replace":            {"a": "new"},
		"keep mode":          {"a.b": "new"},
		"same":               {"a": "a"},
		"nothing":            {},
		"add at the root":    {"aa": "new"},
		"add before a dir":   {"dir-a": "new"},
		"add after a dir":    {"dir0": "new"},
		"add a dir":          {"new/sub/file": "new"},
		"add a dir before":   {"a-dir/file": "new", "ab.c/file": "new"},
		"deep":               {"dir/sub/deep/er/file": "new", "dir/sub/new": "new"},
		"many":               {"a": "1", "z": "2", "dir/sub/other": "3", "channels/a.json": "4", "q/r/s": "5"},
		"delete":             {"a": "-"},
		"delete with dirs":   {"dir/sub/deep/er/file": "-"},
		"delete a whole dir": {"dir/sub/deep/er/file": "-", "dir/sub/other": "-"},
		"delete what is not": {"none": "-", "no/such/file": "-"},
		"empty file":         {"a": ""},
	} {
		t.Run(name, func(t *testing.T) {
			index := git(t, work, "write-tree", "--missing-ok")
			s := Open(work + "/.git")
			change := make(map[string][]byte)
			for f, text := range files {
				change[f] = []byte(text)
				if text == "-" {
					change[f] = nil
				}
			}
			got, err := s.Replace(plumbing.NewHash(index), change)
			if err != nil {
				t.Fatal(err)
			}
			for f, text := range files {
				if text == "-" {
					git(t, work, "rm", "-q", "--cached", "--ignore-unmatch", f)
					continue
				}
				mode := "100644"
				if f == "a.b" {
					mode = "100755"
				}
				git(t, work, "update-index", "--add", "--cacheinfo", mode+","+blob(t, s, []byte(text)).String()+","+f)
			}
			if want := git(t, work, "write-tree", "--missing-ok"); got.String() != want {
				t.Errorf("Replace made %s, git makes %s", got, want)
			}
			git(t, work, "read-tree", index)
		})
	}
}

func TestReplaceRefused(t *testing.T) {
	s := Open(t.TempDir())
	root := tree(t, s,
		Entry{ModeDir, "dir", tree(t, s, Entry{ModeFile, "x", blob(t, s, nil)})},
		Entry{ModeFile, "file", blob(t, s, nil)},
		Entry{ModeLink, "link", blob(t, s, []byte("file"))},
		Entry{ModeSubmodule, "sub", plumbing.NewHash(strings.Repeat("1", 40))})
	for path, words := range map[string]string{
		"dir":      `"dir" is a directory, want a file`,
		"link":     `"link" is a symlink, want a file`,
		"sub":      `"sub" is a submodule, want a file`,
		"file/x":   `"file" is a file, want a directory`,
		"link/x":   `"link" is a symlink, want a directory`,
		"sub/x":    `"sub" is a submodule, want a directory`,
		"dir/x/y":  `in "dir": "x" is a file, want a directory`,
		"dir/x/./": `in "dir": "x" is a file, want a directory`,
	} {
		for _, data := range [][]byte{[]byte("new"), nil} {
			_, err := s.Replace(root, map[string][]byte{path: data})
			checkReason(t, "Replace "+path, err, reason.Format, words)
		}
	}
	if _, err := s.Replace(root, map[string][]byte{"dir/x": []byte("new"), "file": nil}); err != nil {
		t.Error(err)
	}
}

// TestReplaceKeeps keeps what git itself would not write any more.
func TestReplaceKeeps(t *testing.T) {
	s := Open(t.TempDir())
	sub := tree(t, s, Entry{ModeFile, "x", blob(t, s, nil)})
	entries := []Entry{{ModeGroup, "a", blob(t, s, nil)}, {ModeOldDir, "b", sub}, {ModeFile, "c", blob(t, s, nil)}}
	root := tree(t, s, entries...)
	got, err := s.Replace(root, map[string][]byte{"c": []byte("new")})
	if err != nil {
		t.Fatal(err)
	}
	entries[2].Hash = blob(t, s, []byte("new"))
	if want := tree(t, s, entries...); got != want {
		t.Errorf("Replace made another tree")
	}
}

func TestParseCommit(t *testing.T) {
	h1, h2, h3 := strings.Repeat("1", 40), strings.Repeat("2", 40), strings.Repeat("3", 40)
	good := "tree " + h1 + "\nparent " + h2 + "\nparent " + h3 + "\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nparent " + h1 + "\n"
	c, err := ParseCommit([]byte(good))
	if err != nil || c.Tree.String() != h1 || len(c.Parents) != 2 || c.Parents[1].String() != h3 {
		t.Errorf("ParseCommit = %v, %v", c, err)
	}
	for name, bad := range map[string]string{
		"empty":      "",
		"no tree":    strings.Replace(good, "tree", "trea", 1),
		"short tree": strings.Replace(good, h1, h1[1:], 1),
		"bad parent": strings.Replace(good, h2, strings.Repeat("x", 40), 1),
		"cut":        good[:60],
		"no author":  good[:strings.Index(good, "author")],
	} {
		_, err := ParseCommit([]byte(bad))
		checkReason(t, "ParseCommit of "+name, err, reason.Format, "commit is malformed")
	}
}

func TestWriteCommit(t *testing.T) {
	dir := t.TempDir()
	git(t, dir, "init", "-q", "--bare")
	s := Open(dir)
	root := tree(t, s)
	tester := Author{Name: "Test", Email: "test@example.org"}
	at := time.Date(2026, 6, 3, 2, 53, 56, 999, time.FixedZone("x", 3600))
	h, err := s.WriteCommit(root, plumbing.ZeroHash, tester, at, "  subject\n\nbody: ä\n\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor Test <test@example.org> 1780451636 +0000\n" +
		"committer Test <test@example.org> 1780451636 +0000\n\nsubject\n\nbody: ä"
	if got := git(t, dir, "cat-file", "commit", h.String()); got != want {
		t.Errorf("the commit is\n%s\nwant\n%s", got, want)
	}
	for _, a := range []Author{{}, {"", "x@y"}, {"A\nparent x", "x@y"}, {"A", "x\x00"}, {"A <b>", "x"}, {"A", "x>"}, {" A", "x"}, {"A", "x "}} {
		_, err := s.WriteCommit(root, plumbing.ZeroHash, a, at, "subject")
		checkReason(t, "WriteCommit by "+a.Name, err, reason.Config, "author")
	}
	for _, m := range []string{"a\x00b", "a\rb", "\xff"} {
		_, err := s.WriteCommit(root, plumbing.ZeroHash, tester, at, m)
		checkReason(t, "WriteCommit with an odd message", err, reason.Format, "commit message")
	}
	_, err = s.WriteCommit(root, plumbing.ZeroHash, tester, at, " \n")
	checkReason(t, "WriteCommit without a message", err, reason.IO, "commit message is empty")
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00" + strings.Repeat("\x01", 20) + "40000 b\x00" + strings.Repeat("\x02", 20)))
	f.Add([]byte("100644 a\x00"))
	f.Add([]byte(" \x00" + strings.Repeat("\x01", 20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseTree(data)
		if err != nil {
			return
		}
		if again := EncodeTree(entries); !bytes.Equal(again, data) {
			t.Errorf("%q is printed as %q", data, again)
		}
	})
}

func FuzzParseCommit(f *testing.F) {
	h := strings.Repeat("1", 40)
	f.Add([]byte("tree " + h + "\nparent " + h + "\nauthor A <a> 1 +0000\n\nx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseCommit(data)
		if err != nil {
			return
		}
		head := "tree " + c.Tree.String() + "\n"
		for _, p := range c.Parents {
			head += "parent " + p.String() + "\n"
		}
		if !strings.HasPrefix(strings.ToLower(string(data)), head) {
			t.Errorf("%q is read as %q", data, head)
		}
	})
}
