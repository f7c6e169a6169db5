package adopt

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
)

// Move is state of the former install that goes to another directory.
type Move struct {
	From string // below the old root, relative
	To   string // absolute
}

// ParseMove reads FROM=TO.
func ParseMove(s string) (Move, error) {
	from, to, ok := strings.Cut(s, "=")
	from = strings.TrimSuffix(from, "/")
	switch {
	case !ok:
		return Move{}, reason.Errorf(reason.Config, "--state %q is not FROM=TO, such as data=/var/lib/mnw", s)
	case from == "" || from == "." || path.Clean(from) != from || !fs.ValidPath(from):
		return Move{}, reason.Errorf(reason.Config, "--state %q: %q is not a path below the old root", s, from)
	case !path.IsAbs(to) || path.Clean(to) != to || to == "/":
		return Move{}, reason.Errorf(reason.Config, "--state %q: %q is not a clean absolute path", s, to)
	}
	return Move{from, to}, nil
}

// rules say what becomes of a path below the old root.
type rules struct {
	oldRoot string
	current string
	old     func(rest string) (fs.FileInfo, error)
	release func(rest string) (fs.FileInfo, error)
	lost    func(rest string) string // something below rest that the release does not have; ""
	moves   []Move
}

// newRules returns the rules for a former install and a release that are on disk.
func newRules(oldRoot, current string, release *os.Root, moves []Move) (*rules, func() error, error) {
	old, err := os.OpenRoot(oldRoot)
	if err != nil {
		return nil, nil, reason.OnDisk(err)
	}
	r := &rules{oldRoot: oldRoot, current: current, old: old.Stat, release: release.Stat, moves: moves}
	r.lost = func(rest string) string { return firstLost(old, release, rest) }
	return r, old.Close, nil
}

// firstLost returns the first file below rest that only the old root has. Links are not
// followed.
func firstLost(old, release *os.Root, rest string) (lost string) {
	err := fs.WalkDir(old.FS(), rest, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return nil //nolint:nilerr // what cannot be read is not compared
		}
		if _, err := release.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			lost = name
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return ""
	}
	return lost
}

// fate is what becomes of one path.
type fate struct {
	path string // the new one; the old one when it stays
	note string // what a person should know; ""
}

// apply decides about a clean absolute path; ok: it is below the old root.
func (r *rules) apply(p string) (f fate, ok bool) {
	clean := path.Clean(p)
	rest, below := strings.CutPrefix(clean, r.oldRoot+"/")
	if !below {
		if clean == r.oldRoot {
			return fate{p, "is the old root itself, which holds code and state: stays; change it to what the app looks for there"}, true
		}
		return fate{}, false
	}
	slash := strings.TrimPrefix(p, strings.TrimRight(p, "/"))
	for _, m := range r.moves {
		if rest == m.From {
			return fate{m.To + slash, ""}, true
		}
		if sub, in := strings.CutPrefix(rest, m.From+"/"); in {
			return fate{m.To + "/" + sub + slash, ""}, true
		}
	}
	if info, err := r.release(rest); err == nil {
		f := fate{path: r.current + "/" + rest + slash}
		if lost := ""; info.IsDir() {
			if lost = r.lost(rest); lost != "" {
				f.note = fmt.Sprintf("goes to the release, which does not have %s/%s: if that is state, move it with --state %s=DIR", r.oldRoot, lost, rest)
			}
		}
		return f, true
	}
	if _, err := r.old(rest); err == nil {
		top, _, _ := strings.Cut(rest, "/")
		return fate{p, fmt.Sprintf("is state: stays in the old root; --state %s=DIR would move it", top)}, true
	}
	return fate{p, "is neither in the release nor in the old root: stays; mend or remove it"}, true
}

// value decides about a value: a path, or a list of paths with colons between them. paths are
// the pairs of old and new of those that change.
func (r *rules) value(v string) (out string, paths [][2]string, notes []string) {
	one := func(p string) string {
		if !path.IsAbs(p) || strings.HasPrefix(p, "//") {
			return p
		}
		f, ok := r.apply(p)
		if !ok {
			return p
		}
		if f.note != "" {
			notes = append(notes, shown(p)+" "+f.note)
		}
		if f.path != p {
			paths = append(paths, [2]string{p, f.path})
		}
		return f.path
	}
	if !strings.Contains(v, r.oldRoot) {
		return v, nil, nil
	}
	// One that exists as a whole is no list, whatever is in its name.
	if !strings.Contains(v, ":") || r.known(v) {
		out = one(v)
	} else {
		parts := strings.Split(v, ":")
		for i, p := range parts {
			parts[i] = one(p)
		}
		out = strings.Join(parts, ":")
	}
	if len(notes) == 0 && names(out, r.oldRoot) {
		notes = append(notes, "has a path of the old root within a longer text: stays; look at it")
	}
	return out, paths, notes
}

func (r *rules) known(v string) bool {
	rest, below := strings.CutPrefix(path.Clean(v), r.oldRoot+"/")
	if !below {
		return false
	}
	_, inRelease := r.release(rest)
	_, inOld := r.old(rest)
	return inRelease == nil || inOld == nil
}

// names reports whether text names the directory dir, or something below it.
func names(text, dir string) bool {
	const inName = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
	for at := 0; ; {
		n := strings.Index(text[at:], dir)
		if n < 0 {
			return false
		}
		n += at
		at = n + len(dir)
		if !(n > 0 && strings.IndexByte(inName, text[n-1]) >= 0) && !(at < len(text) && strings.IndexByte(inName, text[at]) >= 0) {
			return true
		}
	}
}

// shown is as much of a path as may be printed: what follows a space, or a mark that begins the
// arguments of a URL, may be a secret.
func shown(p string) string {
	if n := strings.IndexAny(p, " \t\n?;#&"); n >= 0 {
		return p[:n] + "…"
	}
	return p
}

// Environment is the rewritten env file.
type Environment struct {
	Text  []byte
	Diff  string   // names, and of values only the paths that change
	Notes []string // what a person should know, a line each
	Vars  []envfile.Var
}

// rewrite makes the new env file of the old one. from and to name them in the diff.
func (r *rules) rewrite(text []byte, from, to string) (*Environment, error) {
	e := &Environment{}
	var diff strings.Builder
	changed := false
	var err error
	e.Text, err = envfile.Rewrite(text, func(v envfile.Var) (string, bool) {
		value, paths, notes := r.value(v.Value)
		for _, n := range notes {
			if n = v.Name + ": " + n; !slices.Contains(e.Notes, n) {
				e.Notes = append(e.Notes, n)
			}
		}
		if len(paths) == 0 {
			fmt.Fprintf(&diff, " %s=%s\n", v.Name, hidden)
			return v.Value, false
		}
		changed = true
		show := func(n int) string {
			if len(paths) == 1 && (paths[0][0] == v.Value) {
				return shown(paths[0][n])
			}
			var all []string
			for _, p := range paths {
				all = append(all, shown(p[n]))
			}
			return "…" + strings.Join(all, "…") + "…"
		}
		fmt.Fprintf(&diff, "-%s=%s\n+%[1]s=%[3]s\n", v.Name, show(0), show(1))
		return value, true
	})
	if err != nil {
		return nil, reason.Errorf(reason.Env, "env file %s: %w", from, err)
	}
	if e.Vars, err = envfile.Parse(e.Text); err != nil {
		return nil, reason.Errorf(reason.Env, "env file %s: %w", from, err)
	}
	if changed {
		e.Diff = fmt.Sprintf("--- %s\n+++ %s\n%s", from, to, diff.String())
	}
	return e, nil
}

// hidden stands for a value that stays as it is, and may be a secret.
const hidden = "(unchanged)"

// join is what several env files say one after the other.
func join(files [][]byte) ([]byte, error) {
	if len(files) == 1 {
		return files[0], nil
	}
	var all []byte
	var vars [][]envfile.Var
	for _, data := range files {
		v, err := envfile.Parse(data)
		if err != nil {
			return nil, err
		}
		vars = append(vars, v)
		if len(all) > 0 && !strings.HasSuffix(string(all), "\n") {
			all = append(all, '\n')
		}
		all = append(all, data...)
	}
	got, err := envfile.Parse(all)
	if err == nil && !slices.Equal(got, envfile.Merge(vars...)) {
		err = fmt.Errorf("%w: the files say something else one after the other; end each of them with a whole line", envfile.ErrSyntax)
	}
	return all, err
}
