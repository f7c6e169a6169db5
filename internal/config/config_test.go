package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/reason"
)

type sample struct {
	App    string `koanf:"app"`
	Retain int    `koanf:"retain"`
	Health struct {
		Timeout time.Duration  `koanf:"start_timeout"`
		Smoke   []string       `koanf:"smoke"`
		JSON    map[string]any `koanf:"json"`
		On      bool           `koanf:"on"`
	} `koanf:"health"`
	Entry []struct {
		Src string `koanf:"src"`
	} `koanf:"entry"`
}

const good = `
app = "mnw"
retain = 3
[health]
start_timeout = "60s"
smoke = ["a", "b"]
json = { Status = "ok", n = 3 }
[[entry]]
src = "x"
`

func load(t *testing.T, text string, flags map[string]any) (sample, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var s sample
	err := Load(Source{File: file, Flags: flags, NotYet: []string{"hook", "health.unit"}}, &s)
	return s, err
}

func TestFileThenEnvironmentThenFlags(t *testing.T) {
	t.Setenv("SANDO__HEALTH__START_TIMEOUT", "5s")
	t.Setenv("SANDO__HEALTH__SMOKE", "c,d")
	t.Setenv("SANDO__HEALTH__ON", "true")
	t.Setenv("SANDO__RETAIN", "7")
	t.Setenv("SANDO__APP", "env")
	t.Setenv("SANDO_CONFIG", "not configuration")
	got, err := load(t, good, map[string]any{"app": "flag"})
	if err != nil {
		t.Fatal(err)
	}
	var want sample
	want.App, want.Retain = "flag", 7
	want.Health.Timeout, want.Health.Smoke, want.Health.On = 5*time.Second, []string{"c", "d"}, true
	want.Health.JSON = map[string]any{"Status": "ok", "n": int64(3)}
	want.Entry = append(want.Entry, struct {
		Src string `koanf:"src"`
	}{"x"})
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("loaded (-want +got):\n%s", d)
	}
}

func TestRefusals(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"unknown key":        {`retain = 3`, `retian = 3`, `unknown key "retian": did you mean "retain"?`},
		"unknown deep key":   {`smoke = `, `smokes = `, `unknown key "health.smokes": did you mean "health.smoke"?`},
		"key in wrong case":  {`app = `, `App = `, `unknown key "App"`},
		"unknown in list":    {`src = "x"`, `source = "x"`, `unknown key "entry[0].source"`},
		"wrong type":         {`app = "mnw"`, `app = 5`, `c.toml": app: 5 is not a text in quotes`},
		"wrong duration":     {`"60s"`, `"soon"`, `c.toml": health.start_timeout: "soon" is not a duration, such as "60s"`},
		"number as duration": {`"60s"`, `60`, `health.start_timeout: 60 is not a duration, such as "60s"`},
		"not TOML":           {`retain = 3`, `retain = `, `c.toml": line 3, column `},
		"text for a list":    {`["a", "b"]`, `"a"`, `health.smoke: "a" is not a list`},
		"text for a table":   {`src = "x"`, "[entry.src]\nx = 1", `entry[0].src: a table is not a text in quotes`},
		"far from any key":   {`retain = 3`, `colour = 3`, `c.toml": unknown key "colour"`},
		"not yet":            {`[health]`, "[health]\nunit = \"x\"", `"health.unit" is not in this version`},
		"not yet, a table":   {`[[entry]]`, "[[hook]]\nsrc = \"y\"\n[[entry]]", `"hook" is not in this version`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, strings.Replace(good, c.old, c.new, 1), nil)
			if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v (%s), want config: …%s…", err, reason.Of(err), c.want)
			}
		})
	}
}

func TestOrigin(t *testing.T) {
	_, err := load(t, good, map[string]any{"retian": Text("3")})
	if err == nil || !strings.HasSuffix(err.Error(), `unknown key "retian": did you mean "retain"? (given as a flag)`) {
		t.Errorf("a flag: %v", err)
	}
	t.Setenv("SANDO__HEALTH__ON", "perhaps")
	_, err = load(t, good, nil)
	if err == nil || !strings.HasSuffix(err.Error(), `health.on: "perhaps" is not true or false (environment variable SANDO__HEALTH__ON)`) {
		t.Errorf("the environment: %v", err)
	}
}

func TestMissingFile(t *testing.T) {
	err := Load(Source{File: filepath.Join(t.TempDir(), "none.toml")}, new(sample))
	if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "none.toml") {
		t.Errorf("got %v (%s)", err, reason.Of(err))
	}
}
