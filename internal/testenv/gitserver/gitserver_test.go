package gitserver

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv"
)

// TestServe has the git program clone from both servers, and push.
func TestServe(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "c.git")
	run := func(env []string, args ...string) string {
		t.Helper()
		cmd := exec.Command(testenv.Program(t, "git"), args...)
		cmd.Env = append(os.Environ(), append(env, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_AUTHOR_NAME=P", "GIT_AUTHOR_EMAIL=p@x", "GIT_COMMITTER_NAME=P", "GIT_COMMITTER_EMAIL=p@x")...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
		return strings.TrimSpace(string(out))
	}
	run(nil, "init", "-q", "--bare", "-b", "main", dir)
	w, s := HTTPS(t, dir), SSH(t, dir)
	for name, c := range map[string]struct {
		url string
		env []string
	}{
		"https": {strings.Replace(w.URL, "://", "://git:"+w.Token+"@", 1), []string{"GIT_SSL_CAINFO=" + w.CAFile}},
		"ssh":   {s.URL, []string{"GIT_SSH_COMMAND=ssh -F none -i " + s.KeyFile + " -o UserKnownHostsFile=" + s.KnownHosts + " -o HostKeyAlgorithms=ssh-ed25519"}},
	} {
		work := filepath.Join(t.TempDir(), "work")
		run(c.env, "clone", "-q", c.url, work)
		run(nil, "-C", work, "commit", "-q", "--allow-empty", "-m", name)
		run(c.env, "-C", work, "push", "-q", "origin", "HEAD:refs/heads/"+name)
		if got, want := run(nil, "-C", dir, "rev-parse", name), run(nil, "-C", work, "rev-parse", "HEAD"); got != want {
			t.Errorf("%s: the branch is at %s, want %s", name, got, want)
		}
	}
	if n := s.Connections(); n != 2 {
		t.Errorf("%d connections to sshd, want 2", n)
	}
	if n := len(w.Requests()); n < 3 {
		t.Errorf("%d requests over https, want 3 or more", n)
	}
}
