package cli

import (
	"context"
	"log/slog"
	"time"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

// pinFlags are those that go with --pin.
type pinFlags struct {
	pin, until, why string
	force           bool
}

func (f *pinFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.pin, "pin", "", "run exactly `VERSION[@sha256:DIGEST]` and hold it, whatever the channel says")
	cmd.Flags().StringVar(&f.until, "until", "", "with --pin: until `WHEN` it holds: 2h, 3d, or 2006-01-02T15:04:05Z")
	cmd.Flags().BoolVar(&f.force, "force", false, "with --pin: ignore health, hooks, the audit of the environment, and the revocation of what is not on disk; never signature or content")
	cmd.Flags().StringVar(&f.why, "reason", "", "with --pin: `TEXT` that status shows")
}

// check refuses flags that mean nothing without --pin.
func (f *pinFlags) check() error {
	if f.pin != "" {
		return nil
	}
	for _, flag := range []struct {
		name  string
		given bool
	}{{"until", f.until != ""}, {"force", f.force}, {"reason", f.why != ""}} {
		if flag.given {
			return reason.Errorf(reason.Config, "--%s goes with --pin", flag.name)
		}
	}
	return nil
}

func (f *pinFlags) order(now time.Time) (o puller.Order, err error) {
	o = puller.Order{Force: f.force, Reason: f.why}
	if o.Version, o.Manifest, err = puller.ParseOrder(f.pin); err != nil || f.until == "" {
		return o, err
	}
	o.Until, err = puller.ParseUntil(f.until, now)
	return o, err
}

func (p *program) unblock() *cobra.Command {
	return &cobra.Command{
		Use:   "unblock VERSION",
		Short: "Forget that a version failed here, and do a cycle",
		Long: `Forget every failure of a version on this node, whatever the attempt, and do a cycle: if the
channel or a pin still names it, it is tried once more. For all nodes of a tier at once:
"builder promote TIER --retry".`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: p.offer((*puller.Puller).Failed),
		RunE: func(cmd *cobra.Command, args []string) error {
			pl, err := p.open(cmd.Context())
			if reason.Of(err) == reason.Config {
				return p.refused(err, pinFlags{}, false)
			}
			if err != nil {
				return err
			}
			return p.showResult(pl.Unblock(cmd.Context(), args[0], puller.Options{Tell: p.teller()}))
		},
	}
}

// refused answers where the configuration is refused for cause. Orders are written all the
// same: the daemon goes on with the configuration of before, and this is how it is told to
// go back at night.
func (p *program) refused(cause error, pin pinFlags, unpin bool) error {
	file, flags, err := p.source()
	if err != nil || len(flags) > 0 { // what --set says is not in the daemon's way
		return cause
	}
	switch {
	case pin.pin != "":
		order, err := pin.order(time.Now())
		if err != nil {
			return err
		}
		return p.showResult(puller.PinDespite(file, flags, cause, order))
	case unpin:
		return p.showResult(puller.UnpinDespite(file, flags, cause))
	}
	return puller.Refused(file, flags, cause)
}

// offer completes with what list returns, once.
func (p *program) offer(list func(*puller.Puller) []string) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		cfg, err := p.load()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx := cmd.Context()
		if ctx == nil {
			ctx = context.Background()
		}
		pl, err := puller.New(ctx, cfg, slog.New(slog.DiscardHandler), nil)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return list(pl), cobra.ShellCompDirectiveNoFileComp
	}
}

// pinned is what status says of an order.
func pinned(now time.Time, p *node.Pin) string {
	text := ""
	if !p.Until.IsZero() {
		text += " until " + moment(now, p.Until)
	}
	if p.Force {
		text += ", by force"
	}
	if p.Reason != "" {
		text += ": " + p.Reason
	}
	return text
}
