package bootstrap

import (
	"cmp"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/anchor"
)

// Values of options that name no file and no URL.
const (
	None   = "none"   // of a file: there is none, and none is wanted
	Bucket = "bucket" // of Channels.URL: the mirror in the storage
)

// Options is what an operator says of the node to be.
type Options struct {
	App, Tier string
	Node      string // "": the host name
	Root      string // "": /opt/APP

	Storage  bucket.Config // key files: "": those in /etc/sando/APP, or asked for
	Channels repo.Config   // the same for its files

	Trust       string // file, or https URL, of the anchor; "": found by its fingerprint
	Fingerprint string // of the anchor
	MinSeq      int64

	Unit        string      // "": APP.service
	User        string      // "": that of the unit, where there is one, or APP
	Exec        string      // writes the unit where there is none
	EnvFile     string      // "": /etc/APP/APP.env
	EnvTemplate string      // "": one of comments
	StateMode   fs.FileMode // of /var/lib/APP; 0: 0750

	Health     string   // URL
	HealthJSON []string // KEY=VALUE; none: version={version}

	Adopt bool // the releases in Root are another deployer's
	Timer bool // puller-once@APP.timer instead of the daemon
}

func (o *Options) complete() {
	o.Root = cmp.Or(o.Root, "/opt/"+o.App)
	o.Unit = cmp.Or(o.Unit, o.App+".service")
	if o.EnvFile == None {
		o.EnvFile = ""
	} else {
		o.EnvFile = cmp.Or(o.EnvFile, "/etc/"+o.App+"/"+o.App+".env")
	}
	o.StateMode = cmp.Or(o.StateMode, 0o750)
	o.Channels.Branch = cmp.Or(o.Channels.Branch, "main")
	if o.Health != "" && len(o.HealthJSON) == 0 {
		o.HealthJSON = []string{"version={version}"}
	}
}

// sandoDir is where what Sando needs of this app is kept.
func (o *Options) sandoDir() string { return filepath.Join(puller.ConfigDir, o.App) }

func (o *Options) configFile() string { return filepath.Join(puller.ConfigDir, o.App+".toml") }

func (o *Options) anchorFile() string { return filepath.Join(o.sandoDir(), "trust.json") }

func (o *Options) stateDir() string { return "/var/lib/" + o.App }

// worker is the unit by which the puller runs.
func (o *Options) worker() string {
	if o.Timer {
		return "puller-once@" + o.App + ".timer"
	}
	return "puller@" + o.App + ".service"
}

// otherWorker is the one that is not asked for.
func (o *Options) otherWorker() string {
	other := Options{App: o.App, Timer: !o.Timer}
	return other.worker()
}

// plainPath is what a list of paths in a unit file takes for one path, its percent signs doubled.
var plainPath = regexp.MustCompile(`^[A-Za-z0-9._+@:,=~%/-]+$`)

var userName = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

func refuse(format string, args ...any) error { return reason.Errorf(reason.Config, format, args...) }

// check reports what can be seen to be wrong without looking at the node.
func (o *Options) check() error {
	if o.App == "" {
		return refuse("--app: want the name of the app, such as --app mnw")
	}
	if err := layout.CheckApp(o.App); err != nil {
		return refuse("--app: %w", err)
	}
	if o.App == filepath.Base(puller.ConfigDir) {
		return refuse("--app: the directory of %q would be %s, which is Sando's own: the app needs another name", o.App, puller.ConfigDir)
	}
	if o.Tier == "" {
		return refuse("--tier: want the tier that this node follows; `builder enroll NODE --tier TIER` prints the whole command")
	}
	if err := layout.CheckTier(o.Tier); err != nil {
		return refuse("--tier: %w", err)
	}
	if o.Node != "" {
		if err := layout.CheckNode(o.Node); err != nil {
			return refuse("--node: %w", err)
		}
	}
	switch {
	case o.Storage.URL == "":
		return refuse("--storage: want the URL of the bucket, such as s3://releases")
	case o.Channels.URL == "":
		return refuse("--channels: want the URL of the channel repo, or %q where nodes read its mirror in the storage", Bucket)
	case o.StateMode != 0 && (o.StateMode&^0o777 != 0 || o.StateMode&0o700 != 0o700 || o.StateMode&0o002 != 0):
		return refuse("--state-mode: %04o is no mode that lets its owner in and keeps everybody else from writing, such as 0750", o.StateMode)
	case o.User != "" && !userName.MatchString(o.User):
		return refuse("--user: %q is not the name of a user", o.User)
	case o.User == "root":
		return refuse("--user: the app is not to run as root; name a user of its own, which is made if there is none")
	case o.MinSeq < 0:
		return refuse("--min-seq: %d is no counter; `builder enroll NODE --tier %s` says which it is", o.MinSeq, o.Tier)
	case o.Root != "" && !plainPath.MatchString(o.Root):
		return refuse("--root: %q has characters that a unit file would have to quote", o.Root)
	case len(o.HealthJSON) > 0 && o.Health == "":
		return refuse("--health-json: it says what --health answers; give its URL as well")
	case o.EnvTemplate != "" && o.EnvFile == None:
		return refuse("--env-template: with --env-file %s nothing is made from it; leave one of them out", None)
	}
	if o.Fingerprint != "" {
		if _, err := anchor.ParseFingerprint(o.Fingerprint); err != nil {
			return refuse("--trust-fingerprint: %w", err)
		}
	}
	return o.checkTexts()
}

// option is the value of a flag, for messages.
type option struct{ flag, value string }

// paths returns the options that name files which the puller needs all its life.
func (o *Options) paths() []option {
	return []option{
		{"--root", o.Root}, {"--env-file", o.EnvFile},
		{"--access-key-file", o.Storage.AccessKeyFile}, {"--secret-key-file", o.Storage.SecretKeyFile}, {"--storage-ca", o.Storage.CAFile},
		{"--token-file", o.Channels.TokenFile}, {"--ssh-key", o.Channels.SSHKey}, {"--known-hosts", o.Channels.KnownHosts},
		{"--channels-ca", o.Channels.CAFile},
	}
}

// checkTexts keeps out what could not be written into a file in one line, and paths that the
// puller would not see.
func (o *Options) checkTexts() error {
	texts := append(o.paths(),
		option{"--storage", o.Storage.URL}, option{"--endpoint", o.Storage.Endpoint}, option{"--region", o.Storage.Region},
		option{"--channels", o.Channels.URL}, option{"--branch", o.Channels.Branch}, option{"--path", o.Channels.Path},
		option{"--unit", o.Unit}, option{"--exec", o.Exec}, option{"--health", o.Health})
	for _, kv := range o.HealthJSON {
		texts = append(texts, option{"--health-json", kv})
	}
	for _, t := range texts {
		if err := canon.Text(t.value, false); err != nil {
			return refuse("%s: %w", t.flag, err)
		}
	}
	for _, p := range o.paths() {
		if p.value == "" || p.value == None {
			continue
		}
		if !filepath.IsAbs(p.value) || filepath.Clean(p.value) != p.value || p.value == "/" {
			return refuse("%s: %q is not an absolute path without detours", p.flag, p.value)
		}
		if err := seen(p.flag, p.value); err != nil {
			return err
		}
	}
	for _, u := range []option{{"--storage", o.Storage.URL}, {"--channels", o.Channels.URL}} {
		if dir, ok := strings.CutPrefix(u.value, "file://"); ok {
			if err := seen(u.flag, dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// seen refuses a path that the sandbox of the puller's units hides.
func seen(flag, path string) error {
	for _, dir := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		if path == dir || strings.HasPrefix(path, dir+"/") {
			return refuse("%s: %q is below %s, which the puller's unit does not see: choose another place, such as /etc/sando or /srv", flag, path, dir)
		}
	}
	return nil
}

// fields returns what the answer of the health URL must have, as key and TOML value.
func (o *Options) fields() ([][2]string, error) {
	var found [][2]string
	for _, kv := range o.HealthJSON {
		key, value, ok := strings.Cut(kv, "=")
		if !ok || !healthKey.MatchString(key) {
			return nil, refuse("--health-json: %q is not KEY=VALUE, such as version={version} or build.ok=true", kv)
		}
		if slices.ContainsFunc(found, func(f [2]string) bool { return f[0] == key }) {
			return nil, refuse("--health-json: %q is given twice", key)
		}
		if !literal.MatchString(value) {
			value = quote(value)
		}
		found = append(found, [2]string{key, value})
	}
	return found, nil
}

var (
	healthKey = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$`)
	literal   = regexp.MustCompile(`^(true|false|0|-?[1-9][0-9]{0,17})$`) // what is no text in JSON, nor in TOML
)
