package oldroot

import (
	"path"
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

// plain undoes what find allows for.
func plain(text string) string {
	text = strings.NewReplacer(`\x2d`, "-", `\x2f`, "/", `\x2F`, "/", "%2f", "/", "%2F", "/", `\x6e`, "n", `"`, "", "'", "").Replace(text)
	return path.Clean(strings.ReplaceAll(text, `\`, ""))
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
