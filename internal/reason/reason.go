// Package reason is the one list of reason codes, and of the exit code that each has.
//
// A code says in one word how a cycle or a command ended. People read it in `status`,
// monitoring reads it from `--json`, shells read the exit code. Reactions (retry,
// hold, stop) are decided by the code alone.
package reason

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Code is one word of the list.
type Code string

// Exit 0: done, nothing to do, pinned or waiting.
const (
	Current   Code = "current"   // what should run runs
	Updated   Code = "updated"   // a release was activated in this cycle
	Pinned    Code = "pinned"    // a pin is held
	Window    Code = "window"    // waits for the maintenance window
	Rollout   Code = "rollout"   // this node does not take part yet
	Halted    Code = "halted"    // the rollout is at 0
	Probation Code = "probation" // the release has not proven itself yet
)

// Exit 1: failed, worth retrying.
const (
	IO   Code = "io"   // a read, a write, the network, a program that failed
	Disk Code = "disk" // no space, no inodes
)

// Config is exit 2: usage or configuration; nothing is tried until a person mends it.
const Config Code = "config"

// Exit 3: refused or held.
const (
	Signature Code = "signature" // too few valid signatures by trusted keys
	Format    Code = "format"    // bytes that do not follow their format
	Limit     Code = "limit"     // more than a cap allows
	Replay    Code = "replay"    // an older or altered channel state
	Stale     Code = "stale"     // expired, missing, or older than what is known
	Mismatch  Code = "mismatch"  // not the bytes or the version that were named
	Policy    Code = "policy"    // well signed, and still not allowed
	Env       Code = "env"       // the environment audit failed
	Hook      Code = "hook"      // a hook refused
	Blocked   Code = "blocked"   // failed here before, not tried again
	Degraded  Code = "degraded"  // the way back failed as well; holds
)

// Unhealthy is exit 4: rolled back in this cycle.
const Unhealthy Code = "unhealthy"

// All returns every code, in the order of the exit codes.
func All() []Code {
	return []Code{
		Current, Updated, Pinned, Window, Rollout, Halted, Probation,
		IO, Disk,
		Config,
		Signature, Format, Limit, Replay, Stale, Mismatch, Policy, Env, Hook, Blocked, Degraded,
		Unhealthy,
	}
}

// Exit returns the exit code: 0 done, 1 worth retrying, 2 usage or config, 3 refused
// or held, 4 rolled back. A code that is not in the list exits 1.
func (c Code) Exit() int {
	switch c {
	case Current, Updated, Pinned, Window, Rollout, Halted, Probation:
		return 0
	case Config:
		return 2
	case Signature, Format, Limit, Replay, Stale, Mismatch, Policy, Env, Hook, Blocked, Degraded:
		return 3
	case Unhealthy:
		return 4
	default:
		return 1
	}
}

// Error is an error with a code. Callers match it with errors.As, or call Of.
type Error struct {
	Code Code
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Wrap gives err a code; an err that has one keeps it. Wrap(code, nil) is nil.
func Wrap(code Code, err error) error {
	var e *Error
	if err == nil || errors.As(err, &e) {
		return err
	}
	return &Error{Code: code, Err: err}
}

// OnDisk gives an error of the disk its reason: "disk" when there is no space or no
// inode left. Any other stays as it is, which counts as "io"; a filesystem that can only
// be read is said to be, with the way out.
func OnDisk(err error) error {
	var e *Error
	switch {
	case errors.As(err, &e):
		return err
	case errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT):
		return Wrap(Disk, err)
	case errors.Is(err, unix.EROFS):
		return Errorf(IO, "%w: nothing can be changed until it can be written again; after a fault of the disk (see `dmesg`) mend and remount it, in a sandbox name the directory in ReadWritePaths=", err)
	}
	return err
}

// Errorf is fmt.Errorf with a code. A code of a wrapped error is overruled by code.
func Errorf(code Code, format string, args ...any) error {
	return &Error{Code: code, Err: fmt.Errorf(format, args...)}
}

// Of returns the outermost code of err; IO for an error without one, Current for nil.
func Of(err error) Code {
	if err == nil {
		return Current
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return IO
}
