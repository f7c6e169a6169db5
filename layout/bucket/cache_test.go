package bucket_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"makenot.work/sando/layout/bucket"
)

// TestS3WeakVersions has a cache in front of the server, which makes a weak ETag of a strong
// one for some answers, as those do that may alter what they pass on.
func TestS3WeakVersions(t *testing.T) {
	for _, tt := range []struct {
		whole, part string // the ETags of the two kinds of answers
		now         string // version that Range says there is
		want        error
	}{
		{`"a"`, `"a"`, `"a"`, nil},
		{`W/"a"`, `W/"a"`, `W/"a"`, nil},
		{`W/"a"`, `"a"`, "", nil},
		{`"a"`, `W/"a"`, "", nil},
		{`W/"a"`, `"b"`, "", bucket.ErrChanged},
		{`"a"`, `W/"b"`, "", bucket.ErrChanged},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				w.Header().Set("ETag", tt.whole)
				io.WriteString(w, "0123456789")
				return
			}
			w.Header().Set("ETag", tt.part)
			w.Header().Set("Content-Range", "bytes 4-9/10")
			w.WriteHeader(http.StatusPartialContent)
			io.WriteString(w, "456789")
		}))
		b := openBucket(t, bucket.Config{URL: "s3://releases", Endpoint: s.URL, Anonymous: true})
		info, err := b.Stat(t.Context(), "key")
		if err != nil || info.Version != tt.whole {
			t.Errorf("Stat = %+v, %v", info, err)
		}
		body, info, err := b.Range(t.Context(), "key", 4, info.Version)
		if !errors.Is(err, tt.want) || err == nil && info.Version != tt.now {
			t.Errorf("Range after %s with %s = %+v, %v", tt.whole, tt.part, info, err)
		}
		if err == nil {
			body.Close()
		}
		s.Close()
	}
}

// TestS3LongHeader has a server whose mistake is quoted in the error about it.
func TestS3LongHeader(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, out, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprintf(out, "HTTP/1.1 200 OK\r\nno header %s\r\n\r\n", strings.Repeat("x", 40<<10))
		out.Flush()
	}))
	t.Cleanup(s.Close)
	b := openBucket(t, bucket.Config{URL: "s3://releases", Endpoint: s.URL, Anonymous: true})
	_, err := b.Stat(t.Context(), "key")
	if err == nil || !strings.Contains(err.Error(), "no header xxx") || len(err.Error()) > 1000 {
		t.Errorf("Stat = %.2000v, want an error about a line that is no header, of at most 1000 bytes", err)
	}
}
