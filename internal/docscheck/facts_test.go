package docscheck

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"makenot.work/sando/builder"
	"makenot.work/sando/builder/bundle"
	buildercli "makenot.work/sando/builder/cli"
	"makenot.work/sando/builder/stage"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	pullercli "makenot.work/sando/puller/cli"
	"makenot.work/sando/puller/doctor"
	"makenot.work/sando/puller/oldroot"
)

// facts maps the name of something to what can be said of it in a few words; the words
// may be empty.
type facts map[string]string

// programs returns the command trees, complete with what cobra adds when it runs them.
func programs() []*cobra.Command {
	std := cli.Std{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard, Env: func(string) string { return "" }}
	roots := []*cobra.Command{buildercli.Command(std), pullercli.Command(std)}
	for _, r := range roots {
		r.InitDefaultHelpCmd()
		r.InitDefaultCompletionCmd()
	}
	return roots
}

// each calls do for cmd and every command below it but help. The shells of the
// completion command count as one.
func each(cmd *cobra.Command, do func(path string, cmd *cobra.Command)) {
	path := cmd.CommandPath()
	do(path, cmd)
	for _, sub := range cmd.Commands() {
		switch {
		case sub.Name() == "help":
		case cmd.Name() == "completion":
			do(path, sub)
		default:
			each(sub, do)
		}
	}
}

// commands returns the flags of every command, without help. A flag says how it is
// written and its default: `-n --lines VALUE = 30`.
func commands(roots ...*cobra.Command) map[string]facts {
	listed := regexp.MustCompile(`(?m)^ +(?:-\w, )?--([a-z-]+)`)
	all := map[string]facts{}
	for _, r := range roots {
		each(r, func(path string, cmd *cobra.Command) {
			if all[path] == nil {
				all[path] = facts{}
			}
			for _, m := range listed.FindAllStringSubmatch(cmd.LocalFlags().FlagUsages(), -1) {
				if f := cmd.LocalFlags().Lookup(m[1]); f.Name != "help" {
					all[path]["--"+f.Name] = flagText(f.Shorthand, f.Value.Type() != "bool", f.DefValue)
				}
			}
		})
	}
	return all
}

func flagText(short string, value bool, standard string) string {
	var words []string
	if short != "" {
		words = append(words, "-"+short)
	}
	if value {
		words = append(words, "VALUE")
	}
	if standard != "" && standard != "false" && standard != "[]" {
		words = append(words, "= "+standard)
	}
	return strings.Join(words, " ")
}

// keys returns the keys of a configuration struct, with type and value: "integer = 3".
func keys(config any) facts {
	found := facts{}
	addKeys(reflect.Indirect(reflect.ValueOf(config)), "", found)
	return found
}

func addKeys(v reflect.Value, prefix string, found facts) {
	for i := range v.NumField() {
		name, f := v.Type().Field(i).Tag.Get("koanf"), v.Field(i)
		switch {
		case name == "":
		case f.Kind() == reflect.Struct:
			addKeys(f, prefix+name+".", found)
		case f.Kind() == reflect.Slice && f.Type().Elem().Kind() == reflect.Struct:
			addKeys(reflect.New(f.Type().Elem()).Elem(), prefix+name+".", found)
		default:
			found[prefix+name] = keyType(f) + keyValue(f)
		}
	}
}

func keyType(f reflect.Value) string {
	switch {
	case f.Kind() == reflect.Pointer: // what may be left out, and not be nothing
		return keyType(reflect.New(f.Type().Elem()).Elem())
	case f.Type() == reflect.TypeFor[time.Duration]():
		return "duration"
	case f.Kind() == reflect.String:
		return "string"
	case f.Kind() == reflect.Bool:
		return "boolean"
	case f.CanInt():
		return "integer"
	case f.Type() == reflect.TypeFor[[]string]():
		return "list of strings"
	case f.Kind() == reflect.Map:
		return "table"
	}
	return f.Type().String()
}

func keyValue(f reflect.Value) string {
	switch {
	case f.IsZero() && f.Kind() != reflect.Bool:
		return ""
	case f.Type() == reflect.TypeFor[time.Duration]():
		return fmt.Sprintf(" = %gs", time.Duration(f.Int()).Seconds())
	case f.Kind() == reflect.String:
		return fmt.Sprintf(" = %q", f.String())
	}
	return fmt.Sprintf(" = %v", f.Interface())
}

// configs returns both configurations as a file with the least in it gives them.
func configs(t *testing.T) (b *builder.Config, p *puller.Config) {
	t.Helper()
	load := func(text string) string {
		file := filepath.Join(t.TempDir(), "config.toml")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	b, err := builder.LoadConfig(load("app = \"mnw\"\nstorage.url = \"./b\"\nchannels.repo = \"./c\"\nsigning.trust = \"t\"\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	p, err = puller.LoadConfig(load("app = \"mnw\"\ntier = \"b\"\nchannels.repo = \"file:///c\"\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	// What the file had to say, and what is relative to it, is no default.
	b.App, b.Storage.URL, b.Channels.Repo, b.Signing.Trust = "", "", "", ""
	b.State = filepath.Base(b.State)
	p.App, p.Tier, p.Channels.Repo = "", "", ""
	p.Root, p.Trust = strings.ReplaceAll(p.Root, "mnw", "<app>"), strings.ReplaceAll(p.Trust, "mnw", "<app>")
	return b, p
}

// codesAndExits returns every reason code with its exit code.
func codesAndExits() facts {
	found := facts{}
	for _, c := range reason.All() {
		found[string(c)] = strconv.Itoa(c.Exit())
	}
	return found
}

// documentsOf returns the types that commands print as JSON, by the command.
func documentsOf() map[string]reflect.Type {
	return map[string]reflect.Type{
		"":                 reflect.TypeFor[cli.Failure](),
		"builder init":     reflect.TypeFor[builder.Initialized](),
		"builder keygen":   reflect.TypeFor[builder.Key](),
		"builder release":  reflect.TypeFor[builder.Released](),
		"builder promote":  reflect.TypeFor[builder.Advanced](),
		"builder sign":     reflect.TypeFor[builder.Signed](),
		"builder enroll":   reflect.TypeFor[builder.Enrolled](),
		"builder mirror":   reflect.TypeFor[builder.Mirrored](),
		"builder verify":   reflect.TypeFor[bundle.Verified](),
		"puller":           reflect.TypeFor[puller.Result](),
		"--dry-run":        reflect.TypeFor[puller.Plan](),
		"puller status":    reflect.TypeFor[puller.Status](),
		"puller history":   reflect.TypeFor[node.Event](),
		"puller verify":    reflect.TypeFor[puller.Verified](),
		"puller bootstrap": reflect.TypeFor[pullercli.Bootstrapped](),
		"puller doctor":    reflect.TypeFor[doctor.Check](),
		"--old-root":       reflect.TypeFor[oldroot.Report](),
		"puller unblock":   reflect.TypeFor[puller.Result](),
	}
}

// fields returns the JSON fields of the types and of all that they hold, by type: "list
// of strings, always".
func fields(types ...reflect.Type) map[string]facts {
	found := map[string]facts{}
	for len(types) > 0 {
		t := types[0]
		types = types[1:]
		if found[t.String()] != nil {
			continue
		}
		of := facts{}
		found[t.String()] = of
		for i := range t.NumField() {
			name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "" || name == "-" {
				continue
			}
			text, inner := fieldType(t.Field(i).Type)
			if !strings.HasPrefix(options, "omit") {
				text += ", always"
			}
			of[name] = text
			if inner != nil {
				types = append(types, inner)
			}
		}
	}
	return found
}

// fieldType says what JSON a field of the type is, and which struct is in it.
func fieldType(t reflect.Type) (string, reflect.Type) {
	switch {
	case t == reflect.TypeFor[canon.Time]():
		return "time", nil
	case t == reflect.TypeFor[layout.Digest]():
		return "digest", nil
	case t == reflect.TypeFor[reason.Code]():
		return "reason", nil
	case t == reflect.TypeFor[[]string]():
		return "list of strings", nil
	case t.Kind() == reflect.Slice:
		text, inner := fieldType(t.Elem())
		return "list of " + text, inner
	case t.Kind() == reflect.Pointer:
		return fieldType(t.Elem())
	case t.Kind() == reflect.Struct:
		return "`" + t.String() + "`", t
	case t.Kind() == reflect.Bool:
		return "boolean", nil
	case t.Kind() == reflect.Int || t.Kind() == reflect.Int64:
		return "integer", nil
	case t.Kind() == reflect.String:
		return "string", nil
	}
	return t.String(), nil
}

func TestFields(t *testing.T) {
	got := fields(reflect.TypeFor[builder.ReleasedBundle]())["builder.ReleasedBundle"]
	if got["contents"] != "list of `stage.Size`" || got["size"] != "integer, always" || got["tree"] != "digest, always" {
		t.Errorf("fields are %q", got)
	}
	if fields(reflect.TypeFor[builder.ReleasedBundle]())[reflect.TypeFor[stage.Size]().String()] == nil {
		t.Error("a type within is not followed")
	}
}

// sources parses the Go files of the packages, tests left out.
func sources(t *testing.T, dirs ...string) map[string]*ast.File {
	t.Helper()
	files := map[string]*ast.File{}
	for _, dir := range dirs {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			files[strings.TrimPrefix(filepath.ToSlash(path), root+"/")] = f
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// literals calls do for every string in f, those that are put together with + as one.
func literals(f *ast.File, do func(text string)) {
	ast.Inspect(f, func(n ast.Node) bool {
		e, ok := n.(ast.Expr)
		if !ok {
			return true
		}
		text, ok := constant(e)
		if ok {
			do(text)
		}
		return !ok
	})
}

func constant(e ast.Expr) (string, bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		if e.Kind == token.STRING {
			text, err := strconv.Unquote(e.Value)
			return text, err == nil
		}
	case *ast.BinaryExpr:
		x, ok := constant(e.X)
		y, also := constant(e.Y)
		return x + y, ok && also && e.Op == token.ADD
	}
	return "", false
}

// variables returns the environment variables of ours that the sources name.
func variables(files map[string]*ast.File) facts {
	form := regexp.MustCompile(`\bSANDO_[A-Z]+(?:_[A-Z]+)*\b`)
	found := facts{"SANDO__LEVEL__KEY": ""} // see package config
	for _, f := range files {
		literals(f, func(text string) {
			for _, name := range form.FindAllString(text, -1) {
				found[name] = ""
			}
		})
	}
	return found
}

// events returns the words that the sources write into the history.
func events(files map[string]*ast.File) facts {
	found := facts{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if kv, ok := n.(*ast.KeyValueExpr); ok {
				if key, ok := kv.Key.(*ast.Ident); ok && key.Name == "Event" {
					text, ok := constant(kv.Value)
					if !ok {
						text = "an event that is no constant"
					}
					found[text] = ""
				}
			}
			return true
		})
	}
	return found
}

// tags returns the values of the struct tag name in the type typ.
func tags(f *ast.File, typ, name string) []string {
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok || spec.Name.Name != typ {
			return true
		}
		for _, field := range spec.Type.(*ast.StructType).Fields.List {
			if field.Tag != nil {
				found = append(found, reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get(name))
			}
		}
		return false
	})
	return found
}

// typed returns the values of the constants of the type typ.
func typed(f *ast.File, typ string) []string {
	var found []string
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if id, ok := spec.Type.(*ast.Ident); ok && id.Name == typ {
			for _, v := range spec.Values {
				if text, ok := constant(v); ok {
					found = append(found, text)
				}
			}
		}
		return true
	})
	return found
}
