package download_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/internal/testenv/wire"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/bucket/download"
)

// web is a bucket of files behind a plain web server, for reading.
type web struct{ base string }

func (b web) ask(ctx context.Context, method, key, rng, version string) (io.ReadCloser, bucket.Info, error) {
	req, err := http.NewRequestWithContext(ctx, method, b.base+"/"+key, nil)
	if err != nil {
		return nil, bucket.Info{}, err
	}
	if rng != "" {
		req.Header.Set("Range", rng)
	}
	if version != "" {
		req.Header.Set("If-Match", version)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, bucket.Info{}, err
	}
	info := bucket.Info{Size: res.ContentLength, Version: res.Header.Get("ETag")}
	switch {
	case res.StatusCode == http.StatusPreconditionFailed:
		err = bucket.ErrChanged
	case res.StatusCode == http.StatusNotFound:
		err = fs.ErrNotExist
	case rng != "" && res.StatusCode == http.StatusPartialContent:
		_, size, _ := strings.Cut(res.Header.Get("Content-Range"), "/")
		info.Size, err = strconv.ParseInt(size, 10, 64)
	case rng != "" || res.StatusCode != http.StatusOK:
		err = fmt.Errorf("status %s", res.Status)
	}
	if err != nil {
		res.Body.Close()
		return nil, bucket.Info{}, err
	}
	return res.Body, info, nil
}

func (b web) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	return b.ask(ctx, "GET", key, "", "")
}

func (b web) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, bucket.Info, error) {
	return b.ask(ctx, "GET", key, fmt.Sprintf("bytes=%d-", offset), version)
}

func (b web) Stat(ctx context.Context, key string) (bucket.Info, error) {
	body, info, err := b.ask(ctx, "HEAD", key, "", "")
	if err == nil {
		err = body.Close()
	}
	return info, err
}

// big makes a file of noise.
func big(t *testing.T, path string, size int64) download.Want {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(rand.NewChaCha8([32]byte{}), size)); err != nil {
		t.Fatal(err)
	}
	return download.Want{Size: size, SHA256: hex.EncodeToString(h.Sum(nil))}
}

// checkCuts downloads an object over a wire that is cut at 20 random places. What
// goes over it is at most 1.05 times the object.
func checkCuts(t *testing.T, w *wire.Wire, src download.Source, key string, want download.Want) {
	t.Helper()
	for range 20 {
		w.CutAt(rand.Int64N(want.Size))
	}
	f, err := os.Create(t.TempDir() + "/object")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	before := w.Down()
	if err := download.File(t.Context(), src, key, f, want, download.Options{}); err != nil {
		t.Fatal(err)
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil || n != want.Size || hex.EncodeToString(h.Sum(nil)) != want.SHA256 {
		t.Errorf("it holds %d other bytes (%v)", n, err)
	}
	sent := w.Down() - before
	t.Logf("cut %d times, %d bytes sent for %d: %.4f", w.Cuts(), sent, want.Size, float64(sent)/float64(want.Size))
	if w.Cuts() != 20 || float64(sent) > 1.05*float64(want.Size) {
		t.Errorf("cut %d times, %d bytes sent, want 20 times and at most 1.05 times %d", w.Cuts(), sent, want.Size)
	}
}

func TestTwentyCuts(t *testing.T) {
	dir := t.TempDir()
	want := big(t, dir+"/object", 160_000_000)
	server := httptest.NewServer(tagged(http.FileServer(http.Dir(dir))))
	defer server.Close()
	w := wire.New(t, server.Listener.Addr().String())
	checkCuts(t, w, web{"http://" + w.Addr}, "object", want)
}

// tagged gives every answer one version.
func tagged(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", `"v1"`)
		h.ServeHTTP(w, r)
	})
}

// Memory is measured in a process of its own: this test binary again.
const childURL = "SANDO_TEST_URL"

func TestMain(m *testing.M) {
	if url := os.Getenv(childURL); url != "" {
		fmt.Println(child(url))
		return
	}
	m.Run()
}

// child hashes half of an object, downloads the other, and returns its peak of resident memory in kB.
func child(url string) string {
	args := strings.Fields(os.Getenv("SANDO_TEST_WANT"))
	size, err := strconv.ParseInt(args[0], 10, 64)
	if err != nil {
		return err.Error()
	}
	f, err := os.OpenFile(args[2], os.O_RDWR, 0)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if err := download.File(context.Background(), web{url}, "object", f, download.Want{Size: size, SHA256: args[1]}, download.Options{}); err != nil {
		return err.Error()
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err.Error()
	}
	_, peak, _ := strings.Cut(string(status), "VmHWM:")
	peak, _, _ = strings.Cut(strings.TrimSpace(peak), " ")
	return peak
}

// TestMemory: hashing what is there and fetching the rest takes one buffer, whatever the
// size.
func TestMemory(t *testing.T) {
	testenv.NoRace(t, "it needs memory of its own")
	dir := t.TempDir()
	want := big(t, dir+"/object", 80_000_000)
	server := httptest.NewServer(tagged(http.FileServer(http.Dir(dir))))
	defer server.Close()
	half := make([]byte, want.Size/2)
	f, err := os.Open(dir + "/object")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := io.ReadFull(f, half); err != nil {
		t.Fatal(err)
	}
	begun := dir + "/begun"
	if err := os.WriteFile(begun, half, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childURL+"="+server.URL, fmt.Sprintf("SANDO_TEST_WANT=%d %s %s", want.Size, want.SHA256, begun))
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	peak, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("child: %s", out)
	}
	t.Logf("peak of resident memory: %d kB", peak)
	if peak > 40_000 {
		t.Errorf("peak of resident memory is %d kB, want at most 40000", peak)
	}
}

// TestSilentServer is a real server that accepts and says nothing.
func TestSilentServer(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/object", make([]byte, 100), 0o600); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(tagged(http.FileServer(http.Dir(dir))))
	defer server.Close()
	w := wire.New(t, server.Listener.Addr().String())
	held := w.HoldAt(0)
	f, err := os.Create(dir + "/copy")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	limits := download.Limits{Stall: 50 * time.Millisecond, Tries: 2}
	sum := sha256.Sum256(make([]byte, 100))
	want := download.Want{Size: 100, SHA256: hex.EncodeToString(sum[:])}
	err = download.File(t.Context(), web{"http://" + w.Addr}, "object", f, want, download.Options{Limits: limits})
	if err == nil || !strings.Contains(err.Error(), "given up after 2 breaks") || !strings.Contains(err.Error(), "no byte for 50ms") {
		t.Errorf("ended with %v", err)
	}
	<-held
	w.Release()
	if err := download.File(t.Context(), web{"http://" + w.Addr}, "object", f, want, download.Options{}); err != nil {
		t.Errorf("and then with %v", err)
	}
}
