package reason_test

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"strconv"
	"testing"

	"makenot.work/sando/internal/reason"
)

// The list is a promise to monitoring and shells: this is a copy of it, on purpose.
func exits() map[reason.Code]int {
	return map[reason.Code]int{
		"current": 0, "updated": 0, "pinned": 0, "window": 0, "rollout": 0, "halted": 0, "probation": 0,
		"io": 1, "disk": 1,
		"config":    2,
		"signature": 3, "format": 3, "limit": 3, "replay": 3, "stale": 3, "mismatch": 3, "policy": 3,
		"env": 3, "hook": 3, "blocked": 3, "degraded": 3,
		"unhealthy": 4,
	}
}

func TestExit(t *testing.T) {
	all := reason.All()
	if len(all) != len(exits()) {
		t.Errorf("All has %d codes, want %d", len(all), len(exits()))
	}
	seen := map[reason.Code]bool{}
	last := 0
	for _, c := range all {
		want, ok := exits()[c]
		if !ok || seen[c] {
			t.Errorf("All has %q, which is unknown or there twice", c)
		}
		seen[c] = true
		if got := c.Exit(); got != want {
			t.Errorf("%q exits %d, want %d", c, got, want)
		}
		if want < last {
			t.Errorf("All is not in the order of the exit codes at %q", c)
		}
		last = want
	}
	if got := reason.Code("new").Exit(); got != 1 {
		t.Errorf("an unknown code exits %d, want 1", got)
	}
}

// A code that is declared and not listed would be missing in the docs.
func TestAllIsComplete(t *testing.T) {
	f, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, c := range reason.All() {
		listed[string(c)] = true
	}
	declared := 0
	ast.Inspect(f, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Code" {
			declared++
			value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			if err != nil || !listed[value] {
				t.Errorf("constant %s is not in All: %v", spec.Names[0].Name, err)
			}
		}
		return true
	})
	if declared != len(listed) {
		t.Errorf("%d constants, %d in All", declared, len(listed))
	}
}

func TestOf(t *testing.T) {
	plain := errors.New("plain")
	coded := reason.Errorf(reason.Replay, "older")
	for _, test := range []struct {
		name string
		err  error
		want reason.Code
	}{
		{"nil", nil, reason.Current},
		{"no code", plain, reason.IO},
		{"code", coded, reason.Replay},
		{"code below a wrap", fmt.Errorf("read: %w", coded), reason.Replay},
		{"Errorf overrules", reason.Errorf(reason.Format, "read: %w", coded), reason.Format},
		{"Wrap keeps", reason.Wrap(reason.Format, fmt.Errorf("read: %w", coded)), reason.Replay},
		{"Wrap adds", reason.Wrap(reason.Disk, plain), reason.Disk},
		{"joined, the first with a code", errors.Join(plain, coded, reason.Errorf(reason.Env, "x")), reason.Replay},
	} {
		if got := reason.Of(test.err); got != test.want {
			t.Errorf("%s: Of = %q, want %q", test.name, got, test.want)
		}
	}
	if reason.Wrap(reason.IO, nil) != nil {
		t.Error("Wrap of nil is not nil")
	}
}

func TestErrorIsTransparent(t *testing.T) {
	err := reason.Errorf(reason.IO, "read %q: %w", "x", fs.ErrNotExist)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Error("wrapped error is not found")
	}
	if got, want := err.Error(), `read "x": file does not exist`; got != want {
		t.Errorf("text is %q, want %q", got, want)
	}
	if got := reason.Wrap(reason.Disk, fs.ErrExist); !errors.Is(got, fs.ErrExist) || got.Error() != fs.ErrExist.Error() {
		t.Errorf("Wrap gives %v", got)
	}
}
