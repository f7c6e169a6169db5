package bucket_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout/bucket"
)

// pair is a bucket seen through a proxy, and directly.
type pair struct {
	*hostile.Proxy
	b, direct bucket.Bucket
}

func newPair(t *testing.T, s *minio.Server) *pair {
	t.Helper()
	p := &pair{Proxy: proxy(t, s)}
	c := of(t, s, s.Root)
	p.direct = openBucket(t, c)
	c.Endpoint = p.Endpoint
	p.b = openBucket(t, c)
	return p
}

// on chooses a fault for one request: the nth, counted from 0, with the method.
func (p *pair) on(method string, nth int, fault hostile.Fault) {
	seen := -1
	p.Script(func(_ int, r *http.Request) hostile.Fault {
		if r.Method == method {
			seen++
		}
		if r.Method == method && seen == nth {
			return fault
		}
		return nil
	})
}

// asked returns the requests since Script, without the bucket's name and the version.
func (p *pair) asked(version string) string {
	var all []string
	for _, r := range p.Seen() {
		if version != "" {
			for _, v := range r.Header {
				v[0] = strings.ReplaceAll(v[0], version, "V")
			}
		}
		_, r.Path, _ = strings.Cut(r.Path[1:], "/")
		all = append(all, r.String())
	}
	return strings.Join(all, ", ")
}

func put(t *testing.T, b bucket.Bucket, key, data string) string {
	t.Helper()
	if err := b.Create(t.Context(), key, strings.NewReader(data), int64(len(data))); err != nil {
		t.Fatal(err)
	}
	info, err := b.Stat(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	return info.Version
}

func want(t *testing.T, b bucket.Bucket, key, data string) {
	t.Helper()
	got, err := bucket.ReadAll(t.Context(), b, key, 10<<20)
	if string(got) != data || err != nil {
		t.Errorf("object %q holds %.50q, %v, want %.50q", key, got, err, data)
	}
}

// TestS3Requests: how often the server is asked, and for what. Nothing is listed.
func TestS3Requests(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	p := newPair(t, s)
	version := put(t, p.direct, "k", "data")
	long := strings.Repeat("x", bucket.MaxReplace+1)
	for name, c := range map[string]struct {
		do    func() error
		asked string
	}{
		"get":        {func() error { return one(t.Context(), p.b, "Get", "") }, "GET apps/k"},
		"stat":       {func() error { return one(t.Context(), p.b, "Stat", "") }, "HEAD apps/k"},
		"first poll": {func() error { return one(t.Context(), p.b, "Poll", "") }, "GET apps/k"},
		"idle poll": {func() error {
			if _, _, err := p.b.Poll(t.Context(), "k", version, 10); !errors.Is(err, bucket.ErrSame) {
				return err
			}
			return nil
		}, "GET apps/k If-None-Match:V"},
		"range": {func() error {
			r, _, err := p.b.Range(t.Context(), "k", 2, version)
			if err == nil {
				err = r.Close()
			}
			return err
		}, "GET apps/k Range:bytes=2- If-Match:V"},
		"create": {func() error { return p.b.Create(t.Context(), "c", strings.NewReader("x"), 1) },
			"HEAD apps/c, PUT apps/c If-None-Match:*, GET apps/c"},
		"create a long one": {func() error { return p.b.Create(t.Context(), "l", strings.NewReader(long), int64(len(long))) },
			"HEAD apps/l, PUT apps/l If-None-Match:*, HEAD apps/l"},
		"create again": {func() error {
			if err := p.b.Create(t.Context(), "k", strings.NewReader("x"), 1); !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		}, "HEAD apps/k"},
	} {
		p.Script(nil)
		if err := c.do(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := p.asked(version); got != c.asked {
			t.Errorf("%s: asked %q, want %q", name, got, c.asked)
		}
	}
	p.Script(nil)
	if _, err := p.b.Replace(t.Context(), "k", []byte("new"), version); err != nil {
		t.Fatal(err)
	}
	if got, want := p.asked(version), "HEAD apps/k, PUT apps/k If-Match:V, GET apps/k"; got != want {
		t.Errorf("replace: asked %q, want %q", got, want)
	}
}

// TestS3LostAnswers: a writer that was not told whether it won finds out.
func TestS3LostAnswers(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	long := strings.Repeat("x", bucket.MaxReplace+1)
	for name, c := range map[string]struct {
		method string
		fault  hostile.Fault
	}{
		"write":          {http.MethodPut, hostile.Lose()},
		"read back":      {http.MethodGet, hostile.Lose()},
		"half read back": {http.MethodGet, hostile.Truncate(2)},
		"look":           {http.MethodHead, hostile.Lose()},
		"conflict":       {http.MethodPut, hostile.Answer(http.StatusConflict, "ConditionalRequestConflict")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, s)
			p.on(c.method, 0, c.fault)
			if err := p.b.Create(t.Context(), "k", strings.NewReader("data"), 4); err != nil {
				t.Errorf("Create: %v", err)
			}
			want(t, p.direct, "k", "data")
			p.on(c.method, 0, c.fault)
			if err := p.b.Create(t.Context(), "long", strings.NewReader(long), int64(len(long))); err != nil {
				t.Errorf("Create of a long one: %v", err)
			}
			want(t, p.direct, "long", long)
			version, err := p.direct.Replace(t.Context(), "m", []byte("one"), "")
			if err != nil {
				t.Fatal(err)
			}
			p.on(c.method, 0, c.fault)
			now, err := p.b.Replace(t.Context(), "m", []byte("two"), version)
			if err != nil {
				t.Errorf("Replace: %v", err)
			}
			if info, err := p.direct.Stat(t.Context(), "m"); err != nil || info.Version != now {
				t.Errorf("Replace returned the version %q, there is %q, %v", now, info.Version, err)
			}
			want(t, p.direct, "m", "two")
		})
	}
}

// TestS3Overtaken: another writer is between two requests of ours, on servers of each kind.
// Whoever was there first stays.
func TestS3Overtaken(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	ignore := hostile.Without("If-Match", "If-None-Match")
	for name, c := range map[string]struct {
		method string // before the first of these, the other one writes
		nth    int
		then   hostile.Fault // what becomes of ours
		won    bool          // ours is there in the end
	}{
		"before we look":                {http.MethodHead, 0, nil, false},
		"before we write":               {http.MethodPut, 0, nil, false},
		"before we look, no conditions": {http.MethodHead, 0, ignore, false},
		"our answer is lost after":      {http.MethodPut, 0, hostile.Lose(), false},
		"after we wrote":                {http.MethodGet, 0, nil, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, s)
			p.on(c.method, c.nth, func(x *hostile.Exchange) {
				err := p.direct.Create(t.Context(), "k", strings.NewReader("theirs"), 6)
				if c.won != errors.Is(err, fs.ErrExist) {
					t.Errorf("the other writer: %v", err)
				}
				if c.then != nil {
					c.then(x)
				} else {
					x.Relay(x.Pass())
				}
			})
			err := p.b.Create(t.Context(), "k", strings.NewReader("ours"), 4)
			if c.won {
				want(t, p.direct, "k", "ours")
				if err != nil {
					t.Errorf("Create = %v", err)
				}
				return
			}
			want(t, p.direct, "k", "theirs")
			if !errors.Is(err, fs.ErrExist) {
				t.Errorf("Create = %v, want fs.ErrExist", err)
			}
		})
	}
}

// TestS3Overwritten: what is read back is not what was written, or not by this writer.
func TestS3Overwritten(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	p := newPair(t, s)
	// Another writer, on a server that ignores conditions, writes over it in between.
	overwrite := func(number, theirs string) {
		p.Script(func(n int, r *http.Request) hostile.Fault {
			if n != 2 {
				return nil
			}
			return func(x *hostile.Exchange) {
				header := http.Header{"Authorization": {"signed anew by the proxy"}, "X-Amz-Content-Sha256": {"UNSIGNED-PAYLOAD"}}
				if number != "" {
					header.Set("X-Amz-Meta-Sando-Write", number)
				}
				read := x.Request
				x.Request = &http.Request{Method: http.MethodPut, URL: read.URL, Header: header,
					Body: io.NopCloser(strings.NewReader(theirs)), ContentLength: int64(len(theirs))}
				if resp := x.Pass(); resp.StatusCode != http.StatusOK {
					t.Errorf("the other writer: %s", resp.Status)
				}
				x.Request = read
				x.Relay(x.Pass())
			}
		})
	}
	long := strings.Repeat("x", bucket.MaxReplace+1)
	for i, c := range []struct{ ours, number, theirs string }{
		{"ours", "", "theirs"},
		{"ours", "1", "theirs"},
		{"ours", "1", "ours"},
		{long, "", "theirs"},
		{long, "", strings.ToUpper(long)},
		{long, "1", "theirs"},
		{long, "1", strings.ToUpper(long)},
		{long, "1", long},
	} {
		overwrite(c.number, c.theirs)
		err := p.b.Create(t.Context(), fmt.Sprint("c", i), strings.NewReader(c.ours), int64(len(c.ours)))
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("case %d: Create = %v, want fs.ErrExist", i, err)
		}
		if len(c.ours) > bucket.MaxReplace {
			continue
		}
		overwrite(c.number, c.theirs)
		if _, err := p.b.Replace(t.Context(), fmt.Sprint("r", i), []byte(c.ours), ""); !errors.Is(err, bucket.ErrChanged) {
			t.Errorf("case %d: Replace = %v, want bucket.ErrChanged", i, err)
		}
	}
}

// TestS3Late: a write whose connection broke arrives after the writer has looked again.
func TestS3Late(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	p := newPair(t, s)
	late := func() {
		var kept *http.Request
		p.Script(func(_ int, r *http.Request) hostile.Fault {
			switch {
			case r.Method == http.MethodPut && kept == nil:
				return func(x *hostile.Exchange) {
					body, err := io.ReadAll(x.Body)
					if err != nil {
						t.Error(err)
					}
					kept = x.Request.Clone(t.Context())
					kept.Body = io.NopCloser(bytes.NewReader(body))
					hostile.Refuse()(x)
				}
			case r.Method == http.MethodPut:
				return func(x *hostile.Exchange) {
					second := x.Request
					x.Request = kept
					if resp := x.Pass(); resp.StatusCode != http.StatusOK {
						t.Errorf("the late write: %s", resp.Status)
					}
					x.Request = second
					resp := x.Pass()
					if resp.StatusCode != http.StatusPreconditionFailed {
						t.Errorf("the second write: %s", resp.Status)
					}
					x.Relay(resp)
				}
			}
			return nil
		})
	}
	late()
	if err := p.b.Create(t.Context(), "k", strings.NewReader("data"), 4); err != nil {
		t.Errorf("Create = %v", err)
	}
	want(t, p.direct, "k", "data")
	version, err := p.direct.Replace(t.Context(), "m", []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	late()
	if _, err := p.b.Replace(t.Context(), "m", []byte("two"), version); err != nil {
		t.Errorf("Replace = %v", err)
	}
	want(t, p.direct, "m", "two")
}

// TestS3Hidden: credentials that may not list get 403 for what is missing.
func TestS3Hidden(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	p := newPair(t, s)
	hide := func(x *hostile.Exchange) {
		resp := x.Pass()
		if resp.StatusCode == http.StatusNotFound {
			resp.Body.Close()
			hostile.Answer(http.StatusForbidden, "AccessDenied")(x)
			return
		}
		x.Relay(resp)
	}
	p.Script(func(int, *http.Request) hostile.Fault { return hide })
	if err := one(t.Context(), p.b, "Get", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get = %v, want fs.ErrNotExist", err)
	}
	if err := p.b.Create(t.Context(), "k", strings.NewReader("data"), 4); err != nil {
		t.Errorf("Create = %v", err)
	}
	if _, err := p.b.Replace(t.Context(), "m", []byte("data"), ""); err != nil {
		t.Errorf("Replace = %v", err)
	}
	// Without a condition on the PUT, that would be a bet.
	p.Script(func(_ int, r *http.Request) hostile.Fault {
		if r.Method == http.MethodPut {
			return hostile.Answer(http.StatusNotImplemented, "NotImplemented")
		}
		return hide
	})
	err := p.b.Create(t.Context(), "other", strings.NewReader("data"), 4)
	if err == nil || !strings.Contains(err.Error(), "let them list the bucket") {
		t.Errorf("Create without conditions = %v, want a refusal that says how", err)
	}
	if _, err := p.direct.Stat(t.Context(), "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it was written all the same: %v", err)
	}
	// Who may not write is told so, and not that something is missing.
	p.Script(func(_ int, r *http.Request) hostile.Fault {
		if r.Method == http.MethodPut {
			return hostile.Answer(http.StatusForbidden, "AccessDenied")
		}
		return hide
	})
	err = p.b.Create(t.Context(), "other", strings.NewReader("data"), 4)
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "403 AccessDenied: these credentials may not write it;") {
		t.Errorf("Create without permission = %v, want 403", err)
	}
}
