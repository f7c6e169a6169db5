package rules

import (
	"fmt"
	"maps"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// topLevel: the repository has one room for everything, and the rooms are these. What
// .gitignore names there is not part of it.
func topLevel(names []string, ignored string) []string {
	allowed := strings.Fields("builder puller signing layout channels systemd go.mod Makefile README.md " +
		"cmd internal e2e docs tools go.sum CHANGELOG.md LICENSE")
	var found []string
	for _, name := range names {
		if strings.HasPrefix(name, ".") || slices.Contains(allowed, name) ||
			slices.ContainsFunc(strings.Fields(ignored), func(pattern string) bool {
				ok, err := path.Match(strings.Trim(pattern, "/"), name)
				return ok && err == nil
			}) {
			continue
		}
		found = append(found, fmt.Sprintf("%s: not a room of the top level", name))
	}
	return found
}

func TestTopLevel(t *testing.T) {
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	for _, finding := range topLevel(names, read(t, ".gitignore")) {
		t.Error(finding)
	}
}

func TestTopLevelBad(t *testing.T) {
	names := strings.Fields(".ci .git .golangci.toml bin builder cmd go.mod main.go pkg puller util x.prof")
	want := []string{
		"main.go: not a room of the top level",
		"pkg: not a room of the top level",
		"util: not a room of the top level",
	}
	if diff := cmp.Diff(want, topLevel(names, "/bin/\n/dist/\n*.prof\n")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// dependencies: every direct requirement of go.mod has its row in docs/dependencies.md,
// and every row there is one.
func dependencies(mod, doc string) []string {
	direct := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(?:require |\t)(\S+\.\S+) v\S+$`).FindAllStringSubmatch(mod, -1) {
		direct[m[1]] = true
	}
	var found []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)`").FindAllStringSubmatch(doc, -1) {
		if !direct[m[1]] {
			found = append(found, fmt.Sprintf("docs/dependencies.md: %s is no direct requirement of go.mod, or has a second row", m[1]))
		}
		delete(direct, m[1])
	}
	for name := range direct {
		found = append(found, fmt.Sprintf("docs/dependencies.md: %s has no row", name))
	}
	slices.Sort(found)
	return found
}

func TestDependencies(t *testing.T) {
	for _, finding := range dependencies(read(t, "go.mod"), read(t, "docs/dependencies.md")) {
		t.Error(finding)
	}
}

func TestDependenciesBad(t *testing.T) {
	const mod = "module makenot.work/sando\n\ngo 1.26.5\n\nrequire (\n\texample.org/a/v2 v2.0.1\n\texample.org/b v0.1.0\n)\n\n" +
		"require example.org/c v1.0.0\n\nrequire (\n\texample.org/d v1.0.0 // indirect\n)\n"
	const doc = "| module | what |\n|---|---|\n| `example.org/a/v2` | a |\n| `example.org/b` | b |\n| `example.org/c` | c |\n"
	for _, c := range []struct {
		name, mod, doc string
		want           []string
	}{
		{"good", mod, doc, nil},
		{"no row", mod, strings.Replace(doc, "| `example.org/b` | b |\n", "", 1),
			[]string{"docs/dependencies.md: example.org/b has no row"}},
		{"row of an indirect one", mod, doc + "| `example.org/d` | d |\n",
			[]string{"docs/dependencies.md: example.org/d is no direct requirement of go.mod, or has a second row"}},
		{"two rows", mod, doc + "| `example.org/c` | c |\n",
			[]string{"docs/dependencies.md: example.org/c is no direct requirement of go.mod, or has a second row"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, dependencies(c.mod, c.doc)); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

// rooms: the map in docs/hacking.md names every package, by its path or by its last element,
// and its first column names nothing else.
func rooms(dirs []string, doc string) []string {
	var found []string
	for _, dir := range dirs {
		if !strings.Contains(doc, "`"+dir+"`") && !strings.Contains(doc, "`"+path.Base(dir)+"`") {
			found = append(found, fmt.Sprintf("docs/hacking.md: %s is not on the map", dir))
		}
	}
	for _, row := range regexp.MustCompile("(?m)^\\| (`[^|]*`) \\|").FindAllStringSubmatch(doc, -1) {
		for name := range strings.SplitSeq(row[1], ", ") {
			if dir := strings.Trim(name, "`"); !slices.Contains(dirs, dir) {
				found = append(found, fmt.Sprintf("docs/hacking.md: %s is on the map and nowhere else", dir))
			}
		}
	}
	return found
}

func TestRooms(t *testing.T) {
	dirs := slices.Sorted(maps.Keys(packages(load(t))))
	for _, finding := range rooms(dirs, read(t, "docs/hacking.md")) {
		t.Error(finding)
	}
}

func TestRoomsBad(t *testing.T) {
	const doc = "| package | room |\n|---|---|\n| `layout`, `gone` | x |\n| `e2e` | y, and `demo` |\n"
	want := []string{
		"docs/hacking.md: layout/tree is not on the map",
		"docs/hacking.md: gone is on the map and nowhere else",
	}
	if diff := cmp.Diff(want, rooms([]string{"e2e", "e2e/demo", "layout", "layout/tree"}, doc)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// helpless: make help shows every target that a person can ask for.
func helpless(makefile string) []string {
	var found []string
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):(.*)$`).FindAllStringSubmatch(makefile, -1) {
		if !strings.Contains(m[2], " ## ") {
			found = append(found, fmt.Sprintf("Makefile: %s has no comment for make help", m[1]))
		}
	}
	return found
}

func TestHelp(t *testing.T) {
	for _, finding := range helpless(read(t, "Makefile")) {
		t.Error(finding)
	}
}

func TestHelpBad(t *testing.T) {
	want := []string{"Makefile: short-fuzz has no comment for make help"}
	if diff := cmp.Diff(want, helpless("A := b\n.PHONY: fuzz\nfuzz: a ## do it\n\ttrue\nshort-fuzz: a\n\ttrue\n")); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(root + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
