// Package rules holds what a compiler and a linter do not check and this project
// relies on. Its tests read the source of the whole module with go/parser; nothing
// imports it.
//
// A rule is a function from parsed files to findings. TestModule gives every rule the
// module itself, where nothing may be found. TestBad gives it small sources that break
// it, so that each rule has been seen failing; a rule without one is itself a finding.
//
//	imports_test.go   who may import whom, and what must stay out of reach
//	disk_test.go      renames, links and syncs belong to internal/durable
//	state_test.go     no package variables that change, no init functions
//	shape_test.go     sizes, docs, comments, os.Exit, skips, sleeps
//	files_test.go     the top level of the repository, the Makefile, the lists in docs
//
// A rule is not bent for one place by a comment there. Where good sense disagrees, the
// place goes into the rule's own table of exceptions, with the reason.
package rules

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "makenot.work/sando"

// root is the top of the module, seen from this package.
const root = "../.."

// A file is one parsed source of the module.
type file struct {
	name string // relative to the module, with slashes
	set  *token.FileSet
	ast  *ast.File
}

// dir is the directory of the file, which names its package within the module.
func (f *file) dir() string { return path.Dir(f.name) }

// test reports whether the file is compiled for tests only.
func (f *file) test() bool { return strings.HasSuffix(f.name, "_test.go") }

// lines returns the lines on which n begins and ends.
func (f *file) lines(n ast.Node) (from, to int) {
	return f.set.Position(n.Pos()).Line, f.set.Position(n.End()).Line
}

// at is a finding at n.
func (f *file) at(n ast.Node, format string, args ...any) string {
	from, _ := f.lines(n)
	return fmt.Sprintf("%s:%d: %s", f.name, from, fmt.Sprintf(format, args...))
}

// An imported is a package that a file imports.
type imported struct {
	*ast.ImportSpec
	path string // relative to the module for a package of it
	own  bool   // of the module
}

func (f *file) imports() []imported {
	var all []imported
	for _, spec := range f.ast.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser has read it
		}
		dir, own := strings.CutPrefix(p, module+"/")
		all = append(all, imported{spec, dir, own})
	}
	return all
}

// named returns the paths that the file imports by the name they have in it.
func (f *file) named() map[string]string {
	names := map[string]string{}
	for _, i := range f.imports() {
		name := path.Base(i.path)
		if i.Name != nil {
			name = i.Name.Name
		}
		names[name] = i.path
	}
	return names
}

// selected calls found for every X.Name in n where X is a package that the file
// imports. Packages of the module are given relative to it.
func (f *file) selected(n ast.Node, found func(sel *ast.SelectorExpr, pkg, name string)) {
	named := f.named()
	ast.Inspect(n, func(n ast.Node) bool {
		if sel, ok := n.(*ast.SelectorExpr); ok {
			if x, ok := sel.X.(*ast.Ident); ok && named[x.Name] != "" {
				found(sel, named[x.Name], sel.Sel.Name)
			}
		}
		return true
	})
}

func parse(name string, src []byte) (*file, error) {
	f := &file{name: name, set: token.NewFileSet()}
	var err error
	f.ast, err = parser.ParseFile(f.set, name, src, parser.ParseComments|parser.SkipObjectResolution)
	return f, err
}

// load parses every source of the module, whatever its build tags. Modules below it,
// test data and what begins with a dot are not part of it.
func load(t *testing.T) []*file {
	t.Helper()
	var files []*file
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := filepath.ToSlash(strings.TrimPrefix(p, root+string(filepath.Separator)))
		if d.IsDir() && p != root {
			_, err := os.Lstat(filepath.Join(p, "go.mod"))
			if err == nil || d.Name() == "testdata" || strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
		}
		if d.IsDir() || !strings.HasSuffix(name, ".go") {
			return nil
		}
		src, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		f, err := parse(name, src)
		files = append(files, f)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// packages sorts files by directory.
func packages(files []*file) map[string][]*file {
	dirs := map[string][]*file{}
	for _, f := range files {
		dirs[f.dir()] = append(dirs[f.dir()], f)
	}
	return dirs
}

// each makes a rule out of one that looks at a file alone.
func each(check func(f *file) []string) func([]*file) []string {
	return func(files []*file) []string {
		var found []string
		for _, f := range files {
			found = append(found, check(f)...)
		}
		return found
	}
}

func rules() map[string]func(files []*file) []string {
	return map[string]func(files []*file) []string{
		"directions":   each(directions),
		"strangers":    each(strangers),
		"pure":         each(pure),
		"reach":        reach,
		"durable":      each(durable),
		"variables":    each(variables),
		"written":      written,
		"init":         each(inits),
		"sleep":        each(sleeps),
		"skip":         each(skips),
		"wantErr":      each(wantErr),
		"file size":    each(fileSize),
		"func size":    each(funcSize),
		"exit":         each(exits),
		"notes":        each(notes),
		"package doc":  packageDocs,
		"exported doc": each(exportedDocs),
	}
}

// TestModule finds nothing when the module keeps every rule.
func TestModule(t *testing.T) {
	files := load(t)
	if len(files) < 50 {
		t.Fatalf("%d files: not the whole module", len(files))
	}
	for name, rule := range rules() {
		t.Run(name, func(t *testing.T) {
			for _, finding := range rule(files) {
				t.Error(finding)
			}
		})
	}
}

// A sample is a module of a few files that breaks one rule, or comes close to it.
type sample struct {
	rule  string
	files map[string]string
	want  []string // findings; none: the sample is allowed
}

// TestBad shows every rule its samples.
func TestBad(t *testing.T) {
	samples := slices.Concat(importSamples(), diskSamples(), stateSamples(), shapeSamples())
	broken := map[string]bool{}
	for i, s := range samples {
		t.Run(fmt.Sprintf("%s %d", s.rule, i), func(t *testing.T) {
			var files []*file
			for _, name := range slices.Sorted(maps.Keys(s.files)) {
				f, err := parse(name, []byte(s.files[name]))
				if err != nil {
					t.Fatal(err)
				}
				files = append(files, f)
			}
			rule := rules()[s.rule]
			if rule == nil {
				t.Fatalf("no rule %q", s.rule)
			}
			got := rule(files)
			slices.Sort(got)
			if diff := cmp.Diff(s.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
			broken[s.rule] = broken[s.rule] || len(got) > 0
		})
	}
	for name := range rules() {
		if !broken[name] {
			t.Errorf("rule %q has no sample that breaks it", name)
		}
	}
}
