package bootstrap

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// world is a list of things that steps make.
type world struct{ have []string }

func (w *world) step(name string, do func() error) Step {
	return Step{
		Name: name,
		Look: func(context.Context) ([]Change, error) {
			if slices.Contains(w.have, name) {
				return nil, nil
			}
			return []Change{{What: "make " + name}}, nil
		},
		Do: func(context.Context) error {
			if do != nil {
				if err := do(); err != nil {
					return err
				}
			}
			w.have = append(w.have, name)
			return nil
		},
	}
}

func TestApply(t *testing.T) {
	w := &world{have: []string{"b"}}
	kept := Step{Name: "file", Look: func(context.Context) ([]Change, error) {
		return []Change{{What: "keep file", Diff: "-a\n+b\n", Kept: true}}, nil
	}, Do: func(context.Context) error { return errors.New("it was overwritten") }}
	steps := []Step{w.step("a", nil), w.step("b", nil), kept, w.step("c", nil)}
	p, err := Plan(t.Context(), steps)
	if err != nil || p.Nothing() || len(w.have) != 1 {
		t.Fatalf("plan: %+v, %v; it made %q", p, err, w.have)
	}
	var what, told []string
	for _, c := range p.Changes {
		what = append(what, c.Step+": "+c.What)
	}
	if want := []string{"a: make a", "file: keep file", "c: make c"}; !slices.Equal(what, want) {
		t.Errorf("planned %q, want %q", what, want)
	}
	err = p.Apply(t.Context(), func(s Step, done bool) {
		if done {
			told = append(told, s.Name)
		}
	})
	if err != nil || !slices.Equal(told, []string{"a", "c"}) {
		t.Errorf("done %q, %v", told, err)
	}
	if again, err := Plan(t.Context(), steps); err != nil || !again.Nothing() || len(again.Changes) != 1 {
		t.Errorf("again: %+v, %v", again, err)
	}
}

func TestApplyStops(t *testing.T) {
	broken := errors.New("no space")
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("a signal")
	for _, c := range []struct {
		do   func() error
		have string
		want string
	}{
		{func() error { return broken }, "a", "b: no space"},
		{func() error { cancel(stop); return nil }, "a b", "stopped before c: a signal"},
	} {
		w := &world{}
		p, err := Plan(t.Context(), []Step{w.step("a", nil), w.step("b", c.do), w.step("c", nil)})
		if err != nil {
			t.Fatal(err)
		}
		if err := p.Apply(ctx, nil); err == nil || err.Error() != c.want || strings.Join(w.have, " ") != c.have {
			t.Errorf("made %q, %v; want %q, %q", w.have, err, c.have, c.want)
		}
	}
	if _, err := Plan(ctx, nil); err != nil {
		t.Errorf("nothing to look at: %v", err)
	}
	w := &world{}
	if _, err := Plan(ctx, []Step{w.step("a", nil)}); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped while looking: %v", err)
	}
}

func TestDiff(t *testing.T) {
	if got := Diff("x", []byte("a\n"), []byte("a\n")); got != "" {
		t.Errorf("no difference: %q", got)
	}
	const want = "--- /etc/x\n+++ /etc/x (wanted)\n@@ -1,3 +1,3 @@\n a\n-b\n+B\n c\n"
	if got := Diff("/etc/x", []byte("a\nb\nc\n"), []byte("a\nB\nc\n")); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := Diff("x", []byte("\x00a"), []byte("b")); got != "binary files differ: x\n" {
		t.Errorf("binary: %q", got)
	}
}

func TestDiffEnvHidesSecrets(t *testing.T) {
	const have = "# comment\nPORT=8080\nURL=postgres://u:s3cret@db/\nKEY=\"two\ns3cret=lines\"\n#OLD=s3cret\n# s3cret\nTOKEN=s3cret\n"
	const want = "# comment\nPORT=8080\nURL=postgres://u:s3cret@other/\n#OLD=s3cret\n# s3cret too\nTOKEN=s3cret\nLOG=s3cret\n"
	const shown = `--- env
+++ env (wanted)
@@ -1,8 +1,7 @@
 # comment
 PORT=(hidden)
-URL=(hidden)
-KEY=(hidden)
-(hidden)
-(hidden)
-(hidden)
+URL=(hidden), another one
+(hidden)
+(hidden), another one
 TOKEN=(hidden)
+LOG=(hidden)
`
	if diff := cmp.Diff(shown, DiffEnv("env", []byte(have), []byte(want))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestDiffUnitHidesSecrets(t *testing.T) {
	const unit = "[Service]\nUser=mnw\n"
	const have = unit + "Environment=A=s3cret \\\n  B=s3cret\n# Environment=C=s3cret\nSetCredential=d:s3cret\nType=simple\n"
	const shown = `--- unit
+++ unit (wanted)
@@ -1,7 +1,3 @@
 [Service]
 User=mnw
-Environment=(hidden)
-(hidden)
-# Environment=(hidden)
-SetCredential=(hidden)
-Type=simple
+Type=exec
`
	if diff := cmp.Diff(shown, diffUnit("unit", []byte(have), []byte(unit+"Type=exec\n"))); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
