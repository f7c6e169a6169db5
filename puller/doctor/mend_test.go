package doctor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
)

// What a mend says can be pasted without a look: it takes no directory from those who work in it, and no
// file from an app that reads it.
func TestAsRootMendsHarmNobody(t *testing.T) {
	testenv.Root(t, "directories of other users")
	base := t.TempDir()
	for dir := base; dir != "/tmp" && dir != "/dev/shm" && dir != "/"; dir = filepath.Dir(dir) {
		must(t, os.Chmod(dir, 0o755))
	}
	home := filepath.Join(base, "home")
	must(t, os.Mkdir(home, 0o700))
	env, key := write(t, home, "app.env", "A=b\n", 0o600), write(t, home, "s3.secret", "key\n", 0o600)
	for _, path := range []string{home, env} {
		must(t, os.Chown(path, 12345, 12345))
	}
	o := bare(t, "")
	o.Flags = map[string]any{
		"channels.repo": "file:///none/channels.git", "storage.url": "s3://releases", "storage.endpoint": "https://127.0.0.1:1",
		"storage.access_key_file": write(t, filepath.Dir(o.File), "good", "x\n", 0o600), "storage.secret_key_file": key, "env.files": []string{env},
	}
	o.limit = 100 * time.Millisecond
	told := 0
	for _, c := range Examine(t.Context(), o) {
		if strings.Contains(c.Mend, home) && !strings.Contains(c.Mend, "move "+home) {
			t.Errorf("%s: %s\n  mend: %s", c.Name, c.Found, c.Mend)
		}
		if strings.Contains(c.Mend, "leave it, move "+env) || strings.Contains(c.Mend, "leave it, move "+key) {
			told++
		}
	}
	if told < 2 {
		t.Errorf("%d of the two files are told of", told)
	}
}

// Of a release of another deployer, files may be the app's own.
func TestAsRootMendForeign(t *testing.T) {
	testenv.Root(t, "a release of another user")
	o := bare(t, local)
	root := filepath.Join(filepath.Dir(o.File), "mnw")
	must(t, os.MkdirAll(root+"/releases/1.0.0", 0o755))
	must(t, os.Chown(root+"/releases/1.0.0", 12345, 12345))
	must(t, os.Symlink("releases/1.0.0", root+"/current"))
	for _, c := range Examine(t.Context(), o) {
		if !strings.Contains(c.Found, "can be changed by others") {
			continue
		}
		if c.Command || !strings.Contains(c.Mend, "`builder enroll alpha --tier b -- --adopt`") {
			t.Errorf("the mend is %s", c.Mend)
		}
		return
	}
	t.Error("it is not told")
}
