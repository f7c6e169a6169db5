package bootstrap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/puller"
)

func mnw() Options {
	return Options{
		App: "mnw", Tier: "b", Storage: bucket.Config{URL: "s3://releases", Endpoint: "https://s3.example.org"},
		Channels: repo.Config{URL: "https://git.example.org/ops/channels.git"}, Fingerprint: string(layout.Sum(nil)),
		Health: "http://127.0.0.1:3000/health",
	}
}

func text(t *testing.T, o Options, c credentials) string {
	t.Helper()
	if err := o.check(); err != nil {
		t.Fatal(err)
	}
	o.complete()
	text, err := o.config(c)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestConfigText(t *testing.T) {
	o := mnw()
	o.Node, o.MinSeq = "alpha", 17
	const want = `# What updates mnw on this node, from where, and how it is restarted.
# ` + "`puller bootstrap`" + ` wrote it once; from now on it is yours. The daemon sees by itself when it
# changes. Every key is in docs/reference.md; ` + "`puller --app mnw --dry-run`" + ` tries it.

app = "mnw"
tier = "b"                       # whose channel this node follows
node = "alpha"                   # its name in a rollout; without it the host name

[channels]
repo = "https://git.example.org/ops/channels.git"
token_file = "/etc/sando/mnw/git.token"
min_seq = 17                     # an older state of the channel is not believed

[storage]
url = "s3://releases"
endpoint = "https://s3.example.org"
access_key_file = "/etc/sando/mnw/s3.access"
secret_key_file = "/etc/sando/mnw/s3.secret"

[service]
unit = "mnw.service"             # restarted when a release is activated

[health]
url = "http://127.0.0.1:3000/health" # a release is good while this answers 200 …
json = { version = "{version}" } # … with these fields

[env]
files = ["/etc/mnw/mnw.env"]     # as in EnvironmentFile= of the unit
# required = ["DATABASE_URL"]    # what a release must find there, or it is not activated
`
	got := text(t, o, credentials{
		token:  credential{file: "/etc/sando/mnw/git.token"},
		access: credential{file: "/etc/sando/mnw/s3.access"}, secret: credential{file: "/etc/sando/mnw/s3.secret"},
	})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// Whatever the flags say, the puller reads from the file what they said.
func TestConfigLoads(t *testing.T) {
	bare := mnw()
	bare.Storage, bare.Channels, bare.Health, bare.EnvFile = bucket.Config{URL: "file:///srv/b"}, repo.Config{URL: "file:///srv/c.git"}, "", None
	other := mnw()
	other.Root, other.Unit, other.EnvFile = "/srv/mnw", "web@1.service", "/srv/mnw.env"
	other.Channels = repo.Config{URL: Bucket}
	other.Storage.Region, other.Storage.PathStyle, other.Storage.Anonymous = "eu", true, true
	other.HealthJSON = []string{`status="o\k"`, "build.ok=true", "build.n=5", "build.id=05"}
	for name, o := range map[string]Options{"bare": bare, "other": other} {
		file := filepath.Join(t.TempDir(), "mnw.toml")
		if err := os.WriteFile(file, []byte(text(t, o, credentials{})), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := puller.LoadConfig(file, nil)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		o.complete()
		source, url := "git", o.Channels.URL
		if url == Bucket {
			source, url = "bucket", ""
		}
		if cfg.Root != o.Root || cfg.Service.Unit != o.Unit || bucket.Config(cfg.Storage) != o.Storage || cfg.Channels.Source != source || cfg.Channels.Repo != url || cfg.Health.URL != o.Health {
			t.Errorf("%s: %+v", name, cfg)
		}
		if name != "other" {
			continue
		}
		want := map[string]any{"status": `"o\k"`, "build": map[string]any{"ok": true, "n": int64(5), "id": "05"}}
		if diff := cmp.Diff(want, cfg.Health.JSON); diff != "" {
			t.Errorf("health.json, -want +got:\n%s", diff)
		}
	}
}

func TestOptionsRefused(t *testing.T) {
	for want, change := range map[string]func(*Options){
		"--app: want":                              func(o *Options) { o.App = "" },
		"--app: ":                                  func(o *Options) { o.App = "Mnw" },
		"is Sando's own: the app needs another":    func(o *Options) { o.App = "sando" },
		"--tier: want":                             func(o *Options) { o.Tier = "" },
		"--node: ":                                 func(o *Options) { o.Node = "a b" },
		"--storage: want":                          func(o *Options) { o.Storage.URL = "" },
		"--channels: want":                         func(o *Options) { o.Channels.URL = "" },
		"--state-mode: 0757":                       func(o *Options) { o.StateMode = 0o757 },
		"--state-mode: 0650":                       func(o *Options) { o.StateMode = 0o650 },
		"--user: \"a b\"":                          func(o *Options) { o.User = "a b" },
		"--user: the app is not to run as root":    func(o *Options) { o.User = "root" },
		"--health-json: it says":                   func(o *Options) { o.Health, o.HealthJSON = "", []string{"a=b"} },
		"--env-template: with --env-file none":     func(o *Options) { o.EnvFile, o.EnvTemplate = None, "x" },
		"--trust-fingerprint: ":                    func(o *Options) { o.Fingerprint = "sha256:12" },
		"--min-seq: -1 is no counter":              func(o *Options) { o.MinSeq = -1 },
		"--root: \"/opt/mnw /etc\" has":            func(o *Options) { o.Root = "/opt/mnw /etc" },
		"--root: \"/opt/\\\"mnw\" has":             func(o *Options) { o.Root = "/opt/\"mnw" },
		"--endpoint: ":                             func(o *Options) { o.Storage.Endpoint = "https://s3\n[x]" },
		"--token-file: \"git.token\" is not":       func(o *Options) { o.Channels.TokenFile = "git.token" },
		"--env-file: \"/srv/../x\" is not":         func(o *Options) { o.EnvFile = "/srv/../x" },
		"--ssh-key: \"/root/.ssh/id\" is below":    func(o *Options) { o.Channels.SSHKey = "/root/.ssh/id" },
		"--storage: \"/home/ada/bucket\" is below": func(o *Options) { o.Storage.URL = "file:///home/ada/bucket" },
	} {
		o := mnw()
		change(&o)
		if err := o.check(); reason.Of(err) != reason.Config || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	o := mnw()
	for want, list := range map[string][]string{`"version" is not KEY=VALUE`: {"version"}, `"a b=c" is not`: {"a b=c"}, `"a" is given twice`: {"a=1", "a=2"}} {
		o.HealthJSON = list
		if _, err := o.fields(); reason.Of(err) != reason.Config || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
}

// A configuration that is there is of the node, the tier and the anchor that the command line names.
func TestCompare(t *testing.T) {
	o := mnw()
	o.Node = "alpha"
	text := text(t, o, credentials{})
	o.complete()
	file := filepath.Join(t.TempDir(), "mnw.toml")
	for want, change := range map[string]func(*Options, *string){
		"": func(o *Options, _ *string) { o.Node = "" },
		`says tier = "b", and this command "c": give --tier b, or, if this command is right, ` + "`sed -i ": func(o *Options, _ *string) { o.Tier = "c" },
		`says node = "alpha", and this command "beta": give --node`:                                         func(o *Options, _ *string) { o.Node = "beta" },
		`says root = "/opt/mnw", and this command "/srv/x": give --root`:                                    func(o *Options, _ *string) { o.Root = "/srv/x" },
		`says trust = "/srv/t.json", and the anchor that this command looks after is /etc/sando/mnw/trust.json`: func(_ *Options, text *string) {
			*text = "trust = \"/srv/t.json\"\n" + *text
		},
	} {
		n, text := &Node{o: o}, text
		change(&n.o, &text)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		have, err := puller.LoadConfig(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = n.compare(file, have, have)
		if want == "" && err != nil || want != "" && (reason.Of(err) != reason.Config || !strings.Contains(err.Error(), want)) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
