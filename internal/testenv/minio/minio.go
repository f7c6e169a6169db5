// Package minio starts a real MinIO on loopback for the tests of one package, and ends it
// with them.
//
//	func TestS3(t *testing.T) {
//		s := minio.Start(t, minio.Options{})  // about half a second: once, in the test
//		t.Run("…", func(t *testing.T) {       // whose subtests share it
//			bucket := s.Bucket(t, minio.Private)
//			…
//		})
//	}
//
// The server is MinIO of the version pinned in tools/minio, as `make tools` built it. It
// listens on a free port of 127.0.0.1, keeps everything below the test's directory, has
// random root credentials, and speaks with nobody: no console, no update check. It dies
// with the test binary. Buckets and users have names of their own, so tests that share a
// server do not meet.
//
// It is not S3 in each respect: who may read but not list gets 404 for a missing object,
// where S3 answers 403.
//
// Only tests import this package.
package minio

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"makenot.work/sando/internal/testenv"
)

// Options choose what server starts.
type Options struct {
	TLS    bool   // https, with a certificate of an authority of its own
	Name   string // with TLS: what it is called besides 127.0.0.1 and localhost
	Region string // the one region it answers for; default us-east-1
}

// Server is a running MinIO.
type Server struct {
	Endpoint string // http://127.0.0.1:PORT, or https://
	Region   string
	CAFile   string // PEM; "" without TLS
	Root     User   // may do everything

	dir       string
	transport *http.Transport
}

// User is who may ask. The files hold nothing but the key.
type User struct {
	AccessKey, SecretKey         string
	AccessKeyFile, SecretKeyFile string
}

const ready = 30 * time.Second // to start, on a busy machine

// Start starts a server, and ends it when t ends.
func Start(t testing.TB, o Options) *Server {
	t.Helper()
	program := testenv.Tool(t, "minio")
	s := &Server{Region: o.Region, dir: t.TempDir()}
	if s.Region == "" {
		s.Region = "us-east-1"
	}
	s.transport = &http.Transport{}
	t.Cleanup(s.transport.CloseIdleConnections)
	s.Root = s.newUser(t)
	scheme := "http"
	if o.TLS {
		scheme = "https"
		s.CAFile = writeCerts(t, s.path("certs"), o.Name)
		s.transport.TLSClientConfig = &tls.Config{RootCAs: pool(t, s.CAFile)}
	}
	// Between choosing a port and MinIO's listening on it somebody else may take it.
	var err error
	for range 3 {
		address := freePort(t)
		s.Endpoint = scheme + "://" + address
		if err = s.run(t, program, address); err == nil {
			return s
		}
	}
	t.Fatalf("start MinIO: %v", err)
	return nil
}

func (s *Server) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

func freePort(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().String()
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run starts the program and waits until it is ready.
func (s *Server) run(t testing.TB, program, address string) error {
	must(t, os.MkdirAll(s.path("certs"), 0o700))
	cmd := exec.Command(program, "server", "--quiet", "--anonymous",
		"--address", address, "--certs-dir", s.path("certs"), s.path("data"))
	cmd.Dir = s.dir
	cmd.Env = []string{
		"HOME=" + s.dir, "TMPDIR=" + s.dir, "PATH=/usr/bin:/bin",
		"MINIO_ROOT_USER=" + s.Root.AccessKey, "MINIO_ROOT_PASSWORD=" + s.Root.SecretKey,
		"MINIO_SITE_REGION=" + s.Region, "MINIO_BROWSER=off", "MINIO_UPDATE=off",
	}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	// The kernel ends it with the thread that started it, and threads of a test binary
	// live as long as that does.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, cmd.Start())
	ctx, cancel := context.WithTimeout(t.Context(), ready)
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // killed, or ended by itself: both are seen below
		cancel()
	}()
	stop := func() {
		_ = cmd.Process.Kill() // has ended by itself otherwise
		<-exited
	}
	if err := s.await(ctx); err != nil {
		stop()
		return fmt.Errorf("%w\n%s", err, output.String())
	}
	t.Cleanup(stop)
	return nil
}

// await asks until the server is ready, or ctx ends.
func (s *Server) await(ctx context.Context) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	client := &http.Client{Transport: s.transport}
	for {
		err := ask(ctx, client, s.Endpoint+"/minio/health/cluster")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not ready: %w", err)
		case <-tick.C:
		}
	}
}

func ask(ctx context.Context, client *http.Client, url string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", url, resp.Status)
	}
	return nil
}

func pool(t testing.TB, file string) *x509.CertPool {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	p := x509.NewCertPool()
	if !p.AppendCertsFromPEM(data) {
		t.Fatalf("no certificate in %s", file)
	}
	return p
}

// Client returns a client of the server that asks as u, who is anybody when zero.
func (s *Server) Client(t testing.TB, u User) *miniogo.Client {
	t.Helper()
	c, err := miniogo.New(s.Host(), &miniogo.Options{
		Creds:        credentials.NewStaticV4(u.AccessKey, u.SecretKey, ""),
		Secure:       s.CAFile != "",
		Transport:    s.transport,
		Region:       s.Region,
		BucketLookup: miniogo.BucketLookupPath,
	})
	must(t, err)
	return c
}

// Host returns HOST:PORT of the server.
func (s *Server) Host() string {
	_, host, _ := strings.Cut(s.Endpoint, "://")
	return host
}

// Access says who may do what in a new bucket.
type Access int

const (
	// Private is for those with credentials.
	Private Access = iota
	// PublicRead lets anybody read objects whose names they know; nobody may list.
	PublicRead
)

// Bucket makes a bucket and returns its name.
func (s *Server) Bucket(t testing.TB, a Access) string {
	t.Helper()
	name := "b-" + strings.ToLower(rand.Text()[:16])
	s.NamedBucket(t, name, a)
	return name
}

// NamedBucket makes a bucket that a test needs under this name: the server is its own.
func (s *Server) NamedBucket(t testing.TB, name string, a Access) {
	t.Helper()
	c := s.Client(t, s.Root)
	must(t, c.MakeBucket(t.Context(), name, miniogo.MakeBucketOptions{Region: s.Region}))
	if a == PublicRead {
		must(t, c.SetBucketPolicy(t.Context(), name, policy(`"Principal":{"AWS":["*"]},`, []string{"s3:GetObject"}, name+"/*")))
	}
}
