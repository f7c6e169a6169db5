package adopt

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// A directory of state that is a link, planted or not, is not what it leads to: nothing of that
// gets another owner.
func TestAsRootStateLink(t *testing.T) {
	testenv.Root(t, "to give files away")
	dir := t.TempDir()
	old, other := filepath.Join(dir, "old"), filepath.Join(dir, "other")
	must(t, os.MkdirAll(old+"/sub/real", 0o755))
	must(t, os.WriteFile(old+"/sub/real/x", nil, 0o644))
	must(t, os.Mkdir(other, 0o755))
	must(t, os.Symlink(other, old+"/data"))
	must(t, os.Symlink("../other", old+"/rel"))
	must(t, os.Mkdir(dir+"/to", 0o750))
	must(t, os.Chown(dir+"/to", 12345, 12345))
	for _, from := range []string{"data", "rel"} {
		root, err := openState(old, from)
		if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "leads out of") {
			t.Errorf("%s: %v, %v", from, root, err)
		}
	}
	info, err := os.Stat(other)
	must(t, err)
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 0 || info.Mode().Perm() != 0o755 {
		t.Errorf("what the link leads to belongs to %d, %v", uid, info.Mode())
	}
	root, err := openState(old, "sub/real")
	must(t, err)
	must(t, replica{from: root, name: old + "/sub/real", to: dir + "/to", newUID: 12345, newGID: 12345}.make(t.Context()))
}

// What a copy holds is given away, and what its links lead to is not.
func TestAsRootCopyOwners(t *testing.T) {
	testenv.Root(t, "to give files away")
	from, to := lay(t, "x"), filepath.Join(t.TempDir(), "to")
	must(t, syscall.Mkfifo(from.Name()+"/pipe", 0o600))
	must(t, os.Symlink(from.Name()+"/x", from.Name()+"/link"))
	must(t, replica{from: from, name: from.Name(), to: to, newUID: 12345, newGID: 12345}.make(t.Context()))
	for name, want := range map[string]uint32{to: 12345, to + "/x": 12345, to + "/pipe": 12345, to + "/link": 12345, from.Name() + "/x": 0} {
		info, err := os.Lstat(name)
		must(t, err)
		if uid := info.Sys().(*syscall.Stat_t).Uid; uid != want {
			t.Errorf("%s belongs to %d, want %d", name, uid, want)
		}
	}
}

// A copy for which there is no room is taken away again: the old app has to run beside it.
func TestAsRootCopyFull(t *testing.T) {
	testenv.Root(t, "to mount a small disk")
	from, small := lay(t, "x"), t.TempDir()
	must(t, os.WriteFile(from.Name()+"/big", make([]byte, 8<<20), 0o644))
	must(t, unix.Mount("tmpfs", small, "tmpfs", 0, "size=4m"))
	t.Cleanup(func() { must(t, syscall.Unmount(small, 0)) })
	err := replica{from: from, name: "/old/data", to: small + "/to"}.make(t.Context())
	if reason.Of(err) != reason.Disk || !strings.Contains(err.Error(), "No space left") {
		t.Errorf("it ended with %v", err)
	}
	if left, err := os.ReadDir(small); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
}

// Whoever made a link to a file of another's does not get that as the app's environment.
func TestAsRootEnvLink(t *testing.T) {
	testenv.Root(t, "links of another user")
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/old", 0o755))
	must(t, os.WriteFile(dir+"/secret", []byte("s3cret\n"), 0o600))
	must(t, os.WriteFile(dir+"/theirs", []byte("A=b\n"), 0o600))
	must(t, os.Lchown(dir+"/theirs", 12345, -1))
	for name, target := range map[string]string{"abs": dir + "/secret", "rel": "../secret", "twice": "rel", "conf": "..", "own": "../theirs", "loop": "loop"} {
		must(t, os.Symlink(target, dir+"/old/"+name))
		must(t, os.Lchown(dir+"/old/"+name, 12345, -1))
	}
	for _, name := range []string{"abs", "rel", "twice", "conf/secret"} {
		data, err := readOld(dir + "/old/" + name)
		if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "--old-env "+dir+"/secret") || data != nil {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if _, err := readOld(dir + "/old/loop"); !errors.Is(err, unix.ELOOP) {
		t.Errorf("a loop: %v", err)
	}
	must(t, os.Lchown(dir+"/old/abs", 0, 0))
	for name, want := range map[string]string{"own": "A=b\n", "abs": "s3cret\n"} {
		if data, err := readOld(dir + "/old/" + name); err != nil || string(data) != want {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

// A copy that somebody took away is made again, however well it is remembered.
func TestCopyGone(t *testing.T) {
	from, to := lay(t, "x").Name(), lay(t, "x").Name()
	c := copied{From: from, To: to, Of: "as it was"}
	if !c.good("as it was") || c.good("other") {
		t.Error("a copy that is there")
	}
	must(t, os.Remove(to+"/x"))
	if c.good("as it was") {
		t.Error("a copy that is empty")
	}
	must(t, os.Remove(to))
	if c.good("as it was") {
		t.Error("a copy that is gone")
	}
}
