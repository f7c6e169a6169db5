package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// Programs returns a directory with the programs builder and puller, built as `make build`
// does but without the commit they are of. All tests share it, in bin/test: go build sees by
// itself whether what is there still is of this source, and linking once more for each test
// takes seconds. Copy them: another test may build them anew.
func Programs(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(top(t), "bin", "test")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", dir+"/",
		"makenot.work/sando/cmd/builder", "makenot.work/sando/cmd/puller")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return dir
}
