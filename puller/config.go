package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/config"
	"makenot.work/sando/internal/probe"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/report"
	"makenot.work/sando/puller/hook"
	"makenot.work/sando/puller/schedule"
	"makenot.work/sando/puller/service"
	"makenot.work/sando/systemd"
)

// ConfigDir is where configuration files are looked for.
const ConfigDir = "/etc/sando"

// Config is a puller's configuration, one file per app.
type Config struct {
	App    string `koanf:"app"`
	Tier   string `koanf:"tier"`
	Node   string `koanf:"node"`   // default: the host name
	Root   string `koanf:"root"`   // default: /opt/<app>
	Trust  string `koanf:"trust"`  // the anchor; default: /etc/sando/<app>/trust.json
	Retain int    `koanf:"retain"` // releases kept for going back
	Env    struct {
		Files    []string `koanf:"files"`    // of the app, as for EnvironmentFile= of its unit
		Required []string `koanf:"required"` // what they must set
	} `koanf:"env"`
	Hooks    []hook.Hook `koanf:"hook"`
	Channels struct {
		Source string `koanf:"source"` // "git", or "bucket": its mirror there
		Repo   string `koanf:"repo"`
		Branch string `koanf:"branch"`
		Path   string `koanf:"path"`
		MinSeq int64  `koanf:"min_seq"` // no smaller seq counts under the anchor's trust or an older one

		TokenFile  string `koanf:"token_file"` // https
		CAFile     string `koanf:"ca_file"`
		SSHKey     string `koanf:"ssh_key"` // ssh
		KnownHosts string `koanf:"known_hosts"`
	} `koanf:"channels"`
	Storage struct {
		URL           string `koanf:"url"`
		Endpoint      string `koanf:"endpoint"`
		Region        string `koanf:"region"`
		PathStyle     bool   `koanf:"path_style"`
		Anonymous     bool   `koanf:"anonymous"`
		AccessKeyFile string `koanf:"access_key_file"`
		SecretKeyFile string `koanf:"secret_key_file"`
		CAFile        string `koanf:"ca_file"`
	} `koanf:"storage"`
	Service struct {
		Unit    string   `koanf:"unit"`    // the systemd service that runs the app
		Action  string   `koanf:"action"`  // "restart" or "reload-or-restart"
		Command []string `koanf:"command"` // restarts the app, instead; neither: nothing to restart
	} `koanf:"service"`
	Health struct {
		URL          string         `koanf:"url"`
		JSON         map[string]any `koanf:"json"`
		Smoke        []string       `koanf:"smoke"`
		StartTimeout time.Duration  `koanf:"start_timeout"`
		Interval     time.Duration  `koanf:"interval"`
		StableFor    time.Duration  `koanf:"stable_for"`
	} `koanf:"health"`
	Schedule struct {
		Poll   string `koanf:"poll"`
		Jitter string `koanf:"jitter"` // of the interval

		Window       string        `koanf:"window"` // when it opens; none: it is always open
		WindowLength time.Duration `koanf:"window_length"`
		Timezone     string        `koanf:"timezone"` // of both lines; default: the machine's
	} `koanf:"schedule"`
	Report struct {
		Enabled       bool          `koanf:"enabled"`
		Heartbeat     time.Duration `koanf:"heartbeat"`
		AccessKeyFile string        `koanf:"access_key_file"` // neither: those of the storage
		SecretKeyFile string        `koanf:"secret_key_file"`
	} `koanf:"report"`
	Limits struct {
		MaxBundle  string `koanf:"max_bundle"` // of a tarball, and of what it unpacks to
		MaxEntries int64  `koanf:"max_entries"`
		Reserve    string `koanf:"reserve"` // of the disk, left to the app; default: node.Automatic
	} `koanf:"limits"`

	maxBundle int64
	reserve   node.Reserve
	polls     schedule.Schedule
	window    schedule.Window
}

// Polls returns when a daemon looks for news.
func (c *Config) Polls() schedule.Schedule { return c.polls }

// LoadConfig reads the configuration file, the environment and flags over it. Every
// error has the reason "config".
func LoadConfig(file string, flags map[string]any) (*Config, error) {
	c := new(Config)
	c.Retain = 3
	c.Channels.Source, c.Channels.Branch = "git", "main"
	c.Service.Action = string(systemd.Restart)
	c.Health.StartTimeout, c.Health.Interval, c.Health.StableFor = time.Minute, time.Second, 30*time.Second
	c.Schedule.Poll, c.Schedule.Jitter = "@every 60s", "10%"
	c.Schedule.WindowLength = windowLength
	c.Report.Heartbeat = 15 * time.Minute
	c.Limits.MaxBundle, c.Limits.MaxEntries = "2GiB", 200_000
	if err := config.Load(config.Source{File: file, Flags: flags}, c); err != nil {
		return nil, unread(file, err)
	}
	if err := c.complete(); err != nil {
		return nil, reason.Errorf(reason.Config, "config %q: %w", file, err)
	}
	return c, nil
}

// complete fills in what follows from other keys, and checks everything.
func (c *Config) complete() error {
	if c.App == "" {
		return errors.New("app: want the name of the app")
	}
	if err := layout.CheckApp(c.App); err != nil {
		return fmt.Errorf("app: %w", err)
	}
	if c.Tier == "" {
		return errors.New("tier: want the tier that this node follows")
	}
	if err := layout.CheckTier(c.Tier); err != nil {
		return fmt.Errorf("tier: %w", err)
	}
	if c.Node == "" {
		host, err := os.Hostname()
		if err != nil {
			return fmt.Errorf("node: %w", err)
		}
		c.Node = host
	}
	if err := layout.CheckNode(c.Node); err != nil {
		return fmt.Errorf("node: %w", err)
	}
	c.completePaths()
	if !filepath.IsAbs(c.Trust) {
		return fmt.Errorf("trust: %q is not an absolute path", c.Trust)
	}
	if err := c.checkStorage(); err != nil {
		return err
	}
	if err := c.checkReport(); err != nil {
		return err
	}
	if err := c.completeChannels(); err != nil {
		return err
	}
	if c.Retain < 1 {
		return fmt.Errorf("retain: %d is less than 1", c.Retain)
	}
	return c.completeRest()
}

func (c *Config) completePaths() {
	if c.Root == "" {
		c.Root = "/opt/" + c.App
	}
	if c.Trust == "" {
		c.Trust = filepath.Join(ConfigDir, c.App, "trust.json")
	}
}

func (c *Config) checkStorage() error {
	if c.Storage.URL == "" {
		return nil // whoever needs the bucket refuses to go without
	}
	for key, file := range map[string]string{
		"access_key_file": c.Storage.AccessKeyFile, "secret_key_file": c.Storage.SecretKeyFile, "ca_file": c.Storage.CAFile,
	} {
		if file != "" && !filepath.IsAbs(file) {
			return fmt.Errorf("storage.%s: %q is not an absolute path", key, file)
		}
	}
	// Not its files: a pin of what is on disk must not fail for a key that is gone.
	_, err := bucket.Open(context.Background(), c.bucket())
	return err
}

func (c *Config) checkReport() error {
	r := c.Report
	for key, file := range map[string]string{"access_key_file": r.AccessKeyFile, "secret_key_file": r.SecretKeyFile} {
		if file != "" && !filepath.IsAbs(file) {
			return fmt.Errorf("report.%s: %q is not an absolute path", key, file)
		}
	}
	switch {
	case r.Heartbeat < report.MinHeartbeat || r.Heartbeat > report.MaxHeartbeat || r.Heartbeat%time.Second != 0:
		return fmt.Errorf("report.heartbeat: %s is not %s to %s, in whole seconds", r.Heartbeat, report.MinHeartbeat, report.MaxHeartbeat)
	case (r.AccessKeyFile == "") != (r.SecretKeyFile == ""):
		return errors.New("report.access_key_file and report.secret_key_file: one is set and the other is not; set both, or neither")
	case !r.Enabled || c.Storage.URL == "":
		return nil
	case r.AccessKeyFile == "" && c.Storage.Anonymous:
		return errors.New("report.enabled: storage.anonymous asks without credentials, and so nobody may write: set report.access_key_file and report.secret_key_file, or report.enabled = false")
	}
	_, err := c.reports(context.Background())
	return err
}

// reports returns where this node writes its report: the storage, by credentials that may
// write it where there are some.
func (c *Config) reports(ctx context.Context) (bucket.Bucket, error) {
	if c.Report.AccessKeyFile == "" {
		return bucket.Open(ctx, c.bucket())
	}
	return bucket.OpenWith(ctx, c.bucket(), bucket.Keys{Section: "report", AccessKeyFile: c.Report.AccessKeyFile, SecretKeyFile: c.Report.SecretKeyFile})
}

// completeChannels keeps a repo that nobody reads from looking as if it were read.
func (c *Config) completeChannels() error {
	if n := c.Channels.MinSeq; n < 0 || n > channels.MaxSeq {
		return fmt.Errorf("channels.min_seq: %d is not 0 to 2^53-1; builder enroll says which it is", n)
	}
	switch {
	case c.Channels.Source == sourceGit:
		for _, file := range []string{c.Channels.TokenFile, c.Channels.CAFile, c.Channels.SSHKey, c.Channels.KnownHosts} {
			if file != "" && !filepath.IsAbs(file) {
				return fmt.Errorf("channels: %q is not an absolute path", file)
			}
		}
		if err := repo.Check(c.repo()); err != nil {
			return fmt.Errorf("channels: %w", err)
		}
		return nil
	case c.Channels.Source != sourceBucket:
		return fmt.Errorf("channels.source: %q is neither %q nor %q", c.Channels.Source, sourceGit, sourceBucket)
	}
	var unread []string
	for _, k := range []struct{ key, value string }{
		{"repo", c.Channels.Repo}, {"path", c.Channels.Path}, {"token_file", c.Channels.TokenFile}, {"ca_file", c.Channels.CAFile},
		{"ssh_key", c.Channels.SSHKey}, {"known_hosts", c.Channels.KnownHosts},
	} {
		if k.value != "" {
			unread = append(unread, "channels."+k.key)
		}
	}
	if len(unread) > 0 {
		return fmt.Errorf("channels.source is %q: %s is for %q; remove it, or the source", sourceBucket, strings.Join(unread, ", "), sourceGit)
	}
	return nil
}

func (c *Config) completeRest() (err error) {
	if err := c.probe().Check(); err != nil {
		return fmt.Errorf("health: %w", err)
	}
	if err := c.service().Check(c.probe().NamesVersion()); err != nil {
		return err
	}
	if err := c.checkHooks(); err != nil {
		return err
	}
	for key, d := range map[string]time.Duration{"start_timeout": c.Health.StartTimeout, "interval": c.Health.Interval} {
		if d <= 0 {
			return fmt.Errorf("health.%s: %s is not positive", key, d)
		}
	}
	if c.Health.StableFor < 0 {
		return fmt.Errorf("health.stable_for: %s is negative", c.Health.StableFor)
	}
	if c.Limits.MaxEntries < 1 {
		return fmt.Errorf("limits.max_entries: %d is less than 1", c.Limits.MaxEntries)
	}
	if err := c.completeSchedule(); err != nil {
		return fmt.Errorf("schedule.%w", err)
	}
	if c.maxBundle, err = parseSize(c.Limits.MaxBundle); err != nil {
		return fmt.Errorf("limits.max_bundle: %w", err)
	}
	if c.reserve, err = parseReserve(c.Limits.Reserve); err != nil {
		return fmt.Errorf("limits.reserve: %w", err)
	}
	return nil
}

// windowLength is how long a maintenance window is open where nothing else is said.
const windowLength = time.Hour

func (c *Config) completeSchedule() error {
	s := c.Schedule
	zone, err := schedule.Zone(s.Timezone)
	if err != nil {
		return err
	}
	polls, err := schedule.Parse(s.Poll, s.Jitter)
	if err != nil {
		return err
	}
	c.polls, c.window = polls.In(zone), schedule.Always()
	if s.Window == "" {
		if s.WindowLength != windowLength {
			return fmt.Errorf("window_length: %s of no window: say in schedule.window when it opens, or remove it", s.WindowLength)
		}
		return nil
	}
	c.window, err = schedule.ParseWindow(s.Window, s.WindowLength, zone)
	return err
}

// Reserve returns how much of the disk is left to the app.
func (c *Config) Reserve() node.Reserve { return c.reserve }

func (c *Config) repo() repo.Config {
	return repo.Config{
		URL: c.Channels.Repo, Branch: c.Channels.Branch, Path: c.Channels.Path, OwnsMirror: true,
		TokenFile: c.Channels.TokenFile, CAFile: c.Channels.CAFile,
		SSHKey: c.Channels.SSHKey, KnownHosts: c.Channels.KnownHosts,
	}
}

func (c *Config) service() service.Config {
	return service.Config{Unit: c.Service.Unit, Action: c.Service.Action, Command: c.Service.Command, Root: c.Root}
}

func (c *Config) bucket() bucket.Config { return bucket.Config(c.Storage) }

func (c *Config) probe() probe.Probe {
	return probe.Probe{URL: c.Health.URL, JSON: c.Health.JSON, Smoke: c.Health.Smoke}
}

// parseSize reads "512MiB" and the like: a whole number of KiB, MiB or GiB.
func parseSize(s string) (int64, error) {
	var n int64
	var unit string
	if _, err := fmt.Sscanf(s, "%d%s", &n, &unit); err != nil {
		return 0, fmt.Errorf("%q is not of the form 512MiB", s)
	}
	shift, ok := map[string]uint{"KiB": 10, "MiB": 20, "GiB": 30}[unit]
	if !ok || n < 1 || n > 1<<20 {
		return 0, fmt.Errorf("%q is not 1 to 1048576 KiB, MiB or GiB", s)
	}
	return n << shift, nil
}

// parseReserve reads a size, or "0" for no reserve at all.
func parseReserve(s string) (node.Reserve, error) {
	switch s {
	case "":
		return node.Automatic, nil
	case "0":
		return 0, nil
	}
	n, err := parseSize(s)
	return node.Reserve(n), err
}

// FindConfig returns the configuration file to use: the one given by flag or
// SANDO_CONFIG, else the one for app, else the only one in dir.
func FindConfig(given, app, dir string) (string, error) {
	if given != "" {
		return given, nil
	}
	if app != "" {
		if err := layout.CheckApp(app); err != nil {
			return "", reason.Wrap(reason.Config, err)
		}
		return filepath.Join(dir, app+".toml"), nil
	}
	apps, err := configured(dir)
	if err != nil {
		return "", err
	}
	switch len(apps) {
	case 0:
		return "", reason.Errorf(reason.Config, "no config: %s holds no <app>.toml; write one, or name a file with --config or SANDO_CONFIG", dir)
	case 1:
		return filepath.Join(dir, apps[0]+".toml"), nil
	}
	return "", reason.Errorf(reason.Config, "several configs in %s: choose one with --app %s", dir, strings.Join(apps, " or --app "))
}

// configured returns the apps that dir has configurations of.
func configured(dir string) (apps []string, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, reason.Errorf(reason.Config, "look for a config: %w", err)
	}
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".toml")
		if ok && layout.CheckApp(name) == nil {
			apps = append(apps, name)
		}
	}
	return apps, nil
}

// unread is the error of a configuration that is not there, with those that are.
func unread(file string, err error) error {
	if !errors.Is(err, fs.ErrNotExist) || filepath.Dir(file) != ConfigDir {
		return err
	}
	apps, lerr := configured(ConfigDir)
	if lerr != nil || len(apps) == 0 {
		return err
	}
	return reason.Errorf(reason.Config, "%w; this node has --app %s", err, strings.Join(apps, ", --app "))
}
