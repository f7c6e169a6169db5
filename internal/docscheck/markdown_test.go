package docscheck

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// A page is what the checks need to know of a document.
type page struct {
	slugs    map[string]bool // anchors
	sections []section
	links    []link
	blocks   []block
	spans    []span
}

// A section is a heading and what follows up to the next one, of whatever level.
type section struct {
	heading string
	tables  []table
	open    bool // the last table goes on
}

// A table holds the cells as written, without the row of dashes.
type table struct {
	header []string
	rows   [][]string
}

// A link is the target of a link, and where it stands.
type link struct {
	target string
	line   int
}

// A block is fenced text. Mark is the comment in the line before it.
type block struct {
	lang, mark, text string
	line             int
}

// A span is text in backticks outside of blocks.
type span struct {
	text string
	line int
}

var (
	headingForm = regexp.MustCompile(`^(#{1,6}) +(.+?) *$`)
	linkForm    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	spanForm    = regexp.MustCompile("`([^`]+)`")
	markForm    = regexp.MustCompile(`^<!-- (.+) -->$`)
)

// parse reads the part of markdown that the documents use.
func parse(text string) page {
	p := page{slugs: map[string]bool{}, sections: []section{{}}}
	var fenced *block
	mark := ""
	for i, line := range strings.Split(text, "\n") {
		now := &p.sections[len(p.sections)-1]
		switch {
		case fenced != nil && strings.HasPrefix(line, "```"):
			p.blocks = append(p.blocks, *fenced)
			fenced = nil
		case fenced != nil:
			fenced.text += line + "\n"
		case strings.HasPrefix(line, "```"):
			fenced = &block{lang: strings.TrimPrefix(line, "```"), mark: mark, line: i + 1}
		default:
			p.prose(line, i+1)
			if m := headingForm.FindStringSubmatch(line); m != nil {
				p.sections = append(p.sections, section{heading: m[2]})
				p.anchor(m[2])
			} else if strings.HasPrefix(line, "|") {
				now.row(line)
			} else {
				now.open = false // another table may follow
			}
		}
		mark = ""
		if m := markForm.FindStringSubmatch(line); m != nil {
			mark = m[1]
		}
	}
	return p
}

// anchor adds the anchor of a heading, numbered when it is not the first of its name.
func (p *page) anchor(heading string) {
	s := slug(heading)
	for n := 1; p.slugs[s]; n++ {
		s = fmt.Sprintf("%s-%d", slug(heading), n)
	}
	p.slugs[s] = true
}

// prose takes links and spans out of a line.
func (p *page) prose(line string, n int) {
	for _, m := range spanForm.FindAllStringSubmatch(line, -1) {
		p.spans = append(p.spans, span{m[1], n})
	}
	for _, m := range linkForm.FindAllStringSubmatch(spanForm.ReplaceAllString(line, "x"), -1) {
		p.links = append(p.links, link{m[1], n})
	}
}

// row adds a line of a table.
func (s *section) row(line string) {
	var cells []string
	for cell := range strings.SplitSeq(strings.Trim(strings.TrimSpace(line), "|"), "|") {
		cells = append(cells, strings.TrimSpace(cell))
	}
	if !s.open {
		s.open, s.tables = true, append(s.tables, table{header: cells})
		return
	}
	t := &s.tables[len(s.tables)-1]
	switch {
	case strings.Trim(line, "|-: ") == "" && t.rows == nil:
	default:
		t.rows = append(t.rows, cells)
	}
}

// slug returns the anchor that a heading has on a git host.
func slug(heading string) string {
	heading = linkText(heading)
	return strings.Map(func(r rune) rune {
		switch {
		case r == ' ' || r == '-':
			return '-'
		case r == '_' || unicode.IsLetter(r) || unicode.IsDigit(r):
			return unicode.ToLower(r)
		}
		return -1
	}, heading)
}

// linkText replaces links by their text.
func linkText(s string) string {
	return regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`).ReplaceAllString(s, "$1")
}

// codes returns the texts in backticks of a cell.
func codes(cell string) []string {
	var found []string
	for _, m := range spanForm.FindAllStringSubmatch(cell, -1) {
		found = append(found, m[1])
	}
	return found
}

// tables returns the tables whose first header cell is first, in the sections that are
// wanted; nil wants all.
func (p page) tables(first string, wanted func(heading string) bool) []table {
	var found []table
	for _, s := range p.sections {
		for _, t := range s.tables {
			if len(t.header) > 0 && t.header[0] == first && (wanted == nil || wanted(s.heading)) {
				found = append(found, t)
			}
		}
	}
	return found
}

// cell returns the cell of a row below the header name, "" when there is none.
func (t table) cell(row []string, name string) string {
	for i, h := range t.header {
		if h == name && i < len(row) {
			return row[i]
		}
	}
	return ""
}

func TestParse(t *testing.T) {
	p := parse("# One `two` (3)\n\nsee [x](a.md#b), `c [d](e)`\n\n| flag | b |\n|---|---|\n| `--x` | 1 |\n\n| y |\n|---|\n" +
		"## One `two` (3)\n<!-- same as z -->\n```json\n# no [l](m)\n| n |\n```\n| flag |\n|---|\n| `--z` |\n")
	want := page{
		slugs: map[string]bool{"one-two-3": true, "one-two-3-1": true},
		sections: []section{{}, {heading: "One `two` (3)", tables: []table{
			{[]string{"flag", "b"}, [][]string{{"`--x`", "1"}}}, {header: []string{"y"}}}, open: true},
			{heading: "One `two` (3)", tables: []table{{[]string{"flag"}, [][]string{{"`--z`"}}}}}},
		links:  []link{{"a.md#b", 3}},
		blocks: []block{{"json", "same as z", "# no [l](m)\n| n |\n", 13}},
		spans:  []span{{"two", 1}, {"c [d](e)", 3}, {"--x", 7}, {"two", 11}, {"--z", 19}},
	}
	if diff := cmp.Diff(want, p, cmp.AllowUnexported(page{}, section{}, table{}, link{}, block{}, span{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got := p.tables("flag", func(h string) bool { return strings.HasPrefix(h, "One") }); len(got) != 2 {
		t.Errorf("%d tables, want 2", len(got))
	}
}

// wide returns the lines of prose that are longer than a narrow window. Tables, and
// blocks, whose bytes may be given, are not prose.
func wide(text string) []int {
	var found []int
	inside := false
	for i, line := range strings.Split(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			inside = !inside
		}
		if !inside && !strings.HasPrefix(line, "|") && utf8.RuneCountInString(line) > 120 {
			found = append(found, i+1)
		}
	}
	return found
}

func TestWidth(t *testing.T) {
	for name, text := range documents(t) {
		for _, line := range wide(text) {
			t.Errorf("%s:%d: more than 120 characters", name, line)
		}
	}
}

func TestWidthBad(t *testing.T) {
	long := strings.Repeat("ä", 121)
	got := wide("| " + long + "\n" + long + "\n" + long[2:] + "\n  ```sh\n" + long + "\n```\n- " + long)
	if diff := cmp.Diff([]int{2, 7}, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
