// Package cli is the command line of the puller: flags, and words for people. What it
// does is in package puller.
//
// Every command that reports takes --json; its objects are puller.Result (a cycle, an
// order), puller.Plan (--dry-run), puller.Status, a list of node.Event (history) and a
// list of puller.Verified. Fields are only ever added to them.
package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/config"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/daemon"
)

// program is one run of the command line.
type program struct {
	std    cli.Std
	config string
	app    string
	set    []string
	json   bool
	v      bool
	opened *puller.Puller // of a command that needs one
}

// Run runs the puller with args and returns its exit code.
func Run(ctx context.Context, args []string, std cli.Std) int {
	p := &program{std: std}
	code := cli.Main(ctx, p.command(), args, std)
	if p.opened != nil {
		p.opened.ReportOnce(ctx) // now, when nobody waits for a word any more
	}
	return code
}

// Command returns the command tree, for Run and for the reference.
func Command(std cli.Std) *cobra.Command { return (&program{std: std}).command() }

func (p *program) command() *cobra.Command {
	root := p.cycle()
	flags := root.PersistentFlags()
	flags.StringVar(&p.config, "config", "", "configuration `FILE` (default: SANDO_CONFIG, else the only *.toml in "+puller.ConfigDir+")")
	flags.StringVar(&p.app, "app", "", "use "+puller.ConfigDir+"/`NAME`.toml")
	flags.StringArrayVar(&p.set, "set", nil, "override a configuration key: `KEY=VALUE`, e.g. health.stable_for=5s (repeatable)")
	flags.BoolVar(&p.json, "json", false, "print one JSON document instead of text")
	flags.BoolVarP(&p.v, "verbose", "v", false, "log each step, also on a terminal")
	root.AddCommand(p.run(), p.status(), p.history(), p.verify(), p.unblock(), p.unit(), p.oldRoot(p.doctor()), p.bootstrap())
	p.spell(root)
	return root
}

func (p *program) cycle() *cobra.Command {
	var pin pinFlags
	var unpin, dry, now bool
	cmd := &cobra.Command{
		Use:   "puller",
		Short: "Make this node run what its tier's channel says",
		Long: `One cycle: fetch the channel, verify, unpack, swap, restart, watch the health, go back if it is bad.

Exit codes: 0 done, nothing to do, pinned or waiting; 1 failed, worth retrying;
2 usage or configuration; 3 refused or held; 4 rolled back in this cycle.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := pin.check(); err != nil {
				return err
			}
			pl, err := p.open(cmd.Context())
			if reason.Of(err) == reason.Config {
				return p.refused(err, pin, unpin)
			}
			if err != nil {
				return err
			}
			opts := puller.Options{Now: now, Tell: p.teller()}
			switch {
			case dry:
				return p.showPlan(pl.Plan(cmd.Context(), opts))
			case pin.pin != "":
				order, err := pin.order(time.Now())
				if err != nil {
					return err
				}
				return p.showResult(pl.Pin(cmd.Context(), order, opts))
			case unpin:
				return p.showResult(pl.Unpin(cmd.Context(), opts))
			}
			return p.showResult(pl.Step(cmd.Context(), opts))
		},
	}
	pin.add(cmd)
	cmd.Flags().BoolVar(&unpin, "unpin", false, "follow the channel again")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what a cycle would do, and why; change nothing")
	cmd.Flags().BoolVar(&now, "now", false, "do not wait for the maintenance window, the rollout or a backoff; a halt still holds")
	cmd.MarkFlagsMutuallyExclusive("pin", "unpin", "dry-run")
	if err := cmd.RegisterFlagCompletionFunc("pin", p.offer((*puller.Puller).Releases)); err != nil {
		panic(err) // the flag is defined above
	}
	return cmd
}

func (p *program) status() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "What runs, what should run, and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := p.look(cmd.Context())
			if s.App == "" {
				return err
			}
			if p.json {
				if jerr := cli.JSON(p.std.Out, s); jerr != nil {
					return jerr
				}
			} else {
				p.print(func(w io.Writer) { writeStatus(w, s, p.installed(s.App)) })
			}
			if err != nil {
				return cli.Exit(reason.Of(err))
			}
			return nil
		},
	}
}

// look returns the status, also where the configuration is not good; then with its error.
func (p *program) look(ctx context.Context) (puller.Status, error) {
	file, flags, err := p.source()
	if err != nil {
		return puller.Status{}, err
	}
	pl, err := p.open(ctx)
	if reason.Of(err) == reason.Config {
		return puller.StatusDespite(ctx, file, flags, err)
	}
	if err != nil {
		return puller.Status{}, err
	}
	s, err := pl.Status(ctx)
	if err != nil {
		return puller.Status{}, err
	}
	return s, nil
}

func (p *program) history() *cobra.Command {
	var n int
	var short bool
	cmd := &cobra.Command{
		Use:   "history",
		Short: "What happened on this node, newest last",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if n < 1 {
				return reason.Errorf(reason.Config, "-n: %d is less than 1", n)
			}
			pl, err := p.open(cmd.Context())
			if err != nil {
				return err
			}
			events, err := pl.History(n)
			if err != nil {
				return err
			}
			if p.json {
				return cli.JSON(p.std.Out, append([]node.Event{}, events...)) // a list, also when it is empty
			}
			p.print(func(w io.Writer) { writeHistory(w, events, short) })
			return nil
		},
	}
	cmd.Flags().IntVarP(&n, "lines", "n", 30, "how many `EVENTS`")
	cmd.Flags().BoolVarP(&short, "short", "s", false, "leave out what the app and hooks printed")
	return cmd
}

func (p *program) verify() *cobra.Command {
	var repair bool
	cmd := &cobra.Command{
		Use:   "verify [VERSION…]",
		Short: "Hash the releases on disk and compare them with their manifests",
		RunE: func(cmd *cobra.Command, args []string) error {
			pl, err := p.open(cmd.Context())
			if err != nil {
				return err
			}
			look := pl.Verify
			if repair {
				look = pl.Repair
			}
			found, err := look(cmd.Context(), args)
			if found == nil {
				return err
			}
			if p.json {
				if jerr := cli.JSON(p.std.Out, found); jerr != nil {
					return jerr
				}
			} else {
				p.print(func(w io.Writer) { writeVerified(w, found) })
				if repair && !slices.ContainsFunc(found, func(v puller.Verified) bool { return v.Repaired || v.Reason.Exit() != 0 }) {
					fmt.Fprintln(p.std.Out, "nothing is damaged: nothing was changed")
				}
			}
			return cli.Exit(reason.Of(err))
		},
	}
	cmd.Flags().BoolVar(&repair, "repair", false, "fetch what is damaged again; if that is what runs, restart it")
	return cmd
}

func (p *program) run() *cobra.Command {
	return &cobra.Command{
		Use:   "run",
		Short: "Go on running: a cycle now, then one whenever schedule.poll says so",
		Long: `The daemon, for systemd: a cycle now, then one whenever schedule.poll says so.

The configuration is read again when its file changed, and at SIGHUP. SIGTERM and SIGINT
stop it between two steps; a second one ends it at once.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if p.json {
				return reason.Errorf(reason.Config, "--json does not go with run, which prints nothing: see `puller status --json`")
			}
			level := slog.LevelInfo
			if p.v {
				level = slog.LevelDebug
			}
			log := slog.New(speller{cli.NewJournalLogger(p.std.Err, p.std.Env, level).Handler(), p.flags()})
			file, flags, err := p.source()
			if err != nil {
				return err
			}
			return daemon.Run(cmd.Context(), daemon.Options{
				File: file,
				Load: func() (*puller.Config, error) { return puller.LoadConfig(file, flags) },
				Open: func(ctx context.Context, cfg *puller.Config) (daemon.Puller, error) {
					return puller.New(ctx, cfg, log, nil)
				},
				Manager: daemon.Systemd{},
				Log:     log,
			})
		},
	}
}

// open loads the configuration and returns the puller of it.
func (p *program) open(ctx context.Context) (*puller.Puller, error) {
	cfg, err := p.load()
	if err != nil {
		return nil, err
	}
	p.opened, err = puller.New(ctx, cfg, p.log(), meter(p.std.Err))
	return p.opened, err
}

func (p *program) load() (*puller.Config, error) {
	file, flags, err := p.source()
	if err != nil {
		return nil, err
	}
	return puller.LoadConfig(file, flags)
}

// source says where the configuration comes from.
func (p *program) source() (file string, flags map[string]any, err error) {
	given := p.config
	if given == "" && p.app == "" {
		given = p.std.Env("SANDO_CONFIG")
	}
	if file, err = puller.FindConfig(given, p.app, puller.ConfigDir); err != nil {
		return "", nil, err
	}
	flags = map[string]any{}
	for _, s := range p.set {
		key, value, ok := strings.Cut(s, "=")
		if !ok {
			return "", nil, reason.Errorf(reason.Config, "--set %q is not KEY=VALUE", s)
		}
		flags[key] = config.Text(value)
	}
	return file, flags, nil
}

func meter(w io.Writer) puller.Meter {
	return func(what string, total int64) (func(int64), func()) {
		bar := cli.NewProgress(w, what, total)
		return bar.Add, bar.Done
	}
}

func (p *program) showResult(r puller.Result, err error) error {
	if p.json {
		if jerr := cli.JSON(p.std.Out, r); jerr != nil {
			return jerr
		}
		p.complain(err)
		return cli.Exit(r.Reason)
	}
	p.warnings(r.Warnings)
	if err != nil {
		return err
	}
	fmt.Fprintf(p.std.Out, "%s: %s\n", r.Reason, cli.Printable(literal(r.Message, p.flags())))
	if r.Manifest != "" && (r.Reason == reason.Pinned || r.Reason == reason.Updated) {
		fmt.Fprintf(p.std.Out, "manifest %s\n", r.Manifest)
	}
	return nil
}

// complain says on standard error what the JSON document on standard output says as well.
func (p *program) complain(err error) {
	if err != nil {
		fmt.Fprintf(p.std.Err, "puller: %s: %s\n", reason.Of(err), cli.Printable(literal(err.Error(), p.flags())))
	}
}

func (p *program) showPlan(plan puller.Plan, err error) error {
	if p.json {
		if jerr := cli.JSON(p.std.Out, plan); jerr != nil {
			return jerr
		}
		return cli.Exit(plan.Reason)
	}
	p.warnings(plan.Warnings)
	if err == nil || plan.Act {
		fmt.Fprintf(p.std.Out, "%s: %s runs, a cycle now would:\n", plan.App, orNothing(plan.Running))
		for _, s := range plan.Steps {
			fmt.Fprintf(p.std.Out, "  - %s\n", cli.Printable(literal(s, p.flags())))
		}
	}
	if len(plan.Hooks) > 0 {
		fmt.Fprintf(p.std.Out, "%s: hooks of its configuration:\n", plan.App)
	}
	for _, h := range plan.Hooks {
		fmt.Fprintf(p.std.Out, "  - %s\n", cli.Printable(h))
	}
	return err
}

func (p *program) warnings(list []string) {
	for _, w := range list {
		fmt.Fprintf(p.std.Err, "puller: warning: %s\n", cli.Printable(literal(w, p.flags())))
	}
}

func orNothing(v string) string {
	if v == "" {
		return "nothing"
	}
	return v
}
