package puller

import (
	"context"
	"fmt"
	"strings"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
)

// ParseOrder reads "0.9.5" or "0.9.5@sha256:…".
func ParseOrder(s string) (version string, manifest layout.Digest, err error) {
	version, digest, has := strings.Cut(s, "@")
	if err := layout.CheckVersion(version); err != nil {
		return "", "", reason.Wrap(reason.Config, err)
	}
	if has {
		manifest = layout.Digest(digest)
		if err := manifest.Check(); err != nil {
			return "", "", reason.Wrap(reason.Config, err)
		}
	}
	return version, manifest, nil
}

// Pin orders this node to run exactly version, with the manifest if one is given, and
// to hold it. The order is on disk before anything waits: a cycle that is under way
// sees it and gives way. Then Pin carries it out; when that fails the order stays.
func (p *Puller) Pin(ctx context.Context, version string, manifest layout.Digest, why string) (Result, error) {
	dir, err := node.Open(p.cfg.Root)
	if err != nil {
		return p.result(reason.Of(err), err.Error()), err
	}
	pin := node.Pin{Release: version, Manifest: manifest, At: p.now().UnixMilli(), Reason: node.Line(why)}
	if err := dir.SavePin(pin); err != nil {
		return p.result(reason.Of(err), err.Error()), err
	}
	p.note(dir, node.Event{Event: "pin ordered", To: version, Digest: manifest, Message: why})
	return p.Step(ctx, Options{Order: true})
}

// Unpin takes the order back and follows the channel again.
func (p *Puller) Unpin(ctx context.Context, opts Options) (Result, error) {
	dir, err := node.Open(p.cfg.Root)
	if err != nil {
		return p.result(reason.Of(err), err.Error()), err
	}
	pin, err := dir.Pin()
	if err == nil && pin == nil {
		return p.Step(ctx, opts)
	}
	if err := dir.RemovePin(); err != nil {
		return p.result(reason.Of(err), err.Error()), err
	}
	p.note(dir, node.Event{Event: "pin taken back"})
	return p.Step(ctx, opts)
}

func (p *Puller) note(dir *node.Dir, e node.Event) {
	e.At = canon.At(p.now())
	if err := dir.Record(e); err != nil {
		p.log.Warn("history", "error", err)
	}
}

// Plan is what a cycle would do now.
type Plan struct {
	Reason   reason.Code   `json:"reason"`
	App      string        `json:"app"`
	Node     string        `json:"node"`
	Tier     string        `json:"tier"`
	Running  string        `json:"running,omitempty"`
	Act      bool          `json:"act"`
	Version  string        `json:"version,omitempty"`
	Manifest layout.Digest `json:"manifest,omitempty"`
	Steps    []string      `json:"steps"`
	Warnings []string      `json:"warnings,omitempty"`
}

// Plan says what a cycle would do, and why. It writes nothing on the node: not the
// state, not even what it accepts; the channel repo is fetched to a temporary place.
// The error is the one that would end such a cycle.
func (p *Puller) Plan(ctx context.Context, opts Options) (Plan, error) {
	c := &cycle{Puller: p, opts: opts, dry: true}
	plan := Plan{App: p.cfg.App, Node: p.cfg.Node, Tier: p.cfg.Tier, Steps: []string{}}
	err := c.plan(ctx, &plan)
	plan.Running, plan.Warnings = c.cur.Version, c.warnings
	if err != nil {
		plan.Reason = reason.Of(err)
	}
	return plan, err
}

func (c *cycle) plan(ctx context.Context, plan *Plan) error {
	if err := c.dir.Check(); err != nil {
		return err
	}
	if err := c.load(); err != nil {
		return err
	}
	if err := c.loadPin(); err != nil {
		return err
	}
	if err := c.planRecovery(plan); err != nil {
		return err
	}
	pollErr := c.loadTrust()
	if err := c.loadChannel(); err != nil {
		return err
	}
	if pollErr == nil {
		pollErr = c.poll(ctx)
	}
	d := decide(c.facts())
	if d.Warning != "" {
		c.warn("%s", d.Warning)
	}
	plan.Act, plan.Reason = d.Act, d.Reason
	if !d.Act {
		plan.Steps = append(plan.Steps, d.Message)
		if pollErr == nil && d.Reason.Exit() != 0 {
			return reason.Errorf(d.Reason, "%s", d.Message)
		}
		return pollErr
	}
	plan.Reason, plan.Version, plan.Manifest = reason.Updated, d.Target.Version, d.Target.Manifest
	plan.Steps = append(plan.Steps, c.steps(d.Target)...)
	return pollErr
}

func (c *cycle) planRecovery(plan *Plan) error {
	f := diagnose(c.st, c.cur)
	if f == fine {
		return nil
	}
	if f == odd {
		return reason.Errorf(reason.Config, "%s", c.cur.Odd)
	}
	step := "recover first: " + string(f)
	switch f {
	case byHand:
		step += "; it is kept, and held as a pin"
		if err := c.acceptByHand(); err != nil {
			return err
		}
	case switched:
		step += fmt.Sprintf("; %s is started again and must prove itself", c.st.Intent.To)
	case goingBack:
		step += fmt.Sprintf("; %s is started again", c.st.Intent.From)
	case notSwapped:
		step += "; it is decided anew"
		c.st.Intent = c.st.Intent.Over
	}
	plan.Steps = append(plan.Steps, step)
	return nil
}

func (c *cycle) steps(t target) []string {
	by := fmt.Sprintf("channel %q", c.cfg.Tier)
	if t.Pin {
		by = "the pin"
	}
	steps := []string{fmt.Sprintf("%s names %s", by, t.Version)}
	if has, err := c.dir.Has(t.Version); err == nil && has {
		steps = append(steps, "it is on disk: hash it")
	} else {
		steps = append(steps, "fetch its manifest and bundle, verify, unpack")
	}
	if t.Version != c.cur.Version {
		steps = append(steps, fmt.Sprintf("swap current from %s to %s", orNone(c.cur.Version), t.Version))
	}
	well := c.cfg.Health.URL
	switch s := c.cfg.Service; {
	case s.Unit != "":
		steps = append(steps, fmt.Sprintf("%s %s", s.Action, s.Unit))
		if well == "" {
			well = s.Unit
		}
	case len(s.Command) > 0:
		steps = append(steps, "run "+strings.Join(s.Command, " "))
	}
	if well != "" {
		steps = append(steps, fmt.Sprintf("wait until %s is well for %s", well, c.cfg.Health.StableFor))
	}
	return steps
}

func orNone(v string) string {
	if v == "" {
		return "nothing"
	}
	return v
}
