package doctor

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
)

// user looks whether doctor can see what the puller sees.
func (e *examiner) user() []Check {
	if e.uid == 0 {
		return []Check{ok("user", "root")}
	}
	for _, p := range []string{e.dir.Path(), e.dir.Root()} {
		info, err := os.Lstat(p)
		if err != nil {
			continue
		}
		if owner := ownerOf(info); owner != e.uid {
			return []Check{failed("user", reason.Config, fmt.Sprintf("this is uid %d, and the puller of %s runs as uid %d: what only that one may read was not looked at", e.uid, e.dir.Root(), owner),
				do("run `puller doctor` as that user: with `sudo`, where it is root"))}
		}
		return []Check{ok("user", "uid %d, as the puller", e.uid)}
	}
	for _, p := range slices.Backward(chain(e.dir.Root())) {
		if info, err := os.Lstat(p); err == nil { // where it would be made
			if ownerOf(info) == e.uid {
				return []Check{ok("user", "uid %d", e.uid)}
			}
			break
		}
	}
	return []Check{failed("user", reason.Config, fmt.Sprintf("this is uid %d, and there is no %s of a puller's that runs so: what only root may read was not looked at", e.uid, e.dir.Root()),
		do("run `puller doctor` as root"))}
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }

// permissions looks who could change what runs or read what is secret, and whether the puller
// can read what it needs.
func (e *examiner) permissions() (checks []Check) {
	seen := map[string]bool{}
	look := func(c *Check) {
		if c != nil {
			checks = append(checks, *c)
		}
	}
	owned := func(path string) {
		for _, p := range chain(path) {
			if !seen[p] {
				seen[p] = true
				look(e.owned(p, ""))
			}
		}
	}
	owned(e.dir.Root())
	owned(e.dir.ReleasesPath())
	for _, p := range e.own() {
		look(e.private(p))
	}
	look(e.live())
	for _, f := range e.files() {
		for _, p := range chain(f.path) {
			if c := e.owned(p, f.path); !seen[p] {
				seen[p] = true
				look(c)
			}
		}
		look(e.file(f))
	}
	for _, f := range e.cfg.Env.Files {
		for _, p := range chain(filepath.Dir(f)) {
			if c := e.owned(p, f); c != nil && !seen[p] { // whose affair it is: the operator's
				seen[p] = true
				look(new(warning("permissions", c.Found, mend{c.Mend, c.Command})))
			}
		}
		look(e.envFile(f))
	}
	if len(checks) == 0 && !e.unseen() {
		if err := e.dir.Check(); err != nil { // what the puller itself refuses to work with
			checks = append(checks, failed("permissions", reason.Of(err), err.Error(), do("mend that, as it says")))
		}
	}
	if len(checks) == 0 {
		checks = append(checks, ok("permissions", "%s, %s and what they hold", e.dir.Root(), filepath.Dir(e.o.File)))
	}
	return append(checks, e.credentials()...)
}

// unseen reports whether doctor may look into what is the puller's alone.
func (e *examiner) unseen() bool {
	_, err := os.ReadDir(e.dir.Path())
	return errors.Is(err, fs.ErrPermission)
}

// chain returns a path and all that is above it, as it is written and as links lead to it, the
// shortest first.
func chain(path string) (all []string) {
	starts := []string{path}
	if real, err := filepath.EvalSymlinks(path); err == nil && real != path {
		starts = append(starts, real)
	}
	for _, start := range starts {
		for p := start; !slices.Contains(all, p); p = filepath.Dir(p) {
			all = append(all, p)
		}
	}
	slices.SortStableFunc(all, func(a, b string) int { return len(a) - len(b) })
	return all
}

// owned finds who else than root, or the puller's own user, could replace a path. file is what is
// looked for there; "" for the releases themselves.
func (e *examiner) owned(path, file string) *Check {
	info, err := os.Lstat(path)
	if err != nil {
		return nil // what is missing is told by who needs it
	}
	uid, bad := ownerOf(info), []string{}
	var mends []string
	if uid != 0 && uid != e.uid {
		bad = append(bad, fmt.Sprintf("belongs to uid %d, who could replace what is in it", uid))
		mends = append(mends, "chown "+e.owner()+" "+quoted(path))
	}
	open := info.Mode().Perm()&0o022 != 0 && info.Mode()&(fs.ModeSticky|fs.ModeSymlink) == 0
	if open {
		bad = append(bad, fmt.Sprintf("is writable by others (mode %04o), who could replace what runs", info.Mode().Perm()))
		mends = append(mends, "chmod go-w "+quoted(path))
	}
	if len(bad) == 0 {
		return nil
	}
	m := run("%s", strings.Join(mends, " && "))
	if file != "" && file != path && uid != 0 && uid != e.uid && !e.common(path) {
		m = e.moveAway(path, file)
	}
	c := failed("permissions", reason.Config, path+" "+strings.Join(bad, ", and "), m)
	return &c
}

// common reports whether a directory is of the system, or Sando's: in others those whose they are
// work, and could not any more if they were root's.
func (e *examiner) common(dir string) bool {
	return strings.Count(dir, "/") == 1 || below(dir, filepath.Dir(e.o.File), e.dir.Root()) != ""
}

// moveAway is what to do with a file in a directory that is another's.
func (e *examiner) moveAway(dir, file string) mend {
	to := filepath.Join(filepath.Dir(e.o.File), e.cfg.App)
	if slices.Contains(e.cfg.Env.Files, file) {
		to = "/etc/" + e.cfg.App
		return do("%s may well be somebody's to work in: leave it, move %s to a directory of root's, such as %s, and name it there in %s and in the app's unit", dir, file, to, e.o.File)
	}
	return do("%s may well be somebody's to work in: leave it, move %s to a directory of root's, such as %s, and name it there in %s", dir, file, to, e.o.File)
}

// owner is who has to own things, for chown.
func (e *examiner) owner() string {
	if e.uid == 0 {
		return "root"
	}
	return fmt.Sprint(e.uid)
}

// own returns the directories that are the puller's alone.
func (e *examiner) own() []string {
	paths := []string{e.dir.Path()}
	for _, sub := range []string{"channels", "trust", "staging", "fetch", "trash"} {
		paths = append(paths, e.dir.Path(sub))
	}
	return paths
}

// private looks at a directory that nobody else may look into.
func (e *examiner) private(path string) *Check {
	info, err := os.Lstat(path)
	if err != nil {
		return nil
	}
	var c Check
	switch uid := ownerOf(info); {
	case !info.IsDir():
		c = failed("permissions", reason.Config, path+" is not a directory", run("mv %s %s", quoted(path), quoted(path+".away")))
	case uid != e.uid && e.uid == 0:
		c = failed("permissions", reason.Config, fmt.Sprintf("%s belongs to uid %d, and the puller runs as uid %d", path, uid, e.uid), run("chown %s %s", e.owner(), quoted(path)))
	case info.Mode().Perm()&0o077 != 0:
		c = failed("permissions", reason.Config, fmt.Sprintf("%s has mode %04o: others could look into it, or change it", path, info.Mode().Perm()), run("chmod 700 %s", quoted(path)))
	default:
		return nil
	}
	return &c
}

// live looks who could change the release that runs.
func (e *examiner) live() *Check {
	cur, err := e.dir.Current()
	if err != nil || cur.Version == "" {
		return nil
	}
	path := e.dir.ReleasePath(cur.Version)
	info, err := os.Lstat(path)
	if err != nil || (ownerOf(info) == 0 || ownerOf(info) == e.uid) && info.Mode().Perm()&0o022 == 0 {
		return nil
	}
	found := fmt.Sprintf("the live release %s can be changed by others (uid %d, mode %04o)", path, ownerOf(info), info.Mode().Perm())
	if _, err := e.dir.Release(cur.Version); errors.Is(err, node.ErrForeign) {
		// The app may own files that nobody else can read, and could not read them any more.
		c := warning("permissions", found, do("run here what `builder enroll %s --tier %s -- --adopt` prints: it makes them root's, and the app can read what it could", e.cfg.Node, e.cfg.Tier))
		return &c
	}
	c := warning("permissions", found,
		run("chown -R %s %s && chmod -R go-w %[2]s", e.owner(), quoted(path)))
	return &c
}

// file is one that the configuration names, or is.
type file struct {
	path   string
	key    string // of the configuration
	secret bool
}

// files returns those that the puller reads.
func (e *examiner) files() []file {
	c := e.cfg
	all := []file{{e.o.File, "the configuration", false}, {c.Trust, "trust", false}}
	if !e.good {
		return all
	}
	all = append(all,
		file{c.Storage.AccessKeyFile, "storage.access_key_file", true}, file{c.Storage.SecretKeyFile, "storage.secret_key_file", true},
		file{c.Storage.CAFile, "storage.ca_file", false},
		file{c.Report.AccessKeyFile, "report.access_key_file", c.Report.Enabled}, file{c.Report.SecretKeyFile, "report.secret_key_file", c.Report.Enabled},
		file{c.Channels.TokenFile, "channels.token_file", true}, file{c.Channels.CAFile, "channels.ca_file", false},
		file{c.Channels.SSHKey, "channels.ssh_key", true}, file{c.Channels.KnownHosts, "channels.known_hosts", false})
	return slices.DeleteFunc(all, func(f file) bool { return f.path == "" })
}

// file looks who else may read what is secret, and whether the puller may.
func (e *examiner) file(f file) *Check {
	info, err := os.Stat(f.path)
	var c Check
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.secret:
		c = failed("credentials", reason.Config, fmt.Sprintf("%s: %s is missing", f.key, f.path), do("write it, for nobody else to read: `(umask 077; cat >%s)`, paste what is to be in it, Enter, Ctrl-D", quoted(f.path)))
	case errors.Is(err, fs.ErrNotExist) && f.key != "trust" && f.path != e.o.File:
		c = failed("credentials", reason.Config, fmt.Sprintf("%s: %s is missing", f.key, f.path), do("write it there, or take %s out of %s", f.key, e.o.File))
	case err != nil:
		return nil // told by who reads it
	case f.secret && info.Mode().Perm()&0o007 != 0:
		c = failed("permissions", reason.Config, fmt.Sprintf("%s: anybody may read %s (mode %04o)", f.key, f.path, info.Mode().Perm()), run("chmod 600 %s", quoted(f.path)))
	case errors.Is(readable(f.path), fs.ErrPermission):
		c = failed("permissions", reason.Config, fmt.Sprintf("%s: the puller may not read %s (owner uid %d, mode %04o): it runs as uid %d without other rights", f.key, f.path, ownerOf(info), info.Mode().Perm(), e.uid),
			e.mendUnreadable(f.path))
	default:
		return nil
	}
	c = c.because("user")
	return &c
}

// mendUnreadable gives a file to the puller. What keeps it away may be a directory above.
func (e *examiner) mendUnreadable(path string) mend {
	for dir := filepath.Dir(path); dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && ownerOf(info) != e.uid && info.Mode().Perm()&0o001 == 0 {
			if !e.common(dir) {
				return e.moveAway(dir, path)
			}
			return run("chown %s %s && chmod u+rx %[2]s", e.owner(), quoted(dir))
		}
	}
	return run("chown %s %s && chmod u+r %[2]s", e.owner(), quoted(path))
}

// envFile looks at the same for an env file, which the app's own user may read as well.
func (e *examiner) envFile(path string) *Check {
	info, err := os.Stat(path)
	var c Check
	switch {
	case errors.Is(err, fs.ErrNotExist):
		c = failed("environment", reason.Env, "env.files: "+path+" is missing", do("make it, for nobody else to read: `install -m 600 /dev/null %s`, and put into it what the app needs; or take it out of env.files", quoted(path)))
	case err != nil:
		return nil
	case info.Mode().Perm()&0o007 != 0:
		c = failed("permissions", reason.Config, fmt.Sprintf("anybody may read the env file %s (mode %04o), and secrets may be in it", path, info.Mode().Perm()), run("chmod o= %s", quoted(path)))
	case errors.Is(readable(path), fs.ErrPermission):
		c = failed("permissions", reason.Env, fmt.Sprintf("the puller may not read the env file %s (owner uid %d, mode %04o): it runs as uid %d without other rights", path, ownerOf(info), info.Mode().Perm(), e.uid),
			e.mendUnreadable(path))
	case info.Mode().Perm()&0o020 != 0:
		c = warning("permissions", fmt.Sprintf("the group of the env file %s may change it (mode %04o)", path, info.Mode().Perm()), run("chmod g-w %s", quoted(path)))
	default:
		return nil
	}
	c = c.because("user")
	return &c
}

// credentials looks into those files, as far as that is needed to see that they hold what they
// should.
func (e *examiner) credentials() []Check {
	if !e.good {
		return []Check{skip("credentials", "a configuration that is accepted")}
	}
	conf := bucket.Config(e.cfg.Storage)
	if err := conf.Check(); err != nil {
		what := e.cfg.Storage.CAFile
		for _, f := range []string{e.cfg.Storage.AccessKeyFile, e.cfg.Storage.SecretKeyFile} {
			if f != "" && strings.Contains(err.Error(), f) {
				what = f
			}
		}
		c := failed("credentials", reason.Of(err), err.Error(), do("write %s again: one line with the key, and nothing else in it", what))
		if what == e.cfg.Storage.CAFile {
			c.Mend = fmt.Sprintf("put the certificate of the authority, as PEM, into %s", what)
		}
		return []Check{c.because("user", "permissions")}
	}
	if e.cfg.Storage.AccessKeyFile == "" && !e.cfg.Storage.Anonymous && strings.HasPrefix(e.cfg.Storage.URL, "s3:") {
		for _, name := range bucket.Variables() {
			if os.Getenv(name) != "" {
				return []Check{warning("credentials", fmt.Sprintf("the keys of the bucket come from %s, which this shell has: the puller's unit does not see it", name),
					do("name files with the keys as storage.access_key_file and storage.secret_key_file in %s", e.o.File))}
			}
		}
	}
	return []Check{ok("credentials", "key files are such")}
}

// fingerprint is what people compare.
func fingerprint(path string) string {
	data, err := contents(path, layout.MaxTrust+1)
	if err != nil || len(data) > layout.MaxTrust {
		return "unknown"
	}
	return string(layout.Sum(data))
}

// contents returns the beginning of a file. What is no file, a pipe for example, is not waited for.
func contents(path string, most int64) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file (%w)", path, cmp.Or(err, fs.ErrInvalid))
	}
	return io.ReadAll(io.LimitReader(f, most))
}
