package backup

import (
	"bytes"
	"context"
	_ "embed" // for back.sh.in
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

//go:embed back.sh.in
var template string

// never are files that no script puts back as a whole: users may have been added since.
func never(path string) bool {
	return slices.Contains([]string{"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"}, path)
}

// script returns back.sh. Each value is quoted for the shell, or stands in a comment, where no
// line end may be.
func (d *Dir) script(n Needs) string {
	var restore, others, differ, state strings.Builder
	for _, f := range d.Files {
		switch {
		case slices.Contains(n.Restore, f.Path):
			fmt.Fprintf(&restore, "restore %s\n", quote(f.Path))
		case never(f.Path):
			fmt.Fprintf(&others, "\tdiffers %s\n", quote(f.Path))
			fmt.Fprintf(&differ, "\tdiffers %s\n", quote(f.Path))
		default:
			fmt.Fprintf(&others, "\trestore %s\n", quote(f.Path))
			fmt.Fprintf(&differ, "\tdiffers %s\n", quote(f.Path))
		}
	}
	for _, s := range n.State {
		fmt.Fprintf(&state, "echo %s\n", quote(fmt.Sprintf("what was written to %s since the switch is NOT in %s: that is as it was at the switch", s[1], s[0])))
	}
	enabled := "no"
	if d.Enabled {
		enabled = "yes"
	}
	return strings.NewReplacer(
		"{at}", d.At.Format(canon.TimeLayout), "{dir}", quote(d.Path), "{script}", quote(d.Script()),
		"{app}", d.App, "{new_unit}", quote(n.Unit), "{old_unit}", quote(d.OldUnit), "{old_root}", quote(d.OldRoot),
		"{stays}", quote(fmt.Sprintf("%s and /etc/sando/%s.toml stay; the adoption can be run again", n.Root, d.App)),
		"{enabled}", enabled, "{restore}\n", restore.String(), "{others}\n", others.String(),
		"{differ}\n", differ.String(), "{state}\n", state.String(),
	).Replace(template)
}

// quote writes a word for a shell.
func quote(word string) string {
	if word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_./@%+=:,-") == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

// Test reports what would keep the script from going back: of its syntax, of the files that it
// needs, and of what is quoted in err.
func (d *Dir) Test(ctx context.Context) error {
	if err := d.Check(); err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, "sh", "-n", d.Script()).CombinedOutput(); err != nil {
		return reason.Errorf(reason.Format, "%s: %w: %s", d.Script(), err, bytes.TrimSpace(out))
	}
	for _, program := range []string{"sha256sum", "systemctl", "cmp", "cp", "mv", "readlink", "sed"} {
		if _, err := exec.LookPath(program); err != nil {
			return reason.Errorf(reason.Config, "%s needs a program: %w", d.Script(), err)
		}
	}
	if info, err := os.Stat(d.OldRoot); err != nil || !info.IsDir() {
		return reason.Errorf(reason.Config, "%s goes back to %s, which is not there", d.Script(), d.OldRoot)
	}
	return nil
}
