package host

import (
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// Listen listens on an address in the host's network. The listener and what it accepts are
// this process's, so that a test can answer in the name of a server elsewhere, or pass on to
// one. It ends with the test, and, with a Private network, at the next Reboot.
func (h *Host) Listen(t testing.TB, address string) net.Listener {
	t.Helper()
	l, err := h.listenInside(address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// listenInside goes into the host's network with one thread, and comes back: a socket stays
// where it was made. A thread that did not come back would have to end, and with it the
// children that it has started.
func (h *Host) listenInside(address string) (l net.Listener, err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	there, err := os.Open(filepath.Join("/proc", strconv.Itoa(h.leader), "ns/net"))
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, os.NewSyscallError("setns", err)
	}
	defer func() {
		if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
			panic("the thread stays in the host's network: " + err.Error())
		}
	}()
	return net.Listen("tcp", address)
}
