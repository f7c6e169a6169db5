package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/oldroot"
)

// oldRoot adds to doctor the search for what still names the directory of a former install.
func (p *program) oldRoot(doctor *cobra.Command) *cobra.Command {
	var old string
	doctor.Flags().StringVar(&old, "old-root", "", "look instead for what still names `DIR`, where the app was installed formerly")
	examine := doctor.RunE
	doctor.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("old-root") {
			return examine(cmd, args)
		}
		o, err := p.oldRootOptions(old)
		if err != nil {
			return err
		}
		if _, gone := os.Lstat(old); errors.Is(gone, fs.ErrNotExist) {
			p.warnings([]string{fmt.Sprintf("there is no %s on this machine; what names it is looked for all the same", old)})
		}
		report, err := oldroot.Search(cmd.Context(), o)
		if err != nil {
			return err
		}
		if p.json {
			err = cli.JSON(p.std.Out, report)
		} else {
			p.print(func(w io.Writer) { writeOldRoot(w, report) })
		}
		if err != nil {
			return err
		}
		return cli.Exit(report.Reason())
	}
	return doctor
}

// oldRootOptions says what to look for, and where the app is. A machine whose configuration is
// not good, or that has none, is searched all the same; then the app is where it is by default.
func (p *program) oldRootOptions(old string) (oldroot.Options, error) {
	o := oldroot.Options{Old: old, App: p.app}
	cfg, err := p.load()
	if err == nil {
		o.App, o.Root, o.EnvFiles = cfg.App, cfg.Root, cfg.Env.Files
		return o, nil
	}
	if p.config != "" || len(p.set) > 0 {
		return o, err
	}
	switch file, _, fault := p.source(); {
	case fault != nil:
		p.warnings([]string{fault.Error() + "; until then the directories of the app itself are left out"})
	case o.App == "":
		return o, err
	default:
		if _, gone := os.Lstat(file); !errors.Is(gone, fs.ErrNotExist) {
			p.warnings([]string{err.Error() + "; it is taken that the app is in /opt/" + o.App})
		}
	}
	return o, nil
}

func writeOldRoot(w io.Writer, r *oldroot.Report) {
	list := func(refs []oldroot.Reference) {
		for _, ref := range refs {
			what := ref.What
			if ref.Aside != "" {
				what += "; " + ref.Aside
			}
			fmt.Fprintf(w, "  %s: %s\n      %s\n", ref.Place(), what, ref.Text)
		}
	}
	switch n := len(r.References); n {
	case 0:
		fmt.Fprintf(w, "nothing that was looked at needs %s\n", r.Old)
	case 1:
		fmt.Fprintf(w, "%s is still named in 1 place:\n", r.Old)
	default:
		fmt.Fprintf(w, "%s is still named in %d places:\n", r.Old, n)
	}
	list(r.References)
	if len(r.Asides) > 0 {
		fmt.Fprintln(w, "named where nothing acts on it, so these do not count:")
		list(r.Asides)
	}
	if len(r.Unread) > 0 {
		fmt.Fprintln(w, "not looked at:")
	}
	for _, u := range r.Unread {
		fmt.Fprintf(w, "  %s: %s\n", u.File, u.Why)
	}
	switch r.Reason() {
	case reason.Policy:
		fmt.Fprintf(w, "let that name something else, then look again: `puller doctor --old-root %s`\n", quoted(r.Old))
	case reason.IO:
		fmt.Fprintf(w, "look again as root, or at those places yourself, before you remove %s\n", r.Old)
	}
}
