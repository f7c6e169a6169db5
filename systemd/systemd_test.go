package systemd

import (
	"errors"
	"net"
	"strings"
	"testing"
)

// A bus that hangs accepts connections, and says nothing.
func TestHungBus(t *testing.T) {
	path := t.TempDir() + "/bus"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+path)
	if _, err := Connect(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "no greeting within 3s") {
		t.Errorf("got %v", err)
	}
}
