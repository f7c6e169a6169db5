package buckettest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket"
)

func replace(t *testing.T, b bucket.Bucket, key, data, version string) (now string) {
	t.Helper()
	now, err := b.Replace(t.Context(), key, []byte(data), version)
	if err != nil {
		t.Fatalf("Replace(%q, %q): %v", key, version, err)
	}
	if now == "" || now == version {
		t.Fatalf("Replace(%q, %q): version %q", key, version, now)
	}
	return now
}

// checkPoll reports an error unless the object key holds data and has the version now.
func checkPoll(t *testing.T, b bucket.Bucket, key, data, now string) {
	t.Helper()
	got, v, err := b.Poll(t.Context(), key, "", 100)
	if err != nil || string(got) != data || v != now {
		t.Errorf("Poll(%q) = %q, %q, %v, want %q, %q", key, got, v, err, data, now)
	}
}

// testVersion: every way to see an object names the same version.
func testVersion(t *testing.T, b bucket.Bucket) {
	for i, size := range []int{0, 100, bucket.MaxReplace, bucket.MaxReplace + 1, 1 << 20} {
		key := fmt.Sprintf("size-%d", size)
		create(t, b, key, noise(i, size))
		info, err := b.Stat(t.Context(), key)
		if err != nil || info.Version == "" {
			t.Fatalf("Stat(%q) = %+v, %v, want a version", key, info, err)
		}
		r, got, err := b.Get(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		if got != info {
			t.Errorf("Get(%q) = %+v, Stat says %+v", key, got, info)
		}
		if size == 0 {
			continue // has no range
		}
		r, got, err = b.Range(t.Context(), key, 1, info.Version)
		if err != nil {
			t.Fatal(err)
		}
		r.Close()
		if got != info {
			t.Errorf("Range(%q) = %+v, Stat says %+v", key, got, info)
		}
	}
}

func testRange(t *testing.T, b bucket.Bucket) {
	for _, size := range []int64{1, 1000, 3 << 20} {
		key, data := fmt.Sprintf("size-%d", size), noise(1, int(size))
		create(t, b, key, data)
		info, err := b.Stat(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		for _, offset := range []int64{0, 1, size / 2, size - 1} {
			if offset < size {
				checkRange(t, b, key, offset, "", data)
				checkRange(t, b, key, offset, info.Version, data)
			}
		}
		for _, offset := range []int64{size, size + 1, size * 3, -1} {
			r, _, err := b.Range(t.Context(), key, offset, info.Version)
			if err == nil {
				r.Close()
			}
			if !errors.Is(err, bucket.ErrRange) {
				t.Errorf("Range(%q, %d) = %v, want bucket.ErrRange", key, offset, err)
			}
		}
	}
	create(t, b, "empty", nil)
	if _, _, err := b.Range(t.Context(), "empty", 0, ""); !errors.Is(err, bucket.ErrRange) {
		t.Errorf("Range of an empty object = %v, want bucket.ErrRange", err)
	}
	if _, _, err := b.Range(t.Context(), "none", 0, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Range of no object = %v, want fs.ErrNotExist", err)
	}
}

func checkRange(t *testing.T, b bucket.Bucket, key string, offset int64, version string, whole []byte) {
	t.Helper()
	r, info, err := b.Range(t.Context(), key, offset, version)
	if err != nil {
		t.Errorf("Range(%q, %d, %q): %v", key, offset, version, err)
		return
	}
	defer r.Close()
	if info.Size != int64(len(whole)) {
		t.Errorf("Range(%q, %d): size %d, want that of the whole, %d", key, offset, info.Size, len(whole))
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, whole[offset:]) {
		t.Errorf("Range(%q, %d): %d bytes, %v, want %d other bytes", key, offset, len(got), err, len(whole)-int(offset))
	}
}

// testRangeChanged: a range never continues another version.
func testRangeChanged(t *testing.T, b bucket.Bucket) {
	one := replace(t, b, "k", "one object", "")
	checkRange(t, b, "k", 4, one, []byte("one object"))
	two := replace(t, b, "k", "two object", one)
	for _, offset := range []int64{0, 4, 9} {
		r, _, err := b.Range(t.Context(), "k", offset, one)
		if err == nil {
			r.Close()
		}
		if !errors.Is(err, bucket.ErrChanged) {
			t.Errorf("Range of a version that is gone = %v, want bucket.ErrChanged", err)
		}
	}
	checkRange(t, b, "k", 4, two, []byte("two object"))
	checkRange(t, b, "k", 4, "", []byte("two object"))
}

func testPoll(t *testing.T, b bucket.Bucket) {
	if _, _, err := b.Poll(t.Context(), "k", "", 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Poll of no object = %v, want fs.ErrNotExist", err)
	}
	one := replace(t, b, "k", "12345", "")
	checkPoll(t, b, "k", "12345", one)
	if _, _, err := b.Poll(t.Context(), "none", one, 100); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Poll of no object with a version = %v, want fs.ErrNotExist", err)
	}
	if got, now, err := b.Poll(t.Context(), "k", one, 5); !errors.Is(err, bucket.ErrSame) || len(got) != 0 || now != one {
		t.Errorf("Poll of the same version = %q, %q, %v, want bucket.ErrSame", got, now, err)
	}
	two := replace(t, b, "k", "54321", one)
	if got, now, err := b.Poll(t.Context(), "k", one, 5); err != nil || string(got) != "54321" || now != two {
		t.Errorf("Poll of a new version = %q, %q, %v, want %q", got, now, err, two)
	}
	for _, max := range []int64{0, 4} {
		if got, _, err := b.Poll(t.Context(), "k", one, max); reason.Of(err) != reason.Limit || len(got) != 0 {
			t.Errorf("Poll with %d = %q, %v, want the reason limit", max, got, err)
		}
	}
	create(t, b, "empty", nil)
	if got, _, err := b.Poll(t.Context(), "empty", "", 0); err != nil || len(got) != 0 {
		t.Errorf("Poll of an empty object = %q, %v", got, err)
	}
}

func testReplace(t *testing.T, b bucket.Bucket) {
	one := replace(t, b, "a/k", "one", "")
	two := replace(t, b, "a/k", "number two", one)
	checkPoll(t, b, "a/k", "number two", two)
	for name, c := range map[string]struct{ key, version string }{
		"the version before": {"a/k", one},
		"none":               {"a/k", ""},
		"of nothing":         {"a/none", two},
	} {
		if _, err := b.Replace(t.Context(), c.key, []byte("x"), c.version); !errors.Is(err, bucket.ErrChanged) {
			t.Errorf("Replace with %s = %v, want bucket.ErrChanged", name, err)
		}
	}
	checkMissing(t, b, "a/none")
	checkPoll(t, b, "a/k", "number two", two)
	if err := b.Create(t.Context(), "a/k", bytes.NewReader(nil), 0); !errors.Is(err, fs.ErrExist) {
		t.Errorf("Create over it = %v, want fs.ErrExist", err)
	}
	three := replace(t, b, "a/k", "", two)
	checkPoll(t, b, "a/k", "", three)
	create(t, b, "created", []byte("x"))
	if _, err := b.Replace(t.Context(), "created", []byte("y"), ""); !errors.Is(err, bucket.ErrChanged) {
		t.Errorf("Replace of nothing over an object = %v, want bucket.ErrChanged", err)
	}
	check(t, b, "created", []byte("x"))
}

func testReplaceLimit(t *testing.T, b bucket.Bucket) {
	data := string(noise(1, bucket.MaxReplace))
	one := replace(t, b, "k", data, "")
	if _, err := b.Replace(t.Context(), "k", append([]byte(data), 'x'), one); reason.Of(err) != reason.Limit {
		t.Errorf("Replace by too much = %v, want the reason limit", err)
	}
	check(t, b, "k", []byte(data))
}

// testReplaceRace: of several writers that saw one version, exactly one wins.
func testReplaceRace(t *testing.T, b bucket.Bucket) {
	const writers = 12
	version := ""
	for round := range 6 {
		now, errs := make([]string, writers), make([]error, writers)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() {
				now[i], errs[i] = b.Replace(t.Context(), "k", fmt.Appendf(nil, "round %d writer %d", round, i), version)
			})
		}
		wg.Wait()
		winner := -1
		for i, err := range errs {
			switch {
			case err == nil && winner < 0:
				winner = i
			case err == nil:
				t.Errorf("writers %d and %d both replaced %q", winner, i, version)
			case !errors.Is(err, bucket.ErrChanged):
				t.Errorf("writer %d: %v, want bucket.ErrChanged", i, err)
			}
		}
		if winner < 0 {
			t.Fatalf("nobody replaced %q", version)
		}
		version = now[winner]
		checkPoll(t, b, "k", fmt.Sprintf("round %d writer %d", round, winner), version)
	}
}

// testReplaceReaders reads while the object is being replaced: it is the old or the
// new one, whole, and its version is that of its bytes.
func testReplaceReaders(t *testing.T, b bucket.Bucket) {
	const size, rounds = 20_000, 30
	versions := map[string]byte{} // the byte that fills each version
	var mu sync.Mutex
	data := func(i int) []byte { return bytes.Repeat([]byte{byte('A' + i)}, size+i) }
	version, err := b.Replace(t.Context(), "k", data(0), "")
	if err != nil {
		t.Fatal(err)
	}
	versions[version] = 'A'
	done := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		defer close(done)
		for i := 1; i < rounds; i++ {
			now, err := b.Replace(t.Context(), "k", data(i), version)
			if err != nil {
				t.Errorf("round %d: %v", i, err)
				return
			}
			mu.Lock()
			versions[now] = byte('A' + i)
			mu.Unlock()
			version = now
		}
	})
	seen := map[string]byte{}
	for reading := true; reading; {
		select {
		case <-done:
			reading = false
		default:
		}
		got, now, err := b.Poll(t.Context(), "k", "", 2*size)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) == 0 || !bytes.Equal(got, data(int(got[0]-'A'))) {
			t.Fatalf("Poll returned %d bytes, which nobody wrote", len(got))
		}
		seen[now] = got[0]
	}
	for v, c := range seen {
		if versions[v] != c {
			t.Errorf("version %q was given with the bytes of %c, want %c", v, c, versions[v])
		}
	}
}

// testCreateReplaceRace: Create and Replace of nothing are of one kind.
func testCreateReplaceRace(t *testing.T, b bucket.Bucket) {
	for round := range 8 {
		key := fmt.Sprintf("race/%d", round)
		var cerr, rerr error
		var wg sync.WaitGroup
		wg.Go(func() { cerr = b.Create(t.Context(), key, bytes.NewReader([]byte("created")), 7) })
		wg.Go(func() { _, rerr = b.Replace(t.Context(), key, []byte("replaced"), "") })
		wg.Wait()
		switch {
		case cerr == nil && errors.Is(rerr, bucket.ErrChanged):
			check(t, b, key, []byte("created"))
		case rerr == nil && errors.Is(cerr, fs.ErrExist):
			check(t, b, key, []byte("replaced"))
		default:
			t.Errorf("Create = %v, Replace = %v, want one to win", cerr, rerr)
		}
	}
}
