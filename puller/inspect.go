package puller

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/hook"
	"makenot.work/sando/puller/service"
)

// A dry run looks at what every activation needs: a unit that can run the app, hooks that can
// be run, the app's environment. A cycle finds out when it activates something, which may be
// weeks after somebody wrote it.

// inspect lists the hooks in plan, and returns what is wrong, followed by what a cycle would
// end with besides (cause). t is what would be activated; no version: nothing. What would not
// keep t back is a warning.
func (c *cycle) inspect(ctx context.Context, plan *Plan, t target, cause error) error {
	var faults []error
	if err := service.Inspect(ctx, c.service); err != nil {
		faults = append(faults, reason.Wrap(reason.Config, err))
	}
	for _, h := range c.cfg.Hooks {
		plan.Hooks = append(plan.Hooks, c.describeHook(ctx, h))
		err := c.inspectHook(ctx, h, t)
		if err != nil && t.Force {
			c.warn("%s", err)
		} else if err != nil {
			faults = append(faults, err)
		}
	}
	if err := c.inspectEnv(t); err != nil {
		faults = append(faults, err)
	}
	if len(faults) == 0 {
		return cause
	}
	plan.Act = false
	return together(faults, cause)
}

// together is one error of several: of what a person must mend in the configuration, if there
// is any of that, else of the first.
func together(faults []error, cause error) error {
	code, err := reason.Of(faults[0]), faults[0]
	for _, e := range faults[1:] {
		if reason.Of(e) == reason.Config {
			code = reason.Config
		}
		err = fmt.Errorf("%w; %w", err, e)
	}
	if cause != nil {
		err = fmt.Errorf("%w; %w", err, cause)
	}
	return reason.Errorf(code, "%w", err)
}

// inspectHook reports what keeps a hook from being run. A program of a release is looked for
// in t when that is on disk; what is live may be from before the hook.
func (c *cycle) inspectHook(ctx context.Context, h hook.Hook, t target) error {
	if _, err := c.hooks.User(ctx, h); err != nil {
		return err
	}
	version := t.Version
	if version == "" {
		version = c.cur.Version
	}
	dir := ""
	if has, err := c.dir.Has(version); version != "" && err == nil && has {
		dir = c.dir.ReleasePath(version)
	}
	err := h.Look(dir, c.dir.CurrentPath())
	will := t.Version != "" && t.Version != c.cur.Version && (h.When != hook.BeforeSwap || c.prepares(t))
	if err == nil || will || !h.Brought() {
		return err
	}
	c.warn("%s; a release that it is to be run for has to bring it", err)
	return nil
}

// inspectEnv reports what is wrong with the env files, whatever the release. The audit of
// what is about to be activated has told it already.
func (c *cycle) inspectEnv(t target) error {
	if t.Version != "" && c.isOnDisk(t) {
		return nil
	}
	_, faults := c.readEnv()
	if len(faults) == 0 {
		return nil
	}
	text := "the app's environment is not as it must be: " + strings.Join(faults, "; ")
	if t.Version != "" && (t.Force || t.Pin || c.st.RanWell(t.Version, t.Manifest)) {
		c.warn("%s", text)
		return nil
	}
	return reason.Errorf(reason.Env, "%s; mend that before a release is activated", text)
}

// isOnDisk reports whether planAudit has a release to audit, and does.
func (c *cycle) isOnDisk(t target) bool {
	_, err := c.dir.Release(t.Version)
	return !t.Force && t.Version != c.cur.Version && (err == nil || errors.Is(err, node.ErrForeign))
}

// planAudit is the audit of a release that is on disk already.
func (c *cycle) planAudit(t target) error {
	rel, err := c.dir.Release(t.Version)
	if err != nil && !errors.Is(err, node.ErrForeign) {
		return nil
	}
	if rel != nil && t.Manifest == "" {
		t.Manifest = rel.Digest
	}
	return c.audit(t)
}
