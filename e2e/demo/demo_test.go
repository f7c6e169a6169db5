package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"
)

func TestWrap(t *testing.T) {
	word := strings.Repeat("x", 40)
	for name, c := range map[string]struct{ more, text, want string }{
		"short":     {"  ", "a b\n", "> a b\n"},
		"empty":     {"  ", "a\n\nb\n", "> a\n>\n> b\n"},
		"two lines": {"  ", word + " " + word + " " + word, "> " + word + " " + word + "\n>   " + word + "\n"},
		"prose":     {"", word + " " + word + " " + word, "> " + word + " " + word + "\n> " + word + "\n"},
		"indented":  {"  ", "    " + word + " " + word + " " + word, ">     " + word + " " + word + "\n>       " + word + "\n"},
		"long word": {"  ", strings.Repeat("x", 200) + " b", "> " + strings.Repeat("x", 200) + "\n>   b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			p := &printer{w: &out}
			p.wrap("> ", c.more, c.text)
			if out.String() != c.want {
				t.Errorf("got %q, want %q", out.String(), c.want)
			}
		})
	}
}

func TestCommandIsBroken(t *testing.T) {
	var out strings.Builder
	p := &printer{w: &out}
	long := strings.Repeat("x", 60)
	p.command("a " + long + " && b " + long + " && c\nd")
	for line := range strings.Lines(out.String()) {
		if utf8.RuneCountInString(line) > width+1 {
			t.Errorf("line is too long: %q", line)
		}
	}
	if want := "   $ a " + long + " &&\n       b " + long + " && c\n   $ d\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// testStage is a stage with an empty directory.
func testStage(t *testing.T) (*stage, *strings.Builder) {
	out := new(strings.Builder)
	return &stage{printer: &printer{w: out}, dir: t.TempDir(), env: []string{"PATH=" + os.Getenv("PATH")}}, out
}

func TestExitCodeIsChecked(t *testing.T) {
	d, out := testStage(t)
	if got, err := d.run(t.Context(), 3, "echo first", "echo said; exit 3"); err != nil || got != "first\nsaid\n" {
		t.Errorf("got %q, %v", got, err)
	}
	if want := "   $ echo first\n   | first\n   $ echo said; exit 3\n   | said\n   exit code 3\n"; out.String() != want {
		t.Errorf("printed %q, want %q", out.String(), want)
	}
	for _, scripts := range [][]string{{"exit 1"}, {"exit 0"}, {"exit 3", "exit 3"}, {"false\nexit 3"}} {
		_, err := d.run(t.Context(), 3, scripts...)
		if err == nil || !strings.Contains(err.Error(), "ended with exit code") {
			t.Errorf("%q: got %v, want a wrong exit code", scripts, err)
		}
	}
	if _, err := d.run(t.Context(), 0, "kill -9 $$"); err == nil || !strings.Contains(err.Error(), "signal: killed") {
		t.Errorf("got %v, want killed", err)
	}
}

func TestInterruptKills(t *testing.T) {
	d, _ := testStage(t)
	ctx, cancel := context.WithCancel(t.Context())
	defer context.AfterFunc(t.Context(), cancel)()
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := d.run(ctx, 0, "sleep 1000 & wait"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want canceled", err)
	}
}

func TestClosedOutputEnds(t *testing.T) {
	d, _ := testStage(t)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	defer w.Close()
	d.w = w
	if _, err := d.run(t.Context(), 0, "touch run"); !errors.Is(err, syscall.EPIPE) {
		t.Errorf("got %v, want a broken pipe", err)
	}
	if _, err := os.Stat(d.path("run")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it ran although nobody saw it: %v", err)
	}
}
