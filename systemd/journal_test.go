package systemd

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestNewest(t *testing.T) {
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
		got, more := newest(strings.NewReader(c.text), c.lines)
		if !slices.Equal(got, c.want) || more != c.more {
			t.Errorf("%s: got %q, %t, want %q, %t", c.name, got, more, c.want, c.more)
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
		strings.Repeat("x", lineBytes):    strings.Repeat("x", lineBytes),
		strings.Repeat("x", lineBytes+1):  strings.Repeat("x", lineBytes-3) + "…",
		"x" + strings.Repeat("ü", 10_000): "x" + strings.Repeat("ü", 148) + "…",
	} {
		got := cleanLine(line)
		if got != want || len(got) > lineBytes || !utf8.ValidString(got) {
			t.Errorf("%.40q: got %q, want %q", line, got, want)
		}
	}
}

// What is not a name would be an option, or a pattern that fits other units.
func TestJournalNames(t *testing.T) {
	for _, c := range []struct{ unit, invocation, want string }{
		{"*.service", "", `journal of unit "*.service": that is not the name of a unit`},
		{"a b.service", "", `journal of unit "a b.service": that is not the name of a unit`},
		{"a.service", "0123", `journal of unit "a.service": "0123" is not the ID of an invocation`},
		{"a.service", strings.Repeat("A", 32), `journal of unit "a.service": "` + strings.Repeat("A", 32) + `" is not the ID of an invocation`},
	} {
		if _, err := Journal(t.Context(), c.unit, c.invocation, 1); err == nil || err.Error() != c.want {
			t.Errorf("%q, %q: got %v, want %s", c.unit, c.invocation, err, c.want)
		}
	}
}
