package s3

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"makenot.work/sando/internal/reason"
)

func TestBucketURL(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Endpoint: "https://s3.example"}, "https://s3.example/releases"},
		{Config{Endpoint: "https://s3.example:9000/"}, "https://s3.example:9000/releases"},
		{Config{Endpoint: "http://127.0.0.1:9000"}, "http://127.0.0.1:9000/releases"},
		{Config{Endpoint: "http://[::1]:9000"}, "http://[::1]:9000/releases"},
		{Config{Endpoint: "http://localhost"}, "http://localhost/releases"},
		{Config{}, "https://releases.s3.us-east-1.amazonaws.com/"},
		{Config{Region: "eu-north-1"}, "https://releases.s3.eu-north-1.amazonaws.com/"},
		{Config{PathStyle: true}, "https://s3.us-east-1.amazonaws.com/releases"},
		{Config{Bucket: "re.leases"}, "https://s3.us-east-1.amazonaws.com/re.leases"},
		{Config{Endpoint: "https://storage.googleapis.com"}, "https://releases.storage.googleapis.com/"},
	} {
		if tt.c.Bucket == "" {
			tt.c.Bucket = "releases"
		}
		c, err := New(tt.c)
		if err != nil {
			t.Errorf("%+v: %v", tt.c, err)
			continue
		}
		if got := c.base.String(); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.c, got, tt.want)
		}
	}
}

func TestRefusedConfig(t *testing.T) {
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
		{func(c *Config) { c.Region = "eu north" }, "not a region"},
		{func(c *Config) { c.AccessKeyFile = "/none" }, "one is set and the other is not"},
		{func(c *Config) { c.SecretKeyFile = "/none" }, "one is set and the other is not"},
		{func(c *Config) { c.AccessKeyFile, c.SecretKeyFile = "/none", "/none" }, "no such file"},
		{func(c *Config) { c.AccessKeyFile, c.SecretKeyFile, c.Anonymous = "/none", "/none", true }, "remove one or the other"},
		{func(c *Config) { c.CAFile = "/none" }, "storage.ca_file"},
		{func(c *Config) { c.CAFile = "s3_test.go" }, "no certificate in PEM form"},
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

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 6, 3, 2, 53, 56, 0, time.UTC)
	for s, want := range map[string]time.Duration{
		"": 0, "0": 0, "7": 7 * time.Second, "2147483647": 2147483647 * time.Second, "-7": 0, "1e3": 0, "99999999999999": 0,
		now.Add(90 * time.Second).Format(http.TimeFormat): 90 * time.Second,
		now.Add(-time.Hour).Format(http.TimeFormat):       0,
		"soon": 0,
	} {
		if got := retryAfter(s, now); got != want {
			t.Errorf("retryAfter(%q) = %s, want %s", s, got, want)
		}
	}
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
				client, err := c.over()
				if err != nil {
					t.Fatal(err)
				}
				transport := client.Transport.(*http.Transport)
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
				err = once(c, tt.put)
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

func once(c *Client, put int) error {
	r := Request{Method: http.MethodGet, Key: "k"}
	if put > 0 {
		body := bytes.Repeat([]byte("x"), put)
		r = Request{Method: http.MethodPut, Key: "k", Body: bytes.NewReader(body), Size: int64(put), SHA256: sha256.Sum256(body)}
	}
	resp, err := c.Once(context.Background(), r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// TestWords: what an answer says is shown only when it is a word.
func TestWords(t *testing.T) {
	long := strings.Repeat("x", 200)
	for body, want := range map[string]string{
		"<Error><Code>SlowDown</Code><RequestId>1A/b+c=</RequestId></Error>":          "the server answers 503 SlowDown, request 1A/b+c=",
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
		for _, w := range []string{e.Code, e.RequestID, e.Region} {
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
