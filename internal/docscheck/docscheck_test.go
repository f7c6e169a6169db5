// Package docscheck holds the documents of this repository to the code. Nothing imports
// it; its tests read README.md, CHANGELOG.md and docs/, and the programs' own command
// trees, configuration structs, reason codes and sources.
//
//	markdown_test.go    sections, tables, blocks and links of a document
//	reference_test.go   the tables of docs/reference.md against the code, both ways
//	facts_test.go       what the code says: flags, keys, fields, variables, events
//	links_test.go       links and anchors; documents that the code names
//	commands_test.go    every command line in documents and messages exists
//	quotes_test.go      messages in documents are messages of the code
//	formats_test.go     examples of docs/formats.md are golden files, or are read by the code
//
// Each check is a function from text to findings. The tests of the documents want none;
// beside each is one that gives the check small texts with something wrong in them, so
// that it has been seen failing.
//
// A block in a document is tied to the code by a comment in the line before it, such as
// <!-- same as signing/testdata/trust.json -->.
package docscheck

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the top of the module, seen from this package.
const root = "../.."

// read returns a file of the module.
func read(t testing.TB, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// documents returns every document, by its name in the module.
func documents(t testing.TB) map[string]string {
	t.Helper()
	docs := map[string]string{}
	for _, pattern := range []string{"*.md", "docs/*.md"} {
		names, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			name = strings.TrimPrefix(filepath.ToSlash(name), root+"/")
			docs[name] = read(t, name)
		}
	}
	for _, name := range []string{"README.md", "CHANGELOG.md", "docs/design.md", "docs/formats.md", "docs/reference.md", "docs/trust.md"} {
		if docs[name] == "" {
			t.Fatalf("%s is missing or empty", name)
		}
	}
	return docs
}

// report makes an error of each finding.
func report(t *testing.T, findings []string) {
	t.Helper()
	for _, f := range findings {
		t.Error(f)
	}
}
