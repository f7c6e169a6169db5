// Package systemd is what Sando knows of systemd: it restarts a unit and waits for the
// outcome, reads the facts of one, and runs hooks as units of their own.
//
// # Restarting
//
//	c, err := systemd.Connect(ctx)
//	defer c.Close()
//	err = c.Restart(ctx, "mnw.service", systemd.Restart)
//
// Restart first looks whether the unit can be started at all (*UnitError when it is
// missing, masked or malformed), forgets earlier failures, so that a start limit that the
// last release ran into does not hit this one, asks for a job, and waits for the job's
// result. A job that ends in any other way than "done" is a *JobError. What "done" means is
// the unit's affair: for Type=notify that the program said it is ready, for Type=simple only
// that it was forked. Whether it still runs is a question for Facts.
//
// Told to stop waiting, Restart leaves the job to systemd, which carries it out all the
// same; half a restart would be worse than an unwatched one.
//
// # Hooks
//
//	ended, err := c.RunHook(ctx, systemd.Hook{Unit: "sando-hook-mnw.service", Run: …, User: "mnw", …})
//
// RunHook runs a program as a transient unit: systemd starts it, as another user and outside
// of the sandbox of whoever asks. It is waited for, whatever it leaves running is ended, and
// the unit is gone afterwards. What it is told in Hook.Env can be read by everybody over
// D-Bus, as can its arguments; what is in Hook.EnvFiles only by itself. A puller that is
// killed leaves its hook running; EndHook ends that. Package journal has what it printed.
//
// One thing it cannot keep from happening: where systemd reads all units again (daemon-reload)
// in the moment before it starts the program, some versions (252 is one) hand over a ";" or "$"
// in an argument with a backslash before it. A script in a file has no such arguments.
//
// # The connection
//
// Connect takes the system bus, and as root, where that does not answer within 3 s, systemd's
// own socket /run/systemd/private; DBUS_SYSTEM_BUS_ADDRESS names another bus, and then only
// that one is tried. What is asked over a connection is answered within 25 s or not at all. Who may restart what is decided by systemd: root may. Whoever may speak
// to systemd as root is root, so this package keeps nobody from anything.
//
// # Units
//
// Units holds the unit files that are shipped: puller@.service, the daemon of one app, and
// puller-once@.service with its timer, a cycle now and then. Each line in them that needs a
// reason has one. The puller runs in a sandbox: it can write to /opt/<app> and nowhere else,
// and has none of root's capabilities.
package systemd

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/coreos/go-systemd/v22/dbus"
	bus "github.com/godbus/dbus/v5"
)

var (
	// ErrUnreachable is matched when systemd cannot be asked, or no longer.
	ErrUnreachable = errors.New("systemd does not answer")
	// ErrDenied is matched when systemd does not let this user manage a unit.
	ErrDenied = errors.New("this user may not manage it: run as root, or let polkit allow org.freedesktop.systemd1.manage-units")
	// ErrStopping is matched when a unit was not restarted, or not well, because the
	// machine is going down.
	ErrStopping = errors.New("the machine is shutting down")
)

//go:embed *.service *.timer
var units embed.FS

// Units returns the unit files that are shipped.
func Units() fs.FS { return units }

// Conn is a connection to systemd.
type Conn struct {
	dbus *dbus.Conn
	end  context.CancelFunc
}

// Booted reports whether systemd is this machine's service manager.
func Booted() bool {
	info, err := os.Lstat("/run/systemd/system")
	return err == nil && info.IsDir()
}

// Connect opens a connection, which outlives ctx; Close ends it. An error matches
// ErrUnreachable.
func Connect(ctx context.Context) (*Conn, error) {
	live, end := context.WithCancel(context.WithoutCancel(ctx)) // of the connection
	stop := context.AfterFunc(ctx, end)                         // while it is being made
	c, err := connect(live)
	if !stop() && err == nil {
		c.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		end()
		return nil, fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return &Conn{c, end}, nil
}

func connect(ctx context.Context) (*dbus.Conn, error) {
	c, err := within(ctx, dbus.NewSystemConnectionContext)
	if err == nil || os.Getenv("DBUS_SYSTEM_BUS_ADDRESS") != "" || os.Geteuid() != 0 {
		return c, err
	}
	c, direct := within(ctx, dbus.NewSystemdConnectionContext)
	if errors.Is(direct, fs.ErrNotExist) {
		return nil, err
	}
	return c, direct
}

const (
	greeting = 3 * time.Second  // a bus that hangs accepts connections all the same
	answer   = 25 * time.Second // to one question; what libdbus waits as well
)

var errGreeting = fmt.Errorf("no greeting within %s", greeting)

// within opens a connection that lives until ctx ends, unless that takes too long.
func within(ctx context.Context, open func(context.Context) (*dbus.Conn, error)) (*dbus.Conn, error) {
	ctx, end := context.WithCancelCause(ctx)
	limit := time.AfterFunc(greeting, func() { end(errGreeting) })
	c, err := open(ctx)
	if !limit.Stop() && err == nil {
		c.Close()
		err = context.Cause(ctx)
	}
	if err != nil {
		if cause := context.Cause(ctx); cause != nil {
			err = cause
		}
		end(nil)
		return nil, err
	}
	return c, nil
}

// patient returns ctx for one question.
func patient(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, answer, errAnswer)
}

var errAnswer = fmt.Errorf("no answer within %s", answer)

// Close ends the connection. Jobs go on.
func (c *Conn) Close() {
	c.dbus.Close()
	c.end()
}

// failed returns err of a call with ctx, as what it says about the connection.
func (c *Conn) failed(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errAnswer) {
		return fmt.Errorf("%w: %w", ErrUnreachable, cause)
	}
	if name := named(err); name == denied || name == interactive {
		return fmt.Errorf("%w: %w", ErrDenied, err)
	}
	if err != nil && !c.dbus.Connected() {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// named returns the name that D-Bus has for the error of a call, "" if it has none.
func named(err error) string {
	var e bus.Error
	if errors.As(err, &e) {
		return e.Name
	}
	return ""
}

// The names of errors that make a difference here.
const (
	noSuchUnit  = "org.freedesktop.systemd1.NoSuchUnit"
	destructive = "org.freedesktop.systemd1.TransactionIsDestructive"
	denied      = "org.freedesktop.DBus.Error.AccessDenied"
	interactive = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired"
)

// Stopping reports whether the machine is going down.
func (c *Conn) Stopping(ctx context.Context) (bool, error) {
	ctx, cancel := patient(ctx)
	defer cancel()
	p, err := c.dbus.SystemStateContext(ctx)
	if err != nil {
		return false, fmt.Errorf("read the state of the machine: %w", c.failed(ctx, err))
	}
	return p.Value.Value() == "stopping", nil
}
