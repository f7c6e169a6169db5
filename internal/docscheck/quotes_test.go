package docscheck

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// least is how many letters of a message have to be the code's own to be recognized.
const least = 30

// patterns returns a pattern for each longer message of a source, in which anything may
// stand for a verb.
func patterns(texts []string) []*regexp.Regexp {
	verb := regexp.MustCompile(`%[-+# 0-9.]*[a-zA-Z]`)
	var found []*regexp.Regexp
	for _, text := range texts {
		parts := verb.Split(strings.ReplaceAll(text, "%%", "%"), -1)
		if len(strings.Join(parts, "")) < least {
			continue
		}
		for i := range parts {
			parts[i] = regexp.QuoteMeta(strings.Join(strings.Fields(strings.ReplaceAll(" "+parts[i]+" ", "\n", " ")), " "))
			parts[i] = strings.ReplaceAll(parts[i], " ", `\s+`)
		}
		found = append(found, regexp.MustCompile(strings.Join(parts, `[\s\S]*`)))
	}
	return found
}

// misquoted: a block with the mark "message of FILE" holds a message of that file.
func misquoted(docs map[string]string, texts func(file string) []string) []string {
	var found []string
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		for _, b := range parse(docs[name]).blocks {
			file, ok := strings.CutPrefix(b.mark, "message of ")
			if ok && !slices.ContainsFunc(patterns(texts(file)), func(p *regexp.Regexp) bool { return p.MatchString(b.text) }) {
				found = append(found, fmt.Sprintf("%s:%d: no message of %s", name, b.line, file))
			}
		}
	}
	return found
}

func TestQuotes(t *testing.T) {
	docs := documents(t)
	texts := func(file string) (all []string) {
		f := sources(t, file)[file]
		if f == nil {
			t.Errorf("%s is quoted and is not there", file)
			return nil
		}
		literals(f, func(text string) { all = append(all, text) })
		return all
	}
	report(t, misquoted(docs, texts))
	n := 0
	for _, text := range docs {
		n += strings.Count(text, "\n<!-- message of ")
	}
	if n < 3 {
		t.Errorf("%d quotes: they are not seen", n)
	}
}

func TestQuotesBad(t *testing.T) {
	doc := "<!-- message of a.go -->\n```\npuller: io: the horse \"Bella\" has\n  eaten 3 apples already\n```\n" +
		"<!-- message of a.go -->\n```\npuller: io: the horse \"Bella\" has eaten 3 apples\n```\n" +
		"<!-- message of a.go -->\n```\npuller: io: at once\n```\n```\nno mark\n```\n"
	want := []string{"d.md:7: no message of a.go", "d.md:11: no message of a.go"}
	texts := func(string) []string { return []string{"at once", "the horse %q has eaten %d apples already"} }
	if diff := cmp.Diff(want, misquoted(map[string]string{"d.md": doc}, texts)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestFindings: each thing that a start can find has its row in the recovery table, in
// the words that the log has for it.
func TestFindings(t *testing.T) {
	rows := map[string]bool{}
	for _, tab := range parse(read(t, "docs/design.md")).tables("found", nil) {
		for _, row := range tab.rows {
			rows[row[0]] = true
		}
	}
	n := 0
	for _, text := range typed(sources(t, "puller")["puller/recover.go"], "finding") {
		n++
		if !rows[text] && text != "nothing to recover" {
			t.Errorf("docs/design.md: the recovery table has no row %q", text)
		}
	}
	if n < 6 {
		t.Errorf("%d findings: they are not seen", n)
	}
}
