package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/systemd"
)

// unit is what systemd knows of a unit.
type unit struct {
	systemd.Facts
	systemd.Definition
	name string
}

func (u unit) loaded() bool { return u.LoadState == "loaded" }
func (u unit) active() bool { return u.ActiveState == "active" || u.ActiveState == "reloading" }

func read(ctx context.Context, c *systemd.Conn, name string) (unit, error) {
	f, err := c.Facts(ctx, name)
	if err != nil {
		return unit{}, err
	}
	d, err := c.Definition(ctx, name)
	return unit{f, d, name}, err
}

// workers are the units that can run this app's puller.
type workers struct{ daemon, timer, once unit }

// systemd looks at all that it knows: who runs the puller, and the app.
func (e *examiner) systemd(ctx context.Context) []Check {
	if !systemd.Booted() {
		return e.without(ctx)
	}
	conn, err := systemd.Connect(ctx)
	if err != nil {
		return []Check{failed("unit", reason.IO, err.Error(), do("see what systemd does: `systemctl is-system-running`")), skip("puller", "systemd"), skip("app", "systemd")}
	}
	defer conn.Close()
	var w workers
	for name, u := range map[string]*unit{"puller@%s.service": &w.daemon, "puller-once@%s.timer": &w.timer, "puller-once@%s.service": &w.once} {
		if *u, err = read(ctx, conn, fmt.Sprintf(name, e.cfg.App)); err != nil {
			return []Check{failed("puller", reason.IO, err.Error(), do("see what systemd does: `systemctl is-system-running`"))}
		}
	}
	if given := e.givenBack(ctx, conn, w); given != nil {
		return given
	}
	checks := e.worker(w)
	checks = append(checks, e.sandbox(w)...)
	if !e.good {
		return append(checks, skip("unit", "a configuration that is accepted"))
	}
	return append(checks, e.app(ctx, conn)...)
}

// without is for a machine on which systemd does not run.
func (e *examiner) without(ctx context.Context) (checks []Check) {
	if d, err := e.dir.Daemon(); err == nil && d != nil {
		checks = append(checks, ok("puller", "a daemon is at work, pid %d", d.PID))
	} else {
		checks = append(checks, warning("puller", "no daemon is at work, and systemd does not run here: nothing new is found before a `puller` runs", do("have `puller run` started with the machine")))
	}
	if !e.good {
		return checks
	}
	if u := e.cfg.Service.Unit; u != "" {
		return append(checks, failed("unit", reason.Config, fmt.Sprintf("service.unit is %q, and systemd does not run on this machine", u), do("name what restarts the app as service.command in %s", e.o.File)), skip("app", "the unit"))
	}
	return append(checks, e.probes(ctx)...)
}

// worker looks who runs the puller, and how.
func (e *examiner) worker(w workers) (checks []Check) {
	d, t := w.daemon, w.timer
	at, err := e.dir.Daemon()
	if err != nil {
		at = nil // told by others
	}
	start := run("systemctl enable --now puller@%s", e.cfg.App)
	for _, u := range []unit{d, w.once} {
		if len(u.Start) > 0 && u.loaded() && missing(u.Start[0]) {
			return []Check{failed("puller", reason.Config, fmt.Sprintf("%s starts %s, which is not there", u.name, u.Start[0]), do("install the program: `install -m 755 puller %s`", quoted(u.Start[0])))}
		}
	}
	switch {
	case d.active() && t.active():
		checks = append(checks, warning("deployer", fmt.Sprintf("%s and %s are both at work: one is enough, and they wait for one another", d.name, t.name), run("systemctl disable --now %s", t.name)))
	case d.active() || t.active():
	case !d.loaded() && d.LoadState != "masked" && !t.loaded():
		return []Check{failed("puller", reason.Config, "no puller is at work, and its units are not there", do("run the line of `builder enroll` here once more: `puller bootstrap` writes what is missing"))}
	case d.LoadState == "masked":
		return []Check{failed("puller", reason.Config, fmt.Sprintf("no puller is at work: %s is masked", d.name), run("systemctl unmask %s && systemctl enable --now %[1]s", d.name))}
	case d.SubState == "auto-restart" || d.ActiveState == "activating":
		return []Check{failed("puller", reason.IO, fmt.Sprintf("%s does not stay up: %s", d.name, d.Words()), do("see why: `journalctl -u %s`", d.name)).because("config", "permissions", "disk", "sandbox")}
	case at != nil:
		return []Check{warning("puller", fmt.Sprintf("a daemon is at work (pid %d) that no unit of systemd runs: nobody starts it again", at.PID), do("end it, then `systemctl enable --now puller@%s`", e.cfg.App))}
	default:
		return []Check{failed("puller", reason.Config, fmt.Sprintf("no puller is at work: neither %s nor %s is active", d.name, t.name), start)}
	}
	for _, u := range []unit{d, t} {
		if u.active() && u.Enabled == "disabled" && !(d.active() && t.active()) {
			checks = append(checks, warning("puller", u.name+" runs, and is not started with the machine", run("systemctl enable %s", u.name)))
		}
		if u.active() && u.NeedReload {
			checks = append(checks, warning("puller", fmt.Sprintf("the unit file of %s has changed on disk since systemd read it", u.name), run("systemctl daemon-reload && systemctl restart %s", u.name)))
		}
	}
	checks = append(checks, e.configured(w, at)...)
	checks = append(checks, e.program(w)...)
	if len(checks) == 0 {
		checks = append(checks, ok("puller", "%s is at work", atWork(d, t)))
	}
	return checks
}

// atWork names what is.
func atWork(d, t unit) string {
	if d.active() {
		return fmt.Sprintf("%s, pid %d,", d.name, d.MainPID)
	}
	return t.name
}

// configured looks whether the unit reads the configuration that doctor reads.
func (e *examiner) configured(w workers, at *node.Daemon) (checks []Check) {
	u := w.daemon
	if !u.active() {
		u = w.once
	}
	if file := configOf(u.Definition); file != "" && !same(file, e.o.File) {
		checks = append(checks, warning("puller", fmt.Sprintf("%s reads %s, and this is about %s", u.name, file, e.o.File), do("leave --config out, or name the file in the unit: `systemctl edit %s`", u.name)))
	}
	for _, v := range u.Env {
		if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "SANDO__") {
			checks = append(checks, warning("config", fmt.Sprintf("%s sets %s, which overrides %s for it, and not here", u.name, name, e.o.File), do("write that key into %s, and take it out of the unit: `systemctl edit %s`", e.o.File, u.name)))
		}
	}
	if sc := e.cfg.Schedule; e.good && !w.daemon.active() && (sc.Poll != "@every 60s" || sc.Jitter != "10%") {
		checks = append(checks, warning("config", fmt.Sprintf("schedule.poll and schedule.jitter have no effect: %s says when", w.timer.name), do("take them out of %s, or say so with `systemctl edit %s`", e.o.File, w.timer.name)))
	}
	if e.good && at != nil && at.Problem != "" {
		checks = append(checks, warning("puller", "the daemon goes on with an older configuration: "+at.Problem, run("systemctl reload %s", u.name)))
	}
	return checks
}

// configOf returns the configuration that a unit of the puller names.
func configOf(d systemd.Definition) string {
	for n, arg := range d.Start {
		name, value, has := strings.Cut(arg, "=")
		if !has && n+1 < len(d.Start) {
			value = d.Start[n+1]
		}
		switch name {
		case "--config":
			return value
		case "--app":
			return filepath.Join("/etc/sando", value+".toml")
		}
	}
	for _, v := range d.Env {
		if file, has := strings.CutPrefix(v, "SANDO_CONFIG="); has {
			return file
		}
	}
	return ""
}

// same reports whether two names are of one file.
func same(a, b string) bool {
	if abs, err := filepath.Abs(b); err == nil && filepath.Clean(a) == abs {
		return true
	}
	ia, err := os.Stat(a)
	ib, err2 := os.Stat(b)
	return err == nil && err2 == nil && os.SameFile(ia, ib)
}

// program looks whether what runs is the program that is installed, and that this is.
func (e *examiner) program(w workers) []Check {
	u := w.daemon
	if !u.active() {
		u = w.once
	}
	if len(u.Start) == 0 {
		return nil
	}
	installed := u.Start[0]
	if exe := fmt.Sprintf("/proc/%d/exe", u.MainPID); u.active() && u.MainPID != 0 && !same(exe, installed) {
		if _, err := os.Stat(exe); err == nil {
			return []Check{warning("puller", fmt.Sprintf("%s was installed anew since %s began: the older program is at work", installed, u.name), run("systemctl restart %s", u.name))}
		}
	}
	if self, err := os.Executable(); err == nil && !same(self, installed) && !alike(self, installed) {
		return []Check{warning("puller", fmt.Sprintf("this is %s, and %s runs another program, %s", self, u.name, installed), run("install -m 755 %s %s && systemctl try-restart %s", quoted(self), quoted(installed), u.name))}
	}
	return nil
}

func missing(file string) bool {
	_, err := os.Stat(file)
	return errors.Is(err, fs.ErrNotExist)
}

// alike reports whether two files hold the same.
func alike(a, b string) bool {
	ia, err := os.Stat(a)
	ib, err2 := os.Stat(b)
	if err != nil || err2 != nil || ia.Size() != ib.Size() {
		return false
	}
	da, err := os.ReadFile(a)
	db, err2 := os.ReadFile(b)
	return err == nil && err2 == nil && bytes.Equal(da, db)
}

// sandbox looks whether the puller's unit lets it at what the configuration names.
func (e *examiner) sandbox(w workers) []Check {
	u := w.daemon
	switch {
	case w.timer.active() && !u.active():
		u = w.once
	case !u.loaded() && w.once.loaded():
		u = w.once
	}
	if !u.loaded() {
		return []Check{skip("sandbox", "the puller's units")}
	}
	var hidden []string
	paths := []string{e.dir.Root()}
	for _, f := range e.files() {
		paths = append(paths, f.path)
	}
	paths = append(paths, e.cfg.Env.Files...)
	for _, p := range paths {
		for _, at := range chain(p) {
			if at == p || at == real(p) {
				if home := below(at, "/home", "/root", "/run/user"); home != "" && (u.ProtectHome == "yes" || u.ProtectHome == "tmpfs") && !slices.Contains(hidden, p) {
					hidden = append(hidden, p)
				}
			}
		}
	}
	base := strings.TrimSuffix(u.name, ".service")
	again := ""
	if u.ActiveState != "inactive" {
		again = fmt.Sprintf(" && systemctl restart %s", u.name)
	}
	dropIn := func(lines string) mend {
		dir := "/etc/systemd/system/" + u.name + ".d"
		return run("mkdir -p %s && printf '[Service]\\n%s' >%[1]s/sando.conf && systemctl daemon-reload%[3]s", dir, lines, again)
	}
	root := real(e.dir.Root())
	if slices.Contains(hidden, e.dir.Root()) {
		return []Check{failed("sandbox", reason.Config, fmt.Sprintf("root %s is where the sandbox of %s sees nothing (ProtectHome=%s)", e.dir.Root(), base, u.ProtectHome),
			dropIn(fmt.Sprintf("ProtectHome=no\\nReadWritePaths=%s\\n", e.dir.Root())))}
	}
	if len(hidden) > 0 {
		return []Check{failed("sandbox", reason.Config, fmt.Sprintf("%s is where the sandbox of %s sees nothing (ProtectHome=%s)", strings.Join(hidden, ", "), base, u.ProtectHome),
			do("move it to %s, owned by root, and name it there in %s", filepath.Join(filepath.Dir(e.o.File), e.cfg.App), e.o.File))}
	}
	writable := slices.ContainsFunc(u.Writable, func(dir string) bool { return below(root, real(dir)) != "" || below(e.dir.Root(), dir) != "" })
	if u.ProtectSystem == "strict" && !writable {
		return []Check{failed("sandbox", reason.Config, fmt.Sprintf("root %s cannot be written in the sandbox of %s, which allows %s", e.dir.Root(), base, strings.Join(u.Writable, ", ")),
			dropIn(fmt.Sprintf("ReadWritePaths=%s\\n", e.dir.Root())))}
	}
	return []Check{ok("sandbox", "of %s", base)}
}

// real returns where links lead to.
func real(path string) string {
	if r, err := filepath.EvalSymlinks(path); err == nil {
		return r
	}
	return path
}

// below returns the first of the directories that a path is in, or is; "": none.
func below(path string, dirs ...string) string {
	for _, d := range dirs {
		if path == d || strings.HasPrefix(path, strings.TrimSuffix(d, "/")+"/") {
			return d
		}
	}
	return ""
}
