package puller

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller/envfile"
	"makenot.work/sando/puller/hook"
)

// The env audit asks before the swap what would else be found out by the app: whether its
// environment has what it must have, and whether the files of a release that it names are in
// the new one. It remembers nothing: whoever mends an env file has mended it.

// audit refuses a release on disk that the app's env files do not fit ("env"). A person who
// orders a release, and one that ran well here, is only warned of.
func (c *cycle) audit(t target) error {
	if t.Force || c.opts.Prepare || len(c.cfg.Env.Files) == 0 || t.Version == c.cur.Version {
		return nil
	}
	faults, err := c.envFaults(t.Version)
	if err != nil {
		return err
	}
	if len(faults) == 0 {
		return nil
	}
	text := strings.Join(faults, "; ")
	if t.Pin || c.st.RanWell(t.Version, t.Manifest) {
		c.warn("the app's environment does not fit %s: %s", t.Version, text)
		return nil
	}
	return reason.Errorf(reason.Env, "the app's environment does not fit %s: %s; mend that, and the next cycle goes on; `puller --pin %[1]s` would start it as it is", t.Version, text)
}

// envFaults returns what is wrong with the env files for a version, a line each. Of values
// only paths in a release are in them: others may be secrets.
func (c *cycle) envFaults(version string) (faults []string, err error) {
	vars, faults := c.readEnv()
	root, err := os.OpenRoot(c.dir.ReleasePath(version))
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	defer root.Close()
	return append(faults, Unfit(vars, c.dir.CurrentPath(), root, version)...), nil
}

// Unfit returns what vars name below the symlink current that a release does not have, a line
// each. Of values only such paths are in them.
func Unfit(vars []envfile.Var, current string, release *os.Root, version string) (faults []string) {
	for _, v := range vars {
		for _, name := range lacking(v.Value, current, release) {
			faults = append(faults, fmt.Sprintf("%s names %s, which %s does not have", v.Name, name, version))
		}
	}
	return faults
}

// readEnv reads the env files, and returns what is wrong with them whatever the release.
func (c *cycle) readEnv() (vars []envfile.Var, faults []string) {
	var files [][]envfile.Var
	for _, file := range c.cfg.Env.Files {
		vars, err := envfile.Read(file)
		if err != nil {
			faults = append(faults, unreadable(file, err))
		}
		files = append(files, vars)
	}
	whole := len(faults) == 0
	vars = envfile.Merge(files...)
	for _, name := range c.cfg.Env.Required {
		i := slices.IndexFunc(vars, func(v envfile.Var) bool { return v.Name == name })
		switch {
		case i >= 0 && vars[i].Value == "":
			faults = append(faults, name+" is empty")
		case i < 0 && whole: // else it may be in the file that cannot be read
			faults = append(faults, fmt.Sprintf("%s is not set in %s", name, strings.Join(c.cfg.Env.Files, ", ")))
		}
	}
	for _, v := range vars {
		if len(c.cfg.Hooks) > 0 && slices.Contains(hook.Variables(), v.Name) {
			faults = append(faults, v.Name+" is set, and is for the puller to tell hooks: remove it")
		}
	}
	return vars, faults
}

// lacking returns the paths below `current` that a value names, as a whole or in a list with
// colons, and that are not in the release.
func lacking(value, current string, release *os.Root) (names []string) {
	missing := func(text string) bool {
		name, inside := strings.CutPrefix(path.Clean(text), current+"/")
		// What begins with two slashes is of a URL, and may have more than a path in it.
		if !inside || strings.HasPrefix(text, "//") {
			return false
		}
		_, err := release.Stat(name) // links count as what they lead to, within the release
		return err != nil
	}
	if !missing(value) && !strings.Contains(value, ":/") {
		return nil
	}
	for part := range strings.SplitSeq(value, ":") {
		if !missing(part) {
			continue
		}
		// What follows a space, or a mark that begins the arguments of a URL, may be a secret.
		word, _, _ := strings.Cut(strings.Fields(part)[0], "?")
		word, _, _ = strings.Cut(word, ";")
		if missing(word) && !slices.Contains(names, word) {
			names = append(names, word)
		}
	}
	return names
}

// unreadable says why an env file cannot be read, and what mends that.
func unreadable(file string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Sprintf("%s is missing: make it, or remove it from env.files", file)
	case errors.Is(err, fs.ErrPermission):
		return fmt.Sprintf("%s may not be read by the puller (uid %d, without other rights): systemd reads it for the app as root, so `chown root %[1]s` and `chmod 600 %[1]s` suit both", file, os.Geteuid())
	}
	return err.Error()
}
