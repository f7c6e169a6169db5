package puller

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
)

// two is a node that runs 1.0, with 2.0 published and not yet promoted.
func two(t *testing.T) *world {
	w := newWorld(t)
	w.publish("1.0", "")
	w.publish("2.0", "")
	w.advance("1.0", nil)
	w.step(reason.Updated)
	w.runs("1.0")
	return w
}

func TestUpdatePinUnpin(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	w.step(reason.Updated)
	w.runs("2.0")
	restarts := w.app.count()
	r := w.pin("1.0", reason.Updated)
	w.runs("1.0")
	if r.Manifest != w.digests["1.0"] || r.From != "2.0" || w.app.count() != restarts+1 {
		t.Errorf("pinned: %+v, %d restarts", r, w.app.count()-restarts)
	}
	w.step(reason.Pinned)
	w.runs("1.0")
	w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{}))
	w.runs("2.0")
	w.step(reason.Current)
}

func TestIdleCycleReadsNothingAndWritesNothing(t *testing.T) {
	w := two(t)
	w.step(reason.Current)
	b := &counting{Bucket: w.bucket}
	w.puller.bucket = b
	state, err := os.Stat(w.puller.dir.Path("state.json"))
	must(t, err)
	for range 3 {
		w.step(reason.Current)
	}
	if b.n.Load() != 0 {
		t.Errorf("%d bucket requests", b.n.Load())
	}
	again, err := os.Stat(w.puller.dir.Path("state.json"))
	must(t, err)
	if !os.SameFile(state, again) {
		t.Error("state.json was written again")
	}
	w.advance("2.0", nil)
	w.step(reason.Updated)
	if b.n.Load() == 0 {
		t.Error("the counter counts nothing")
	}
}

func TestNothingPromotedYet(t *testing.T) {
	w := newWorld(t)
	_, err := w.puller.Step(t.Context(), Options{})
	if reason.Of(err) != reason.Stale || !strings.Contains(err.Error(), "`builder promote b`") {
		t.Errorf("got %v", err)
	}
}

func TestUnhealthyGoesBackOnceAndIsBlocked(t *testing.T) {
	for _, how := range []string{"500", "exit"} {
		t.Run(how, func(t *testing.T) {
			w := two(t)
			w.app.set("2.0", how)
			w.advance("2.0", nil)
			restarts := w.app.count()
			w.step(reason.Unhealthy)
			w.runs("1.0")
			if n := w.app.count() - restarts; n != 2 {
				t.Errorf("%d restarts, want 2", n)
			}
			for range 3 {
				w.step(reason.Blocked)
			}
			w.advance("2.0", nil) // a later state with the same attempt
			w.step(reason.Blocked)
			if n := w.app.count() - restarts; n != 2 {
				t.Errorf("%d restarts in the end, want 2", n)
			}
			w.app.set("2.0", "")
			w.advance("2.0", func(c *channels.Channel) { c.Attempt = 2 })
			w.step(reason.Updated)
			w.runs("2.0")
		})
	}
}

func TestHealthyThenDies(t *testing.T) {
	w := two(t)
	w.puller.cfg.Health.StableFor = 10 * time.Second
	w.app.started = func(v string) {
		if v == "1.0" {
			w.puller.cfg.Health.StableFor = 0 // for the way back
		}
		time.AfterFunc(20*time.Millisecond, func() { w.app.set("2.0", "500") })
	}
	w.advance("2.0", nil)
	if r := w.step(reason.Unhealthy); !strings.Contains(r.Message, "was healthy for") {
		t.Errorf("got %s", r.Message)
	}
	w.runs("1.0")
}

func TestBothVersionsBad(t *testing.T) {
	w := two(t)
	w.app.set("1.0", "500")
	w.app.set("2.0", "500")
	w.advance("2.0", nil)
	w.step(reason.Degraded)
	restarts := w.app.count()
	for range 3 {
		w.step(reason.Degraded)
	}
	if w.app.count() != restarts {
		t.Error("it goes on restarting")
	}
	w.app.set("2.0", "")
	w.pin("2.0", reason.Updated)
	w.runs("2.0")
}

func TestFirstInstallUnhealthyStaysAndIsRetried(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.app.set("1.0", "500")
	w.advance("1.0", nil)
	if r := w.step(reason.Unhealthy); !strings.Contains(r.Message, "nothing to go back to") {
		t.Errorf("got %s", r.Message)
	}
	w.runs("1.0")
	restarts := w.app.count()
	w.step(reason.Unhealthy) // waits
	if w.app.count() != restarts {
		t.Error("started again at once")
	}
	w.app.set("1.0", "")
	w.demand(reason.Updated)(w.puller.Step(t.Context(), Options{Now: true}))
	w.step(reason.Current)
	if st, _ := w.puller.dir.State(); st.Retry != nil || st.LastGood == nil {
		t.Errorf("state %+v", st)
	}
}

// Another version is not made to wait for what the one before it did.
func TestRetriesAreOfOneVersion(t *testing.T) {
	w := newWorld(t)
	for _, v := range []string{"1.0", "2.0"} {
		w.publish(v, "")
		w.app.set(v, "exit")
	}
	w.advance("1.0", nil)
	for n := 1; n <= 3; n++ {
		w.demand(reason.Unhealthy)(w.puller.Step(t.Context(), Options{Now: true}))
		if got := w.known().Retry.Count; got != n {
			t.Errorf("tried %d times, want %d", got, n)
		}
	}
	w.advance("2.0", nil)
	w.step(reason.Unhealthy)
	if r := w.known().Retry; r.Count != 1 || time.Until(r.Next.Time) > time.Minute {
		t.Errorf("got %+v", r)
	}
}

func TestPinOfABadVersionIsTriedOnceAnOrder(t *testing.T) {
	w := two(t)
	w.app.set("2.0", "500")
	w.pin("2.0", reason.Unhealthy)
	w.runs("1.0")
	w.step(reason.Blocked)
	w.pin("2.0", reason.Unhealthy) // a new order tries again
	w.app.set("2.0", "")
	w.pin("2.0", reason.Updated)
	w.runs("2.0")
}

func TestPinOfAnUnknownVersion(t *testing.T) {
	w := two(t)
	if r := w.pin("9.9", reason.IO); !strings.Contains(r.Message, "puller --unpin") {
		t.Errorf("got %s", r.Message)
	}
	w.runs("1.0")
	w.demand(reason.Current)(w.puller.Unpin(t.Context(), Options{}))
}

// TestPinWithoutTheFilesOfTheRepo: what is on disk can be pinned, whatever became of the
// token that reads the channel repo.
func TestPinWithoutTheFilesOfTheRepo(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	w.step(reason.Updated)
	must(t, w.puller.Close())
	ch := &w.puller.cfg.Channels
	ch.Repo, ch.TokenFile = "https://git.example/c.git", filepath.Join(t.TempDir(), "token")
	must(t, w.puller.cfg.complete())
	if r := w.step(reason.Config); !strings.Contains(r.Message, "token_file: open ") {
		t.Errorf("got %s", r.Message)
	}
	w.pin("1.0", reason.Updated)
	w.runs("1.0")
}

// TestPinDuringAPoll: an order does not wait for a host that says nothing.
func TestPinDuringAPoll(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	w.step(reason.Updated)
	must(t, w.puller.Close())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { l.Close() })
	pinned := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			err = w.puller.dir.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()})
		}
		pinned <- err
	}()
	w.puller.cfg.Channels.Repo = "http://" + l.Addr().String() + "/c.git"
	if r := w.step(reason.Updated); strings.Contains(r.Message, "says nothing") {
		t.Errorf("it waited: %s", r.Message)
	}
	must(t, <-pinned)
	w.runs("1.0")
	w.puller.cfg.Channels.Repo = w.repo().URL
	must(t, w.puller.Close())
	w.step(reason.Pinned)
}

func TestPinWithADigest(t *testing.T) {
	w := two(t)
	_, err := w.puller.Pin(t.Context(), Order{Version: "2.0", Manifest: layout.Sum([]byte("other"))}, Options{})
	if reason.Of(err) != reason.IO { // there is no such manifest
		t.Errorf("got %v", err)
	}
	w.demand(reason.Updated)(w.puller.Pin(t.Context(), Order{Version: "2.0", Manifest: w.digests["2.0"], Reason: "because"}, Options{}))
	w.runs("2.0")
}

// TestPinEndsProbation: an order in the stable window is obeyed at once, and goes back
// to what ran before the probation when it fails as well.
func TestPinEndsProbation(t *testing.T) {
	w := two(t)
	w.publish("3.0", "")
	w.puller.cfg.Health.StableFor = time.Hour
	w.app.started = func(v string) {
		if v == "2.0" {
			must(t, w.puller.dir.SavePin(node.Pin{Release: "3.0", At: time.Now().UnixMilli()}))
			w.app.set("3.0", "500")
		}
		if v == "1.0" {
			w.puller.cfg.Health.StableFor = 0
		}
	}
	w.advance("2.0", nil)
	w.step(reason.Unhealthy)
	w.runs("1.0")
	st, err := w.puller.dir.State()
	must(t, err)
	if st.Intent != nil || st.Running.Version != "1.0" || len(st.Blocked) != 1 || st.Blocked[0].Version != "3.0" {
		t.Errorf("state: %+v", st)
	}
}

func TestPinBackDuringProbation(t *testing.T) {
	w := two(t)
	w.puller.cfg.Health.StableFor = time.Hour
	w.app.started = func(v string) {
		if v == "2.0" {
			must(t, w.puller.dir.SavePin(node.Pin{Release: "1.0", At: time.Now().UnixMilli()}))
		}
		if v == "1.0" {
			w.puller.cfg.Health.StableFor = 0
		}
	}
	w.advance("2.0", nil)
	w.step(reason.Updated)
	w.runs("1.0")
	w.step(reason.Pinned)
}

func TestInterruptedProbationGoesOn(t *testing.T) {
	w := two(t)
	ctx, cancel := context.WithCancel(t.Context())
	w.puller.cfg.Health.StableFor = time.Hour
	w.app.started = func(string) { time.AfterFunc(20*time.Millisecond, cancel) }
	w.advance("2.0", nil)
	_, err := w.puller.Step(ctx, Options{})
	if !errors.Is(err, context.Canceled) || reason.Of(err) != reason.IO {
		t.Fatalf("got %v", err)
	}
	w.check()
	w.app.started = nil
	w.puller.cfg.Health.StableFor = 0
	w.step(reason.Updated)
	w.runs("2.0")
}

func TestVersionOnDiskWithAnotherManifest(t *testing.T) {
	w := two(t)
	old := w.digests["1.0"]
	m := w.manifest("1.0")
	m.Source.Commit = strings.Repeat("2", 40)
	w.publishManifest(m)
	w.advance("1.0", nil)
	restarts := w.app.count()
	if r := w.step(reason.Current); !strings.Contains(r.Message, "taken over") || r.Manifest == old || w.app.count() != restarts {
		t.Errorf("got %+v", r)
	}
	w.step(reason.Current)
	if st := w.known(); !st.RanWell("1.0", w.digests["1.0"]) || !st.RanWell("1.0", old) {
		t.Errorf("it is not known to have run well: %+v", st.Proven)
	}

	m.Bundles[0].Tree = layout.Sum([]byte("another tree"))
	w.publishManifest(m)
	w.advance("1.0", nil)
	if r := w.step(reason.Mismatch); !strings.Contains(r.Message, "release under a new version") {
		t.Errorf("got %+v", r)
	}
	w.runs("1.0")
}

func (w *world) manifest(version string) *layout.Manifest {
	w.t.Helper()
	doc, err := os.ReadFile(w.object(w.key(version, layout.ManifestLatest)))
	must(w.t, err)
	m, err := layout.ParseManifest(doc)
	must(w.t, err)
	return m
}

func TestDamagedReleaseIsFetchedAgain(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	w.step(reason.Updated)
	must(t, os.WriteFile(w.puller.dir.ReleasePath("1.0")+"/app", []byte("damaged"), 0o644))
	w.pin("1.0", reason.Updated)
	w.runs("1.0")
}

func TestForeignRelease(t *testing.T) {
	w := two(t)
	must(t, os.Mkdir(w.puller.dir.ReleasePath("0.1"), 0o755))
	must(t, os.WriteFile(w.puller.dir.ReleasePath("0.1")+"/VERSION", []byte("0.1"), 0o644))
	w.pin("0.1", reason.Updated)
	w.runs("0.1")
	w.demand(reason.Updated)(w.puller.Unpin(t.Context(), Options{}))
	w.runs("1.0")
	w.publish("0.1", "")
	w.advance("0.1", nil)
	w.step(reason.Mismatch)
	w.runs("1.0")
}

func TestGarbageIsCollectedAndNeverWhatIsNeeded(t *testing.T) {
	w := newWorld(t)
	versions := []string{"1.0", "2.0", "3.0", "4.0", "5.0", "6.0"}
	for _, v := range versions {
		w.publish(v, "")
		w.advance(v, nil)
		w.step(reason.Updated)
	}
	have, err := w.puller.dir.Releases()
	must(t, err)
	if got := strings.Join(have, " "); got != "4.0 5.0 6.0" {
		t.Errorf("on disk: %s", got)
	}
}

func TestExpiredChannel(t *testing.T) {
	w := two(t)
	w.advance("2.0", func(c *channels.Channel) { c.Expires = canon.At(c.Issued.Add(time.Hour)) })
	w.puller.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	w.step(reason.Stale)
	w.runs("1.0")
	w.puller.now = time.Now
	w.step(reason.Updated)
	w.puller.now = func() time.Time { return time.Now().Add(2 * time.Hour) }
	if r := w.step(reason.Current); len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "expired") {
		t.Errorf("warnings: %v", r.Warnings)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	before := snapshot(t, w.puller.dir.Root())
	plan, err := w.puller.Plan(t.Context(), Options{})
	if err != nil || !plan.Act || plan.Version != "2.0" || plan.Reason != reason.Updated {
		t.Errorf("plan %+v, %v", plan, err)
	}
	if after := snapshot(t, w.puller.dir.Root()); after != before {
		t.Errorf("changed:\n%s\n%s", before, after)
	}
	w.step(reason.Updated)
	if plan, err = w.puller.Plan(t.Context(), Options{}); err != nil || plan.Act || plan.Reason != reason.Current {
		t.Errorf("plan %+v, %v", plan, err)
	}
}

func TestDryRunOnABareNode(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.advance("1.0", nil)
	plan, err := w.puller.Plan(t.Context(), Options{})
	if err != nil || !plan.Act || plan.Version != "1.0" {
		t.Errorf("plan %+v, %v", plan, err)
	}
	if _, err := os.Lstat(w.puller.dir.Root()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the root was made: %v", err)
	}
}

func TestHistoryRewritten(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	w.step(reason.Updated)
	st, err := w.puller.dir.State()
	must(t, err)
	st.Head = strings.Repeat("ab", 20)
	must(t, w.puller.dir.SaveState(st))
	r := w.step(reason.Current)
	if !strings.Contains(strings.Join(r.Warnings, " "), "rewritten") {
		t.Errorf("warnings: %v", r.Warnings)
	}
}

// snapshot lists every file below dir with its content and time.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		fmt.Fprintln(&b, path, info.Mode(), info.ModTime())
		return nil
	}))
	return b.String()
}

// TestSignaturesOnDiskLost: an accepted state whose stored signatures are gone is
// activated all the same once the channel repo shows them again.
func TestSignaturesOnDiskLost(t *testing.T) {
	w := two(t)
	w.app.set("2.0", "exit")
	w.advance("2.0", nil)
	w.step(reason.Unhealthy)
	names, err := filepath.Glob(w.puller.dir.Path("channels", "*.sigstore.json"))
	must(t, err)
	if len(names) != 1 {
		t.Fatalf("signatures on disk: %v", names)
	}
	must(t, os.Remove(names[0]))
	w.edit(func(s *node.State) { s.Blocked = []node.Block{} })
	w.app.set("2.0", "")
	w.step(reason.Updated)
	w.runs("2.0")
	if _, err := os.Stat(names[0]); err != nil {
		t.Errorf("not stored again: %v", err)
	}
}

// TestPinAsksForNewsOnlyWhenItMust: what is on disk needs no channel repo; what is not
// is fetched under the newest trust.
func TestPinAsksForNewsOnlyWhenItMust(t *testing.T) {
	w := two(t)
	w.advance("2.0", nil)
	w.step(reason.Updated)
	gone := w.base + "/channels.git"
	must(t, os.Rename(gone, gone+".away"))
	r := w.pin("1.0", reason.Updated)
	if len(r.Warnings) != 0 {
		t.Errorf("warnings: %v", r.Warnings)
	}
	w.publish("3.0", "")
	r = w.pin("3.0", reason.Updated)
	if len(r.Warnings) != 1 || !strings.Contains(r.Warnings[0], "poll: ") {
		t.Errorf("warnings: %v", r.Warnings)
	}
	w.runs("3.0")
	w.step(reason.IO)
	must(t, os.Rename(gone+".away", gone))
	w.step(reason.Pinned)
}

// A cycle says what it does, and each part in time; an idle one says little.
func TestBeat(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.advance("1.0", nil)
	parts := func() (said []Part) {
		r, err := w.puller.Step(t.Context(), Options{Beat: func(part Part, within time.Duration) {
			if within <= 0 {
				t.Errorf("%s within %s", part, within)
			}
			if len(said) == 0 || said[len(said)-1] != part {
				said = append(said, part)
			}
		}})
		must(t, err)
		if r.Moved != (r.Reason == reason.Updated) {
			t.Errorf("%s: moved is %t", r.Reason, r.Moved)
		}
		return said
	}
	if diff := cmp.Diff([]Part{Recovering, Polling, Deciding, Asking, "fetch", "unpack", Installing, Restarting, Probing}, parts()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if diff := cmp.Diff([]Part{Recovering, Polling, Deciding}, parts()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// The mirror of the channel repo may be taken away under a puller that keeps it.
func TestKeptMirror(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.advance("1.0", nil)
	w.step(reason.Updated)
	kept := w.puller.mirror
	must(t, os.RemoveAll(w.puller.dir.Path("git")))
	w.step(reason.Current)
	if w.puller.mirror != kept {
		t.Error("it was not kept")
	}
	must(t, w.puller.Close())
	w.step(reason.Current)
}

func TestOrders(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.advance("1.0", nil)
	w.step(reason.Updated)
	seen := []string{w.puller.Orders()}
	for _, change := range []func(){
		func() { w.pin("1.0", reason.Pinned) },
		func() { w.pin("1.0", reason.Pinned) },
		func() { must(t, w.puller.dir.RemovePin()) },
	} {
		change()
		seen = append(seen, w.puller.Orders())
		if w.puller.Orders() != seen[len(seen)-1] {
			t.Error("it changes by itself")
		}
	}
	if seen[0] != "" || seen[3] != "" || seen[1] == seen[2] || seen[1] == "" || seen[2] == "" {
		t.Errorf("stamps are %q", seen)
	}
}
