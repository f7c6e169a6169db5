package puller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"makenot.work/sando/internal/config"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/schedule"
	"makenot.work/sando/puller/service"
)

// StatusDespite is Status of a node whose configuration is refused for cause: what the node's
// own files say, found by what can be read of the configuration, else by its name. The error is
// cause where they are not found; it always has the reason "config".
func StatusDespite(ctx context.Context, file string, flags map[string]any, cause error) (Status, error) {
	p, err := unconfigured(file, flags)
	if err != nil {
		return Status{}, cause
	}
	if p.cfg.Tier == "" {
		p.cfg.Tier = onlyTier(p.dir)
	}
	s, err := p.Status(ctx)
	if err != nil {
		return Status{}, cause
	}
	s.Message = fmt.Sprintf("%s; what runs goes on%s", cause, foreseen(&s))
	s.Reason, s.Pending = reason.Config, false
	return s, cause
}

// PinDespite puts an order on disk although the configuration is refused for cause: a daemon
// that goes on with the configuration of before carries it out, and without one it is the first
// thing that is done once the configuration is mended. The error, which always has the reason
// "config", says so; it is cause alone where no node is found, and nothing is written then.
func PinDespite(file string, flags map[string]any, cause error, o Order) (Result, error) {
	return despite(file, flags, cause, func(p *Puller) (string, error) {
		_, err := p.savePin(o)
		return "the order of " + o.Version + " is written", err
	})
}

// UnpinDespite takes the order on disk back, as PinDespite gives one.
func UnpinDespite(file string, flags map[string]any, cause error) (Result, error) {
	return despite(file, flags, cause, func(p *Puller) (string, error) {
		was, err := p.removePin()
		if err == nil && !was {
			return "", errors.New("no order is in force")
		}
		return "the order is taken back", err
	})
}

// Refused adds to cause, for which the configuration is refused, what a person can do with
// the node as it is: nothing more is known where no daemon goes on.
func Refused(file string, flags map[string]any, cause error) error {
	p, err := unconfigured(file, flags)
	if err != nil {
		return cause
	}
	if d, err := p.dir.Daemon(); err != nil || d == nil {
		return cause
	}
	return fmt.Errorf("%w; the daemon at work goes on with the configuration of before, and carries out `puller --pin VERSION` and `puller --unpin` all the same", cause)
}

func despite(file string, flags map[string]any, cause error, write func(*Puller) (string, error)) (Result, error) {
	p, err := unconfigured(file, flags)
	if err != nil {
		return p.result(reason.Config, cause.Error()), cause
	}
	done, err := write(p)
	if err != nil {
		err = reason.Errorf(reason.Config, "%w; and nothing was written: %w", cause, err)
		return p.result(reason.Config, err.Error()), err
	}
	who := "nobody carries that out before the configuration is mended: no daemon is at work"
	if d, err := p.dir.Daemon(); err == nil && d != nil {
		who = "the daemon at work, which goes on with the configuration of before, carries that out within seconds"
	}
	err = reason.Errorf(reason.Config, "%w; all the same, %s: %s; `puller status` shows it", cause, done, who)
	return p.result(reason.Config, err.Error()), err
}

// unconfigured returns a puller that knows its node alone: only its files can be looked at,
// and orders written. The error is that there is no node, or that which one is not known.
func unconfigured(file string, flags map[string]any) (*Puller, error) {
	cfg := Guess(file, flags)
	p := &Puller{cfg: cfg, service: service.New(service.Config{}), log: slog.New(slog.DiscardHandler), now: time.Now}
	if err := layout.CheckApp(cfg.App); err != nil {
		return p, err
	}
	var err error
	if p.dir, err = node.View(cfg.Root); err != nil {
		return p, err
	}
	_, err = os.Stat(p.dir.Path("state.json"))
	return p, err
}

// foreseen says what is known all the same: not what comes next, which is by a configuration
// that nobody here has.
func foreseen(s *Status) string {
	switch {
	case s.Daemon != nil && s.Pending:
		return ", and so does the daemon, with the configuration that it has"
	case s.Pending:
		return "; nothing is activated before that is mended"
	}
	return fmt.Sprintf("; but for that it would say %s: %s", s.Reason, s.Message)
}

// Guess returns what can be read of a configuration that LoadConfig refuses: enough to find
// its node, and to look with.
func Guess(file string, flags map[string]any) *Config {
	cfg := &Config{window: schedule.Always()}
	known := config.Peek(config.Source{File: file, Flags: flags}, "app", "tier", "node", "root", "trust")
	cfg.App, cfg.Tier, cfg.Node, cfg.Root, cfg.Trust = known["app"], known["tier"], known["node"], known["root"], known["trust"]
	if cfg.App == "" {
		cfg.App = strings.TrimSuffix(filepath.Base(file), ".toml")
	}
	if layout.CheckTier(cfg.Tier) != nil {
		cfg.Tier = ""
	}
	if cfg.Node == "" {
		cfg.Node, _ = os.Hostname()
	}
	cfg.completePaths()
	return cfg
}

// onlyTier returns the tier whose channel was accepted here, if it is the only one.
func onlyTier(dir *node.Dir) string {
	found, _ := filepath.Glob(dir.Path("channels", "*.json"))
	tiers := map[string]bool{}
	for _, f := range found {
		if tier := strings.TrimSuffix(filepath.Base(f), ".json"); layout.CheckTier(tier) == nil {
			tiers[tier] = true
		}
	}
	for tier := range tiers {
		if len(tiers) == 1 {
			return tier
		}
	}
	return ""
}
