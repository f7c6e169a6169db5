package download

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/bucket"
)

func noise(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func wanted(data []byte) Want {
	sum := sha256.Sum256(data)
	return Want{int64(len(data)), hex.EncodeToString(sum[:])}
}

// answer is what the fake bucket does when it is asked for an object once.
type answer struct {
	object  []byte
	version string
	err     error         // instead of any answer
	ranges  error         // instead of an answer to a range
	silent  bool          // instead of any answer, and of an end
	lie     int64         // added to the size
	cut     int           // bytes until the break; -1 none
	end     error         // what the break is; nil: io.ErrUnexpectedEOF
	hang    bool          // nothing more comes at the break
	pace    time.Duration // for each bite
	bite    int           // bytes at a time; 0: any number
}

func honest(data []byte) answer { return answer{object: data, version: "v1", cut: -1} }

func (a answer) cutAt(n int) answer { a.cut = n; return a }

func (a answer) paced(bite int, pace time.Duration) answer { a.bite, a.pace = bite, pace; return a }

// fake is a bucket with one object. Each Get and Range takes the next answer; the last
// one is given again and again. Stat says what the next of them would.
type fake struct {
	answers []answer
	asked   []string // "get", "range OFFSET VERSION", "stat"
	sent    int64
}

func (f *fake) next(ctx context.Context, asked string) (answer, error) {
	f.asked = append(f.asked, asked)
	a := f.answers[0]
	if a.silent {
		<-ctx.Done()
		return a, ctx.Err()
	}
	return a, a.err
}

func (f *fake) used() {
	if len(f.answers) > 1 {
		f.answers = f.answers[1:]
	}
}

func (a answer) info() bucket.Info {
	return bucket.Info{Size: int64(len(a.object)) + a.lie, Version: a.version}
}

func (f *fake) Stat(ctx context.Context, _ string) (bucket.Info, error) {
	a, err := f.next(ctx, "stat")
	return a.info(), err
}

func (f *fake) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	return f.serve(ctx, "get", 0, "")
}

func (f *fake) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, bucket.Info, error) {
	return f.serve(ctx, fmt.Sprintf("range %d %s", offset, version), offset, version)
}

func (f *fake) serve(ctx context.Context, asked string, offset int64, version string) (io.ReadCloser, bucket.Info, error) {
	a, err := f.next(ctx, asked)
	defer f.used()
	switch {
	case err != nil:
		return nil, bucket.Info{}, err
	case offset > 0 && a.ranges != nil:
		return nil, bucket.Info{}, a.ranges
	case version != "" && version != a.version:
		return nil, bucket.Info{}, bucket.ErrChanged
	case offset > int64(len(a.object)):
		return nil, bucket.Info{}, bucket.ErrRange
	}
	return &served{f: f, ctx: ctx, answer: a, r: bytes.NewReader(a.object[offset:])}, a.info(), nil
}

// served is an object on its way.
type served struct {
	answer
	f    *fake
	ctx  context.Context
	r    *bytes.Reader
	sent int
}

func (s *served) Close() error { return nil }

func (s *served) Read(p []byte) (int, error) {
	if s.cut >= 0 {
		p = p[:min(len(p), s.cut-s.sent)]
		if len(p) == 0 && s.hang {
			<-s.ctx.Done()
		}
	}
	if s.bite > 0 {
		p = p[:min(len(p), s.bite)]
	}
	if s.pace > 0 {
		select {
		case <-s.ctx.Done():
		case <-time.After(s.pace):
		}
	}
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	if len(p) == 0 && s.cut >= 0 {
		if s.end != nil {
			return 0, s.end
		}
		return 0, io.ErrUnexpectedEOF
	}
	n, err := s.r.Read(p)
	s.sent += n
	s.f.sent += int64(n)
	return n, err
}

// result is how a download by the fake ended.
type result struct {
	err      error
	left     []byte // in the file
	progress int64
	took     time.Duration
}

func (r result) reason() reason.Code { return reason.Of(r.err) }

// run downloads into a file that holds the bytes before.
func run(t *testing.T, ctx context.Context, f *fake, before []byte, want Want) result {
	t.Helper()
	file, err := os.OpenFile(t.TempDir()+"/object", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write(before); err != nil {
		t.Fatal(err)
	}
	var r result
	begin := time.Now()
	r.err = File(ctx, f, "key", file, want, Options{Progress: func(n int64) { r.progress += n }})
	r.took = time.Since(begin)
	if r.err == nil { // it is at its start
		if r.left, err = io.ReadAll(file); err != nil {
			t.Fatal(err)
		}
	}
	all, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if r.err == nil && !bytes.Equal(all, r.left) {
		t.Errorf("the file is not at its start: %d bytes of %d are ahead", len(r.left), len(all))
	}
	r.left = all
	return r
}
