package rules

import (
	"go/ast"
	"go/token"
	"slices"
	"strings"
)

// varExceptions returns the package variables that change, "FILE NAME".
func varExceptions() []string {
	return []string{
		// Counts the operations of the whole process, which is what a fault is chosen by;
		// only builds with the tag "faults" have it.
		"internal/durable/fault.go ops",
	}
}

// variables: a package variable outside of tests is a constant that Go has no constant
// for: a sentinel error, a pattern, a type, an array of plain values, an embedded file.
// Maps and slices are not: whoever gets hold of one can change it.
func variables(f *file) []string {
	if f.test() {
		return nil
	}
	var found []string
	eachVar(f, func(decl *ast.GenDecl, spec *ast.ValueSpec) {
		for i, name := range spec.Names {
			switch {
			case name.Name == "_", slices.Contains(varExceptions(), f.name+" "+name.Name):
			case len(spec.Values) > i && fixed(f, spec.Values[i]):
			case len(spec.Values) == 0 && embedded(decl, spec):
			default:
				found = append(found, f.at(name, "package variable %s may change: make it a constant, an array or a function", name.Name))
			}
		}
	})
	return found
}

func eachVar(f *file, do func(decl *ast.GenDecl, spec *ast.ValueSpec)) {
	for _, d := range f.ast.Decls {
		if decl, ok := d.(*ast.GenDecl); ok && decl.Tok == token.VAR {
			for _, spec := range decl.Specs {
				do(decl, spec.(*ast.ValueSpec))
			}
		}
	}
}

// fixed reports whether a variable that starts as value and is never written stays so.
func fixed(f *file, value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.CompositeLit:
		array, ok := v.Type.(*ast.ArrayType)
		return ok && array.Len != nil && plain(array.Elt)
	case *ast.CallExpr:
		ok := false
		f.selected(v.Fun, func(_ *ast.SelectorExpr, pkg, name string) {
			ok = ok || slices.Contains([]string{"errors.New", "fmt.Errorf", "regexp.MustCompile", "reflect.TypeFor"}, pkg+"."+name)
		})
		return ok
	}
	return false
}

// plain reports whether values of the type are copied whole, as far as that can be seen
// here: a named type is trusted.
func plain(elem ast.Expr) bool {
	switch e := elem.(type) {
	case *ast.Ident, *ast.SelectorExpr:
		return true
	case *ast.ArrayType:
		return e.Len != nil && plain(e.Elt)
	case *ast.StructType:
		return !slices.ContainsFunc(e.Fields.List, func(f *ast.Field) bool { return !plain(f.Type) })
	}
	return false
}

func embedded(decl *ast.GenDecl, spec *ast.ValueSpec) bool {
	for _, doc := range []*ast.CommentGroup{decl.Doc, spec.Doc} {
		if doc == nil {
			continue
		}
		for _, c := range doc.List {
			if strings.HasPrefix(c.Text, "//go:embed ") {
				return true
			}
		}
	}
	return false
}

// written: nothing assigns to a package variable, to a part of it, or takes its address,
// in tests neither. Only names are compared, so a local variable that is written must not
// be named like one of the package.
func written(files []*file) []string {
	vars := map[string]bool{} // "DIR.NAME"
	for _, f := range files {
		eachVar(f, func(_ *ast.GenDecl, spec *ast.ValueSpec) {
			for _, name := range spec.Names {
				vars[f.dir()+"."+name.Name] = name.Name != "_"
			}
		})
	}
	return each(func(f *file) []string {
		var found []string
		writes(f.ast, func(target ast.Expr) {
			if name := owner(f, target); vars[name] {
				found = append(found, f.at(target, "package variable %s is written", name))
			}
		})
		return found
	})(files)
}

// writes calls found for every expression in n that is written or whose address is taken.
func writes(n ast.Node, found func(target ast.Expr)) {
	ast.Inspect(n, func(n ast.Node) bool {
		var targets []ast.Expr
		switch n := n.(type) {
		case *ast.AssignStmt:
			if n.Tok != token.DEFINE {
				targets = n.Lhs
			}
		case *ast.RangeStmt:
			if n.Tok == token.ASSIGN {
				targets = []ast.Expr{n.Key, n.Value}
			}
		case *ast.IncDecStmt:
			targets = []ast.Expr{n.X}
		case *ast.UnaryExpr:
			if n.Op == token.AND {
				targets = []ast.Expr{n.X}
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.Ident); ok && len(n.Args) > 0 && slices.Contains([]string{"delete", "clear", "copy"}, f.Name) {
				targets = n.Args[:1]
			}
		}
		for _, target := range targets {
			if target != nil {
				found(target)
			}
		}
		return true
	})
}

// owner returns the variable "DIR.NAME" that target is, or is a part of, if that is a
// variable of a package.
func owner(f *file, target ast.Expr) string {
	switch x := target.(type) {
	case *ast.Ident:
		return f.dir() + "." + x.Name
	case *ast.SelectorExpr:
		other := ""
		if _, ok := x.X.(*ast.Ident); ok {
			f.selected(x, func(_ *ast.SelectorExpr, pkg, name string) { other = pkg + "." + name })
		}
		if other != "" {
			return other
		}
		return owner(f, x.X)
	case *ast.IndexExpr:
		return owner(f, x.X)
	case *ast.SliceExpr:
		return owner(f, x.X)
	case *ast.StarExpr:
		return owner(f, x.X)
	case *ast.ParenExpr:
		return owner(f, x.X)
	}
	return ""
}

// inits: nothing runs before main but what a person reads there.
func inits(f *file) []string {
	var found []string
	for _, d := range f.ast.Decls {
		if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
			found = append(found, f.at(fn, "func init: do it where it is needed"))
		}
	}
	return found
}

func stateSamples() []sample {
	const good = `package layout
import ("embed"; "errors"; "reflect"; "regexp")
var (
	ErrA  = errors.New("a")
	form  = regexp.MustCompile("a")
	typ   = reflect.TypeFor[int]()
	names = [...]string{"a", "b"}
	pairs = [...][2]string{{"a", "b"}}
	rows  = [...]struct{ a, b string }{{"a", "b"}}
)
//go:embed a.txt
var text string
var _ error = (*E)(nil)
func f() { local := names; local[0] = "x"; println(local) }
`
	return []sample{
		{"variables", map[string]string{"layout/a.go": good, "layout/a_test.go": `package layout; var seen = map[string]bool{}`}, nil},
		{"variables", map[string]string{"layout/a.go": `package layout; import "errors"
var count int
var names = []string{"a"}
var table = map[string]int{"a": 1}
var now = time.Now
var rows = [...][]string{{"a"}}
var a, b = errors.New("a"), 1
`}, []string{
			"layout/a.go:2: package variable count may change: make it a constant, an array or a function",
			"layout/a.go:3: package variable names may change: make it a constant, an array or a function",
			"layout/a.go:4: package variable table may change: make it a constant, an array or a function",
			"layout/a.go:5: package variable now may change: make it a constant, an array or a function",
			"layout/a.go:6: package variable rows may change: make it a constant, an array or a function",
			"layout/a.go:7: package variable b may change: make it a constant, an array or a function",
		}},
		{"variables", map[string]string{
			"internal/durable/fault.go": "package durable; var ops atomic.Int64",
			"internal/durable/other.go": "package durable; var ops atomic.Int64",
		}, []string{
			"internal/durable/other.go:1: package variable ops may change: make it a constant, an array or a function",
		}},

		{"written", map[string]string{"layout/a.go": good}, nil},
		{"written", map[string]string{
			"layout/a.go": good,
			"layout/b.go": `package layout
func g() {
	names[0] = "x"
	rows[1].a += "x"
	form = nil
	for form = range all() {}
	p := &pairs[0]
}
`,
			"layout/b_test.go": "package layout\nfunc h() { (typ) = nil; clear(seen) }\nvar seen = map[string]bool{}",
			"puller/a.go": `package puller
import "makenot.work/sando/layout"
func g() { layout.ErrA = nil }
`,
		}, []string{
			"layout/b.go:3: package variable layout.names is written",
			"layout/b.go:4: package variable layout.rows is written",
			"layout/b.go:5: package variable layout.form is written",
			"layout/b.go:6: package variable layout.form is written",
			"layout/b.go:7: package variable layout.pairs is written",
			"layout/b_test.go:2: package variable layout.seen is written",
			"layout/b_test.go:2: package variable layout.typ is written",
			"puller/a.go:3: package variable layout.ErrA is written",
		}},

		{"init", map[string]string{
			"layout/a.go":      "package layout; func init() {}",
			"layout/a_test.go": "package layout; func init() {}",
			"puller/a.go":      "package puller; type s int; func (s) init() {}; func initState() {}",
		}, []string{
			"layout/a.go:1: func init: do it where it is needed",
			"layout/a_test.go:1: func init: do it where it is needed",
		}},
	}
}
