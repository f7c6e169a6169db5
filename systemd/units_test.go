package systemd

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
)

// install writes the units as they are for the app mnw, on a machine that has the puller in
// the directory bin, and returns their paths.
func install(t *testing.T, bin string) []string {
	t.Helper()
	var paths []string
	dir := t.TempDir()
	err := fs.WalkDir(Units(), ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(Units(), name)
		if err != nil {
			return err
		}
		path := filepath.Join(dir, strings.Replace(name, "@", "@mnw", 1))
		paths = append(paths, path)
		return os.WriteFile(path, []byte(strings.ReplaceAll(string(data), "/usr/local/bin", bin)), 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(paths) != 3 {
		t.Fatalf("units: %q", paths)
	}
	return paths
}

func TestUnits(t *testing.T) {
	analyze := testenv.Program(t, "systemd-analyze")
	bin := t.TempDir()
	if err := os.WriteFile(bin+"/puller", []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	paths := install(t, bin)
	out, err := exec.Command(analyze, append([]string{"verify", "--man=no"}, paths...)...).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}

	exposure := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	for _, path := range paths {
		if filepath.Ext(path) != ".service" {
			continue
		}
		out, err := exec.Command(analyze, "security", "--offline=yes", "--no-pager", path).CombinedOutput()
		m := exposure.FindSubmatch(out)
		if err != nil || m == nil {
			t.Fatalf("systemd-analyze security: %v\n%s", err, out)
		}
		t.Logf("%s", m[0])
		if level, err := strconv.ParseFloat(string(m[1]), 64); err != nil || level > 2.0 {
			t.Errorf("%s: exposure level %s, want 2.0 at most\n%s", filepath.Base(path), m[1], out)
		}
	}
}

// The shortest maintenance window is a minute. systemd adds the node's pause to each interval.
func TestTimerFindsEachWindow(t *testing.T) {
	data, err := fs.ReadFile(Units(), "puller-once@.timer")
	if err != nil {
		t.Fatal(err)
	}
	var most time.Duration
	for _, key := range []string{"OnUnitActiveSec", "RandomizedDelaySec", "AccuracySec"} {
		m := regexp.MustCompile(`(?m)^` + key + `=(\S+)$`).FindSubmatch(data)
		if m == nil {
			t.Fatalf("no %s", key)
		}
		d, err := time.ParseDuration(string(m[1]))
		if err != nil {
			t.Fatal(err)
		}
		most += d
	}
	if most > time.Minute {
		t.Errorf("a node looks every %s", most)
	}
}

// A unit file cannot include another, so the sandbox is written twice.
func TestSameSandbox(t *testing.T) {
	if a, b := sandbox(t, "puller@.service"), sandbox(t, "puller-once@.service"); a != b {
		t.Errorf("the sandboxes differ:\n%s\n\n%s", a, b)
	}
}
