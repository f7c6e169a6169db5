package bucket

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
)

func (d *dir) Poll(ctx context.Context, key, version string, max int64) (data []byte, now string, err error) {
	f, info, err := d.open(ctx, key)
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if cerr := f.Close(); err == nil {
			err = cerr
		}
	}()
	if version != "" && version == info.Version {
		return nil, version, fmt.Errorf("object %q: %w", key, ErrSame)
	}
	if info.Size <= max {
		data, err = io.ReadAll(io.LimitReader(f, max+1))
	}
	if err != nil {
		return nil, "", fmt.Errorf("read object %q: %w", key, err)
	}
	if info.Size > max || int64(len(data)) > max {
		return nil, "", fmt.Errorf("object %q: %w", key, tooLong(max))
	}
	return data, info.Version, nil
}

func tooLong(max int64) error { return reason.Errorf(reason.Limit, "more than %d bytes", max) }

// checkReplace refuses what no bucket lets replace.
func checkReplace(key string, data []byte) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if len(data) > MaxReplace {
		return tooLong(MaxReplace)
	}
	return nil
}

// errIsThere is the outcome for an object that was not to be there.
var errIsThere = fmt.Errorf("%w: it is there, and was to be new", ErrChanged)

func (d *dir) Replace(ctx context.Context, key string, data []byte, version string) (string, error) {
	err := checkReplace(key, data)
	if err == nil {
		err = d.replace(ctx, key, data, version)
	}
	if err != nil {
		return "", reason.OnDisk(fmt.Errorf("replace object %q: %w", key, err))
	}
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:]), nil
}

func (d *dir) replace(ctx context.Context, key string, data []byte, version string) error {
	root, err := d.writable(ctx, key)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := lock(ctx, root)
	if err != nil {
		return err
	}
	defer unlock()
	f, info, err := open(root, key)
	switch {
	case errors.Is(err, fs.ErrNotExist) && version == "":
		err := d.create(ctx, key, bytes.NewReader(data), int64(len(data)))
		if errors.Is(err, fs.ErrExist) { // by Create, which takes no lock
			return errIsThere
		}
		return err
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: it is missing, want version %q", ErrChanged, version)
	case err != nil:
		return err
	}
	f.Close()
	switch {
	case version == "":
		return errIsThere
	case version != info.Version:
		return fmt.Errorf("%w: its version is %q, want %q", ErrChanged, info.Version, version)
	}
	return durable.WriteFile(filepath.Join(d.path, filepath.FromSlash(key)), data, 0o644)
}

// lockPoll is how often a lock that somebody holds is tried.
const lockPoll = 10 * time.Millisecond

// lock waits until nobody else replaces objects in the bucket. Who may only read the
// directory cannot open the file and hold writers up.
func lock(ctx context.Context, root *os.Root) (unlock func(), err error) {
	f, err := root.OpenFile(".lock", os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, fmt.Errorf("wait for the lock %s: %w", f.Name(), ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}
