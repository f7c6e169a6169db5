package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/systemd"
)

const unitDir = "/etc/systemd/system"

// unitDirs are where unit files are found, first come first.
var unitDirs = [...]string{unitDir, "/run/systemd/system", "/usr/local/lib/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"}

// unitFile returns where a unit is, or is to be.
func unitFile(name string) string {
	for _, dir := range unitDirs {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			return filepath.Join(dir, name)
		}
	}
	return filepath.Join(unitDir, name)
}

// unitFiles returns the unit files that are to be there: those of the puller, what its
// sandbox needs here, and that of the app.
func (n *Node) unitFiles() (shipped, own []part, err error) {
	entries, err := fs.ReadDir(systemd.Units(), ".")
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		text, err := fs.ReadFile(systemd.Units(), e.Name())
		if err != nil {
			return nil, nil, err
		}
		path := unitFile(e.Name())
		shipped = append(shipped, file{path: path, want: text, perm: 0o644, by: byRoot(), what: "unit",
			hint: fmt.Sprintf("to have this program's: `rm %s`, and run this again", path)})
	}
	if n.o.Root != "/opt/"+n.o.App {
		text := fmt.Sprintf("# Where the releases of %s are: the sandbox lets the puller write there.\n[Service]\nReadWritePaths=%s\n", n.o.App, strings.ReplaceAll(n.o.Root, "%", "%%"))
		for _, unit := range []string{"puller@" + n.o.App, "puller-once@" + n.o.App} {
			path := filepath.Join(unitDir, unit+".service.d", "root.conf")
			shipped = append(shipped, file{path: path, want: []byte(text), perm: 0o644, by: byRoot(), what: "setting", show: true,
				hint: "it has to name " + n.o.Root + " in ReadWritePaths="})
		}
	}
	if n.unitText != "" {
		path := unitFile(n.o.Unit)
		own = append(own, file{path: path, want: []byte(n.unitText), perm: 0o644, by: byRoot(), what: "unit", show: true, diff: diffUnit,
			hint: fmt.Sprintf("it counts as it is; to have this one: `mv %s %[1]s.old`, and run this again", path)})
	}
	return shipped, own, nil
}

// unread reports whether systemd has to read unit files again.
func (n *Node) unread(ctx context.Context) (bool, error) {
	shipped, own, err := n.unitFiles()
	if err != nil {
		return false, err
	}
	for _, p := range append(shipped, own...) {
		if _, err := os.Lstat(p.(file).path); errors.Is(err, fs.ErrNotExist) {
			return true, nil
		}
	}
	for _, unit := range []string{n.o.Unit, "puller@" + n.o.App + ".service", "puller-once@" + n.o.App + ".service", "puller-once@" + n.o.App + ".timer"} {
		f, err := n.conn.Facts(ctx, unit)
		if err != nil {
			return false, err
		}
		if f.NeedReload || f.LoadState == "not-found" {
			return true, nil
		}
	}
	return false, nil
}

func (n *Node) reload() Step {
	return Step{
		Name: "systemd",
		Look: func(ctx context.Context) ([]Change, error) {
			if unread, err := n.unread(ctx); err != nil || !unread {
				return nil, err
			}
			return []Change{{What: "have systemd read the unit files (daemon-reload)"}}, nil
		},
		Do: func(ctx context.Context) error { return n.conn.Reload(ctx) },
	}
}

// enable makes a unit start with the machine.
func (n *Node) enable(unit string) Step {
	return Step{
		Name: "start of " + unit + " with the machine",
		Look: func(ctx context.Context) ([]Change, error) {
			f, err := n.conn.Files(ctx, unit)
			if err != nil {
				return nil, err
			}
			switch f.Enabled {
			case "", "disabled", "invalid": // "": its file is yet to be written
				return []Change{{What: "enable " + unit}}, nil
			case "static":
				return []Change{{Kept: true, What: unit + " has no [Install] section, so it does not start with the machine unless something else asks for it"}}, nil
			case "masked", "masked-runtime":
				return nil, reason.Wrap(reason.Config, &systemd.UnitError{Unit: unit, LoadState: "masked"})
			}
			return nil, nil
		},
		Do: func(ctx context.Context) error { return n.conn.Enable(ctx, unit) },
	}
}

// start starts the puller.
func (n *Node) start() Step {
	unit, other := n.o.worker(), n.o.otherWorker()
	return Step{
		Name: unit,
		Look: func(ctx context.Context) (changes []Change, err error) {
			at, err := n.atWork(ctx, other)
			if err != nil {
				return nil, err
			}
			if at {
				changes = append(changes, Change{Kept: true, What: fmt.Sprintf("keep %s, which is at work as well; one of the two is enough, and this command is for %s: `systemctl disable --now %[1]s`", other, unit)})
			}
			at, err = n.atWork(ctx, unit)
			if err != nil || at {
				return changes, err
			}
			return append(changes, Change{What: "start " + unit}), nil
		},
		Do: func(ctx context.Context) error { return n.conn.Start(ctx, unit) },
	}
}

// atWork reports whether a unit runs, or is about to.
func (n *Node) atWork(ctx context.Context, unit string) (bool, error) {
	f, err := n.conn.Facts(ctx, unit)
	return f.ActiveState == "active" || f.ActiveState == "reloading" || f.ActiveState == "activating", err
}
