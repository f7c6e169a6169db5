package docscheck

import (
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// deadLinks: a link leads to a file of the repository, and to an anchor where it names
// one in a document. Links to other places are not looked at.
func deadLinks(docs map[string]string, exists func(name string) bool) []string {
	pages := map[string]page{}
	for name, text := range docs {
		pages[name] = parse(text)
	}
	var found []string
	for _, name := range slices.Sorted(maps.Keys(docs)) {
		for _, l := range pages[name].links {
			if strings.Contains(l.target, "://") || strings.HasPrefix(l.target, "mailto:") {
				continue
			}
			file, anchor, _ := strings.Cut(l.target, "#")
			if file = path.Join(path.Dir(name), file); strings.HasPrefix(l.target, "#") {
				file = name
			}
			p, known := pages[file]
			switch {
			case !known && !exists(file):
				found = append(found, fmt.Sprintf("%s:%d: %s is not there", name, l.line, l.target))
			case known && anchor != "" && !p.slugs[anchor]:
				found = append(found, fmt.Sprintf("%s:%d: %s has no such heading", name, l.line, l.target))
			}
		}
	}
	return found
}

func exists(name string) bool {
	_, err := os.Stat(filepath.Join(root, name))
	return err == nil
}

func TestLinks(t *testing.T) {
	docs := documents(t)
	report(t, deadLinks(docs, exists))
	n := 0
	for _, text := range docs {
		n += len(parse(text).links)
	}
	if n < 20 {
		t.Errorf("%d links: they are not seen", n)
	}
}

func TestLinksBad(t *testing.T) {
	docs := map[string]string{
		"README.md": "# Top\n[a](docs/a.md) [b](docs/b.md) [c](docs/a.md#two-words)\n[d](#top) [e](#bottom) [f](https://x/#y) [g](cmd)\n",
		"docs/a.md": "# Two `words`\n[a](../README.md#top) [b](a.md#two) [c](README.md)\n",
	}
	want := []string{
		"README.md:2: docs/b.md is not there",
		"README.md:3: #bottom has no such heading",
		"docs/a.md:2: a.md#two has no such heading",
		"docs/a.md:2: README.md is not there",
	}
	if diff := cmp.Diff(want, deadLinks(docs, func(name string) bool { return name == "cmd" })); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// TestNamed finds the documents that sources name, in messages and comments alike.
func TestNamed(t *testing.T) {
	form := regexp.MustCompile(`\b(?:docs/[a-z]+\.md|(?:README|CHANGELOG)\.md)\b`)
	n := 0
	for _, dir := range []string{"builder", "puller", "channels", "signing", "layout", "internal", "cmd", "e2e"} {
		for name := range sources(t, dir) {
			for _, doc := range form.FindAllString(read(t, name), -1) {
				n++
				if !exists(doc) {
					t.Errorf("%s names %s, which is not there", name, doc)
				}
			}
		}
	}
	if n < 5 {
		t.Errorf("%d names: they are not seen", n)
	}
}
