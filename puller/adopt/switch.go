package adopt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/bootstrap"
	"makenot.work/sando/systemd"
)

// lookSwitch says what the switch would do, after finding out all that can keep it from it.
func (a *Adoption) lookSwitch(ctx context.Context) ([]bootstrap.Change, error) {
	done, err := a.adopted(ctx)
	if err != nil || done {
		return nil, err
	}
	if err := a.checkUnit(ctx); err != nil {
		return nil, err
	}
	what := []string{"stop " + a.OldUnit}
	p, err := a.progress()
	if err != nil {
		return nil, err
	}
	for _, m := range a.State {
		from := filepath.Join(a.OldRoot, m.From)
		size, err := a.sizeOf(ctx, m)
		if err != nil {
			return nil, err
		}
		if _, err := a.replica(nil, from, m.To); err != nil && !a.Dry { // in which there may be no user yet
			return nil, err
		}
		ours := slices.ContainsFunc(p.State, func(c copied) bool { return c.From == from && c.To == m.To })
		if err := checkTarget(from, m.To, size, ours); err != nil {
			return nil, err
		}
		what = append(what, fmt.Sprintf("copy %s to %s (%d MiB; both are stopped meanwhile, the old one stays)", from, m.To, size>>20))
	}
	what = append(what, fmt.Sprintf("start %s with %s", a.Unit, a.version), fmt.Sprintf("disable %s and enable %s once it is healthy, else start %[1]s again", a.OldUnit, a.Unit))
	changes := []bootstrap.Change{{What: strings.Join(what, "; ")}}
	if up(a.old.facts) {
		for _, other := range a.active(ctx, dependents) {
			changes = append(changes, bootstrap.Change{What: fmt.Sprintf("%s depends on %s, and stops with it: it is started again only if the switch fails", other, a.OldUnit), Kept: true})
		}
		for _, other := range a.active(ctx, "TriggeredBy") {
			changes = append(changes, bootstrap.Change{What: fmt.Sprintf("%s starts %s whenever it is wanted, also after the switch: `systemctl disable --now %[1]s` keeps it from that", other, a.OldUnit), Kept: true})
		}
	}
	return changes, nil
}

func (a *Adoption) sizeOf(ctx context.Context, m Move) (int64, error) {
	state, err := openState(a.OldRoot, m.From)
	if err != nil {
		return 0, fmt.Errorf("--state %s: %w", m.From, err)
	}
	defer state.Close()
	_, size, err := measure(ctx, state)
	if err != nil {
		return 0, fmt.Errorf("--state %s: %w", m.From, err)
	}
	return size, nil
}

// dependents are the properties that name what stops with a unit.
const dependents = "RequiredBy,BoundBy,ConsistsOf"

// active returns the units that run and that a property of the old one names.
func (a *Adoption) active(ctx context.Context, property string) []string {
	out, err := exec.CommandContext(ctx, "systemctl", "show", "--property="+property, "--value", "--", a.OldUnit).Output()
	if err != nil {
		return nil
	}
	var found []string
	for _, u := range strings.Fields(string(out)) {
		if slices.Contains(found, u) {
			continue
		}
		if exec.CommandContext(ctx, "systemctl", "is-active", "--quiet", "--", u).Run() == nil {
			found = append(found, u)
		}
	}
	return found
}

// checkUnit holds the new unit against the release. In a dry run it may not be there yet.
func (a *Adoption) checkUnit(ctx context.Context) error {
	return with(ctx, func(c *systemd.Conn) error {
		facts, err := c.Facts(ctx, a.Unit)
		if err != nil {
			return err
		}
		if a.Dry && facts.LoadState == "not-found" {
			return nil
		}
		if facts.NeedReload && !a.Dry {
			if err := c.Reload(ctx); err != nil {
				return err
			}
		}
		if facts.LoadState != "loaded" {
			return reason.Wrap(reason.Config, &systemd.UnitError{Unit: a.Unit, LoadState: facts.LoadState, Detail: facts.LoadError})
		}
		if err := facts.Fit(); err != nil {
			return reason.Wrap(reason.Config, err)
		}
		files, err := c.Files(ctx, a.Unit)
		if err != nil {
			return err
		}
		return a.fits(files)
	})
}

// fits holds what the new unit names against the release.
func (a *Adoption) fits(f systemd.Files) error {
	release, err := os.OpenRoot(a.release)
	if err != nil {
		return reason.OnDisk(err)
	}
	defer release.Close()
	for _, p := range append(slices.Clone(f.Programs), f.Dir) {
		if names(p, a.OldRoot) {
			return reason.Errorf(reason.Config, "unit %s: %s lies in the old root: let it go by %s", a.Unit, p, a.dir.CurrentPath())
		}
		rest, below := strings.CutPrefix(p, a.dir.CurrentPath()+"/")
		if !below {
			continue
		}
		info, err := release.Stat(rest)
		if err != nil {
			return reason.Errorf(reason.Config, "unit %s: %s is not in %s: mend the unit, nothing was stopped", a.Unit, p, a.version)
		}
		if !info.IsDir() && info.Mode()&0o111 == 0 {
			return reason.Errorf(reason.Config, "unit %s: %s of %s cannot be executed", a.Unit, p, a.version)
		}
	}
	reads := slices.ContainsFunc(f.Env, func(e systemd.EnvFile) bool { return e.Path == a.EnvFile })
	if a.EnvFile != "" && !reads {
		return reason.Errorf(reason.Config, "unit %s does not read %s: add EnvironmentFile=%[2]s, or give --env-file none", a.Unit, a.EnvFile)
	}
	return nil
}

// doSwitch makes the new app run instead of the old one, or the old one again.
func (a *Adoption) doSwitch(ctx context.Context) error {
	if err := a.wayBack(ctx); err != nil {
		return fmt.Errorf("the way back: %w; nothing was stopped", err)
	}
	// Cycles of a puller that is at work must not come in between.
	for _, unit := range []string{"puller@" + a.App + ".service", "puller-once@" + a.App + ".timer", "puller-once@" + a.App + ".service"} {
		if err := with(ctx, func(c *systemd.Conn) error { return c.Stop(ctx, unit) }); err != nil {
			return fmt.Errorf("stop %s: %w; nothing else was stopped", unit, err)
		}
	}
	away, err := a.activate(ctx)
	if err == nil || !away {
		return err
	}
	return a.goBack(context.WithoutCancel(ctx), err)
}

// wayBack reports what would keep back.sh from going back.
func (a *Adoption) wayBack(ctx context.Context) error {
	if a.backup == nil {
		return reason.Errorf(reason.Config, "there is no backup")
	}
	if err := a.backup.Test(ctx); err != nil {
		return err
	}
	if f := a.old.facts; f.RefuseManualStart || f.RefuseManualStop {
		return reason.Errorf(reason.Config, "%s has RefuseManualStart= or RefuseManualStop=: it could not be stopped and started again; `systemctl edit %[1]s` changes that", a.OldUnit)
	}
	for _, p := range a.old.files.Programs {
		if !filepath.IsAbs(p) {
			continue // systemd looks for it, as a shell does
		}
		if info, err := os.Stat(p); err != nil || info.Mode()&0o111 == 0 {
			return reason.Errorf(reason.Config, "%s runs %s, which cannot be executed", a.OldUnit, p)
		}
	}
	verify, err := exec.LookPath("systemd-analyze")
	if err != nil {
		return nil //nolint:nilerr // it is in a package of its own on some systems
	}
	// Warnings of other units have no influence on its exit status.
	if out, err := exec.CommandContext(ctx, verify, "verify", "--man=no", "--recursive-errors=no", a.OldUnit).CombinedOutput(); err != nil && ctx.Err() == nil {
		return reason.Errorf(reason.Config, "%s: systemd-analyze verify: %s", a.OldUnit, bytes.TrimSpace(out))
	}
	return nil
}

// activate has the puller activate the release, and waits for what comes of it. away: the old
// unit was told to stop, and the new one is not well.
func (a *Adoption) activate(ctx context.Context) (away bool, err error) {
	p, err := a.Open(ctx, a.Root)
	if err != nil {
		return false, err
	}
	defer p.Close()
	asking, stop := context.WithCancel(ctx)
	var asked sync.WaitGroup
	defer asked.Wait()
	defer stop()
	m := &meter{old: a.OldHealth, new: a.Health, now: a.Now}
	res, err := p.Step(ctx, puller.Options{Now: true, Start: true, Handover: func(ctx context.Context) error {
		if !away {
			away = true
			m.look(ctx)
			asked.Go(func() { m.run(asking, a.version) })
		}
		return a.handover(ctx, m)
	}})
	well := a.Now()
	for _, w := range res.Warnings {
		a.Log(w)
	}
	if err != nil {
		return away, err
	}
	if res.Reason != reason.Updated {
		return away, reason.Errorf(reason.IO, "the release was not activated: %s", res.Message)
	}
	stop()
	asked.Wait()
	took, how := m.outage(well)
	// From here on people use it: whatever happens, it is not taken away from them.
	return false, a.finish(context.WithoutCancel(ctx), took, how)
}

// handover stops the old app and copies its state. It may be called again.
func (a *Adoption) handover(ctx context.Context, m *meter) error {
	pr, err := a.progress()
	if err != nil {
		return err
	}
	keep := a.lives(pr)
	if pr.Phase != switching || up(a.old.facts) && !m.begun() {
		pr.Phase, pr.Stopped = switching, canon.At(a.Now())
	}
	if err := a.save(pr); err != nil {
		return err
	}
	at := pr.Stopped.Time // of a run that was killed: it has been away since then
	if up(a.old.facts) {
		at = a.Now()
	}
	m.stopping(at)
	if up(a.old.facts) && a.with == nil {
		a.with = a.active(ctx, dependents)
	}
	if err := with(ctx, func(c *systemd.Conn) error { return c.Stop(ctx, a.OldUnit) }); err != nil {
		return fmt.Errorf("stop %s: %w", a.OldUnit, err)
	}
	m.stopped()
	for _, mv := range a.State {
		if err := a.move(ctx, mv, &pr, keep); err != nil {
			return err
		}
	}
	return nil
}

// move copies one directory, unless there is a copy of what it is now. keep: a copy counts, whatever
// it is of.
func (a *Adoption) move(ctx context.Context, mv Move, pr *progress, keep bool) error {
	from := filepath.Join(a.OldRoot, mv.From)
	state, err := openState(a.OldRoot, mv.From)
	if err != nil {
		return err
	}
	defer state.Close()
	of, size, err := measure(ctx, state)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(pr.State, func(c copied) bool { return c.From == from && c.To == mv.To })
	if i >= 0 && (pr.State[i].good(of) || keep && pr.State[i].Of != "" && !empty(mv.To)) {
		return nil
	}
	if err := with(ctx, func(c *systemd.Conn) error { return c.Stop(ctx, a.Unit) }); err != nil {
		return fmt.Errorf("stop %s: %w", a.Unit, err)
	}
	if i >= 0 {
		if err := a.setAside(from, mv.To); err != nil {
			return err
		}
		pr.State = slices.Delete(pr.State, i, i+1)
	}
	if err := checkTarget(from, mv.To, size, false); err != nil {
		return err
	}
	r, err := a.replica(state, from, mv.To)
	if err != nil {
		return err
	}
	// On record before it is there: what is in place without a word of it is somebody else's.
	pr.State = append(pr.State, copied{From: from, To: mv.To})
	if err := a.save(*pr); err != nil {
		return err
	}
	if err := r.make(ctx); err != nil {
		return err
	}
	pr.State[len(pr.State)-1].Of = of
	return a.save(*pr)
}

// setAside renames a copy of which what it was made of has changed since.
func (a *Adoption) setAside(from, to string) error {
	entries, err := os.ReadDir(to)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil
	}
	if err != nil {
		return reason.OnDisk(err)
	}
	aside := to + "." + a.Now().UTC().Format("20060102T150405Z")
	if err := durable.Rename(to, aside); err != nil {
		return reason.OnDisk(err)
	}
	a.Log(fmt.Sprintf("%s was a copy of %s, in which something has changed since: it is called %s now, and made anew", to, from, aside))
	return nil
}

func (a *Adoption) replica(from *os.Root, name, to string) (r replica, err error) {
	r = replica{from: from, name: name, to: to}
	if r.uid, r.gid, err = ids(a.old.facts.User); err != nil {
		return r, err
	}
	if a.old.facts.Group != "" {
		if r.gid, err = group(a.old.facts.Group); err != nil {
			return r, err
		}
	}
	r.newUID, r.newGID, err = ids(a.User)
	return r, err
}

// ids returns the numbers of a user; none is root.
func ids(name string) (uid, gid int, err error) {
	if name == "" {
		return 0, 0, nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		if u, err = user.LookupId(name); err != nil {
			return 0, 0, reason.Errorf(reason.Config, "user %q is not known here", name)
		}
	}
	uid, err = strconv.Atoi(u.Uid)
	if err != nil {
		return 0, 0, err
	}
	gid, err = strconv.Atoi(u.Gid)
	return uid, gid, err
}

// unitDir is where systemd has the links that say what starts with the machine. It makes them, and
// leaves it to the kernel when they are on disk.
const unitDir = "/etc/systemd/system"

func syncUnits() error {
	dir, err := os.Open(unitDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return durable.SyncFS(dir)
}

// finish makes the switch last over a reboot.
func (a *Adoption) finish(ctx context.Context, took time.Duration, how string) error {
	err := with(ctx, func(c *systemd.Conn) error {
		if err := c.Enable(ctx, a.Unit); err != nil {
			return err
		}
		if !a.old.enabled() {
			return nil
		}
		return c.Disable(ctx, a.OldUnit)
	})
	if err == nil {
		err = syncUnits()
	}
	if err != nil {
		return reason.Errorf(reason.IO, "%s runs and is healthy, but after a reboot %s might be there as well: %w; run this again", a.Unit, a.OldUnit, err)
	}
	pr, err := a.progress()
	if err != nil {
		return err
	}
	pr.Phase, pr.Outage, pr.How = switched, took.Milliseconds(), how
	if err := a.save(pr); err != nil {
		return err
	}
	for _, other := range a.active(ctx, "WantedBy,RequiredBy,UpheldBy") {
		a.Log(fmt.Sprintf("%s wants %s still: after a reboot both apps may run; take it out of %[1]s", other, a.OldUnit))
	}
	a.Log(fmt.Sprintf("%s runs %s; nobody answered for %d ms (%s)", a.Unit, a.version, took.Milliseconds(), how))
	a.Log(fmt.Sprintf("the way back: `sh %s` stops it and starts %s as it was; tested: syntax, backup, unit, program", a.backup.Script(), a.OldUnit))
	return nil
}

// goBackTime is how long the way back may take.
const goBackTime = 10 * time.Minute

// goBack starts the old app again, because of cause.
func (a *Adoption) goBack(ctx context.Context, cause error) error {
	ctx, cancel := context.WithTimeout(ctx, goBackTime)
	defer cancel()
	err := with(ctx, func(c *systemd.Conn) error {
		if err := c.Stop(ctx, a.Unit); err != nil {
			return err
		}
		if err := c.ResetFailed(ctx, a.Unit); err != nil {
			return err
		}
		if err := c.Start(ctx, a.OldUnit); err != nil {
			return err
		}
		for _, unit := range a.with {
			if err := c.Start(ctx, unit); err != nil {
				a.Log(fmt.Sprintf("%s stopped with %s, and does not start again: %s", unit, a.OldUnit, err))
			}
		}
		if a.old.enabled() || a.backup.Enabled {
			if err := c.Enable(ctx, a.OldUnit); err != nil {
				return err
			}
		}
		// Of an earlier run that got further: with both, a machine that reboots would run both.
		for _, unit := range []string{"puller@" + a.App + ".service", "puller-once@" + a.App + ".timer", a.Unit} {
			if f, err := c.Files(ctx, unit); err != nil || !strings.HasPrefix(f.Enabled, "enabled") {
				continue
			}
			if err := c.Disable(ctx, unit); err != nil {
				a.Log(err.Error())
			}
		}
		return nil
	})
	code := reason.Of(cause)
	if st, serr := a.dir.State(); serr == nil && st != nil && st.Retry != nil && code == reason.Unhealthy {
		// Without the prospects of a first install: nothing starts this one again.
		cause = reason.Errorf(code, "%s is not healthy: %s", a.version, st.Retry.Cause)
	}
	if err != nil {
		return reason.Errorf(code, "%s did not take over, and %s could not be started again: %w; `sh %s` tries that once more; it did not take over because: %w", a.Unit, a.OldUnit, err, a.backup.Script(), cause)
	}
	pr, err := a.progress()
	if err == nil {
		pr.Phase = wentBack
		err = a.save(pr)
	}
	if err != nil {
		a.Log(err.Error())
	}
	return reason.Errorf(code, "%s did not take over: %s runs again, as before; mend what is wrong and run this again; it did not take over because: %w", a.Unit, a.OldUnit, cause)
}
