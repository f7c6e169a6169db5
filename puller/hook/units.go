package hook

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/systemd"
	"makenot.work/sando/systemd/journal"
)

// units has systemd run hooks.
type units struct{ Config }

func (u *units) unit() string { return "sando-hook-" + u.App + ".service" }

func (u *units) user(ctx context.Context, h Hook) (account, error) {
	switch {
	case h.User != "" && !exists(ctx, h.User):
		return account{}, reason.Errorf(reason.Config, "user %q: there is no such user on this machine", h.User)
	case h.User != "":
		return account{user: h.User}, nil
	case u.Unit == "":
		return account{}, reason.Errorf(reason.Config, "as which user it is to run is not known, since there is no service.unit: write `user`, also for root")
	}
	conn, err := u.connect(ctx)
	if err != nil {
		return account{}, err
	}
	defer conn.Close()
	f, err := conn.Facts(ctx, u.Unit)
	if err != nil {
		return account{}, reason.Wrap(reason.IO, err)
	}
	why := ""
	switch {
	case f.LoadState != "loaded":
		return account{}, reason.Wrap(reason.Config, &systemd.UnitError{Unit: u.Unit, LoadState: f.LoadState, Detail: f.LoadError})
	case f.DynamicUser:
		why = "DynamicUser=yes: there is no such user while it does not run"
	case f.User == "":
		why = "no User=, so the app runs as root"
	case isRoot(f.User):
		why = fmt.Sprintf("User=%s", f.User)
	case !exists(ctx, f.User):
		return account{}, reason.Errorf(reason.Config, "unit %q has User=%s: there is no such user on this machine", u.Unit, f.User)
	default:
		return account{f.User, f.Group, f.Groups}, nil
	}
	return account{}, reason.Errorf(reason.Config, "unit %q has %s; write `user` in the hook, also for root", u.Unit, why)
}

// isRoot reports whether a name or number is root's, by whatever name.
func isRoot(name string) bool {
	if name == "0" || name == "root" {
		return true
	}
	who, err := user.Lookup(name)
	return err == nil && who.Uid == "0"
}

// exists reports whether the machine knows a user. This program may see /etc/passwd alone;
// getent asks whatever else the machine is told to ask. What cannot be found out, and numbers,
// which need no name, are left to systemd.
func exists(ctx context.Context, name string) bool {
	if _, err := lookup(name); err == nil {
		return true
	}
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, getentTime)
	defer cancel()
	err := exec.CommandContext(ctx, "getent", "passwd", name).Run()
	exit := (*exec.ExitError)(nil)
	return !errors.As(err, &exit) || exit.ExitCode() != getentNone
}

const (
	getentTime = 5 * time.Second
	getentNone = 2 // its exit status when there is none
)

func (u *units) connect(ctx context.Context) (*systemd.Conn, error) {
	conn, err := systemd.Connect(ctx)
	if err != nil && ctx.Err() == nil {
		return nil, reason.Wrap(reason.IO, err)
	}
	return conn, err
}

// mark is the file that is there while a hook may run.
func (u *units) mark() string { return filepath.Join(u.Root, layout.MetaDir, "hook") }

func (u *units) run(ctx context.Context, h Hook, as account, r Release) ([]string, error) {
	conn, err := u.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := u.marked(h.When); err != nil {
		return nil, err
	}
	ended, err := conn.RunHook(ctx, systemd.Hook{
		Unit:        u.unit(),
		Description: fmt.Sprintf("Hook %s of %s %s", h.When, r.App, r.Version),
		Run:         h.command(r),
		User:        as.user,
		Group:       as.group,
		Groups:      as.groups,
		EnvFiles:    u.EnvFiles,
		Env:         r.variables(),
		Dir:         r.Dir,
		Timeout:     h.Limit(),
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, systemd.ErrUnreachable):
		return nil, fmt.Errorf("%w: %w", ErrUnknown, err)
	case err != nil:
		return nil, err
	}
	// What it printed is worth having, and not worth failing for.
	output, _ := journal.Tail(ctx, u.unit(), ended.Invocation, node.MaxLines)
	if err := u.unmark(); err != nil {
		return output, err
	}
	if !ended.OK() {
		return output, &Failed{h, ended.Words() + "; `journalctl -u " + u.unit() + "` tells more", output, u.unit()}
	}
	return output, nil
}

// marked makes the mark. It need not survive a power cut: the hook does not either. On a full
// disk it takes the ballast for what comes after the swap, since the app, or what it goes back
// to, is not started before that.
func (u *units) marked(when When) error {
	write := func() error {
		return reason.OnDisk(os.WriteFile(u.mark(), []byte(u.unit()+"\n"), 0o600))
	}
	if when == BeforeSwap {
		return write()
	}
	dir, err := node.View(u.Root)
	if err != nil {
		return err
	}
	return dir.Urgent(write)
}

func (u *units) unmark() error {
	if err := unix.Unlink(u.mark()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return reason.OnDisk(fmt.Errorf("remove %s: %w", u.mark(), err))
	}
	return nil
}

func (u *units) clear(ctx context.Context) error {
	if _, err := os.Lstat(u.mark()); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	conn, err := u.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.EndHook(ctx, u.unit()); err != nil {
		return err
	}
	return u.unmark()
}
