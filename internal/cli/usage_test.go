package cli

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// fleet is a program with one command of each kind; ran counts the commands that ran.
func fleet(ran *int) *cobra.Command {
	run := func(*cobra.Command, []string) error { *ran++; return nil }
	root := &cobra.Command{Use: "builder", Args: cobra.NoArgs, RunE: run}
	promote := &cobra.Command{Use: "promote TIER [--version V | --retry] [--x X]", Args: cobra.ExactArgs(1), RunE: run}
	promote.Flags().String("version", "", "a `VERSION`")
	promote.Flags().Bool("retry", false, "")
	promote.Flags().Int("times", 1, "")
	promote.MarkFlagsMutuallyExclusive("version", "retry")
	sign := &cobra.Command{Use: "init [DIR] --app NAME --key FILE", Args: cobra.MaximumNArgs(1), RunE: run}
	for _, name := range []string{"app", "key"} {
		sign.Flags().String(name, "", "")
		if err := sign.MarkFlagRequired(name); err != nil {
			panic(err)
		}
	}
	root.AddCommand(promote, sign, &cobra.Command{Use: "mirror [TIER…]", RunE: run})
	return root
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"promote":                         `an argument is missing: usage: builder promote TIER [--version V | --retry] [--x X]; see "builder promote --help"`,
		"promote a b":                     `argument "b" is one too many: usage: builder promote TIER [--version V | --retry] [--x X]; see "builder promote --help"`,
		"promote a --version":             `--version wants a value: VERSION; see "builder promote --help"`,
		"promote a --retry=often":         `--retry: "often" is not true or false; see "builder promote --help"`,
		"promote a --times x":             `--times: "x" is not a whole number; see "builder promote --help"`,
		"promote a --retry --version 1.0": `--retry and --version exclude each other; see "builder promote --help"`,
		"init --key x":                    `--app is missing: usage: builder init [DIR] --app NAME --key FILE; see "builder init --help"`,
		"init here":                       `--app and --key are missing: usage: builder init [DIR] --app NAME --key FILE; see "builder init --help"`,
		"promoet a":                       `unknown command "promoet" for "builder": there is promote; see "builder --help"`,
		"x":                               `unknown command "x" for "builder"; see "builder --help"`,
		"help x":                          `unknown command "x" for "builder"; see "builder --help"`,
		"help promote x":                  `unknown command "x" for "builder promote"; see "builder promote --help"`,
		"-v":                              `unknown shorthand flag: 'v' in -v; see "builder --help"`,
	} {
		var out, errs bytes.Buffer
		ran := 0
		exit := Main(context.Background(), fleet(&ran), strings.Fields(args), Std{Out: &out, Err: &errs})
		if exit != 2 || errs.String() != "builder: config: "+want+"\n" || out.Len() != 0 || ran != 0 {
			t.Errorf("%s: exit %d, %q, stdout %q, ran %d; want 2, %q", args, exit, errs.String(), out.String(), ran, want)
		}
	}
	for _, args := range []string{"promote a --retry", "init --app x --key y", "init here --app x --key y", "mirror", "mirror a b"} {
		var errs bytes.Buffer
		ran := 0
		if exit := Main(context.Background(), fleet(&ran), strings.Fields(args), Std{Out: &errs, Err: &errs}); exit != 0 || ran != 1 {
			t.Errorf("%s: exit %d, ran %d: %s", args, exit, ran, errs.String())
		}
	}
}

func TestHelp(t *testing.T) {
	for args, want := range map[string]string{
		"help":         "  promote ",
		"help promote": "builder promote TIER",
		"--help":       "  promote ",
	} {
		var out, errs bytes.Buffer
		ran := 0
		if exit := Main(context.Background(), fleet(&ran), strings.Fields(args), Std{Out: &out, Err: &errs}); exit != 0 || !strings.Contains(out.String(), want) || errs.Len() != 0 {
			t.Errorf("%s: exit %d, %q, %q; want %q", args, exit, out.String(), errs.String(), want)
		}
	}
}

// What goes wrong before a command's own code is not always in the command line.
func TestNoUsage(t *testing.T) {
	var out, errs bytes.Buffer
	ran := 0
	root := fleet(&ran)
	root.PersistentPreRunE = func(*cobra.Command, []string) error { return errors.New("conceal: operation not permitted") }
	exit := Main(context.Background(), root, []string{"mirror"}, Std{Out: &out, Err: &errs})
	if want := "builder: io: conceal: operation not permitted\n"; exit != 1 || errs.String() != want || ran != 0 {
		t.Errorf("exit %d, %q; want 1, %q", exit, errs.String(), want)
	}
}
