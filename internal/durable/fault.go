//go:build faults

package durable

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// In a build with the tag "faults" the environment variable SANDO_FAULT chooses what
// happens at the operation with the number N, counted from 1 in this process:
//
//	kill:N    the process is killed before the operation
//	killed:N  the process is killed right after it
//	fail:N    the operation is not done, and fails with EIO
//	stored:N  the operation is done, and fails with EIO
//	stop:N    the process stops (SIGSTOP) before the operation; the test cuts the power
//	stopped:N the process stops right after it
//	full:N    the operation and all later ones that need space fail with ENOSPC
//	tight:N   the same, until there is a syncfs, as after something was given up
//	short:N   the operation, if it needs space, fails with ENOSPC
//	readonly:N  the operation and all later ones, but syncs, fail with EROFS
//	broken:N  the operation and all later ones fail with EIO
//	count:F   nothing; the number of operations so far is kept in the file F
//
// Instead of N, "KIND:END" is each operation of a kind on a path that ends so, as in
// stop:rename:/current.
//
// SANDO_FAULT_LACK names a kind of operation (exchange) that the filesystem does not have.
//
// SANDO_FAULT_LIE names a kind of operation (fsync, syncfs) that is never done and said
// to be: what a test that cuts the power must find out.
//
// SANDO_FAULT_LOG names a file to which each operation is written as "N KIND PATH".
var ops struct {
	n        atomic.Int64
	relieved atomic.Bool // a tight disk has space again
}

func op(kind, path string, do func() error) error {
	n := ops.n.Add(1)
	note(n, kind, path)
	mode, arg, _ := strings.Cut(os.Getenv("SANDO_FAULT"), ":")
	at, err := strconv.ParseInt(arg, 10, 64)
	if mode == "count" {
		err := do()
		if werr := os.WriteFile(arg, []byte(strconv.FormatInt(n, 10)), 0o600); werr != nil {
			panic(werr)
		}
		return err
	}
	if kind == os.Getenv("SANDO_FAULT_LIE") {
		do = func() error { return nil }
	}
	if errno := lasting(mode, n, at, kind); errno != 0 {
		return fmt.Errorf("%s %s: %w", kind, path, errno)
	}
	if err != nil && named(arg, kind, path) {
		at, err = n, nil
	}
	if err != nil || n != at {
		return do()
	}
	switch mode {
	case "kill":
		kill()
	case "stop":
		signal(syscall.SIGSTOP)
	case "stopped":
		defer signal(syscall.SIGSTOP)
	case "killed":
		if err := do(); err != nil {
			return err
		}
		kill()
	case "short":
		if needsSpace(kind) {
			return fmt.Errorf("%s %s: %w", kind, path, unix.ENOSPC)
		}
	case "fail":
		return fmt.Errorf("%s %s: %w", kind, path, unix.EIO)
	case "stored":
		if err := do(); err != nil {
			return err
		}
		return fmt.Errorf("%s %s: %w", kind, path, unix.EIO)
	}
	return do()
}

// named reports whether arg names an operation as KIND:END.
func named(arg, kind, path string) bool {
	want, end, ok := strings.Cut(arg, ":")
	return ok && kind == want && strings.HasSuffix(path, end)
}

// lasting returns the error of an operation that is one of many to fail, 0 if it is not.
func lasting(mode string, n, at int64, kind string) unix.Errno {
	switch {
	case kind == os.Getenv("SANDO_FAULT_LACK"):
		return unix.EINVAL
	case n < at:
	case mode == "full" && needsSpace(kind), mode == "tight" && needsSpace(kind) && !ops.relieved.Load():
		return unix.ENOSPC
	case mode == "tight" && kind == "syncfs":
		ops.relieved.Store(true)
	case mode == "readonly" && kind != "fsync" && kind != "syncfs":
		return unix.EROFS
	case mode == "broken":
		return unix.EIO
	}
	return 0
}

func needsSpace(kind string) bool {
	switch kind {
	case "create", "write", "append", "mkdir", "symlink", "link":
		return true
	}
	return false
}

func kill() {
	signal(syscall.SIGKILL)
	select {}
}

func signal(s syscall.Signal) {
	if err := syscall.Kill(os.Getpid(), s); err != nil {
		panic(err)
	}
}

func note(n int64, kind, path string) {
	name := os.Getenv("SANDO_FAULT_LOG")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	fmt.Fprintf(f, "%d %s %s\n", n, kind, path)
}
