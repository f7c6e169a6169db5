package archive

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/layout/tree"
)

// ustar is a USTAR header, written field by field as the package documentation has it.
func ustar(name, mode, size, flag, link, prefix string) string {
	before := field(name, 100) + mode + "\x00" + "0000000\x00" + "0000000\x00" + size + "\x00" + "15207642120\x00"
	after := flag + field(link, 100) + "ustar\x00" + "00" + field("", 32) + field("", 32) +
		"0000000\x00" + "0000000\x00" + field(prefix, 155) + field("", 12)
	sum := 0
	for _, c := range []byte(before + "        " + after) {
		sum += int(c)
	}
	return before + fmt.Sprintf("%06o\x00 ", sum) + after
}

func field(s string, n int) string { return s + strings.Repeat("\x00", n-len(s)) }

func TestHeadersAreGolden(t *testing.T) {
	var (
		a50  = strings.Repeat("a", 50)
		b99  = strings.Repeat("b", 99)
		c100 = strings.Repeat("c", 100)
		d101 = strings.Repeat("d", 101)
		e155 = strings.Repeat("e", 155)
	)
	const x, f = "0000755", "0000644"
	for _, c := range []struct {
		name string
		h    header
		want string
	}{
		{"executable", header{"bin/server", tree.Exec, 0o1234567, ""},
			ustar("bin/server", x, "00001234567", "0", "", "")},
		{"file", header{"docs/a b", tree.File, 0, ""},
			ustar("docs/a b", f, "00000000000", "0", "", "")},
		{"directory", header{"docs", tree.Dir, 0, ""},
			ustar("docs/", x, "00000000000", "5", "", "")},
		{"link", header{"latest", tree.Link, 0, "docs/a"},
			ustar("latest", x, "00000000000", "2", "docs/a", "")},
		{"largest size", header{"f", tree.File, maxNumber, ""},
			ustar("f", f, "77777777777", "0", "", "")},
		{"name of 100 bytes", header{c100, tree.File, 1, ""},
			ustar(c100, f, "00000000001", "0", "", "")},
		{"name of 100 bytes with its slash", header{b99, tree.Dir, 0, ""},
			ustar(b99+"/", x, "00000000000", "5", "", "")},
		{"prefix", header{a50 + "/" + a50 + "/x", tree.File, 1, ""},
			ustar("x", f, "00000000001", "0", "", a50+"/"+a50)},
		{"directory with a prefix", header{a50 + "/" + a50, tree.Dir, 0, ""},
			ustar(a50+"/", x, "00000000000", "5", "", a50)},
		{"longest prefix and name", header{e155 + "/" + c100, tree.File, 1, ""},
			ustar(c100, f, "00000000001", "0", "", e155)},
		{"prefix too long", header{e155 + "e/x", tree.File, 1, ""},
			ustar(paxName, f, "00000000250", "x", "", "") + field("168 path="+e155+"e/x\n", 512) +
				ustar(e155[:100], f, "00000000001", "0", "", "")},
		{"component too long", header{"a/" + d101, tree.Exec, 1, ""},
			ustar(paxName, f, "00000000161", "x", "", "") + field("113 path=a/"+d101+"\n", 512) +
				ustar("a/"+d101[:98], x, "00000000001", "0", "", "")},
		{"directory name too long", header{c100, tree.Dir, 0, ""},
			ustar(paxName, f, "00000000157", "x", "", "") + field("111 path="+c100+"/\n", 512) +
				ustar(c100, x, "00000000000", "5", "", "")},
		{"not ASCII", header{"é", tree.File, 1, ""},
			ustar(paxName, f, "00000000013", "x", "", "") + field("11 path=é\n", 512) +
				ustar("é", f, "00000000001", "0", "", "")},
		{"link target of 100 bytes", header{"l", tree.Link, 0, c100},
			ustar("l", x, "00000000000", "2", c100, "")},
		{"link target too long", header{"l", tree.Link, 0, d101},
			ustar(paxName, f, "00000000163", "x", "", "") + field("115 linkpath="+d101+"\n", 512) +
				ustar("l", x, "00000000000", "2", d101[:100], "")},
		{"both", header{"é", tree.Link, 0, "ü"},
			ustar(paxName, f, "00000000032", "x", "", "") + field("11 path=é\n15 linkpath=ü\n", 512) +
				ustar("é", x, "00000000000", "2", "ü", "")},
		{"a record that fills its block", header{strings.Repeat("é", 251), tree.File, 1, ""},
			ustar(paxName, f, "00000001000", "x", "", "") + "512 path=" + strings.Repeat("é", 251) + "\n" +
				ustar(strings.Repeat("é", 50), f, "00000000001", "0", "", "")},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := c.h.append(nil, testTime)
			if diff := cmp.Diff(c.want, string(got)); diff != "" {
				t.Error(diff)
			}
			back, err := parse(got, testTime)
			if err != nil || back != c.h {
				t.Errorf("parsed to %+v, %v; want %+v", back, err, c.h)
			}
		})
	}
}

// The example of the package documentation, checksum included.
func TestHeaderIsAsDocumented(t *testing.T) {
	got := header{path: "bin/server", kind: tree.Exec}.append(nil, testTime)
	words := strings.FieldsFunc(string(got), func(r rune) bool { return r == 0 || r == ' ' })
	want := strings.Fields("bin/server 0000755 0000000 0000000 00000000000 15207642120 011235 0 ustar 00 0000000 0000000")
	if diff := cmp.Diff(want, words); diff != "" {
		t.Error(diff)
	}
}

// Times at the ends of what a header holds.
func TestTimes(t *testing.T) {
	for _, c := range []struct {
		at   time.Time
		want string
	}{{time.Unix(0, 0), "00000000000"}, {time.Unix(maxNumber, 0), "77777777777"}} {
		h := header{path: "f", kind: tree.File}.append(nil, c.at)
		if got := string(trim(h[136:148])); got != c.want || checkTime(c.at) != nil {
			t.Errorf("%s is written %q, %v; want %q", c.at, got, checkTime(c.at), c.want)
		}
	}
	for _, at := range []time.Time{{}, time.Unix(-1, 0), time.Unix(maxNumber+1, 0), time.Unix(1, 1)} {
		if checkTime(at) == nil {
			t.Errorf("%s is taken", at)
		}
	}
}

// Another byte anywhere in a header is refused, or says something else.
func TestEveryByteOfAHeaderCounts(t *testing.T) {
	for _, p := range sample() {
		for i := range p.head {
			for _, fix := range []bool{false, true} {
				raw := bytes.Clone(p.head)
				raw[i] ^= 1
				if fix {
					fixSums(raw)
				}
				if bytes.Equal(raw, p.head) {
					continue // it was in the checksum
				}
				h, err := parse(raw, testTime)
				if err == nil && h == p.h {
					t.Errorf("byte %d of the header of %q means nothing (checksum mended: %t)", i, p.h.path, fix)
				}
				if err == nil && !bytes.Equal(h.append(nil, testTime), raw) {
					t.Errorf("byte %d of the header of %q: parsed to what encodes otherwise", i, p.h.path)
				}
			}
		}
	}
}

// fixSums mends the checksums of header blocks.
func fixSums(raw []byte) {
	mend := func(b []byte) {
		copy(b[148:156], "        ")
		sum := 0
		for _, c := range b {
			sum += int(c)
		}
		copy(b[148:156], fmt.Sprintf("%06o\x00 ", sum))
	}
	mend(raw[:blockSize])
	mend(raw[len(raw)-blockSize:])
}
