package puller

import (
	"context"
	"fmt"
	"slices"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
)

// Survey is what a cycle would meet now, each thing for itself: one that is wrong does not
// hide another. A dry run makes one decision of it, package doctor a list.
type Survey struct {
	Current node.Current
	State   *node.State // as on disk, or as it would be rebuilt
	Local   error       // why the node's own files let no cycle begin; then nothing is decided
	Recover string      // what a cycle would finish or undo first; "": nothing
	ByHand  bool        // `current` was changed by somebody else, and no cycle has seen it yet
	Pin     *node.Pin   // the order in force
	Ended   *node.Pin   // one whose time is over

	Trust      int64 // version of the newest trust held; 0: none
	TrustErr   error // the anchor, or the chain, is of no use; then nothing is asked
	Poll       error // asking for news, or what was answered
	Channel    *ChannelStatus
	Manifest   error // of what the channel names: it, its signatures, its tarball in the storage
	Bundle     *layout.Bundle
	Room       error    // there is no room for it, or for the reserve
	Expendable []string // releases that would go first

	Act      bool // a cycle would activate Version
	Await    bool // it would when the window opens
	Version  string
	Reason   reason.Code // when not acting
	Message  string
	Hooks    []error
	Warnings []string
}

// Survey looks as a dry run does, and changes nothing. Asking for news, and for what is in
// the storage, take at most limit each.
func (p *Puller) Survey(ctx context.Context, limit time.Duration) Survey {
	c := &cycle{Puller: p, dry: true}
	s := Survey{}
	s.Local = c.surveyNode(&s)
	if c.st == nil {
		c.st = node.NewState()
	}
	if s.TrustErr = c.loadTrust(); s.TrustErr == nil {
		s.Poll = c.surveyPoll(ctx, limit)
		s.Trust = c.trust.Version
	} else if err := c.loadChannel(); err != nil && s.Local == nil {
		s.Local = err
	}
	if c.channel != nil {
		s.Channel = channelStatus(c.channel.Channel)
	}
	if c.channel != nil && c.trust != nil {
		s.Manifest = within(ctx, limit, func(ctx context.Context) error { return c.surveyStorage(ctx, &s) })
	}
	if s.Local == nil {
		c.surveyDecision(ctx, &s)
	}
	s.Current, s.State, s.Warnings = c.cur, c.st, c.warnings
	return s
}

// surveyNode reads the node's own files.
func (c *cycle) surveyNode(s *Survey) error {
	if err := c.load(); err != nil {
		return err
	}
	s.ByHand = diagnose(c.st, c.cur) == byHand
	if err := c.loadPin(); err != nil {
		return err
	}
	plan := Plan{}
	if err := c.planRecovery(&plan); err != nil {
		return err
	}
	if len(plan.Steps) > 0 {
		s.Recover = plan.Steps[0]
	}
	return nil
}

func (c *cycle) surveyPoll(ctx context.Context, limit time.Duration) error {
	if err := c.loadChannel(); err != nil {
		return err
	}
	return within(ctx, limit, c.poll)
}

// within calls ask with so much time.
func within(ctx context.Context, limit time.Duration, ask func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	err := ask(limited)
	if err != nil && limited.Err() != nil && ctx.Err() == nil {
		return reason.Errorf(reason.IO, "no end within %s: %w", limit, err)
	}
	return err
}

// surveyStorage asks for what the channel names, whether it is on disk or not: who can read
// it has the right credentials.
func (c *cycle) surveyStorage(ctx context.Context, s *Survey) error {
	ch := c.channel
	t := target{Version: ch.Version, Manifest: ch.Manifest, Attempt: ch.Attempt}
	t.Force = c.trust.IsRevoked(t.Manifest) // what that means is decided elsewhere
	said := slices.Clone(c.warnings)
	p, err := c.prepare(ctx, t)
	c.warnings = said
	if err != nil {
		return err
	}
	s.Bundle = &p.bundle
	key := layout.ReleaseKey(c.cfg.App, t.Version, p.bundle.Name)
	info, err := c.bucket.Stat(ctx, key)
	switch {
	case err != nil:
		return reason.Wrap(reason.IO, fmt.Errorf("tarball of %s: %w", t.Version, err))
	case info.Size != p.bundle.Size:
		return reason.Errorf(reason.Mismatch, "tarball of %s: object %q has %d bytes, want %d: it was altered in the storage; restore it, or release under a new version", t.Version, key, info.Size, p.bundle.Size)
	}
	return nil
}

func (c *cycle) surveyDecision(ctx context.Context, s *Survey) {
	c.judgePin()
	s.Pin = c.pin
	if c.pin == nil {
		s.Ended = c.order
	}
	d := decide(c.facts())
	if d.Warning != "" {
		c.warn("%s", d.Warning)
	}
	s.Act, s.Await, s.Version, s.Reason, s.Message = d.Act, d.Await, d.Target.Version, d.Reason, d.Message
	s.Expendable, s.Room = c.surveyRoom(s)
	for _, h := range c.cfg.Hooks {
		if err := c.inspectHook(ctx, h, d.Target); err != nil {
			s.Hooks = append(s.Hooks, err)
		}
	}
}

// surveyRoom looks whether what would be fetched fits beside the reserve; where nothing would
// be, whether the reserve is free. Releases that nothing needs would go first.
func (c *cycle) surveyRoom(s *Survey) (expendable []string, err error) {
	var bytes, inodes int64
	wanted := c.channel != nil && s.Version == c.channel.Version
	if has, err := c.dir.Has(s.Version); s.Version != "" && err == nil && !has && wanted && s.Bundle != nil {
		bytes, inodes = missing(*s.Bundle, 0)
	}
	short := c.dir.Space(bytes, inodes, c.cfg.reserve)
	if reason.Of(short) != reason.Disk {
		return nil, nil // that there is no root yet is told by others
	}
	expendable, _ = c.expendable() // what cannot be read cannot be taken away
	return expendable, short
}

// Environment is what the app's env files lack.
type Environment struct {
	General []string // whatever the release
	Release []string // for the release alone
}

// Environment holds the env files against releases on disk, as the audit before an
// activation does.
func (p *Puller) Environment(versions ...string) (e Environment, err error) {
	if len(p.cfg.Env.Files) == 0 {
		return e, nil
	}
	c := &cycle{Puller: p, dry: true}
	_, e.General = c.readEnv()
	for _, v := range versions {
		if v == "" { // nothing runs, or nothing is to be activated
			continue
		}
		if has, err := p.dir.Has(v); err != nil || !has {
			continue
		}
		faults, err := c.envFaults(v)
		if err != nil {
			return e, err
		}
		for _, f := range faults {
			if !slices.Contains(e.General, f) && !slices.Contains(e.Release, f) {
				e.Release = append(e.Release, f)
			}
		}
	}
	return e, nil
}
