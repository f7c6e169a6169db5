package cli

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/bootstrap"
	"makenot.work/sando/puller/doctor"
)

// Bootstrapped is what a bootstrap did, or, dry, would do.
type Bootstrapped struct {
	App         string              `json:"app"`
	Tier        string              `json:"tier"`
	DryRun      bool                `json:"dry_run"`
	Changes     []bootstrap.Planned `json:"changes"` // in order; none: everything is so already
	Fingerprint layout.Digest       `json:"fingerprint,omitempty"`
	Notes       []string            `json:"notes,omitempty"`     // what a person should know; of an adoption, what it did and how
	Update      *puller.Result      `json:"update,omitempty"`    // the cycle, if one was done
	Checks      []doctor.Check      `json:"checks,omitempty"`    // what doctor found then
	Now         *puller.Status      `json:"now,omitempty"`       // how the node is in the end
	Otherwise   string              `json:"otherwise,omitempty"` // in what the configuration in force is another than this command's

	empty bool // no release is live, or none of a channel
}

// waits reports whether all that keeps an update back is that nothing was promoted yet.
func (r *Bootstrapped) waits(c doctor.Check) bool {
	return r.empty && c.Name == "channel" && c.Reason == reason.Stale &&
		(strings.Contains(c.Found, "nothing was promoted") || strings.Contains(c.Found, "nothing was mirrored"))
}

// bootstrapFlags are those of puller bootstrap.
type bootstrapFlags struct {
	bootstrap.Options
	adoptFlags
	stateMode string
	dry, yes  bool
}

func (p *program) bootstrap() *cobra.Command {
	f := &bootstrapFlags{}
	cmd := &cobra.Command{
		Use:   "bootstrap --app NAME --tier TIER --storage URL --channels URL --trust-fingerprint DIGEST",
		Short: "Make this machine a node of an app",
		Long: `Set up everything that a node needs: program and units, a user of the app's own, directories, env
file, trust, credentials, configuration; then do the first update and start the puller.

"builder enroll" prints the line, with all that the builder knows. What you add is mostly --exec
(how the app is started), --health (the URL that says that it is well), and --dry-run or --yes.
--app is the name of the app, whose /etc/sando/NAME.toml is made.

What is there already stays: a file with other content is shown as a diff, and kept. Run again, it
does what is missing. Secrets are asked for, and never printed.

Flags: first those that every node needs, then those about the app, then those for a bucket and a
git host that are not as usual, then those for machines that are not.`,
		Example: `  puller bootstrap --app mnw --tier b --storage s3://releases --endpoint https://s3.example.org \
    --channels https://git.example.org/ops/mnw-channels.git --trust-fingerprint sha256:… \
    --exec "/opt/mnw/current/mnw serve" --health http://127.0.0.1:3000/health --dry-run`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.config != "" || len(p.set) > 0 {
				return reason.Errorf(reason.Config, "--config and --set do not go with bootstrap: it writes %s/NAME.toml from its own flags", puller.ConfigDir)
			}
			mode, err := strconv.ParseUint(f.stateMode, 8, 32)
			if err != nil {
				return reason.Errorf(reason.Config, "--state-mode: %q is not an octal number", f.stateMode)
			}
			if err := f.adoptFlags.check(f.Adopt); err != nil {
				return err
			}
			f.App, f.StateMode = p.app, fs.FileMode(mode)
			return p.makeNode(cmd.Context(), f)
		},
	}
	f.add(cmd)
	return cmd
}

func (f *bootstrapFlags) add(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.SortFlags = false
	flags.StringVar(&f.Tier, "tier", "", "`TIER` whose channel this node follows")
	flags.StringVar(&f.Node, "node", "", "`NAME` of this node (default: the host name)")
	flags.StringVar(&f.Storage.URL, "storage", "", "`URL` of the bucket: s3://BUCKET[/PREFIX] or file:///DIR")
	flags.StringVar(&f.Channels.URL, "channels", "", "`URL` of the channel repo; or bucket: its mirror in the storage")
	flags.StringVar(&f.Fingerprint, "trust-fingerprint", "", "`DIGEST` of trust.json, as the builder said it; with --trust it may be left out, and is then shown and asked about")
	flags.BoolVar(&f.dry, "dry-run", false, "say what would be done; change nothing")
	flags.BoolVarP(&f.yes, "yes", "y", false, "do not ask before it begins")
	flags.StringVar(&f.Exec, "exec", "", "`COMMAND` that runs the app, such as \"/opt/mnw/current/mnw serve\"; needed when its unit is not there, and written into it")
	flags.StringVar(&f.Health, "health", "", "`URL` that answers 200 while the app is well")
	flags.StringArrayVar(&f.HealthJSON, "health-json", nil, "what its answer must hold, `KEY=VALUE` (repeatable; default version={version})")
	flags.StringVar(&f.Unit, "unit", "", "`NAME` of the app's unit (default APP.service)")
	flags.StringVar(&f.User, "user", "", "`USER` that the app runs as; made when missing (default: that of the unit, or APP)")
	flags.StringVar(&f.EnvFile, "env-file", "", "env `FILE` of the app, made when missing; or none (default /etc/APP/APP.env)")
	flags.StringVar(&f.EnvTemplate, "env-template", "", "`FILE` that the env file is made from")
	flags.StringVar(&f.stateMode, "state-mode", "0750", "`MODE` of /var/lib/APP")
	flags.StringVar(&f.Storage.Endpoint, "endpoint", "", "`URL` of an S3-compatible server (default: Amazon's)")
	flags.StringVar(&f.Storage.Region, "region", "", "`REGION` of the bucket")
	flags.BoolVar(&f.Storage.PathStyle, "path-style", false, "name the bucket in the path everywhere")
	flags.BoolVar(&f.Storage.Anonymous, "anonymous", false, "ask the storage without credentials")
	flags.StringVar(&f.Storage.AccessKeyFile, "access-key-file", "", "`FILE` with the access key; asked for when missing (default /etc/sando/APP/s3.access)")
	flags.StringVar(&f.Storage.SecretKeyFile, "secret-key-file", "", "`FILE` with the secret key; asked for when missing (default /etc/sando/APP/s3.secret)")
	flags.StringVar(&f.Storage.CAFile, "storage-ca", "", "`FILE` with certificates that the storage is trusted by besides those of the system")
	flags.StringVar(&f.Channels.Branch, "branch", "main", "`BRANCH` of the channel repo")
	flags.StringVar(&f.Channels.Path, "path", "", "`DIR` in the channel repo")
	flags.StringVar(&f.Channels.TokenFile, "token-file", "", "`FILE` with a token for https; asked for when missing (default /etc/sando/APP/git.token)")
	flags.StringVar(&f.Channels.SSHKey, "ssh-key", "", "`FILE` with a private key for ssh (default /etc/sando/APP/ssh)")
	flags.StringVar(&f.Channels.KnownHosts, "known-hosts", "", "`FILE` with the host's keys for ssh (default /etc/sando/APP/known_hosts)")
	flags.StringVar(&f.Channels.CAFile, "channels-ca", "", "`FILE` with certificates that the git host is trusted by besides those of the system")
	flags.StringVar(&f.Trust, "trust", "", "`FILE` or https URL of trust.json (default: looked for in the channel repo by its fingerprint)")
	flags.Int64Var(&f.MinSeq, "min-seq", 0, "least counter of the channel to believe, `N`")
	flags.StringVar(&f.Root, "root", "", "`DIR` of the releases (default /opt/APP)")
	flags.BoolVar(&f.Timer, "timer", false, "a cycle every minute by puller-once@APP.timer, instead of the daemon")
	flags.BoolVar(&f.Adopt, "adopt", false, "take over an app that runs here already: another deployer's releases in the root, or with --old-root a former install")
	f.adoptFlags.add(cmd)
	none := cobra.FixedCompletions([]string{bootstrap.None}, cobra.ShellCompDirectiveDefault)
	nothing := cobra.NoFileCompletions
	for name, complete := range map[string]cobra.CompletionFunc{
		"channels": cobra.FixedCompletions([]string{bootstrap.Bucket, "https://", "ssh://", "file:///"}, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp),
		"storage":  cobra.FixedCompletions([]string{"s3://", "file:///"}, cobra.ShellCompDirectiveNoSpace|cobra.ShellCompDirectiveNoFileComp),
		"env-file": none, "access-key-file": none, "secret-key-file": none, "token-file": none,
		"tier": nothing, "node": nothing, "endpoint": nothing, "region": nothing, "branch": nothing, "trust-fingerprint": nothing,
		"min-seq": nothing, "unit": nothing, "user": nothing, "state-mode": nothing, "health": nothing, "health-json": nothing,
		"old-unit": nothing, "old-health": nothing, "state": nothing,
	} {
		if err := cmd.RegisterFlagCompletionFunc(name, complete); err != nil {
			panic(err) // the flags are defined above
		}
	}
}

// makeNode judges, asks, and does.
func (p *program) makeNode(ctx context.Context, f *bootstrapFlags) error {
	person := bootstrap.Person{}
	if p.std.Asks() {
		person = bootstrap.Person{Confirm: p.std.Confirm, Secret: p.std.Secret}
	}
	n, err := bootstrap.New(ctx, f.Options, bootstrap.Setup{Person: person, Dry: f.dry, Log: p.logAt(slog.LevelWarn), Meter: meter(p.std.Err), Tell: p.teller()})
	if err != nil {
		return err
	}
	defer n.Close()
	if !p.json {
		p.warnings(n.Notes())
	}
	if f.oldRoot != "" {
		return p.adoptFormer(ctx, n, f, person)
	}
	steps, err := n.Prepare()
	if err != nil {
		return err
	}
	tell, said := p.adoptTeller()
	place := p.inPlace(n, tell)
	if f.Adopt {
		steps = append(steps, place.Steps()...)
	}
	plan, err := bootstrap.Plan(ctx, append(steps, n.Live()...))
	if err != nil {
		return err
	}
	report := p.begun(n, f, plan.Changes)
	if f.dry {
		return p.showBootstrapped(report, "would be done", nil, n.Otherwise())
	}
	if !plan.Nothing() && person.Confirm != nil && !f.yes {
		if err := p.goOn(ctx, person, report); err != nil {
			return err
		}
	}
	if err := plan.Apply(ctx, p.stepper(report)); err != nil {
		return halfway(ctx, err)
	}
	report.empty = place.Waits
	return p.finish(ctx, n, report, *said)
}

// begun is the report of what is planned.
func (p *program) begun(n *bootstrap.Node, f *bootstrapFlags, changes []bootstrap.Planned) Bootstrapped {
	r := Bootstrapped{App: f.App, Tier: f.Tier, DryRun: f.dry, Changes: changes, Fingerprint: n.Fingerprint(), Notes: n.Notes()}
	if err := n.Otherwise(); err != nil {
		r.Otherwise = err.Error()
	}
	return r
}

// halfway is the error of what was begun and came to no end.
func halfway(ctx context.Context, err error) error {
	if ctx.Err() != nil { // nothing is wrong
		return reason.Errorf(reason.IO, "stopped by a signal: what was done stays; the same command, run again, goes on with the rest")
	}
	return fmt.Errorf("%w; what was done before stays: mend that, and run the same command again", err)
}

// goOn shows what will be done, and asks whether it may.
func (p *program) goOn(ctx context.Context, person bootstrap.Person, report Bootstrapped) error {
	writeChanges(p.std.Err, report, "will be done")
	yes, err := person.Confirm(ctx, "Go on?")
	switch {
	case ctx.Err() != nil:
		return reason.Errorf(reason.IO, "stopped by a signal: nothing was changed")
	case err == nil && !yes:
		return reason.Errorf(reason.Config, "not confirmed: nothing was changed")
	}
	return err
}

// stepper tells what is done when it is done.
func (p *program) stepper(r Bootstrapped) func(bootstrap.Step, bool) {
	if p.json {
		return nil
	}
	begun := false
	return func(s bootstrap.Step, done bool) {
		if !begun {
			fmt.Fprintf(p.std.Out, "%s: done:\n", r.App)
		}
		begun = true
		for _, c := range r.Changes {
			if done && c.Step == s.Name && !c.Kept {
				fmt.Fprintf(p.std.Out, "  - %s\n", cli.Printable(bootstrap.Done(c.What)))
			}
		}
	}
}

// log is what a cycle of a command tells.
func (p *program) log() *slog.Logger {
	if cli.IsTerminal(p.std.Err) {
		return p.logAt(slog.LevelWarn)
	}
	return p.logAt(slog.LevelInfo)
}

// logAt tells from a level on; with --verbose all that is of interest.
func (p *program) logAt(level slog.Level) *slog.Logger {
	if p.v {
		level = slog.LevelInfo
	}
	return slog.New(speller{cli.NewLogger(p.std.Err, level).Handler(), p.flags()})
}
