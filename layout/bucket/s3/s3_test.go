package s3

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/minio/minio-go/v7"
	"golang.org/x/sys/unix"

	"makenot.work/sando/internal/reason"
)

// base is what the guard sends requests over.
type base func(req *http.Request) (*http.Response, error)

func (b base) RoundTrip(req *http.Request) (*http.Response, error) { return b(req) }

// TestURL: where requests go to.
func TestURL(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string // empty: nowhere
	}{
		{Config{Endpoint: "https://s3.example"}, "https://s3.example/releases/p/k"},
		{Config{Endpoint: "https://s3.example:9000/"}, "https://s3.example:9000/releases/p/k"},
		{Config{Endpoint: "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/releases/p/k"},
		{Config{Endpoint: "http://[::1]:9000"}, "http://[::1]:9000/releases/p/k"},
		{Config{Endpoint: "http://localhost"}, "http://localhost/releases/p/k"},
		{Config{}, "https://releases.s3.us-east-1.amazonaws.com/p/k"},
		{Config{Region: "eu-north-1"}, "https://releases.s3.eu-north-1.amazonaws.com/p/k"},
		{Config{Endpoint: "https://s3.eu-north-1.amazonaws.com"}, "https://releases.s3.eu-north-1.amazonaws.com/p/k"},
		{Config{Endpoint: "https://s3.dualstack.eu-north-1.amazonaws.com"}, "https://releases.s3.dualstack.eu-north-1.amazonaws.com/p/k"},
		{Config{Endpoint: "https://s3-fips.us-gov-west-1.amazonaws.com"}, "https://releases.s3-fips.us-gov-west-1.amazonaws.com/p/k"},
		{Config{Region: "cn-north-1"}, "https://releases.s3.cn-north-1.amazonaws.com.cn/p/k"},
		{Config{Region: "eu-nort-1"}, ""},
		{Config{PathStyle: true}, "https://s3.us-east-1.amazonaws.com/releases/p/k"},
		{Config{Bucket: "re.leases"}, "https://s3.us-east-1.amazonaws.com/re.leases/p/k"},
		{Config{Endpoint: "https://storage.googleapis.com"}, "https://releases.storage.googleapis.com/p/k"},
	} {
		tt.c.Bucket, tt.c.Prefix, tt.c.Anonymous = cmp.Or(tt.c.Bucket, "releases"), "p", true
		c, err := New(tt.c)
		if err != nil {
			t.Errorf("%+v: %v", tt.c, err)
			continue
		}
		var got string
		c.guard.base = base(func(req *http.Request) (*http.Response, error) {
			got = req.URL.String()
			return nil, io.ErrUnexpectedEOF
		})
		_, err = c.Stat(t.Context(), "k")
		if got != tt.want {
			t.Errorf("%+v: asks %q, want %q", tt.c, got, tt.want)
		}
		if got == "" && reason.Of(err) != reason.Config || got != "" && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%+v: Stat = %v", tt.c, err)
		}
	}
}

// TestGuard: nothing is sent but what was asked for, and nothing is known of an answer but what
// is needed.
func TestGuard(t *testing.T) {
	c := client(t)
	asked := 0
	c.guard.base = base(func(req *http.Request) (*http.Response, error) {
		asked++
		if got := req.Header.Get("User-Agent"); got != "sando" {
			t.Errorf("the server is told %q", got)
		}
		if req.Header.Get("Cookie") != "" {
			t.Error("a cookie was sent")
		}
		return &http.Response{
			StatusCode: http.StatusOK,
			Header: http.Header{"Content-Length": {"1"}, "Etag": {`"1"`}, "Set-Cookie": {"a=b"}, "Expires": {"0"}, "Last-Modified": {"soon"},
				"X-Amz-Tagging": {"%"}, "X-Amz-Meta-Sando-Write": {"n"}},
			ContentLength: 1, Body: io.NopCloser(strings.NewReader("x")), Request: req,
		}, nil
	})
	for range 2 {
		body, info, err := c.Get(t.Context(), "k", minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		body.Close()
		if info.Size != 1 || info.Headers.Get("ETag") != `"1"` || info.UserMetadata["Sando-Write"] != "n" || len(info.Headers) != 4 {
			t.Errorf("the answer says %+v", info)
		}
	}
	for what, err := range map[string]error{
		"outside once": func() error {
			_, err := c.core.StatObject(t.Context(), "releases", "k", minio.StatObjectOptions{})
			return err
		}(),
		"a list": once(t.Context(), func(ctx context.Context) error {
			for o := range c.core.Client.ListObjects(ctx, "releases", minio.ListObjectsOptions{}) {
				return o.Err
			}
			return nil
		}),
	} {
		if err == nil || !strings.Contains(err.Error(), "not asked for") || asked != 2 {
			t.Errorf("%s: %v after %d requests, want a refusal", what, err, asked)
		}
	}
}

// zeros is as many of them as are read.
type zeros struct{}

func (zeros) ReadAt(p []byte, _ int64) (int, error) {
	clear(p)
	return len(p), nil
}

// TestPut: a body is sent as it is, in one request, and nowhere kept.
func TestPut(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "a")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "s")
	const size = 160 << 20
	for _, endpoint := range []string{"http://127.0.0.1:9", "https://s3.example"} {
		c, err := New(Config{Bucket: "releases", Endpoint: endpoint})
		if err != nil {
			t.Fatal(err)
		}
		asked := 0
		c.guard.base = base(func(req *http.Request) (*http.Response, error) {
			asked++
			const want = "Accept-Encoding Authorization Content-Md5 Content-Type If-None-Match User-Agent " +
				"X-Amz-Content-Sha256 X-Amz-Date X-Amz-Meta-Sando-Write"
			if got := strings.Join(slices.Sorted(maps.Keys(req.Header)), " "); got != want {
				t.Errorf("%s: the headers are %s, want %s", endpoint, got, want)
			}
			if h := req.Header; h.Get("X-Amz-Content-Sha256") != "sum" || h.Get("Content-MD5") != "md5" || h.Get("If-None-Match") != "*" {
				t.Errorf("%s: the headers are %s", endpoint, h)
			}
			if n, err := io.Copy(io.Discard, req.Body); n != size || err != nil || req.ContentLength != size || req.TransferEncoding != nil {
				t.Errorf("%s: sent %d bytes, %v, announced %d %s", endpoint, n, err, req.ContentLength, req.TransferEncoding)
			}
			return &http.Response{StatusCode: http.StatusOK, Header: http.Header{}, Body: http.NoBody, Request: req}, nil
		})
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		o := minio.PutObjectOptions{UserMetadata: map[string]string{"Sando-Write": "n"}}
		o.SetMatchETagExcept("*")
		err = c.Put(t.Context(), "k", Content{io.NewSectionReader(zeros{}, 0, size), size, "sum", "md5"}, o)
		runtime.ReadMemStats(&after)
		if err != nil || asked != 1 {
			t.Errorf("%s: Put = %v after %d requests, want one", endpoint, err, asked)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("%s: %d bytes of memory were used", endpoint, got)
		} else {
			t.Logf("%s: %d bytes of memory were used for %d", endpoint, got, size)
		}
	}
}

func TestRefusedConfig(t *testing.T) {
	pipe := t.TempDir() + "/pipe"
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		change func(c *Config)
		says   string
	}{
		{func(*Config) {}, ""},
		{func(c *Config) { c.Endpoint = "s3.example" }, "storage.endpoint: \"s3.example\" is not a URL of http or https"},
		{func(c *Config) { c.Endpoint = "s3.example:9000" }, "is not a URL of http or https"},
		{func(c *Config) { c.Endpoint = "ftp://s3.example" }, "is not a URL of http or https"},
		{func(c *Config) { c.Endpoint = "https://" }, "is not a URL of http or https"},
		{func(c *Config) { c.Endpoint = "http://s3.example" }, "plain http, which is for loopback addresses alone"},
		{func(c *Config) { c.Endpoint = "http://10.0.0.1" }, "plain http"},
		{func(c *Config) { c.Endpoint = "http://127.0.0.1.example" }, "plain http"},
		{func(c *Config) { c.Endpoint = "https://u:hush@s3.example" }, "more than a host"},
		{func(c *Config) { c.Endpoint = "https://s3.example/releases" }, "more than a host"},
		{func(c *Config) { c.Endpoint = "https://s3.example/?X-Amz-Signature=hush" }, "more than a host"},
		{func(c *Config) { c.Endpoint = "https://u:hush@s3.example\x7f" }, "malformed"},
		{func(c *Config) { c.Endpoint = "https://-" }, "storage.endpoint: \"https://-\""},
		{func(c *Config) { c.Bucket = "releases--use1-az4--x-s3" }, "not the name of a bucket"},
		{func(c *Config) { c.Region = "eu north" }, "not a region"},
		{func(c *Config) { c.AccessKeyFile = "/none" }, "one is set and the other is not"},
		{func(c *Config) { c.SecretKeyFile = "/none" }, "one is set and the other is not"},
		{func(c *Config) { c.AccessKeyFile, c.SecretKeyFile = "/none", "/none" }, "no such file"},
		{func(c *Config) { c.AccessKeyFile, c.SecretKeyFile, c.Anonymous = "/none", "/none", true }, "remove one or the other"},
		{func(c *Config) { c.CAFile = "/none" }, "storage.ca_file"},
		{func(c *Config) { c.CAFile = "s3_test.go" }, "no certificate in PEM form"},
		{func(c *Config) { c.CAFile = "/dev/zero" }, "no certificate in PEM form"},
		{func(c *Config) { c.CAFile = pipe }, "no certificate in PEM form"},
	} {
		c := Config{Bucket: "releases", Endpoint: "https://s3.example"}
		tt.change(&c)
		err := Check(c)
		if tt.says == "" && err != nil || tt.says != "" && (reason.Of(err) != reason.Config || !strings.Contains(err.Error(), tt.says)) {
			t.Errorf("%+v: %v, want the reason config and %q", c, err, tt.says)
		}
		if err != nil && strings.Contains(err.Error(), "hush") {
			t.Errorf("%v: holds a password", err)
		}
	}
}

// TestRetryInTime: time that ends in a later attempt hides nothing of what was met before.
func TestRetryInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		slow, n := &Error{Status: 503, Code: "SlowDown"}, 0
		err := client(t).Retry(ctx, func() error {
			if n++; n == 1 {
				return slow
			}
			<-ctx.Done()
			return ctx.Err()
		})
		if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, slow) || !strings.Contains(err.Error(), "attempt 1 of 6") {
			t.Errorf("Retry = %v, want the deadline, and the answer to attempt 1 of 6", err)
		}
	})
}

func client(t *testing.T) *Client {
	t.Helper()
	c, err := New(Config{Bucket: "releases", Endpoint: "http://127.0.0.1:9", Anonymous: true})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestRetry(t *testing.T) {
	slow := &Error{Status: 503, Code: "SlowDown"}
	after := func(d time.Duration) error { return fmt.Errorf("x: %w", &Error{Status: 429, retryAfter: d}) }
	for name, tt := range map[string]struct {
		errs     []error       // of the attempts; the last one for all that follow
		deadline time.Duration // 0: none
		n        int           // attempts
		min, max time.Duration // from the first to the end
	}{
		"good":             {[]error{nil}, 0, 1, 0, 0},
		"once":             {[]error{slow, nil}, 0, 2, firstWait / 2, firstWait},
		"for good":         {[]error{slow}, 0, attempts, 31 * firstWait / 2, 31 * firstWait},
		"broken":           {[]error{&broken{io.EOF}, nil}, 0, 2, firstWait / 2, firstWait},
		"told to wait":     {[]error{after(7 * time.Second), nil}, 0, 2, 7 * time.Second, 7 * time.Second},
		"told a long time": {[]error{after(time.Hour), nil}, 0, 2, maxWait, maxWait},
		"told too long":    {[]error{after(time.Hour), nil}, 10 * time.Second, 1, 0, 0},
		"deadline":         {[]error{slow}, 650 * time.Millisecond, 3, firstWait, 650 * time.Millisecond},
		"missing":          {[]error{&Error{Status: 404}}, 0, 1, 0, 0},
		"forbidden":        {[]error{&Error{Status: 403, Code: "AccessDenied"}}, 0, 1, 0, 0},
		"not implemented":  {[]error{&Error{Status: 501}}, 0, 1, 0, 0},
		"of another kind":  {[]error{io.EOF}, 0, 1, 0, 0},
		"expired keys":     {[]error{&Error{Status: 403, Code: "ExpiredToken"}, nil}, 0, 2, 0, 0},
		"wrong keys":       {[]error{&Error{Status: 403, Code: "SignatureDoesNotMatch"}}, 0, 2, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tt.deadline > 0 {
					var cancel func()
					ctx, cancel = context.WithTimeout(ctx, tt.deadline)
					defer cancel()
				}
				n, begin := 0, time.Now()
				var last error
				err := client(t).Retry(ctx, func() error {
					last = tt.errs[min(n, len(tt.errs)-1)]
					n++
					return last
				})
				if took := time.Since(begin); n != tt.n || took < tt.min || took > tt.max {
					t.Errorf("%d attempts in %s, want %d in %s to %s", n, took, tt.n, tt.min, tt.max)
				}
				if !errors.Is(err, last) {
					t.Errorf("Retry = %v, want %v", err, last)
				}
			})
		})
	}
}

// TestRetryCancelled: the end of the context ends the wait.
func TestRetryCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begin, down := time.Now(), &Error{Status: 503, retryAfter: 20 * time.Second}
		err := client(t).Retry(ctx, func() error { return down })
		if took := time.Since(begin); took != time.Second || !errors.Is(err, context.Canceled) || !errors.Is(err, down) {
			t.Errorf("Retry = %v after %s, want both errors after 1s", err, took)
		}
	})
}

// TestStall: an attempt in which nothing moves ends after 30 seconds, wherever it stops, and
// one that moves does not.
func TestStall(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n"
	for name, tt := range map[string]struct {
		serve func(c net.Conn, r *http.Request) // what the server does once it has the head of a request
		put   int                               // bytes of the body; 0: a GET
		want  time.Duration                     // until the error; 0: none
	}{
		"no answer":      {func(net.Conn, *http.Request) {}, 0, stall},
		"half an answer": {func(c net.Conn, _ *http.Request) { io.WriteString(c, "HTTP/1.1 200 OK\r\nConte") }, 0, stall},
		"no body":        {func(c net.Conn, _ *http.Request) { io.WriteString(c, head) }, 0, stall},
		"some body": {func(c net.Conn, _ *http.Request) {
			io.WriteString(c, head+"x")
			time.AfterFunc(20*time.Second, func() { c.Write([]byte("x")) })
		}, 0, 20*time.Second + stall},
		"slow body": {func(c net.Conn, _ *http.Request) {
			io.WriteString(c, head)
			for range 100 {
				<-time.After(29 * time.Second)
				c.Write([]byte("x"))
			}
		}, 0, 0},
		"nothing read": {func(net.Conn, *http.Request) {}, 1 << 20, stall},
		"some read": {func(_ net.Conn, r *http.Request) {
			<-time.After(20 * time.Second)
			io.CopyN(io.Discard, r.Body, 100_000)
		}, 1 << 20, 20*time.Second + stall},
		"read, no answer": {func(_ net.Conn, r *http.Request) { io.Copy(io.Discard, r.Body) }, 1 << 20, stall},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := client(t)
				over, err := c.guard.over()
				if err != nil {
					t.Fatal(err)
				}
				transport := over.(*http.Transport)
				transport.DialContext = func(context.Context, string, string) (net.Conn, error) {
					near, far := net.Pipe()
					t.Cleanup(func() { far.Close() })
					go func() {
						if r, err := http.ReadRequest(bufio.NewReader(far)); err == nil {
							tt.serve(far, r)
						}
					}()
					return near, nil
				}
				defer transport.CloseIdleConnections()
				begin := time.Now()
				err = attempt(c, tt.put)
				took := time.Since(begin)
				switch {
				case tt.want == 0 && err != nil:
					t.Errorf("%v after %s", err, took)
				case tt.want != 0 && (err == nil || took != tt.want || !temporary(err)):
					t.Errorf("%v after %s, want an error that is tried again after %s", err, took, tt.want)
				}
			})
		})
	}
}

func attempt(c *Client, put int) error {
	if put > 0 {
		body := bytes.Repeat([]byte("x"), put)
		return c.Put(context.Background(), "k", Content{Body: bytes.NewReader(body), Size: int64(put)}, minio.PutObjectOptions{})
	}
	body, _, err := c.Get(context.Background(), "k", minio.GetObjectOptions{})
	if err != nil {
		return err
	}
	defer body.Close()
	_, err = io.Copy(io.Discard, body)
	return err
}

// TestWords: what an answer says is shown only when it is a word.
// TestUnasked has an answer to a condition, to a request without one.
func TestUnasked(t *testing.T) {
	if s := (&Error{Status: http.StatusNotModified}).Error(); !strings.Contains(s, "which nobody asked") || strings.Contains(s, "redirect") {
		t.Errorf("304: %q", s)
	}
}

func TestWords(t *testing.T) {
	long := strings.Repeat("x", 200)
	for body, want := range map[string]string{
		"<Error><Code>SlowDown</Code><RequestId>1A/b+c=</RequestId></Error>":          "the server answers 503 SlowDown",
		"<Error><Code>AKIA AND MORE</Code><RequestId>a\nb</RequestId></Error>":        "the server answers 503",
		"<Error><Code>" + long + "</Code></Error>":                                    "the server answers 503",
		"<Error><Code>SlowDown</Code><Message>https://h/?X-Amz-Signature=1</Message>": "the server answers 503",
		"<html><Code>SlowDown</Code></html>":                                          "the server answers 503",
		"":                                                                            "the server answers 503",
	} {
		resp := &http.Response{StatusCode: 503, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
		if got := refusal(resp).Error(); got != want {
			t.Errorf("%.60q: %q, want %q", body, got, want)
		}
	}
}

// FuzzRefusal: an answer's text shows nothing of it but words.
func FuzzRefusal(f *testing.F) {
	f.Add(503, "<Error><Code>SlowDown</Code><RequestId>1A</RequestId></Error>", "", "7")
	f.Add(301, "<Error><Code>PermanentRedirect</Code><Region>eu-north-1</Region></Error>", "eu north", "soon")
	f.Add(403, "<Error><Code>a\u202eb</Code></Error>", "\n", "-1")
	f.Add(200, "<!DOCTYPE x [<!ENTITY e \"x\">]><Error><Code>&e;</Code></Error>", "", "99999999999999999999")
	f.Fuzz(func(t *testing.T, status int, body, region, after string) {
		header := http.Header{"X-Amz-Bucket-Region": {region}, "Retry-After": {after}}
		e := refusal(&http.Response{StatusCode: status, Header: header, Body: io.NopCloser(strings.NewReader(body))})
		for _, w := range []string{e.Code, e.Region} {
			if w != "" && !word(w) {
				t.Errorf("%q is shown", w)
			}
		}
		if e.retryAfter < 0 {
			t.Errorf("Retry-After %q is %s", after, e.retryAfter)
		}
	})
}

// TestUploadIsOver: the body of a request is not touched any more once the request is over.
func TestUploadIsOver(t *testing.T) {
	_, w := watch(t.Context())
	defer w.end()
	u := &upload{r: strings.NewReader("data"), w: w}
	if n, err := u.Read(make([]byte, 2)); n != 2 || err != nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	u.Close() // returns nil always
	if n, err := u.Read(make([]byte, 2)); n != 0 || err == nil || err == io.EOF {
		t.Errorf("Read after Close = %d, %v, want an error", n, err)
	}
}
