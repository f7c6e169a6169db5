package oldroot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
)

// plant makes a tree: a directory for each name that ends in "/", a link for each content
// that begins with "-> ", else a file; one that begins with "#!" may be run.
func plant(t *testing.T, files map[string]string) string {
	t.Helper()
	host := t.TempDir()
	for name, content := range files {
		name = filepath.Join(host, name)
		mode := os.FileMode(0o644)
		if strings.HasPrefix(content, "#!") {
			mode = 0o755
		}
		err := os.MkdirAll(filepath.Dir(name), 0o755)
		if target, ok := strings.CutPrefix(content, "-> "); ok && err == nil {
			err = os.Symlink(target, name)
		} else if err == nil {
			err = os.WriteFile(name, []byte(content), mode)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return host
}

func look(t *testing.T, o Options) *Report {
	t.Helper()
	report, err := Search(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// said are references as text, one a line.
func said(list []Reference, more func(Reference) string) (lines []string) {
	for _, r := range list {
		lines = append(lines, r.Place()+" "+r.What+more(r))
	}
	return lines
}

func TestSearch(t *testing.T) {
	host := plant(t, former())
	report := look(t, Options{Old: "/opt/makenotwork/", App: "mnw", EnvFiles: []string{"/srv/mnw.environment"}, Host: host})
	got := said(report.References, func(r Reference) string { return " | " + r.Text })
	if diff := cmp.Diff(planted(), got); diff != "" {
		t.Errorf("references (-want +got)\n%s", diff)
	}
	got = said(report.Asides, func(r Reference) string { return " | " + r.Aside })
	if diff := cmp.Diff(asides(), got); diff != "" {
		t.Errorf("asides (-want +got)\n%s", diff)
	}
	if len(report.Unread) > 0 {
		t.Errorf("not read: %v", report.Unread)
	}
	text, err := json.Marshal(report)
	if err != nil || strings.Contains(string(text), "hunter") {
		t.Errorf("%v, secrets in it:\n%s", err, text)
	}
}

func TestSearchNothing(t *testing.T) {
	host := t.TempDir()
	report := look(t, Options{Old: "/opt/makenotwork", App: "mnw", Host: host})
	if diff := cmp.Diff(&Report{Old: old, References: []Reference{}, Asides: []Reference{}, Unread: []Unread{}}, report); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSearchRefuses(t *testing.T) {
	good := Options{Old: old, App: "mnw", Host: t.TempDir()}
	look(t, good)
	for want, spoil := range map[string]func(*Options){
		`old root "opt/makenotwork" is not the absolute path`: func(o *Options) { o.Old = "opt/makenotwork" },
		`old root "." is not the absolute path`:               func(o *Options) { o.Old = "" },
		`old root "/" is not the absolute path`:               func(o *Options) { o.Old = "//" },
		"has a control character":                             func(o *Options) { o.Old += "\n" },
		"or is not UTF-8":                                     func(o *Options) { o.Old += "\xff" },
		"old root /opt has the releases of the app in it":     func(o *Options) { o.Old = "/opt/" },
		"old root /srv/mnw has the releases of the app in it": func(o *Options) { o.Old, o.Root = "/srv/mnw", "/srv/mnw" },
	} {
		bad := good
		spoil(&bad)
		if _, err := Search(t.Context(), bad); reason.Of(err) != reason.Config || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Search(ctx, good); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want that it was cancelled", err)
	}
}

// TestSearchHostile: nothing hangs, and what was not looked at is said.
func TestSearchHostile(t *testing.T) {
	deep := "/etc" + strings.Repeat("/d", 300)
	host := plant(t, map[string]string{
		"/etc/loop":       "-> loop",
		"/etc/around/a":   "-> b/x",
		"/etc/around/b":   "-> a/x",
		"/etc/up":         "-> ../../../../../../etc/mnw",
		"/etc/everything": "-> /",
		"/etc/mnw/mnw.env": "A=" + strings.Repeat("/", 1<<19) + "\nB=" + strings.Repeat("%2F", 1<<17) + "\nC=" + strings.Repeat("x/opt/makenotwork", 1<<14) + "\n" +
			"D=/opt/makenotwork/" + strings.Repeat("y", 1<<10) + "\n",
		"/etc/many":                       strings.Repeat("/opt/makenotwork\n", 200),
		deep + "/x":                       "/opt/makenotwork\n",
		"/etc/cron.d/mnw":                 "* * * * * root sh /run/pipe /opt/self.sh; sh /srv\n",
		"/opt/self.sh":                    "#!/bin/sh\n/opt/self.sh\n/opt/other.sh # /opt/makenotwork\n",
		"/opt/other.sh":                   "#!/bin/sh\n/opt/self.sh\n/opt/makenotwork/x\n",
		"/run/x":                          "",
		"/srv/x":                          "",
		"/etc/systemd/system/mnw.service": "[Service]\nEnvironmentFile=/run/pipe\nEnvironmentFile=/etc/huge\nExecStart=\nExecStart=",
		"/etc/huge":                       "x",
	})
	if err := errors.Join(unix.Mkfifo(host+"/run/pipe", 0o600), os.Truncate(host+"/etc/huge", 1<<40)); err != nil {
		t.Fatal(err)
	}
	report := look(t, Options{Old: old, App: "mnw", Host: host})
	got := map[string]int{}
	for _, r := range report.References {
		got[r.File]++
	}
	want := map[string]int{"/etc/many": 100, "/etc/mnw/mnw.env": 1, deep + "/x": 1, "/opt/other.sh": 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("references (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]Unread{
		{"/etc/around/a", "too many levels of symbolic links"},
		{"/etc/around/b", "too many levels of symbolic links"},
		{"/etc/huge", "1099511627776 bytes are more than the 2147483648 that are searched"},
		{"/etc/loop", "too many levels of symbolic links"},
		{"/etc/many", "it has more references than the 100 that are listed"},
		{"/run/pipe", "neither a file nor a directory"},
	}, report.Unread); diff != "" {
		t.Errorf("not read (-want +got)\n%s", diff)
	}
	for _, r := range report.References {
		if len(r.Text) > 2*(maxBefore+maxAfter) {
			t.Errorf("%s: %d bytes are shown", r.Place(), len(r.Text))
		}
	}
}

// TestSearchSlow: a user of the machine does not keep root waiting, by what he links to or writes.
func TestSearchSlow(t *testing.T) {
	slashes := strings.Repeat(`/\/`, maxText/3)
	files := map[string]string{
		"/etc/passwd":        "mal:x:1000:1000::/home/mal:/bin/sh\n",
		"/proc/kmsg":         old,
		"/home/mal/.bashrc":  "-> /proc/kmsg",
		"/home/mal/.profile": slashes + "\n",
		"/home/mal/.zshrc":   slashes[:len(slashes)-9] + old[1:] + "\n" + slashes[:9] + old[1:],
		"/etc/mnw/x":         "-> /proc/kmsg",
	}
	for n := range maxMute + 10 {
		files[fmt.Sprintf("/home/mal/.config/systemd/user/%d.service", n)] = fmt.Sprintf("-> %d.service", n)
	}
	host := plant(t, files)
	report := look(t, Options{Old: old, App: "mnw", Host: host})
	if diff := cmp.Diff([]string{"/home/mal/.zshrc:1 .zshrc of mal", "/home/mal/.zshrc:2 .zshrc of mal"}, said(report.References, func(Reference) string { return "" })); diff != "" {
		t.Errorf("references (-want +got)\n%s", diff)
	}
	if n := len(report.Unread); n != maxMute+1 || report.Unread[0] != (Unread{"/", "there is more that could not be looked at than the 1000 that are listed"}) {
		t.Errorf("%d not read, first %v", n, report.Unread[0])
	}
}

// TestSearchActive: what looks like a comment or a copy, and is none.
func TestSearchActive(t *testing.T) {
	host := plant(t, map[string]string{
		"/etc/passwd":               "mnw:x:1000:1000::/home/mnw:/bin/sh\n",
		"/etc/sudoers":              "#1000 ALL = /opt/makenotwork/a\nbob, #1001 ALL = /opt/makenotwork/b\n#includedir /opt/makenotwork/c\n# 1000 ALL = /opt/makenotwork/d\n",
		"/etc/cron.d/a.bak":         "* * * * * root [ ${#LIST} -gt 0 ] && /opt/makenotwork/x\n",
		"/etc/cron.d/a.rpmsave":     "* * * * * root /opt/makenotwork/x\n",
		"/etc/rsyslog.d/a.old.conf": "/opt/makenotwork/log\n",
		"/etc/rsyslog.d/a.conf.old": "/opt/makenotwork/log\n",
		"/etc/a.bak-2024-01-01":     "/opt/makenotwork/log\n",
		"/home/mnw/.pgpass":         "# hunter2\n/opt/makenotwork/run:5432:mnw:mnw:hunter2\n",
		"/home/mnw/live":            "-> /opt/makenotwork",
		"/opt/makenotwork/x":        "",
		"/srv/app":                  "-> /opt/makenotwork/x",
	})
	report := look(t, Options{Old: old, Host: host})
	if diff := cmp.Diff([]string{
		"/etc/cron.d/a.bak:1 * * * * * root [ ${#LIST} -gt 0 ] && /opt/makenotwork/x", "/etc/rsyslog.d/a.old.conf:1 /opt/makenotwork/log",
		"/etc/sudoers:1 #1000 ALL = /opt/makenotwork/a", "/etc/sudoers:2 bob, #1001 ALL = /opt/makenotwork/b", "/etc/sudoers:3 #includedir /opt/makenotwork/c",
		"/home/mnw/.pgpass:2 /opt/makenotwork/run", "/home/mnw/live -> /opt/makenotwork", "/srv/app -> /opt/makenotwork/x",
	}, texts(report.References)); diff != "" {
		t.Errorf("references (-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"/etc/a.bak-2024-01-01:1 /opt/makenotwork/log", "/etc/cron.d/a.rpmsave:1 * * * * * root /opt/makenotwork/x",
		"/etc/rsyslog.d/a.conf.old:1 /opt/makenotwork/log", "/etc/sudoers:4 # 1000 ALL = /opt/makenotwork/d",
	}, texts(report.Asides)); diff != "" {
		t.Errorf("asides (-want +got)\n%s", diff)
	}
}

func texts(list []Reference) (lines []string) {
	for _, r := range list {
		lines = append(lines, r.Place()+" "+r.Text)
	}
	return lines
}

func TestSearchMayNot(t *testing.T) {
	testenv.User(t, "root reads everything")
	host := plant(t, map[string]string{"/etc/sudoers": old, "/etc/cron.d/x": old, "/etc/cron.daily/x": "#!" + old})
	if err := errors.Join(os.Chmod(host+"/etc/sudoers", 0), os.Chmod(host+"/etc/cron.d", 0)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(host+"/etc/cron.d", 0o700) })
	report := look(t, Options{Old: old, Host: host})
	if diff := cmp.Diff([]Unread{{"/etc/cron.d", "permission denied"}, {"/etc/sudoers", "permission denied"}}, report.Unread); diff != "" || len(report.References) != 1 {
		t.Errorf("%d references; not read (-want +got)\n%s", len(report.References), diff)
	}
}

// TestStream: what is too big to be read as a whole is searched as well, also where one part
// that is read ends and the next one begins.
func TestStream(t *testing.T) {
	for _, filler := range []string{"some words\n", "some words\x00"} {
		var b strings.Builder
		var want []string
		for lines := 1; b.Len() < 2*maxText; lines++ {
			if b.WriteString(filler); lines%17000 == 0 {
				at := fmt.Sprintf("%d", b.Len())
				if b.WriteString("/opt/makenotwork/x\n"); strings.HasSuffix(filler, "\n") {
					at = fmt.Sprintf("%d", strings.Count(b.String(), "\n"))
				}
				want = append(want, at)
			}
			if n := b.Len() % chunk; n > chunk-len(filler)-len(old) { // across the end of a part
				b.WriteString(strings.Repeat(".", chunk-n-len(old)/2-1) + " ")
				at := fmt.Sprintf("%d", b.Len())
				if b.WriteString("/opt/makenotwork/y\n"); strings.HasSuffix(filler, "\n") {
					at = fmt.Sprintf("%d", strings.Count(b.String(), "\n"))
				}
				want = append(want, at)
			}
		}
		host := plant(t, map[string]string{"/opt/mnw/current": "-> releases/1", "/opt/mnw/releases/1/app": b.String()})
		var got []string
		for _, r := range look(t, Options{Old: old, App: "mnw", Host: host}).References {
			got = append(got, strings.TrimPrefix(strings.TrimPrefix(r.Place(), "/opt/mnw/current/app:"), "byte "))
		}
		if diff := cmp.Diff(want, got); diff != "" || len(want) < 10 {
			t.Errorf("%q: %d planted (-want +got)\n%s", filler, len(want), diff)
		}
	}
}

func TestExcerpt(t *testing.T) {
	for line, want := range map[string]string{
		"5 * * * * PGPASSWORD=hunter2 x --token hunter2 /opt/makenotwork --key /k postgres://u:hunter2@h/": "5 * * * * PGPASSWORD=… x --token … /opt/makenotwork --key /k postgres://…@h/",
		`{"secret": "hunter2", "dir": "/opt/makenotwork", "api_key":"hunter2"}`:                            `{"secret": "…", "dir": "/opt/makenotwork", "api_key":"…"}`,
		`PASSWORD="hunter2 hunter3" x --password='hunter2 hunter3' /opt/makenotwork`:                       `PASSWORD="…" x --password='…' /opt/makenotwork`,
		"0 3 * * * mysqldump -u root -phunter2 mnw >/opt/makenotwork/b.sql; mkdir -p x":                    "0 3 * * * mysqldump -u root -p… mnw >/opt/makenotwork/b.sql; mkdir -p x",
		`curl -u me:hunter2 -H "Authorization: Bearer hunter2" -T /opt/makenotwork/x`:                      `curl -u me:… -H "Authorization: Bearer …" -T /opt/makenotwork/x`,
		"tar -cp /opt/makenotwork | sshpass -p hunter2 ssh b; redis-cli -h c -a hunter2 info":              "tar -cp /opt/makenotwork | sshpass -p … ssh b; redis-cli -h c -a … info",
		"KEY_FILE=/opt/makenotwork/key":                                            "KEY_FILE=/opt/makenotwork/key",
		"a\tb\x1b\x07 /opt/makenotwork \u202e\xff":                                 `a b\x1b\a /opt/makenotwork \u202e\xff`,
		strings.Repeat("ä", 100) + " /opt/makenotwork " + strings.Repeat("ö", 100): "…" + strings.Repeat("ä", 29) + " /opt/makenotwork " + strings.Repeat("ö", 51) + "…",
	} {
		at, ok := find([]byte(line), old, 0)
		if got := excerpt([]byte(line), at); !ok || got != want {
			t.Errorf("%q:\ngot  %s\nwant %s", line, got, want)
		}
	}
}
