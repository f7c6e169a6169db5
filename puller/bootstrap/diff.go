package bootstrap

import (
	"bytes"
	"strings"

	"github.com/rogpeppe/go-internal/diff"

	"makenot.work/sando/puller/envfile"
)

// Diff returns the difference between what is in a file and what is wanted there, in the
// unified format; "" when there is none. It is for people to read: a file that is not text is
// only said to differ.
func Diff(name string, have, want []byte) string {
	if bytes.IndexByte(have, 0) >= 0 || bytes.IndexByte(want, 0) >= 0 {
		if bytes.Equal(have, want) {
			return ""
		}
		return "binary files differ: " + name + "\n"
	}
	// The first line names both files once more, as the program diff says how it was called.
	_, text, _ := strings.Cut(string(diff.Diff(name, have, name+" (wanted)", want)), "\n")
	return text
}

// DiffEnv is Diff of environment files, in which every value and comment is hidden that is
// not in want as well: what is there may be a secret.
func DiffEnv(name string, have, want []byte) string {
	known, names := map[string]bool{"": true}, map[string]bool{}
	for line := range strings.Lines(string(want)) {
		known[strings.TrimSpace(line)] = true
	}
	vars, err := envfile.Parse(have)
	if err != nil { // then no name is sure to be one
		vars = nil
	}
	for _, v := range vars {
		names[v.Name] = true
	}
	var shown strings.Builder
	for line := range strings.Lines(string(have)) {
		key, _, ok := strings.Cut(strings.TrimSpace(line), "=")
		switch {
		case known[strings.TrimSpace(line)]:
			shown.WriteString(line)
		case ok && names[key]:
			shown.WriteString(key + "=" + hidden + "\n")
		default:
			shown.WriteString(hidden + "\n")
		}
	}
	return Diff(name, []byte(shown.String()), want)
}

// hidden stands for what is not shown.
const hidden = "(hidden)"
