// Package buckettest is the conformance suite of bucket.Bucket: what every
// implementation must do, run against a real one.
package buckettest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket"
)

// Races are the tests that need a server which decides between writers. Without one it
// cannot be decided: no number of reads and writes lets two parties agree who was first.
func Races() []string { return []string{"Race", "ReplaceRace", "CreateReplaceRace"} }

// Run runs the suite, less some tests by name. open returns an empty bucket: a new one at
// each call.
func Run(t *testing.T, open func(t *testing.T) bucket.Bucket, without ...string) {
	tests := []struct {
		name string
		run  func(*testing.T, bucket.Bucket)
	}{
		{"Whole", testWhole},
		{"FromStart", testFromStart},
		{"Missing", testMissing},
		{"Exist", testExist},
		{"Race", testRace},
		{"NeverPartial", testNeverPartial},
		{"Keys", testKeys},
		{"BadKeys", testBadKeys},
		{"BadBody", testBadBody},
		{"Cancelled", testCancelled},
		{"CancelledBody", testCancelledBody},
		{"CancelledRead", testCancelledRead},
		{"CloseEarly", testCloseEarly},
		{"ReadAll", testReadAll},
		{"Version", testVersion},
		{"Range", testRange},
		{"RangeChanged", testRangeChanged},
		{"Poll", testPoll},
		{"Replace", testReplace},
		{"ReplaceLimit", testReplaceLimit},
		{"ReplaceRace", testReplaceRace},
		{"ReplaceReaders", testReplaceReaders},
		{"CreateReplaceRace", testCreateReplaceRace},
	}
	for _, tt := range tests {
		if !slices.Contains(without, tt.name) {
			t.Run(tt.name, func(t *testing.T) { tt.run(t, open(t)) })
		}
	}
}

// noise returns n bytes that do not compress, the same for the same seed.
func noise(seed, n int) []byte {
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	b := make([]byte, n)
	r.Read(b)
	return b
}

func create(t *testing.T, b bucket.Bucket, key string, data []byte) {
	t.Helper()
	if err := b.Create(t.Context(), key, bytes.NewReader(data), int64(len(data))); err != nil {
		t.Fatalf("Create(%q): %v", key, err)
	}
}

// check reports an error unless the object key is there and holds exactly want.
func check(t *testing.T, b bucket.Bucket, key string, want []byte) {
	t.Helper()
	info, err := b.Stat(t.Context(), key)
	if err != nil || info.Size != int64(len(want)) {
		t.Errorf("Stat(%q) = %d, %v, want %d", key, info.Size, err, len(want))
	}
	r, info, err := b.Get(t.Context(), key)
	if err != nil {
		t.Errorf("Get(%q): %v", key, err)
		return
	}
	defer r.Close()
	if info.Size != int64(len(want)) {
		t.Errorf("Get(%q): size %d, want %d", key, info.Size, len(want))
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("Get(%q): %d bytes, %v, want %d other bytes", key, len(got), err, len(want))
	}
}

// checkMissing reports an error unless there is no object key, and one can be made.
func checkMissing(t *testing.T, b bucket.Bucket, key string) {
	t.Helper()
	if _, err := b.Stat(t.Context(), key); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stat(%q) = %v, want fs.ErrNotExist", key, err)
	}
	r, _, err := b.Get(t.Context(), key)
	if err == nil {
		r.Close()
	}
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Get(%q) = %v, want fs.ErrNotExist", key, err)
	}
}

func testWhole(t *testing.T, b bucket.Bucket) {
	for i, size := range []int{0, 1, 4095, 4096, 4097, 8 << 20} {
		key, data := fmt.Sprintf("app/releases/1.0/size-%d", size), noise(i, size)
		create(t, b, key, data)
		check(t, b, key, data)
	}
}

func testFromStart(t *testing.T, b bucket.Bucket) {
	data := noise(1, 1000)
	body := bytes.NewReader(data)
	if _, err := io.Copy(io.Discard, body); err != nil { // as after hashing it
		t.Fatal(err)
	}
	if err := b.Create(t.Context(), "k", body, 1000); err != nil {
		t.Fatal(err)
	}
	check(t, b, "k", data)
}

func testMissing(t *testing.T, b bucket.Bucket) {
	checkMissing(t, b, "a/b/c")
	create(t, b, "a/b/c", []byte("x"))
	for _, key := range []string{"a", "a/b", "a/b/c/d", "a/b/d", "a/b/C", "a/b/c "} {
		checkMissing(t, b, key)
	}
	check(t, b, "a/b/c", []byte("x"))
}

func testExist(t *testing.T, b bucket.Bucket) {
	create(t, b, "k", []byte("first"))
	for _, second := range []string{"other", "first", "", "longer than the first"} {
		err := b.Create(t.Context(), "k", strings.NewReader(second), int64(len(second)))
		if !errors.Is(err, fs.ErrExist) {
			t.Errorf("Create of %q over an object = %v, want fs.ErrExist", second, err)
		}
	}
	check(t, b, "k", []byte("first"))
}

func testRace(t *testing.T, b bucket.Bucket) {
	const creators = 16
	for round := range 4 {
		key := fmt.Sprintf("race/%d", round)
		errs := make([]error, creators)
		var wg sync.WaitGroup
		for i := range creators {
			wg.Go(func() {
				errs[i] = b.Create(t.Context(), key, bytes.NewReader(noise(i, 50_000+i)), int64(50_000+i))
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Errorf("creators %d and %d of %q both won", winner, i, key)
			case !errors.Is(err, fs.ErrExist):
				t.Errorf("creator %d of %q: %v, want fs.ErrExist", i, key, err)
			}
		}
		if winner < 0 {
			t.Fatalf("no creator of %q won", key)
		}
		check(t, b, key, noise(winner, 50_000+winner))
	}
}

// testNeverPartial reads while the object is being made: it is missing or whole.
func testNeverPartial(t *testing.T, b bucket.Bucket) {
	data := noise(1, 1<<20)
	var wg sync.WaitGroup
	defer wg.Wait()
	started, done := make(chan struct{}), make(chan struct{})
	wg.Go(func() {
		defer close(done)
		<-started
		if err := b.Create(t.Context(), "k", bytes.NewReader(data), int64(len(data))); err != nil {
			t.Error(err)
		}
	})
	for first := true; ; first = false {
		got, err := bucket.ReadAll(t.Context(), b, "k", 2<<20)
		if first {
			close(started)
		}
		if err == nil && !bytes.Equal(got, data) {
			t.Fatalf("read %d bytes of an object of %d", len(got), len(data))
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		select {
		case <-done:
			check(t, b, "k", data)
			return
		default:
		}
	}
}

func testKeys(t *testing.T, b bucket.Bucket) {
	keys := []string{
		"k",
		"mnw-0.9.4..0.9.5-linux-amd64-9c56cc51b374c3ba.delta",
		"1.0+build.7/~x",
		"a b/c  d ",
		"%2e%2e/%2F",
		"ä/日本語/😀",
		"-rf/--help",
		"x?y=1&z#w",
		"it's/\"quoted\"/a\\b/*",
		"trailing.",
		"A", "a",
		strings.Repeat("d/", 60) + "deep",
		strings.Repeat("x", bucket.MaxComponent),
		strings.Repeat(strings.Repeat("y", 127)+"/", 8)[:bucket.MaxKey-1] + "z",
	}
	for i, key := range keys {
		create(t, b, key, noise(i, 10+i))
	}
	for i, key := range keys {
		check(t, b, key, noise(i, 10+i))
	}
}

func testBadKeys(t *testing.T, b bucket.Bucket) {
	good := "a/b"
	create(t, b, good, []byte("x"))
	for _, key := range []string{
		"", "/", "/a/b", "a/b/", "a//b", ".", "..", "./a/b", "a/./b", "a/../b", "../a/b", "a/..",
		".hidden", "a/.b", "a/b\x00", "a/b\n", "a\x7f/b", "a/\x80", "a/\u202eb", "a/\u2028b", "\ufeffa/b",
		strings.Repeat("x", bucket.MaxComponent+1),
		strings.Repeat("y/", bucket.MaxKey/2) + "z",
	} {
		_, err := b.Stat(t.Context(), key)
		checkBadKey(t, "Stat", key, err)
		r, _, err := b.Get(t.Context(), key)
		if err == nil {
			r.Close()
		}
		checkBadKey(t, "Get", key, err)
		checkBadKey(t, "Create", key, b.Create(t.Context(), key, strings.NewReader("y"), 1))
		r, _, err = b.Range(t.Context(), key, 0, "")
		if err == nil {
			r.Close()
		}
		checkBadKey(t, "Range", key, err)
		_, _, err = b.Poll(t.Context(), key, "", 10)
		checkBadKey(t, "Poll", key, err)
		_, err = b.Replace(t.Context(), key, []byte("y"), "")
		checkBadKey(t, "Replace", key, err)
	}
	check(t, b, good, []byte("x"))
}

func checkBadKey(t *testing.T, op, key string, err error) {
	t.Helper()
	if !errors.Is(err, bucket.ErrKey) || reason.Of(err) != reason.Format {
		t.Errorf("%s(%q) = %v, want bucket.ErrKey with the reason format", op, key, err)
	}
}

// body is data that ends with err, or whose seeking fails with seekErr.
type body struct {
	*bytes.Reader
	err, seekErr error
}

func (b body) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && b.err != nil {
		err = b.err
	}
	return n, err
}

func (b body) Seek(offset int64, whence int) (int64, error) {
	if b.seekErr != nil {
		return 0, b.seekErr
	}
	return b.Reader.Seek(offset, whence)
}

func testBadBody(t *testing.T, b bucket.Bucket) {
	broken := errors.New("broken body")
	data := noise(1, 100_000)
	for name, c := range map[string]struct {
		body body
		size int
		want error
	}{
		"short":      {body{Reader: bytes.NewReader(data)}, len(data) + 1, nil},
		"long":       {body{Reader: bytes.NewReader(data)}, len(data) - 1, nil},
		"not empty":  {body{Reader: bytes.NewReader(data)}, 0, nil},
		"empty":      {body{Reader: bytes.NewReader(nil)}, 1, nil},
		"midway":     {body{Reader: bytes.NewReader(data[:70_000]), err: broken}, len(data), broken},
		"at the end": {body{Reader: bytes.NewReader(data), err: broken}, len(data), broken},
		"no seeking": {body{Reader: bytes.NewReader(data), seekErr: broken}, len(data), broken},
	} {
		t.Run(name, func(t *testing.T) {
			key := "bad/" + name
			err := b.Create(t.Context(), key, c.body, int64(c.size))
			switch {
			case err == nil || errors.Is(err, fs.ErrExist):
				t.Errorf("Create = %v, want a refusal", err)
			case c.want != nil && !errors.Is(err, c.want):
				t.Errorf("Create = %v, want the body's error", err)
			case c.want == nil && !strings.Contains(err.Error(), "size mismatch"):
				t.Errorf("Create = %v, want a size mismatch", err)
			}
			checkMissing(t, b, key)
			create(t, b, key, data)
			check(t, b, key, data)
		})
	}
}

func testCancelled(t *testing.T, b bucket.Bucket) {
	create(t, b, "there", []byte("x"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Create(ctx, "k", strings.NewReader("y"), 1); !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v, want context.Canceled", err)
	}
	if _, err := b.Stat(ctx, "there"); !errors.Is(err, context.Canceled) {
		t.Errorf("Stat = %v, want context.Canceled", err)
	}
	r, _, err := b.Get(ctx, "there")
	if err == nil {
		r.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Get = %v, want context.Canceled", err)
	}
	r, _, err = b.Range(ctx, "there", 0, "")
	if err == nil {
		r.Close()
	}
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Range = %v, want context.Canceled", err)
	}
	if _, _, err := b.Poll(ctx, "there", "", 10); !errors.Is(err, context.Canceled) {
		t.Errorf("Poll = %v, want context.Canceled", err)
	}
	if _, err := b.Replace(ctx, "k", []byte("y"), ""); !errors.Is(err, context.Canceled) {
		t.Errorf("Replace = %v, want context.Canceled", err)
	}
	checkMissing(t, b, "k")
}

// cancelling cancels a context once something was read from it.
type cancelling struct {
	*bytes.Reader
	cancel func()
}

func (c cancelling) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p[:min(len(p), 1000)])
	if c.Len() < 40_000 {
		c.cancel()
	}
	return n, err
}

func testCancelledBody(t *testing.T, b bucket.Bucket) {
	data := noise(1, 80_000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	err := b.Create(ctx, "k", cancelling{bytes.NewReader(data), cancel}, int64(len(data)))
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Create = %v, want context.Canceled", err)
	}
	checkMissing(t, b, "k")
	create(t, b, "k", data)
	check(t, b, "k", data)
}

func testCancelledRead(t *testing.T, b bucket.Bucket) {
	data := noise(1, 8<<20)
	create(t, b, "k", data)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	r, _, err := b.Get(ctx, "k")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, r); !errors.Is(err, context.Canceled) {
		t.Errorf("reading on after the end of the context = %v, want context.Canceled", err)
	}
}

func testCloseEarly(t *testing.T, b bucket.Bucket) {
	data := noise(1, 8<<20)
	create(t, b, "k", data)
	for _, n := range []int{0, 1, 100_000} {
		r, _, err := b.Get(t.Context(), "k")
		if err != nil {
			t.Fatal(err)
		}
		head := make([]byte, n)
		if _, err := io.ReadFull(r, head); err != nil || !bytes.Equal(head, data[:n]) {
			t.Errorf("first %d bytes: %v, or other bytes", n, err)
		}
		if err := r.Close(); err != nil {
			t.Errorf("Close after %d bytes: %v", n, err)
		}
	}
	check(t, b, "k", data)
}

func testReadAll(t *testing.T, b bucket.Bucket) {
	create(t, b, "k", []byte("12345"))
	create(t, b, "empty", nil)
	for _, max := range []int64{5, 6, 1 << 20} {
		if got, err := bucket.ReadAll(t.Context(), b, "k", max); string(got) != "12345" || err != nil {
			t.Errorf("ReadAll with %d = %q, %v", max, got, err)
		}
	}
	for _, max := range []int64{0, 4} {
		if got, err := bucket.ReadAll(t.Context(), b, "k", max); reason.Of(err) != reason.Limit {
			t.Errorf("ReadAll with %d = %q, %v, want the reason limit", max, got, err)
		}
	}
	if got, err := bucket.ReadAll(t.Context(), b, "empty", 0); len(got) != 0 || err != nil {
		t.Errorf("ReadAll of an empty object = %q, %v", got, err)
	}
	if _, err := bucket.ReadAll(t.Context(), b, "none", 5); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("ReadAll of no object = %v, want fs.ErrNotExist", err)
	}
}
