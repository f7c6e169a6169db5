package puller

import (
	"context"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/mirror"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// requests counts what is asked of a bucket.
type requests struct {
	bucket.Bucket
	n atomic.Int64
}

func (r *requests) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	r.n.Add(1)
	return r.Bucket.Get(ctx, key)
}

func (r *requests) Range(ctx context.Context, key string, offset int64, version string) (io.ReadCloser, bucket.Info, error) {
	r.n.Add(1)
	return r.Bucket.Range(ctx, key, offset, version)
}

func (r *requests) Stat(ctx context.Context, key string) (bucket.Info, error) {
	r.n.Add(1)
	return r.Bucket.Stat(ctx, key)
}

func (r *requests) Poll(ctx context.Context, key, version string, max int64) ([]byte, string, error) {
	r.n.Add(1)
	return r.Bucket.Poll(ctx, key, version, max)
}

// mirrored is a world whose node follows the bucket and runs 1.0; 2.0 is published.
func mirrored(t *testing.T) (*world, *requests) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.publish("2.0", "")
	w.puller.cfg.Channels.Source, w.puller.cfg.Channels.Repo = sourceBucket, ""
	r := &requests{Bucket: w.bucket}
	w.puller.bucket = r
	w.step(reason.Stale)
	w.show("1.0", nil)
	w.step(reason.Updated)
	w.runs("1.0")
	return w, r
}

func (w *world) mirror() mirror.Mirror { return mirror.Mirror{Bucket: w.bucket, App: "mnw"} }

// show mirrors a state of tier b that names version, and returns its bytes.
func (w *world) show(version string, change func(*channels.Channel)) []byte {
	w.t.Helper()
	doc, sigs := w.state(version, change)
	w.putState(doc, sigs)
	return doc
}

func (w *world) putState(doc []byte, sigs signing.Signatures) {
	w.t.Helper()
	_, err := w.mirror().PutChannel(w.t.Context(), "b", signing.Signed{Doc: doc, Sigs: sigs}, w.trust, func() error { return nil })
	must(w.t, err)
}

// channelObject is the file of the channel object.
func (w *world) channelObject() string { return w.object(layout.ChannelKey("mnw", "b")) }

func TestMirrorIdle(t *testing.T) {
	w, r := mirrored(t)
	for range 3 {
		before := r.n.Load()
		w.step(reason.Current)
		if n := r.n.Load() - before; n != 1 {
			t.Errorf("an idle cycle asks %d times, want once", n)
		}
	}
	// A puller that was started anew knows what the last one saw.
	cfg := *w.puller.cfg
	p, err := New(t.Context(), &cfg, w.puller.log, nil)
	must(t, err)
	p.bucket, p.service = r, w.app
	w.puller = p
	before := r.n.Load()
	w.step(reason.Current)
	if n := r.n.Load() - before; n != 1 {
		t.Errorf("the first cycle of a new process asks %d times, want once", n)
	}
	w.show("2.0", nil)
	w.step(reason.Updated)
	w.runs("2.0")
	if _, err := os.Stat(w.puller.dir.Path("git")); err == nil {
		if names, _ := os.ReadDir(w.puller.dir.Path("git")); len(names) > 0 {
			t.Errorf("a copy of the channel repo was made: %v", names)
		}
	}
}

// TestMirrorLooksAgain: what was refused is looked at in each cycle, with the same outcome
// until it is mended.
func TestMirrorLooksAgain(t *testing.T) {
	for _, test := range []struct {
		name  string
		want  reason.Code
		words string
		spoil func(t *testing.T, w *world) (mend func())
	}{
		{"older", reason.Stale, "`builder mirror b` brings it up to date", func(t *testing.T, w *world) func() {
			old, err := os.ReadFile(w.channelObject())
			must(t, err)
			now := w.show("1.0", nil)
			w.step(reason.Current)
			must(t, os.WriteFile(w.channelObject(), old, 0o644))
			return func() { must(t, os.WriteFile(w.channelObject(), now, 0o644)) }
		}},
		{"signature missing", reason.Signature, "wait, or run `builder mirror`", func(t *testing.T, w *world) func() {
			doc, sigs := w.state("1.0", nil)
			w.putState(doc, nil)
			return func() { w.putState(doc, sigs) }
		}},
		{"other bytes under the counter", reason.Replay, "two states have the counter", func(t *testing.T, w *world) func() {
			was, err := os.ReadFile(w.channelObject())
			must(t, err)
			c, err := channels.ParseChannel(was)
			must(t, err)
			c.Rollout = 0
			doc, sigs := w.sign(c, w.channel)
			for kid, sig := range sigs {
				w.put(layout.ChannelSignatureKey("mnw", "b", layout.Sum(doc), kid), sig)
			}
			must(t, os.WriteFile(w.channelObject(), doc, 0o644))
			return func() { must(t, os.WriteFile(w.channelObject(), was, 0o644)) }
		}},
		{"garbage", reason.Signature, "0 valid, 1 needed", func(t *testing.T, w *world) func() {
			was, err := os.ReadFile(w.channelObject())
			must(t, err)
			must(t, os.WriteFile(w.channelObject(), []byte("null"), 0o644))
			return func() { must(t, os.WriteFile(w.channelObject(), was, 0o644)) }
		}},
		{"too long", reason.Limit, "more than 16384 bytes", func(t *testing.T, w *world) func() {
			was, err := os.ReadFile(w.channelObject())
			must(t, err)
			must(t, os.WriteFile(w.channelObject(), append(was, make([]byte, layout.MaxChannel)...), 0o644))
			return func() { must(t, os.WriteFile(w.channelObject(), was, 0o644)) }
		}},
		{"trust missing", reason.Signature, "trust/2.json is missing", func(t *testing.T, w *world) func() {
			held := w.trust
			w.trust = w.newTrust(2)
			w.show("1.0", nil)
			return func() {
				doc, sigs := w.sign(w.trust, w.root)
				must(t, w.mirror().PutTrust(t.Context(), 2, signing.Signed{Doc: doc, Sigs: sigs}, held))
			}
		}},
		{"trust without its signature", reason.Signature, "trust version 2: ", func(t *testing.T, w *world) func() {
			held := w.trust
			w.trust = w.newTrust(2)
			doc, sigs := w.sign(w.trust, w.root)
			must(t, w.mirror().PutTrust(t.Context(), 2, signing.Signed{Doc: doc}, held))
			w.show("1.0", nil)
			return func() {
				must(t, w.mirror().PutTrust(t.Context(), 2, signing.Signed{Doc: doc, Sigs: sigs}, held))
			}
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, r := mirrored(t)
			mend := test.spoil(t, w)
			counter := w.counter()
			for range 2 {
				before := r.n.Load()
				res := w.step(test.want)
				if !strings.Contains(res.Message, test.words) || res.Running != "1.0" {
					t.Errorf("message is %q, running %q; want %q", res.Message, res.Running, test.words)
				}
				if test.want != reason.Limit && r.n.Load()-before < 2 {
					t.Error("what was refused was not looked at again")
				}
				if w.counter() != counter {
					t.Error("the counter moved")
				}
			}
			mend()
			w.step(reason.Current)
			before := r.n.Load()
			w.step(reason.Current)
			if n := r.n.Load() - before; n != 1 {
				t.Errorf("mended, an idle cycle asks %d times, want once", n)
			}
			w.show("2.0", nil)
			w.step(reason.Updated)
		})
	}
}

// TestMirrorForgets: the version that was seen says nothing once the state that came with
// it is not the accepted one any more, or does not count any more.
func TestMirrorForgets(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(t *testing.T, w *world)
		want   reason.Code
	}{
		{"counter lost", func(t *testing.T, w *world) {
			must(t, os.WriteFile(w.puller.dir.Path("channels", "b.json"), []byte("{"), 0o600))
		}, reason.Current},
		{"signatures lost", func(t *testing.T, w *world) {
			names, err := os.ReadDir(w.puller.dir.Path("channels"))
			must(t, err)
			for _, n := range names {
				if strings.HasSuffix(n.Name(), ".sigstore.json") {
					must(t, os.Remove(w.puller.dir.Path("channels", n.Name())))
				}
			}
		}, reason.Current},
		{"another tier", func(t *testing.T, w *world) { w.puller.cfg.Tier = "c" }, reason.Stale},
		{"trust set back", func(t *testing.T, w *world) {
			w.trust.Revoked = []layout.Digest{layout.Sum(nil)}
			doc, _ := w.sign(w.trust)
			must(t, os.WriteFile(w.puller.cfg.Trust, doc, 0o644))
		}, reason.Current},
	} {
		t.Run(test.name, func(t *testing.T) {
			w, r := mirrored(t)
			test.change(t, w)
			before := r.n.Load()
			w.step(test.want)
			if n := r.n.Load() - before; test.want == reason.Current && n < 2 {
				t.Errorf("the cycle asks %d times: it believed the version that it had seen", n)
			}
			if w.puller.cfg.Tier == "b" {
				if before := r.n.Load(); w.counter() == "" {
					t.Error("no counter was kept")
				} else if w.step(reason.Current); r.n.Load()-before != 1 {
					t.Error("the next cycle is not idle")
				}
			}
			w.runs("1.0")
		})
	}
}

// TestSourcesShareCounters: a node that changes over goes on where it was.
func TestSourcesShareCounters(t *testing.T) {
	w, r := mirrored(t)
	old, err := os.ReadFile(w.channelObject())
	must(t, err)
	w.puller.cfg.Channels.Source, w.puller.cfg.Channels.Repo = sourceGit, w.repo().URL
	w.step(reason.Stale) // the repo has no channel
	w.advance("2.0", nil)
	before := r.n.Load()
	w.step(reason.Updated)
	fetched := r.n.Load() - before
	before = r.n.Load()
	w.step(reason.Current)
	if n := r.n.Load() - before; n != 0 || fetched == 0 {
		t.Errorf("with git, an idle cycle asks the bucket %d times", n)
	}
	w.puller.cfg.Channels.Source = sourceBucket
	w.step(reason.Stale)
	must(t, os.WriteFile(w.channelObject(), append(old, ' '), 0o644))
	w.step(reason.Signature)
	w.runs("2.0")
}

// TestMirrorEndlessTrust: an endless valid chain costs a bounded number of requests.
func TestMirrorEndlessTrust(t *testing.T) {
	w, r := mirrored(t)
	for n := int64(2); n <= 70; n++ {
		held := w.trust
		w.trust = w.newTrust(n)
		doc, sigs := w.sign(w.trust, w.root)
		must(t, w.mirror().PutTrust(t.Context(), n, signing.Signed{Doc: doc, Sigs: sigs}, held))
	}
	w.show("2.0", nil)
	before := r.n.Load()
	w.step(reason.Signature)
	if n := r.n.Load() - before; n > 2*channels.MaxWalk+3 {
		t.Errorf("one poll asked %d times", n)
	}
	w.step(reason.Updated)
	w.runs("2.0")
}

// slow is a bucket that takes a minute for each object, but for the polled one.
type slow struct{ bucket.Bucket }

func (s slow) Get(ctx context.Context, key string) (io.ReadCloser, bucket.Info, error) {
	select {
	case <-time.After(time.Minute - time.Second):
		return s.Bucket.Get(ctx, key)
	case <-ctx.Done():
		return nil, bucket.Info{}, context.Cause(ctx)
	}
}

// TestPollEnds: an endless chain of slow answers ends with the poll's deadline.
func TestPollEnds(t *testing.T) {
	w, _ := mirrored(t)
	for n := int64(2); n <= 10; n++ {
		held := w.trust
		w.trust = w.newTrust(n)
		doc, sigs := w.sign(w.trust, w.root)
		must(t, w.mirror().PutTrust(t.Context(), n, signing.Signed{Doc: doc, Sigs: sigs}, held))
	}
	w.show("1.0", nil)
	w.puller.bucket = slow{w.bucket}
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		_, err := w.puller.Step(t.Context(), Options{})
		if reason.Of(err) != reason.IO || !strings.Contains(err.Error(), "poll: not done within 5m0s") {
			t.Errorf("error is %v, want the reason io and the limit", err)
		}
		if took := time.Since(began); took > pollLimit+time.Minute {
			t.Errorf("it took %s", took)
		}
	})
	w.runs("1.0")
	w.puller.bucket = w.bucket
	w.step(reason.Current)
}
