package transport

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"makenot.work/sando/internal/testenv/gitserver"
)

// sshd is a host that lets everybody in, and then does what a test wants.
type sshd struct {
	Config
	connections atomic.Int64
}

// listening is a connection that its owner may stop reading.
type listening struct {
	net.Conn
	deaf  atomic.Bool
	over  chan struct{}
	stuck atomic.Pointer[chan struct{}] // closed when nothing can be written any more
}

func (l *listening) Read(p []byte) (int, error) {
	if l.deaf.Load() {
		<-l.over
	}
	return l.Conn.Read(p)
}

func (l *listening) Write(p []byte) (int, error) {
	if l.deaf.Load() {
		l.SetWriteDeadline(time.Now().Add(time.Second))
	}
	n, err := l.Conn.Write(p)
	if stuck := l.stuck.Load(); err != nil && stuck != nil && l.stuck.CompareAndSwap(stuck, nil) {
		close(*stuck)
	}
	return n, err
}

// startSSHD runs serve for each run of a service.
func startSSHD(t *testing.T, serve func(c *ssh.ServerConn, wire *listening, service ssh.Channel)) *sshd {
	t.Helper()
	file, public := gitserver.Key(t, filepath.Join(t.TempDir(), "host"))
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePrivateKey(data)
	if err != nil {
		t.Fatal(err)
	}
	conf := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	conf.AddHostKey(key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan struct{})
	t.Cleanup(func() { close(over); l.Close() })
	user, _ := gitserver.Key(t, filepath.Join(t.TempDir(), "user"))
	s := &sshd{Config: Config{
		URL: "ssh://git@" + l.Addr().String() + "/c.git", SSHKey: user,
		KnownHosts: write(t, knownhosts.Line([]string{l.Addr().String()}, public), 0o644),
	}}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.connections.Add(1)
			conn.(*net.TCPConn).SetReadBuffer(4 << 10)
			go serveSSH(&listening{Conn: conn, over: over}, conf, serve)
		}
	}()
	return s
}

func serveSSH(wire *listening, conf *ssh.ServerConfig, serve func(*ssh.ServerConn, *listening, ssh.Channel)) {
	c, channels, requests, err := ssh.NewServerConn(wire, conf)
	if err != nil {
		return
	}
	go ssh.DiscardRequests(requests)
	for n := range channels {
		service, requests, err := n.Accept()
		if err != nil {
			return
		}
		go func() {
			for r := range requests {
				r.Reply(true, nil)
				serve(c, wire, service)
			}
		}()
	}
}

// TestSSHLeftOpen has a service that does not end when it was told to: its connection is
// not used again, since what it said stays there.
func TestSSHLeftOpen(t *testing.T) {
	for name, tt := range map[string]struct {
		ends bool
		want int64
	}{"ended": {true, 1}, "left open": {false, 3}} {
		s := startSSHD(t, func(_ *ssh.ServerConn, _ *listening, service ssh.Channel) {
			service.Write([]byte(flush))
			if tt.ends {
				service.SendRequest("exit-status", false, make([]byte, 4))
				service.Close()
			}
		})
		h, err := New(s.Config, Patience{Dial: time.Minute, Stall: 300 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if err := look(t.Context(), h); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		h.Close()
		if got := s.connections.Load(); got != tt.want {
			t.Errorf("%s: %d connections for 3 conversations, want %d", name, got, tt.want)
		}
	}
}

// TestSSHDeaf has a host that listens no more, and wants so many answers that none can be
// sent: the end of a conversation does not wait for it.
func TestSSHDeaf(t *testing.T) {
	stuck := make(chan struct{})
	s := startSSHD(t, func(c *ssh.ServerConn, wire *listening, service ssh.Channel) {
		service.Write([]byte(flush))
		begun := make(chan struct{})
		go func() {
			service.Read(make([]byte, 4)) // the request
			wire.deaf.Store(true)
			close(begun)
		}()
		<-begun
		wire.stuck.Store(&stuck)
		for range 5_000 {
			go c.OpenChannel(strings.Repeat("x", 8<<10), nil) // each is refused in the same words
		}
	})
	h, err := New(s.Config, Patience{Dial: time.Minute, Stall: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	session, err := h.Open(t.Context(), Read)
	if err != nil {
		t.Fatal(err)
	}
	if err := session.Ask([]byte(flush)); err != nil {
		t.Fatal(err)
	}
	<-stuck
	done := make(chan struct{})
	go func() {
		session.Close()
		h.Close()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("Close waits for a host that does not listen")
	}
}
