// Package gitserver serves a repository as git hosts do, to tests: `git http-backend` behind
// TLS, and Debian's sshd. Both listen on loopback, run as the user who runs the test, and
// end with it.
//
//	w := gitserver.HTTPS(t, dir)  // w.URL, w.CAFile, w.TokenFile
//	s := gitserver.SSH(t, dir)    // s.URL, s.KeyFile, s.KnownHosts
//
// dir is a bare repository. A test can look at what was asked, and answer itself, to see what
// becomes of a host that does not behave.
//
// Only tests import this package.
package gitserver

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/cgi"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
)

// Web is a repository behind HTTPS.
type Web struct {
	URL       string // https://127.0.0.1:PORT/NAME
	CAFile    string // the certificate that vouches for the server
	TokenFile string // holds what is wanted as password
	Token     string // the same

	// Answer, when it is set, sees each request first, and says whether it answered.
	// It is set before the requests that it is for.
	Answer func(w http.ResponseWriter, r *http.Request) bool

	mu       sync.Mutex
	requests []string
	in, out  int64
	conns    int
}

// HTTPS serves the repository in dir to everyone who knows the token. Its certificate is for
// loopback, and for what else it is called.
func HTTPS(t testing.TB, dir string, names ...string) *Web {
	t.Helper()
	return HTTPSInside(t, nil, dir, names...)
}

// HTTPSInside is as HTTPS, for a repository that git sees only when it is run by the command
// enter, such as one on a booted host.
func HTTPSInside(t testing.TB, enter []string, dir string, names ...string) *Web {
	t.Helper()
	git := testenv.Program(t, "git")
	where, err := exec.Command(git, "--exec-path").Output()
	if err != nil {
		t.Fatal(err)
	}
	command := append(slices.Clone(enter), filepath.Join(strings.TrimSpace(string(where)), "git-http-backend"))
	var said bytes.Buffer
	backend := &cgi.Handler{
		Path:   testenv.Program(t, command[0]),
		Args:   command[1:],
		Stderr: &locked{w: &said},
		Logger: log.New(io.Discard, "", 0),
		Env: []string{
			"GIT_PROJECT_ROOT=" + filepath.Dir(dir), "GIT_HTTP_EXPORT_ALL=1", "REMOTE_USER=tester",
			"GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null",
			"GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=safe.directory", "GIT_CONFIG_VALUE_0=*",
		},
	}
	w := &Web{Token: rand.Text()}
	scratch := t.TempDir()
	w.TokenFile = write(t, scratch, "token", w.Token+"\n", 0o600)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { w.serve(backend, rw, r) }))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			w.mu.Lock()
			w.conns++
			w.mu.Unlock()
		}
	}
	cert, ca := certificate(t, names)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	w.CAFile = write(t, scratch, "ca.pem", ca, 0o644)
	s.StartTLS()
	t.Cleanup(s.Close)
	w.URL = s.URL + "/" + filepath.Base(dir)
	return w
}

func (w *Web) serve(backend http.Handler, rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	w.requests = append(w.requests, r.Method+" "+r.URL.RequestURI())
	w.mu.Unlock()
	c := &counting{ResponseWriter: rw, web: w}
	if r.Body != nil {
		r.Body = &countingBody{r.Body, w}
	}
	if w.Answer != nil && w.Answer(c, r) {
		return
	}
	if _, password, _ := r.BasicAuth(); password != w.Token {
		c.Header().Set("WWW-Authenticate", `Basic realm="git"`)
		http.Error(c, "no", http.StatusUnauthorized)
		return
	}
	// net/http/cgi would keep a proxy's variables; git needs the length of the body.
	backend.ServeHTTP(c, r)
}

// Requests returns what was asked since the last call: method and path.
func (w *Web) Requests() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := w.requests
	w.requests = nil
	return all
}

// Bytes returns how many bytes of bodies came in and went out since the last call.
func (w *Web) Bytes() (in, out int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	in, out = w.in, w.out
	w.in, w.out = 0, 0
	return in, out
}

// Connections returns how many connections were made.
func (w *Web) Connections() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.conns
}

// counting counts what is answered.
type counting struct {
	http.ResponseWriter
	web *Web
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.web.mu.Lock()
	c.web.out += int64(n)
	c.web.mu.Unlock()
	return n, err
}

// Flush is asked for by those who answer slowly.
func (c *counting) Flush() { http.NewResponseController(c.ResponseWriter).Flush() }

// countingBody counts what is asked.
type countingBody struct {
	io.ReadCloser
	web *Web
}

func (c *countingBody) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.web.mu.Lock()
	c.web.in += int64(n)
	c.web.mu.Unlock()
	return n, err
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

func write(t testing.TB, dir, name, text string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	return file
}

// certificate makes an authority, and a certificate by it for loopback and other names.
func certificate(t testing.TB, names []string) (tls.Certificate, string) {
	t.Helper()
	make := func(c, parent *x509.Certificate, signer *ecdsa.PrivateKey) ([]byte, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		if signer == nil {
			signer, parent = key, c
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der, key
	}
	valid := func(serial int64, name string) *x509.Certificate {
		return &x509.Certificate{
			SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: name},
			NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		}
	}
	ca := valid(1, "test authority")
	ca.IsCA, ca.BasicConstraintsValid, ca.KeyUsage = true, true, x509.KeyUsageCertSign
	caDER, caKey := make(ca, nil, nil)
	leaf := valid(2, "test server")
	leaf.IPAddresses, leaf.DNSNames = []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback}, append([]string{"localhost"}, names...)
	der, key := make(leaf, ca, caKey)
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: caDER})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, string(text)
}

// Script makes a program out of a shell script, for hooks.
func Script(t testing.TB, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(fmt.Sprintf("#!/bin/sh\n%s\n", text)), 0o755); err != nil {
		t.Fatal(err)
	}
}
