package builder

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/builder/proc"
	"makenot.work/sando/internal/canon"
)

// lock is a lock file that is held. The kernel lets go of it when the process ends.
type lock struct {
	f      *os.File
	cookie string
}

// holder is what the holder writes into a lock file. It is advice for people, and
// leads to the programs that a killed holder left running. A lock that was let go of
// is empty.
type holder struct {
	PID    int    `json:"pid"`
	What   string `json:"what"`
	Since  string `json:"since"`
	Cookie string `json:"cookie"`
}

const lockPoll = 100 * time.Millisecond

// lock waits for the lock file name of the state directory, and says whom for.
func (b *Builder) lock(ctx context.Context, name, what string) (*lock, error) {
	path := b.state(name)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	l := &lock{f: f, cookie: rand.Text()}
	if err := b.await(ctx, l); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
	}
	if err := b.take(ctx, l, what); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
	}
	return l, nil
}

func (b *Builder) await(ctx context.Context, l *lock) error {
	said := ""
	for {
		err := unix.Flock(int(l.f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		h, herr := l.read()
		if herr == nil && h.What != "" && h.Cookie != said {
			said = h.Cookie
			b.log.Info("waiting for another builder", "pid", h.PID, "does", h.What, "since", h.Since)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockPoll):
		}
	}
}

// take ends what a killed holder left running, and writes down who holds the lock now.
func (b *Builder) take(ctx context.Context, l *lock, what string) error {
	if old, err := l.read(); err == nil && old.Cookie != "" {
		n, err := proc.Reap(ctx, old.Cookie)
		if err != nil {
			return err
		}
		if n > 0 {
			b.log.Warn("ended the programs of a builder that was killed", "pid", old.PID, "did", old.What, "programs", n)
		}
	}
	data, err := json.Marshal(holder{os.Getpid(), what, canon.At(b.opt.Now()).Format(canon.TimeLayout), l.cookie})
	if err != nil {
		return err
	}
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err = l.f.WriteAt(append(data, '\n'), 0)
	return err
}

// maxHolder is the most that is read from a lock file.
const maxHolder = 4 << 10

func (l *lock) read() (h holder, err error) {
	data, err := io.ReadAll(io.NewSectionReader(l.f, 0, maxHolder))
	if err != nil {
		return h, err
	}
	return h, json.Unmarshal(data, &h)
}

func (l *lock) release() error {
	return errors.Join(l.f.Truncate(0), l.f.Close())
}
