package download_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	miniogo "github.com/minio/minio-go/v7"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv/hostile"
	"makenot.work/sando/internal/testenv/minio"
	"makenot.work/sando/internal/testenv/wire"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/bucket/download"
)

// open opens the bucket of a real server at an endpoint that leads there.
func open(t *testing.T, s *minio.Server, endpoint, name string) bucket.Bucket {
	t.Helper()
	b, err := bucket.Open(t.Context(), bucket.Config{
		URL: "s3://" + name, Endpoint: endpoint, PathStyle: true,
		AccessKeyFile: s.Root.AccessKeyFile, SecretKeyFile: s.Root.SecretKeyFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// upload makes the file at path an object.
func upload(t *testing.T, b bucket.Bucket, path string, size int64) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := b.Create(t.Context(), "object", f, size); err != nil {
		t.Fatal(err)
	}
}

// TestMinIO is a real server: behind a wire that is cut, and behind a proxy that goes
// wrong in each way for a while, or for good.
func TestMinIO(t *testing.T) {
	s := minio.Start(t, minio.Options{})
	name := s.Bucket(t, minio.Private)
	real := open(t, s, s.Endpoint, name)
	path := t.TempDir() + "/object"
	t.Run("160 MB, 20 cuts", func(t *testing.T) {
		want := big(t, path, 160_000_000)
		upload(t, real, path, want.Size)
		w := wire.New(t, strings.TrimPrefix(s.Endpoint, "http://"))
		checkCuts(t, w, open(t, s, "http://"+w.Addr, name), "object", want)
	})
	t.Run("altered on the way", func(t *testing.T) { checkAltered(t, s) })
	data := bytes.Repeat([]byte("0123456789abcdef"), 64<<10) // 1 MiB
	for name, c := range hostilities() {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // most of it is waiting
			c.check(t, s, data)
		})
	}
}

// checkAltered replaces an object while it is downloaded, by other bytes of the same
// length: the file is never made of both.
func checkAltered(t *testing.T, s *minio.Server) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB
	other := bytes.Repeat([]byte("fedcba9876543210"), 256<<10)
	name := s.Bucket(t, minio.Private)
	client := s.Client(t, s.Root)
	put := func(data []byte) {
		_, err := client.PutObject(t.Context(), name, "object", bytes.NewReader(data), int64(len(data)), miniogo.PutObjectOptions{})
		if err != nil {
			t.Error(err)
		}
	}
	for what, c := range map[string]struct {
		first, then []byte
		want        reason.Code
	}{
		"spoilt":   {data, other, reason.Mismatch},
		"restored": {other, data, reason.Current},
	} {
		put(c.first)
		w := wire.New(t, strings.TrimPrefix(s.Endpoint, "http://"))
		held := w.HoldAt(int64(len(data) / 2))
		go func() {
			<-held
			put(c.then)
			w.Release()
		}()
		f, err := os.Create(t.TempDir() + "/copy")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		sum := sha256.Sum256(data)
		want := download.Want{Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
		err = download.File(t.Context(), open(t, s, "http://"+w.Addr, name), "object", f, want, download.Options{})
		got, rerr := os.ReadFile(f.Name())
		if reason.Of(err) != c.want || rerr != nil || err == nil && !bytes.Equal(got, data) || err != nil && len(got) != 0 {
			t.Errorf("%s: ended with %q: %v, and %d bytes (%v)", what, reason.Of(err), err, len(got), rerr)
		}
	}
}

// hostility is a way to go wrong.
type hostility struct {
	fault hostile.Fault
	lasts reason.Code // how it ends when it does not stop; "" it arrives all the same
	is    error       // then; nil: any
	lost  int64       // bytes sent in vain at most, when it stops after one request
}

func hostilities() map[string]hostility {
	const part, few = 300_000, 1000
	set := func(name, value string) hostile.Fault {
		return hostile.Edit(func(h http.Header) { h.Set(name, value) })
	}
	return map[string]hostility{
		"reset":         {hostile.Reset(part), "", nil, part},
		"reset at once": {hostile.Reset(0), reason.IO, nil, few},
		"truncated":     {hostile.Truncate(part), "", nil, few},
		"silence":       {hostile.Silence(part), "", nil, few},
		"mute":          {hostile.Mute(), reason.IO, nil, few},
		"a byte a time": {hostile.Slow(20 * time.Millisecond), reason.IO, nil, few},
		"slow down":     {hostile.Answer(503, "SlowDown"), reason.IO, nil, few},
		"broken":        {hostile.Answer(500, "InternalError"), reason.IO, nil, few},
		"gzip":          {hostile.Gzip(), reason.IO, nil, part},
		// A server that knows no ranges sends the whole object.
		"other range": {set("Content-Range", "bytes 0-9/10"), "", nil, few},
		"missing":     {hostile.Answer(404, "NoSuchKey"), reason.IO, fs.ErrNotExist, few},
		"forbidden":   {hostile.Answer(403, "AccessDenied"), reason.IO, fs.ErrNotExist, few},
	}
}

// check downloads with the fault in the first request, and then in each.
func (c hostility) check(t *testing.T, s *minio.Server, data []byte) {
	path := t.TempDir() + "/object"
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	want := download.Want{Size: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
	name := s.Bucket(t, minio.Private)
	upload(t, open(t, s, s.Endpoint, name), path, want.Size)
	p := hostile.Start(t, hostile.Server{Endpoint: s.Endpoint, Region: s.Region, AccessKey: s.Root.AccessKey, SecretKey: s.Root.SecretKey})
	b := open(t, s, p.Endpoint, name)
	run := func(begun []byte, tries int) error {
		t.Helper()
		file := t.TempDir() + "/copy"
		f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.Write(begun); err != nil {
			t.Fatal(err)
		}
		limits := download.Limits{Stall: 1200 * time.Millisecond, Window: 1200 * time.Millisecond, Slowest: 100 << 10, Tries: tries}
		err = download.File(t.Context(), b, "object", f, want, download.Options{Limits: limits})
		got, rerr := os.ReadFile(file)
		if rerr != nil || err == nil && !bytes.Equal(got, data) || err != nil && !bytes.HasPrefix(data, got) {
			t.Errorf("the file holds %d bytes that may be others (%v)", len(got), rerr)
		}
		return err
	}
	for _, begun := range [][]byte{nil, data[:100_000]} {
		p.Script(func(n int, _ *http.Request) hostile.Fault {
			if n > 0 {
				return nil
			}
			return c.fault
		})
		err := run(begun, 8)
		if c.is != nil && !errors.Is(err, c.is) || c.is == nil && err != nil {
			t.Errorf("one fault, %d bytes there: ended with %v", len(begun), err)
		}
		if sent := p.Sent(); sent > want.Size+c.lost {
			t.Errorf("one fault, %d bytes there: %d bytes were sent for %d", len(begun), sent, want.Size)
		}
	}
	p.Script(func(int, *http.Request) hostile.Fault { return c.fault })
	switch err := run(data[:100_000], 2); {
	case c.lasts == "" && err != nil, c.lasts != "" && err == nil, err != nil && reason.Of(err) != c.lasts, c.is != nil && !errors.Is(err, c.is):
		t.Errorf("faults only: ended with %q: %v, want %q", reason.Of(err), err, c.lasts)
	}
}
