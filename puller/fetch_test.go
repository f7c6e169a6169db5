package puller

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
)

// fetching returns the names in fetch/.
func (w *world) fetching() (names []string) {
	w.t.Helper()
	entries, err := os.ReadDir(w.puller.dir.Path("fetch"))
	must(w.t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// breaking is a bucket whose tarballs stop coming after some bytes, until it is mended.
type breaking struct {
	bucket.Bucket
	after int64        // of each opening; -1 never
	broke func() error // what happens then; an error ends the reading
	sent  atomic.Int64
}

func (b *breaking) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	r, info, err := b.Bucket.Get(ctx, key)
	return b.wrap(key, r, info, err)
}

func (b *breaking) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, bucket.Info, error) {
	r, info, err := b.Bucket.Range(ctx, key, offset, version)
	return b.wrap(key, r, info, err)
}

func (b *breaking) wrap(key string, r io.ReadCloser, info bucket.Info, err error) (io.ReadCloser, bucket.Info, error) {
	if err != nil || !strings.HasSuffix(key, ".tar.zst") {
		return r, info, err
	}
	return &breakingReader{r, b, 0}, info, nil
}

type breakingReader struct {
	io.ReadCloser
	b *breaking
	n int64
}

func (r *breakingReader) Read(p []byte) (int, error) {
	if r.b.after >= 0 {
		p = p[:min(int64(len(p)), r.b.after-r.n)]
		if len(p) == 0 {
			if err := r.b.broke(); err != nil {
				return 0, err
			}
		}
	}
	n, err := r.ReadCloser.Read(p)
	r.n += int64(n)
	r.b.sent.Add(int64(n))
	return n, err
}

// begun returns a world in which half of the tarball of 2.0 was fetched before the puller
// was told to stop.
func begun(t *testing.T) (w *world, b *breaking, size int64) {
	t.Helper()
	w = two(t)
	info, err := os.Stat(w.find("2.0", func(n string) bool { return strings.HasSuffix(n, ".tar.zst") }))
	must(t, err)
	w.advance("2.0", nil)
	ctx, cancel := context.WithCancel(t.Context())
	b = &breaking{Bucket: w.puller.bucket, after: info.Size() / 2, broke: func() error { cancel(); return nil }}
	w.puller.bucket = b
	r, err := w.puller.Step(ctx, Options{})
	if !errors.Is(err, context.Canceled) || r.Reason != reason.IO || !strings.Contains(r.Message, "the next attempt goes on from there") {
		t.Fatalf("ended %q: %v", r.Reason, err)
	}
	w.check()
	w.runs("1.0")
	if n := w.fetching(); len(n) != 1 || !strings.HasPrefix(n[0], "mnw-2.0-") {
		t.Fatalf("fetch holds %v", n)
	}
	b.after = -1
	return w, b, info.Size()
}

// TestFetchGoesOn: what arrived before a puller was stopped is not transferred again.
func TestFetchGoesOn(t *testing.T) {
	w, b, size := begun(t)
	w.step(reason.Updated)
	w.runs("2.0")
	if got := b.sent.Load(); got != size {
		t.Errorf("%d bytes were sent, want %d", got, size)
	}
}

// TestFetchBrokenOff: the object goes away in the middle and comes back.
func TestFetchBrokenOff(t *testing.T) {
	w, b, size := begun(t)
	b.after, b.broke = 10, func() error { return fs.ErrNotExist }
	for range 3 {
		if r := w.step(reason.IO); !strings.Contains(r.Message, "it is not in the storage") {
			t.Errorf("message %q", r.Message)
		}
	}
	w.runs("1.0")
	b.after = -1
	w.step(reason.Updated)
	if got := b.sent.Load(); got != size {
		t.Errorf("%d bytes were sent, want %d", got, size)
	}
}

// TestFetchWithoutManifest: while the storage does not answer for the manifest, what was
// fetched stays.
func TestFetchWithoutManifest(t *testing.T) {
	w, b, size := begun(t)
	file := w.object(w.key("2.0", layout.ManifestName(w.digests["2.0"])))
	must(t, os.Rename(file, file+".later"))
	w.step(reason.IO)
	must(t, os.Rename(file+".later", file))
	w.step(reason.Updated)
	if got := b.sent.Load(); got != size {
		t.Errorf("%d bytes were sent, want %d", got, size)
	}
}

// TestFetchedGarbage: whatever a crash made of the beginning costs one more transfer.
func TestFetchedGarbage(t *testing.T) {
	for name, spoil := range map[string]func(file string, size int64) error{
		"zeros": func(file string, size int64) error { return os.WriteFile(file, make([]byte, size/2), 0o600) },
		"all":   func(file string, size int64) error { return os.WriteFile(file, make([]byte, size), 0o600) },
		"more":  func(file string, size int64) error { return os.WriteFile(file, make([]byte, 10*size), 0o600) },
		"link": func(file string, _ int64) error {
			return errors.Join(os.Remove(file), os.Symlink("/etc/passwd", file))
		},
		"directory": func(file string, _ int64) error {
			return errors.Join(os.Remove(file), os.MkdirAll(file+"/x", 0o700))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, b, size := begun(t)
			must(t, spoil(w.puller.dir.Path("fetch", w.fetching()[0]), size))
			w.step(reason.Updated)
			w.runs("2.0")
			if got := b.sent.Load(); got > 2*size {
				t.Errorf("%d bytes were sent for an object of %d", got, size)
			}
		})
	}
}

// TestFetchedDropped: nothing is left of what is not wanted any more; what only waits is
// gone on with.
func TestFetchedDropped(t *testing.T) {
	t.Run("another target, on disk", func(t *testing.T) {
		w, _, _ := begun(t)
		w.advance("1.0", nil)
		w.step(reason.Current)
	})
	t.Run("another target, to be fetched", func(t *testing.T) {
		w, b, size := begun(t)
		w.publish("3.0", "")
		w.advance("3.0", nil)
		w.step(reason.Updated)
		w.advance("2.0", nil)
		w.step(reason.Updated)
		if b.sent.Load() < size/2+2*size-size/2 {
			t.Error("2.0 was not fetched anew")
		}
	})
	t.Run("another target, that fails", func(t *testing.T) {
		w, b, _ := begun(t)
		w.publish("3.0", "")
		w.advance("3.0", nil)
		b.after, b.broke = 10, func() error { return fs.ErrNotExist }
		w.step(reason.IO)
		if n := w.fetching(); len(n) != 1 || !strings.HasPrefix(n[0], "mnw-3.0-") {
			t.Errorf("fetch holds %v", n)
		}
	})
	t.Run("refused", func(t *testing.T) {
		w, _, _ := begun(t)
		file := w.find("2.0", func(n string) bool { return strings.HasSuffix(n, ".tar.zst") })
		good, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, flip(good), 0o644))
		w.step(reason.Mismatch)
	})
	t.Run("pin to what runs", func(t *testing.T) {
		w, _, _ := begun(t)
		w.pin("1.0", reason.Pinned)
	})
	t.Run("halted", func(t *testing.T) {
		w, b, size := begun(t)
		w.advance("2.0", func(c *channels.Channel) { c.Rollout = 0 })
		w.step(reason.Halted)
		w.advance("2.0", nil)
		w.step(reason.Updated)
		if got := b.sent.Load(); got != size {
			t.Errorf("%d bytes were sent, want %d", got, size)
		}
	})
}

// TestOrderEndsAFetch: the emergency exit does not wait for a download that hangs.
func TestOrderEndsAFetch(t *testing.T) {
	for name, c := range map[string]struct {
		pinned bool
		order  func(d *node.Dir) error
		want   reason.Code
	}{
		"a pin": {false, func(d *node.Dir) error {
			return d.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()})
		}, reason.Pinned},
		"another pin": {true, func(d *node.Dir) error {
			return d.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli() + 1})
		}, reason.Pinned},
		"no pin any more": {true, (*node.Dir).RemovePin, reason.Current},
	} {
		t.Run(name, func(t *testing.T) {
			w, b, _ := begun(t)
			if c.pinned {
				w.advance("1.0", nil)
				b.after, b.broke = 10, func() error { return fs.ErrNotExist }
				w.pin("2.0", reason.IO)
				w.step(reason.IO) // the channel is known
			}
			restarts := w.app.count()
			hangs, free := make(chan struct{}), make(chan struct{})
			b.after, b.broke = 10, func() error {
				close(hangs)
				<-free // until the puller ends it
				return errors.New("ended")
			}
			b.Bucket = &freeing{b.Bucket, free}
			go func() {
				<-hangs
				if err := c.order(w.puller.dir); err != nil {
					t.Error(err)
				}
			}()
			w.step(c.want)
			w.runs("1.0")
			if w.app.count() != restarts {
				t.Error("something was restarted")
			}
		})
	}
}

// freeing is a bucket that says when a reader's context has ended.
type freeing struct {
	bucket.Bucket
	free chan struct{}
}

func (f *freeing) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, bucket.Info, error) {
	context.AfterFunc(ctx, func() { close(f.free) })
	return f.Bucket.Range(ctx, key, offset, version)
}

// TestRefusedTarball: one that is not what its manifest says is not transferred in every
// cycle; who mends it, or orders anew, waits for nothing.
func TestRefusedTarball(t *testing.T) {
	spoilt := func(t *testing.T) (w *world, sent func() int64, mend func()) {
		t.Helper()
		w = two(t)
		file := w.find("2.0", func(n string) bool { return strings.HasSuffix(n, ".tar.zst") })
		good, err := os.ReadFile(file)
		must(t, err)
		must(t, os.WriteFile(file, flip(good), 0o644))
		b := &breaking{Bucket: w.puller.bucket, after: -1}
		w.puller.bucket = b
		w.advance("2.0", nil)
		w.step(reason.Mismatch)
		w.runs("1.0")
		if got := b.sent.Load(); got != int64(len(good)) {
			t.Fatalf("%d bytes were sent, want %d", got, len(good))
		}
		return w, func() int64 { return b.sent.Swap(0) / int64(len(good)) }, func() { must(t, os.WriteFile(file, good, 0o644)) }
	}
	t.Run("stays", func(t *testing.T) {
		w, sent, mend := spoilt(t)
		now := time.Now()
		w.puller.now = func() time.Time { return now }
		sent()
		for i, wait := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 32 * time.Minute, time.Hour, time.Hour} {
			now = now.Add(2 * time.Second) // times on disk have whole seconds
			for range 2 {
				if r := w.step(reason.Mismatch); !strings.Contains(r.Message, "is not fetched again before") || !strings.Contains(r.Message, "sha256 is ") {
					t.Fatalf("message %q", r.Message)
				}
			}
			s, err := w.puller.Status(t.Context())
			must(t, err)
			if s.Refused == nil || s.Refused.Count != i+1 || s.Reason != reason.Mismatch || sent() != 0 {
				t.Fatalf("after %d refusals status says %+v, %s", i+1, s.Refused, s.Message)
			}
			now = now.Add(wait - 10*time.Second)
			if w.step(reason.Mismatch); sent() != 0 {
				t.Fatalf("fetched again before %s", wait)
			}
			now = now.Add(10 * time.Second)
			if w.step(reason.Mismatch); sent() != 1 {
				t.Fatalf("not fetched again after %s", wait)
			}
		}
		mend()
		w.puller.now = time.Now
		w.step(reason.Updated)
		w.runs("2.0")
		if s, err := w.puller.Status(t.Context()); err != nil || s.Refused != nil {
			t.Errorf("status says %+v (%v)", s.Refused, err)
		}
	})
	for name, again := range map[string]func(w *world){
		"by puller --now": func(w *world) {
			w.demand(reason.Mismatch)(w.puller.Step(w.t.Context(), Options{Now: true}))
		},
		"by a new channel state": func(w *world) { w.advance("2.0", nil); w.step(reason.Mismatch) },
		"by a pin":               func(w *world) { w.pin("2.0", reason.Mismatch) },
		"when the clock was wrong": func(w *world) {
			now := time.Now().Add(-24 * time.Hour)
			w.puller.now = func() time.Time { return now }
			w.step(reason.Mismatch)
			w.puller.now = time.Now
		},
	} {
		t.Run(name, func(t *testing.T) {
			w, sent, mend := spoilt(t)
			sent()
			if again(w); sent() != 1 {
				t.Error("it was not fetched again")
			}
			mend()
			w.step(reason.Updated)
			w.runs("2.0")
		})
	}
}

// TestMissing: what is on disk already needs no room.
func TestMissing(t *testing.T) {
	b := layout.Bundle{Size: 1000, Unpacked: 5000, Entries: 3}
	whole, inodes := missing(b, 0)
	if whole != 6000+19*4096 || inodes != 19 {
		t.Errorf("needs %d bytes and %d inodes", whole, inodes)
	}
	if rest, _ := missing(b, 400); rest != whole-400 {
		t.Errorf("with 400 bytes there it needs %d, want %d", rest, whole-400)
	}
}
