package layout_test

import (
	"errors"
	"strings"
	"testing"

	"makenot.work/sando/layout"
)

func TestNames(t *testing.T) {
	hex40, hex64 := strings.Repeat("0a", 20), strings.Repeat("0a", 32)
	for _, test := range []struct {
		what      string
		check     func(string) error
		good, bad []string
	}{
		{"app", layout.CheckApp,
			[]string{"a", "mnw", "a-1", "build", "builders", "a" + strings.Repeat("b", 31)},
			[]string{"builder", "1a", "-a", "A", "aB", "a_b", "a.b", "a" + strings.Repeat("b", 32)}},
		{"version", layout.CheckVersion,
			[]string{"0", "0.9.5", "v1", "1.0.0-rc.1+build-7", "2026_06_03", "a.locks", "A", strings.Repeat("1", 64)},
			[]string{"..", ".", "a..b", "1.", "1.0.lock", ".lock", "a/b", ".hidden", "-rf", "_1", "+1", "1 0", "1:0", "1~0",
				`a\b`, "1%00", "é", strings.Repeat("1", 65), strings.Repeat("1", 200)}},
		{"tier", layout.CheckTier,
			[]string{"a", "host", "0", "a-b", strings.Repeat("b", 32)},
			[]string{"-a", "A", "a.b", "a_b", "a/b", "..", strings.Repeat("b", 33)}},
		{"node", layout.CheckNode,
			[]string{"a", "alpha-west-1", "Host.example", "0", strings.Repeat("b", 63)},
			[]string{"-a", ".a", "a_b", "a/b", "..", strings.Repeat("b", 64)}},
		{"platform", layout.CheckPlatform,
			[]string{"any", "linux/amd64", "linux/arm64", "a/b"},
			[]string{"linux", "Any", "any/any/any", "linux/", "/amd64", "linux-amd64", "Linux/amd64", "linux/arm/v7", "../x", "linux/" + strings.Repeat("a", 17)}},
		{"commit", layout.CheckCommit,
			[]string{hex40, hex64},
			[]string{hex40[1:], hex40 + "0", hex64[1:], hex64 + "0", strings.ToUpper(hex40), strings.Repeat("g", 40), "HEAD"}},
		{"digest", func(s string) error { return layout.Digest(s).Check() },
			[]string{"sha256:" + hex64},
			[]string{hex64, "sha256:" + hex64[1:], "sha256:" + hex64 + "0", "sha256:" + strings.ToUpper(hex64), "SHA256:" + hex64,
				"sha512:" + hex64, "sha512:" + hex64 + hex64, "sha256-" + hex64, "sha256:sha256:" + hex64, "sha256:" + strings.Repeat("g", 64)}},
	} {
		for _, s := range test.good {
			if err := test.check(s); err != nil {
				t.Errorf("%s %q: %v", test.what, s, err)
			}
		}
		bad := append([]string{"", "\n", "\x00", test.good[0] + "\n", "\n" + test.good[0], test.good[0] + "\x00", test.good[0] + " ", " " + test.good[0], test.good[0] + "\u202e"}, test.bad...)
		for _, s := range bad {
			if err := test.check(s); !errors.Is(err, layout.ErrName) {
				t.Errorf("%s %q: error is %v, want ErrName", test.what, s, err)
			}
		}
	}
}

func TestDigest(t *testing.T) {
	d := layout.Sum([]byte("hello\n"))
	if d != "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" {
		t.Errorf("Sum = %s", d)
	}
	if err := d.Check(); err != nil {
		t.Error(err)
	}
	if got := d.Hex(); got != "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03" {
		t.Errorf("Hex = %s", got)
	}
	if got := d.Short(); got != "5891b5b522d5df08" {
		t.Errorf("Short = %s", got)
	}
	if got := layout.Short("abc"); got != "abc" {
		t.Errorf("Short of a short text = %q", got)
	}
}
