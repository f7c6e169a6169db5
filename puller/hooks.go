package puller

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller/envfile"
	"makenot.work/sando/puller/hook"
	"makenot.work/sando/puller/service"
	"makenot.work/sando/systemd"
)

func (c *Config) hooks() hook.Config {
	return hook.Config{
		App: c.App, Root: c.Root, Unit: c.Service.Unit, EnvFiles: c.Env.Files,
		Systemd: os.Geteuid() == 0 && systemd.Booted(),
	}
}

// checkHooks checks the sections [env] and [[hook]].
func (c *Config) checkHooks() error {
	for _, file := range c.Env.Files {
		if !filepath.IsAbs(file) || filepath.Clean(file) != file {
			return fmt.Errorf("env.files: %q is not a clean absolute path", file)
		}
		if strings.ContainsAny(file, "*?[\\") { // systemd would look for several
			return fmt.Errorf("env.files: %q has wildcards: list each file", file)
		}
	}
	for _, name := range c.Env.Required {
		if err := envfile.CheckName(name); err != nil {
			return fmt.Errorf("env.required: %w", err)
		}
	}
	if len(c.Env.Required) > 0 && len(c.Env.Files) == 0 {
		return errors.New("env.required: there are no env.files that could set anything")
	}
	for i, h := range c.Hooks {
		if err := h.Check(); err != nil {
			return fmt.Errorf("hook %d: %w", i+1, err)
		}
	}
	return nil
}

// hooksOf returns the hooks of one moment, in the order of the configuration.
func (c *cycle) hooksOf(when hook.When) (found []hook.Hook) {
	for _, h := range c.cfg.Hooks {
		if h.When == when {
			found = append(found, h)
		}
	}
	return found
}

// ready does what comes before the intent of a release that is on disk: nothing of the node
// has changed when it returns an error.
func (c *cycle) ready(ctx context.Context, t target) error {
	if err := c.audit(t); err != nil {
		return fmt.Errorf("%w; %s", err, c.facts().keeps())
	}
	// A hook must not be run again and again for what only a person can mend.
	if err := c.startable(ctx); err != nil {
		return err
	}
	if t.Force {
		return nil
	}
	for _, h := range c.cfg.Hooks {
		if _, err := c.hooks.User(ctx, h); err != nil {
			return fmt.Errorf("%w: nothing was changed; %s", err, c.facts().keeps())
		}
	}
	return c.beforeSwap(ctx, t)
}

// prepares reports whether before_swap is for t: not what is live already, nor what ran well
// here, and so has been prepared for.
func (c *cycle) prepares(t target) bool {
	return !t.Force && t.Version != c.cur.Version && !c.st.RanWell(t.Version, t.Manifest)
}

func (c *cycle) beforeSwap(ctx context.Context, t target) error {
	if !c.prepares(t) {
		return nil
	}
	for _, h := range c.hooksOf(hook.BeforeSwap) {
		err := c.runHook(ctx, h, t.Version, c.cur.Version)
		if failed := (*hook.Failed)(nil); errors.As(err, &failed) {
			return c.refuseByHook(t, failed)
		}
		if err != nil {
			return fmt.Errorf("%w; nothing was changed: %s, and the next cycle begins anew", err, c.facts().keeps())
		}
	}
	return nil
}

// refuseByHook blocks a release whose before_swap failed: what it did until then is not
// known, so it is not repeated at every poll.
func (c *cycle) refuseByHook(t target, failed *hook.Failed) error {
	c.addBlock(node.Block{Version: t.Version, Manifest: t.Manifest, Attempt: t.Attempt, Cause: node.Line(failed.Error()), Output: failed.Output})
	other := ", or promote another version"
	if t.Pin {
		other = c.stillHeld(true)
	}
	err := reason.Errorf(reason.Hook, "%w; nothing was changed: %s, and %s is not tried again; mend what the hook found, then `puller unblock %[3]s` tries it once more%[4]s", failed, c.facts().keeps(), t.Version, other)
	// On a full disk too: what cannot be noted would be run again at every poll.
	if serr := c.saveUrgently(); serr != nil {
		return reason.Errorf(reason.Of(serr), "%w; %w", serr, err)
	}
	return err
}

// afterSwap runs the hooks that come before a release is started. The release gone back to
// is started whatever they do.
func (c *cycle) afterSwap(ctx context.Context, v string) error {
	i := c.st.Intent
	if i == nil || i.Force {
		return nil
	}
	hooks := c.hooksOf(hook.AfterSwap)
	back, previous := i.Phase == node.RollingBack, i.Via
	if back {
		previous = i.To
	}
	for _, h := range hooks {
		err := c.runHook(ctx, h, v, previous)
		failed := (*hook.Failed)(nil)
		switch {
		case err == nil:
		case ctx.Err() != nil, errors.Is(err, errOrder), errors.Is(err, service.ErrGoingDown):
			return err
		case back:
			c.warn("%s; the way back to %s goes on all the same", err, v)
		case errors.As(err, &failed):
			return err
		default: // it did not come to an end, or was not begun
			return reason.Errorf(reason.Of(err), "%w: %w", service.ErrHindered, err)
		}
	}
	if back || len(hooks) == 0 {
		return nil
	}
	i.Hooked = true
	if err := c.save(); err != nil {
		return reason.Errorf(reason.Of(err), "%w: %w", service.ErrHindered, err)
	}
	return nil
}

// afterHealthy runs the hooks that come after the result, which they change nothing about.
func (c *cycle) afterHealthy(ctx context.Context, i *node.Intent) {
	if i.Force {
		return
	}
	for _, h := range c.hooksOf(hook.AfterHealthy) {
		if err := c.runHook(ctx, h, i.To, i.Via); err != nil {
			c.warn("%s; %s runs all the same", err, i.To)
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// runHook runs a hook for version v, and tells the history. A new order for another version
// stops it (errOrder), and so does ctx.
func (c *cycle) runHook(ctx context.Context, h hook.Hook, v, previous string) error {
	c.moved = true
	c.begin(Hooking, h.Limit()+hook.Patience)
	c.log.Info("hook", "when", h.When, "run", strings.Join(h.Run, " "), "version", v)
	began := c.now()
	rel := hook.Release{App: c.cfg.App, Version: v, Previous: previous, Dir: c.dir.ReleasePath(v)}
	words := func() string {
		return fmt.Sprintf("running a hook of %s for %s, for %s", h.When, v, c.now().Sub(began).Round(time.Second))
	}
	var output []string
	err := c.attend(ctx, v, Hooking, words, func(ctx context.Context) (err error) {
		output, err = c.hooks.Run(ctx, h, rel)
		return err
	})
	if errors.Is(err, systemd.ErrStopping) {
		err = fmt.Errorf("%w: %w", service.ErrGoingDown, err)
	}
	e := node.Event{Event: "hook", To: v, Output: output, Message: fmt.Sprintf("%s ended well after %s", h, c.now().Sub(began).Round(time.Millisecond))}
	switch failed := (*hook.Failed)(nil); {
	case err == nil:
	case errors.As(err, &failed):
		e.Reason, e.Message = reason.Hook, fmt.Sprintf("%s %s", h, failed.Words)
	default:
		e.Message = err.Error()
	}
	c.record(e)
	return err
}

// hookOutput returns what a hook printed that is why a release failed; nil if none is.
func hookOutput(cause error) []string {
	failed := (*hook.Failed)(nil)
	switch {
	case !errors.As(cause, &failed):
		return nil
	case len(failed.Output) == 0: // what the app printed is another matter
		return []string{"the hook printed nothing"}
	}
	return failed.Output
}

// readySteps says what comes before t is swapped in.
func (c *cycle) readySteps(ctx context.Context, t target) (steps []string) {
	if len(c.cfg.Env.Files) > 0 && !t.Force {
		steps = append(steps, "compare the release with "+strings.Join(c.cfg.Env.Files, ", "))
	}
	if c.prepares(t) {
		steps = append(steps, c.hookSteps(ctx, t, hook.BeforeSwap)...)
	}
	return steps
}

// hookSteps says which hooks run at one moment.
func (c *cycle) hookSteps(ctx context.Context, t target, when hook.When) (steps []string) {
	if t.Force {
		return nil
	}
	for _, h := range c.hooksOf(when) {
		steps = append(steps, "hook "+c.describeHook(ctx, h))
	}
	return steps
}

func (c *cycle) describeHook(ctx context.Context, h hook.Hook) string {
	who, err := c.hooks.User(ctx, h)
	if err != nil { // inspect tells it
		who = "nobody yet"
	}
	return fmt.Sprintf("%s: run %s as %s, for at most %s", h.When, strings.Join(h.Run, " "), who, h.Limit())
}
