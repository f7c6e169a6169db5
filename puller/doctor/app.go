package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"makenot.work/sando/internal/probe"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/systemd"
)

// app looks at the app's unit, and then whether the app is well.
func (e *examiner) app(ctx context.Context, conn *systemd.Conn) []Check {
	name := e.cfg.Service.Unit
	if name == "" {
		return append([]Check{ok("unit", "%s", e.restartedBy())}, e.probes(ctx)...)
	}
	u, err := read(ctx, conn, name)
	if err != nil {
		return []Check{failed("unit", reason.IO, err.Error(), do("see what systemd does: `systemctl is-system-running`")), skip("app", "the unit")}
	}
	checks := append(e.definition(u), e.envGroups(u)...)
	if bad := failures(checks); bad {
		return append(checks, skip("app", "the unit"))
	}
	cur, _ := e.dir.Current() // what is wrong with it is told by others
	if cur.Version != "" && !u.active() && !e.changing() {
		checks = append(checks, failed("unit", reason.Unhealthy, fmt.Sprintf("%s is %s, although %s is live", u.name, u.Words(), cur.Version), run("systemctl start %s", u.name)).because("deployer", "environment"))
		return append(checks, skip("app", "the unit"))
	}
	if !slices.ContainsFunc(checks, func(c Check) bool { return c.Name == "unit" }) {
		checks = append(checks, ok("unit", "%s is %s", u.name, u.Words()))
	}
	return append(checks, e.probes(ctx)...)
}

func (e *examiner) restartedBy() string {
	if len(e.cfg.Service.Command) > 0 {
		return "restarted by " + strings.Join(e.cfg.Service.Command, " ")
	}
	return "nothing is restarted"
}

func failures(checks []Check) bool {
	for _, c := range checks {
		if c.Result == Failed {
			return true
		}
	}
	return false
}

// changing reports whether a release is being started, or proves itself, at this moment.
func (e *examiner) changing() bool {
	st, err := e.dir.State()
	return err == nil && st != nil && st.Intent != nil
}

// definition looks at what the files of the app's unit say.
func (e *examiner) definition(u unit) (checks []Check) {
	var unfit *systemd.UnfitError
	switch fit := u.Fit(); {
	case u.LoadState == "masked":
		return []Check{failed("unit", reason.Config, fmt.Sprintf("%s is masked: it cannot be started", u.name), run("systemctl unmask %s", u.name))}
	case u.LoadState == "not-found":
		return []Check{failed("unit", reason.Config, fmt.Sprintf("%s does not exist", u.name), do("write /etc/systemd/system/%s (`puller unit` prints one), then `systemctl daemon-reload`; or name the right one as service.unit in %s", u.name, e.o.File))}
	case u.LoadState != "loaded":
		return []Check{failed("unit", reason.Config, (&systemd.UnitError{Unit: u.name, LoadState: u.LoadState, Detail: u.LoadError}).Error(), do("correct it: `systemd-analyze verify %s` tells where", u.name))}
	case errors.As(fit, &unfit):
		return []Check{failed("unit", reason.Config, fit.Error(), do("change %s with `systemctl edit %s`, or name another unit as service.unit in %s", unfit.Setting, u.name, e.o.File))}
	case u.NeedReload:
		checks = append(checks, failed("unit", reason.Config, fmt.Sprintf("the unit file of %s has changed on disk since systemd read it: a restart would be by the old one", u.name), run("systemctl daemon-reload")))
	case len(u.Start) > 0 && below(u.Start[0], e.dir.CurrentPath()) != "" && u.RootDir == "" && missing(u.Start[0]) && !missing(e.dir.CurrentPath()):
		checks = append(checks, failed("unit", reason.Mismatch, fmt.Sprintf("%s starts %s, which is not in the release that is live: what runs goes on, and starts no more", u.name, u.Start[0]),
			do("see with `puller verify` whether the release is whole: `puller verify --repair` fetches it again; else correct ExecStart=, `systemctl edit --full %s`", u.name)))
	case !e.through(u) && u.MainPID == 0 && len(u.Start) > 0 && script(u.Start[0]) != "":
		checks = append(checks, warning("unit", fmt.Sprintf("%s runs %s, a script that does not name %s: releases may never be started by it", u.name, u.Start[0], e.dir.CurrentPath()), do("see whether it starts what is in there")))
	case !e.through(u):
		checks = append(checks, failed("unit", reason.Config, fmt.Sprintf("%s runs %s, which is not in %s: no release is ever started by it", u.name, strings.Join(u.Start, " "), e.dir.CurrentPath()),
			do("let ExecStart= begin with %s/: `systemctl edit --full %s`, then `systemctl restart %[2]s`", e.dir.CurrentPath(), u.name)))
	}
	if u.Enabled == "disabled" {
		checks = append(checks, warning("unit", u.name+" is not started with the machine", run("systemctl enable %s", u.name)))
	}
	return checks
}

// envGroups finds env files that another group than the app's may read.
func (e *examiner) envGroups(u unit) (checks []Check) {
	groups := []string{"0"}
	if of, err := user.Lookup(u.User); u.User != "" && err == nil {
		groups = append(groups, of.Gid)
	}
	if g, err := user.LookupGroup(u.Group); u.Group != "" && err == nil {
		groups = append(groups, g.Gid)
	}
	for _, file := range e.cfg.Env.Files {
		info, err := os.Stat(file)
		if err != nil || info.Mode().Perm()&0o040 == 0 || u.DynamicUser {
			continue
		}
		if gid := fmt.Sprint(info.Sys().(*syscall.Stat_t).Gid); !slices.Contains(groups, gid) {
			checks = append(checks, warning("permissions", fmt.Sprintf("the env file %s may be read by group %s, which is not that of %s", file, gid, u.name), giveGroup(groups[len(groups)-1], file)))
		}
	}
	return checks
}

// giveGroup lets a group read an env file, and nothing else: a link in its place may lead to
// what is not to be given away, also one that is put there before the command is pasted (-h).
func giveGroup(gid, file string) mend {
	if to, err := os.Readlink(file); err == nil {
		return do("%s is a link to %s: put a file in its place that holds what the app needs, root's, which group %s may read", file, to, gid)
	}
	return run("chgrp -h %s %s", gid, quoted(file))
}

// through reports whether a unit runs what `current` names, as far as that can be seen: in what
// it says, in a script that it runs, or in what runs.
func (e *examiner) through(u unit) bool {
	cur := e.dir.CurrentPath()
	path := regexp.MustCompile(regexp.QuoteMeta(cur) + `($|[^\w.-])`)
	names := path.MatchString
	for _, text := range append(append([]string{u.WorkDir, u.RootDir}, u.Start...), u.Env...) {
		if names(text) {
			return true
		}
	}
	for _, command := range u.Others {
		if names(strings.Join(command, "\n")) {
			return true
		}
	}
	if len(u.Start) > 0 && names(script(u.Start[0])) {
		return true
	}
	if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", u.MainPID)); u.MainPID != 0 && err == nil && names(string(line)) {
		return true
	}
	releases := e.dir.ReleasesPath()
	for _, link := range []string{"exe", "cwd"} {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", u.MainPID, link))
		if u.MainPID != 0 && err == nil && below(to, releases, real(releases)) != "" && !e.fixed(u) {
			return true
		}
	}
	return false
}

// fixed reports whether a unit names one release, rather than what is live.
func (e *examiner) fixed(u unit) bool {
	return strings.Contains(strings.Join(append([]string{u.WorkDir}, u.Start...), "\n"), e.dir.ReleasesPath()+"/")
}

// script returns the beginning of a program that is a text.
func script(program string) string {
	text, err := contents(program, 256<<10)
	if err != nil || !strings.HasPrefix(string(text), "#!") {
		return ""
	}
	return string(text)
}

// probes asks the app, as after an activation.
func (e *examiner) probes(ctx context.Context) (checks []Check) {
	cur, err := e.dir.Current()
	h := e.cfg.Health
	switch {
	case err != nil || cur.Version == "":
		return []Check{skip("app", "a release that is live")}
	case h.URL == "" && len(h.Smoke) == 0:
		return []Check{ok("app", "there are no probes")}
	case e.changing():
		return []Check{skip("app", "the release to have proved itself")}
	}
	asks := []probe.Probe{}
	if h.URL != "" {
		asks = append(asks, probe.Probe{URL: h.URL, JSON: h.JSON})
	}
	for _, u := range h.Smoke {
		asks = append(asks, probe.Probe{Smoke: []string{u}})
	}
	errs := make([]error, len(asks))
	var at sync.WaitGroup
	for n, p := range asks {
		at.Go(func() { errs[n] = p.Run(ctx, cur.Version) })
	}
	at.Wait()
	if e.changing() {
		return []Check{skip("app", "the release to have proved itself")}
	}
	for n, err := range errs {
		if err != nil {
			checks = append(checks, e.unwell(asks[n], cur, err))
		}
	}
	if len(checks) == 0 {
		checks = append(checks, ok("app", "%s is well", cur.Version))
	}
	return checks
}

func (e *examiner) unwell(p probe.Probe, cur node.Current, err error) Check {
	key := "health.url"
	if p.URL == "" {
		key = "health.smoke"
	}
	text := strings.TrimPrefix(err.Error(), probe.ErrUnhealthy.Error()+": ")
	why := ""
	if u := e.cfg.Service.Unit; u != "" {
		why = fmt.Sprintf(", or see why the app does not answer so: `journalctl -u %s`", u)
	}
	return failed("app", reason.Unhealthy, fmt.Sprintf("%s, which is live, is not well: %s", cur.Version, text), do("correct %s in %s%s", key, e.o.File, why)).because("deployer", "environment")
}
