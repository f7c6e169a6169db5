package repo

import (
	"os"
	"path/filepath"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

func TestPushEnvironment(t *testing.T) {
	dir := newRepo(t)
	other := newRepo(t)
	evil := filepath.Join(t.TempDir(), "config")
	write(t, evil, "[url \"file://"+other+"\"]\n\tinsteadOf = file://"+dir+"\n[push]\n\tdefault = nothing\n")
	for name, value := range map[string]string{
		"GIT_CONFIG_GLOBAL": evil, "GIT_CONFIG_SYSTEM": evil, "GIT_DIR": other, "GIT_WORK_TREE": "/nowhere",
		"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "url.file://" + other + ".insteadOf", "GIT_CONFIG_VALUE_0": "file://" + dir,
		"GIT_OBJECT_DIRECTORY": "/nowhere", "GIT_TRACE": "1", "GIT_NAMESPACE": "x", "LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de",
	} {
		t.Setenv(name, value)
	}
	before := git(t, other, "rev-parse", "main")
	got, err := open(t, dir).Push(t.Context(), tester, files("x", "y"))
	if err != nil {
		t.Fatal(err)
	}
	if head := git(t, dir, "rev-parse", "main"); head != got {
		t.Errorf("the repo has %s, want %s", head, got)
	}
	if head := git(t, other, "rev-parse", "main"); head != before {
		t.Errorf("another repo was pushed to")
	}
}

func TestPushNoGit(t *testing.T) {
	dir := newRepo(t)
	r := open(t, dir)
	t.Setenv("PATH", t.TempDir())
	fetch(t, r, "")
	_, err := r.Push(t.Context(), tester, files("x", "y"))
	checkReason(t, "Push", err, reason.Config, "no git program in PATH")
}

// TestAsRootPushForeign pushes into a repository of another user.
func TestAsRootPushForeign(t *testing.T) {
	testenv.Root(t, "a file is given away")
	dir := newRepo(t)
	r := open(t, dir)
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	fetch(t, r, "")
	_, err := r.Push(t.Context(), tester, files("x", "y"))
	checkReason(t, "Push", err, reason.Config, "belongs to another user")
	if err := os.Chown(dir, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Push(t.Context(), tester, files("x", "y")); err != nil {
		t.Error(err)
	}
}
