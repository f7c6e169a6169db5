package journal

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"makenot.work/sando/internal/canon"
)

func TestRead(t *testing.T) {
	// As journalctl --output=json prints them, newest first.
	const entries = `{"__CURSOR":"x","MESSAGE":"last"}
{"MESSAGE":"one\n\n  two\tthree\n"}
{"MESSAGE":null}
{"MESSAGE":"Stopped it.","MESSAGE_ID":"9d1aaa27d60140bd96365438aad20286"}
{"MESSAGE":"oops","MESSAGE_ID":"d9b373ed55a64feb8242e02dbe79a49c"}
{"__CURSOR":"y"}
{"MESSAGE":[27,91,51,49,109,114,101,100,27,91,48,109,32,255]}
{"MESSAGE":["first of two","second"]}
{"MESSAGE":"oldest"}
`
	all := []string{"oldest", "first of two", "red \uFFFD", "oops", "one", "two three", "last"}
	for _, c := range []struct {
		name, text string
		lines      int
		want       []string
		more       bool
	}{
		{"all", entries, 100, all, false},
		{"the last", entries, 1, all[6:], true},
		{"the last of an entry", entries, 2, all[5:], true},
		{"as many as there are", entries, 7, all, true},
		{"cut off", entries[:strings.Index(entries, "null")], 100, all[4:], true},
		{"something else", "No entries\n", 100, nil, true},
		{"nothing", "", 100, nil, false},
	} {
		s := scan{unit: "a.service", lines: c.lines}
		more := s.read(strings.NewReader(c.text))
		slices.Reverse(s.found)
		if !slices.Equal(s.found, c.want) || more != c.more {
			t.Errorf("%s: got %q, %t, want %q, %t", c.name, s.found, more, c.want, c.more)
		}
	}
}

// What nobody marked belongs to the invocation before it.
func TestInvocation(t *testing.T) {
	one, two := strings.Repeat("1", 32), strings.Repeat("2", 32)
	said := func(text, id string) string {
		return fmt.Sprintf(`{"MESSAGE":%q,"_SYSTEMD_UNIT":"a.service","_SYSTEMD_INVOCATION_ID":%q}`, text, id)
	}
	told := func(text, id string) string {
		return fmt.Sprintf(`{"MESSAGE":%q,"_SYSTEMD_UNIT":"init.scope","_SYSTEMD_INVOCATION_ID":%q,"INVOCATION_ID":%q}`, text, strings.Repeat("f", 32), id)
	}
	const dump = `{"MESSAGE":"dumped core","_SYSTEMD_UNIT":"systemd-coredump@1.service","_SYSTEMD_INVOCATION_ID":"33333333333333333333333333333333"}`
	entries := []string{ // oldest first
		`{"MESSAGE":"old"}`,
		told("begin 1", one), said("a", one), `{"MESSAGE":"late a","_SYSTEMD_UNIT":"a.service"}`, told("end 1", one), `{"MESSAGE":"late 1"}`, `{"MESSAGE":"gone","_SYSTEMD_UNIT":"init.scope"}`, dump,
		told("begin 2", two), strings.Replace(said("b", two), "{", fmt.Sprintf(`{"INVOCATION_ID":%q,`, one), 1), `{"MESSAGE":"late 2"}`,
	}
	slices.Reverse(entries)
	for _, c := range []struct {
		id    string
		lines int
		want  []string
	}{
		{one, 100, []string{"begin 1", "a", "late a", "end 1", "late 1", "dumped core"}},
		{one, 3, []string{"end 1", "late 1", "dumped core"}},
		{two, 100, []string{"begin 2", "b", "late 2"}},
		{two, 1, []string{"late 2"}},
		{"", 5, []string{"late 1", "dumped core", "begin 2", "b", "late 2"}},
		{strings.Repeat("3", 32), 100, nil},
	} {
		s := scan{unit: "a.service", invocation: c.id, lines: c.lines}
		s.read(strings.NewReader(strings.Join(entries, "\n")))
		slices.Reverse(s.found)
		if !slices.Equal(s.found, c.want) || s.seen != (c.want != nil) {
			t.Errorf("%.1s, %d: got %q, want %q", c.id, c.lines, s.found, c.want)
		}
	}
}

func TestCleanLine(t *testing.T) {
	for line, want := range map[string]string{
		"plain":                           "plain",
		"  \ta\tb\r":                      "a b",
		"\x1b[1;31mred\x1b[0m":            "red",
		"bell\a esc\x1b]0;t":              "bell\uFFFD esc\uFFFD]0;t",
		"a\u202eb\xffc":                   "a\uFFFDb\uFFFDc",
		strings.Repeat("x", maxLine):      strings.Repeat("x", maxLine),
		strings.Repeat("x", maxLine+1):    strings.Repeat("x", maxLine-3) + "…",
		"x" + strings.Repeat("ü", 10_000): "x" + strings.Repeat("ü", 148) + "…",
	} {
		got := cleanLine(line)
		if got != want || len(got) > maxLine || !utf8.ValidString(got) {
			t.Errorf("%.40q: got %q, want %q", line, got, want)
		}
	}
}

// What is not a name would be an option, or a pattern that fits other units.
func TestNames(t *testing.T) {
	for _, c := range []struct{ unit, invocation, want string }{
		{"*.service", "", `journal of unit "*.service": that is not the name of a unit`},
		{"a b.service", "", `journal of unit "a b.service": that is not the name of a unit`},
		{"a.service", "0123", `journal of unit "a.service": "0123" is not the ID of an invocation`},
		{"a.service", strings.Repeat("A", 32), `journal of unit "a.service": "` + strings.Repeat("A", 32) + `" is not the ID of an invocation`},
	} {
		if _, err := Tail(t.Context(), c.unit, c.invocation, 1); err == nil || err.Error() != c.want {
			t.Errorf("%q, %q: got %v, want %s", c.unit, c.invocation, err, c.want)
		}
	}
}

// Whatever is in a journal, what is shown of it is fit to be shown.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"MESSAGE":"a\nb","_SYSTEMD_UNIT":"a.service"}{"MESSAGE":[27,91,109,255]}`), true)
	f.Add([]byte(`{"MESSAGE":[["x"],1],"INVOCATION_ID":null,"MESSAGE_ID":{}}`), false)
	f.Fuzz(func(t *testing.T, data []byte, any bool) {
		s := scan{unit: "a.service", lines: 5}
		if !any {
			s.invocation = strings.Repeat("1", 32)
		}
		s.read(bytes.NewReader(data))
		if len(s.found) > s.lines {
			t.Errorf("%d lines", len(s.found))
		}
		for _, line := range s.found {
			if line == "" || len(line) > maxLine || !utf8.ValidString(line) || strings.ContainsFunc(line, canon.Unprintable) || cleanLine(line) != line {
				t.Errorf("line %q", line)
			}
		}
	})
}
