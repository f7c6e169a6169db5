package s3

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"makenot.work/sando/internal/reason"
)

// stall is how long an attempt waits for a byte to come or go.
const stall = 30 * time.Second

func newHTTP(roots *x509.CertPool) *http.Client {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	return &http.Client{
		Transport: &http.Transport{
			Proxy:                 http.ProxyFromEnvironment,
			DialContext:           dialer.DialContext,
			TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
			TLSHandshakeTimeout:   10 * time.Second,
			ResponseHeaderTimeout: stall,
			IdleConnTimeout:       2 * time.Minute, // longer than a poll's interval
			MaxIdleConnsPerHost:   4,
			DisableCompression:    true, // the bytes as they are stored
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// rootCAs returns the system's roots and those in file.
func rootCAs(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if file == "" {
		return pool, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, reason.Errorf(reason.Config, "storage.ca_file: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, reason.Errorf(reason.Config, "storage.ca_file: %q holds no certificate in PEM form", file)
	}
	return pool, nil
}

var errStall = errors.New("nothing came or went for 30 seconds")

// watchdog ends an attempt that does not move. It runs while the network is waited for,
// and not while the caller is busy.
type watchdog struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
}

func watch(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	return ctx, &watchdog{time.AfterFunc(stall, func() { cancel(errStall) }), cancel}
}

func (w *watchdog) start() { w.timer.Reset(stall) }
func (w *watchdog) stop()  { w.timer.Stop() }

// end gives back what the watchdog holds; the attempt is over.
func (w *watchdog) end() {
	w.stop()
	w.cancel(context.Canceled)
}

// upload is the body of a request. The transport reads it in a goroutine of its own that
// can outlive the request; nothing is read from r once Close has returned.
type upload struct {
	mu     sync.Mutex
	r      io.Reader
	w      *watchdog
	closed bool
}

func (u *upload) Read(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.closed {
		return 0, errors.New("the request is over")
	}
	u.w.stop()
	defer u.w.start()
	return u.r.Read(p)
}

func (u *upload) Close() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	return nil
}

// download is the body of an answer. The transport sees to it that there are as many
// bytes as announced, and that a read ends with the context of the request.
type download struct {
	body io.ReadCloser
	w    *watchdog
}

func (d *download) Read(p []byte) (int, error) {
	d.w.start()
	n, err := d.body.Read(p)
	d.w.stop()
	if err != nil && err != io.EOF {
		err = &broken{err}
	}
	return n, err
}

func (d *download) Close() error {
	d.w.end()
	return d.body.Close()
}
