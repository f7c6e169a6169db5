package guides

import (
	"regexp"
	"slices"
	"strings"
	"testing"
)

// passing is what differs from run to run, and what it is replaced by on both sides.
func passing() []struct{ form, word string } {
	return []struct{ form, word string }{
		{`\d{8}T\d{6}Z`, "TIME"},
		{`\d{4}/\d\d/\d\d \d\d:\d\d:\d\d`, "TIME"},
		{`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z`, "TIME"},
		{`\b[0-9a-f]{12,}\b`, "HEX"},
		{`\b\d+(\.\d+)? ?(ms|s|min|h|d)\b( \d+ (s|min|h)\b)*`, "SPAN"},
		{`\b\d+(\.\d+)?( ?(B|kB|MB|GB|KiB|MiB|GiB)|[KMG])\b`, "SIZE"},
		{`\bpid \d+`, "pid N"},
		{`[ \t]+`, " "},
	}
}

func normal(line string) string {
	for _, p := range passing() {
		line = regexp.MustCompile(p.form).ReplaceAllString(line, p.word)
	}
	return strings.TrimSpace(line)
}

// same says whether a line is as documented. An ellipsis stands for anything.
func same(want, got string) bool {
	parts := strings.Split(normal(want), "…")
	for i := range parts {
		parts[i] = regexp.QuoteMeta(parts[i])
	}
	return regexp.MustCompile("^" + strings.Join(parts, ".*") + "$").MatchString(normal(got))
}

// agree says whether commands printed what a document says: the same lines. A line that is
// nothing but an ellipsis stands for any number of lines.
func agree(want, got []string) bool {
	if len(want) == 0 {
		return len(got) == 0
	}
	if normal(want[0]) == "…" {
		return agree(want[1:], got) || len(got) > 0 && agree(want, got[1:])
	}
	return len(got) > 0 && same(want[0], got[0]) && agree(want[1:], got[1:])
}

// lines returns the lines of a text that are not blank.
func lines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool { return strings.TrimSpace(l) == "" })
}

func TestAgree(t *testing.T) {
	const doc = "mnw runs 1.0.0 since 2026-06-03T12:00:00Z (5 min 0 s ago)\n\n…\nkey  b02ade776df77887, … done\n"
	for got, want := range map[string]bool{
		"mnw runs 1.0.0 since 2027-01-01T00:00:01Z (12 s ago)\nkey 1234567812345678, is done\n":       true,
		"mnw runs 1.0.0 since 2027-01-01T00:00:01Z (12 s ago)\na\nb\nkey 1234567812345678, is done\n": true,
		"mnw runs 1.0.1 since 2027-01-01T00:00:01Z (12 s ago)\nkey 1234567812345678, is done\n":       false,
		"mnw runs 1.0.0 since 2027-01-01T00:00:01Z (12 s ago)\nkey 1234567812345678, is done\nmore\n": false,
		"mnw runs 1.0.0 since 2027-01-01T00:00:01Z (12 s ago)\nkey, is done\n":                        false,
	} {
		if agree(lines(doc), lines(got)) != want {
			t.Errorf("agree is %v for\n%s", !want, got)
		}
	}
}
