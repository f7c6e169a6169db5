package source

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/reason"
)

// home makes the home directory of a user, with the files given, and moves in.
func home(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "HOME", dir)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("HOME", dir)
	t.Setenv("XDG_CONFIG_HOME", filepath.Join(dir, ".config"))
	return dir
}

// listing says what is in a tree: mode and content of each file outside of .git.
func listing(t *testing.T, dir string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() == ".git" {
			if d.IsDir() && err == nil {
				return fs.SkipDir
			}
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += " " + string(data)
		case info.Mode()&fs.ModeSymlink != 0:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			text += " " + to
		}
		found[name] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// mixed is a repository with all that a setting could change, in a submodule as well.
func mixed(t *testing.T) *repo {
	t.Helper()
	lib := newRepo(t)
	lib.commit("lib.txt", "one\ntwo\n", "$Id$.c", "/* $Id$ */\n")
	r := newRepo(t)
	r.git("submodule", "--quiet", "add", lib.url(), "lib")
	r.commit("a.txt", "one\ntwo\n", "id.c", "/* $Id$ */\n", "odd.x", "plain\n", "run", "#!/bin/sh\n", "README", "upper\n",
		".gitattributes", "odd.x filter=odd\n*.e filter=a=b\n", "f.e", "plain\n")
	if err := os.Symlink("a.txt", filepath.Join(r.dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(r.dir, "run"), 0o755); err != nil {
		t.Fatal(err)
	}
	r.commit()
	return r
}

func TestSameCheckoutForEveryUser(t *testing.T) {
	const attributes = "* text eol=crlf ident\n*.c filter=odd\n*.txt working-tree-encoding=UTF-16\n"
	const odd = "[filter \"odd\"]\n\tsmudge = sed s/^/x/\n\tclean = sed s/^x//\n\trequired = true\n"
	users := map[string]map[string]string{
		"attributes where git looks by itself": {".config/git/attributes": attributes},
		"attributes elsewhere":                 {".gitconfig": "[core]\n\tattributesFile = HOME/attr\n", "attr": attributes},
		"a template": {
			".gitconfig":           "[init]\n\ttemplateDir = HOME/tmpl\n" + odd,
			"tmpl/info/attributes": attributes, "tmpl/info/sparse-checkout": "/a.txt\n",
			"tmpl/hooks/post-checkout": "#!/bin/sh\necho hook >>a.txt\n",
			"tmpl/config":              "[core]\n\tsparseCheckout = true\n",
		},
		"core": {".gitconfig": "[core]\n\tautocrlf = true\n\teol = crlf\n\tsymlinks = false\n\tfileMode = false\n\tignoreCase = true\n" +
			"\tignoreStat = true\n\tcheckStat = minimal\n\ttrustctime = false\n\thooksPath = HOME/hooks\n\tsparseCheckout = true\n",
			"hooks/post-checkout": "#!/bin/sh\necho hook >>a.txt\n"},
		"filters":        {".gitconfig": odd + "[filter \"a=b\"]\n\tsmudge = sed s/^/y/\n\trequired = true\n"},
		"filter process": {".gitconfig": "[filter \"odd\"]\n\tprocess = false\n\trequired = true\n"},
		"submodules":     {".gitconfig": "[submodule]\n\tactive = none\n[submodule \"lib\"]\n\tupdate = none\n"},
		"remote":         {".gitconfig": "[clone]\n\tdefaultRemoteName = upstream\n"},
	}
	r := mixed(t)
	home(t, nil)
	want := listing(t, checkout(t, newSource(t, r.url()), "main").Dir)
	if !strings.HasSuffix(want["lib/lib.txt"], " one\ntwo\n") {
		t.Fatalf("checkout without any settings: %q", want)
	}
	for name, files := range users {
		t.Run(name, func(t *testing.T) {
			home(t, files)
			s := newSource(t, r.url())
			tree := checkout(t, s, "main")
			if diff := cmp.Diff(want, listing(t, tree.Dir)); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			kept := filepath.Join(tree.Dir, ".git", "kept")
			if err := os.WriteFile(kept, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			checkout(t, s, "main")
			if _, err := os.Stat(kept); err != nil {
				t.Errorf("the tree was not used again: %v", err)
			}
		})
	}
}

// A change in a work tree is seen whatever the user's settings.
func TestChangeSeenForEveryUser(t *testing.T) {
	r := newRepo(t)
	r.commit("a", "1")
	for name, files := range map[string]map[string]string{
		"ignored file":   {".config/git/ignore": "b\n"},
		"ignored stat":   {".gitconfig": "[core]\n\tignoreStat = true\n"},
		"ignored module": {".gitconfig": "[status]\n\tshowUntrackedFiles = no\n"},
	} {
		t.Run(name, func(t *testing.T) {
			home(t, files)
			s := newSource(t, r.url())
			tree := checkout(t, s, "main")
			for _, file := range []string{"a", "b"} {
				if err := os.WriteFile(filepath.Join(tree.Dir, file), []byte("changed"), 0o644); err != nil {
					t.Fatal(err)
				}
				got := listing(t, checkout(t, s, "main").Dir)
				if got["b"] != "" || !strings.HasSuffix(got["a"], " 1") {
					t.Errorf("%s changed, and the tree was used again: %q", file, got)
				}
			}
		})
	}
}

// Files of git-lfs are what git-lfs gives, or there is no checkout: a user who told it
// to leave pointers is not asked.
func TestLargeFiles(t *testing.T) {
	r := newRepo(t)
	r.commit("big", "pointer\n", ".gitattributes", "big filter=lfs\n")
	dir := home(t, map[string]string{
		".gitconfig":  "[filter \"lfs\"]\n\tprocess = git-lfs filter-process --skip\n\tsmudge = cat\n\trequired = false\n",
		"bin/git-lfs": "#!/bin/sh\necho \"$@\" >>HOME/said\necho the store is away >&2\nexit 1\n",
	})
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	s := newSource(t, r.url())
	commit, err := s.Resolve(t.Context(), "main")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Checkout(t.Context(), commit); err == nil || !strings.Contains(err.Error(), "the store is away") {
		t.Errorf("got %v, want that git-lfs failed", err)
	}
	want(t, filepath.Join(dir, "said"), "filter-process\n")
}

// What a repository on this machine replaces an object by is not what its commit holds.
func TestReplacedObjects(t *testing.T) {
	r := newRepo(t)
	c1 := r.commit("a", "1")
	c2 := r.commit("a", "2")
	s := newSource(t, "")
	r.git("replace", c2, c1)
	r.git("checkout", "-q", "--force", "HEAD")
	want(t, filepath.Join(r.dir, "a"), "1")
	if _, err := s.Existing(t.Context(), r.dir); err == nil || !strings.Contains(err.Error(), "tracked files are changed") {
		t.Errorf("got %v, want a refusal: the tree is not that of the commit", err)
	}
}

// A checkout with files that git was told not to look at is refused, and what the
// refusal says to run mends it. A work tree of ours like that is made anew.
func TestUnseenFiles(t *testing.T) {
	lib := newRepo(t)
	lib.commit("deep/lib.txt", "lib")
	r := newRepo(t)
	r.git("submodule", "--quiet", "add", lib.url(), "lib")
	r.commit("d/a b", "1")
	s := newSource(t, r.url())
	for _, c := range []struct{ in, file, flag string }{
		{".", "d/a b", "assume-unchanged"},
		{".", "d/a b", "skip-worktree"},
		{"lib", "deep/lib.txt", "assume-unchanged"},
	} {
		t.Run(c.in+" "+c.flag, func(t *testing.T) {
			if _, err := s.Existing(t.Context(), r.dir); err != nil {
				t.Fatal(err)
			}
			in := filepath.Join(r.dir, c.in)
			r.git("-C", in, "update-index", "--"+c.flag, c.file)
			_, err := s.Existing(t.Context(), r.dir)
			says := fmt.Sprintf("run git -C %q update-index --no-%s %q", in, c.flag, c.file)
			if reason.Of(err) != reason.Config || !strings.HasSuffix(err.Error(), says) {
				t.Errorf("got %v, want %q", err, says)
			}
			r.git("-C", in, "update-index", "--no-"+c.flag, c.file)

			tree := checkout(t, s, "main")
			path := filepath.Join(c.in, c.file)
			r.git("-C", filepath.Join(tree.Dir, c.in), "update-index", "--"+c.flag, c.file)
			if err := os.WriteFile(filepath.Join(tree.Dir, path), []byte("changed"), 0o644); err != nil {
				t.Fatal(err)
			}
			if got := listing(t, checkout(t, s, "main").Dir)[path]; strings.HasSuffix(got, "changed") {
				t.Errorf("a changed tree was used again: %q", got)
			}
		})
	}
}
