package layout_test

import (
	"errors"
	"strings"
	"testing"

	"makenot.work/sando/layout"
)

func TestCheckPath(t *testing.T) {
	deep := strings.Repeat("a/", layout.MaxDepth-1) + "a"
	for _, p := range []string{
		"a", "a/b", "a b", ".hidden", "a/.sando", ".sandos", "..a", "a..b", "...", "-rf", "*", "é", "日本", "a:b", deep,
		strings.Repeat("a", layout.MaxComponent),
		strings.Repeat(strings.Repeat("a", 127)+"/", 7) + strings.Repeat("a", 128),
	} {
		if err := layout.CheckPath(p); err != nil {
			t.Errorf("CheckPath(%q): %v", p, err)
		}
	}
	for _, test := range []struct{ name, path, want string }{
		{"empty", "", "empty component"},
		{"dot", ".", `has a "." component`},
		{"parent", "..", `has a ".." component`},
		{"up", "../x", `has a ".." component`},
		{"up and out", "a/../../x", `has a ".." component`},
		{"up and in", "a/../x", `has a ".." component`},
		{"parent at the end", "a/..", `has a ".." component`},
		{"dot in front", "./a", `has a "." component`},
		{"dot inside", "a/./b", `has a "." component`},
		{"absolute", "/etc/x", "is absolute"},
		{"two slashes", "//x", "is absolute"},
		{"slash", "/", "is absolute"},
		{"empty component", "a//b", "empty component"},
		{"slash at the end", "a/", "empty component"},
		{"NUL", "a\x00b", "U+0000"},
		{"newline", "a\nb", "U+000A"},
		{"escape", "a\x1b[2J", "U+001B"},
		{"bidi", "a\u202eb", "U+202E"},
		{"line separator", "a\u2028b", "U+2028"},
		{"byte order mark", "\ufeffa", "U+FEFF"},
		{"backslash", `a\b`, "backslash"},
		{"not UTF-8", "a\xff", "not UTF-8"},
		{"overlong slash", "a\xc0\xafb", "not UTF-8"},
		{"long component", strings.Repeat("a", layout.MaxComponent+1), "longer than 255"},
		{"long path", strings.Repeat(strings.Repeat("a", 127)+"/", 7) + strings.Repeat("a", 129), "longer than 1024"},
		{"deep", strings.Repeat("a/", layout.MaxDepth) + "a", "deeper than 64"},
		{"Sando's own", ".sando", "belongs to the puller"},
		{"in Sando's own", ".sando/manifest.json", "belongs to the puller"},
	} {
		err := layout.CheckPath(test.path)
		if !errors.Is(err, layout.ErrPath) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: CheckPath(%q) = %v, want ErrPath with %q", test.name, test.path, err, test.want)
		}
	}
}

func TestCheckLink(t *testing.T) {
	for _, test := range []struct{ link, target string }{
		{"a", "b"}, {"a", "b/c"}, {"a/b", "../c"}, {"a/b", "../a"}, {"a/b", ".."}, {"a/b/c", "../.."}, {"a/b/c", "../../d"}, {"a", "a"}, {"a/b", "..c"},
	} {
		if err := layout.CheckLink(test.link, test.target); err != nil {
			t.Errorf("CheckLink(%q, %q): %v", test.link, test.target, err)
		}
	}
	for _, test := range []struct{ name, link, target, want string }{
		{"empty", "a", "", "empty component"},
		{"absolute", "a/b", "/etc/passwd", "is absolute"},
		{"out of the root", "a", "..", "leaves the bundle"},
		{"out of a directory", "a/b", "../..", "leaves the bundle"},
		{"up and out", "a/b", "../../etc", "leaves the bundle"},
		{"down and up", "a/b", "c/../../..", `has a ".." component`},
		{"through another link", "a/b", "c/..", `has a ".." component`},
		{"dot", "a", ".", `has a "." component`},
		{"dot in front", "a/b", "./c", `has a "." component`},
		{"dot behind up", "a/b", "../.", `has a "." component`},
		{"slash at the end", "a", "b/", "empty component"},
		{"slash behind up", "a/b", "../", "empty component"},
		{"empty component", "a", "b//c", "empty component"},
		{"NUL", "a", "b\x00", "U+0000"},
		{"newline", "a", "b\nc", "U+000A"},
		{"backslash", "a", `b\c`, "backslash"},
		{"not UTF-8", "a", "b\xff", "not UTF-8"},
		{"long component", "a", strings.Repeat("b", layout.MaxComponent+1), "longer than 255"},
		{"long", "a", strings.Repeat("b/", 600) + "b", "longer than 1024"},
		{"deep", "a", strings.Repeat("b/", layout.MaxDepth) + "b", "deeper than 64"},
	} {
		err := layout.CheckLink(test.link, test.target)
		if !errors.Is(err, layout.ErrPath) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: CheckLink(%q, %q) = %v, want ErrPath with %q", test.name, test.link, test.target, err, test.want)
		}
	}
}
