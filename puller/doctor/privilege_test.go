package doctor

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"makenot.work/sando/internal/testenv"
)

// What only root's privilege opens, the puller in its sandbox cannot read; and doctor has its
// privilege back afterwards.
func TestAsRootReadable(t *testing.T) {
	testenv.Root(t, "another user's file")
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "secret")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readable(file); err != nil {
		t.Errorf("its own file: %v", err)
	}
	if err := os.Chown(file, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if err := readable(file); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("another user's file: %v, want %v", err, fs.ErrPermission)
	}
	if _, err := os.ReadFile(file); err != nil {
		t.Errorf("the privilege is lost: %v", err)
	}
}
