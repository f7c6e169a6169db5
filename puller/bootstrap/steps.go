package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// Prepare returns the steps up to where an update can be done, in order. Each has a name of
// its own.
func (n *Node) Prepare() ([]Step, error) {
	shipped, own, err := n.unitFiles()
	if err != nil {
		return nil, err
	}
	app := n.byUser()
	group := owner{"root", app.group, func(ctx context.Context) (int, int, error) {
		_, gid, err := app.ids(ctx)
		return 0, gid, err
	}}
	steps := []Step{n.program()}
	if n.user != "" && n.user != "root" {
		steps = append(steps, n.serviceUser())
	}
	steps = append(steps,
		step("directory of the releases", directory{n.o.Root, 0o755, byRoot(), true}),
		step("directories of Sando", directory{puller.ConfigDir, 0o755, byRoot(), true}, directory{n.o.sandoDir(), 0o700, byRoot(), true}))
	if n.o.EnvFile != "" {
		env := file{path: n.o.EnvFile, want: n.env, perm: 0o640, by: group, what: "env file", diff: DiffEnv, quiet: n.o.EnvTemplate == "",
			hint: "values are not shown"}
		var parts []part
		if n.o.EnvFile == "/etc/"+n.o.App+"/"+n.o.App+".env" {
			parts = append(parts, directory{"/etc/" + n.o.App, 0o750, group, false})
		}
		if !n.formerEnv {
			parts = append(parts, env)
		}
		steps = append(steps, step("environment of the app", parts...))
	}
	if n.user != "" {
		steps = append(steps, step("state of the app", directory{n.o.stateDir(), n.o.StateMode, app, false}))
	}
	steps = append(steps, n.anchorStep())
	var typed []part
	n.creds.each(func(key string, c *credential) {
		if c.typed != nil || c.asked {
			typed = append(typed, file{path: c.file, want: c.typed, perm: 0o600, by: byRoot(), what: key, quiet: true})
		}
	})
	steps = append(steps, step("credentials", typed...), step("configuration", file{path: n.o.configFile(), want: []byte(n.configText), perm: 0o644, by: byRoot(), what: "configuration", show: true,
		hint: "it counts as it is: edit it, or move it away and run this again"}))
	steps = append(steps, step("units of the puller", shipped...), step("unit of the app", own...), n.reload())
	if n.former {
		return steps, nil
	}
	return append(steps, n.enable(n.o.Unit), n.enable(n.o.worker())), nil
}

// Live returns the steps by which the node begins to follow its channel: an update, and the
// start of the puller.
func (n *Node) Live() []Step {
	if n.former { // the switch was the first update
		return []Step{n.enable(n.o.worker()), n.start()}
	}
	return []Step{n.cycle(), n.start()}
}

// byUser is the app's user, who may not be there yet.
func (n *Node) byUser() owner {
	switch {
	case n.user == "" || n.user == "root":
		return byRoot()
	}
	o := owner{n.user, n.user, func(ctx context.Context) (int, int, error) {
		a, err := lookUp(ctx, n.user)
		if err == nil && a == nil {
			err = fmt.Errorf("user %q is not there", n.user)
		}
		if err != nil {
			return 0, 0, err
		}
		return a.uid, a.gid, nil
	}}
	if a, err := lookUp(context.Background(), n.user); err == nil && a != nil {
		o.user, o.group = a.name, a.group
	}
	return o
}

// installed is where the units expect the program.
const installed = "/usr/local/bin/puller"

// program puts this program where the units expect it.
func (n *Node) program() Step {
	const self = "/proc/self/exe"
	return Step{
		Name: "program",
		Look: func(context.Context) ([]Change, error) {
			changes, err := leftovers(installed)
			if err != nil {
				return nil, err
			}
			same, err := sameFile(installed, self)
			switch {
			case errors.Is(err, fs.ErrNotExist):
				return append(changes, Change{What: "copy this program to " + installed + ", root:root 0755"}), nil
			case err != nil:
				return nil, reason.OnDisk(err)
			case same:
				return changes, nil
			}
			name, err := os.Executable()
			if err != nil {
				return nil, err
			}
			return append(changes, Change{Kept: true, What: fmt.Sprintf("keep %s, which is not this program (`%[1]s --version` tells); to replace it: `install -m 755 %s %[1]s`", installed, name)}), nil
		},
		Do: func(context.Context) error {
			if err := sweep(installed); err != nil {
				return err
			}
			if _, err := os.Lstat(installed); err == nil {
				return nil
			}
			f, err := os.Open(self)
			if err != nil {
				return reason.OnDisk(err)
			}
			defer f.Close() // only read
			return reason.OnDisk(durable.CreateOwned(installed, f, 0o755, 0, 0))
		},
	}
}

func (n *Node) serviceUser() Step {
	return Step{
		Name: "user of the app",
		Look: func(ctx context.Context) ([]Change, error) {
			a, err := lookUp(ctx, n.user)
			switch {
			case err != nil:
				return nil, err
			case a == nil:
				return []Change{{What: fmt.Sprintf("make user %s, a system user nobody can log in as: home %s, shell %s", n.user, n.o.stateDir(), n.shell)}}, nil
			case a.mayLogIn():
				return []Change{{Kept: true, What: fmt.Sprintf("keep user %s, which has the login shell %s; nothing here needs that: `usermod --shell /usr/sbin/nologin %[1]s`", a.name, a.shell)}}, nil
			}
			return nil, nil
		},
		Do: func(ctx context.Context) error { return addUser(ctx, n.user, n.o.stateDir(), n.shell) },
	}
}

// anchorStep writes the anchor. Where a dry run could not fetch it there is none to compare.
func (n *Node) anchorStep() Step {
	f := file{path: n.o.anchorFile(), want: n.anchor, perm: 0o644, by: byRoot(), what: fmt.Sprintf("trust anchor with the fingerprint %s to", n.fingerprint), quiet: true}
	return step("trust", f)
}
