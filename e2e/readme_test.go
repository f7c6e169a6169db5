package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/testenv"
)

var (
	readmeSession = regexp.MustCompile("(?s)\n```bash\n(.*?)```\n")
	// A comment behind a command of the app says what it prints.
	readmePrints = regexp.MustCompile(`(?m)^node/current/\S+ +# (.+)$`)
)

// TestReadme pastes the session of the README into bash, in a copy of this repository.
func TestReadme(t *testing.T) {
	testenv.Need(t, !testing.Short(), "the time to build both programs: run without -short")
	bash := testenv.Program(t, "bash")
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	found := readmeSession.FindAllSubmatch(text, -1)
	if len(found) != 1 {
		t.Fatalf("README.md has %d sessions, want 1", len(found))
	}
	session := string(found[0][1])
	clone, home, tmp := t.TempDir(), t.TempDir(), t.TempDir()
	if err := os.Chmod(tmp, 0o700); err != nil { // whatever the umask: like /tmp, nobody else's
		t.Fatal(err)
	}
	copySource(t, clone)
	before := names(t, clone)

	cmd := exec.CommandContext(t.Context(), bash, "--norc", "-euo", "pipefail")
	cmd.Dir = clone
	cmd.Stdin = strings.NewReader(session) // as when pasted: a program that reads would swallow the rest
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + home, "TMPDIR=" + tmp,
		"GOCACHE=" + goEnv(t, "GOCACHE"), "GOMODCACHE=" + goEnv(t, "GOMODCACHE"),
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	// Each line is where it belongs, after the ones before it.
	rest := string(out)
	prints := readmePrints.FindAllStringSubmatch(session, -1)
	if len(prints) < 3 {
		t.Fatalf("the session says %d times what the app prints, want at least 3", len(prints))
	}
	for _, p := range prints {
		_, after, ok := strings.Cut(rest, "\n"+p[1]+"\n")
		if !ok {
			t.Fatalf("no line %q in\n%s", p[1], rest)
		}
		rest = after
	}
	for _, want := range []string{"pinned: runs 1.0.0", "current     runs 2.0.0", "updated from 1.0.0 to 2.0.0: by channel \"a\""} {
		if !strings.Contains(string(out), want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	want := slices.Sorted(slices.Values(append(before, "bin", "bin/builder", "bin/puller")))
	if diff := cmp.Diff(want, names(t, clone)); diff != "" {
		t.Errorf("it left something in the clone (-want +got)\n%s", diff)
	}
	checkReadmeNode(t, tmp)
}

// TestReadmeLinks follows the links of the README.
func TestReadmeLinks(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	links := regexp.MustCompile(`\]\(([^)#]+)`).FindAllSubmatch(text, -1)
	if len(links) == 0 {
		t.Fatal("README.md has no links")
	}
	for _, l := range links {
		if info, err := os.Stat(filepath.Join("..", string(l[1]))); err != nil || !info.Mode().IsRegular() {
			t.Errorf("README.md links to %s, which is no file: %v", l[1], err)
		}
	}
}

// checkReadmeNode looks at what the session leaves in the directory that it makes.
func checkReadmeNode(t *testing.T, tmp string) {
	t.Helper()
	nodes, err := filepath.Glob(filepath.Join(tmp, "*", "node"))
	if err != nil || len(nodes) != 1 {
		t.Fatalf("found %q, %v, want one node", nodes, err)
	}
	if link, err := os.Readlink(filepath.Join(nodes[0], "current")); err != nil || link != "releases/2.0.0" {
		t.Errorf("current is %q, %v, want releases/2.0.0", link, err)
	}
	if _, err := os.Stat(filepath.Join(nodes[0], ".sando", "pin.json")); !os.IsNotExist(err) {
		t.Errorf("a pin is left: %v", err)
	}
	if got := names(t, filepath.Join(nodes[0], "releases")); len(got) < 2 || got[0] != "1.0.0" {
		t.Errorf("releases are %q, want 1.0.0 and 2.0.0", got)
	}
}

// copySource copies what a fresh clone has, as far as Go needs it, to dir.
func copySource(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir("..", func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel("..", p)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name != "." && (strings.HasPrefix(name, ".") || name == "bin" || e.Name() == "testdata") {
				return fs.SkipDir
			}
			return os.MkdirAll(filepath.Join(dir, name), 0o755)
		}
		if !e.Type().IsRegular() {
			return nil
		}
		data, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name), data, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// names lists all that is below dir, sorted.
func names(t *testing.T, dir string) (all []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if name, rerr := filepath.Rel(dir, p); rerr == nil && name != "." {
			all = append(all, name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(all)
	return all
}
