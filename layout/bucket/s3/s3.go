// Package s3 sends single requests for objects to an S3-compatible server: GET, HEAD and
// PUT of one key. It lists nothing, looks no bucket up, and has no other request at all,
// so credentials that may do no more than these are enough. What requests mean is up to
// package bucket, which is the only caller.
//
// # Where
//
// The endpoint is https://host[:port], or http for a loopback address, and empty for
// Amazon's in the region. The bucket is named in the path, except at Amazon, Google and
// Aliyun, which want it in the host name; PathStyle names it in the path there too. The
// server's certificate is always verified, against the system's roots and those of CAFile.
// The variables HTTPS_PROXY and NO_PROXY are followed.
//
// # Who
//
// Requests are signed with AWS Signature Version 4 unless Anonymous is set. The keys come
// from the first of these that is there, and a request is never sent unsigned because
// none is:
//
//   - AccessKeyFile and SecretKeyFile, one line each, not open to others than owner and
//     group; read anew for each request, so that keys can be rotated under a daemon;
//   - AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, with AWS_SESSION_TOKEN;
//   - the machine's own role: a web identity token, a container's or pod's credential
//     service, an EC2 instance's metadata.
//
// # Answers
//
// An answer counts only as what it says of itself: the bytes as they are stored, of a length
// named in advance, without a content encoding. Redirects are not followed, because
// they would carry a signed request to another host. An XML error under a success status
// is an error.
//
// # Again
//
// Connections that break, and the answers 408, 409, 429, 500, 502, 503 and 504, are tried
// again: six attempts, waiting twice as long each time, with jitter, and at least as
// long as Retry-After says, up to 30 seconds. A wait that the context's deadline would cut
// off is not begun. No attempt waits longer than 30 seconds for a byte to come or go.
//
// # Secrets
//
// An error names neither a URL nor a header, and of an answer only its status, code,
// request id and region, when they look like such.
package s3

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/minio/minio-go/v7/pkg/s3utils"
	"github.com/minio/minio-go/v7/pkg/signer"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Config says where a bucket is, and how to come in.
type Config struct {
	Bucket, Prefix string
	Endpoint       string
	Region         string
	PathStyle      bool
	Anonymous      bool
	AccessKeyFile  string
	SecretKeyFile  string
	CAFile         string
}

const defaultRegion = "us-east-1"

// Client sends requests to one bucket. It may be used by several goroutines at once.
type Client struct {
	base   url.URL // of the bucket
	prefix string
	region string
	creds  *provider

	mu     sync.Mutex
	caFile string
	http   *http.Client // made by the first request that finds caFile good
}

// Check judges everything about c that can be judged without a network, the files that
// it names among it. Its errors have the reason "config".
func Check(c Config) error {
	client, err := New(c)
	if err == nil && c.AccessKeyFile != "" {
		_, err = client.creds.fromFiles()
	}
	if err == nil {
		_, err = rootCAs(c.CAFile)
	}
	return err
}

// New returns a client. It does not look at the files that c names: they are read when a
// request needs them, so who needs no request can do without. Its errors have the reason
// "config".
func New(c Config) (*Client, error) {
	if err := s3utils.CheckValidBucketNameStrict(c.Bucket); err != nil {
		return nil, reason.Errorf(reason.Config, "storage.url: %q is not the name of a bucket", c.Bucket)
	}
	if c.Region == "" {
		c.Region = defaultRegion
	}
	if !word(c.Region) {
		return nil, reason.Errorf(reason.Config, "storage.region: %q is not a region; write one such as %q", c.Region, defaultRegion)
	}
	base, err := bucketURL(c)
	if err != nil {
		return nil, err
	}
	creds, err := newProvider(c)
	if err != nil {
		return nil, err
	}
	return &Client{base: base, prefix: c.Prefix, region: c.Region, creds: creds, caFile: c.CAFile}, nil
}

// over returns what requests are sent over.
func (c *Client) over() (*http.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http == nil {
		roots, err := rootCAs(c.caFile)
		if err != nil {
			return nil, err
		}
		c.http = newHTTP(roots)
	}
	return c.http, nil
}

// bucketURL returns the URL under which the bucket's keys are.
func bucketURL(c Config) (url.URL, error) {
	endpoint := c.Endpoint
	if endpoint == "" {
		endpoint = "https://s3." + c.Region + ".amazonaws.com"
	}
	const want = "write https://host, with a port where it needs one"
	u, err := url.Parse(endpoint)
	if err != nil {
		// The text of a url.Error holds the URL, and that may hold a password.
		return url.URL{}, reason.Errorf(reason.Config, "storage.endpoint is malformed; %s", want)
	}
	switch {
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return url.URL{}, reason.Errorf(reason.Config, "storage.endpoint: %q is not a URL of http or https; %s", layout.Place(u), want)
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return url.URL{}, reason.Errorf(reason.Config, "storage.endpoint: %q holds more than a host; %s", layout.Place(u), want)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return url.URL{}, reason.Errorf(reason.Config, "storage.endpoint: %q is plain http, which is for loopback addresses alone; write https://", layout.Place(u))
	}
	base := url.URL{Scheme: u.Scheme, Host: u.Host}
	if !c.PathStyle && s3utils.IsVirtualHostSupported(base, c.Bucket) {
		base.Host = c.Bucket + "." + base.Host
		base.Path = "/"
	} else {
		base.Path = "/" + c.Bucket
	}
	return base, nil
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// Request is one request for the object Key.
type Request struct {
	Method string // GET, HEAD or PUT
	Key    string
	Header map[string]string

	// Of a PUT. Body is read from its start and holds Size bytes with these hashes.
	Body   io.ReadSeeker
	Size   int64
	SHA256 [32]byte
	MD5    string // as Content-MD5 has it
}

// Do sends r, again where that may help, and returns an answer with the status 200, 206
// or 304. The caller closes its body, the reads of which end with ctx. Any other
// answer is an *Error.
func (c *Client) Do(ctx context.Context, r Request) (resp *http.Response, err error) {
	err = c.Retry(ctx, func() error {
		resp, err = c.Once(ctx, r)
		return err
	})
	return resp, err
}

// The bounds on trying again.
const (
	attempts  = 6
	firstWait = 200 * time.Millisecond
	maxWait   = 30 * time.Second
)

// Retry calls f until it returns an error that another attempt does not help against, or
// none.
func (c *Client) Retry(ctx context.Context, f func() error) error {
	renewed := false
	for n := 0; ; n++ {
		err := f()
		if err == nil || errors.Is(err, ctx.Err()) {
			return err
		}
		if ctx.Err() != nil {
			return fmt.Errorf("%w, attempt %d of %d: %w", ctx.Err(), n+1, attempts, err)
		}
		if refusesKeys(err) && !renewed {
			// They may have been rotated, or have expired, at this moment.
			renewed = true
			c.creds.renew()
			continue
		}
		if !temporary(err) {
			return err
		}
		wait := pause(n, err)
		deadline, ok := ctx.Deadline()
		if n+1 >= attempts || ok && time.Now().Add(wait).After(deadline) {
			return fmt.Errorf("attempt %d of %d: %w", n+1, attempts, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w, attempt %d of %d: %w", ctx.Err(), n+1, attempts, err)
		case <-time.After(wait):
		}
	}
}

// pause returns how long to wait after the attempt n, counted from 0, ended with err.
func pause(n int, err error) time.Duration {
	d := firstWait << n
	d = d/2 + rand.N(d/2+1)
	var e *Error
	if errors.As(err, &e) {
		d = max(d, e.retryAfter)
	}
	return min(d, maxWait)
}

// Once is Do without trying again: one request.
func (c *Client) Once(ctx context.Context, r Request) (*http.Response, error) {
	client, err := c.over()
	if err != nil {
		return nil, err
	}
	keys, err := c.creds.get(ctx)
	if err != nil {
		return nil, err
	}
	u := c.base
	u.Path = path.Join(u.Path, c.prefix, r.Key)
	u.RawPath = s3utils.EncodePath(u.Path)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ctx, w := watch(ctx)
	req, err := http.NewRequestWithContext(ctx, r.Method, u.String(), nil)
	if err != nil {
		w.end()
		return nil, &broken{bare(err)}
	}
	req.Header.Set("User-Agent", "sando")
	req.Header.Set("Accept-Encoding", "identity")
	for k, v := range r.Header {
		req.Header.Set(k, v)
	}
	sum := r.SHA256
	var sent *upload
	if r.Body == nil {
		sum = emptySum()
	} else {
		if _, err := r.Body.Seek(0, io.SeekStart); err != nil {
			w.end()
			return nil, err
		}
		sent = &upload{r: io.LimitReader(r.Body, r.Size), w: w}
		req.ContentLength = r.Size
		req.Header.Set("Content-MD5", r.MD5)
		if r.Size > 0 {
			req.Body = sent
		}
	}
	if !keys.SignerType.IsAnonymous() {
		req.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		req = signer.SignV4(*req, keys.AccessKeyID, keys.SecretAccessKey, keys.SessionToken, c.region)
	}
	resp, err := client.Do(req)
	if sent != nil {
		// The transport may go on reading after it has answered.
		sent.Close()
	}
	w.stop()
	if err != nil {
		w.end()
		return nil, unreached(bare(err))
	}
	resp.Body = &download{body: resp.Body, w: w}
	return judge(r.Method, resp)
}

// bare returns err without the URL that package net/http puts in front.
func bare(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// word reports whether s is short and made of letters, digits, dots, dashes and slashes,
// so that it can be shown.
func word(s string) bool {
	return s != "" && len(s) <= 128 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_/+=") == ""
}
