package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
	"makenot.work/sando/systemd/appunit"
)

// unit prints the systemd unit of the app, for a person to install.
func (p *program) unit() *cobra.Command {
	var s appunit.Spec
	var mode string
	cmd := &cobra.Command{
		Use:   "unit --exec COMMAND --user USER",
		Short: "Print a systemd unit file for the app",
		Long: `Print a unit file that runs the app through ` + "`current`" + `, in a sandbox that hardly any program misses.
It changes nothing: redirect it to a file in /etc/systemd/system, read it, make it yours.

Name, root, unit and env files of the app come from the configuration. With --app NAME and no
/etc/sando/NAME.toml yet, they are NAME, /opt/NAME and NAME.service.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if p.json {
				return reason.Errorf(reason.Config, "--json does not go with unit, which prints a unit file")
			}
			if err := p.complete(&s); err != nil {
				return err
			}
			n, err := strconv.ParseUint(mode, 8, 32)
			if err != nil {
				return reason.Errorf(reason.Config, "--state-directory-mode: %q is not an octal number", mode)
			}
			s.StateMode = fs.FileMode(n)
			text, err := s.File()
			if err != nil {
				return reason.Errorf(reason.Config, "unit of the app: %w", err)
			}
			_, err = fmt.Fprint(p.std.Out, text)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&s.Exec, "exec", "", "`COMMAND` that runs the app, as in ExecStart=, such as \"/opt/mnw/current/mnw serve\"")
	flags.StringVar(&s.User, "user", "", "`USER` that the app runs as")
	flags.StringVar(&s.Group, "group", "", "`GROUP` that it runs as (default: the user's)")
	flags.StringVar(&s.Unit, "unit", "", "`NAME` of the unit (default: service.unit, else APP.service)")
	flags.StringVar(&s.Root, "root", "", "`DIR` that the releases are in (default: root, else /opt/APP)")
	flags.StringVar(&s.Type, "type", appunit.Types()[0], "`TYPE` of the unit: notify if the app tells systemd when it is ready")
	flags.StringArrayVar(&s.EnvFiles, "env-file", nil, "`FILE` with its environment (repeatable; default: env.files)")
	flags.StringArrayVar(&s.ReadWrite, "read-write", nil, "`PATH` that it may write to (repeatable)")
	flags.StringVar(&s.State, "state-directory", "", "`NAME` of a directory in /var/lib that systemd makes for it")
	flags.StringVar(&mode, "state-directory-mode", "0750", "its `MODE`, which systemd sets at each start")
	flags.IntSliceVar(&s.StopStatus, "restart-prevent-exit-status", nil, "exit `STATUS` by which the app says that starting it again is of no use; a Go program that panics ends with 2 (default: none)")
	if err := errors.Join(cmd.MarkFlagRequired("exec"), cmd.MarkFlagRequired("user"),
		cmd.RegisterFlagCompletionFunc("type", cobra.FixedCompletions(appunit.Types(), cobra.ShellCompDirectiveNoFileComp))); err != nil {
		panic(err) // they are defined above
	}
	return cmd
}

// complete fills in what the configuration knows of the app, where there is one.
func (p *program) complete(s *appunit.Spec) error {
	if p.app != "" && p.config == "" && len(p.set) == 0 {
		file, err := puller.FindConfig("", p.app, puller.ConfigDir)
		if err != nil {
			return err
		}
		if _, err := os.Lstat(file); errors.Is(err, fs.ErrNotExist) {
			s.App = p.app
			return nil
		}
	}
	cfg, err := p.load()
	if err != nil {
		return err
	}
	s.App = cfg.App
	if s.Root == "" {
		s.Root = cfg.Root
	}
	if s.Unit == "" {
		s.Unit = cfg.Service.Unit
	}
	if s.EnvFiles == nil {
		s.EnvFiles = cfg.Env.Files
	}
	return nil
}
