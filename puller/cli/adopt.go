package cli

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/probe"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/adopt"
	"makenot.work/sando/puller/adopt/backup"
	"makenot.work/sando/puller/bootstrap"
	"makenot.work/sando/puller/oldroot"
)

// adoptFlags are those of puller bootstrap --adopt.
type adoptFlags struct {
	oldRoot   string
	oldUnit   string
	oldEnv    []string
	oldHealth string
	state     []string
}

func (a *adoptFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&a.oldRoot, "old-root", "", "with --adopt: `DIR` of a former install that runs from another directory")
	flags.StringVar(&a.oldUnit, "old-unit", "", "with --old-root: `NAME` of the unit that runs it")
	flags.StringArrayVar(&a.oldEnv, "old-env", nil, "with --old-root: env `FILE` of it (repeatable; default: those of its unit, else .env in it)")
	flags.StringVar(&a.oldHealth, "old-health", "", "with --old-root: `URL` that answers 200 while it runs, to measure the outage by (default: that of --health)")
	flags.StringArrayVar(&a.state, "state", nil, "with --old-root: copy its directory FROM to TO and let the env file say so: `FROM=TO`, such as data=/var/lib/mnw (repeatable)")
}

func (a *adoptFlags) check(adopting bool) error {
	former := a.oldRoot != ""
	switch {
	case former && !adopting:
		return reason.Errorf(reason.Config, "--old-root: without --adopt nothing is taken over; give both, or neither")
	case former && a.oldUnit == "":
		return reason.Errorf(reason.Config, "--old-root: name the unit that runs it as well, such as --old-unit makenotwork.service")
	case !former && (a.oldUnit != "" || len(a.oldEnv) > 0 || a.oldHealth != "" || len(a.state) > 0):
		return reason.Errorf(reason.Config, "--old-unit, --old-env, --old-health and --state are about a former install: give its directory with --old-root")
	}
	return nil
}

// teller returns what says a line while an adoption goes on, and what has been said.
func (p *program) adoptTeller() (tell func(string), said *[]string) {
	said = new([]string)
	return func(text string) {
		*said = append(*said, text)
		if !p.json {
			fmt.Fprintln(p.std.Out, cli.Printable(literal(text, p.flags())))
		}
	}, said
}

// adoption returns the adoption of a former install into the node to be.
func (p *program) adoption(ctx context.Context, n *bootstrap.Node, f *bootstrapFlags, tell func(string)) (*adopt.Adoption, error) {
	o, user := n.Names()
	health, err := n.Probe()
	if err != nil {
		return nil, err
	}
	opts := adopt.Options{
		App: o.App, Root: o.Root, Unit: o.Unit, User: user, EnvFile: o.EnvFile,
		OldRoot: f.oldRoot, OldUnit: f.oldUnit, OldEnv: f.oldEnv, Backups: backup.Base,
		Health: health, OldHealth: probe.Probe{URL: health.URL},
		Open: opener(n), Dry: f.dry, Now: time.Now, Log: tell,
		References: func(ctx context.Context) ([]string, error) { return references(ctx, f.oldRoot, o) },
	}
	if f.oldHealth != "" {
		opts.OldHealth.URL = f.oldHealth
	}
	if err := opts.OldHealth.Check(); err != nil {
		return nil, reason.Errorf(reason.Config, "--old-health: %w", err)
	}
	for _, s := range f.state {
		m, err := adopt.ParseMove(s)
		if err != nil {
			return nil, err
		}
		opts.State = append(opts.State, m)
	}
	return adopt.New(ctx, opts)
}

func opener(n *bootstrap.Node) func(context.Context, string) (adopt.Puller, error) {
	return func(ctx context.Context, root string) (adopt.Puller, error) {
		p, err := n.Open(ctx, root)
		if err != nil {
			return nil, err
		}
		return p, nil
	}
}

// references returns the files of this machine that name the old root.
func references(ctx context.Context, oldRoot string, o bootstrap.Options) ([]string, error) {
	opts := oldroot.Options{Old: oldRoot, App: o.App, Root: o.Root}
	if o.EnvFile != "" {
		opts.EnvFiles = []string{o.EnvFile}
	}
	report, err := oldroot.Search(ctx, opts)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, r := range report.References {
		if r.Kind != oldroot.Release {
			files = append(files, r.File)
		}
	}
	return files, nil
}

// adoptFormer makes a node of this machine and has it run the app instead of a former install:
// first what changes nothing of what runs, then, asked once more, the switch.
func (p *program) adoptFormer(ctx context.Context, n *bootstrap.Node, f *bootstrapFlags, person bootstrap.Person) error {
	ctx, stop := unattended(ctx)
	defer stop()
	tell, said := p.adoptTeller()
	a, err := p.adoption(ctx, n, f, tell)
	if err != nil {
		return err
	}
	defer a.Close()
	n.Former(a.HasEnv())
	steps, err := n.Prepare()
	if err != nil {
		return err
	}
	steps = append(steps, a.Prepare()...)
	last := append(a.Switch(), n.Live()...)
	report := p.begun(n, f, nil)
	if f.dry {
		plan, err := bootstrap.Plan(ctx, append(steps, last...))
		if err != nil {
			return err
		}
		report.Changes, report.Notes = plan.Changes, append(report.Notes, *said...)
		return p.showBootstrapped(report, "would be done", nil, n.Otherwise())
	}
	for n, part := range [][]bootstrap.Step{steps, last} {
		plan, err := bootstrap.Plan(ctx, part)
		if err != nil {
			return err
		}
		report.Changes = append(report.Changes, plan.Changes...)
		now := report
		now.Changes = plan.Changes
		question := "Nothing that runs is touched by this. Go on?"
		if n == 1 {
			question = fmt.Sprintf("This stops %s. Go on?", f.oldUnit)
		}
		if err := p.applyPart(ctx, now, plan, f, person, question); err != nil {
			return err
		}
	}
	return p.finish(ctx, n, report, *said)
}

// unattended is ctx, which ends as well when the terminal goes away: the old app may be stopped, and
// is started again then. That nobody reads what is said any more ends nothing.
func unattended(ctx context.Context) (context.Context, func()) {
	unread := make(chan os.Signal, 1)
	signal.Notify(unread, syscall.SIGPIPE)
	stop := func() { signal.Stop(unread) }
	if signal.Ignored(syscall.SIGHUP) { // as nohup has it
		return ctx, stop
	}
	ctx, end := signal.NotifyContext(ctx, syscall.SIGHUP)
	return ctx, func() { end(); stop() }
}

// applyPart shows what one half of it will do, asks, and does it.
func (p *program) applyPart(ctx context.Context, r Bootstrapped, plan *bootstrap.Planning, f *bootstrapFlags, person bootstrap.Person, question string) error {
	if len(plan.Changes) == 0 {
		return nil
	}
	out := p.std.Out
	if p.json {
		out = p.std.Err
	}
	writeChanges(out, r, "will be done")
	if !plan.Nothing() && !f.yes {
		if person.Confirm == nil {
			return reason.Errorf(reason.Config, "nobody can be asked here: look at what would be done with --dry-run, then give --yes; nothing of this was done")
		}
		yes, err := person.Confirm(ctx, question)
		if err != nil {
			return err
		}
		if !yes {
			return reason.Errorf(reason.Config, "not confirmed: nothing of this was done")
		}
	}
	return plan.Apply(ctx, p.stepper(r))
}

// inPlace returns what takes over another deployer's releases in the root itself.
func (p *program) inPlace(n *bootstrap.Node, tell func(string)) *adopt.InPlace {
	o, user := n.Names()
	return &adopt.InPlace{
		App: o.App, Root: o.Root, Unit: o.Unit, User: user, Tier: o.Tier, Backups: backup.Base,
		Open: opener(n), Now: time.Now, Log: tell,
	}
}
