package backup

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

type lab struct {
	t         *testing.T
	base, old string
	unit, env string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{t: t, base: dir + "/backups", old: dir + "/old", unit: dir + "/etc/it's old.service", env: dir + "/etc/.env"}
	for _, d := range []string{l.old, dir + "/etc"} {
		l.must(os.Mkdir(d, 0o755))
	}
	l.must(os.WriteFile(dir+"/etc/real.service", []byte("[Service]\n"), 0o644))
	l.must(os.Symlink("real.service", l.unit))
	l.must(os.WriteFile(l.env, []byte("SECRET=1\n"), 0o640))
	l.must(os.Chtimes(l.env, time.Time{}, time.Unix(1700000000, 0)))
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) make() *Dir {
	l.t.Helper()
	d, err := Make(l.t.Context(), l.base, l.list(), []string{l.unit, l.env}, Needs{Root: "/opt/mnw", Unit: "mnw.service", Restore: []string{l.unit}, State: [][2]string{{"/old/da ta", "/var/lib/$x"}}})
	l.must(err)
	return d
}

func (l *lab) list() List {
	return List{App: "mnw", At: canon.At(time.Unix(1780000000, 0)), OldRoot: l.old, OldUnit: "it's old.service", Enabled: true}
}

func (l *lab) latest() *Dir {
	l.t.Helper()
	d, err := Latest(l.base, "mnw", l.old, "it's old.service")
	l.must(err)
	return d
}

func TestMake(t *testing.T) {
	l := newLab(t)
	if l.latest() != nil {
		t.Error("there is a backup before there is one")
	}
	d := l.make()
	if got := l.latest(); got == nil || got.Path != d.Path || filepath.Base(d.Path) != "mnw-20260528T202640Z" {
		t.Errorf("made %s, latest is %+v", d.Path, got)
	}
	info, err := os.Stat(d.File(l.env))
	if err != nil || info.Mode().Perm() != 0o640 || !info.ModTime().Equal(time.Unix(1700000000, 0)) {
		t.Errorf("%v, %v", info, err)
	}
	if info, err := os.Stat(d.Path); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info, err)
	}
	if target, err := os.Readlink(d.File(l.unit)); err != nil || target != "real.service" || len(d.Files) != 3 {
		t.Errorf("the link leads to %q, %v; files: %+v", target, err, d.Files)
	}
	l.must(d.Check())
	if out, err := exec.Command("sh", "-n", d.Script()).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	sum := exec.Command("sha256sum", "--check", "--quiet", sumsFile)
	sum.Dir = d.Path
	if out, err := sum.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	if second := l.make(); second.Path == d.Path || l.latest().Path != second.Path {
		t.Errorf("the second one is %s", second.Path)
	}
}

// The words of the script are the shell's, whatever is in the names.
func TestScriptWords(t *testing.T) {
	l := newLab(t)
	d := l.make()
	text, err := os.ReadFile(d.Script())
	l.must(err)
	for _, want := range []string{
		`old='it'\''s old.service'`, "restore '" + strings.ReplaceAll(l.unit, "'", `'\''`) + "'\n",
		`echo 'what was written to /var/lib/$x since the switch is NOT in /old/da ta`,
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("%q is not in\n%s", want, text)
		}
	}
	if strings.ContainsAny(string(text), "{}") && strings.Contains(string(text), "{old") {
		t.Errorf("something was not filled in:\n%s", text)
	}
}

func TestChanged(t *testing.T) {
	l := newLab(t)
	d := l.make()
	if got := d.Changed([]string{l.unit, l.env}); got != nil {
		t.Errorf("changed: %q", got)
	}
	l.must(os.Chmod(l.env, 0o600))
	l.must(os.Remove(l.unit))
	if got := d.Changed([]string{l.unit, l.env, l.old + "/more"}); !slices.Equal(got, []string{l.unit, l.env, l.old + "/more"}) {
		t.Errorf("changed: %q", got)
	}
	l.must(d.Check())
	l.must(os.WriteFile(d.File(l.env), []byte("SECRET=2\n"), 0o640))
	if err := d.Check(); reason.Of(err) != reason.Mismatch || !strings.Contains(err.Error(), l.env) {
		t.Error(err)
	}
}

// What is not complete counts for nothing, and is kept.
func TestIncomplete(t *testing.T) {
	l := newLab(t)
	_, err := Make(t.Context(), l.base, l.list(), []string{l.env, l.old + "/gone"}, Needs{})
	if !errors.Is(err, fs.ErrNotExist) || l.latest() != nil {
		t.Errorf("%v, %+v", err, l.latest())
	}
	if entries, err := os.ReadDir(l.base); err != nil || len(entries) != 1 {
		t.Errorf("%q, %v", entries, err)
	}
	_, err = Make(t.Context(), l.base, l.list(), []string{"/etc/a\nb"}, Needs{})
	if reason.Of(err) != reason.Config {
		t.Error(err)
	}
}

// back runs the script with a systemctl that only writes down what it is asked.
func (l *lab) back(d *Dir) (asked []string, out string, err error) {
	l.t.Helper()
	bin := l.t.TempDir()
	fake := "#!/bin/sh\necho \"$*\" >>" + bin + "/asked\ncase \"$*\" in 'is-active --quiet mnw.service') exit 3;; esac\n"
	l.must(os.WriteFile(bin+"/systemctl", []byte(fake), 0o755))
	cmd := exec.CommandContext(l.t.Context(), "sh", d.Script())
	cmd.Env = append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH"))
	text, err := cmd.CombinedOutput()
	log, rerr := os.ReadFile(bin + "/asked")
	if !errors.Is(rerr, fs.ErrNotExist) {
		l.must(rerr)
	}
	return strings.Split(strings.TrimSuffix(string(log), "\n"), "\n"), string(text), err
}

// At no moment does neither app start with the machine, and what cannot be restored stops nothing.
func TestBackOrder(t *testing.T) {
	l := newLab(t)
	d := l.make()
	progress := l.base + "/mnw-switch.json"
	l.must(os.WriteFile(progress, []byte("{\n  \"version\": 1,\n  \"phase\": \"switched\"\n}\n"), 0o600))
	l.must(os.Remove(l.unit))
	asked, out, err := l.back(d)
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	at := func(what string) int { return slices.Index(asked, what) }
	old := l.list().OldUnit
	if on, off, stop, start := at("enable --quiet "+old), at("disable --quiet mnw.service"), at("stop mnw.service"), at("start "+old); on < 0 || off < on || stop < off || start < stop {
		t.Errorf("asked for %q", asked)
	}
	if target, err := os.Readlink(l.unit); err != nil || target != "real.service" {
		t.Errorf("%q, %v", target, err)
	}
	if data, err := os.ReadFile(progress); err != nil || !strings.Contains(string(data), `"phase": "went back"`) {
		t.Errorf("%s, %v", data, err)
	}

	dir := filepath.Dir(l.unit)
	l.must(os.Rename(dir, dir+".away"))
	l.must(os.WriteFile(dir, nil, 0o644)) // nothing can be put into that
	if asked, out, err := l.back(d); err == nil || len(asked) > 0 && asked[0] != "" {
		t.Errorf("%v, %q: %s", err, asked, out)
	}
}
