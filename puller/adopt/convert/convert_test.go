package convert

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout/node"
)

// files of two releases: path, owner, group, mode, in the order in which they are made.
var planted = [...]struct {
	path     string
	uid, gid int
	mode     fs.FileMode
}{
	{"releases", deploy, deploy, 0o775},
	{"releases/1.0.0", deploy, deploy, 0o775},
	{"releases/1.0.0/run", deploy, deploy, 0o775},
	{"releases/1.0.0/static", deploy, shared, 0o775},
	{"releases/1.0.0/static/a.css", deploy, deploy, 0o664},
	{"releases/1.0.0/secret", appUID, deploy, 0o600},
	{"releases/1.1.0", deploy, deploy, 0o775},
	{"releases/1.1.0/run", deploy, deploy, 0o770},
}

type lab struct {
	t    *testing.T
	root string
	base string
	dir  *node.Dir
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{t: t, base: t.TempDir()}
	l.root = filepath.Join(t.TempDir(), "mnw")
	l.must(os.Mkdir(l.root, 0o755))
	for _, p := range planted {
		path := filepath.Join(l.root, p.path)
		if filepath.Ext(p.path) != "" && !strings.HasSuffix(p.path, ".0") || filepath.Base(p.path) == "run" || filepath.Base(p.path) == "secret" {
			l.must(os.WriteFile(path, []byte(p.path), 0o600))
		} else {
			l.must(os.Mkdir(path, 0o755))
		}
		l.must(os.Chown(path, p.uid, p.gid))
		l.must(os.Chmod(path, p.mode))
	}
	l.must(os.Symlink("/etc/hosts", l.root+"/releases/1.0.0/out"))
	l.must(os.Symlink("releases/1.0.0", l.root+"/current"))
	l.must(os.Lchown(l.root+"/current", deploy, deploy))
	var err error
	l.dir, err = node.View(l.root)
	l.must(err)
	return l
}

func (l *lab) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) look() *Plan {
	l.t.Helper()
	p, err := Look(l.t.Context(), l.dir, l.base, testApp())
	l.must(err)
	return p
}

// all says of everything who owns it and what its mode is.
func (l *lab) all() string {
	l.t.Helper()
	var b strings.Builder
	l.must(filepath.WalkDir(l.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %s\n", strings.TrimPrefix(path, l.root), Node{info.Mode() &^ fs.ModePerm, 0, 0}.Mode.Type().String()+Node{info.Mode(), int(st.Uid), int(st.Gid)}.String())
		return nil
	}))
	return b.String()
}

const converted = ` d---------0:0 0755
/current L---------0:600 0777
/releases d---------0:600 0755
/releases/1.0.0 d---------0:600 0755
/releases/1.0.0/out L---------0:0 0777
/releases/1.0.0/run ----------0:600 0755
/releases/1.0.0/secret ----------0:500 0640
/releases/1.0.0/static d---------0:700 0755
/releases/1.0.0/static/a.css ----------0:600 0644
/releases/1.1.0 d---------0:600 0755
/releases/1.1.0/run ----------0:600 0750
`

// capable gives a file a capability: to bind low ports.
func capable(path string) error {
	return unix.Setxattr(path, capabilityName, []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"), 0)
}

func TestAsRootConvert(t *testing.T) {
	testenv.Root(t, "files of several users")
	l := newLab(t)
	run := l.root + "/releases/1.0.0/run"
	l.must(capable(run))
	want, err := capability(run)
	l.must(err)
	hosts, err := os.Stat("/etc/hosts")
	l.must(err)
	p := l.look()
	if before := l.all(); strings.Contains(before, "secret 0:") || p.Own != 1 || len(p.Releases) != 2 {
		t.Fatalf("looking changed something, or %+v:\n%s", p, before)
	}
	record, err := p.Do(t.Context(), l.base, time.Unix(1780000000, 0))
	l.must(err)
	if got := l.all(); got != converted {
		t.Errorf("got\n%s", got)
	}
	if now, err := capability(run); err != nil || now != want || want == "" {
		t.Errorf("capability %q, was %q, %v", now, want, err)
	}
	if now, err := os.Stat("/etc/hosts"); err != nil || now.Sys().(*syscall.Stat_t).Ctim != hosts.Sys().(*syscall.Stat_t).Ctim {
		t.Error("a link was followed")
	}
	text, err := os.ReadFile(record)
	if err != nil || !strings.Contains(string(text), "0600 500:600 - \"releases/1.0.0/secret\"\n") {
		t.Errorf("record %q, %v", text, err)
	}
	if again := l.look(); !again.Nothing() {
		t.Errorf("again: %s", again.Words())
	}
}

// After an end at any change the rest is done the next time, with the same outcome.
func TestAsRootConvertInterrupted(t *testing.T) {
	testenv.Root(t, "files of several users")
	for n := range len(newLab(t).look().changes) {
		l := newLab(t)
		run := l.root + "/releases/1.0.0/run"
		l.must(capable(run))
		want, err := capability(run)
		l.must(err)
		_, err = l.look().Do(&dying{Context: t.Context(), after: n}, l.base, time.Unix(1780000000, 0))
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		l.must(unix.Removexattr(run, capabilityName)) // as if it had died right after the change of its owner
		_, err = l.look().Do(t.Context(), l.base, time.Unix(1780000001, 0))
		l.must(err)
		if got := l.all(); got != converted {
			t.Errorf("after %d: got\n%s", n, got)
		}
		if now, err := capability(run); err != nil || now != want {
			t.Errorf("after %d: capability %q, %v", n, now, err)
		}
		if again := l.look(); !again.Nothing() {
			t.Errorf("after %d: %s", n, again.Words())
		}
	}
}

// dying is a context that ends after having been asked a few times.
type dying struct {
	context.Context
	after int
}

func (d *dying) Err() error {
	if d.after--; d.after < 0 {
		return context.Canceled
	}
	return nil
}

func TestAsRootConvertRefuses(t *testing.T) {
	testenv.Root(t, "files of several users")
	for _, c := range []struct {
		name, want string
		do         func(l *lab, release string)
	}{
		{"open for writing", "is open for writing", func(l *lab, release string) {
			f, err := os.OpenFile(release+"/static/a.css", os.O_WRONLY, 0)
			l.must(err)
			l.t.Cleanup(func() { f.Close() })
		}},
		{"a socket", "neither a file nor a directory nor a link", func(l *lab, release string) {
			s, err := net.Listen("unix", release+"/s")
			l.must(err)
			l.t.Cleanup(func() { s.Close() })
		}},
		{"a name elsewhere", "has another name outside", func(l *lab, release string) {
			l.must(os.Link(release+"/static/a.css", l.root+"/elsewhere"))
		}},
		{"two groups", "it can have one group only", func(l *lab, release string) {
			l.must(os.Chown(release+"/secret", appUID, www))
			l.must(os.Chmod(release+"/secret", 0o640))
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := newLab(t)
			l.must(os.Link(l.root+"/releases/1.0.0/run", l.root+"/releases/1.1.0/same")) // is none of it
			l.look()
			c.do(l, l.root+"/releases/1.0.0")
			before := l.all()
			_, err := Look(t.Context(), l.dir, l.base, testApp())
			if reason.Of(err) != reason.Config || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), l.root+"/releases/1.0.0/") {
				t.Error(err)
			}
			if l.all() != before {
				t.Error("something was changed")
			}
		})
	}
}

// What is put in the place of another file meanwhile is not touched.
func TestAsRootConvertReplaced(t *testing.T) {
	testenv.Root(t, "files of several users")
	l := newLab(t)
	p := l.look()
	victim := filepath.Join(t.TempDir(), "victim")
	l.must(os.WriteFile(victim, nil, 0o666))
	l.must(os.Chmod(victim, 0o666))
	name := l.root + "/releases/1.0.0/static/a.css"
	l.must(os.Remove(name))
	l.must(os.Link(victim, name))
	if _, err := p.Do(t.Context(), l.base, time.Unix(1780000000, 0)); !errors.Is(err, errChanged) {
		t.Error(err)
	}
	if info, err := os.Stat(victim); err != nil || info.Mode().Perm() != 0o666 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// Who opens a file for writing after the look, and before it is root's, can still write to it: that is
// told, and the conversion is not over until it has ended.
func TestAsRootConvertOpened(t *testing.T) {
	testenv.Root(t, "files of several users")
	l := newLab(t)
	p := l.look()
	name := l.root + "/releases/1.0.0/static/a.css"
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	l.must(err)
	defer f.Close()
	if _, err := p.Do(t.Context(), l.base, time.Unix(1780000000, 0)); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), name+" is open for writing") {
		t.Errorf("it ended with %v", err)
	}
	if _, err := Look(t.Context(), l.dir, l.base, testApp()); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), name+" is open for writing") {
		t.Errorf("again: %v", err)
	}
	l.must(f.Close())
	p = l.look()
	if p.Nothing() || !strings.Contains(p.Words(), "interrupted") {
		t.Error("it is not known that it was not over")
	}
	_, err = p.Do(t.Context(), l.base, time.Unix(1780000001, 0))
	l.must(err)
	if !l.look().Nothing() {
		t.Error("it is not over")
	}
}

// A root that is a link to another disk is converted where it lies.
func TestAsRootConvertLinkedRoot(t *testing.T) {
	testenv.Root(t, "files of several users")
	l := newLab(t)
	link := filepath.Join(t.TempDir(), "link")
	l.must(os.Symlink(l.root, link))
	l.must(os.Lchown(link, deploy, deploy))
	var err error
	l.dir, err = node.View(link)
	l.must(err)
	f, err := os.OpenFile(l.root+"/releases/1.0.0/static/a.css", os.O_WRONLY, 0)
	l.must(err)
	if _, err := Look(t.Context(), l.dir, l.base, testApp()); err == nil || !strings.Contains(err.Error(), "is open for writing") {
		t.Errorf("a file that is open: %v", err)
	}
	l.must(f.Close())
	record, err := l.look().Do(t.Context(), l.base, time.Unix(1780000000, 0))
	l.must(err)
	if got := l.all(); got != converted || !strings.Contains(record, "/link-owners-") {
		t.Errorf("%s: got\n%s", record, got)
	}
	if info, err := os.Lstat(link); err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 || !l.look().Nothing() {
		t.Errorf("%v, %v", info, err)
	}

	l.must(os.Rename(l.root+"/releases", l.root+"/other"))
	l.must(os.Symlink("other", l.root+"/releases"))
	if _, err := Look(t.Context(), l.dir, l.base, testApp()); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), "/releases is a link") {
		t.Errorf("releases as a link: %v", err)
	}
}
