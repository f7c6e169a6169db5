// Package adopt takes over an app that runs already, as somebody else put it there. It is
// what `puller bootstrap --adopt` does besides making the machine a node.
//
// # A former install in another directory
//
// /opt/makenotwork is flat: program, static files, .env and state side by side, run by a unit
// of its own. In order:
//
//	backup       the old unit, its drop-ins, its env files and whatever else names the old root
//	             go to a dated directory (package backup), with the script that goes back
//	release      the release that the channel names is fetched, verified and unpacked; nothing
//	             that runs has changed yet
//	environment  the new env file is made of the old one, shown as a difference, and held
//	             against the release
//	switch       the old unit is stopped, state is copied, the new unit is started by the
//	             puller, as in every update: intent, swap, restart, health. Then the old unit is
//	             disabled and the new one enabled. How long nobody answered is measured
//
// A path in the env file that lies below the old root goes to ROOT/current, where the release has
// what it names. State stays where it is, or is copied by a Move. Everything else in the file
// stays byte for byte.
//
// When the new app does not become healthy, or when the switch is interrupted by a signal, SIGHUP of a
// terminal that goes away too, the old unit is started again at once, with what stopped with it. Until the new app has proved itself the old unit stays
// enabled and the new one is not, so a machine that reboots in between runs the old one.
//
// # Run again
//
// Each step looks at what is there and does the rest, after a crash anywhere. A complete backup
// of the same install is kept and used again. A switch that was killed goes on: the old unit is
// stopped if it runs, and the release that was being activated is. A copy of the state is used
// if what it is of has not changed since; else it is renamed aside, and made anew. One that the new
// app works with since it proved itself is kept, until the old one runs again: by back.sh, for example.
// /var/backups/sando/<app>-switch.json says how far it came:
//
//	{"version":1,"phase":"switching","stopped":"…","state":[{"from":"…","to":"…","of":"…"}]}
//
// # What stays
//
// Nothing is deleted: the old root, the old unit, its env file and its state stay as they were.
// Database roles, sockets, backups, the web server, crontabs, sudoers and secrets are the
// operator's; package oldroot finds where they name the old root.
//
// # What this does not protect from
//
// A switch that is killed (SIGKILL) between the two apps leaves neither running, until it is run again or the
// machine reboots. What writes to the old state besides the old unit, a cron job for example, is not stopped: what
// it writes after the copy is not in the copy. A new app that was started and failed may have
// written to state that both share.
package adopt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/probe"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/adopt/backup"
	"makenot.work/sando/puller/bootstrap"
	"makenot.work/sando/systemd"
)

// Options say what is adopted.
type Options struct {
	App     string
	Root    string // of the app
	Unit    string // the app's, of the node
	User    string // that it runs as
	EnvFile string // that the new unit reads; "": none

	OldRoot string
	OldUnit string
	OldEnv  []string // "": those of the old unit, else .env in the old root
	State   []Move
	Backups string // backup.Base

	Health    probe.Probe // of the new app
	OldHealth probe.Probe // of the old one

	// References returns further files that name the old root.
	References func(ctx context.Context) ([]string, error)
	// Open returns the puller of this node, with root as its root directory.
	Open func(ctx context.Context, root string) (Puller, error)
	Dry  bool
	Now  func() time.Time
	Log  func(text string) // one line, for a person; may be nil
}

// Puller is what does a cycle.
type Puller interface {
	Step(ctx context.Context, opts puller.Options) (puller.Result, error)
	Close() error
}

// Adoption is one run of it.
type Adoption struct {
	Options
	old     former
	dir     *node.Dir
	backup  *backup.Dir
	version string // the release that is to run
	release string // its directory
	temp    string // of a rehearsal
	env     *Environment
	with    []string // units that ran, and stopped with the old one
}

// New returns an adoption after looking at what there is.
func New(ctx context.Context, o Options) (*Adoption, error) {
	if err := o.check(); err != nil {
		return nil, err
	}
	dir, err := node.View(o.Root)
	if err != nil {
		return nil, err
	}
	a := &Adoption{Options: o, dir: dir}
	if a.Log == nil {
		a.Log = func(string) {}
	}
	if err := a.survey(ctx); err != nil {
		return nil, err
	}
	a.backup, err = backup.Latest(o.Backups, o.App, o.OldRoot, o.OldUnit)
	return a, err
}

func (o *Options) check() error {
	for _, p := range []struct{ flag, path string }{{"--old-root", o.OldRoot}, {"--root", o.Root}} {
		if !filepath.IsAbs(p.path) || filepath.Clean(p.path) != p.path || p.path == "/" {
			return reason.Errorf(reason.Config, "%s: %q is not a clean absolute path", p.flag, p.path)
		}
	}
	inside := func(a, b string) bool { return a == b || strings.HasPrefix(a, b+"/") }
	switch {
	case inside(o.OldRoot, o.Root) || inside(o.Root, o.OldRoot):
		return reason.Errorf(reason.Config, "--old-root %s and the root %s lie within one another: choose another root with --root", o.OldRoot, o.Root)
	case o.OldUnit == "" || !strings.HasSuffix(o.OldUnit, ".service"):
		return reason.Errorf(reason.Config, "--old-unit: %q is not the name of a service, such as makenotwork.service", o.OldUnit)
	case o.OldUnit == o.Unit:
		return reason.Errorf(reason.Config, "--old-unit and --unit are both %s: the old one has to stay as it is to go back to; give the new one another name with --unit", o.Unit)
	}
	for i, m := range o.State {
		for _, other := range o.State[:i] {
			if inside(m.From, other.From) || inside(other.From, m.From) || inside(m.To, other.To) || inside(other.To, m.To) {
				return reason.Errorf(reason.Config, "--state: %s=%s and %s=%s lie within one another", other.From, other.To, m.From, m.To)
			}
		}
		if inside(m.To, o.OldRoot) || inside(m.To, o.Root) {
			return reason.Errorf(reason.Config, "--state: %s lies below %s or %s: state belongs to neither", m.To, o.OldRoot, o.Root)
		}
	}
	return nil
}

// Close removes what a rehearsal made.
func (a *Adoption) Close() error {
	if a.temp == "" {
		return nil
	}
	return os.RemoveAll(a.temp)
}

// Prepare returns the steps that change nothing of what runs.
func (a *Adoption) Prepare() []bootstrap.Step {
	return []bootstrap.Step{
		{Name: "backup of " + a.OldUnit, Look: a.lookBackup, Do: a.doBackup},
		{Name: "release", Look: a.lookRelease, Do: a.doRelease},
	}
}

// Switch returns the steps that make the new app run, for when Prepare's are done.
func (a *Adoption) Switch() []bootstrap.Step {
	steps := []bootstrap.Step{{Name: "switch", Look: a.lookSwitch, Do: a.doSwitch}}
	if a.HasEnv() {
		steps = append([]bootstrap.Step{{Name: "environment", Look: a.lookEnv, Do: a.doEnv}}, steps...)
	}
	return steps
}

// lookRelease finds out which release would run, in a dry run by fetching it to a temporary
// place.
func (a *Adoption) lookRelease(ctx context.Context) ([]bootstrap.Change, error) {
	done, err := a.adopted(ctx)
	if err != nil || done {
		return nil, err
	}
	if !a.Dry {
		return []bootstrap.Change{{What: "fetch, verify and unpack the release that the channel names; nothing is stopped for it"}}, nil
	}
	// Not in /tmp, which may be memory.
	if a.temp, err = os.MkdirTemp("/var/tmp", "sando-rehearsal-"); err != nil {
		return nil, reason.OnDisk(err)
	}
	if err := a.fetch(ctx, a.temp); err != nil {
		return nil, err
	}
	return []bootstrap.Change{{What: fmt.Sprintf("fetch, verify and unpack %s to %s (done just now, to a temporary place)", a.version, a.dir.ReleasePath(a.version))}}, nil
}

func (a *Adoption) doRelease(ctx context.Context) error {
	st, err := a.dir.State()
	if err == nil && st != nil && st.Intent != nil {
		// A switch was killed: what it began is what goes on.
		a.version, a.release = st.Intent.To, a.dir.ReleasePath(st.Intent.To)
		return nil
	}
	return a.fetch(ctx, a.Root)
}

// fetch makes the release that is to run lie below root.
func (a *Adoption) fetch(ctx context.Context, root string) error {
	p, err := a.Open(ctx, root)
	if err != nil {
		return err
	}
	defer p.Close()
	res, err := p.Step(ctx, puller.Options{Prepare: true, Now: true, Adopt: true})
	for _, w := range res.Warnings {
		a.Log(w)
	}
	if err != nil {
		return fmt.Errorf("fetch the release: %w", err)
	}
	if a.version = res.Ready; a.version == "" {
		a.version = res.Running
	}
	if a.version == "" {
		return reason.Errorf(res.Reason, "fetch the release: %s", res.Message)
	}
	a.release = filepath.Join(root, "releases", a.version)
	return nil
}

// progress is switch.json.
type progress struct {
	Version int        `json:"version"` // of the file
	Phase   string     `json:"phase"`
	Stopped canon.Time `json:"stopped,omitzero"` // when the old unit was
	State   []copied   `json:"state,omitempty"`
	Outage  int64      `json:"outage_ms,omitempty"`
	How     string     `json:"measured,omitempty"`
}

// Phases of progress.
const (
	switching = "switching"
	wentBack  = "went back"
	switched  = "switched"
)

func (a *Adoption) progressFile() string { return filepath.Join(a.Backups, a.App+"-switch.json") }

func (a *Adoption) progress() (progress, error) {
	var p progress
	data, err := os.ReadFile(a.progressFile())
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, reason.OnDisk(err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, reason.Errorf(reason.Format, "%s: %w", a.progressFile(), err)
	}
	return p, nil
}

func (a *Adoption) save(p progress) error {
	p.Version = 1
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return reason.OnDisk(durable.WriteFile(a.progressFile(), append(data, '\n'), 0o600))
}

// with calls do with a connection to systemd.
func with(ctx context.Context, do func(*systemd.Conn) error) error {
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return reason.Wrap(reason.IO, err)
	}
	defer conn.Close()
	return do(conn)
}
