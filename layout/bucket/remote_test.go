package bucket_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/bucket/buckettest"
)

func openBucket(t *testing.T, c bucket.Config) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// of returns the configuration of a new bucket on s, asked as u.
func of(t *testing.T, s *minio.Server, u minio.User) bucket.Config {
	t.Helper()
	return bucket.Config{
		URL: "s3://" + s.Bucket(t, minio.Private) + "/apps", Endpoint: s.Endpoint, CAFile: s.CAFile,
		AccessKeyFile: u.AccessKeyFile, SecretKeyFile: u.SecretKeyFile,
	}
}

func proxy(t *testing.T, s *minio.Server) *hostile.Proxy {
	return hostile.Start(t, hostile.Server{
		Endpoint: s.Endpoint, Region: s.Region, AccessKey: s.Root.AccessKey, SecretKey: s.Root.SecretKey,
	})
}

func TestS3Conformance(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	t.Run("longest prefix", func(t *testing.T) {
		buckettest.Run(t, func(t *testing.T) bucket.Bucket {
			c := of(t, s, s.Root)
			return openBucket(t, withPrefix(c, strings.Repeat("p/", (bucket.MaxPrefix-3)/2)+"pre"))
		})
	})
	conditional := func(r *http.Request) bool {
		return r.Method == http.MethodPut && r.Header.Get("If-Match")+r.Header.Get("If-None-Match") != ""
	}
	for name, c := range map[string]struct {
		script  func() func(n int, r *http.Request) hostile.Fault
		without []string
	}{
		"fails now and then": {failing, nil},
		"ignores conditions": {func() func(int, *http.Request) hostile.Fault {
			return func(_ int, r *http.Request) hostile.Fault {
				if conditional(r) {
					return hostile.Without("If-Match", "If-None-Match")
				}
				return nil
			}
		}, buckettest.Races()},
		"refuses conditions": {func() func(int, *http.Request) hostile.Fault {
			return func(n int, r *http.Request) hostile.Fault {
				switch {
				case conditional(r) && n%2 == 0:
					return hostile.Answer(http.StatusNotImplemented, "NotImplemented")
				case conditional(r):
					return hostile.Answer(http.StatusBadRequest, "InvalidRequest")
				}
				return nil
			}
		}, buckettest.Races()},
		"keeps no metadata": {func() func(int, *http.Request) hostile.Fault {
			return func(int, *http.Request) hostile.Fault {
				return hostile.Edit(func(h http.Header) { h.Del("X-Amz-Meta-Sando-Write") })
			}
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := proxy(t, s)
			p.Script(c.script())
			buckettest.Run(t, func(t *testing.T) bucket.Bucket {
				c := of(t, s, s.Root)
				c.Endpoint = p.Endpoint
				return openBucket(t, c)
			}, c.without...)
		})
	}
}

func withPrefix(c bucket.Config, prefix string) bucket.Config {
	c.URL = c.URL[:strings.LastIndex(c.URL, "/")+1] + prefix
	return c
}

// failing makes a third of the requests fail once for each object and method, in one of
// the ways that are tried again.
func failing() func(n int, r *http.Request) hostile.Fault {
	var mu sync.Mutex
	seen := map[string]bool{}
	return func(_ int, r *http.Request) hostile.Fault {
		mu.Lock()
		defer mu.Unlock()
		key := r.Method + r.URL.Path
		if seen[key] {
			return nil
		}
		seen[key] = true
		h := fnv.New32()
		io.WriteString(h, key)
		switch h.Sum32() % 24 {
		case 0:
			return hostile.Answer(http.StatusServiceUnavailable, "SlowDown")
		case 1:
			return hostile.Answer(http.StatusTooManyRequests, "TooManyRequests", "Retry-After", "0")
		case 2:
			return hostile.Answer(http.StatusInternalServerError, "InternalError")
		case 3:
			return hostile.Refuse()
		case 4, 5:
			return hostile.Lose()
		}
		return nil
	}
}

// checkSecrets reports an error that holds a credential, or what was made with one.
func checkSecrets(t *testing.T, s *minio.Server, err error) {
	t.Helper()
	for _, secret := range []string{s.Root.AccessKey, s.Root.SecretKey, "X-Amz-", "AWS4", "Signature=", "http://", "?"} {
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("%v: holds %q", err, secret)
		}
	}
}

// TestS3Faults: whatever goes wrong for good is an error with its reason, never data.
func TestS3Faults(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	data := bytes.Repeat([]byte("0123456789abcdef"), 4<<10) // 64 KiB
	edit := func(name, value string) hostile.Fault {
		return hostile.Edit(func(h http.Header) { h.Set(name, value) })
	}
	for name, c := range map[string]struct {
		fault hostile.Fault
		on    string // operations that must fail; the others may
		is    error  // that each of them matches; nil: none of these
		says  string // a part of each of them
	}{
		"reset":             {hostile.Reset(10_000), "Get Range Poll", nil, ""},
		"reset at once":     {hostile.Reset(0), "Get Range Poll", nil, ""},
		"truncated":         {hostile.Truncate(10_000), "Get Range Poll", io.ErrUnexpectedEOF, ""},
		"truncated at once": {hostile.Truncate(0), "Get Range Poll", io.ErrUnexpectedEOF, ""},
		"silence":           {hostile.Silence(10_000), "Get Range Poll", context.DeadlineExceeded, ""},
		"mute":              {hostile.Mute(), "Get Range Stat Poll Create Replace", context.DeadlineExceeded, ""},
		"a byte a second":   {hostile.Slow(time.Second), "Get Range Poll", context.DeadlineExceeded, ""},
		"refused":           {hostile.Refuse(), "Get Range Stat Poll Create Replace", nil, ""},
		"lost answers":      {hostile.Lose(), "Get Range Stat Poll Create Replace", nil, ""},
		"SlowDown":          {hostile.Answer(503, "SlowDown"), "Get Range Poll", nil, "503 SlowDown"},
		"SlowDown, writing": {hostile.Answer(503, "SlowDown"), "Create Replace", nil, "503"},
		"SlowDown, long":    {hostile.Answer(503, "SlowDown", "Retry-After", "900"), "Get Range Poll Create Replace", nil, "attempt 1 of 6: the server answers 503"},
		"too many":          {hostile.Answer(429, "TooManyRequests"), "Get Range Poll Create Replace", nil, "429"},
		"bad gateway":       {hostile.Answer(502, ""), "Get Range Poll Create Replace", nil, "502"},
		"missing":           {hostile.Answer(404, "NoSuchKey"), "Get Range Stat Poll", fs.ErrNotExist, ""},
		"no bucket":         {hostile.Answer(404, "NoSuchBucket"), "Get Range Poll", fs.ErrNotExist, "no such bucket"},
		"missing, 403":      {hostile.Answer(403, "AccessDenied"), "Get Range Stat Poll", fs.ErrNotExist, "may not read it"},
		"wrong keys":        {hostile.Answer(403, "InvalidAccessKeyId"), "Get Range Poll Create", nil, "not accept these credentials"},
		"expired keys":      {hostile.Answer(400, "ExpiredToken"), "Get Range Poll", nil, "not accept these credentials"},
		"redirect":          {hostile.Answer(307, "TemporaryRedirect", "Location", s.Endpoint+"/x?X-Amz-Signature=1"), "Get Range Stat Poll Create Replace", nil, "redirect, which is not followed"},
		"other region":      {hostile.Answer(301, "PermanentRedirect", "X-Amz-Bucket-Region", "eu-north-1"), "Get Range Stat Poll", nil, "region eu-north-1"},
		"error with 200":    {hostile.Answer(200, "InternalError"), "Get Poll", nil, "200 InternalError"},
		"odd XML with 200":  {edit("Content-Type", "text/xml; charset=utf-8"), "Get Poll", nil, "answers 200"},
		"gzip":              {hostile.Gzip(), "Get Poll", nil, `content encoding "gzip"`},
		"length unknown":    {hostile.Edit(func(h http.Header) { h.Del("Content-Length") }), "Get Range Poll", nil, "how long"},
		"range ignored":     {hostile.Without("Range"), "Range", nil, "answers 200, want 206"},
		"range unasked":     {hostile.Edit(func(h http.Header) { h.Set("Content-Range", "bytes 0-1/9") }), "Range", nil, "range mismatch"},
		"range of less":     {edit("Content-Range", "bytes 1000-65534/65535"), "Range", nil, "range mismatch"},
		"range elsewhere":   {edit("Content-Range", "bytes 999-65535/65536"), "Range", nil, "range mismatch"},
		"range unsized":     {edit("Content-Range", "bytes 1000-65535/*"), "Range", nil, "range mismatch"},
		"other version":     {edit("ETag", `"other"`), "Range Replace", bucket.ErrChanged, ""},
		"no version":        {hostile.Edit(func(h http.Header) { h.Del("ETag") }), "Range", bucket.ErrChanged, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := proxy(t, s)
			cfg := of(t, s, s.Root)
			direct := openBucket(t, cfg)
			cfg.Endpoint = p.Endpoint
			b := openBucket(t, cfg)
			version, err := direct.Replace(t.Context(), "k", data, "")
			if err != nil {
				t.Fatal(err)
			}
			p.Script(func(int, *http.Request) hostile.Fault { return c.fault })
			var wg sync.WaitGroup
			for op := range strings.FieldsSeq(c.on) {
				wg.Go(func() {
					// Long enough for an answer on a busy machine.
					ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
					defer cancel()
					err := one(ctx, b, op, version)
					checkSecrets(t, s, err)
					checkFault(t, op, err, c.is, c.says)
				})
			}
			wg.Wait()
		})
	}
}

// checkFault reports an error unless err is of the reason io, has says in its text, and says
// of the object no more than want does.
func checkFault(t *testing.T, op string, err, want error, says string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: %v, want an error with %q", op, err, says)
	}
	if want != nil && !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", op, err, want)
	}
	for _, other := range []error{fs.ErrNotExist, fs.ErrExist, bucket.ErrChanged, bucket.ErrSame, bucket.ErrRange} {
		if other != want && errors.Is(err, other) {
			t.Errorf("%s: %v, which says something of the object", op, err)
		}
	}
	if got := reason.Of(err); got != reason.IO {
		t.Errorf("%s: reason %s, want io", op, got)
	}
}

// one does one operation on the object k, whose version is given, to its end.
func one(ctx context.Context, b bucket.Bucket, op, version string) (err error) {
	var r io.ReadCloser
	switch op {
	case "Get":
		r, _, err = b.Get(ctx, "k")
	case "Range":
		r, _, err = b.Range(ctx, "k", 1000, version)
	case "Stat":
		_, err = b.Stat(ctx, "k")
	case "Poll":
		_, _, err = b.Poll(ctx, "k", "", 1<<20)
	case "Create":
		err = b.Create(ctx, "new", strings.NewReader("new"), 3)
	case "Replace":
		_, err = b.Replace(ctx, "k", []byte("new"), version)
	default:
		panic(fmt.Sprintf("no operation %q", op))
	}
	if r != nil {
		_, err = io.Copy(io.Discard, r)
		r.Close()
	}
	return err
}
