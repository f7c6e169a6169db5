package bootstrap

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"syscall"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/envfile"
	"makenot.work/sando/systemd"
	"makenot.work/sando/systemd/appunit"
)

// Setup is what Node needs besides the options.
type Setup struct {
	Person Person
	Dry    bool // nothing will be changed: nobody is asked for secrets, and nobody need confirm anything
	Log    *slog.Logger
	Meter  puller.Meter
	Tell   puller.Tell
}

// Node is a node to be. What can be judged before anything is changed was judged.
type Node struct {
	Setup

	o      Options
	person Person
	dry    bool
	conn   *systemd.Conn

	had         map[string]string // of the configuration that is there
	creds       credentials
	unit        systemd.Facts
	unitText    string // of the app's unit, where --exec is given
	user        string // as whom the app runs; "": nobody that lasts
	env         []byte // what the env file is made from
	configText  string
	anchor      []byte        // to be written
	fingerprint layout.Digest // of the anchor; "": not known in this dry run
	shell       string        // of a user to be made
	update      *puller.Result
	updateErr   error

	notes     []string   // what a person should know
	otherwise []conflict // what a configuration that is there says otherwise

	former, formerEnv bool // see Former
}

// New judges the options and this machine, and asks what has to be asked: the person, the
// channel repo, the storage. It changes nothing. Its errors have mostly the reason "config";
// those about the anchor are of package anchor, or "mismatch", "format", "policy", "limit"; those
// of asking are of package puller. The node has to be closed.
func New(ctx context.Context, o Options, s Setup) (_ *Node, err error) {
	n := &Node{Setup: s, person: s.Person, dry: s.Dry}
	if err := o.check(); err != nil {
		return nil, err
	}
	o.complete()
	n.o = o
	if _, err := o.fields(); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, refuse("bootstrap makes users, and files of root's: run it as root, such as by sudo")
	}
	if !systemd.Booted() {
		return nil, refuse("systemd does not run this machine, and bootstrap sets up units of systemd's: without it, write %s by hand and run `puller --app %s run`", o.configFile(), o.App)
	}
	if n.conn, err = systemd.Connect(ctx); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	for _, judge := range []func(context.Context) error{n.judgeRoot, n.judgeUnit, n.judgeUser, n.judgeEnv, n.find, n.judgeConfig, n.trust, n.ask} {
		if err := judge(ctx); err != nil {
			return nil, err
		}
	}
	return n, nil
}

// Close ends what a Node keeps open.
func (n *Node) Close() { n.conn.Close() }

// judgeRoot refuses a root that another deployer uses, and one in a bad state.
func (n *Node) judgeRoot(context.Context) error {
	dir, err := node.View(n.o.Root)
	if err != nil {
		return err
	}
	cur, err := dir.Current()
	switch {
	case err != nil:
		return err
	case cur.Odd != "":
		return refuse("%s", cur.Odd)
	}
	if err := dir.CheckAbove(); err != nil { // before anything there is made, or given to root
		return err
	}
	_, linked := os.Lstat(dir.CurrentPath())
	if _, err := os.Stat(dir.Path()); errors.Is(err, fs.ErrNotExist) && linked == nil && !n.o.Adopt {
		return refuse("%s is there, and no puller made it: another deployer is at work in %s; --adopt takes over what it runs, with another --root that is left alone", dir.CurrentPath(), n.o.Root)
	} else if errors.Is(err, fs.ErrNotExist) && linked != nil {
		return settled(n.o.Root, 0)
	}
	return nil
}

// settled refuses a root in which somebody else than uid is at home: what runs there may need to
// write into it, and Sando would give it to root.
func settled(root string, uid int) error {
	info, err := os.Stat(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return reason.OnDisk(err)
	}
	if !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) == uid {
		return nil // others look at that
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return reason.OnDisk(err)
	}
	if len(entries) > 0 {
		return refuse("%s is %s, and holds %q: what uses it would not be able to write there any more; choose another --root, or, where nothing uses it, `chown root:root %[1]s && chmod 755 %[1]s` first",
			root, describe(info), entries[0].Name())
	}
	return nil
}

// judgeUnit looks at the app's unit, or makes the text of one.
func (n *Node) judgeUnit(ctx context.Context) (err error) {
	if n.unit, err = n.conn.Facts(ctx, n.o.Unit); err != nil {
		return err
	}
	switch {
	case n.unit.LoadState == "not-found" && n.o.Exec == "":
		return refuse("unit %q is not there: give the command that runs the app, such as --exec %q, and it is written; or name another one with --unit",
			n.o.Unit, fmt.Sprintf("%s/current/%s serve", n.o.Root, n.o.App))
	case n.unit.LoadState == "loaded":
		if err := n.unit.Fit(); err != nil {
			return reason.Wrap(reason.Config, err)
		}
	case n.unit.LoadState != "not-found":
		return reason.Wrap(reason.Config, &systemd.UnitError{Unit: n.o.Unit, LoadState: n.unit.LoadState, Detail: n.unit.LoadError})
	}
	switch {
	case n.unit.LoadState == "not-found":
		n.user = n.o.User
		if n.user == "" {
			n.user = n.o.App
		}
	case n.unit.DynamicUser:
		n.user = ""
	default:
		n.user = n.unit.User
		if n.user == "" {
			n.user = "root"
		}
	}
	if n.o.User != "" && n.o.User != n.user {
		return refuse("--user %s: %s runs as %s: leave --user out, or change User= of the unit first", n.o.User, n.o.Unit, orWords(n.user, "a user that systemd makes for each run"))
	}
	if n.o.Exec == "" {
		return nil
	}
	spec := appunit.Spec{
		App: n.o.App, Unit: n.o.Unit, Root: n.o.Root, Exec: n.o.Exec, User: n.user,
		State: n.o.App, StateMode: n.o.StateMode,
	}
	if n.o.EnvFile != "" {
		spec.EnvFiles = []string{n.o.EnvFile}
	}
	if n.unitText, err = spec.File(); err != nil {
		return refuse("unit of the app: %w", err)
	}
	return nil
}

func orWords(value, words string) string {
	if value == "" {
		return words
	}
	return value
}

// judgeUser looks at the app's user.
func (n *Node) judgeUser(ctx context.Context) error {
	if n.user == "" || n.user == "root" {
		return nil
	}
	a, err := lookUp(ctx, n.user)
	switch {
	case err != nil:
		return err
	case a != nil && a.uid == 0:
		return refuse("user %q has the number 0, so it is root: let %s run as a user of its own", n.user, n.o.Unit)
	case a != nil:
		return nil
	}
	n.shell, err = nologin()
	return err
}

// judgeEnv reads what the app's env file is made from.
func (n *Node) judgeEnv(context.Context) error {
	if n.o.EnvTemplate == "" {
		n.env = []byte(fmt.Sprintf(envTemplate, n.o.App, n.o.Unit))
		return nil
	}
	data, err := os.ReadFile(n.o.EnvTemplate)
	if err != nil {
		return refuse("--env-template: %w", err)
	}
	if _, err := envfile.Parse(data); err != nil {
		return refuse("--env-template: %s: %w", n.o.EnvTemplate, err)
	}
	n.env = data
	return nil
}

const envTemplate = `# The environment of %s: one NAME=value a line. systemd gives it to %s, and the puller
# looks whether it fits a release. What is set here holds from the next start of the app on:
# ` + "`systemctl restart %[2]s`." + `
# DATABASE_URL=postgres:///%[1]s
# ADDR=127.0.0.1:8080
`

// judgeConfig writes the configuration into memory and loads it as the puller will; where
// there is one already, that one.
func (n *Node) judgeConfig(context.Context) error {
	var err error
	if n.configText, err = n.o.config(n.creds); err != nil {
		return err
	}
	c, done, err := n.usable()
	if err != nil {
		return err
	}
	defer done()
	flags := map[string]any{}
	if c.token.file != n.creds.token.file {
		flags["channels.token_file"] = c.token.file
	}
	if n.creds.token.asked {
		flags["channels.token_file"] = "" // a dry run has none to show
	}
	draft, closed, err := memory(n.o.App+".toml", []byte(n.configText))
	if err != nil {
		return err
	}
	defer closed()
	want, err := puller.LoadConfig(draft, flags)
	if err != nil {
		_, text, _ := strings.Cut(err.Error(), draft+`": `)
		return refuse("these flags make no good configuration: %s", text)
	}
	file := n.o.configFile()
	if _, err := os.Stat(file); err != nil {
		return nil
	}
	have, err := puller.LoadConfig(file, flags)
	if err != nil {
		return fmt.Errorf("%w; that file is there already: mend it, or move it away, and run this again", err)
	}
	return n.compare(file, have, want)
}

// usable returns the credentials as files that can be read now, also those that are not
// written yet. done ends their use.
func (n *Node) usable() (c credentials, done func(), err error) {
	c = n.creds
	var open []func()
	done = func() {
		for _, closed := range open {
			closed()
		}
	}
	c.each(func(key string, f *credential) {
		if f.typed == nil || err != nil {
			return
		}
		path, closed, merr := memory(key, f.typed)
		if merr != nil {
			err = merr
			return
		}
		open = append(open, closed)
		f.file = path
	})
	if err != nil {
		done()
	}
	return c, done, err
}

// Fingerprint returns that of the anchor; "" where a dry run cannot know it.
func (n *Node) Fingerprint() layout.Digest { return n.fingerprint }

// Update returns how the first update ended; nil when none was done.
func (n *Node) Update() (*puller.Result, error) { return n.update, n.updateErr }

// sameFile reports whether two files hold the same.
func sameFile(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	y, err := os.ReadFile(b)
	return err == nil && bytes.Equal(x, y), err
}
