package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/doctor"
)

func (p *program) doctor() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Look at everything that an update needs, and say what mends it",
		Long: `Look at everything that an update of this node needs. What failed comes first, each with what
mends it: a command to paste, or a sentence. Nothing is changed, and a daemon goes on meanwhile.

It exits 0 when an update would work now; else with the code of what failed first.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			file, flags, err := p.source()
			if err != nil {
				return err
			}
			checks := doctor.Examine(cmd.Context(), doctor.Options{File: file, Flags: flags})
			if err := cmd.Context().Err(); err != nil {
				return err
			}
			return p.showChecks(checks)
		},
	}
}

// showChecks prints what doctor found, and returns what it exits with.
func (p *program) showChecks(checks []doctor.Check) error {
	for n, c := range checks {
		checks[n].Mend = p.spelled(c.Mend, c.Command)
		checks[n].Found = literal(c.Found, p.flags())
	}
	if p.json {
		if err := cli.JSON(p.std.Out, checks); err != nil {
			return err
		}
	} else {
		writeChecks(p.std.Out, checks)
	}
	if err := doctor.Verdict(checks); err != nil {
		return cli.Exit(reason.Of(err))
	}
	return nil
}

// spelled puts what finds the configuration into the commands of a mend.
func (p *program) spelled(mend string, command bool) string {
	if command {
		return strings.Trim(literal("`"+mend+"`", p.flags()), "`")
	}
	return literal(mend, p.flags())
}

// writeChecks prints what failed, each with its mend in the next line, then the rest.
func writeChecks(out io.Writer, checks []doctor.Check) {
	line := func(s string) string { return cli.Printable(strings.NewReplacer("\n", " ", "\t", " ").Replace(s)) }
	for _, c := range checks {
		fmt.Fprintf(out, "%-8s %s: %s\n", c.Result, c.Name, line(c.Found))
		if c.Mend != "" {
			fmt.Fprintf(out, "  mend: %s\n", line(c.Mend))
		}
	}
}
