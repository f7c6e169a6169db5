package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"makenot.work/sando/internal/reason"
)

// prepare makes cmd, and every command below it, judge its command line in our words, and
// note when its own code is reached: what comes before that is an error of usage.
func prepare(cmd *cobra.Command, entered *bool) {
	judge := cmd.Args
	if judge == nil {
		judge = cobra.ArbitraryArgs
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := judge(c, args); err != nil {
			return misfit(c, args, judge)
		}
		return lacking(c)
	}
	enter := func(run func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
		if run == nil {
			return nil
		}
		return func(c *cobra.Command, args []string) error {
			*entered = true
			return run(c, args)
		}
	}
	cmd.PersistentPreRunE, cmd.RunE = enter(cmd.PersistentPreRunE), enter(cmd.RunE)
	for _, sub := range cmd.Commands() {
		prepare(sub, entered)
	}
}

// usage is how a command is called, as its help begins.
func usage(cmd *cobra.Command) string {
	return "usage: " + strings.TrimSuffix(cmd.CommandPath(), cmd.Name()) + cmd.Use
}

// misfit says what is wrong with arguments that judge refuses.
func misfit(cmd *cobra.Command, args []string, judge cobra.PositionalArgs) error {
	if cmd.HasSubCommands() {
		return unknown(cmd, args[0])
	}
	for n := range args {
		if judge(cmd, args[:n]) == nil {
			return fmt.Errorf("argument %q is one too many: %s", args[n], usage(cmd))
		}
	}
	return fmt.Errorf("an argument is missing: %s", usage(cmd))
}

// unknown says that cmd has no command of this name.
func unknown(cmd *cobra.Command, name string) error {
	cmd.SuggestionsMinimumDistance = 2
	err := fmt.Errorf("unknown command %q for %q", name, cmd.CommandPath())
	if near := cmd.SuggestionsFor(name); len(near) > 0 {
		err = fmt.Errorf("%w: there is %s", err, strings.Join(near, " and "))
	}
	return err
}

// lacking says which flags a command cannot do without, and which it cannot do together.
func lacking(cmd *cobra.Command) error {
	var missing []string
	var given []*pflag.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		switch required := f.Annotations[cobra.BashCompOneRequiredFlag]; {
		case f.Changed:
			given = append(given, f)
		case slices.Contains(required, "true"):
			missing = append(missing, "--"+f.Name)
		}
	})
	switch len(missing) {
	case 0:
	case 1:
		return fmt.Errorf("%s is missing: %s", missing[0], usage(cmd))
	default:
		return fmt.Errorf("%s are missing: %s", strings.Join(missing, " and "), usage(cmd))
	}
	const exclusive = "cobra_annotation_mutually_exclusive" // cobra has no exported name for it
	for i, f := range given {
		for _, g := range given[i+1:] {
			if slices.ContainsFunc(f.Annotations[exclusive], func(group string) bool { return slices.Contains(g.Annotations[exclusive], group) }) {
				return fmt.Errorf("--%s and --%s exclude each other", f.Name, g.Name)
			}
		}
	}
	return nil
}

// plain says what is wrong with the value of a flag in our words.
func plain(err error) error {
	var without *pflag.ValueRequiredError
	var wrong *pflag.InvalidValueError
	switch {
	case errors.As(err, &without):
		return fmt.Errorf("--%s wants a value: %s", without.GetFlag().Name, value(without.GetFlag()))
	case errors.As(err, &wrong):
		return fmt.Errorf("--%s: %q is not %s", wrong.GetFlag().Name, wrong.GetValue(), value(wrong.GetFlag()))
	}
	return err
}

// value says what a flag takes.
func value(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		return "true or false"
	case "int", "int64":
		return "a whole number"
	case "intSlice":
		return "a list of whole numbers, such as 2,3"
	}
	name, _ := pflag.UnquoteUsage(f)
	return name
}

// help is the command of that name. The one that cobra brings is content with any name.
func help() *cobra.Command {
	return &cobra.Command{
		Use:   "help [COMMAND]",
		Short: "Help for any command",
		ValidArgsFunction: func(c *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			cmd, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var names []string
			for _, sub := range cmd.Commands() {
				if sub.IsAvailableCommand() && strings.HasPrefix(sub.Name(), begun) {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			cmd, rest, err := c.Root().Find(args)
			if err != nil {
				return err
			}
			if len(rest) > 0 {
				return reason.Errorf(reason.Config, "%w; see %q", unknown(cmd, rest[0]), cmd.CommandPath()+" --help")
			}
			cmd.InitDefaultHelpFlag()
			return cmd.Help()
		},
	}
}
