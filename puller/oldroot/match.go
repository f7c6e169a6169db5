package oldroot

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// span is where in a text the old directory is named: text[from:to].
type span struct{ from, to int }

// find returns the first place at or after from at which text names the directory old.
//
// Text is written for many readers, so a slash may be doubled, escaped (`\/`, in a regular
// expression or JSON) or encoded (%2F, in a URL), quotes may stand at one, and any character
// may be escaped as systemd does it (\x2d) or by a backslash. But what stands before and behind
// must not make another path of it: /srv/opt/app and $HOME/opt/app are not /opt/app, and
// /opt/app-2 and /opt/app.old are not either.
func find(text []byte, old string, from int) (span, bool) {
	for i := from; i < len(text); i++ {
		if slash(text[i:]) == 0 || inRun(text, i) {
			continue
		}
		to, ok := along(text, i, old)
		switch {
		case !ok || !ends(text, to): // nor from another slash of this run: to look once is enough
			i += slashes(text[i:]) - 1
		case begins(text, i):
			return span{i, to}, true
		}
	}
	return span{}, false
}

// inRun reports whether the slash at i goes on a run of slashes, which is one, or an escaped one.
func inRun(text []byte, i int) bool {
	for _, form := range slashForms() {
		if bytes.HasSuffix(text[:i], []byte(form)) {
			return form != "/" || text[i] == '/' // before `\/` a slash is the delimiter of s/…/…/
		}
	}
	return text[i] == '/' && i > 0 && text[i-1] == '\\'
}

// along follows old through text from i on, and returns where it ends.
func along(text []byte, i int, old string) (int, bool) {
	for part := range strings.SplitSeq(old[1:], "/") {
		i = unquoted(text, i)
		n := slashes(text[i:])
		if n == 0 {
			return 0, false
		}
		i = unquoted(text, i+n)
		for k := range len(part) {
			n := letter(text[i:], part[k])
			if n == 0 {
				return 0, false
			}
			i += n
		}
	}
	return i, true
}

func slashForms() []string { return []string{`\/`, "/", "%2F", "%2f", `\x2f`, `\x2F`} }

// slash returns the length of the slash that text begins with, however it is written, or 0.
func slash(text []byte) int {
	for _, form := range slashForms() {
		if len(text) >= len(form) && string(text[:len(form)]) == form {
			return len(form)
		}
	}
	return 0
}

func slashes(text []byte) (n int) {
	for {
		one := slash(text[n:])
		if one == 0 {
			return n
		}
		n += one
	}
}

// unquoted returns i, or where the quotes at i end.
func unquoted(text []byte, i int) int {
	for range 2 {
		if i > 0 && i < len(text) && (text[i] == '"' || text[i] == '\'') {
			i++
		}
	}
	return i
}

// letter returns the length of the character c at the beginning of text, or 0.
func letter(text []byte, c byte) int {
	switch {
	case len(text) > 0 && text[0] == c:
		return 1
	case len(text) > 1 && text[0] == '\\' && text[1] == c && !alphanumeric(c): // \x is no escaped x
		return 2
	}
	if got, ok := escaped(text); ok && got == c {
		return 4
	}
	return 0
}

// escaped reads a character that is written as \x2d.
func escaped(text []byte) (byte, bool) {
	if len(text) < 4 || text[0] != '\\' || text[1] != 'x' {
		return 0, false
	}
	high, low := hex(text[2]), hex(text[3])
	return high<<4 | low, high < 16 && low < 16
}

func hex(c byte) byte {
	switch {
	case '0' <= c && c <= '9':
		return c - '0'
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10
	case 'A' <= c && c <= 'F':
		return c - 'A' + 10
	}
	return 255
}

func alphanumeric(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}

// inName reports whether r is a part of the name that it stands behind or before.
func inName(r rune) bool {
	return unicode.In(r, unicode.L, unicode.M, unicode.N) || strings.ContainsRune("_.~\uFFFD", r)
}

// begins reports whether a path can begin at i: what stands before is no directory that it
// would be in, neither by name nor in a variable.
func begins(text []byte, i int) bool {
	before := bytes.TrimRight(text[:i], "/")
	last, _ := utf8.DecodeLastRune(before)
	switch {
	case len(before) == 0, text[i] == '\\' && text[i-1] == '/': // s/\/opt\/app/…/
		return true
	case last == ':': // what two slashes follow in a URL is a host
		n := len(before)
		return !(n > 1 && alphanumeric(before[n-2]) && slashes(text[n:]) == 2)
	case last == '\'' || last == '"':
		return !closes(before)
	case strings.ContainsRune("})]*?", last):
		return false
	case inName(last):
		return option(before)
	}
	return true
}

// closes reports whether before ends in a quote that closes something which the path goes on.
func closes(before []byte) bool {
	quote, within := before[len(before)-1], before[max(0, len(before)-1-4*reach):len(before)-1]
	if bytes.Count(within, []byte{quote})%2 == 0 {
		return false // it opens
	}
	last, _ := utf8.DecodeLastRune(within)
	return inName(last) || strings.ContainsRune("})/", last)
}

// option reports whether before ends in an option of one letter, which its value may follow at
// once: tar -C/opt/app.
func option(before []byte) bool {
	n := len(before)
	return n >= 2 && alphanumeric(before[n-1]) && before[n-2] == '-' && (n == 2 || strings.IndexByte(" \t'\"", before[n-3]) >= 0)
}

// ends reports whether the name that text has up to i ends there.
func ends(text []byte, i int) bool {
	rest := text[i:]
	if len(rest) == 0 || slash(rest) > 0 {
		return true
	}
	if c, ok := escaped(rest); ok {
		return !goesOn(rune(c))
	}
	c, n := utf8.DecodeRune(rest)
	next, _ := utf8.DecodeRune(rest[n:])
	if len(rest) == n {
		next = ' '
	}
	switch {
	case c == '.': // the end of a sentence, or of the name before its ending
		return !goesOn(next) && next != '*'
	case c == '\\': // an escaped character is one of the name, but for line ends and the like
		return len(rest) == 1 || strings.ContainsRune("nrt0", next) || !goesOn(next) && next != ' '
	case c == '"' || c == '\'': // a shell puts together what stands together
		return !inName(next) && next != '-' || next == '.' && ends(text, i+1)
	}
	return !goesOn(c)
}

func goesOn(r rune) bool { return inName(r) || strings.ContainsRune("-+@%", r) }

// verdict is what can be said of a place in a binary.
type verdict int

const (
	another verdict = iota // it names another path
	perhaps                // strings stand together there with nothing between them
	surely
)

// reach is how far around a place in a binary, or in a long line, is looked.
const reach = 1024

// judge says what the place text[s.from:s.to] of a binary is. Compilers put strings together
// without anything between them, so that what stands before and behind may be of others. Only
// a string that stands alone, between bytes that no text has, is judged as text is.
func judge(text []byte, s span) verdict {
	if begins(text[:s.to], s.from) && ends(text, s.to) {
		return surely
	}
	from, to := s.from, s.to
	for from > 0 && s.from-from < reach && inPath(text[from-1]) {
		from--
	}
	for to < len(text) && to-s.to < reach && inPath(text[to]) {
		to++
	}
	if (from == 0 || !printable(text[from-1])) && (to == len(text) || !printable(text[to])) {
		return another
	}
	return perhaps
}

func printable(c byte) bool { return ' ' <= c && c < 0x7f }

func inPath(c byte) bool { return alphanumeric(c) || strings.IndexByte("_.~/+@%:=-", c) >= 0 }
