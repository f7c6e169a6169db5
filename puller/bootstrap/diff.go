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

// DiffEnv is Diff of environment files, in which every value and every comment is hidden: what
// is there may be a secret, and what is wanted may be made of one. A value that would be
// another one says so.
func DiffEnv(name string, have, want []byte) string {
	return Diff(name, concealed(have, want, hidden), concealed(want, have, hidden+", another one"))
}

// diffUnit is Diff of unit files, in which the values of Environment= and SetCredential= are
// hidden.
func diffUnit(name string, have, want []byte) string {
	return Diff(name, concealedUnit(have), concealedUnit(want))
}

func concealedUnit(text []byte) []byte {
	var shown strings.Builder
	secret := false // the line goes on one that holds a secret
	for line := range strings.Lines(string(text)) {
		bare := strings.TrimSpace(line)
		key, _, _ := strings.Cut(bare, "=")
		mark := strings.TrimSpace(strings.TrimLeft(key, "#; "))
		switch {
		case secret:
			shown.WriteString(hidden + "\n")
		case mark == "Environment" || strings.HasPrefix(mark, "SetCredential"):
			secret = true
			shown.WriteString(key + "=" + hidden + "\n")
		default:
			shown.WriteString(line)
		}
		secret = secret && strings.HasSuffix(bare, `\`)
	}
	return []byte(shown.String())
}

// concealed hides the values of an environment file. Where the other file has not this very
// line, instead stands for what is hidden, if it has the variable at all.
func concealed(text, other []byte, instead string) []byte {
	lines, names := map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(other)) {
		line = strings.TrimSpace(line)
		key, _, _ := strings.Cut(line, "=")
		lines[line], names[key] = true, true
	}
	known := map[string]bool{}
	vars, err := envfile.Parse(text)
	if err != nil { // then no name is sure to be one
		vars = nil
	}
	for _, v := range vars {
		known[v.Name] = true
	}
	var shown strings.Builder
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		key, _, assigns := strings.Cut(line, "=")
		switch {
		case line == "" || line[0] == '#' && !assigns && lines[line]:
			shown.WriteString(line + "\n")
		case !assigns || !known[key]:
			key = ""
			fallthrough
		default:
			value := hidden
			if !lines[line] && (key == "" || names[key]) {
				value = instead
			}
			shown.WriteString(strings.TrimPrefix(key+"=", "=") + value + "\n")
		}
	}
	return []byte(shown.String())
}

// hidden stands for what is not shown.
const hidden = "(hidden)"
