// Package testenv says what a test needs and what happens where it is not there: the
// test is skipped loudly, so that a person who runs the tests without a program still
// gets an answer about the rest. Where the environment says CI=true everything has to
// be there, and the same skip is a failure: a test that never runs would pass for ever.
//
//	testenv.Program(t, "zstd")
//	testenv.Tool(t, "minio")
//	testenv.Root(t, "a real systemd")
//	testenv.User(t, "root may read everything")
//
// Nothing else skips a test. Only tests import this package.
//
// CI runs all tests as an ordinary user (make test) and then as root (make check). Tests
// that need root are named TestAsRoot…: make test leaves them out by that name, so that it
// passes under CI=true, and says so.
package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"testing"
)

// Need skips the test with the line "SKIP: needs WHAT" unless ok. Under CI=true the
// test fails instead.
func Need(t testing.TB, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("SKIP: needs %s (a failure because of CI=true)", what)
	}
	t.Skipf("SKIP: needs %s", what)
}

// Program needs the program name in PATH and returns where it is.
func Program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	Need(t, err == nil, "the program "+name)
	return path
}

// Tool needs a program that `make tools` builds, and returns where it is.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(top(t), "bin", "tools", name)
	info, err := os.Stat(path)
	Need(t, err == nil && info.Mode().IsRegular(), name+": run `make tools`")
	return path
}

// top returns the directory of the module. Tests run in the directory of their package.
func top(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
}

// Root needs root, and says what for. The test that calls it is named TestAsRoot….
func Root(t testing.TB, what string) {
	t.Helper()
	Need(t, os.Geteuid() == 0, "root: "+what)
}

// User needs an ordinary user, for example because root may read what a test has made
// unreadable; why says so. It skips under CI=true as well, because make test has run it.
func User(t testing.TB, why string) {
	t.Helper()
	if os.Geteuid() == 0 {
		t.Skipf("SKIP: needs an ordinary user: %s", why)
	}
}

// NoRace skips the test under the race detector, for example because memory is measured;
// why says so. It skips under CI=true as well, because make test has run it without.
func NoRace(t testing.TB, why string) {
	t.Helper()
	info, ok := debug.ReadBuildInfo()
	if ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		t.Skipf("SKIP: needs no race detector: %s", why)
	}
}
