package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

// surroundings looks for others that deploy into the same directory. Only what is surely one
// counts: what reads the directory, a backup for example, is nobody's business.
func (e *examiner) surroundings(context.Context) []Check {
	checks := append(e.neighbours(), e.foreign()...)
	checks = append(checks, e.copying()...)
	if len(checks) == 0 {
		checks = append(checks, ok("deployer", "none but the puller"))
	}
	return checks
}

// neighbours finds configurations of other apps that name the same directory or unit.
func (e *examiner) neighbours() (checks []Check) {
	files, _ := filepath.Glob(filepath.Join(filepath.Dir(e.o.File), "*.toml")) // the pattern is good
	for _, file := range files {
		app := strings.TrimSuffix(filepath.Base(file), ".toml")
		if same(file, e.o.File) || layout.CheckApp(app) != nil {
			continue
		}
		other, err := puller.LoadConfig(file, nil)
		if err != nil {
			other = puller.Guess(file, nil)
		}
		switch {
		case real(other.Root) == real(e.cfg.Root):
			checks = append(checks, failed("deployer", reason.Config, fmt.Sprintf("%s names the same root as %s: %s", file, e.o.File, e.cfg.Root), do("give each app a root of its own, or take one of the two files away")))
		case other.Service.Unit != "" && other.Service.Unit == e.cfg.Service.Unit:
			checks = append(checks, failed("deployer", reason.Config, fmt.Sprintf("%s names the same unit as %s: %s", file, e.o.File, e.cfg.Service.Unit), do("give each app a unit of its own, or take one of the two files away")))
		}
	}
	return checks
}

// foreign finds releases that another deployer put in place since the puller activated something.
func (e *examiner) foreign() (checks []Check) {
	st, err := e.dir.State()
	if err != nil || st == nil || st.Running == nil || st.Running.Manifest == "" {
		return nil
	}
	versions, err := e.dir.Releases()
	if err != nil {
		return nil
	}
	for _, v := range versions {
		info, err := os.Lstat(e.dir.ReleasePath(v))
		if _, rerr := e.dir.Release(v); err != nil || !errors.Is(rerr, node.ErrForeign) || !info.ModTime().After(st.Running.Since.Time) {
			continue
		}
		checks = append(checks, warning("deployer", fmt.Sprintf("%s was put there by another deployer at %s, after the puller activated %s", e.dir.ReleasePath(v), info.ModTime().UTC().Format("2006-01-02T15:04:05Z"), st.Running.Version),
			do("find out who, and end that: see who may write there, crontabs, and `journalctl --since '%s'`", info.ModTime().UTC().Format("2006-01-02 15:04:05 UTC"))))
	}
	return checks
}

// copying finds programs that write files into the directory at this moment.
func (e *examiner) copying() (checks []Check) {
	found, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is good
	for _, file := range found {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
		if target := written(args); target == "" || below(target, e.dir.Root(), real(e.dir.Root())) == "" {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		checks = append(checks, warning("deployer", fmt.Sprintf("%s (pid %d) writes into %s at this moment", filepath.Base(args[0]), pid, e.dir.Root()), do("find out who started it, and end that: `ps -o user,lstart,args -p %d`", pid)))
	}
	return checks
}

// written returns where a program that copies files puts them: the last argument of rsync or
// scp, unless that is the side that sends.
func written(args []string) string {
	last := args[len(args)-1]
	switch name := filepath.Base(args[0]); {
	case len(args) < 2 || !strings.HasPrefix(last, "/"):
		return ""
	case name == "rsync":
		for _, a := range args {
			if a == "--sender" {
				return ""
			}
		}
		return filepath.Clean(last)
	case name == "scp":
		for _, a := range args {
			if a == "-t" || len(args) > 2 && !strings.HasPrefix(a, "-") && strings.Contains(a, ":") {
				return filepath.Clean(last)
			}
		}
	}
	return ""
}
