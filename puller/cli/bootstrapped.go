package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/bootstrap"
	"makenot.work/sando/puller/doctor"
)

// finish looks how the node is now, and tells it: by the configuration in force, whatever the
// flags say.
func (p *program) finish(ctx context.Context, n *bootstrap.Node, r Bootstrapped, said []string) error {
	var failed error
	r.Update, failed = n.Update()
	r.Notes = append(r.Notes, said...)
	r.Checks = doctor.Examine(ctx, doctor.Options{File: filepath.Join(puller.ConfigDir, r.App+".toml")})
	empty, err := n.Empty()
	if err != nil {
		return halfway(ctx, err)
	}
	r.empty = r.empty || empty
	now, err := n.Status(ctx)
	if ctx.Err() != nil {
		return halfway(ctx, ctx.Err())
	}
	if err == nil { // else doctor says why
		r.Now, r.Tier = &now, now.Tier
	}
	return p.showBootstrapped(r, "done", failed, n.Otherwise())
}

// showBootstrapped tells what was done, how the update ended, as `puller` would, what doctor
// found, what runs now, and last what is otherwise than this command says. The error is of the
// last of them that is not well.
func (p *program) showBootstrapped(r Bootstrapped, did string, failed, otherwise error) error {
	var findings []doctor.Check
	for n, c := range r.Checks {
		r.Checks[n].Mend, r.Checks[n].Found = p.spelled(c.Mend, c.Command), literal(c.Found, p.flags())
		if !r.waits(c) && !r.told(c) {
			findings = append(findings, r.Checks[n])
		}
	}
	verdict := doctor.Verdict(findings)
	if p.json {
		if err := cli.JSON(p.std.Out, r); err != nil {
			return err
		}
	} else {
		p.writeBootstrapped(r, did, findings)
	}
	if failed != nil && verdict != nil && !p.json && strings.Contains(failed.Error(), findings[0].Found) {
		failed = nil // it stands there
	}
	if failed != nil && (p.json || otherwise != nil) {
		p.complain(failed)
	}
	switch {
	case otherwise != nil && p.json:
		p.complain(otherwise)
		return cli.Exit(reason.Of(otherwise))
	case otherwise != nil:
		return otherwise
	case failed != nil && p.json:
		return cli.Exit(reason.Of(failed))
	case failed != nil:
		return failed
	case verdict != nil:
		return cli.Exit(reason.Of(verdict))
	}
	return nil
}

func (p *program) writeBootstrapped(r Bootstrapped, did string, findings []doctor.Check) {
	out, waits := p.std.Out, slices.ContainsFunc(r.Checks, r.waits)
	writeChanges(out, r, did)
	if r.DryRun {
		fmt.Fprintln(out, "nothing was changed")
		return
	}
	if r.Update != nil && !waits {
		p.warnings(r.Update.Warnings)
		if r.Update.Reason.Exit() == 0 {
			fmt.Fprintf(out, "%s: %s\n", r.Update.Reason, cli.Printable(literal(r.Update.Message, p.flags())))
		}
	}
	writeFindings(out, findings, waits)
	if r.Now != nil {
		fmt.Fprintln(out, cli.Printable(literal(r.last(waits), p.flags())))
	}
}

// last says what runs now, or what is waited for.
func (r *Bootstrapped) last(waits bool) string {
	now, s := time.Now(), *r.Now
	switch {
	case waits:
		return fmt.Sprintf("%s on %s: %s; nothing was promoted to tier %q yet: `builder promote %[4]s` on the builder does, and this node follows by itself", s.App, s.Node, live(now, s), s.Tier)
	case s.Reason.Exit() == 1 && (s.Daemon != nil || s.Timer != ""):
		return headline(now, s) + "; the puller tries again by itself: `puller status`"
	}
	return headline(now, s)
}

// told reports whether the steps have said already that two workers are at work, and which of
// them this command is for.
func (r *Bootstrapped) told(c doctor.Check) bool {
	return c.Name == "deployer" && strings.Contains(c.Found, "are both at work") &&
		slices.ContainsFunc(r.Changes, func(p bootstrap.Planned) bool { return p.Kept && strings.Contains(p.What, "is at work as well") })
}

// writeFindings prints what doctor has to say, and of what is well only that it is.
func writeFindings(out io.Writer, checks []doctor.Check, waits bool) {
	var odd []doctor.Check
	for _, c := range checks {
		if c.Result == doctor.Failed || c.Result == doctor.Warning {
			odd = append(odd, c)
		}
	}
	writeChecks(out, odd)
	switch {
	case len(checks) == 0 || doctor.Verdict(checks) != nil:
	case waits:
		fmt.Fprintf(out, "doctor: %d checks, an update would work once one is promoted\n", len(checks))
	default:
		fmt.Fprintf(out, "doctor: %d checks, an update would work now\n", len(checks))
	}
}

// writeChanges lists what would be changed, with the content of what is new, unless it was
// told while it was done; then what is there and stays.
func writeChanges(out io.Writer, r Bootstrapped, did string) {
	var changed, kept bytes.Buffer
	for _, c := range r.Changes {
		if c.Kept {
			fmt.Fprintf(&kept, "  - %s\n%s", cli.Printable(c.What), indented(c.Diff))
			continue
		}
		fmt.Fprintf(&changed, "  - %s\n", cli.Printable(c.What))
		if _, content, ok := strings.Cut(c.Diff, " @@\n"); ok {
			io.WriteString(&changed, indented(strings.ReplaceAll("\n"+content, "\n+", "\n")[1:]))
		} else {
			io.WriteString(&changed, indented(c.Diff)) // of a file that is made from another one
		}
	}
	switch {
	case changed.Len() == 0:
		fmt.Fprintf(out, "%s: everything is there already: nothing to do\n", r.App)
	case did != "done":
		fmt.Fprintf(out, "%s: %s:\n%s", r.App, did, changed.String())
	}
	if kept.Len() > 0 {
		fmt.Fprintf(out, "%s: there already, and left as it is:\n%s", r.App, kept.String())
	}
}

func indented(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString("      " + cli.Printable(strings.TrimSuffix(line, "\n")) + "\n")
	}
	return out.String()
}
