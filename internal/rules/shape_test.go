package rules

import (
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const (
	maxFile = 600 // lines
	maxFunc = 100
)

func fileSize(f *file) []string {
	if n := f.set.File(f.ast.FileStart).LineCount(); n > maxFile {
		return []string{fmt.Sprintf("%s: %d lines, more than %d", f.name, n, maxFile)}
	}
	return nil
}

func funcSize(f *file) []string {
	var found []string
	for _, d := range f.ast.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if from, to := f.lines(fn); to-from+1 > maxFunc {
			found = append(found, f.at(fn, "func %s has %d lines, more than %d", fn.Name.Name, to-from+1, maxFunc))
		}
	}
	return found
}

// exitExceptions returns the functions that end the process, "FILE FUNC".
func exitExceptions() []string {
	return []string{
		"e2e/e2e_test.go program", // runs as the main function of a program under testscript
	}
}

// exits: a program ends in its func main, in cmd or in e2e, and tests in TestMain; nothing
// else takes the process away from its caller.
func exits(f *file) []string {
	program := f.ast.Name.Name == "main" && (within(f.dir(), "cmd/...") || within(f.dir(), "e2e/..."))
	var found []string
	for _, d := range f.ast.Decls {
		may := false
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil {
			may = program && fn.Name.Name == "main" || f.test() && fn.Name.Name == "TestMain" ||
				slices.Contains(exitExceptions(), f.name+" "+fn.Name.Name)
		}
		f.selected(d, func(sel *ast.SelectorExpr, pkg, name string) {
			switch {
			case pkg == "os" && name == "Exit" && !may,
				pkg == "syscall" && name == "Exit",
				pkg == "log" && strings.HasPrefix(name, "Fatal"):
				found = append(found, f.at(sel, "%s.%s: return an error", pkg, name))
			}
		})
	}
	return found
}

// sleeps: nothing sleeps. A test waits for what is to happen, or sleeps in the bubble of
// synctest.Test, where that takes no time; a program waits on its context as well.
func sleeps(f *file) []string {
	bubbles := map[token.Pos]token.Pos{}
	ast.Inspect(f.ast, func(n ast.Node) bool {
		if call, ok := n.(*ast.CallExpr); ok {
			f.selected(call.Fun, func(_ *ast.SelectorExpr, pkg, name string) {
				if pkg == "testing/synctest" && name == "Test" {
					bubbles[call.Pos()] = call.End()
				}
			})
		}
		return true
	})
	var found []string
	f.selected(f.ast, func(sel *ast.SelectorExpr, pkg, name string) {
		if pkg != "time" || name != "Sleep" {
			return
		}
		for from, to := range bubbles {
			if from < sel.Pos() && sel.Pos() < to {
				return
			}
		}
		found = append(found, f.at(sel, "time.Sleep: wait for what is to happen, and on the context"))
	})
	return found
}

// skips: a test that is skipped in its own words would be skipped in CI as well. What
// needs root has a name that make test can leave out.
func skips(f *file) []string {
	if f.dir() == "internal/testenv" {
		return nil
	}
	var found []string
	ast.Inspect(f.ast, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		sel, ok := call.Fun.(*ast.SelectorExpr)
		if ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, sel.Sel.Name) {
			found = append(found, f.at(call, "%s: skip by internal/testenv, which fails under CI=true", sel.Sel.Name))
		}
		return true
	})
	for _, d := range f.ast.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(fn.Name.Name, "TestAsRoot") {
			continue
		}
		f.selected(d, func(sel *ast.SelectorExpr, pkg, name string) {
			if pkg == "internal/testenv" && name == "Root" && !within(f.dir(), "internal/testenv/...") {
				found = append(found, f.at(sel, "testenv.Root: name the test TestAsRoot…, and call it there"))
			}
		})
	}
	return found
}

// wantErr: a test says which error it wants.
func wantErr(f *file) []string {
	var found []string
	ast.Inspect(f.ast, func(n ast.Node) bool {
		field, ok := n.(*ast.Field)
		if !ok {
			return true
		}
		typ, ok := field.Type.(*ast.Ident)
		for _, name := range field.Names {
			if ok && typ.Name == "bool" && strings.EqualFold(name.Name, "wantErr") {
				found = append(found, f.at(field, "%s bool: say which error", name.Name))
			}
		}
		return true
	})
	return found
}

// notes: what is left to do is not left in comments.
func notes(f *file) []string {
	word := regexp.MustCompile(`\b(TODO|FIXME|XXX)\b`)
	var found []string
	for _, group := range f.ast.Comments {
		for _, c := range group.List {
			if m := word.FindString(c.Text); m != "" {
				found = append(found, f.at(c, "%s: do it", m))
			}
		}
	}
	return found
}

// packageDocs: every package says in more than a line what it is, in a file that is
// compiled into it.
func packageDocs(files []*file) []string {
	var found []string
	dirs := packages(files)
	for _, dir := range slices.Sorted(maps.Keys(dirs)) {
		onlyTests := !slices.ContainsFunc(dirs[dir], func(f *file) bool { return !f.test() })
		if !slices.ContainsFunc(dirs[dir], func(f *file) bool {
			return (onlyTests || !f.test()) && f.ast.Doc != nil && strings.Count(strings.TrimSpace(f.ast.Doc.Text()), "\n") > 0
		}) {
			found = append(found, dir+": no package doc of more than a line")
		}
	}
	return found
}

// exportedDocs: what a package offers has a comment, or belongs to a group that has one.
// The methods Error, Unwrap and String mean what they always mean.
func exportedDocs(f *file) []string {
	if f.test() || f.ast.Name.Name == "main" {
		return nil
	}
	var found []string
	for _, d := range f.ast.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			known := d.Recv != nil && slices.Contains([]string{"Error", "Unwrap", "String"}, d.Name.Name)
			if d.Name.IsExported() && d.Doc == nil && !known && (d.Recv == nil || receiver(d).IsExported()) {
				found = append(found, f.at(d, "func %s has no comment", d.Name.Name))
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				if name, ok := undocumented(spec); ok && d.Doc == nil {
					found = append(found, f.at(spec, "%s %s has no comment", d.Tok, name))
				}
			}
		}
	}
	return found
}

func receiver(fn *ast.FuncDecl) *ast.Ident {
	typ := fn.Recv.List[0].Type
	for {
		switch t := typ.(type) {
		case *ast.StarExpr:
			typ = t.X
		case *ast.IndexExpr:
			typ = t.X
		case *ast.IndexListExpr:
			typ = t.X
		case *ast.Ident:
			return t
		default:
			return &ast.Ident{}
		}
	}
}

// undocumented returns an exported name of spec that has no comment of its own.
func undocumented(spec ast.Spec) (string, bool) {
	switch s := spec.(type) {
	case *ast.TypeSpec:
		return s.Name.Name, s.Name.IsExported() && s.Doc == nil
	case *ast.ValueSpec:
		for _, name := range s.Names {
			if name.IsExported() && s.Doc == nil && s.Comment == nil {
				return name.Name, true
			}
		}
	}
	return "", false
}

func shapeSamples() []sample {
	return slices.Concat(sizeSamples(), processSamples(), testSamples(), wordSamples())
}

func sizeSamples() []sample {
	function := func(lines int) string { return "func f() {" + strings.Repeat("\n", lines-1) + "}\n" }
	filler := func(lines int) string { return "package layout\n" + strings.Repeat("\n", lines-1) }
	return []sample{
		{"file size", map[string]string{"layout/a.go": filler(601), "layout/b_test.go": filler(600)},
			[]string{"layout/a.go: 601 lines, more than 600"}},
		{"func size", map[string]string{
			"layout/a.go":      "package layout\n\n" + function(101),
			"layout/b_test.go": "package layout\n\n" + function(100),
		}, []string{"layout/a.go:3: func f has 101 lines, more than 100"}},
	}
}

func processSamples() []sample {
	const program = `package main
import ("log"; "os"; sys "os")
func main() { os.Exit(run()) }
func run() int { sys.Exit(1); return 1 }
func die() { log.Fatalf("x") }
func TestMain() { os.Exit(1) }
`
	return []sample{
		{"exit", map[string]string{"cmd/puller/main.go": program}, []string{
			"cmd/puller/main.go:4: os.Exit: return an error",
			"cmd/puller/main.go:5: log.Fatalf: return an error",
			"cmd/puller/main.go:6: os.Exit: return an error",
		}},
		{"exit", map[string]string{"puller/a.go": `package puller; import "os"; func main() { f(os.Exit) }`},
			[]string{"puller/a.go:1: os.Exit: return an error"}},
		{"exit", map[string]string{
			"cmd/puller/main.go": `package main; import "os"; func main() { os.Exit(1) }`,
			"e2e/demo/main.go":   `package main; import "os"; func main() { os.Exit(1) }`,
			"e2e/main_test.go":   `package e2e; import "os"; func TestMain(m *testing.M) { os.Exit(m.Run()) }`,
		}, nil},

		{"sleep", map[string]string{
			"puller/a.go":      `package puller; import "time"; func f() { time.Sleep(1) }`,
			"puller/a_test.go": `package puller; import clock "time"; func f() { clock.Sleep(1) }`,
		}, []string{
			"puller/a.go:1: time.Sleep: wait for what is to happen, and on the context",
			"puller/a_test.go:1: time.Sleep: wait for what is to happen, and on the context",
		}},
		{"sleep", map[string]string{"puller/a_test.go": `package puller
import ("time"; "testing/synctest")
func f(t *testing.T) { synctest.Test(t, func(t *testing.T) { time.Sleep(1) }) }
func g(t *testing.T) { time.Sleep(1) }
`}, []string{"puller/a_test.go:4: time.Sleep: wait for what is to happen, and on the context"}},
	}
}

func testSamples() []sample {
	return []sample{
		{"skip", map[string]string{"puller/a_test.go": `package puller
func f(t *testing.T) {
	if t.Skipped() { t.Skip("no root") }
	t.SkipNow()
}
`}, []string{
			"puller/a_test.go:3: Skip: skip by internal/testenv, which fails under CI=true",
			"puller/a_test.go:4: SkipNow: skip by internal/testenv, which fails under CI=true",
		}},
		{"skip", map[string]string{
			"internal/testenv/testenv.go": `package testenv; func f(t testing.TB) { t.Skipf("x") }`,
			"puller/a_test.go":            `package puller; func f(t *testing.T) { testenv.Need(t, false, "x") }`,
		}, nil},
		{"skip", map[string]string{"puller/a_test.go": "package puller\nimport \"makenot.work/sando/internal/testenv\"\n" +
			"func TestAsRootMount(t *testing.T) { testenv.Root(t, `a mount`) }\n" +
			"func TestMount(t *testing.T) { testenv.Root(t, `a mount`) }\n" +
			"func mount(t *testing.T) { testenv.Root(t, `a mount`) }\n"}, []string{
			"puller/a_test.go:4: testenv.Root: name the test TestAsRoot…, and call it there",
			"puller/a_test.go:5: testenv.Root: name the test TestAsRoot…, and call it there",
		}},

		{"wantErr", map[string]string{"puller/a_test.go": `package puller
type row struct { wantErr bool }
func f(WantErr bool) {}
`}, []string{
			"puller/a_test.go:2: wantErr bool: say which error",
			"puller/a_test.go:3: WantErr bool: say which error",
		}},
		{"wantErr", map[string]string{"puller/a_test.go": "package puller; type row struct { wantErr error; want bool }"}, nil},
	}
}

func wordSamples() []sample {
	const doc = "// Package layout is one thing.\n// It says so.\npackage layout\n"
	return []sample{
		{"notes", map[string]string{"layout/a.go": "package layout\n// TODO: later\n/* a\nFIXME */\nvar a = `XXX` // XXX\n"}, []string{
			"layout/a.go:2: TODO: do it",
			"layout/a.go:3: FIXME: do it",
			"layout/a.go:5: XXX: do it",
		}},
		{"notes", map[string]string{"layout/a.go": "package layout\n// mastodons, TODOS\n"}, nil},

		{"package doc", map[string]string{
			"layout/a.go":      "package layout",
			"layout/a_test.go": doc,
			"puller/a.go":      "// Package puller is one thing.\npackage puller",
			"e2e/a_test.go":    "package e2e",
		}, []string{
			"e2e: no package doc of more than a line",
			"layout: no package doc of more than a line",
			"puller: no package doc of more than a line",
		}},
		{"package doc", map[string]string{
			"layout/a.go":   doc,
			"layout/b.go":   "package layout",
			"e2e/a_test.go": doc,
		}, nil},

		{"exported doc", map[string]string{"layout/a.go": `package layout
func F() {}
type T struct{}
func (t *T) M() {}
func (t T) m() {}
func (t g[A]) M() {}
func (t G[A]) M() {}
func (t T) Error() string { return "" }
func String() string { return "" }
const (
	A = 1
	B = 2 // is two
	c = 3
)
var d, E = 1, 2
`}, []string{
			"layout/a.go:11: const A has no comment",
			"layout/a.go:15: var E has no comment",
			"layout/a.go:2: func F has no comment",
			"layout/a.go:3: type T has no comment",
			"layout/a.go:4: func M has no comment",
			"layout/a.go:7: func M has no comment",
			"layout/a.go:9: func String has no comment",
		}},
		{"exported doc", map[string]string{
			"layout/a.go": `package layout
// F is a function.
func F() {}
// T is a type.
type T struct{}
// A and B are constants.
const (
	A = 1
	B = 2
)
`,
			"layout/a_test.go": "package layout; func F() {}",
			"cmd/puller/a.go":  "package main; func F() {}",
		}, nil},
	}
}
