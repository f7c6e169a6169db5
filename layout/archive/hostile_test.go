package archive

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// The archives here are signed correctly: the manifest lets pass whatever they hold.
// Each is the sample with one thing changed.

// change returns the sample, its entry path changed by edit.
func change(path string, edit func(p *part)) []part {
	parts := sample()
	i := slices.IndexFunc(parts, func(p part) bool { return p.h.path == path })
	edit(&parts[i])
	return parts
}

// with returns the sample with more entries before the one at path, or at the end.
func with(path string, more ...part) []part {
	parts := sample()
	if i := slices.IndexFunc(parts, func(p part) bool { return p.h.path == path }); i >= 0 {
		return slices.Insert(parts, i, more...)
	}
	return append(parts, more...)
}

// set overwrites a field of the last header block, and mends the checksum.
func set(offset int, value string) func(p *part) {
	return func(p *part) {
		b := p.head[len(p.head)-blockSize:]
		copy(b[offset:], value)
		fixSums(p.head)
	}
}

// named gives an entry another path, in headers that are as they should be for it.
func named(path string) func(p *part) {
	return func(p *part) {
		p.h.path = path
		p.head = p.h.append(nil, testTime)
	}
}

// target gives a link another target in the same way.
func target(link string) func(p *part) {
	return func(p *part) {
		p.h.link = link
		p.head = p.h.append(nil, testTime)
	}
}

// pax puts a PAX header with these records before the entry.
func pax(records string) func(p *part) { return extended(typePAX, records) }

func extended(flag byte, records string) func(p *part) {
	return func(p *part) {
		b := appendBlock(nil, block{name: paxName, mode: 0o644, size: int64(len(records)), flag: flag}, testTime)
		b = append(b, records...)
		b = append(b, make([]byte, padding(int64(len(records))))...)
		p.head = append(b, p.head...)
	}
}

func record(key, value string) string { return string(appendRecord(nil, key, value)) }

func flag(c byte) func(p *part) { return set(156, string(c)) }

func mode(octal string) func(p *part) { return set(100, octal) }

func TestSampleIsNotRefused(t *testing.T) {
	want := wantOf(sample())
	if _, err := Check(t.Context(), bytes.NewReader(squeeze(t, join(sample()))), want); err != nil {
		t.Fatal(err)
	}
	for name, parts := range map[string][]part{
		"a directory more":              with("server", dirPart("ls")),
		"a link up to the root":         with("d/l", linkPart("d/g", "..")),
		"a link through another link":   with("", linkPart("ä2", "z")),
		"a link that leads nowhere":     with("", linkPart("ä2", "nothing/there")),
		"an order that only bytes have": with(strings.Repeat("l", 60), filePart("d0", "")),
		"a whiteout is a file":          with("d/empty", filePart("d/.wh.f", "")),
		"a .sando that is not ours":     with("d/empty", dirPart("d/.sando")),
		"the longest component":         with("", filePart(strings.Repeat("ü", 127), "x")),
		"the deepest path":              deep(layout.MaxDepth),
	} {
		if _, err := Check(t.Context(), bytes.NewReader(squeeze(t, join(parts))), wantOf(parts)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// deep returns directories in each other.
func deep(n int) []part {
	var parts []part
	for i := range n {
		parts = append(parts, dirPart(strings.Repeat("d/", i)+"d"))
	}
	return parts
}

func TestHostilePaths(t *testing.T) {
	const f = "d/f"
	for _, c := range []struct {
		name  string
		parts []part
		says  string
	}{
		{"up", change(f, named("../x")), `has a ".." component`},
		{"in and up", change(f, named("d/../../x")), `has a ".." component`},
		{"up at the end", change(f, named("d/..")), `has a ".." component`},
		{"absolute", change(f, named("/etc/x")), "is absolute or has an empty component"},
		{"absolute twice", change(f, named("//x")), "is absolute or has an empty component"},
		{"absolute in the prefix", change(f, func(p *part) { set(345, "/etc")(p); set(0, field("x", 100))(p) }), `field name is "x", want "/etc/x"`},
		{"up in the prefix", change(f, func(p *part) { set(345, "..")(p); set(0, field("x", 100))(p) }), `field name is "x", want "../x"`},
		{"empty", change(f, named("")), "is absolute or has an empty component"},
		{"dot", change(f, named(".")), `has a "." component`},
		{"dot directory", change("d", named(".")), `has a "." component`},
		{"dot in front", change(f, named("./x")), `has a "." component`},
		{"empty component", change(f, named("d//f")), "is absolute or has an empty component"},
		{"slash at the end of a file", change(f, named("d/f/")), "is absolute or has an empty component"},
		{"two slashes at the end of a directory", change("d", named("d/")), "is absolute or has an empty component"},
		{"no slash at the end of a directory", change("d", set(0, "d\x00")), `field name is "d", want "d/"`},
		{"NUL", change(f, named("d/é\x00g")), "holds U+0000"},
		{"newline", change(f, named("d/f\ng")), "holds U+000A"},
		{"escape", change(f, named("d/f\x1bg")), "holds U+001B"},
		{"backslash", change(f, named(`d\f`)), "holds a backslash"},
		{"not UTF-8", change(f, named("d/\xff")), "is not UTF-8"},
		{"right to left", change(f, named("d/\u202egnp")), "holds U+202E"},
		{"component of 256 bytes", change(f, named("d/"+strings.Repeat("f", 256))), "is longer than 255 bytes"},
		{"path of 1025 bytes", change(f, named("d/"+strings.Repeat("f/", 511)+"f")), "is longer than 1024 bytes"},
		{"path of 10 000 bytes", change(f, named(strings.Repeat("d/", 5000))), "PAX header announces"},
		{"too deep", deep(layout.MaxDepth + 1), "is deeper than 64"},
		{"own directory", with(f, dirPart(".sando")), `".sando" belongs to the puller`},
		{"in the own directory", change(f, named(".sando/manifest.json")), "belongs to the puller"},
		{"not sorted", change("server", named("c")), `"c" comes after`},
		{"a path twice", with("d/l", filePart(f, "other")), `"d/f" comes after "d/f"`},
		{"a directory twice", with("d/empty", dirPart("d")), `"d" comes after "d"`},
		{"a directory and a file", with("d/empty", filePart("d", "")), `"d" comes after "d"`},
		{"below nothing", change(f, named("e/f")), `"e/f" is not below a directory that came before it`},
		{"below a file", with("d/l", filePart("d/f/g", "")), `"d/f/g" is not below a directory`},
		{"through a link", with("server", filePart("d/l/x", "")), `"d/l/x" comes after`},
		{"through a link, in order", slices.Insert(sample(), 4, filePart("d/l/x", "")), `"d/l/x" is not below a directory`},
		{"a directory through a link", slices.Insert(sample(), 4, dirPart("d/l/x")), `"d/l/x" is not below a directory`},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, squeeze(t, join(c.parts)), lenient(), reason.Format, c.says)
		})
	}
}

func TestHostileLinks(t *testing.T) {
	link := func(path, target string) []part { return with("d/empty", linkPart(path, target)) }
	for _, c := range []struct {
		name  string
		parts []part
		says  string
	}{
		{"absolute", link("d/a", "/etc/passwd"), "is absolute or has an empty component"},
		{"up and out", link("d/a", "../../x"), "leaves the bundle"},
		{"up and out from the root", with("server", linkPart("o", "../x")), "leaves the bundle"},
		{"the parent of the root", with("server", linkPart("o", "..")), "leaves the bundle"},
		{"down and up", link("d/a", "sub/.."), `has a ".." component`},
		{"down and out", link("d/a", "sub/../../../x"), `has a ".." component`},
		{"up through a link", slices.Insert(with("d/empty", linkPart("d/a", "..")), 2, linkPart("d/b", "a/../../x")), `has a ".." component`},
		{"dot", link("d/a", "."), `has a "." component`},
		{"dot in front", link("d/a", "./f"), `has a "." component`},
		{"empty", link("d/a", ""), "is absolute or has an empty component"},
		{"slash at the end of the target", link("d/a", "f/"), "is absolute or has an empty component"},
		{"slash at the end of the name", change("d/l", named("d/l/")), "is absolute or has an empty component"},
		{"newline", link("d/a", "f\n"), "holds U+000A"},
		{"NUL", change("d/l", target("é\x00g")), "holds U+0000"},
		{"backslash", link("d/a", `..\..\x`), "holds a backslash"},
		{"not UTF-8", link("d/a", "\xff"), "is not UTF-8"},
		{"target of 1025 bytes", link("d/a", strings.Repeat("f/", 512)+"f"), "is longer than 1024 bytes"},
		{"with a size", change("d/l", set(124, "00000000001\x00")), `field size is "00000000001", want "00000000000"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, squeeze(t, join(c.parts)), lenient(), reason.Format, c.says)
		})
	}
}

func TestHostileHeaders(t *testing.T) {
	const f = "d/f"
	type hostile struct {
		name  string
		parts []part
		says  string
	}
	cases := []hostile{
		{"setuid", change("server", mode("0004755")), `field mode is "0004755", want "0000755"`},
		{"setgid", change("server", mode("0002755")), `field mode is "0002755", want "0000755"`},
		{"sticky directory", change("d", mode("0001755")), `field mode is "0001755", want "0000755"`},
		{"mode 0777", change(f, mode("0000777")), `field mode is "0000777", want "0000755"`},
		{"mode 0000", change(f, mode("0000000")), `field mode is "0000000", want "0000755"`},
		{"directory with mode 0700", change("d", mode("0000700")), `field mode is "0000700", want "0000755"`},
		{"link with mode 0777", change("d/l", mode("0000777")), `field mode is "0000777", want "0000755"`},
		{"mode with the type", change(f, mode("0100644")), `field mode is "0100644", want "0000755"`},
		{"mode with a space", change(f, mode("000644 ")), `field mode is "000644 ", want "0000755"`},
		{"uid", change(f, set(108, "0001750")), `field uid is "0001750", want "0000000"`},
		{"uid 2^32", change(f, set(108, "\x80\x00\x00\x01\x00\x00\x00\x00")), `field uid is "\x80\x00\x00\x01", want "0000000"`},
		{"gid", change(f, set(116, "0000001")), `field gid is "0000001", want "0000000"`},
		{"size in binary", change(f, set(124, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08")), `field size is "\x80`},
		{"negative size", change(f, set(124, "-0000000010")), `field size is "-0000000010", want "00000000000"`},
		{"size with spaces", change(f, set(124, "         10 ")), `field size is "         10 ", want`},
		{"size of a directory", change("d", set(124, "00000000010")), `field size is "00000000010", want "00000000000"`},
		{"mtime", change(f, set(136, "15207642121")), `field mtime is "15207642121", want "15207642120"`},
		{"link name of a file", change(f, set(157, "server")), `field linkname is "server", want ""`},
		{"link name of a directory", change("d", set(157, "server")), `field linkname is "server", want ""`},
		{"after the end of the link name", change("d/l", set(160, "x")), `field linkname is "f\x00\x00x", want "f"`},
		{"after the end of the name", change(f, set(50, "x")), `field name is "d/f\x00`},
		{"magic of GNU", change(f, set(257, "ustar  \x00")), `field magic is "ustar  ", want "ustar\x0000"`},
		{"no magic", change(f, set(257, "\x00\x00\x00\x00\x00\x00\x00\x00")), `field magic is ""`},
		{"version", change(f, set(263, "01")), `field magic is "ustar\x0001"`},
		{"uname", change(f, set(265, "root")), `field uname is "root", want ""`},
		{"gname", change(f, set(297, "root")), `field gname is "root", want ""`},
		{"devmajor", change(f, set(329, "0000001")), `field devmajor is "0000001", want "0000000"`},
		{"devmajor empty", change(f, set(329, "\x00\x00\x00\x00\x00\x00\x00")), `field devmajor is "", want "0000000"`},
		{"devminor", change(f, set(337, "0000001")), `field devminor is "0000001", want "0000000"`},
		{"prefix that is not needed", change(f, func(p *part) { set(345, "d")(p); set(0, field("f", 100))(p) }), `field name is "f", want "d/f"`},
		{"padding", change(f, set(511, "x")), `field padding is`},
		{"checksum", change(f, func(p *part) { p.head[150]++ }), `field chksum is`},
		{"checksum with spaces", change(f, func(p *part) { copy(p.head[148:], " "+string(p.head[149:154])+"\x00 ") }), `field chksum is`},
		{"checksum without a space", change(f, func(p *part) { p.head[155] = 0 }), `field chksum is`},
		{"split elsewhere", change(sample()[5].h.path, func(p *part) {
			named("a/" + strings.Repeat("l", 38) + "/" + strings.Repeat("n", 60))(p)
			set(345, field("a", 155))(p)
			set(0, field(p.h.path[2:], 100))(p)
		}), "field name is"},
	}
	for _, c := range []byte("\x001346789ADIKLMNSVXZg") {
		cases = append(cases, hostile{fmt.Sprintf("type %q", c), change(f, flag(c)), fmt.Sprintf("has type %q, want", c)})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			refused(t, squeeze(t, join(c.parts)), lenient(), reason.Format, c.says)
		})
	}
}

func TestHostileExtensions(t *testing.T) {
	const f, accent = "d/f", "ä"
	const not = "PAX header is not the one for this path"
	const needless = "PAX is for a path and a link target that USTAR cannot hold"
	again := func(records string) []part { // in place of the PAX header that is needed
		return change(accent, func(p *part) {
			p.head = p.head[2*blockSize:]
			pax(records)(p)
		})
	}
	right := record("path", accent)
	for _, c := range []struct {
		name  string
		parts []part
		says  string
	}{
		{"global", change(f, extended('g', record("comment", "x"))), "has type 'g', want"},
		{"GNU long name", change(f, extended('L', strings.Repeat("x", 200))), "has type 'L', want"},
		{"GNU long link", change(f, extended('K', strings.Repeat("x", 200))), "has type 'K', want"},
		{"Solaris", change(f, extended('X', right)), "has type 'X', want"},
		{"path that is not needed", change(f, pax(record("path", f))), needless},
		{"link path that is not needed", change("d/l", pax(record("linkpath", "f"))), needless},
		{"link path of a file", change(f, pax(record("linkpath", strings.Repeat("x", 101)))), needless},
		{"empty", change(f, pax("")), needless},
		{"size", change(f, pax(record("size", "8"))), needless},
		{"mtime", change(f, pax(record("mtime", "1.5"))), needless},
		{"uid", change(f, pax(record("uid", "0"))), needless},
		{"attribute", change(f, pax(record("SCHILY.xattr.security.capability", "\x01\x00\x00\x02"))), needless},
		{"attribute of libarchive", change(f, pax(record("LIBARCHIVE.xattr.user.x", "eA"))), needless},
		{"ACL", change(f, pax(record("SCHILY.acl.access", "user::rw-"))), needless},
		{"sparse 0.0", change(f, pax(record("GNU.sparse.size", "8")+record("GNU.sparse.numblocks", "1"))), needless},
		{"sparse 0.1", change(f, pax(record("GNU.sparse.map", "0,8")+record("GNU.sparse.name", "x"))), needless},
		{"sparse 1.0", change(f, pax(record("GNU.sparse.major", "1")+record("GNU.sparse.minor", "0")+record("GNU.sparse.realsize", "8"))), needless},
		{"two headers", change(accent, pax(right)), "has type 'x', want"},
		{"a record more", again(right + record("comment", "x")), not},
		{"a record before", again(record("comment", "x") + right), not},
		{"the path twice", again(right + right), not},
		{"another path before", again(record("path", "other") + right), not},
		{"link path of a file beside", again(right + record("linkpath", "f")), not},
		{"wrong length", again("12" + right[2:]), not},
		{"length with a zero in front", again("012 path=" + accent + "\n"), not},
		{"length with a sign", again("+12 path=" + accent + "\n"), not},
		{"length 0", again("0 path=" + accent + "\n"), not},
		{"length of a gigabyte", again("1073741824 path=" + accent + "\n"), not},
		{"no newline", again("11 path=" + accent + "x"), not},
		{"no equals sign", again("11 path " + accent + "\n"), not},
		{"upper case", again(record("PATH", accent)), not},
		{"size is too small", change(accent, func(p *part) { set(124, "00000000012\x00")(&part{head: p.head[:blockSize]}) }), not},
		{"size is too large", change(accent, func(p *part) { set(124, "00000000014\x00")(&part{head: p.head[:blockSize]}) }), not},
		{"size is a gigabyte", change(accent, func(p *part) { set(124, "10000000000\x00")(&part{head: p.head[:blockSize]}) }), "PAX header announces"},
		{"size is nonsense", change(accent, func(p *part) { set(124, "x")(&part{head: p.head[:blockSize]}) }), "PAX header announces"},
		{"name of the header", change(accent, func(p *part) { set(0, "x")(&part{head: p.head[:blockSize]}) }), not},
		{"mode of the header", change(accent, func(p *part) { mode("0000755")(&part{head: p.head[:blockSize]}) }), not},
		{"mtime of the header", change(accent, func(p *part) { set(136, "00000000000")(&part{head: p.head[:blockSize]}) }), not},
		{"not filled with zeros", change(accent, func(p *part) { p.head[2*blockSize-1] = 'x' }), not},
		{"other name in the USTAR header", change(accent, set(0, "x")), "field name is"},
		{"prefix beside it", change(accent, set(345, "x")), "field prefix is"},
		{"nothing after it", append(sample(), part{head: change(accent, func(*part) {})[8].head[:2*blockSize]}), "has type '\\x00', want"},
	} {
		t.Run(c.name, func(t *testing.T) {
			refused(t, squeeze(t, join(c.parts)), lenient(), reason.Format, c.says)
		})
	}
}

func TestHostileEnds(t *testing.T) {
	valid := join(sample())
	body := valid[:len(valid)-endSize]
	zeros := func(n int) []byte { return make([]byte, n) }
	for _, c := range []struct {
		name string
		data []byte
		says string
	}{
		{"nothing", nil, "tar archive ends early"},
		{"no end", body, "tar archive ends early"},
		{"one zero block", append(slices.Clone(body), zeros(blockSize)...), "tar archive ends early"},
		{"a header after one zero block", append(append(slices.Clone(body), zeros(blockSize)...), join(sample())...), "has a header after a zero block"},
		{"a byte more", append(slices.Clone(valid), 0), "goes on after its end"},
		{"a third zero block", append(slices.Clone(valid), zeros(blockSize)...), "goes on after its end"},
		{"filled to a record of 10240 bytes", append(slices.Clone(valid), zeros(10240-len(valid)%10240)...), "goes on after its end"},
		{"a second archive", append(slices.Clone(valid), valid...), "goes on after its end"},
		{"something else", append(slices.Clone(valid), "#!/bin/sh\n"...), "goes on after its end"},
		{"nothing but the end", zeros(endSize), "has 0 entries"},
		{"a file's block not filled with zeros", join(change("d/f", func(p *part) { p.body[len(p.body)-1] = 1 })), "last block is not filled with zeros"},
		{"a file longer than it says", join(change("d/f", func(p *part) { p.body = append(p.body, zeros(blockSize)...) })), "has a header after a zero block"},
		{"a file shorter than it says", join(change("server", func(p *part) { p.body = nil })), "is not filled with zeros"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code := reason.Format
			if strings.Contains(c.says, "entries") {
				code = reason.Mismatch
			}
			refused(t, squeeze(t, c.data), lenient(), code, c.says)
		})
	}
}
