package systemd

import (
	"context"
	"fmt"
	"strings"
)

// Definition is what a unit's files say, as systemd has read them.
type Definition struct {
	File     string     // its unit file
	Enabled  string     // "enabled", "disabled", "static", …: whether it is started with the machine
	Start    []string   // program and arguments of the first ExecStart=
	Others   [][]string // of ExecStartPre=, of further ExecStart= and of ExecReload=
	WorkDir  string
	RootDir  string   // RootDirectory=
	Env      []string // Environment=, each NAME=value
	EnvFiles []string // EnvironmentFile=

	ProtectHome   string   // "yes", "no", "read-only", "tmpfs"
	ProtectSystem string   // "strict", "full", "yes", "no"
	Writable      []string // ReadWritePaths=, without marks
	Capabilities  uint64   // CapabilityBoundingSet=
}

// Definition returns what the files of a unit say. Of one that is not there it says nothing.
func (c *Conn) Definition(ctx context.Context, unit string) (Definition, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	p, err := c.dbus.GetAllPropertiesContext(ctx, unit)
	if err != nil {
		return Definition{}, fmt.Errorf("read unit %q: %w", unit, c.failed(ctx, err))
	}
	d := Definition{
		File:    get[string](p, "FragmentPath"),
		Enabled: get[string](p, "UnitFileState"),
		WorkDir: get[string](p, "WorkingDirectory"),
		RootDir: get[string](p, "RootDirectory"),
		Env:     get[[]string](p, "Environment"),

		ProtectHome:   get[string](p, "ProtectHome"),
		ProtectSystem: get[string](p, "ProtectSystem"),
		Capabilities:  get[uint64](p, "CapabilityBoundingSet"),
	}
	starts := commands(p, "ExecStart")
	if len(starts) > 0 {
		d.Start = starts[0]
		d.Others = append(d.Others, starts[1:]...)
	}
	d.Others = append(append(d.Others, commands(p, "ExecStartPre")...), commands(p, "ExecReload")...)
	for _, f := range get[[][]any](p, "EnvironmentFiles") {
		if name, ok := first[string](f); ok {
			d.EnvFiles = append(d.EnvFiles, name)
		}
	}
	for _, w := range get[[]string](p, "ReadWritePaths") {
		d.Writable = append(d.Writable, strings.TrimLeft(w, "-+"))
	}
	return d, nil
}

// commands returns the programs of an Exec…= with their arguments.
func commands(p map[string]any, name string) (all [][]string) {
	for _, c := range get[[][]any](p, name) {
		if len(c) < 2 {
			continue
		}
		program, _ := c[0].(string)
		args, _ := c[1].([]string)
		if program != "" {
			all = append(all, append([]string{program}, args[min(1, len(args)):]...))
		}
	}
	return all
}

// first returns the first field of a structure.
func first[T any](fields []any) (v T, ok bool) {
	if len(fields) > 0 {
		v, ok = fields[0].(T)
	}
	return v, ok
}
