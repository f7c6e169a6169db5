package systemd

import (
	"context"
	"fmt"
	"strings"
)

// Start starts a unit and waits for the outcome, as Restart does; one that runs goes on. An
// error is as of Restart.
func (c *Conn) Start(ctx context.Context, unit string) error {
	if _, err := c.usable(ctx, unit); err != nil {
		return err
	}
	return c.finish(ctx, unit, begin)
}

// Stop stops a unit and waits until nothing of it runs. It is no error when there is no such
// unit, or when it did not run. An error is as of Restart.
func (c *Conn) Stop(ctx context.Context, unit string) error {
	f, err := c.Facts(ctx, unit)
	if err != nil || f.LoadState == "not-found" {
		return err
	}
	return c.finish(ctx, unit, end)
}

// Enable makes units start with the machine, as their [Install] sections say. It is no error
// when they do already.
func (c *Conn) Enable(ctx context.Context, units ...string) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	if _, _, err := c.dbus.EnableUnitFilesContext(ctx, units, false, false); err != nil {
		return fmt.Errorf("enable unit %q: %w", units, c.failed(ctx, err))
	}
	return c.Reload(ctx)
}

// Disable is the contrary of Enable. What runs goes on.
func (c *Conn) Disable(ctx context.Context, units ...string) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	if _, err := c.dbus.DisableUnitFilesContext(ctx, units, false); err != nil {
		return fmt.Errorf("disable unit %q: %w", units, c.failed(ctx, err))
	}
	return c.Reload(ctx)
}

// Reload has systemd read all unit files again (daemon-reload).
func (c *Conn) Reload(ctx context.Context) error {
	ctx, cancel := patient(ctx)
	defer cancel()
	if err := c.dbus.ReloadContext(ctx); err != nil {
		return fmt.Errorf("daemon-reload: %w", c.failed(ctx, err))
	}
	return nil
}

// Files are the files that a service is made of, and names. Specifiers are expanded.
type Files struct {
	Unit     string   // its own file; "": none
	DropIns  []string // in the order in which they count
	Env      []EnvFile
	Programs []string // of ExecStart=, absolute paths
	Dir      string   // WorkingDirectory=
	Enabled  string   // "enabled", "disabled", "static", "linked", …
	EnvNames []string // which variables Environment= sets
}

// EnvFile is an EnvironmentFile=.
type EnvFile struct {
	Path     string
	Optional bool // it need not exist
}

// Files returns the files of a service. An error may match ErrUnreachable.
func (c *Conn) Files(ctx context.Context, unit string) (Files, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	p, err := c.dbus.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return Files{}, fmt.Errorf("read unit %q: %w", unit, c.failed(ctx, err))
	}
	f := Files{
		Unit: get[string](p, "FragmentPath"), DropIns: get[[]string](p, "DropInPaths"),
		Dir: get[string](p, "WorkingDirectory"), Enabled: get[string](p, "UnitFileState"),
	}
	for _, e := range get[[][]any](p, "EnvironmentFiles") {
		if len(e) == 2 {
			path, _ := e[0].(string)
			optional, _ := e[1].(bool)
			f.Env = append(f.Env, EnvFile{path, optional})
		}
	}
	for _, e := range get[[][]any](p, "ExecStart") {
		if len(e) > 0 {
			path, _ := e[0].(string)
			f.Programs = append(f.Programs, path)
		}
	}
	for _, v := range get[[]string](p, "Environment") {
		name, _, _ := strings.Cut(v, "=")
		f.EnvNames = append(f.EnvNames, name)
	}
	return f, nil
}
