package adopt

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"makenot.work/sando/puller/envfile"
)

var (
	exported = regexp.MustCompile(`(?m)^[ \t]*export[ \t]+([A-Za-z_][A-Za-z0-9_]*)[ \t]*=`)
	expanded = regexp.MustCompile(`\$[A-Za-z_{(]`)
)

// dotenv says what a .env file, which the old app read by itself, would mean to a shell or to the
// libraries that read such files, and does not to systemd, which reads the new one. No value is in it.
func dotenv(text []byte, vars []envfile.Var) (notes []string) {
	set := func(name string) bool {
		return slices.ContainsFunc(vars, func(v envfile.Var) bool { return v.Name == name })
	}
	for _, m := range exported.FindAllSubmatch(text, -1) {
		if name := string(m[1]); !set(name) {
			notes = append(notes, fmt.Sprintf("%s: is not set by systemd, which takes no line that begins with export: take that word away", name))
		}
	}
	if bytes.HasPrefix(text, []byte("\ufeff")) {
		notes = append(notes, "the first line: is not taken by systemd, because a byte order mark is before it: take that away")
	}
	for _, v := range vars {
		if strings.Contains(v.Value, " #") {
			notes = append(notes, v.Name+": has a # after a space, which systemd takes for a part of the value: take a comment away")
		}
		if expanded.MatchString(v.Value) {
			notes = append(notes, v.Name+": has a $, for which systemd puts no other value: write what is meant")
		}
	}
	return notes
}
