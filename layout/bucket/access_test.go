package bucket_test

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/layout/bucket"
)

// noMachine says that this machine has no role, without asking the network.
func noMachine(t *testing.T) {
	t.Helper()
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_SECRET_KEY", "AWS_SESSION_TOKEN",
		"AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN"} {
		t.Setenv(name, "")
	}
	s := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(s.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", s.URL)
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestS3Credentials(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	c := of(t, s, s.Root)
	put(t, openBucket(t, c), "k", "data")
	c.AccessKeyFile, c.SecretKeyFile = "", ""
	for name, tt := range map[string]struct {
		set  func(t *testing.T)
		says string // of the refusal; empty: it works
	}{
		"none": {func(*testing.T) {}, "no credentials for the bucket"},
		"environment": {func(t *testing.T) {
			t.Setenv("AWS_ACCESS_KEY_ID", s.Root.AccessKey)
			t.Setenv("AWS_SECRET_ACCESS_KEY", s.Root.SecretKey)
		}, ""},
		"half an environment": {func(t *testing.T) {
			t.Setenv("AWS_SECRET_ACCESS_KEY", s.Root.SecretKey)
		}, "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: one is set and the other is not"},
		"machine": {func(t *testing.T) {
			m := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":%q,"Expiration":%q}`,
					s.Root.AccessKey, s.Root.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			}))
			t.Cleanup(m.Close)
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", m.URL)
		}, ""},
		"machine that never ends": {func(t *testing.T) {
			m := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `{"AccessKeyId":"`)
				for r.Context().Err() == nil {
					if _, err := io.WriteString(w, strings.Repeat("x", 64<<10)); err != nil {
						return
					}
				}
			}))
			t.Cleanup(m.Close)
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", m.URL)
		}, "unexpected EOF"},
		"machine that sends elsewhere": {func(t *testing.T) {
			other := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
				t.Errorf("another host was asked for credentials: %s", r.URL)
			}))
			t.Cleanup(other.Close)
			m := httptest.NewServer(http.RedirectHandler(other.URL, http.StatusTemporaryRedirect))
			t.Cleanup(m.Close)
			t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", m.URL)
		}, "no credentials for the bucket"},
	} {
		t.Run(name, func(t *testing.T) {
			noMachine(t)
			tt.set(t)
			b := openBucket(t, c)
			err := one(t.Context(), b, "Get", "")
			checkSecrets(t, s, err)
			switch {
			case tt.says == "" && err != nil:
				t.Errorf("Get = %v", err)
			case tt.says != "" && (reason.Of(err) != reason.Config || !strings.Contains(err.Error(), tt.says)):
				t.Errorf("Get = %v, want the reason config and %q", err, tt.says)
			}
		})
	}
}

// TestS3MachineRenews: keys of the machine are asked for again when the server has had
// enough of them; and once there were any, not to get new ones is no matter of
// configuration.
func TestS3MachineRenews(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	noMachine(t)
	var asked atomic.Int64
	m := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 3 {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintf(w, `{"AccessKeyId":%q,"SecretAccessKey":%q,"Expiration":%q}`,
			s.Root.AccessKey, s.Root.SecretKey, time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	}))
	t.Cleanup(m.Close)
	t.Setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", m.URL)
	c := of(t, s, minio.User{})
	p := proxy(t, s)
	c.Endpoint = p.Endpoint
	b := openBucket(t, c)
	put(t, b, "k", "data")
	if n := asked.Load(); n != 1 {
		t.Errorf("the machine was asked %d times, want once", n)
	}
	expired := func(n int, _ *http.Request) hostile.Fault {
		if n == 0 {
			return hostile.Answer(http.StatusBadRequest, "ExpiredToken")
		}
		return nil
	}
	p.Script(expired)
	want(t, b, "k", "data")
	if n := asked.Load(); n != 2 {
		t.Errorf("the machine was asked %d times, want twice", n)
	}
	p.Script(expired)
	if err := one(t.Context(), b, "Get", ""); err != nil {
		t.Errorf("Get while the machine did not answer once = %v", err) // it is tried again
	}
}

func TestS3KeyFiles(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	c := of(t, s, s.Root)
	put(t, openBucket(t, c), "k", "data")
	dir := t.TempDir()
	c.AccessKeyFile, c.SecretKeyFile = filepath.Join(dir, "access"), filepath.Join(dir, "secret")
	good := func() {
		write(t, c.AccessKeyFile, s.Root.AccessKey+"\n", 0o600)
		write(t, c.SecretKeyFile, s.Root.SecretKey, 0o640)
	}
	good()
	b := openBucket(t, c)
	want(t, b, "k", "data")
	// Rotated under the client, with a moment in which they do not fit.
	write(t, c.SecretKeyFile, "not the secret of this key\n", 0o600)
	if err := one(t.Context(), b, "Get", ""); err == nil {
		t.Error("Get with another secret went through")
	}
	for name, tt := range map[string]struct {
		change func()
		says   string
	}{
		"empty":        {func() { write(t, c.SecretKeyFile, "\n", 0o600) }, "does not hold one line"},
		"two lines":    {func() { write(t, c.SecretKeyFile, "a\nb\n", 0o600) }, "does not hold one line"},
		"spaces":       {func() { write(t, c.SecretKeyFile, "a b", 0o600) }, "does not hold one line"},
		"no text":      {func() { write(t, c.AccessKeyFile, "a\x00b", 0o600) }, "does not hold one line"},
		"long":         {func() { write(t, c.AccessKeyFile, strings.Repeat("a", 1025), 0o600) }, "does not hold one line"},
		"for everyone": {func() { write(t, c.SecretKeyFile, s.Root.SecretKey, 0o644) }, "anybody may use it: chmod 600"},
		"missing":      {func() { must(t, os.Remove(c.AccessKeyFile)) }, "no such file"},
		"a directory":  {func() { must(t, os.Remove(c.AccessKeyFile)); must(t, os.Mkdir(c.AccessKeyFile, 0o700)) }, "is not a file"},
	} {
		must(t, os.RemoveAll(c.AccessKeyFile))
		good()
		want(t, b, "k", "data")
		tt.change()
		for what, err := range map[string]error{"Check": c.Check(), "Get": one(t.Context(), b, "Get", "")} {
			checkSecrets(t, s, err)
			if err == nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("%s, %s = %v, want the reason config and %q", name, what, err, tt.says)
			}
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestS3Rights: a node needs no more than to read objects, a builder no more than to read
// and write them.
func TestS3Rights(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	c := of(t, s, s.Root)
	name := strings.TrimPrefix(strings.TrimSuffix(c.URL, "/apps"), "s3://")
	version := put(t, openBucket(t, c), "k", "data")
	user := func(u minio.User) bucket.Bucket {
		c := c
		c.AccessKeyFile, c.SecretKeyFile = u.AccessKeyFile, u.SecretKeyFile
		return openBucket(t, c)
	}
	node := user(s.User(t, minio.Allow([]string{"s3:GetObject"}, name+"/apps/*")))
	builder := user(s.User(t, minio.Allow([]string{"s3:GetObject", "s3:PutObject"}, name+"/apps/*")))
	for who, b := range map[string]bucket.Bucket{"node": node, "builder": builder} {
		want(t, b, "k", "data")
		if _, _, err := b.Poll(t.Context(), "k", version, 10); !errors.Is(err, bucket.ErrSame) {
			t.Errorf("%s: Poll = %v, want bucket.ErrSame", who, err)
		}
		if r, _, err := b.Range(t.Context(), "k", 2, version); err != nil {
			t.Errorf("%s: Range = %v", who, err)
		} else {
			r.Close()
		}
		if _, err := b.Stat(t.Context(), "none"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: Stat of nothing = %v, want fs.ErrNotExist", who, err)
		}
	}
	put(t, builder, "new", "data")
	now, err := builder.Replace(t.Context(), "m", []byte("one"), "")
	must(t, err)
	_, err = builder.Replace(t.Context(), "m", []byte("two"), now)
	must(t, err)
	err = node.Create(t.Context(), "other", strings.NewReader("x"), 1)
	if err == nil || errors.Is(err, fs.ErrExist) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "403 AccessDenied") {
		t.Errorf("node: Create = %v, want 403", err)
	}
}

func TestS3Anonymous(t *testing.T) {
	noMachine(t)
	s := minio.Start(t, minio.Options{})
	c := of(t, s, s.Root)
	public := s.Bucket(t, minio.PublicRead)
	private := c.URL
	c.URL = "s3://" + public
	version := put(t, openBucket(t, c), "k", "data")
	c.AccessKeyFile, c.SecretKeyFile, c.Anonymous = "", "", true
	b := openBucket(t, c)
	want(t, b, "k", "data")
	if _, _, err := b.Poll(t.Context(), "k", version, 10); !errors.Is(err, bucket.ErrSame) {
		t.Errorf("Poll = %v, want bucket.ErrSame", err)
	}
	if err := b.Create(t.Context(), "new", strings.NewReader("x"), 1); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("Create = %v, want 403", err)
	}
	c.URL = private
	if err := one(t.Context(), openBucket(t, c), "Get", ""); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "may not read it") {
		t.Errorf("Get of a private object = %v, want both readings", err)
	}
	// Never by accident.
	c.Anonymous, c.URL = false, "s3://"+public
	if err := one(t.Context(), openBucket(t, c), "Get", ""); reason.Of(err) != reason.Config {
		t.Errorf("Get without credentials = %v, want the reason config", err)
	}
}

func TestS3TLS(t *testing.T) {
	s := minio.Start(t, minio.Options{TLS: true, Region: "eu-north-1"})
	c := of(t, s, s.Root)
	c.Region = s.Region
	b := openBucket(t, c)
	version := put(t, b, "k", "data")
	if _, err := b.Replace(t.Context(), "k", []byte("new"), version); err != nil {
		t.Error(err)
	}
	want(t, b, "k", "new")
	without := c
	without.CAFile = ""
	err := one(t.Context(), openBucket(t, without), "Get", "")
	if err == nil || reason.Of(err) != reason.IO || !strings.Contains(err.Error(), "storage.ca_file") || strings.Contains(err.Error(), "attempt") {
		t.Errorf("Get without the CA = %v, want one attempt and the way out", err)
	}
	wrong := c
	wrong.Region = "us-east-1"
	err = one(t.Context(), openBucket(t, wrong), "Get", "")
	if err == nil || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "the bucket is in region eu-north-1; set storage.region") {
		t.Errorf("Get in another region = %v, want its name", err)
	}
	plain := c
	plain.Endpoint = strings.Replace(c.Endpoint, "https", "http", 1)
	err = one(t.Context(), openBucket(t, plain), "Get", "")
	if err == nil || errors.Is(err, fs.ErrNotExist) || reason.Of(err) != reason.IO {
		t.Errorf("Get by http from https = %v, want the reason io", err)
	}
}
