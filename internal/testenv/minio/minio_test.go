package minio_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	miniogo "github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/testenv/minio"
)

func put(t *testing.T, c *miniogo.Client, bucket, key, body string) error {
	t.Helper()
	_, err := c.PutObject(t.Context(), bucket, key, strings.NewReader(body), int64(len(body)), miniogo.PutObjectOptions{})
	return err
}

func get(t *testing.T, c *miniogo.Client, bucket, key string) (string, error) {
	t.Helper()
	o, err := c.GetObject(t.Context(), bucket, key, miniogo.GetObjectOptions{})
	if err != nil {
		return "", err
	}
	defer o.Close()
	data, err := io.ReadAll(o)
	return string(data), err
}

// status returns how the server answers somebody without credentials.
func status(t *testing.T, s *minio.Server, path string) int {
	t.Helper()
	resp, err := http.Get(s.Endpoint + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func TestServer(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	root := s.Client(t, s.Root)
	t.Run("bucket", func(t *testing.T) {
		private, public := s.Bucket(t, minio.Private), s.Bucket(t, minio.PublicRead)
		for _, bucket := range []string{private, public} {
			if err := put(t, root, bucket, "a/b", "hello"); err != nil {
				t.Fatal(err)
			}
			if got, err := get(t, root, bucket, "a/b"); got != "hello" {
				t.Errorf("%s: got %q, %v", bucket, got, err)
			}
		}
		for path, want := range map[string]int{
			private + "/a/b": 403, private + "/missing": 403, private: 403,
			public + "/a/b": 200, public + "/missing": 404, public: 403,
		} {
			if got := status(t, s, "/"+path); got != want {
				t.Errorf("anybody, %s: %d, want %d", path, got, want)
			}
		}
	})
	t.Run("user", func(t *testing.T) {
		bucket := s.Bucket(t, minio.Private)
		if err := put(t, root, bucket, "a", "hello"); err != nil {
			t.Fatal(err)
		}
		c := s.Client(t, s.User(t, minio.Allow([]string{"s3:GetObject"}, bucket+"/*")))
		if got, err := get(t, c, bucket, "a"); got != "hello" {
			t.Errorf("read: %q, %v", got, err)
		}
		_, other := get(t, c, s.Bucket(t, minio.Private), "a")
		for what, err := range map[string]error{"write": put(t, c, bucket, "b", ""), "other bucket": other} {
			if code := miniogo.ToErrorResponse(err).Code; code != "AccessDenied" {
				t.Errorf("%s: %v, want AccessDenied", what, err)
			}
		}
	})
}

func TestTLS(t *testing.T) {
	s := minio.Start(t, minio.Options{TLS: true, Region: "eu-test-1"})
	if err := put(t, s.Client(t, s.Root), s.Bucket(t, minio.Private), "a", "hello"); err != nil {
		t.Error(err)
	}
	if _, err := http.Get(s.Endpoint); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("without the authority: %v", err)
	}
}
