// Package s3 reads and writes single objects on an S3-compatible server, with minio-go's
// client: Get, Stat and Put are one GET, HEAD or PUT of one key each. Nothing else is
// sent: nothing is listed and no bucket looked up, so credentials that may do no more than
// these are enough. What requests mean is up to package bucket, which is the only caller.
//
// # Where
//
// The endpoint is https://host[:port], or http for a loopback address, and empty for
// Amazon's in the region. The bucket is named in the path, except at Amazon, Google and
// Aliyun, which want it in the host name; PathStyle names it in the path there too. Of
// Amazon's endpoints, the client asks the region's own one, with both IPv4 and IPv6 if
// "dualstack" is in the configured name; regions that the client does not know, and
// directory buckets ("--x-s3"), are refused. The server's certificate is always verified,
// against the system's roots and those of CAFile. The variables HTTPS_PROXY and NO_PROXY
// are followed.
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
// The body of a PUT is sent as it is, in one part; the signature covers its SHA-256.
//
// # The guard
//
// The client's errors hide Retry-After and what broke a connection, and it takes some
// answers for good that are not. So it sends its requests over a transport of ours, which
// refuses any but those for an object of ours, judges the answers before the client does,
// and keeps what was wrong with them. Of a good answer it hands on only the headers that
// are read here: no cookie is kept, and no date can be malformed. Servers are told the name
// sando, and neither a version nor what machine it runs on.
//
// # Answers
//
// An answer counts only as what it says of itself: the bytes as they are stored, of a length
// named in advance, without a content encoding; a range where one was asked for, and only
// there. Redirects are not followed, because they would carry a signed request to another
// host. An XML error under a success status is an error.
//
// # Again
//
// Connections that break, and the answers 408, 409, 429, 500, 502, 503 and 504, are tried
// again: six attempts, waiting twice as long each time, with jitter, and at least as
// long as Retry-After says, up to 30 seconds. A wait that the context's deadline would cut
// off is not begun. No attempt waits longer than 30 seconds for a byte to come or go. The
// client itself tries nothing again.
//
// # Secrets
//
// An error names neither a URL nor a header, and of an answer only its status, code and
// region, when they look like such.
package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"

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
	Section        string // of the configuration that names the key files; empty: "storage"
}

const defaultRegion = "us-east-1"

// Client sends requests to one bucket. It may be used by several goroutines at once.
type Client struct {
	core           *minio.Core
	creds          *provider
	guard          *guard
	bucket, prefix string
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
	if err := s3utils.CheckValidBucketNameStrict(c.Bucket); err != nil || s3utils.IsS3ExpressBucket(c.Bucket) {
		return nil, reason.Errorf(reason.Config, "storage.url: %q is not the name of a bucket", c.Bucket)
	}
	u, err := endpoint(&c)
	if err != nil {
		return nil, err
	}
	creds, err := newProvider(c)
	if err != nil {
		return nil, err
	}
	g := &guard{caFile: c.CAFile}
	if s3utils.IsAmazonEndpoint(*u) {
		g.region = c.Region
	}
	o := &minio.Options{
		Creds: credentials.New(creds), Secure: u.Scheme == "https", Transport: g, Region: c.Region, MaxRetries: 1,
	}
	if c.PathStyle {
		o.BucketLookup = minio.BucketLookupPath
	}
	core, err := minio.NewCore(u.Host, o)
	if err != nil {
		return nil, reason.Errorf(reason.Config, "storage.endpoint: %q: %w", layout.Place(u), err)
	}
	core.SetS3EnableDualstack(strings.Contains(u.Host, ".dualstack."))
	return &Client{core, creds, g, c.Bucket, c.Prefix}, nil
}

// endpoint returns the URL of the server, and completes the region.
func endpoint(c *Config) (*url.URL, error) {
	const want = "write https://host, with a port where it needs one"
	u, err := url.Parse(cmp.Or(c.Endpoint, "https://s3."+cmp.Or(c.Region, defaultRegion)+".amazonaws.com"))
	if c.Region != "" && !word(c.Region) {
		return nil, reason.Errorf(reason.Config, "storage.region: %q is not a region; write one such as %q", c.Region, defaultRegion)
	}
	if err != nil {
		// The text of a url.Error holds the URL, and that may hold a password.
		return nil, reason.Errorf(reason.Config, "storage.endpoint is malformed; %s", want)
	}
	switch {
	case u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return nil, reason.Errorf(reason.Config, "storage.endpoint: %q is not a URL of http or https; %s", layout.Place(u), want)
	case u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return nil, reason.Errorf(reason.Config, "storage.endpoint: %q holds more than a host; %s", layout.Place(u), want)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return nil, reason.Errorf(reason.Config, "storage.endpoint: %q is plain http, which is for loopback addresses alone; write https://", layout.Place(u))
	}
	c.Region = cmp.Or(c.Region, s3utils.GetRegionFromURL(*u), defaultRegion)
	return u, nil
}

func loopback(host string) bool {
	return host == "localhost" || net.ParseIP(host).IsLoopback()
}

// Get sends one GET. A range in o, from some offset to the end, must be answered as such.
// The caller closes the body, the reads of which end with ctx. An answer that is not a
// success is an *Error.
func (c *Client) Get(ctx context.Context, key string, o minio.GetObjectOptions) (body io.ReadCloser, info minio.ObjectInfo, err error) {
	err = once(ctx, func(ctx context.Context) error {
		body, info, _, err = c.core.GetObject(ctx, c.bucket, path.Join(c.prefix, key), o)
		return err
	})
	return body, info, err
}

// Stat sends one HEAD, and is answered as Get is.
func (c *Client) Stat(ctx context.Context, key string) (info minio.ObjectInfo, err error) {
	err = once(ctx, func(ctx context.Context) error {
		info, err = c.core.StatObject(ctx, c.bucket, path.Join(c.prefix, key), minio.StatObjectOptions{})
		return err
	})
	return info, err
}

// Content is what a PUT stores: Size bytes, from the start of Body, with these hashes.
type Content struct {
	Body   io.ReadSeeker
	Size   int64
	SHA256 string // in hex
	MD5    string // as Content-MD5 has it
}

// Put sends one PUT, and is answered as Get is. Nothing is read from the body any more when
// it returns.
func (c *Client) Put(ctx context.Context, key string, body Content, o minio.PutObjectOptions) error {
	o.DisableContentSha256 = true // that is, no signature for each chunk of the body: there is one for all
	return once(ctx, func(ctx context.Context) error {
		_, err := c.core.PutObject(ctx, c.bucket, path.Join(c.prefix, key), body.Body, body.Size, body.MD5, body.SHA256, o)
		return err
	})
}

// once calls send, which sends one request with the context that it is given, and returns what
// came of it.
func once(ctx context.Context, send func(context.Context) error) error {
	ctx, w := watch(ctx)
	err := send(ctx)
	switch {
	case err == nil:
		return nil // the end of the answer's body is that of the attempt
	case w.err != nil:
		return w.err
	}
	w.end()
	return err
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
	var before error // what the attempt before ended with: says more than that time is up
	for n := 0; ; n++ {
		err := f()
		if err != nil && before != nil && errors.Is(err, ctx.Err()) {
			return fmt.Errorf("%w, attempt %d of %d: %w", ctx.Err(), n, attempts, before)
		}
		if err == nil || errors.Is(err, ctx.Err()) {
			return err
		}
		before = err
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

// word reports whether s is short and made of letters, digits, dots, dashes and slashes,
// so that it can be shown.
func word(s string) bool {
	return s != "" && len(s) <= 128 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-_/+=") == ""
}
