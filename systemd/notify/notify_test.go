package notify

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestNotify(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "n")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	t.Setenv("NOTIFY_SOCKET", socket)
	buf := make([]byte, 4096)
	heard := func(tell func() error) string {
		t.Helper()
		if err := tell(); err != nil {
			t.Fatal(err)
		}
		n, err := conn.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		return string(buf[:n])
	}
	for _, c := range []struct {
		want string
		tell func() error
	}{
		{"READY=1", Ready},
		{"STOPPING=1", Stopping},
		{"WATCHDOG=1", Alive},
		{"EXTEND_TIMEOUT_USEC=30000000", func() error { return Patience(30 * time.Second) }},
		{"STATUS=runs 1.0.0 READY=1", func() error { return Status("runs 1.0.0\nREADY=1") }},
	} {
		if got := heard(c.tell); got != c.want {
			t.Errorf("got %q, want %q", got, c.want)
		}
	}
	got := heard(Reloading)
	usec, ok := strings.CutPrefix(got, "RELOADING=1\nMONOTONIC_USEC=")
	if n, err := strconv.ParseInt(usec, 10, 64); !ok || err != nil || n <= 0 {
		t.Errorf("Reloading sent %q", got)
	}

	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	if err := Ready(); err == nil || !strings.HasPrefix(err.Error(), "notify the service manager: ") {
		t.Errorf("with nobody at the socket: %v", err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Ready(); err != nil {
		t.Errorf("without a service manager: %v", err)
	}
}

func TestWatchdog(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for _, c := range []struct {
		usec, pid string
		want      time.Duration
		err       string
	}{
		{"", "", 0, ""},
		{"90000000", self, 90 * time.Second, ""},
		{"90000000", "", 90 * time.Second, ""},
		{"90000000", "1", 0, ""}, // another process's
		{"soon", self, 0, "watchdog: "},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		got, err := Watchdog()
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.HasPrefix(err.Error(), c.err) {
			t.Errorf("%q of %q: got %s, %v", c.usec, c.pid, got, err)
		}
	}
}
