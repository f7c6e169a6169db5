package guides

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/testenv/gitserver"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/internal/testenv/minio"
)

// Where names of the guides lead to, in the network of every machine.
const (
	bucketAddr = "127.77.0.5"
	gitAddr    = "127.77.0.6"
)

// servers are the bucket and the git host of a guide, under the names that it has for them.
type servers struct {
	*stage
	s3  *minio.Server
	git *host.Host // has the user git, and /ops
	web *gitserver.Web

	mu   sync.Mutex
	down map[place]func(net.Conn) // what answers instead
	open map[net.Conn]place
}

// A place is an address, as a machine sees it.
type place struct {
	from    *host.Host
	address string
}

// Credentials that the guides use. They are made up where they are.
const (
	builderKey, builderSecret = "AKIDBUILDER", "builder-secret-0123456789"
	nodeKey, nodeSecret       = "AKIDNODES", "nodes-secret-0123456789"
	gitToken                  = "read-only-token"
)

// serve starts the servers. The policies of builder and nodes are the guide's own, and so is
// the name of the channel repo.
func (s *stage) serve(builderPolicy, nodePolicy, repo string) *servers {
	s.t.Helper()
	v := &servers{stage: s, down: map[place]func(net.Conn){}, open: map[net.Conn]place{}}
	v.s3 = minio.Start(s.t, minio.Options{TLS: true, Name: "s3.example.org"})
	v.s3.NamedBucket(s.t, "releases", minio.Private)
	v.s3.AddUser(s.t, minio.User{AccessKey: builderKey, SecretKey: builderSecret}, builderPolicy)
	v.s3.AddUser(s.t, minio.User{AccessKey: nodeKey, SecretKey: nodeSecret}, nodePolicy)

	v.git = host.Boot(s.t, host.Private, host.Named("git"))
	v.git.Run(s.t, "sh", "-euc", "useradd --create-home --shell /bin/bash --password '*' git; mkdir /ops; git init -q --bare -b main /ops/"+repo+"; chown -R git: /ops")
	sshd(s.t, v.git)
	enter := v.git.Command(s.t.Context(), "env").Args // git may not follow /proc/PID/root
	v.web = gitserver.HTTPSInside(s.t, enter, "/ops/"+repo, "git.example.org")
	v.web.Token = gitToken
	v.web.Answer = func(_ http.ResponseWriter, r *http.Request) bool {
		r.URL.Path = strings.TrimPrefix(r.URL.Path, "/ops") // as the path over ssh
		return false
	}
	return v
}

// reach lets a machine reach the servers.
func (v *servers) reach(h *host.Host) {
	v.t.Helper()
	v.name(h, bucketAddr, "s3.example.org")
	v.name(h, gitAddr, "git.example.org")
	authorities := h.Read(v.t, "/etc/ssl/certs/ca-certificates.crt")
	for _, file := range []string{v.s3.CAFile, v.web.CAFile} {
		text, err := os.ReadFile(file)
		must(v.t, err)
		authorities += string(text)
	}
	h.Write(v.t, "/etc/ssl/certs/ca-certificates.crt", authorities, 0o644)
	dial := func(address string) func(net.Conn) {
		return func(c net.Conn) { forward(c, address) }
	}
	v.listen(h, bucketAddr+":443", dial(v.s3.Host()))
	v.listen(h, gitAddr+":443", dial(strings.Split(v.web.URL, "/")[2]))
	v.listen(h, gitAddr+":22", func(c net.Conn) { login(v.t, v.git, c) })
}

// name gives an address a name, for one machine.
func (s *stage) name(h *host.Host, address, name string) {
	s.t.Helper()
	h.Write(s.t, "/etc/hosts", h.Read(s.t, "/etc/hosts")+address+" "+name+"\n", 0o644)
}

// listen answers at an address, while that is not down.
func (v *servers) listen(h *host.Host, address string, serve func(net.Conn)) {
	v.t.Helper()
	name := place{h, address}
	answer(v.t, h, address, func(c net.Conn) {
		v.mu.Lock()
		now := v.down[name]
		v.open[c] = name
		v.mu.Unlock()
		if now == nil {
			now = serve
		}
		now(c)
		v.mu.Lock()
		delete(v.open, c)
		v.mu.Unlock()
	})
}

// The two servers. Nodes read the channel repo over https, the builder writes it over ssh.
func bucketServer() []string { return []string{bucketAddr + ":443"} }
func gitServer() []string    { return []string{gitAddr + ":443", gitAddr + ":22"} }

// instead has something else answer to a machine at addresses, and cuts who speaks with them;
// nil: the servers again.
func (v *servers) instead(answer func(net.Conn), h *host.Host, addresses ...string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, a := range addresses {
		v.down[place{h, a}] = answer
		for c, to := range v.open {
			if to == (place{h, a}) {
				c.Close()
			}
		}
	}
}

// empty takes all objects out of the bucket.
func (v *servers) empty() {
	v.t.Helper()
	c := v.s3.Client(v.t, v.s3.Root)
	for err := range c.RemoveObjects(v.t.Context(), "releases", c.ListObjects(v.t.Context(), "releases", miniogo.ListObjectsOptions{Recursive: true}), miniogo.RemoveObjectsOptions{}) {
		v.t.Fatal(err)
	}
}

// gone answers nothing.
func gone(net.Conn) {}

// early answers as the servers would to a machine whose clock is a day behind: their
// certificate is not valid yet.
func early(t *testing.T) func(net.Conn) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "example.org"}, DNSNames: []string{"s3.example.org", "git.example.org"},
		NotBefore: time.Now().Add(24 * time.Hour), NotAfter: time.Now().Add(48 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	must(t, err)
	config := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return func(c net.Conn) { _ = tls.Server(c, config).HandshakeContext(t.Context()) } // it is refused
}

// answer answers at an address of a machine until the test ends.
func answer(t *testing.T, h *host.Host, address string, serve func(net.Conn)) {
	t.Helper()
	l := h.Listen(t, address)
	var running sync.WaitGroup
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			running.Go(func() {
				defer c.Close()
				defer closer(t, c)()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		running.Wait()
	})
}

// closer closes a connection when the test ends, unless what it returns was called before.
func closer(t *testing.T, c net.Conn) (done func()) {
	ended := make(chan struct{})
	go func() {
		select {
		case <-t.Context().Done():
			c.Close()
		case <-ended:
		}
	}()
	return func() { close(ended) }
}

// forward passes a connection on.
func forward(c net.Conn, address string) {
	to, err := net.Dial("tcp", address)
	if err != nil {
		return
	}
	defer to.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(to, c) // that a side is gone is what ends it
		to.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(c, to)
	c.Close()
	<-done
}

// sshd lets everybody with a key come in to a machine. Whose key may is a matter of the reader
// and their host.
func sshd(t *testing.T, h *host.Host) {
	t.Helper()
	h.Write(t, "/usr/local/bin/any-key", "#!/bin/sh\necho \"$1 $2\"\n", 0o755)
	h.Write(t, "/etc/ssh/sshd_config", strings.Join([]string{
		"HostKey /etc/ssh/guide_ed25519", "AuthorizedKeysCommand /usr/local/bin/any-key %t %k", "AuthorizedKeysCommandUser nobody",
		"UsePAM no", "PasswordAuthentication no", "PermitRootLogin prohibit-password", "PidFile none", "PrintMotd no", "PrintLastLog no",
		"Subsystem sftp internal-sftp", "",
	}, "\n"), 0o644)
	h.Run(t, "sh", "-euc", "rm -f /etc/ssh/guide_ed25519; mkdir -p /run/sshd; ssh-keygen -q -t ed25519 -N '' -f /etc/ssh/guide_ed25519")
}

// logsIn lets root of a machine log in to others, by their names.
func (s *stage) logsIn(from *host.Host, others map[string]*host.Host) {
	s.t.Helper()
	must(s.t, os.RemoveAll(from.Path("/root/.ssh")))
	from.Run(s.t, "sh", "-euc", "mkdir -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
	from.Write(s.t, "/root/.ssh/config", "StrictHostKeyChecking accept-new\n", 0o600)
	for i, name := range slices.Sorted(maps.Keys(others)) {
		address := fmt.Sprintf("127.77.0.%d", 11+i)
		sshd(s.t, others[name])
		s.name(from, address, name)
		answer(s.t, from, address+":22", func(c net.Conn) { login(s.t, others[name], c) })
	}
}

// login is sshd for one connection.
func login(t *testing.T, h *host.Host, c net.Conn) {
	f, err := c.(*net.TCPConn).File()
	if err != nil {
		return
	}
	defer f.Close()
	cmd := h.Command(t.Context(), "/usr/sbin/sshd", "-i")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f, f, nil
	_ = cmd.Run() // ssh says what is wrong
}
