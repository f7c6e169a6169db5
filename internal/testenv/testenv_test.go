package testenv

import (
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// record stands for a test and keeps how it ended.
type record struct {
	testing.TB
	end string
}

func (r *record) Helper() {}

func (r *record) Fatalf(format string, args ...any) { r.stop("fail: ", format, args) }

func (r *record) Skipf(format string, args ...any) { r.stop("skip: ", format, args) }

func (r *record) stop(how, format string, args []any) {
	r.end = how + fmt.Sprintf(format, args...)
	runtime.Goexit()
}

// end returns how a test ends that does what f does; "" when it goes on.
func end(f func(t testing.TB)) string {
	r := &record{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		f(r)
	}()
	<-done
	return r.end
}

func TestNeed(t *testing.T) {
	missing := func(t testing.TB) { Need(t, false, "a clock") }
	program := func(t testing.TB) { Program(t, "no-such-program") }
	tool := func(t testing.TB) { Tool(t, "no-such-tool") }
	there := func(t testing.TB) { Need(t, true, "a clock") }
	for _, c := range []struct {
		ci   string
		do   func(t testing.TB)
		want string
	}{
		{"", missing, "skip: SKIP: needs a clock"},
		{"true", missing, "fail: SKIP: needs a clock (a failure because of CI=true)"},
		{"", program, "skip: SKIP: needs the program no-such-program"},
		{"true", program, "fail: SKIP: needs the program no-such-program (a failure because of CI=true)"},
		{"", tool, "skip: SKIP: needs no-such-tool: run `make tools`"},
		{"true", tool, "fail: SKIP: needs no-such-tool: run `make tools` (a failure because of CI=true)"},
		{"", there, ""},
		{"true", there, ""},
	} {
		t.Setenv("CI", c.ci)
		if diff := cmp.Diff(c.want, end(c.do)); diff != "" {
			t.Errorf("CI=%q: (-want +got)\n%s", c.ci, diff)
		}
	}
}

func TestProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if got := Program(t, self); got != self {
		t.Errorf("Program(%q) = %q", self, got)
	}
}

// Of Root and User one goes on and one ends the test, and User never fails it, not even
// under CI=true.
func TestWho(t *testing.T) {
	t.Setenv("CI", "true")
	root, user := "fail: SKIP: needs root: a mount (a failure because of CI=true)", ""
	if os.Geteuid() == 0 {
		root, user = "", "skip: SKIP: needs an ordinary user: root may read everything"
	}
	if got := end(func(t testing.TB) { Root(t, "a mount") }); got != root {
		t.Errorf("Root: got %q, want %q", got, root)
	}
	if got := end(func(t testing.TB) { User(t, "root may read everything") }); got != user {
		t.Errorf("User: got %q, want %q", got, user)
	}
}
