package repo

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/reason"
)

// TestReplace changes trees that git made and compares with what git makes of them.
func TestReplace(t *testing.T) {
	dir := newRepo(t)
	work := clone(t, dir)
	for _, f := range []string{"a", "a-b", "a.b", "a0", "ab/x", "dir/sub/deep/er/file", "dir/sub/other", "dir.x", "dir-x", "channels/b.json", "z"} {
		write(t, work+"/"+f, f)
	}
	write(t, work+"/odd \"name\"\t\xff", "odd")
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
			git(t, work, "push", "-q", "-f", "origin", git(t, work, "commit-tree", "-m", "x", git(t, work, "write-tree"))+":refs/heads/main")
			r := open(t, dir)
			s := fetch(t, r, "")
			index := git(t, work, "write-tree")
			if s.tree.String() != index {
				t.Fatalf("the tree is %s, want %s", s.tree, index)
			}
			change := make(map[string][]byte)
			for f, text := range files {
				change[f] = []byte(text)
				if text == "-" {
					change[f] = nil
				}
			}
			got, err := r.m.replace(s.tree, change)
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
				git(t, work, "update-index", "--add", "--cacheinfo", mode+","+blob(t, r.m.store, []byte(text)).String()+","+f)
			}
			if want := git(t, work, "write-tree", "--missing-ok"); got.String() != want {
				t.Errorf("replace made %s, git makes %s", got, want)
			}
			git(t, work, "read-tree", index)
		})
	}
}

func TestReplaceRefused(t *testing.T) {
	s := openStore(t.TempDir())
	root := tree(t, s,
		entry{modeDir, "dir", tree(t, s, entry{modeFile, "x", blob(t, s, nil)})},
		entry{modeFile, "file", blob(t, s, nil)},
		entry{modeLink, "link", blob(t, s, []byte("file"))},
		entry{modeSubmodule, "sub", plumbing.NewHash(strings.Repeat("1", 40))})
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
			_, err := s.replace(root, map[string][]byte{path: data})
			checkReason(t, "replace "+path, err, reason.Format, words)
		}
	}
	if _, err := s.replace(root, map[string][]byte{"dir/x": []byte("new"), "file": nil}); err != nil {
		t.Error(err)
	}
}

// TestReplaceKeeps keeps what git itself would not write any more.
func TestReplaceKeeps(t *testing.T) {
	s := openStore(t.TempDir())
	sub := tree(t, s, entry{modeFile, "x", blob(t, s, nil)})
	entries := []entry{{modeGroup, "a", blob(t, s, nil)}, {modeOldDir, "b", sub}, {modeFile, "c", blob(t, s, nil)}}
	root := tree(t, s, entries...)
	got, err := s.replace(root, map[string][]byte{"c": []byte("new")})
	if err != nil {
		t.Fatal(err)
	}
	entries[2].hash = blob(t, s, []byte("new"))
	if want := tree(t, s, entries...); got != want {
		t.Errorf("replace made another tree")
	}
}

func TestParseCommit(t *testing.T) {
	h1, h2, h3 := strings.Repeat("1", 40), strings.Repeat("2", 40), strings.Repeat("3", 40)
	good := "tree " + h1 + "\nparent " + h2 + "\nparent " + h3 + "\nauthor A <a> 1 +0000\ncommitter A <a> 1 +0000\n\nparent " + h1 + "\n"
	c, err := parseCommit([]byte(good))
	if err != nil || c.tree.String() != h1 || len(c.parents) != 2 || c.parents[1].String() != h3 {
		t.Errorf("parseCommit = %v, %v", c, err)
	}
	for name, bad := range map[string]string{
		"empty":      "",
		"no tree":    strings.Replace(good, "tree", "trea", 1),
		"short tree": strings.Replace(good, h1, h1[1:], 1),
		"bad parent": strings.Replace(good, h2, strings.Repeat("x", 40), 1),
		"cut":        good[:60],
		"no author":  good[:strings.Index(good, "author")],
	} {
		_, err := parseCommit([]byte(bad))
		checkReason(t, "parseCommit of "+name, err, reason.Format, "commit is malformed")
	}
}

func TestWriteCommit(t *testing.T) {
	dir := newRepo(t)
	s := openStore(dir)
	root := tree(t, s)
	at := time.Date(2026, 6, 3, 2, 53, 56, 999, time.FixedZone("x", 3600))
	h, err := s.writeCommit(root, plumbing.ZeroHash, tester, at, "  subject\n\nbody: ä\n\n")
	if err != nil {
		t.Fatal(err)
	}
	want := "tree 4b825dc642cb6eb9a060e54bf8d69288fbee4904\nauthor Test <test@example.org> 1780451636 +0000\n" +
		"committer Test <test@example.org> 1780451636 +0000\n\nsubject\n\nbody: ä"
	if got := git(t, dir, "cat-file", "commit", h.String()); got != want {
		t.Errorf("the commit is\n%s\nwant\n%s", got, want)
	}
	for _, a := range []Author{{}, {"", "x@y"}, {"A\nparent x", "x@y"}, {"A", "x\x00"}, {"A <b>", "x"}, {"A", "x>"}, {" A", "x"}, {"A", "x "}} {
		_, err := s.writeCommit(root, plumbing.ZeroHash, a, at, "subject")
		checkReason(t, "writeCommit by "+a.Name, err, reason.Config, "author")
	}
	for _, m := range []string{"a\x00b", "a\rb", "\xff"} {
		_, err := s.writeCommit(root, plumbing.ZeroHash, tester, at, m)
		checkReason(t, "writeCommit with an odd message", err, reason.Format, "commit message")
	}
	_, err = s.writeCommit(root, plumbing.ZeroHash, tester, at, " \n")
	checkReason(t, "writeCommit without a message", err, reason.IO, "commit message is empty")
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 a\x00" + strings.Repeat("\x01", 20) + "40000 b\x00" + strings.Repeat("\x02", 20)))
	f.Add([]byte("100644 a\x00"))
	f.Add([]byte(" \x00" + strings.Repeat("\x01", 20)))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseTree(data)
		if err != nil {
			return
		}
		if again := encodeTree(entries); !bytes.Equal(again, data) {
			t.Errorf("%q is printed as %q", data, again)
		}
	})
}

func FuzzParseCommit(f *testing.F) {
	h := strings.Repeat("1", 40)
	f.Add([]byte("tree " + h + "\nparent " + h + "\nauthor A <a> 1 +0000\n\nx"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseCommit(data)
		if err != nil {
			return
		}
		head := "tree " + c.tree.String() + "\n"
		for _, p := range c.parents {
			head += "parent " + p.String() + "\n"
		}
		if !strings.HasPrefix(strings.ToLower(string(data)), head) {
			t.Errorf("%q is read as %q", data, head)
		}
	})
}
