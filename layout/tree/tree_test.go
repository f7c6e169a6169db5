package tree

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

const (
	hello = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9" // "hello world"
	foo   = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" // "foo"
)

// The example of the package documentation.
const golden = `dir - docs
0644 b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9 docs/readme
link c65cde6a5c389cd91158a5aec887eee0203942da572e56f9f75b4cbb2121dc40 latest
0755 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae server
`

const goldenHash = layout.Digest("sha256:1750b01764abef4e5fa13e9510204146cdd3b36550b0c41a4379fa54b2a39b9b")

func goldenEntries() []Entry {
	return []Entry{
		{Path: "docs", Kind: Dir, Sum: NoSum},
		{Path: "docs/readme", Kind: File, Sum: hello, Size: 11},
		{Path: "latest", Kind: Link, Sum: HexOf("docs/readme")},
		{Path: "server", Kind: Exec, Sum: foo, Size: 3},
	}
}

func TestListingIsGolden(t *testing.T) {
	entries := goldenEntries()
	for range 2 { // then in another order
		if diff := cmp.Diff(golden, string(Listing(entries))); diff != "" {
			t.Error(diff)
		}
		if got := Hash(entries); got != goldenHash {
			t.Errorf("hash is %s, want %s", got, goldenHash)
		}
		slices.Reverse(entries)
	}
}

func TestParseListingReadsWhatListingPrints(t *testing.T) {
	got, err := ParseListing([]byte(golden))
	if err != nil {
		t.Fatal(err)
	}
	want := goldenEntries()
	for i := range want {
		want[i].Size = 0 // not in a listing
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if got, err := ParseListing(nil); len(got) != 0 || err != nil {
		t.Errorf("empty listing: %v, %v", got, err)
	}
}

// Directories do not come right before what is in them: "-" sorts before "/".
func TestParseListingSortsBytewise(t *testing.T) {
	listing := "dir - a\n0644 " + foo + " a-b\n0644 " + foo + " a/b\n0644 " + foo + " ab\n"
	if _, err := ParseListing([]byte(listing)); err != nil {
		t.Error(err)
	}
}

func TestParseListingRefuses(t *testing.T) {
	for _, c := range []struct{ name, old, new, says string }{
		{"no newline at the end", "server\n", "server", "line 4 has no end"},
		{"empty line", "link", "\nlink", "is not KIND SHA256 PATH"},
		{"carriage return", "docs/readme\n", "docs/readme\r\n", "holds U+000D"},
		{"two spaces", "0755 ", "0755  ", "is not 64 hex digits"},
		{"a tab", "0755 ", "0755\t", "is not KIND SHA256 PATH"},
		{"no path", " server", "", "is not KIND SHA256 PATH"},
		{"empty path", " server", " ", "empty component"},
		{"unknown kind", "0755", "0777", `kind "0777"`},
		{"no kind", "0755", "", `kind ""`},
		{"kind of other letters", "dir", "DIR", `kind "DIR"`},
		{"upper-case sum", "b94d", "B94D", "is not 64 hex digits"},
		{"short sum", "b94d", "b94", "is not 64 hex digits"},
		{"long sum", "b94d", "b94dd", "is not 64 hex digits"},
		{"file without sum", hello, "-", "is not 64 hex digits"},
		{"link without sum", "link " + HexOf("docs/readme"), "link -", "is not 64 hex digits"},
		{"directory with a sum", "dir -", "dir " + foo, `want "-"`},
		{"not sorted", " latest", " docs", "not sorted and distinct"},
		{"a path twice", " latest", " docs/readme", "not sorted and distinct"},
		{"below nothing", "docs/readme", "docs-x/readme", "not below a directory"},
		{"below a file", "dir - docs", "0644 " + foo + " docs", "not below a directory"},
		{"below a link", "dir - docs", "link " + foo + " docs", "not below a directory"},
		{"below a file, deep", "docs/readme", "docs/a/readme", "not below a directory"},
		{"slash at the end", "dir - docs", "dir - docs/", "empty component"},
		{"absolute", "dir - docs", "dir - /docs", "absolute"},
		{"dot", "dir - docs", "dir - .", `"." component`},
		{"up", "docs/readme", "docs/../readme", `".." component`},
		{"backslash", "docs/readme", `docs\readme`, "backslash"},
		{"not UTF-8", "docs/readme", "docs/\xff", "not UTF-8"},
		{"own directory", "dir - docs", "dir - .sando", "belongs to the puller"},
	} {
		t.Run(c.name, func(t *testing.T) {
			listing := strings.Replace(golden, c.old, c.new, 1)
			if listing == golden {
				t.Fatal("nothing was changed")
			}
			_, err := ParseListing([]byte(listing))
			if !errors.Is(err, ErrTree) || reason.Of(err) != reason.Format {
				t.Errorf("got %v with the reason %q, want ErrTree with %q", err, reason.Of(err), reason.Format)
			}
			if err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %q does not say %q", err, c.says)
			}
		})
	}
}

func TestListingHasALimit(t *testing.T) {
	var entries []Entry
	var rules Rules
	for i := 0; ; i++ {
		e := Entry{Path: fmt.Sprintf("%0250d", i), Kind: File, Sum: foo}
		if err := rules.Next(e.Path, e.Kind); err != nil {
			if !errors.Is(err, ErrTree) || reason.Of(err) != reason.Limit {
				t.Errorf("got %v with the reason %q, want ErrTree with %q", err, reason.Of(err), reason.Limit)
			}
			break
		}
		entries = append(entries, e)
	}
	full := Listing(entries)
	if len(full) > MaxListing || len(full) < MaxListing-400 {
		t.Errorf("the longest listing has %d bytes, want nearly %d", len(full), MaxListing)
	}
	if _, err := ParseListing(full); err != nil {
		t.Errorf("longest listing: %v", err)
	}
	over := append(full, full[:MaxListing-len(full)+1]...)
	if _, err := ParseListing(over); reason.Of(err) != reason.Limit {
		t.Errorf("one byte more: got %v with the reason %q, want %q", err, reason.Of(err), reason.Limit)
	}
}

func TestDiff(t *testing.T) {
	with := func(change func([]Entry) []Entry) []Entry { return change(goldenEntries()) }
	for _, c := range []struct {
		name string
		have []Entry
		want []string
	}{
		{"the same", goldenEntries(), nil},
		{"missing", with(func(e []Entry) []Entry { return e[:3] }), []string{"missing server"}},
		{"missing in the middle", with(func(e []Entry) []Entry { return slices.Delete(e, 1, 3) }), []string{"missing docs/readme", "missing latest"}},
		{"extra", with(func(e []Entry) []Entry { return append(e, Entry{Path: "x", Kind: File, Sum: foo}) }), []string{"extra x"}},
		{"extra before", with(func(e []Entry) []Entry { return append(e, Entry{Path: "a", Kind: File, Sum: foo}) }), []string{"extra a"}},
		{"content", with(func(e []Entry) []Entry { e[1].Sum = foo; return e }), []string{"changed docs/readme"}},
		{"link target", with(func(e []Entry) []Entry { e[2].Sum = foo; return e }), []string{"changed latest"}},
		{"mode", with(func(e []Entry) []Entry { e[3].Kind = File; return e }), []string{"changed server: is 0644, want 0755"}},
		{"size alone is not of the tree", with(func(e []Entry) []Entry { e[3].Size = 0; return e }), nil},
		{"nothing there", nil, []string{"missing docs", "missing docs/readme", "missing latest", "missing server"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Diff(c.have, goldenEntries())); diff != "" {
				t.Error(diff)
			}
			if same := Hash(c.have) == goldenHash; same != (c.want == nil) {
				t.Errorf("the hashes are equal: %t, and the difference is %q", same, c.want)
			}
		})
	}
}

func TestDiffIsShort(t *testing.T) {
	var want []Entry
	for i := range 100 {
		want = append(want, Entry{Path: fmt.Sprintf("%03d", i), Kind: File, Sum: foo})
	}
	for _, c := range []struct {
		n     int
		lines int
		last  string
	}{{19, 19, "missing 018"}, {20, 20, "missing 019"}, {21, 20, "and 2 more"}, {100, 20, "and 81 more"}} {
		got := Diff(nil, want[:c.n])
		if len(got) != c.lines || got[len(got)-1] != c.last {
			t.Errorf("%d differences give %d lines, the last %q; want %d and %q", c.n, len(got), got[len(got)-1], c.lines, c.last)
		}
	}
}

func FuzzParseListing(f *testing.F) {
	f.Add([]byte(golden))
	f.Add([]byte(""))
	f.Add([]byte("dir - a\n0644 " + foo + " a-b\n0644 " + foo + " a/b\n"))
	f.Add([]byte("dir - .sando\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := ParseListing(data)
		if err != nil {
			if !errors.Is(err, ErrTree) {
				t.Errorf("error %v does not match ErrTree", err)
			}
			return
		}
		if got := Listing(entries); string(got) != string(data) {
			t.Errorf("parsed %q, printed %q", data, got)
		}
		if Hash(entries) != layout.Sum(data) {
			t.Error("the tree hash is not that of the listing")
		}
	})
}
