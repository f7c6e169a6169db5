package s3

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

// stall is how long an attempt waits for a byte to come or go.
const stall = 30 * time.Second

// guard is what the client sends its requests over.
type guard struct {
	caFile string
	region string // that the host is named for; empty: it is not Amazon's

	mu   sync.Mutex
	base http.RoundTripper // made by the first request that finds caFile good
}

// over returns what requests are sent over.
func (g *guard) over() (http.RoundTripper, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.base == nil {
		roots, err := rootCAs(g.caFile)
		if err != nil {
			return nil, err
		}
		t, err := minio.DefaultTransport(true) // which verifies certificates, and leaves bytes as they are stored
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = roots
		t.ResponseHeaderTimeout = stall
		t.MaxResponseHeaderBytes = 64 << 10
		t.IdleConnTimeout = 2 * time.Minute // longer than a poll's interval
		g.base = t
	}
	return g.base, nil
}

// RoundTrip sends a request of once. Any answer but a success is an error, which it leaves
// with the attempt: the client may put another in its place. Ending the attempt keeps
// the client from waiting, as it does after its last attempt, too.
func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	w, ok := req.Context().Value(watchKey{}).(*watchdog)
	switch {
	case !ok || req.URL.RawQuery != "":
		return nil, fmt.Errorf("the S3 client sends a %s that it was not asked for", req.Method)
	case !strings.Contains(req.URL.Host, g.region):
		w.err = reason.Errorf(reason.Config, "storage.region: %q is not a region of Amazon's that this version knows", g.region)
		return nil, w.err
	}
	resp, err := g.send(req, w)
	if err != nil {
		w.err = err
		w.end()
		return nil, err
	}
	return resp, nil
}

func (g *guard) send(req *http.Request, w *watchdog) (*http.Response, error) {
	base, err := g.over()
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("User-Agent", "sando")
	req.Header.Set("Accept-Encoding", "identity")
	var sent *upload
	if req.Body != nil {
		sent = &upload{r: req.Body, w: w}
		req.Body = sent
	}
	w.start()
	resp, err := base.RoundTrip(req)
	if sent != nil {
		// The transport may go on reading after it has answered.
		sent.Close()
	}
	w.stop()
	if err != nil {
		return nil, unreached(err)
	}
	resp.Body = &download{body: resp.Body, w: w}
	if err := judge(req, resp); err != nil {
		resp.Body.Close()
		return nil, err
	}
	if req.Method == http.MethodPut {
		// The client would read all of it.
		resp.Body.Close()
		resp.Body = http.NoBody
	}
	resp.Header = facts(resp.Header)
	return resp, nil
}

// facts returns what is read of a good answer's headers.
func facts(h http.Header) http.Header {
	kept := http.Header{"Last-Modified": {time.Unix(0, 0).UTC().Format(http.TimeFormat)}} // the client wants one
	for name, values := range h {
		if name == "Content-Length" || name == "Content-Range" || name == "Etag" || strings.HasPrefix(name, "X-Amz-Meta-") {
			kept[name] = values
		}
	}
	return kept
}

// maxCAFile bounds a file of certificates, in bytes.
const maxCAFile = 4 << 20

// rootCAs returns the system's roots and those in file.
func rootCAs(file string) (*x509.CertPool, error) {
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if file == "" {
		return pool, nil
	}
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0) // a pipe does not hold it up
	if err != nil {
		return nil, reason.Errorf(reason.Config, "storage.ca_file: %w", err)
	}
	defer f.Close() // only read
	pem, err := io.ReadAll(io.LimitReader(f, maxCAFile+1))
	if err != nil {
		return nil, reason.Errorf(reason.Config, "storage.ca_file: %w", err)
	}
	if len(pem) > maxCAFile || !pool.AppendCertsFromPEM(pem) {
		return nil, reason.Errorf(reason.Config, "storage.ca_file: %q holds no certificate in PEM form, or more than %d bytes", file, maxCAFile)
	}
	return pool, nil
}

var errStall = errors.New("nothing came or went for 30 seconds")

// watchdog ends an attempt that does not move. It runs while the network is waited for,
// and not while the caller is busy.
type watchdog struct {
	timer  *time.Timer
	cancel context.CancelCauseFunc
	err    error // that the attempt ended with, before there was an answer to return
}

// watchKey is the key of an attempt's watchdog in the context of its request.
type watchKey struct{}

// watch begins an attempt. The context is that of its request.
func watch(ctx context.Context) (context.Context, *watchdog) {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{timer: time.AfterFunc(stall, func() { cancel(errStall) }), cancel: cancel}
	w.stop()
	return context.WithValue(ctx, watchKey{}, w), w
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
