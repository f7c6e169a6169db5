package bucket_test

import (
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout/bucket"
)

// Who may write what is found out without writing it.
func TestMayWrite(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	c := of(t, s, s.Root)
	place := strings.TrimPrefix(c.URL, "s3://")
	put(t, openBucket(t, c), "mnw/reports/alpha.json", "said before")
	narrow := s.User(t, `{"Version":"2012-10-17","Statement":[
		{"Effect":"Allow","Action":["s3:GetObject"],"Resource":["arn:aws:s3:::`+place+`/*"]},
		{"Effect":"Allow","Action":["s3:PutObject"],"Resource":["arn:aws:s3:::`+place+`/mnw/reports/alpha.json"]}]}`)
	for _, tt := range []struct {
		who  string
		user minio.User
		key  string
		want bool
	}{
		{"root", s.Root, "mnw/reports/alpha.json", true},
		{"root", s.Root, "mnw/releases/none/x", true},
		{"narrow", narrow, "mnw/reports/alpha.json", true},
		{"narrow", narrow, "mnw/reports/beta.json", false},
		{"narrow", narrow, "mnw/channels/none.json", false},
		{"narrow", narrow, "mnw/releases/none/x", false},
	} {
		c.AccessKeyFile, c.SecretKeyFile = tt.user.AccessKeyFile, tt.user.SecretKeyFile
		got, err := bucket.MayWrite(t.Context(), openBucket(t, c), tt.key)
		if got != tt.want || err != nil {
			t.Errorf("%s, %s: %v, %v, want %v", tt.who, tt.key, got, err, tt.want)
		}
	}
	c.AccessKeyFile, c.SecretKeyFile = s.Root.AccessKeyFile, s.Root.SecretKeyFile
	b := openBucket(t, c)
	want(t, b, "mnw/reports/alpha.json", "said before")
	if _, err := b.Stat(t.Context(), "mnw/releases/none/x"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("there is an object that nobody wrote: %v", err)
	}
}

// A server that refuses conditions says nothing about credentials, and neither does a directory.
func TestMayWriteUnknown(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusNotImplemented)
			return
		}
		w.WriteHeader(http.StatusNotFound)
	}))
	t.Cleanup(s.Close)
	for _, c := range []bucket.Config{{URL: "file://" + t.TempDir()}, {URL: "s3://releases", Endpoint: s.URL, Anonymous: true}} {
		b, err := bucket.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := bucket.MayWrite(t.Context(), b, "k"); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v, want %v", c.URL, err, errors.ErrUnsupported)
		}
	}
}
