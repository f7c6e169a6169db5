package cli

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv"
)

// A build runs as the user of the builder, and does not get at the passphrase that the
// builder was started with.
func TestBuildSeesNoPassphrase(t *testing.T) {
	testenv.User(t, "root reads the environment of every process")
	dir, src := workshop(t)
	put(t, src, map[string]string{"build.sh": `mkdir -p out
cp code out/app
env >` + dir + `/own
tr '\0' '\n' </proc/$$/environ >` + dir + `/self
for file in environ mem; do
	cat /proc/$PPID/$file >>` + dir + `/parent 2>>` + dir + `/refused
done
true
`})
	git(t, src, "commit", "-qam", "look around")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(self, "release", "-q")
	c.Env = append(os.Environ(), "TEST_BE_BUILDER=1")
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	read := func(name string) string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if !strings.Contains(read("self"), "SANDO_VERSION=1.0.0") {
		t.Error("the build does not see its own environment: it shows nothing")
	}
	for _, name := range []string{"own", "self", "parent"} {
		if strings.Contains(read(name), "SANDO_KEY_PASSWORD") {
			t.Errorf("%s: the build sees the passphrase", name)
		}
	}
	if n := strings.Count(read("refused"), "Permission denied"); n != 2 {
		t.Errorf("refused %d times, want 2:\n%s", n, read("refused"))
	}
}
