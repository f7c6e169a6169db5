// Package oldroot finds what on this machine still names the directory of a former install,
// such as /opt/makenotwork, so that it can be removed knowingly.
//
//	report, err := oldroot.Search(ctx, oldroot.Options{Old: "/opt/makenotwork", App: "mnw"})
//	for _, r := range report.References { fmt.Println(r.Place(), r.What, r.Text) }
//
// # Where it looks
//
//	units          of the system and of users, drop-ins, timers, and the links between them
//	sudoers        and sudoers.d
//	cron           crontabs of users, /etc/crontab, cron.d, cron.hourly to cron.monthly, at jobs
//	scripts        that those call, those that they call in turn, and all in /usr/local/bin and sbin
//	web servers    /etc/caddy and /etc/nginx, and what they import from elsewhere
//	homes          authorized_keys, what a shell or ssh reads, and user units, of everyone in /etc/passwd
//	users          homes and login shells in /etc/passwd
//	env files      of units and of the configuration, /etc/default, /etc/environment, /etc/<app>
//	/etc           every other file in it: logrotate, fstab, and what nobody thought of
//	links          below /etc, /usr/local, /opt/<app> and /var/lib/<app>; those right in /, /opt, /srv, /home,
//	               /mnt, /var, /var/lib, /var/www and homes
//	releases       what the files of the live one contain, and files beside the releases
//
// A reference is a line, a byte offset of a binary, or a link. What nothing acts on is told apart,
// with the reason why (Reference.Aside), and is no reason to keep the directory: comments; files that
// their program does not read, by their names (sudoers.d/app.bak); copies; a unit that another one
// replaces; a site that nginx does not include.
//
// # What counts as naming it
//
// Its path, and what is below it, in the spellings that find describes. Compilers put strings together
// in a binary with nothing between them: where a longer name cannot be told from two strings the reference
// says "perhaps", and counts. Not found are paths that are put together as a program runs ("/opt/" + name,
// "$BASE/app"), ones that go up and down again (/opt/x/../app), what a database or a running process
// holds, users that are not in /etc/passwd, and what units make that a generator writes at boot: the
// files that those are made from are searched.
//
// The directory itself, what adopt copied to /var/backups/sando, and Sando's own records are not searched.
//
// # Parties
//
// The operator reads the report. What is in the files may be anybody's: an app can write into
// its state, a user into his home. So nothing is opened that is not a regular file on a disk (in /proc there
// are some that wait for ever), links are counted, sizes are bounded, and what is printed of a line is short and
// has no control characters. Secrets stay where they are: of an env file, a .netrc and the like only the key and
// the path are shown, elsewhere the values of what is called a password, a token or a key are not, nor user and
// password in a URL, nor those that curl, mysql and a few more are given as one letter. A secret that nothing
// calls one is shown.
//
// Nothing is changed. What could not be looked at is said (Unread).
package oldroot

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"makenot.work/sando/internal/reason"
)

// Backups is where adopt keeps copies of what it changes.
const Backups = "/var/backups/sando"

// Options say what to look for.
type Options struct {
	Old      string   // the directory of the former install
	App      string   // name of the app, if it is known
	Root     string   // where its releases are; default /opt/<App>
	EnvFiles []string // that its configuration names
	Except   []string // directories that do not count either
	Host     string   // the directory that stands for /, for tests; default /
}

// Kind is what sort of file a reference is in.
type Kind string

// The kinds.
const (
	Unit      Kind = "unit"
	Sudoers   Kind = "sudoers"
	Crontab   Kind = "crontab"
	Script    Kind = "script"
	Caddy     Kind = "caddy"
	Nginx     Kind = "nginx"
	Home      Kind = "home"
	Passwd    Kind = "passwd"
	Env       Kind = "env"
	Logrotate Kind = "logrotate"
	Etc       Kind = "etc"
	Link      Kind = "link"
	Release   Kind = "release"
)

// Reference is one place that names the directory.
type Reference struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"`   // of a text, from 1
	Offset int64  `json:"offset,omitempty"` // of a binary, in bytes
	Kind   Kind   `json:"kind"`
	What   string `json:"what"`            // "crontab of root"
	Text   string `json:"text"`            // of the line, or around the place; for a link where it leads
	Aside  string `json:"aside,omitempty"` // why nothing acts on it
}

// Place says where it is, for people: FILE:LINE, FILE:byte OFFSET, or FILE, of a link or where
// the name of the file says it.
func (r Reference) Place() string {
	switch {
	case r.Line > 0:
		return fmt.Sprintf("%s:%d", visible(r.File), r.Line)
	case r.Offset > 0:
		return fmt.Sprintf("%s:byte %d", visible(r.File), r.Offset)
	}
	return visible(r.File)
}

// Unread is what could not be looked at.
type Unread struct {
	File string `json:"file"`
	Why  string `json:"why"`
}

// Report is what was found, sorted by file.
type Report struct {
	Old        string      `json:"old"`
	References []Reference `json:"references"`
	Asides     []Reference `json:"asides"`
	Unread     []Unread    `json:"unread"`
}

// Search looks everywhere. An error is of the options ("config"), or of ctx.
func Search(ctx context.Context, o Options) (*Report, error) {
	o.Host = cmp.Or(o.Host, "/")
	if o.App != "" {
		o.Root = cmp.Or(o.Root, "/opt/"+o.App)
	}
	o.Old, o.Root = path.Clean(o.Old), path.Clean(cmp.Or(o.Root, "/nowhere"))
	if err := o.check(); err != nil {
		return nil, err
	}
	host, err := filepath.Abs(o.Host)
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(host)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	s := newSearch(o, root)
	for _, look := range []func(context.Context){
		s.units, s.sudoers, s.cron, s.users, s.web, s.scripts, s.envs, s.release, s.local, s.etc, s.links,
	} {
		if look(ctx); ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
	return s.sorted(), nil
}

// check refuses what would make a search without a sense.
func (o Options) check() error {
	switch {
	case !path.IsAbs(o.Old) || o.Old == "/":
		return reason.Errorf(reason.Config, "old root %q is not the absolute path of a directory", o.Old)
	case strings.ContainsFunc(o.Old, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }):
		return reason.Errorf(reason.Config, "old root %q has a control character, or is not UTF-8", o.Old)
	case within(o.Root, o.Old):
		return reason.Errorf(reason.Config, "old root %s has the releases of the app in it (root = %q): name the directory of the former install", o.Old, o.Root)
	}
	return nil
}

// sorted returns the report in the order of its files.
func (s *search) sorted() *Report {
	order := func(a, b Reference) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Offset, b.Offset))
	}
	slices.SortFunc(s.report.References, order)
	slices.SortFunc(s.report.Asides, order)
	slices.SortFunc(s.report.Unread, func(a, b Unread) int { return cmp.Compare(a.File, b.File) })
	return &s.report
}

// Reason is how the search ended: "policy" while something names the directory, "io" when nothing
// does but not everything could be looked at, else "current".
func (r *Report) Reason() reason.Code {
	switch {
	case len(r.References) > 0:
		return reason.Policy
	case len(r.Unread) > 0:
		return reason.IO
	}
	return reason.Current
}
