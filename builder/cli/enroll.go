package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"makenot.work/sando/builder"
	"makenot.work/sando/builder/enroll"
	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
)

func (p *program) enroll() *cobra.Command {
	var req builder.EnrollRequest
	cmd := &cobra.Command{
		Use:   "enroll NODE --tier TIER [flags] [-- FLAGS FOR puller bootstrap…]",
		Short: "Print the command line that makes a node of a machine",
		Long: `Print one line that makes a node of a machine when it is run there as root: where bundles
and channels are, the tier, the fingerprint of the newest trust, and how far the tier's
channel has come. No credential is in it: the node asks for its own. Notes for whoever
passes the line on go to standard error.

Behind -- stand flags of puller bootstrap, whose --help lists them. They go to the end of
the line, and count where it says the same flag: --exec and --health for an app that has no
unit there yet, --adopt for one that runs there already.

With --record, fleet.toml in the channel repo names the node, too.`,
		Example: `  builder enroll web-1 --tier a
  builder enroll web-1 --tier a -- --exec '/opt/mnw/current/mnw serve' --health http://127.0.0.1:3000/api/health
  builder enroll web-1 --tier a --record -- --adopt --dry-run`,
	}
	cmd.Flags().StringVar(&req.Tier, "tier", "", "the `TIER` that the node follows")
	cmd.Flags().BoolVar(&req.Record, "record", false, "enter the node in fleet.toml: commit and push")
	cmd.Flags().StringVar(&req.Storage, "storage", "", "`URL` of the bucket for nodes (default: storage.url)")
	cmd.Flags().StringVar(&req.Channels, "channels", "", "`URL` of the channel repo for nodes, or bucket: they follow its mirror there (default: channels.repo)")
	if err := cmd.MarkFlagRequired("tier"); err != nil {
		panic(err) // the flag is defined four lines above
	}
	if err := cmd.RegisterFlagCompletionFunc("tier", p.tiers); err != nil {
		panic(err)
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if errors.As(err, &unknown) {
			if _, there := enroll.Flags()[unknown.GetSpecifiedName()]; there {
				return fmt.Errorf("%w here: it is one of puller bootstrap, and those stand behind --", err)
			}
		}
		return err
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		names := cmd.ArgsLenAtDash()
		if names < 0 {
			names = len(args)
		}
		if names != 1 {
			return reason.Errorf(reason.Config, "want one NODE, got %d; flags for puller bootstrap stand behind --", names)
		}
		req.Node, req.Rest = args[0], args[1:]
		b, _, err := p.open(cmd.Context())
		if err != nil {
			return err
		}
		done, err := b.Enroll(cmd.Context(), req)
		if err != nil {
			return err
		}
		return p.show(done, func() { p.printEnrolled(done) })
	}
	return p.reports(cmd)
}

// printEnrolled keeps everything but the line from standard output, which may be a pipe.
func (p *program) printEnrolled(e *builder.Enrolled) {
	for _, note := range e.Notes {
		fmt.Fprintf(p.std.Err, "builder: note: %s\n", cli.Printable(note))
	}
	switch e.Outcome {
	case builder.OutcomeRecorded:
		had := ""
		if e.Previous != "" {
			had = ", and had it in tier " + e.Previous
		}
		fmt.Fprintf(p.std.Err, "builder: fleet.toml has %s in tier %s now%s\n", e.Node, e.Tier, had)
	case builder.OutcomeAlready:
		fmt.Fprintf(p.std.Err, "builder: fleet.toml had %s in tier %s already\n", e.Node, e.Tier)
	}
	p.printf("%s\n", e.Line)
}

// maxLook is how long a person who asks for completion waits.
const maxLook = 3 * time.Second

// tiers completes the name of a tier.
func (p *program) tiers(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), maxLook)
	defer cancel()
	p.quiet = true
	b, _, err := p.open(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, err := b.Tiers(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// oneTier completes an argument that is the only one.
func (p *program) oneTier(cmd *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return p.tiers(cmd, args, begun)
}
