package puller

import (
	"context"
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
	cfg := guess(file, flags)
	dir, err := node.View(cfg.Root)
	if err != nil || layout.CheckApp(cfg.App) != nil {
		return Status{}, cause
	}
	if _, err := os.Stat(dir.Path("state.json")); err != nil {
		return Status{}, cause
	}
	if cfg.Tier == "" {
		cfg.Tier = onlyTier(dir)
	}
	p := &Puller{cfg: cfg, dir: dir, service: service.New(service.Config{}), log: slog.New(slog.DiscardHandler), now: time.Now}
	s, err := p.Status(ctx)
	if err != nil {
		return Status{}, cause
	}
	s.Message = fmt.Sprintf("%s; what runs goes on; but for that it would say %s: %s", cause, s.Reason, s.Message)
	s.Reason = reason.Config
	return s, cause
}

// guess makes a configuration that is good enough to look with.
func guess(file string, flags map[string]any) *Config {
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
