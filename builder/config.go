package builder

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"makenot.work/sando/builder/source"
	"makenot.work/sando/builder/stage"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/config"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
)

// Config is a builder's configuration, one file per app. A path in it that is not
// absolute is relative to the directory of the file, so a directory made by Init works
// wherever it is; so are storage.url, channels.repo and source.repo when they begin
// with "/", "./" or "../" instead of being URLs.
type Config struct {
	App       string    `koanf:"app"`
	Forbidden []string  `koanf:"forbidden_strings"` // no bundle may hold one of these
	State     string    `koanf:"state"`             // directory: mirrors, work trees, locks
	Contents  []Content `koanf:"release_contents"`
	// Platforms that the build runs once each for; none: the machine's own.
	Platforms []Platform `koanf:"platform"`
	Source    struct {
		Repo     string `koanf:"repo"`
		Branch   string `koanf:"branch"`    // released when neither a revision nor a directory is given
		KeepWork int    `koanf:"keep_work"` // work trees
	} `koanf:"source"`
	Build struct {
		Command  []string      `koanf:"command"` // none: nothing to build
		Version  []string      `koanf:"version"` // prints the version
		BinDir   string        `koanf:"bin_dir"`
		BinNames []string      `koanf:"bin_names"`
		Timeout  time.Duration `koanf:"timeout"` // of one run of the command; 0: none
	} `koanf:"build"`
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
	Channels struct {
		Repo   string `koanf:"repo"`
		Branch string `koanf:"branch"`
		Path   string `koanf:"path"`

		TokenFile  string `koanf:"token_file"` // https
		CAFile     string `koanf:"ca_file"`
		SSHKey     string `koanf:"ssh_key"` // ssh
		KnownHosts string `koanf:"known_hosts"`

		Auto    []string `koanf:"auto"`    // tiers that a release may advance
		Expires string   `koanf:"expires"` // how long a state is good for; empty: for ever
		Mirror  bool     `koanf:"mirror"`  // what is advanced is mirrored at once
	} `koanf:"channels"`
	Signing struct {
		ReleaseKey string `koanf:"release_key"`
		ChannelKey string `koanf:"channel_key"`
		Trust      string `koanf:"trust"` // the anchor, as on a node
	} `koanf:"signing"`

	expires time.Duration
}

// Content is one entry of release_contents.
type Content struct {
	Src      string `koanf:"src"`
	Dst      string `koanf:"dst"`
	Required bool   `koanf:"required"`
}

// Platform is one entry of platform, in Go's words; os "any" goes without arch.
type Platform struct {
	OS   string `koanf:"os"`
	Arch string `koanf:"arch"`
}

// String returns "os/arch", or "any".
func (p Platform) String() string {
	if p.OS == layout.Any && p.Arch == "" {
		return layout.Any
	}
	return p.OS + "/" + p.Arch
}

// notYet lists the keys of the format that this version does not act on.
var notYet = [...]string{
	"gate", "watch",
}

// NotYet returns the keys that LoadConfig refuses as not in this version, for the
// reference.
func NotYet() []string { return slices.Clone(notYet[:]) }

// LoadConfig reads the configuration file, and the environment and flags over it. Every
// error has the reason "config".
func LoadConfig(file string, flags map[string]any) (*Config, error) {
	c := new(Config)
	c.State = "state"
	c.Source.Branch, c.Source.KeepWork = "main", 3
	c.Channels.Branch = "main"
	if err := config.Load(config.Source{File: file, Flags: flags, NotYet: notYet[:]}, c); err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(filepath.Dir(file))
	if err == nil {
		err = c.complete(dir)
	}
	if err != nil {
		return nil, reason.Errorf(reason.Config, "config %q: %w", file, err)
	}
	return c, nil
}

// complete fills in what follows from other keys and from dir, the directory of the
// file, and checks everything.
func (c *Config) complete(dir string) error {
	if c.App == "" {
		return errors.New("app: want the name of the app")
	}
	if err := layout.CheckApp(c.App); err != nil {
		return fmt.Errorf("app: %w", err)
	}
	for _, p := range []*string{
		&c.State, &c.Signing.ReleaseKey, &c.Signing.ChannelKey, &c.Signing.Trust,
		&c.Channels.TokenFile, &c.Channels.CAFile, &c.Channels.SSHKey, &c.Channels.KnownHosts,
		&c.Storage.AccessKeyFile, &c.Storage.SecretKeyFile, &c.Storage.CAFile,
	} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for _, u := range []*string{&c.Storage.URL, &c.Channels.Repo, &c.Source.Repo} {
		*u = localURL(dir, *u)
	}
	if c.State == "" {
		return errors.New("state: want a directory for work trees and locks")
	}
	if c.Signing.Trust == "" {
		return errors.New("signing.trust: want the trust.json that builder init made")
	}
	if c.Storage.URL == "" || c.Channels.Repo == "" {
		return errors.New("storage.url and channels.repo: want where bundles and channels are kept")
	}
	if err := c.bucket().Check(); err != nil {
		return err
	}
	return errors.Join(c.completeSource(), c.completeBuild(), c.completeChannels())
}

// localURL makes a URL of a path; what is not written as a path is returned as it is.
func localURL(dir, s string) string {
	if !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "./") && !strings.HasPrefix(s, "../") {
		return s
	}
	if !filepath.IsAbs(s) {
		s = filepath.Join(dir, s)
	}
	return FileURL(filepath.Clean(s))
}

// FileURL returns the URL of an absolute path.
func FileURL(path string) string { return (&url.URL{Scheme: "file", Path: path}).String() }

func (c *Config) completeSource() error {
	if c.Source.KeepWork < 1 {
		return fmt.Errorf("source.keep_work: %d is less than 1", c.Source.KeepWork)
	}
	if c.Source.Repo == "" {
		return nil
	}
	if err := source.CheckURL(c.Source.Repo); err != nil {
		return fmt.Errorf("source.repo: %w", err)
	}
	return nil
}

func (c *Config) completeBuild() error {
	if c.Build.Timeout < 0 {
		return fmt.Errorf("build.timeout: %s is negative", c.Build.Timeout)
	}
	for key, command := range map[string][]string{"build.command": c.Build.Command, "build.version": c.Build.Version} {
		if len(command) > 0 && command[0] == "" {
			return fmt.Errorf("%s: the program is empty", key)
		}
	}
	if len(c.Platforms) == 0 {
		c.Platforms = []Platform{{runtime.GOOS, runtime.GOARCH}}
	}
	slices.SortFunc(c.Platforms, func(a, b Platform) int { return strings.Compare(a.String(), b.String()) })
	for i, p := range c.Platforms {
		if err := layout.CheckPlatform(p.String()); err != nil {
			return fmt.Errorf("platform: %w", err)
		}
		if i > 0 && p == c.Platforms[i-1] {
			return fmt.Errorf("platform: %s is there twice", p)
		}
	}
	return nil
}

func (c *Config) completeChannels() (err error) {
	if err := repo.Check(c.repo()); err != nil {
		return fmt.Errorf("channels: %w", err)
	}
	for i, tier := range c.Channels.Auto {
		if err := layout.CheckTier(tier); err != nil {
			return fmt.Errorf("channels.auto: %w", err)
		}
		if slices.Contains(c.Channels.Auto[:i], tier) {
			return fmt.Errorf("channels.auto: %q is there twice", tier)
		}
	}
	if c.Channels.Expires == "" {
		return nil
	}
	if c.expires, err = time.ParseDuration(c.Channels.Expires); err != nil || c.expires < time.Minute {
		return fmt.Errorf("channels.expires: %q: want a duration of a minute or more, such as \"336h\", or \"\" for none", c.Channels.Expires)
	}
	return nil
}

func (c *Config) plan() stage.Plan {
	p := stage.Plan{BinDir: c.Build.BinDir, Bins: c.Build.BinNames, Forbidden: c.Forbidden}
	for _, r := range c.Contents {
		p.Contents = append(p.Contents, stage.Content(r))
	}
	return p
}

func (c *Config) bucket() bucket.Config { return bucket.Config(c.Storage) }

func (c *Config) repo() repo.Config {
	return repo.Config{
		URL: c.Channels.Repo, Branch: c.Channels.Branch, Path: c.Channels.Path,
		TokenFile: c.Channels.TokenFile, CAFile: c.Channels.CAFile,
		SSHKey: c.Channels.SSHKey, KnownHosts: c.Channels.KnownHosts,
	}
}

// Names of the configuration file.
const (
	localConfig  = "builder.toml"
	systemConfig = "/etc/sando/builder.toml"
)

// FindConfig returns the configuration file: given, the --config flag or SANDO_CONFIG;
// else builder.toml in the working directory; else the one in /etc/sando.
func FindConfig(given string) (string, error) {
	if given != "" {
		return given, nil
	}
	for _, name := range []string{localConfig, systemConfig} {
		if _, err := os.Stat(name); err == nil {
			return name, nil
		}
	}
	return "", reason.Errorf(reason.Config, "no %s here and no %s: name one with --config, or make one with builder init --app NAME",
		localConfig, systemConfig)
}
