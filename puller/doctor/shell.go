package doctor

import (
	"regexp"
	"strings"
)

// quoted writes a word for a shell.
func quoted(word string) string {
	if plain, err := regexp.MatchString(`^[\w./@%+=:,-]+$`, word); err == nil && plain {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
