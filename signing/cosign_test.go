package signing_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/testenv/cosign"
	"makenot.work/sando/signing"
)

// What cosign refuses, we refuse. What only we refuse is listed and argued in
// docs/security.md, case by case.
func TestCosignAgrees(t *testing.T) {
	c, k, dir := cosign.New(t), cosignKey(t), t.TempDir()
	doc, bundle := filepath.Join(dir, "doc"), filepath.Join(dir, "bundle")
	var stricter []string
	for _, o := range offers(t) {
		for name, data := range map[string][]byte{doc: o.doc, bundle: o.bundle} {
			if err := os.WriteFile(name, data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		ours, theirs := signing.VerifyBundle(k, o.doc, o.bundle), c.Verify("testdata/cosign.pub", bundle, doc)
		switch {
		case ours == nil && theirs != nil:
			t.Errorf("%s: accepted here, refused by %v", o.name, theirs)
		case ours != nil && theirs == nil:
			stricter = append(stricter, o.name)
		}
	}
	want := listed(t, "cosign accepts, Sando does not")
	slices.Sort(stricter)
	if diff := cmp.Diff(want, stricter); diff != "" {
		t.Errorf("what only we refuse (-docs/security.md +seen)\n%s", diff)
	}
}

// listed returns what stands in backquotes in the first column of the table of
// docs/security.md that begins with the given header, sorted.
func listed(t *testing.T, header string) (names []string) {
	t.Helper()
	text, err := os.ReadFile("../docs/security.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n| "+header+" |")
	table, _, _ = strings.Cut(table, "\n\n")
	for row := range strings.SplitSeq(table, "\n| ") {
		first, _, _ := strings.Cut(row, " | ")
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(first, -1) {
			names = append(names, name[1])
		}
	}
	slices.Sort(names)
	return names
}
