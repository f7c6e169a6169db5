package builder

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
)

// The example of the documentation, but for where things are.
const example = `
app = "mnw"
forbidden_strings = ["/opt/makenotwork/"]
state = "work"
[source]
repo = "https://git.example/mnw.git"
branch = "main"
keep_work = 5
[build]
command = ["cargo", "build", "--release"]
version = ["./version.sh"]
bin_dir = "server/target/release"
bin_names = ["makenotwork", "mnw-admin"]
timeout = "30m"
[[release_contents]]
src = "server/static"
dst = "static"
required = true
[[release_contents]]
src = "server/docs/business/assumptions.toml"
dst = "docs/business/assumptions.toml"
required = false
[[platform]]
os = "linux"
arch = "arm64"
[[platform]]
os = "any"
[storage]
url = "file:///srv/sando/bucket"
[channels]
repo = "../channels.git"
branch = "main"
path = ""
auto = ["host"]
expires = "336h"
[signing]
release_key = "/keys/release.key"
channel_key = "keys/channel.key"
trust = "keys/trust.json"
`

func load(t *testing.T, text string) (*Config, string, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "builder.toml")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(file, nil)
	return c, dir, err
}

func TestConfig(t *testing.T) {
	t.Setenv("SANDO__SOURCE__BRANCH", "next")
	t.Setenv("SANDO__CHANNELS__AUTO", "host,a")
	c, dir, err := load(t, example)
	if err != nil {
		t.Fatal(err)
	}
	for what, pair := range map[string][2]any{
		"state":       {c.State, filepath.Join(dir, "work")},
		"release key": {c.Signing.ReleaseKey, "/keys/release.key"},
		"channel key": {c.Signing.ChannelKey, filepath.Join(dir, "keys/channel.key")},
		"repo":        {c.Channels.Repo, "file://" + filepath.Dir(dir) + "/channels.git"},
		"source":      {c.Source.Repo, "https://git.example/mnw.git"},
		"branch":      {c.Source.Branch, "next"},
		"auto":        {strings.Join(c.Channels.Auto, " "), "host a"},
		"keep":        {c.Source.KeepWork, 5},
		"timeout":     {c.Build.Timeout, 30 * time.Minute},
		"expires":     {c.expires, 336 * time.Hour},
		"platforms":   {c.Platforms[0].String() + " " + c.Platforms[1].String(), "any linux/arm64"},
		"contents":    {c.Contents[0], Content{"server/static", "static", true}},
	} {
		if pair[0] != pair[1] {
			t.Errorf("%s is %v, want %v", what, pair[0], pair[1])
		}
	}
}

func TestConfigDefaults(t *testing.T) {
	c, dir, err := load(t, `
app = "mnw"
[storage]
url = "./b b"
[channels]
repo = "/srv/c.git"
[signing]
trust = "t.json"
`)
	if err != nil {
		t.Fatal(err)
	}
	if c.State != filepath.Join(dir, "state") || c.Source.KeepWork != 3 || c.Source.Branch != "main" || c.Channels.Branch != "main" ||
		len(c.Platforms) != 1 || c.Platforms[0] != (Platform{runtime.GOOS, runtime.GOARCH}) ||
		c.Storage.URL != "file://"+dir+"/b%20b" || c.Channels.Repo != "file:///srv/c.git" || c.expires != 0 {
		t.Errorf("got %+v", c)
	}
}

func TestConfigRefusals(t *testing.T) {
	for name, c := range map[string]struct{ old, new, says string }{
		"unknown key":           {`app = "mnw"`, "app = \"mnw\"\nstat = \"x\"", `unknown key "stat"`},
		"unknown nested key":    {"[build]", "[build]\nverson = []", "verson"},
		"gates come later":      {"[storage]", "[[gate]]\nname = \"x\"\n[storage]", "not in this version"},
		"watching comes later":  {"[storage]", "[watch]\n[storage]", "not in this version"},
		"app":                   {`app = "mnw"`, `app = "builder"`, "reserved"},
		"type":                  {`branch = "main"`, "branch = 1", "branch"},
		"keep_work":             {"keep_work = 5", "keep_work = 0", "keep_work"},
		"source":                {"https://git.example", "http://git.example", "source.repo"},
		"platform":              {`arch = "arm64"`, `arch = "arm 64"`, "platform"},
		"platform without os":   {`os = "any"`, `arch = "amd64"`, "platform"},
		"platform twice":        {`os = "any"`, "os = \"linux\"\narch = \"arm64\"", "twice"},
		"tier":                  {`auto = ["host"]`, `auto = ["Host"]`, "channels.auto"},
		"tier twice":            {`auto = ["host"]`, `auto = ["host", "host"]`, "twice"},
		"expires":               {"336h", "2 weeks", "channels.expires"},
		"expires too short":     {"336h", "1s", "channels.expires"},
		"timeout":               {`"30m"`, `"-1s"`, "timeout"},
		"empty program":         {`["./version.sh"]`, `[""]`, "build.version"},
		"scheme":                {`repo = "../channels.git"`, `repo = "git://git.example/c.git"`, `scheme "git" is refused`},
		"ssh without a key":     {`repo = "../channels.git"`, `repo = "ssh://git@git.example/c.git"`, "ssh needs ssh_key"},
		"token for a directory": {`repo = "../channels.git"`, "repo = \"../channels.git\"\ntoken_file = \"none\"", "are for other machines"},
		"no trust":              {`trust = "keys/trust.json"`, "", "signing.trust"},
		"no storage":            {"file:///srv/sando/bucket", "", "storage.url"},
		"no state":              {`state = "work"`, `state = ""`, "state"},
	} {
		if !strings.Contains(example, c.old) {
			t.Fatalf("%s: the example has no %q", name, c.old)
		}
		_, _, err := load(t, strings.Replace(example, c.old, c.new, 1))
		if err == nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "builder.toml") {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
	}
}

func TestNewRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*Config)
		says   string
	}{
		"no anchor":           {func(c *Config) { c.Signing.Trust += "x" }, "trust.jsonx"},
		"anchor of other app": {func(c *Config) { c.App = "other" }, `of app "mnw"`},
		"storage":             {func(c *Config) { c.Storage.URL = "s3://x" }, `"x" is not the name of a bucket`},
		"anchor is no trust":  {func(c *Config) { c.Signing.Trust = c.Signing.ReleaseKey }, "trust"},
	} {
		s := newSite(t)
		cfg, err := LoadConfig(filepath.Join(s.dir, "builder.toml"), nil)
		if err != nil {
			t.Fatal(err)
		}
		c.change(cfg)
		if _, err := New(t.Context(), cfg, Options{}); err == nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %q", name, err, c.says)
		}
	}
}

func TestFindConfig(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, err := os.Stat(systemConfig); err != nil {
		if _, err := FindConfig(""); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "builder init") {
			t.Errorf("none: %v", err)
		}
	}
	if got, err := FindConfig("x.toml"); err != nil || got != "x.toml" {
		t.Errorf("given: %q, %v", got, err)
	}
	if err := os.WriteFile("builder.toml", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if got, err := FindConfig(""); err != nil || got != "builder.toml" {
		t.Errorf("here: %q, %v", got, err)
	}
}
