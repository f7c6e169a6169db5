package repo

import (
	"path/filepath"
	"testing"

	"makenot.work/sando/internal/testenv/gitserver"
)

// served is a channel repo, reached in one way.
type served struct {
	dir   string
	c     Config
	web   *gitserver.Web   // nil, unless it is https
	shell *gitserver.Shell // nil, unless it is ssh
}

// everywhere runs a test with a new channel repo over each transport.
func everywhere(t *testing.T, test func(t *testing.T, s *served)) {
	t.Run("file", func(t *testing.T) {
		dir := newRepo(t)
		test(t, &served{dir: dir, c: config(dir)})
	})
	t.Run("https", func(t *testing.T) { test(t, overHTTPS(t, newRepo(t))) })
	t.Run("ssh", func(t *testing.T) { test(t, overSSH(t, newRepo(t))) })
}

func overHTTPS(t *testing.T, dir string) *served {
	w := gitserver.HTTPS(t, dir)
	c := Config{URL: w.URL, Branch: "main", TokenFile: w.TokenFile, CAFile: w.CAFile}
	return &served{dir: dir, c: c, web: w}
}

func overSSH(t *testing.T, dir string) *served {
	s := gitserver.SSH(t, dir)
	c := Config{URL: s.URL, Branch: "main", SSHKey: s.KeyFile, KnownHosts: s.KnownHosts}
	return &served{dir: dir, c: c, shell: s}
}

// open opens the repo with a new mirror.
func (s *served) open(t testing.TB) *Repo {
	t.Helper()
	r, err := Open(filepath.Join(t.TempDir(), "mirror"), s.c)
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

func TestNetworkFetch(t *testing.T) {
	everywhere(t, func(t *testing.T, s *served) {
		r := s.open(t)
		first := fetch(t, r, "")
		checkRead(t, first, "fleet.toml", "app = \"mnw\"\n")
		work := clone(t, s.dir)
		write(t, work+"/channels/a.json", "2")
		want := commitAll(t, work, "second")
		second := fetch(t, r, first.Commit)
		if second.Commit != want || second.Rewritten {
			t.Errorf("Fetch = %s, rewritten %t, want %s", second.Commit, second.Rewritten, want)
		}
		checkRead(t, second, "channels/a.json", "2")
		checkRead(t, second, "fleet.toml", "app = \"mnw\"\n")
		git(t, r.m.dir, "fsck", "--strict")
		pushed, err := r.Push(t.Context(), tester, files("channels/a.json", "3"))
		if err != nil {
			t.Fatal(err)
		}
		if now := git(t, s.dir, "rev-parse", "main"); now != pushed {
			t.Errorf("the branch is at %s, want %s", now, pushed)
		}
		checkRead(t, fetch(t, s.open(t), second.Commit), "channels/a.json", "3")
		checkRepo(t, s.dir)
	})
}
