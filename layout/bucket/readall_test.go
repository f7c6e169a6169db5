package bucket

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"makenot.work/sando/internal/reason"
)

// slow is a bucket whose objects arrive a byte at a time.
type slow struct {
	Bucket
	first, each time.Duration
}

func (s *slow) Get(ctx context.Context, _ string) (io.ReadCloser, Info, error) {
	if err := s.wait(ctx, s.first); err != nil {
		return nil, Info{}, err
	}
	return io.NopCloser(&trickle{s, ctx, strings.NewReader("12345")}), Info{Size: 5}, nil
}

func (s *slow) wait(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

type trickle struct {
	*slow
	ctx context.Context
	r   io.Reader
}

func (s *trickle) Read(p []byte) (int, error) {
	if err := s.wait(s.ctx, s.each); err != nil {
		return 0, err
	}
	return s.r.Read(p[:1])
}

// TestReadAllEnds: a small object that does not arrive is "io" after a minute.
func TestReadAllEnds(t *testing.T) {
	for name, c := range map[string]struct {
		bucket slow
		late   bool
	}{
		"in time":                {slow{first: 10 * time.Second, each: 8 * time.Second}, false},
		"silence":                {slow{first: 24 * time.Hour}, true},
		"silence behind headers": {slow{each: 24 * time.Hour}, true},
		"too slow":               {slow{first: 10 * time.Second, each: 11 * time.Second}, true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				data, err := ReadAll(t.Context(), &c.bucket, "k", 5)
				took := time.Since(begin)
				switch {
				case !c.late && (string(data) != "12345" || err != nil):
					t.Errorf("got %q, %v after %s", data, err, took)
				case c.late && (reason.Of(err) != reason.IO || !strings.Contains(err.Error(), `object "k": it did not arrive within 1m0s`) || took != time.Minute):
					t.Errorf("got %q, %v after %s, want io after a minute", data, err, took)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := ReadAll(ctx, &c.bucket, "k", 5); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("with an end of the caller's own: %v", err)
				}
			})
		})
	}
}
