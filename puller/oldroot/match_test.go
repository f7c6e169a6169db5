package oldroot

import (
	"bytes"
	"path"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

const old = "/opt/makenotwork"

func TestFind(t *testing.T) {
	for _, text := range []string{
		"/opt/makenotwork", "/opt/makenotwork/", "//opt//makenotwork//x", "x /opt/makenotwork/bin/x --y",
		`"/opt/makenotwork"`, `'/opt/makenotwork/a b'`, `("/opt/makenotwork", 1)`, "`/opt/makenotwork/x`", "„/opt/makenotwork“",
		`"/opt"/makenotwork`, `"/opt/"makenotwork/x`, `/opt/'makenotwork'`, `export X="it's"; Y="/opt/makenotwork"`,
		"A=/opt/makenotwork", "A=/usr/bin:/opt/makenotwork/bin:/bin", "unix:/opt/makenotwork/app.sock", "NOPASSWD:/opt/makenotwork/x",
		"EnvironmentFile=-/opt/makenotwork/.env", "ExecStart=!!/opt/makenotwork/x", "ExecStart=@/opt/makenotwork/x x", "tar -C/opt/makenotwork",
		"file:///opt/makenotwork/x", "sqlite:////opt/makenotwork/db", "${DIR:-/opt/makenotwork}", "$(cat /opt/makenotwork/x)", "${DIR-/opt/makenotwork}",
		`s/\/opt\/makenotwork\/x/y/`, `{"dir":"\/opt\/makenotwork"}`, "postgres://%2Fopt%2fmakenotwork%2Frun/db", `/opt\x2fmake\x6eotwork`,
		"root /opt/makenotwork$uri;", "root /opt/makenotwork{path}", "rm -r /opt/makenotwork*", "~ ^/opt/makenotwork$", "Is it in /opt/makenotwork?",
		"It is in /opt/makenotwork.", "It was /opt/makenotwork, once", `printf "/opt/makenotwork\n"`, `"see \"/opt/makenotwork\""`, "/opt/makenotwork\\",
		"/opt/makenotwork2 and /opt/makenotwork", "/srv/opt/makenotwork:/opt/makenotwork", "\xff \x00/opt/makenotwork\x00",
	} {
		s, ok := find([]byte(text), old, 0)
		if !ok {
			t.Errorf("%q: not found", text)
		} else if got := plain(text[s.from:s.to]); got != old {
			t.Errorf("%q: found %q", text, got)
		}
	}
}

func TestFindAnother(t *testing.T) {
	for _, text := range []string{
		"/opt/makenotwork2", "/opt/makenotwork-old", "/opt/makenotwork.old", "/opt/makenotwork_x", "/opt/makenotworkä", "/opt/makenotwork~", "/opt/makenotwork+x",
		`/opt/makenotwork\x2dold`, `/opt/makenotwork\-old`, `/opt/makenotwork\ old`, `/opt/makenotwork\.old`, "/opt/makenotwork%i", "/opt/makenotwork@2",
		`"/opt/makenotwork"-old`, `"/opt/makenotwork"2`, `/opt/makenotwork"-old"`, "/opt/makenotwork..", "/opt/makenotwork\xff",
		"/srv/opt/makenotwork", "/srv//opt/makenotwork", "./opt/makenotwork", "~/opt/makenotwork", "opt/makenotwork", "ä/opt/makenotwork",
		"$HOME/opt/makenotwork", "${HOME}/opt/makenotwork", `"$HOME"/opt/makenotwork`, `"${HOME}"/opt/makenotwork`, "$(pwd)/opt/makenotwork", "%h/opt/makenotwork",
		"*/opt/makenotwork", `srv\/opt\/makenotwork`, "srv%2Fopt%2Fmakenotwork", "https://example.org/opt/makenotwork", "https://opt/makenotwork",
		"ssh://host//opt/makenotwork", "/opt/Makenotwork", "/OPT/makenotwork", "/opt/ makenotwork", "/opt", "/opt/makenotwor", "/op/tmakenotwork", "-xyz/opt/makenotwork",
	} {
		if s, ok := find([]byte(text), old, 0); ok {
			t.Errorf("%q: found %q", text, text[s.from:s.to])
		}
	}
}

// FuzzFind: what is found is the path, however it is written, and stands alone.
func FuzzFind(f *testing.F) {
	for _, text := range []string{"/opt/makenotwork", `s/\/opt\/makenotwork/x/`, `"/opt"/'makenotwork'`, "%2Fopt%2Fmakenotwork", `/opt\x2fmake\x6eotwork.`, "//opt//makenotwork\xff", "/srv/a-b.c:/srv/a\\-b.c"} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, old := range []string{"/opt/makenotwork", "/srv/a-b.c"} {
			from := 0
			for {
				s, ok := find(text, old, from)
				if !ok {
					break
				}
				if s.from < from || plain(string(text[s.from:s.to])) != old {
					t.Fatalf("%q found in %q at %d: %q", old, text, s.from, text[s.from:s.to])
				}
				if next := append(bytes.Clone(text[:s.to]), "-x"...); ends(next, s.to) {
					t.Fatalf("%q ends although a name goes on", next)
				}
				excerpt(text, s)
				from = s.to
			}
			if i := bytes.Index(text, []byte(old)); i >= 0 {
				judge(text, span{i, i + len(old)})
			}
			if len(text) > 0 && find0(append([]byte(old+" "), text...), old) != 0 {
				t.Fatalf("%q is not found in front of %q", old, text)
			}
		}
	})
}

func find0(text []byte, old string) int {
	if s, ok := find(text, old, 0); ok {
		return s.from
	}
	return -1
}

// plain undoes what find allows for.
func plain(text string) string {
	text = regexp.MustCompile(`\\x[0-9A-Fa-f]{2}`).ReplaceAllStringFunc(text, func(x string) string {
		c, _ := strconv.ParseUint(x[2:], 16, 8)
		return string([]byte{byte(c)})
	})
	return path.Clean(strings.NewReplacer("%2f", "/", "%2F", "/", `"`, "", "'", "", `\`, "").Replace(text))
}

func TestJudge(t *testing.T) {
	long := strings.Repeat("many words", reach)
	for _, c := range []struct {
		text string
		want verdict
	}{
		{"\x00/opt/makenotwork\x00", surely},
		{"\x00/opt/makenotwork/static\x00", surely},
		{"\x00open /opt/makenotwork: %v\x00", surely},
		{"\x00/opt/makenotwork2/static\x00", another},
		{"\x00/srv/opt/makenotwork/x\x00", another},
		{"/opt/makenotwork-old", another},
		{"\x00no such file/opt/makenotworkinternal error\x00", perhaps},
		{long + "/opt/makenotwork/static" + long, perhaps},
		{strings.Repeat("x", 2*reach) + "/opt/makenotwork/static\x00", perhaps},
	} {
		from := strings.Index(c.text, old)
		if got := judge([]byte(c.text), span{from, from + len(old)}); got != c.want {
			t.Errorf("%.60q: %v, want %v", c.text, got, c.want)
		}
	}
}
