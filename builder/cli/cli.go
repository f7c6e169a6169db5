// Package cli is the command line of builder.
//
//	builder init [DIR] --app NAME     keys, trust, channel repo, bucket, builder.toml
//	builder keygen NAME               one key pair
//	builder release                   build, sign, publish, advance
//	builder promote TIER              advance a tier to what the tier before it names
//	builder sign VERSION              add a signature: also --channel TIER, --trust FILE
//	builder mirror [TIER…]            copy trust and channels to the bucket
//	builder verify VERSION            read a published version and check all of it
//	builder enroll NODE --tier TIER   the command line that makes a node of a machine
//	builder completion SHELL          completion for bash, zsh, fish, powershell
//
// Results go to standard output, everything else to standard error. With --json the
// result is one JSON object: builder.Initialized, builder.Key, builder.Released,
// builder.Advanced, builder.Signed, builder.Mirrored, builder.Enrolled, bundle.Verified; or
// {"error", "reason", "exit"}. Fields may be added to them, none is renamed or removed.
// Exit codes are those of package reason.
//
// The configuration is --config, else SANDO_CONFIG, else ./builder.toml, else
// /etc/sando/builder.toml. Passphrases of keys come from SANDO_KEY_PASSWORD, else from
// a prompt on the terminal.
package cli

import (
	"context"
	"log/slog"
	"slices"

	"github.com/spf13/cobra"

	"makenot.work/sando/builder"
	"makenot.work/sando/internal/cli"
)

// program is what the commands share.
type program struct {
	std    cli.Std
	config string
	json   bool
	quiet  bool
}

// Run runs builder with the arguments after its name, and returns the exit code.
func Run(ctx context.Context, args []string, std cli.Std) int {
	return cli.Main(ctx, Command(std), slices.Clip(args), std)
}

// Command returns the command tree, for Run and for the reference.
func Command(std cli.Std) *cobra.Command {
	p := &program{std: std}
	root := &cobra.Command{
		Use:   "builder",
		Short: "Turn a commit into a signed bundle, and say which tier runs which version",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		// The build runs as the same user, and the passphrase may be in our environment.
		PersistentPreRunE: func(*cobra.Command, []string) error { return builder.Conceal() },
	}
	root.PersistentFlags().StringVar(&p.config, "config", "", "configuration `FILE` (default: SANDO_CONFIG, else ./builder.toml, else /etc/sando/builder.toml)")
	root.PersistentFlags().BoolVarP(&p.quiet, "quiet", "q", false, "log warnings only, and show what the build prints only if it fails")
	root.AddCommand(p.initialize(), p.keygen(), p.release(), p.promote(), p.sign(), p.mirror(), p.verify(), p.enroll())
	return root
}

// reports adds --json to a command.
func (p *program) reports(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&p.json, "json", false, "print the result as a JSON object")
	return cmd
}

// show prints a result: as JSON, or as text wrote it.
func (p *program) show(v any, text func()) error {
	if p.json {
		return cli.JSON(p.std.Out, v)
	}
	text()
	return nil
}

func (p *program) log() *slog.Logger {
	level := slog.LevelInfo
	if p.quiet {
		level = slog.LevelWarn
	}
	return cli.NewLogger(p.std.Err, level)
}

// open returns the builder of the configuration.
func (p *program) open(ctx context.Context) (*builder.Builder, *builder.Config, error) {
	given := p.config
	if given == "" {
		given = p.std.Env("SANDO_CONFIG")
	}
	file, err := builder.FindConfig(given)
	if err != nil {
		return nil, nil, err
	}
	cfg, err := builder.LoadConfig(file, nil)
	if err != nil {
		return nil, nil, err
	}
	b, err := builder.New(ctx, cfg, p.options())
	return b, cfg, err
}

// options are what every builder talks to.
func (p *program) options() builder.Options {
	log := p.log()
	opt := builder.Options{
		Log:        log,
		Passphrase: func(ctx context.Context, file string) ([]byte, error) { return p.passphrase(ctx, log, file) },
		Progress: func(what string, total int64) builder.Progress {
			return cli.NewProgress(p.std.Err, what, total)
		},
	}
	if !p.quiet {
		opt.BuildOutput = p.std.Err
	}
	return opt
}
