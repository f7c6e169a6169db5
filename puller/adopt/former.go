package adopt

import (
	"bytes"
	"context"
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

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/adopt/backup"
	"makenot.work/sando/puller/bootstrap"
	"makenot.work/sando/puller/envfile"
	"makenot.work/sando/systemd"
)

// former is the install that is taken over.
type former struct {
	facts systemd.Facts
	files systemd.Files
	env   []string // its env files, in the order in which they count
	// dotenv: nobody but the app itself reads env, which is one file.
	dotenv bool
	core   []string // what the old unit needs to start
	paths  []string // what is backed up: that, and what else names the old root
}

// survey finds out what the former install is made of.
func (a *Adoption) survey(ctx context.Context) error {
	info, err := os.Stat(a.OldRoot)
	if err != nil || !info.IsDir() {
		return reason.Errorf(reason.Config, "--old-root: %s is not a directory", a.OldRoot)
	}
	err = with(ctx, func(c *systemd.Conn) (err error) {
		if a.old.facts, err = c.Facts(ctx, a.OldUnit); err != nil {
			return err
		}
		if a.old.facts.LoadState != "loaded" {
			return reason.Errorf(reason.Config, "--old-unit: %w", &systemd.UnitError{Unit: a.OldUnit, LoadState: a.old.facts.LoadState, Detail: a.old.facts.LoadError})
		}
		a.old.files, err = c.Files(ctx, a.OldUnit)
		return err
	})
	if err != nil {
		return err
	}
	if a.old.files.Unit == "" {
		return reason.Errorf(reason.Config, "--old-unit: %s has no file, so nothing could be kept of it to go back to", a.OldUnit)
	}
	if err := a.findEnv(); err != nil {
		return err
	}
	a.old.core = append([]string{a.old.files.Unit}, a.old.files.DropIns...)
	a.old.core = append(a.old.core, a.old.env...)
	a.old.paths = slices.Clone(a.old.core)
	if a.References == nil {
		return nil
	}
	more, err := a.References(ctx)
	if err != nil {
		return fmt.Errorf("look for %s: %w", a.OldRoot, err)
	}
	for _, p := range more {
		// What is in the old root stays there. What is in the new one is not of the old install.
		in := strings.HasPrefix(p, a.OldRoot+"/") || strings.HasPrefix(p, a.Root+"/") || strings.HasPrefix(p, a.Backups+"/") || p == a.EnvFile
		info, err := os.Lstat(p)
		small := err == nil && (info.Mode().IsRegular() && info.Size() <= backup.MaxFile || info.Mode()&fs.ModeSymlink != 0)
		if !in && small && !slices.Contains(a.old.paths, p) {
			a.old.paths = append(a.old.paths, p)
		}
	}
	return nil
}

// HasEnv reports whether the new env file is made from an old one.
func (a *Adoption) HasEnv() bool { return a.EnvFile != "" && len(a.old.env) > 0 }

// findEnv finds the env files of the old unit that there are.
func (a *Adoption) findEnv() error {
	if len(a.OldEnv) > 0 {
		a.old.env = a.OldEnv
		return nil
	}
	for _, e := range a.old.files.Env {
		if strings.ContainsAny(e.Path, "*?[") {
			return reason.Errorf(reason.Config, "%s has EnvironmentFile=%s: name the files, in the order in which they count, with --old-env", a.OldUnit, e.Path)
		}
		_, err := os.Stat(e.Path)
		if errors.Is(err, fs.ErrNotExist) && e.Optional {
			continue
		}
		if err != nil {
			return reason.Errorf(reason.Config, "env file of %s: %w", a.OldUnit, err)
		}
		a.old.env = append(a.old.env, e.Path)
	}
	if dot := filepath.Join(a.OldRoot, ".env"); len(a.old.env) == 0 {
		if _, err := os.Stat(dot); err == nil {
			a.old.env, a.old.dotenv = []string{dot}, true
		}
	}
	return nil
}

func (a *Adoption) lookBackup(ctx context.Context) ([]bootstrap.Change, error) {
	done, err := a.adopted(ctx)
	if err != nil || done {
		return nil, err
	}
	p, err := a.progress()
	if err != nil {
		return nil, err
	}
	if a.backup != nil {
		if err := a.backup.Check(); err != nil {
			return nil, err
		}
		// One of the files that only name the old root is kept as it was first: who changes it
		// clears up.
		old := len(a.backup.Changed(a.old.core)) == 0 && !slices.ContainsFunc(a.old.paths, func(p string) bool { return !a.backup.Has(p) })
		if old || p.Phase == switching {
			return nil, nil
		}
	}
	what := "back up to " + a.Backups + ":"
	return []bootstrap.Change{{What: what + " " + strings.Join(a.old.paths, ", ")}}, nil
}

func (a *Adoption) doBackup(ctx context.Context) error {
	list := backup.List{App: a.App, At: canon.At(a.Now()), OldRoot: a.OldRoot, OldUnit: a.OldUnit, Enabled: a.old.enabled()}
	needs := backup.Needs{Root: a.Root, Unit: a.Unit, Restore: a.old.core}
	for _, m := range a.State {
		needs.State = append(needs.State, [2]string{filepath.Join(a.OldRoot, m.From), m.To})
	}
	var err error
	if a.backup, err = backup.Make(ctx, a.Backups, list, a.old.paths, needs); err != nil {
		return err
	}
	a.Log(fmt.Sprintf("backed up %d files to %s", len(a.backup.Files), a.backup.Path))
	return a.backup.Test(ctx)
}

func (f *former) enabled() bool { return strings.HasPrefix(f.files.Enabled, "enabled") }

// adopted reports whether there is nothing left to do: a release of the new app proved itself, it
// starts with the machine, and the old one neither runs nor does. What the new app does since then, it
// may be stopped or have an update in hand, is its own affair.
func (a *Adoption) adopted(ctx context.Context) (bool, error) {
	st, err := a.dir.State()
	if err != nil && !errors.Is(err, node.ErrBroken) {
		return false, err
	}
	p, err := a.progress()
	if err != nil || a.old.enabled() || !p.over(st) || up(a.old.facts) {
		return false, err
	}
	var is bool
	err = with(ctx, func(c *systemd.Conn) error {
		files, err := c.Files(ctx, a.Unit)
		is = strings.HasPrefix(files.Enabled, "enabled")
		return err
	})
	return is, err
}

func up(f systemd.Facts) bool { return f.ActiveState != "inactive" && f.ActiveState != "failed" }

// over reports whether the new app took over for good, and nobody went back since.
func (p progress) over(st *node.State) bool {
	return p.Phase == switched || p.Phase != wentBack && proven(st)
}

// lives reports whether the new app has worked with the copies since they were made, and the old
// one has not run: they hold what is newest, whatever else has touched what they were made of.
func (a *Adoption) lives(p progress) bool {
	st, err := a.dir.State()
	killed := p.Phase == switching // before the old unit was disabled
	return err == nil && p.over(st) && p.Phase != "" && !up(a.old.facts) && (killed || !a.old.enabled())
}

// proven reports whether what is live proved itself.
func proven(st *node.State) bool {
	return st != nil && st.Intent == nil && st.Retry == nil && st.Running != nil && st.LastGood != nil && st.Running.Version == st.LastGood.Version
}

// lookEnv makes the new env file, in memory, and compares it with the one on disk.
func (a *Adoption) lookEnv(ctx context.Context) ([]bootstrap.Change, error) {
	done, err := a.adopted(ctx)
	if err != nil || done || len(a.old.env) == 0 {
		return nil, err
	}
	if err := a.makeEnv(); err != nil {
		return nil, err
	}
	have, err := os.ReadFile(a.EnvFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, reason.OnDisk(err)
	}
	from := strings.Join(a.old.env, ", ")
	c := bootstrap.Change{What: fmt.Sprintf("make %s of %s", a.EnvFile, from), Diff: a.env.Diff}
	switch {
	case err == nil && string(have) == string(a.env.Text):
		c = bootstrap.Change{}
	case err == nil:
		c = bootstrap.Change{
			What: fmt.Sprintf("%s is there, and is not what %s would become: it stays; move it away to have it made anew", a.EnvFile, from),
			Diff: bootstrap.DiffEnv(a.EnvFile, have, a.env.Text), Kept: true,
		}
	}
	var changes []bootstrap.Change
	if c.What != "" {
		changes = append(changes, c)
	}
	for _, n := range a.env.Notes {
		changes = append(changes, bootstrap.Change{What: n, Kept: true})
	}
	if names := a.old.files.EnvNames; len(names) > 0 {
		changes = append(changes, bootstrap.Change{What: fmt.Sprintf("%s sets %s by Environment=, which is not taken over: write what the app needs of it into %s or %s", a.OldUnit, strings.Join(names, ", "), a.EnvFile, a.Unit), Kept: true})
	}
	return changes, nil
}

// makeEnv computes the new env file from the old ones and the release, and holds it against the
// release.
func (a *Adoption) makeEnv() error {
	var texts [][]byte
	for _, f := range a.old.env {
		data, err := readOld(f)
		if err != nil {
			return err
		}
		texts = append(texts, data)
	}
	from := strings.Join(a.old.env, ", ")
	text, err := join(texts)
	if err != nil {
		return reason.Errorf(reason.Env, "env file %s: %w", from, err)
	}
	release, err := os.OpenRoot(a.release)
	if err != nil {
		return reason.OnDisk(err)
	}
	defer release.Close()
	rules, done, err := newRules(a.OldRoot, a.dir.CurrentPath(), release, a.State)
	if err != nil {
		return err
	}
	defer done()
	if a.env, err = rules.rewrite(text, from, a.EnvFile); err != nil {
		return err
	}
	if a.old.dotenv {
		a.env.Notes = append(dotenv(text, a.env.Vars), a.env.Notes...)
	}
	if faults := puller.Unfit(a.env.Vars, a.dir.CurrentPath(), release, a.version); len(faults) > 0 {
		return reason.Errorf(reason.Env, "the app's environment would not fit %s: %s; mend %s, nothing was stopped", a.version, strings.Join(faults, "; "), from)
	}
	return nil
}

// readOld reads an old env file. Who can write beside it may have put a link there to what only root may
// read, and would find that in the new one.
func readOld(path string) ([]byte, error) {
	real, links, err := follow(path)
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, real, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return nil, reason.OnDisk(&fs.PathError{Op: "open", Path: real, Err: err})
	}
	f := os.NewFile(uintptr(fd), real)
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	if !info.Mode().IsRegular() {
		return nil, reason.Errorf(reason.Env, "env file %s is not a regular file", real)
	}
	for _, link := range links {
		if uid := link.Sys().(*syscall.Stat_t).Uid; uid != 0 && uid != info.Sys().(*syscall.Stat_t).Uid {
			return nil, reason.Errorf(reason.Config, "env file %s: uid %d made a link that leads to %s, which is not theirs: if that is meant, say so with --old-env %[3]s", path, uid, real)
		}
	}
	data, err := io.ReadAll(io.LimitReader(f, envfile.MaxSize+1)) // one byte more is refused by who reads it
	return data, reason.OnDisk(err)
}

// follow returns where a path leads to, and the links on the way.
func follow(path string) (real string, links []fs.FileInfo, err error) {
	const most = 40 // as Linux has it
	real = path
	for range most {
		next := ""
		for n := range len(real) {
			end := n + 1
			if end < len(real) && real[end] != '/' {
				continue
			}
			info, err := os.Lstat(real[:end])
			if err != nil {
				return "", nil, err
			}
			if info.Mode()&fs.ModeSymlink == 0 {
				continue
			}
			links = append(links, info)
			target, err := os.Readlink(real[:end])
			if err != nil {
				return "", nil, err
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(real[:end]), target)
			}
			next = filepath.Join(target, real[end:])
			break
		}
		if next == "" {
			return real, links, nil
		}
		real = next
	}
	return "", nil, &fs.PathError{Op: "open", Path: path, Err: unix.ELOOP}
}

// doEnv writes the new env file: root's, readable by the app. It has its owner when it has its
// name: what somebody puts there in its place is given to nobody.
func (a *Adoption) doEnv(context.Context) error {
	_, gid, err := ids(a.User)
	if err != nil {
		return fmt.Errorf("env file %s: %w", a.EnvFile, err)
	}
	return writeEnv(a.EnvFile, a.env.Text, 0, gid)
}

func writeEnv(path string, text []byte, uid, gid int) error {
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return reason.OnDisk(err)
	}
	err := durable.CreateOwned(path, bytes.NewReader(text), 0o640, uid, gid)
	if errors.Is(err, fs.ErrExist) {
		return nil // it stays, whatever it is
	}
	return reason.OnDisk(err)
}
