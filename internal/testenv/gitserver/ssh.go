package gitserver

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"makenot.work/sando/internal/testenv"
)

// Shell is a repository behind sshd.
type Shell struct {
	URL        string // ssh://USER@127.0.0.1:PORT/DIR
	Addr       string // of sshd
	KeyFile    string // a key that may come in
	KnownHosts string // the host's keys

	mu    sync.Mutex
	conns int
	open  map[net.Conn]bool
	log   string
}

// SSH serves the repository in dir, and all else that the current user may do, to one key.
// The host has keys of two kinds, ECDSA and Ed25519, and known_hosts has the second one.
func SSH(t testing.TB, dir string) *Shell {
	t.Helper()
	sshd := program(t, "sshd")
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if me.Uid == "0" { // sshd wants its own directory there
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil {
			t.Fatal(err)
		}
	}
	scratch := t.TempDir()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Shell{Addr: listener.Addr().String(), open: make(map[net.Conn]bool), log: filepath.Join(scratch, "log")}
	s.URL = "ssh://" + me.Username + "@" + s.Addr + dir
	var client, host ssh.PublicKey
	s.KeyFile, client = Key(t, filepath.Join(scratch, "key"))
	hostFile, host := Key(t, filepath.Join(scratch, "host"))
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	otherFile := writeKey(t, filepath.Join(scratch, "host-ecdsa"), other)
	s.KnownHosts = write(t, scratch, "known_hosts", s.Line(host)+"\n", 0o644)
	conf := strings.Join([]string{
		"HostKey " + otherFile, "HostKey " + hostFile,
		"AuthorizedKeysFile " + write(t, scratch, "authorized", string(ssh.MarshalAuthorizedKey(client)), 0o600),
		"StrictModes no", "UsePAM no", "PasswordAuthentication no", "KbdInteractiveAuthentication no",
		"PermitRootLogin prohibit-password", "PidFile none", "PrintMotd no", "PrintLastLog no",
		"SetEnv SHLVL=2", // or Debian's bash reads the user's .bashrc, whatever that does
	}, "\n")
	args := []string{"-i", "-f", write(t, scratch, "sshd_config", conf+"\n", 0o600), "-E", s.log}
	var running sync.WaitGroup
	running.Go(func() { s.accept(listener, sshd, args, &running) })
	t.Cleanup(func() {
		listener.Close()
		s.Drop()
		running.Wait()
		if t.Failed() {
			text, _ := os.ReadFile(s.log) // there may be none
			t.Logf("sshd said:\n%s", text)
		}
	})
	return s
}

// Line returns the line of known_hosts for a key of this host.
func (s *Shell) Line(key ssh.PublicKey) string {
	return knownhosts.Line([]string{knownhosts.Normalize(s.Addr)}, key)
}

// accept runs an sshd for each connection.
func (s *Shell) accept(listener net.Listener, sshd string, args []string, running *sync.WaitGroup) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		f, err := conn.(*net.TCPConn).File()
		if err != nil {
			conn.Close()
			continue
		}
		s.mu.Lock()
		s.conns++
		s.open[conn] = true
		s.mu.Unlock()
		running.Go(func() {
			defer conn.Close()
			cmd := exec.Command(sshd, args...)
			cmd.Stdin, cmd.Stdout = f, f
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Run() // how it ends says nothing
			f.Close()
			s.mu.Lock()
			delete(s.open, conn)
			s.mu.Unlock()
		})
	}
}

// Drop cuts all connections, as a reboot of the host would.
func (s *Shell) Drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.open {
		if raw, err := conn.(*net.TCPConn).SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) { syscall.Shutdown(int(fd), syscall.SHUT_RDWR) })
		}
	}
}

// Connections returns how many connections were made.
func (s *Shell) Connections() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns
}

// Key makes an Ed25519 key in a file.
func Key(t testing.TB, file string) (string, ssh.PublicKey) {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return writeKey(t, file, key), public
}

func writeKey(t testing.TB, file string, key crypto.PrivateKey) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return write(t, filepath.Dir(file), filepath.Base(file), string(pem.EncodeToMemory(block)), 0o600)
}

// program finds sshd, which is not in everybody's PATH, and wants to be called by its full name.
func program(t testing.TB, name string) string {
	t.Helper()
	if path, err := exec.LookPath("/usr/sbin/" + name); err == nil {
		return path
	}
	return testenv.Program(t, name)
}
