package envfile

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/testenv/host"
)

// show prints the environment that systemd makes of a file.
const show = `[Service]
Type=oneshot
EnvironmentFile=/etc/odd/%i
ExecStart=/usr/bin/env -0
StandardOutput=truncate:/run/odd-%i
[Unit]
StartLimitIntervalSec=0
`

// What Parse makes of a file is what systemd makes of it.
func TestAsRootSystemd(t *testing.T) {
	h := host.Boot(t)
	h.Write(t, "/etc/systemd/system/show@.service", show, 0o644)
	files := odds()
	for i := range 200 {
		files = append(files, odd{name: fmt.Sprint("made by chance ", i), text: scribble(uint64(i))})
	}
	units := []string{"start", "--quiet"}
	for i, f := range files {
		h.Write(t, fmt.Sprint("/etc/odd/", i), f.text, 0o600)
		units = append(units, fmt.Sprintf("show@%d.service", i))
	}
	h.Run(t, "systemctl", "daemon-reload")
	h.Try(t, "systemctl", units...) // some fail
	base := given(h.Read(t, "/run/odd-0"), nil)
	compared := 0
	for i, f := range files {
		refused := strings.Contains(h.Run(t, "systemctl", "show", "--property=Result", units[i+2]), "resources")
		var got []Var
		if !refused {
			got = given(h.Read(t, fmt.Sprint("/run/odd-", i)), base)
		}
		want, err := Parse([]byte(f.text))
		if splits(f.text) {
			// The versions disagree, and this is one of them.
			a, aErr := (&parser{}).parse([]byte(f.text))
			b, bErr := (&parser{old: true}).parse([]byte(f.text))
			if !(refused == (aErr != nil) && same(a, got)) && !(refused == (bErr != nil) && same(b, got)) {
				t.Errorf("%s: systemd makes %q of %q (refused: %t), which no version should", f.name, got, f.text, refused)
			}
			continue
		}
		compared++
		if (err != nil) != refused {
			t.Errorf("%s: %q: error %v, systemd refused it: %t", f.name, f.text, err, refused)
		} else if err == nil && !same(want, got) {
			t.Errorf("%s: %q is to systemd what it is not here (-here +systemd)\n%s", f.name, f.text, cmp.Diff(sorted(want), sorted(got)))
		}
	}
	if compared < 150 {
		t.Errorf("%d files were compared", compared)
	}
}

// splits reports whether versions of systemd may disagree about a text.
func splits(text string) bool {
	p := parser{}
	if strings.Contains(text, "\x00") {
		return false
	}
	_, err := p.parse([]byte(text))
	return p.continued != 0 || err != nil && strings.Contains(text, "\\")
}

// given returns what a unit printed, without the names in base.
func given(out string, base []Var) (vars []Var) {
	for line := range strings.SplitSeq(strings.TrimSuffix(out, "\x00"), "\x00") {
		name, value, _ := strings.Cut(line, "=")
		if !slices.ContainsFunc(base, func(v Var) bool { return v.Name == name }) {
			vars = append(vars, Var{name, value})
		}
	}
	return vars
}

func sorted(vars []Var) []Var {
	vars = slices.Clone(vars)
	slices.SortFunc(vars, func(a, b Var) int { return strings.Compare(a.Name, b.Name) })
	return vars
}

func same(a, b []Var) bool { return slices.Equal(sorted(a), sorted(b)) }

// scribble returns a file made by chance of what has a meaning in one.
func scribble(seed uint64) string {
	r := rand.New(rand.NewPCG(seed, 1))
	parts := []string{"AA", "B", "1", "=", "=", "=", "'", "'", "\"", "\"", "\\", "\\", "\n", "\n", "\n", "\r", " ", "\t", "#", ";", "$", "`", "ü", "\\\n"}
	var b strings.Builder
	b.WriteString("CC=")
	for range 40 {
		b.WriteString(parts[r.IntN(len(parts))])
	}
	return b.String()
}
