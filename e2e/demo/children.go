package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endChildren kills the children of this process, and theirs, which become its own when
// their parents are gone, until there are none. No child may be waited for elsewhere.
func endChildren(most time.Duration) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(most); ; <-tick.C {
		left, err := reap()
		if err != nil || !left {
			return err
		}
		pids, err := children()
		if err != nil {
			return err
		}
		for _, pid := range pids {
			// It is there until it is reaped, so the id is no other's.
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("processes %d were killed and did not end", pids)
		}
	}
}

// reap takes notice of all children that have ended, and reports whether there are
// others.
func reap() (left bool, err error) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		switch {
		case err == unix.EINTR:
		case err == unix.ECHILD:
			return false, nil
		case err != nil:
			return false, fmt.Errorf("wait for children: %w", err)
		case pid == 0:
			return true, nil
		}
	}
}

// children returns the ids of the children of this process.
func children() ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, name := range stats {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		// "pid (name) state parent …", and a name may hold anything.
		_, rest, _ := strings.Cut(string(data[max(bytes.LastIndexByte(data, ')'), 0):]), " ")
		fields := strings.Fields(rest)
		if len(fields) < 2 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
