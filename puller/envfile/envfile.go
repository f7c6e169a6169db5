// Package envfile reads environment files as systemd does, for EnvironmentFile= of an app's
// unit: what it makes of a file is what the app gets. Compared with systemd 252; much older versions
// treat backslashes within quotes otherwise.
//
// # Format
//
//	# a comment; so is a line that begins with ;
//	NAME=value with  spaces within, $not expanded, ' and " are themselves here
//	NAME = 'quoted, may have
//	several lines, and \ is itself'
//	NAME="\"quoted\", and \\ \` \$ are one character each; \n stays two"
//	NAME="parts that"' are joined' by what is between quotes
//	NAME=goes on in \
//	the next line
//
// Space, tab and carriage return around a name, before a value and after one that is not
// quoted are dropped. Outside of quotes a backslash makes the next character itself. A line
// end is LF or CR. A line without "=" is nothing. Of several assignments to a name the last
// counts; an assignment whose name has another character than A-Z, a-z, 0-9 and _, or begins
// with a digit, is dropped (so "export NAME=value" sets nothing). What is not valid UTF-8 in
// an assignment, or is a noncharacter, makes systemd refuse the whole file, and so does NUL
// anywhere in it.
//
// Where a comment ends in a backslash, the next line belongs to it before systemd 254, and does
// not since. Parse refuses a file in which that makes a difference.
//
// # Parties
//
// The operator writes the files, with secrets in them: no error of this package holds any
// part of a value, or of what could be one. Files of more than MaxSize bytes are refused.
package envfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// MaxSize bounds a file, in bytes.
const MaxSize = 1 << 20

// ErrSyntax is matched when a file is one that systemd refuses, or that its versions read in
// different ways.
var ErrSyntax = errors.New("not an environment file")

// Var is one assignment.
type Var struct{ Name, Value string }

// Read reads a regular file. An error may match ErrSyntax, or be of the file system.
func Read(file string) ([]Var, error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrSyntax, file)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxSize+1))
	if err != nil {
		return nil, err
	}
	vars, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return vars, nil
}

// Parse returns the assignments of a file, each name once, in the order in which the names
// come first. An error matches ErrSyntax.
func Parse(data []byte) ([]Var, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrSyntax, MaxSize)
	}
	if slices.Contains(data, 0) {
		return nil, fmt.Errorf("%w: it has a NUL byte", ErrSyntax)
	}
	p := parser{}
	vars, err := p.parse(data)
	if p.continued == 0 {
		return vars, err
	}
	old := parser{old: true}
	others, otherErr := old.parse(data)
	if (err == nil) != (otherErr == nil) || !slices.Equal(vars, others) {
		return nil, fmt.Errorf("%w: the comment in line %d ends in a backslash: whether the line after it counts depends on the version of systemd; remove the backslash", ErrSyntax, p.continued)
	}
	return vars, err
}

// Merge returns the assignments of several files, where later ones count more.
func Merge(files ...[]Var) []Var {
	var all []Var
	for _, vars := range files {
		for _, v := range vars {
			all = set(all, v)
		}
	}
	return all
}

func set(vars []Var, v Var) []Var {
	if i := slices.IndexFunc(vars, func(o Var) bool { return o.Name == v.Name }); i >= 0 {
		vars[i] = v
		return vars
	}
	return append(vars, v)
}

// state is where the parser is. The states, and what leads from one to another, are those of
// systemd's src/basic/env-file.c: nothing in its manual says what becomes of a file such
// as `A='b'c\` without a line after it.
type state int

const (
	preKey state = iota
	inKey
	preValue
	inValue
	escaped
	singleQuoted
	doubleQuoted
	doubleEscaped
	inComment
	commentEscaped
)

const none = -1

type parser struct {
	old       bool // a line end after a backslash does not end a comment
	continued int  // the line of the first comment that ends in a backslash

	state      state
	line       int
	at         int // of the byte that is looked at
	begin      int // of the value's text
	key, value []byte
	keyEnd     int // where the space at the end of the key begins, or none
	valueEnd   int // and of the value
	vars       []Var
	found      []assignment
}

func (p *parser) parse(data []byte) ([]Var, error) {
	p.line, p.keyEnd, p.valueEnd = 1, none, none
	for i, c := range data {
		var err error
		p.at = i
		switch p.state {
		case preKey, inKey:
			p.inKey(c)
		case preValue, inValue, escaped:
			err = p.inValue(c)
		case singleQuoted, doubleQuoted, doubleEscaped:
			p.inQuotes(c)
		case inComment, commentEscaped:
			p.inComment(c)
		}
		if err != nil {
			return nil, err
		}
		if c == '\n' {
			p.line++
		}
	}
	p.at = len(data)
	switch p.state {
	case preKey, inKey, inComment, commentEscaped:
		return p.vars, nil
	}
	return p.vars, p.push()
}

func newline(c byte) bool { return c == '\n' || c == '\r' }
func space(c byte) bool   { return c == ' ' || c == '\t' || newline(c) }

func (p *parser) inKey(c byte) {
	switch {
	case p.state == preKey && (c == '#' || c == ';'):
		p.state = inComment
	case p.state == preKey && space(c):
	case p.state == preKey:
		p.state, p.key, p.keyEnd = inKey, append(p.key[:0], c), none
	case newline(c):
		p.state = preKey
	case c == '=':
		p.state, p.value, p.valueEnd, p.begin = preValue, p.value[:0], none, p.at+1
	default:
		p.keyEnd = end(p.keyEnd, c, p.key)
		p.key = append(p.key, c)
	}
}

// end returns where the space at the end of text begins once c is added to it.
func end(now int, c byte, text []byte) int {
	switch {
	case !space(c):
		return none
	case now == none:
		return len(text)
	}
	return now
}

func (p *parser) inValue(c byte) error {
	switch {
	case p.state == escaped:
		p.state = inValue
		if !newline(c) { // those are eaten up
			p.value = append(p.value, c)
		}
	case newline(c):
		defer func() { p.state = preKey }()
		return p.push()
	case c == '\\':
		if p.state == inValue {
			p.valueEnd = none
		}
		p.state = escaped
	case p.state == preValue && c == '\'':
		p.state = singleQuoted
	case p.state == preValue && c == '"':
		p.state = doubleQuoted
	case p.state == preValue && space(c):
	case p.state == preValue:
		p.state, p.value = inValue, append(p.value, c)
	default:
		p.valueEnd = end(p.valueEnd, c, p.value)
		p.value = append(p.value, c)
	}
	return nil
}

func (p *parser) inQuotes(c byte) {
	switch {
	case p.state == doubleEscaped:
		p.state = doubleQuoted
		if !strings.ContainsRune("\"\\`$\n", rune(c)) {
			p.value = append(p.value, '\\')
		}
		if c != '\n' {
			p.value = append(p.value, c)
		}
	case p.state == doubleQuoted && c == '\\':
		p.state = doubleEscaped
	case p.state == doubleQuoted && c == '"', p.state == singleQuoted && c == '\'':
		p.state = preValue
	default:
		p.value = append(p.value, c)
	}
}

func (p *parser) inComment(c byte) {
	switch {
	case p.state == commentEscaped && newline(c):
		if p.continued == 0 {
			p.continued = p.line
		}
		p.state = preKey
		if p.old {
			p.state = inComment
		}
	case p.state == commentEscaped:
		p.state = inComment
	case c == '\\':
		p.state = commentEscaped
	case newline(c):
		p.state = preKey
	}
}

// push ends an assignment.
func (p *parser) push() error {
	key, value := p.key, p.value
	if p.keyEnd != none {
		key = key[:p.keyEnd]
	}
	if p.state == inValue && p.valueEnd != none {
		value = value[:p.valueEnd]
	}
	if !valid(key) || !valid(value) {
		return fmt.Errorf("%w: the assignment that ends in line %d is not valid UTF-8", ErrSyntax, p.line)
	}
	if names.Match(key) {
		v := Var{string(key), string(value)}
		p.vars = set(p.vars, v)
		p.found = append(p.found, assignment{v, p.begin, p.at})
	}
	return nil
}

// CheckName reports whether systemd takes an assignment to name.
func CheckName(name string) error {
	if !names.MatchString(name) {
		return fmt.Errorf("%q is not the name of an environment variable", name)
	}
	return nil
}

var names = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// valid reports whether systemd takes b for text.
func valid(b []byte) bool {
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r == utf8.RuneError && n == 1 || r&0xFFFE == 0xFFFE || r >= 0xFDD0 && r <= 0xFDEF {
			return false
		}
		b = b[n:]
	}
	return true
}
