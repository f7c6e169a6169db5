package main

import (
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// width is how many columns the demo uses.
const width = 100

// printer writes text for people. The first error stays, and ends the demo.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

// wrap prints text behind indent, broken between words so that it fits. What follows a
// break begins with more.
func (p *printer) wrap(indent, more, text string) {
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \r\n")
		own := line[:len(line)-len(strings.TrimLeft(line, " "))]
		for prefix := indent; ; prefix = indent + own + more {
			var head string
			head, line = cut(line, width-utf8.RuneCountInString(prefix))
			p.printf("%s\n", strings.TrimRight(prefix+head, " "))
			if line == "" {
				break
			}
		}
	}
}

// cut splits a line after at most n columns, between two words. A word that is longer
// stays whole.
func cut(line string, n int) (head, tail string) {
	if utf8.RuneCountInString(line) <= n {
		return line, ""
	}
	at := -1 // the last space that fits; else the first one
	column := 0
	begun := false
	for i, r := range line {
		if r == ' ' && begun && (column <= n || at < 0) {
			at = i
		}
		begun = begun || r != ' '
		column++
	}
	if at < 0 {
		return line, ""
	}
	return line[:at], strings.TrimLeft(line[at:], " ")
}

// command prints a script the way a person would have typed it. A long line is broken
// after "&&", where the shell allows it.
func (p *printer) command(script string) {
	for line := range strings.Lines(script) {
		line = strings.TrimSuffix(line, "\n")
		prefix := "   $ "
		for utf8.RuneCountInString(prefix+line) > width {
			at := strings.LastIndex(line[:width-len(prefix)], " && ")
			if at < 0 {
				break
			}
			p.printf("%s%s &&\n", prefix, line[:at])
			prefix, line = "       ", line[at+len(" && "):]
		}
		p.printf("%s%s\n", prefix, line)
	}
}

// look prints what there is to see.
func (p *printer) look(format string, args ...any) {
	p.wrap("   look: ", "", fmt.Sprintf(format, args...))
}
