package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

const (
	daemonFile = "daemon"
	maxDaemon  = 16 << 10
)

// Daemon is what the file daemon says of the daemon that is at work.
type Daemon struct {
	PID     int        `json:"pid"`
	Since   canon.Time `json:"since"`
	Problem string     `json:"problem,omitempty"` // why it goes on with an older configuration
}

// Claim is a daemon's right to be the only one of its app. The kernel takes it back when
// the daemon dies.
type Claim struct{ f *os.File }

// Claim makes who the one daemon at work. An error has the reason "config" when there is
// another one. A full disk keeps no daemon from its work: the file may then say nothing.
func (d *Dir) Claim(who Daemon) (*Claim, error) {
	var f *os.File
	err := d.Urgent(func() (err error) {
		f, err = os.OpenFile(d.Path(daemonFile), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
		return reason.OnDisk(err)
	})
	if err != nil {
		return nil, reason.OnDisk(fmt.Errorf("open daemon file: %w", err))
	}
	lock := whole(unix.F_WRLCK)
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lock)
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		f.Close()
		return nil, reason.Errorf(reason.Config, "a daemon is at work in %s already%s: one is enough; stop that one first, or do a single cycle with `puller`", d.root, d.other())
	}
	c := &Claim{f}
	if err == nil {
		err = c.Write(who)
		if reason.Of(err) == reason.Disk {
			err = nil // it is for people; a daemon that does not start could not go back either
		}
	}
	if err != nil {
		f.Close()
		return nil, reason.OnDisk(fmt.Errorf("claim %s: %w", f.Name(), err))
	}
	return c, nil
}

// other says who is at work, if the file can be read at this moment.
func (d *Dir) other() string {
	who, err := d.readDaemon()
	if err != nil {
		return ""
	}
	return fmt.Sprintf(" (pid %d, since %s)", who.PID, who.Since.Format(canon.TimeLayout))
}

// Write replaces what the file says. It is for people, and need not survive anything.
func (c *Claim) Write(who Daemon) error {
	data, err := canon.Encode(&who)
	if err != nil {
		return fmt.Errorf("encode daemon file: %w", err)
	}
	if err := errors.Join(c.f.Truncate(0), writeAt(c.f, string(data))); err != nil {
		return reason.OnDisk(fmt.Errorf("write daemon file: %w", err))
	}
	return nil
}

// Held reports whether the file is still where others look for it.
func (c *Claim) Held() bool {
	mine, err := c.f.Stat()
	if err != nil {
		return false
	}
	there, err := os.Lstat(c.f.Name())
	return err == nil && os.SameFile(mine, there)
}

// Close gives the claim back.
func (c *Claim) Close() error { return c.f.Close() }

// Daemon returns the daemon that is at work, nil if there is none. Of one that is being
// started or writes at this moment, nothing may be known but that it is there.
func (d *Dir) Daemon() (*Daemon, error) {
	f, err := os.OpenFile(d.Path(daemonFile), os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	defer f.Close()
	// Asked, not taken: a look must not keep a daemon from starting.
	lock := whole(unix.F_RDLCK)
	if err := unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lock); err != nil {
		return nil, reason.OnDisk(fmt.Errorf("look at %s: %w", f.Name(), err))
	}
	if lock.Type == unix.F_UNLCK {
		return nil, nil
	}
	who, err := d.readDaemon()
	if err != nil {
		return &Daemon{}, nil
	}
	return who, nil
}

func (d *Dir) readDaemon() (*Daemon, error) {
	data, err := readCapped(d.Path(daemonFile), maxDaemon)
	if err != nil {
		return nil, err
	}
	who := new(Daemon)
	return who, canon.Parse(data, who)
}

// whole is a lock of a whole file.
func whole(kind int16) unix.Flock_t {
	return unix.Flock_t{Type: kind, Whence: 0}
}
