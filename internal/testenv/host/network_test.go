package host

import (
	"net"
	"strings"
	"testing"
)

// Two hosts serve on one port, which this machine does not see.
func TestAsRootPrivate(t *testing.T) {
	var listeners []net.Listener
	for _, name := range []string{"web-1", "web-2"} {
		h := Boot(t, Private, Named(name))
		if got := strings.TrimSpace(h.Run(t, "uname", "-n")); got != name {
			t.Errorf("the host's name is %q, want %q", got, name)
		}
		l := h.Listen(t, "127.0.0.1:443")
		listeners = append(listeners, l)
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				c.Write([]byte(name + "\n")) // that it does not arrive is seen below
				c.Close()
			}
		}()
		said := h.Run(t, "bash", "-c", "cat </dev/tcp/127.0.0.1/443")
		if said != name+"\n" {
			t.Errorf("the host hears %q, want %q", said, name)
		}
	}
	if listeners[0].Addr().String() != listeners[1].Addr().String() {
		t.Errorf("they listen on %s and %s", listeners[0].Addr(), listeners[1].Addr())
	}
	free, err := net.Listen("tcp", "127.0.0.1:443")
	if err != nil {
		t.Fatalf("the port is taken here: %v", err)
	}
	free.Close()
}
