package oldroot

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxBefore = 60  // bytes shown before the path
	maxAfter  = 120 // and from its beginning on
)

// visible makes every character of text one that can be seen, and does nothing to a terminal.
func visible(text string) string {
	var b strings.Builder
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && n == 1:
			b.WriteString(`\x` + strconv.FormatUint(0x100|uint64(text[0]), 16)[1:])
		case r == '\t':
			b.WriteByte(' ')
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			q := strconv.QuoteRuneToASCII(r)
			b.WriteString(q[1 : len(q)-1])
		}
		text = text[n:]
	}
	return b.String()
}

// excerpt shows a line around the path in it.
func excerpt(line []byte, at span) string {
	from, to := max(0, at.from-4*reach), min(len(line), at.to+4*reach)
	before, path, after := string(line[from:at.from]), string(line[at.from:at.to]), string(line[at.to:to])
	before, after = hidden(before+"\x00"), hidden("\x00"+after)
	return cut(before[:len(before)-1], path, after[1:])
}

// hidden takes the values out of a text that are secrets by their names, and users and
// passwords out of URLs.
func hidden(text string) string {
	for _, form := range []*regexp.Regexp{userInfo, quoted, quotedOnce, assigned, optional, named, header, ofUser, ofProgram} {
		text = form.ReplaceAllString(text, "${1}…${2}")
	}
	return text
}

var (
	userInfo   = regexp.MustCompile(`(://)[^/@\s"']*(@)`)
	assigned   = regexp.MustCompile(`(?i)([\w-]*(?:pass|secret|token|key|pwd|credential)\w*["']?(?:=|: ?)["']?)[^\s"'\x00/][^\s"'\x00]*()`)
	quoted     = regexp.MustCompile(`(?i)([\w-]*(?:pass|secret|token|key|pwd|credential)\w*["']?(?:=|: ?| )")[^"\x00/][^"\x00]*()`)
	quotedOnce = regexp.MustCompile(`(?i)([\w-]*(?:pass|secret|token|key|pwd|credential)\w*["']?(?:=|: ?| )')[^'\x00/][^'\x00]*()`)
	named      = regexp.MustCompile(`(?i)(\b(?:password|passwd|passphrase|secret)\s+["']?)[^\s"'\x00/=:|&;-][^\s"'\x00]*()`) // as in .netrc
	header     = regexp.MustCompile(`(?i)(\b(?:proxy-)?authorization["']?[:=]\s*["']?(?:(?:basic|bearer|digest|token)\s+)?)[^\s"'\x00]+()`)
	ofUser     = regexp.MustCompile(`((?:^|\s)(?:-u|--user)[ =]?["']?[^\s:"'\x00/]+:)[^\s"'\x00/][^\s"'\x00]*()`) // of curl
	// The passwords that these programs take as one letter.
	ofProgram = regexp.MustCompile(`(\b(?:(?:mysql|mariadb|7z)\w*(?:\s[^\x00]*?)?\s-p|sshpass\s+-p\s*|redis-cli(?:\s[^\x00]*?)?\s-a\s*)["']?)[^\s"'\x00][^\s"'\x00]*()`)

	optional = regexp.MustCompile(`(?i)(--?[\w-]*(?:pass|secret|token|key|pwd|credential)\w* ["']?)[^\s"'\x00/-][^\s"'\x00]*()`)
)

// cut bounds what stands around the path.
func cut(before, path, after string) string {
	before, after = strings.TrimLeft(before, " \t"), strings.TrimRight(after, " \t\r")
	if len(before) > maxBefore {
		before = "…" + strings.ToValidUTF8(before[len(before)-maxBefore:], "")
	}
	if rest := max(0, maxAfter-len(path)); len(after) > rest {
		after = strings.ToValidUTF8(after[:rest], "") + "…"
	}
	return visible(before + path + after)
}

// around shows what can be printed around a place in a binary or in a long text.
func around(data []byte, at span) string {
	from, to := at.from, at.to
	for from > 0 && at.from-from < 4*maxBefore && text(data[from-1]) {
		from--
	}
	for to < len(data) && to-at.to < 4*maxAfter && text(data[to]) {
		to++
	}
	return excerpt(data[from:to], span{at.from - from, at.to - from})
}

func text(c byte) bool { return printable(c) || c >= 0x80 }

// pathOnly shows of an assignment its key and the path: the rest of the value may be secret.
func pathOnly(key string, line []byte, at span) string {
	to := at.to
	for to < len(line) && to-at.from < maxAfter && inName(rune(line[to])) || to < len(line) && bytes.IndexByte([]byte("/-+@%"), line[to]) >= 0 {
		to++
	}
	return visible(key + string(line[at.from:to]))
}

// syntax is how a kind of file writes comments.
type syntax int

const (
	noComments syntax = iota
	shell             // # at the beginning of a word
	settings          // # or ; at the beginning of a line
	sudo              // the same, but for #include and for #1000, a user
)

const comment = "a comment"

// comment says that the place from of line n is in a comment.
func (x syntax) comment(line []byte, n, from int) string {
	start := bytes.TrimLeft(line, " \t")
	switch {
	case x == noComments || len(start) == 0:
		return ""
	case x == settings && (start[0] == '#' || start[0] == ';'):
		return comment
	case x == settings,
		x == shell && n == 0 && bytes.HasPrefix(line, []byte("#!")),
		x == sudo && bytes.HasPrefix(start, []byte("#include")):
		return ""
	}
	if hash := x.commentAt(line); hash >= 0 && (hash <= from || start[0] == '#') {
		return comment
	}
	return ""
}

// remark reports whether a line is a comment as a whole.
func (x syntax) remark(line []byte) bool {
	rest := bytes.TrimLeft(line, " \t")
	return len(rest) > 0 && rest[0] == '#' && !(x == sudo && number(rest))
}

// number reports whether what begins with # is the number of a user or a group.
func number(text []byte) bool { return len(text) > 1 && '0' <= text[1] && text[1] <= '9' }

// commentAt returns where a comment begins in a line of a shell script, or -1.
func (x syntax) commentAt(line []byte) int {
	var quote byte
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case c == '\\' && quote != '\'':
			i++
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '#' && x == sudo && number(line[i:]):
		case c == '#' && (i == 0 || bytes.IndexByte([]byte(" \t;"), line[i-1]) >= 0): // not in ${#list[@]}
			return i
		}
	}
	return -1
}
