package puller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/tree"
	"makenot.work/sando/puller/service"
)

// TestThousandHistories lives 1000 random lives of a node: releases come, are activated
// by channel and by pin, fail, are killed in the middle, made by others, swapped by hand,
// damaged. After each cycle, what is needed is there, and not more than that and `retain`.
func TestThousandHistories(t *testing.T) {
	histories := 1000
	for seed := range histories {
		l := newLife(t, uint64(seed))
		for range 4 + l.rand.IntN(16) {
			l.live()
			if t.Failed() {
				t.Fatalf("seed %d:\n%s", seed, strings.Join(l.log, "\n"))
			}
		}
		must(t, os.RemoveAll(l.dir.Root()))
	}
}

// A thousand old releases go twenty in a cycle, the oldest first, also when nothing happens.
func TestCollectGoesOn(t *testing.T) {
	l := newLife(t, 1)
	for range 50 {
		l.install(true)
	}
	must(t, os.Symlink("releases/1.0", l.dir.CurrentPath()))
	l.puller.cfg.Retain = 3
	for _, want := range []int{30, 10, 4, 4} { // the three newest, and what runs
		c := &cycle{Puller: l.puller}
		must(t, c.load())
		c.warnings = nil
		c.tidy(t.Context())
		c.clean(t.Context())
		if n := len(l.releases()); n != want || len(c.warnings) != 0 {
			t.Errorf("%d releases are left, want %d; %v", n, want, c.warnings)
		}
		if names, err := os.ReadDir(l.dir.Path("trash")); err != nil || len(names) != 0 {
			t.Errorf("trash: %v, %v", names, err)
		}
	}
	if _, ok := l.releases()["1.0"]; !ok {
		t.Error("what runs is gone")
	}
}

// On a disk that is too small for the next release, the oldest go until it fits, and no more.
func TestAsRootShortOfSpace(t *testing.T) {
	testenv.Root(t, "a filesystem of its own")
	l := newLife(t, 1)
	must(t, unix.Mount("none", l.dir.Root(), "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { unix.Unmount(l.dir.Root(), 0) })
	_, err := node.Open(l.dir.Root())
	must(t, err)
	for i := range 4 {
		v := l.install(true)
		must(t, os.WriteFile(l.dir.ReleasePath(v)+"/big", make([]byte, 3<<20), 0o644))
		at := time.Unix(1780000000+int64(i), 0)
		must(t, os.Chtimes(l.dir.ReleasePath(v)+"/.sando", at, at))
	}
	must(t, os.Symlink("releases/2.0", l.dir.CurrentPath()))
	c := &cycle{Puller: l.puller}
	must(t, c.load())
	left := func() string { return strings.Join(slices.Sorted(maps.Keys(l.releases())), " ") }
	for _, s := range []struct {
		bytes   int64
		reserve node.Reserve
		want    reason.Code
		left    string
	}{
		{3 << 20, 0, reason.Current, "1.0 2.0 3.0 4.0"},
		{5 << 20, 0, reason.Current, "2.0 3.0 4.0"},
		{5 << 20, 4 << 20, reason.Current, "2.0 4.0"}, // what runs stays, although it is older
		{12 << 20, 4 << 20, reason.Disk, "2.0"},
	} {
		c.cfg.reserve = s.reserve
		err := c.fit(t.Context(), s.bytes, 10)
		if reason.Of(err) != s.want || left() != s.left {
			t.Errorf("%d bytes and %d in reserve: %v, left are %s; want %s", s.bytes, s.reserve, err, left(), s.left)
		}
		if err != nil && !strings.Contains(err.Error(), "MiB free, want 12.0 MiB, and 4.0 MiB in reserve (limits.reserve): no release is left that could be taken away for it; make room there, or lower limits.reserve") {
			t.Errorf("says %v", err)
		}
	}
}

// A quota is met only in writing: what is needed for nothing goes then, and it is begun anew.
func TestQuota(t *testing.T) {
	for name, c := range map[string]struct {
		quota int // of releases on disk
		want  reason.Code
		tries int
		left  string
	}{
		"there is room":     {4, reason.Current, 1, "1.0 2.0 3.0 4.0"},
		"enough goes":       {3, reason.Current, 2, "2.0 3.0 4.0"},
		"all is not enough": {2, reason.Disk, 2, "2.0 3.0"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			for _, v := range []string{"1.0", "2.0", "3.0"} {
				w.publish(v, "")
				w.advance(v, nil)
				w.step(reason.Updated)
			}
			w.advance("3.0", nil)
			next := &cycle{Puller: w.puller}
			must(t, next.load())
			want := target{Version: "4.0", Manifest: w.publish("4.0", ""), Attempt: 1, Pin: true}
			p, err := next.prepare(t.Context(), want)
			must(t, err)
			tries := 0
			_, err = next.unpack(t.Context(), want, p, func(s *node.Stage, meta node.Meta, entries []tree.Entry) error {
				tries++
				if on, err := w.puller.dir.Releases(); err != nil || len(on) >= c.quota {
					return errors.Join(err, reason.OnDisk(unix.EDQUOT))
				}
				return s.Install("4.0", meta, entries)
			})
			on, lerr := w.puller.dir.Releases()
			must(t, lerr)
			if reason.Of(err) != c.want || tries != c.tries || strings.Join(on, " ") != c.left {
				t.Errorf("%v after %d tries, left are %v", err, tries, on)
			}
		})
	}
}

func TestReserveInConfig(t *testing.T) {
	for text, want := range map[string]node.Reserve{"": node.Automatic, "0": 0, "512MiB": 512 << 20, "1KiB": 1024} {
		if got, err := parseReserve(text); got != want || err != nil {
			t.Errorf("%q is %d, %v", text, got, err)
		}
	}
	for _, bad := range []string{"0MiB", "-1", "512MB", "512", "10%"} {
		if got, err := parseReserve(bad); err == nil {
			t.Errorf("%q is %d", bad, got)
		}
	}
}

// A disk on which the ballast finds no room is told of once, though what is free on it changes.
func TestNoBallastIsNoNews(t *testing.T) {
	w := newWorld(t)
	w.publish("1.0", "")
	w.advance("1.0", nil)
	w.step(reason.Updated)
	must(t, os.RemoveAll(w.puller.dir.Path("ballast")))
	w.puller.cfg.reserve = 1 << 60
	first := w.step(reason.Current).Warnings
	must(t, os.WriteFile(t.TempDir()+"/much", make([]byte, 8<<20), 0o600))
	second := w.step(reason.Current).Warnings
	if len(first) != 1 || !strings.HasPrefix(first[0], "no ballast, ") || !slices.Equal(first, second) {
		t.Errorf("first %q, then %q", first, second)
	}
}

// life is a node without a network, whose events are random.
type life struct {
	t       *testing.T
	rand    *rand.Rand
	dir     *node.Dir
	puller  *Puller
	channel *channels.Channel
	made    int
	log     []string
	// What the next restart does.
	fails, dies bool
	stop        context.CancelFunc
}

func newLife(t *testing.T, seed uint64) *life {
	t.Helper()
	base := t.TempDir()
	if shm, err := os.MkdirTemp("/dev/shm", "sando-life-"); err == nil { // a thousand lives are many fsyncs
		base = shm
		t.Cleanup(func() { os.RemoveAll(shm) })
	}
	dir, err := node.Open(base + "/node")
	must(t, err)
	l := &life{t: t, rand: rand.New(rand.NewPCG(seed, 1)), dir: dir}
	cfg := &Config{App: "mnw", Tier: "b", Retain: 1 + l.rand.IntN(4)}
	l.puller = &Puller{cfg: cfg, dir: dir, service: l, log: slog.New(slog.DiscardHandler), now: time.Now, proof: clock{time.Now, sleep}}
	return l
}

func (l *life) Check(context.Context) error { return nil }

func (l *life) Restart(context.Context, service.Start, time.Duration) error {
	fails := l.fails
	l.fails = false // its way back is well
	if l.dies {
		l.stop()
		return context.Canceled
	}
	if fails {
		return errors.New("exit status 1")
	}
	return nil
}

func (l *life) say(format string, args ...any) { l.log = append(l.log, fmt.Sprintf(format, args...)) }

// live lets something happen, and then a cycle.
func (l *life) live() {
	l.t.Helper()
	ctx, stop := context.WithCancel(l.t.Context())
	defer stop()
	l.stop = stop
	l.fails, l.dies = l.rand.IntN(4) == 0, l.rand.IntN(6) == 0
	act := l.happen()
	c := &cycle{Puller: l.puller}
	must(l.t, c.load())
	_, rerr := c.recover(ctx)
	l.say("  recovered: %v", rerr)
	if l.channel != nil {
		c.channel = &accepted{Channel: l.channel}
	}
	has, err := l.dir.Has(c.wanted())
	must(l.t, err)
	if ctx.Err() == nil && act && c.wanted() != "" && has && c.wanted() != c.cur.Version {
		t := target{Version: c.wanted(), Attempt: 1, Pin: c.pin != nil}
		_, err := c.activate(ctx, t, c.goingBackTo(t.Version))
		l.say("  activated %s: %v", t.Version, err)
	}
	before := l.releases()
	if l.rand.IntN(8) == 0 {
		c.cfg.reserve = 1 << 60
		err := c.fit(ctx, 1, 1)
		l.kept(before, 0, ctx)
		if ctx.Err() == nil && reason.Of(err) != reason.Disk {
			l.t.Errorf("on a full disk: %v", err)
		}
	}
	c.tidy(ctx)
	l.kept(before, c.cfg.Retain, ctx)
	if l.rand.IntN(5) > 0 { // else it is killed before this
		c.clean(ctx)
	}
	must(l.t, c.save())
}

// happen changes the node or its orders, and reports whether the cycle may act on them.
func (l *life) happen() (act bool) {
	switch on := slices.Sorted(maps.Keys(l.releases())); l.rand.IntN(10) {
	case 0, 1, 2:
		v := l.install(true)
		l.channel = &channels.Channel{Version: v}
		l.say("the channel names %s", v)
		return true
	case 3:
		l.channel = &channels.Channel{Version: l.install(true)}
		l.say("%s waits for its window", l.channel.Version)
		return false
	case 4:
		l.say("%s is foreign", l.install(false))
	case 5:
		must(l.t, l.dir.RemovePin())
		l.say("unpin")
	case 6:
		if len(on) > 0 {
			v := on[l.rand.IntN(len(on))]
			must(l.t, l.dir.SavePin(node.Pin{Release: v, At: int64(len(l.log))}))
			l.say("pin %s", v)
		}
	case 7:
		if len(on) > 0 {
			v := on[l.rand.IntN(len(on))]
			os.Remove(l.dir.CurrentPath())
			must(l.t, os.Symlink("releases/"+v, l.dir.CurrentPath()))
			l.say("current is %s by hand", v)
		}
	case 8:
		l.puller.cfg.Retain = 1 + l.rand.IntN(4)
		l.say("retain %d", l.puller.cfg.Retain)
	case 9:
		if len(on) > 0 {
			v := on[l.rand.IntN(len(on))]
			must(l.t, os.WriteFile(l.dir.ReleasePath(v)+"/damage", nil, 0o644))
			l.say("%s is damaged", v)
		}
	}
	return true
}

// install makes a release with one file. The clocks of nodes jump, so its time is any.
func (l *life) install(own bool) string {
	l.t.Helper()
	l.made++
	v := fmt.Sprintf("%d.0", l.made)
	path := l.dir.ReleasePath(v)
	must(l.t, os.Mkdir(path, 0o755))
	must(l.t, os.WriteFile(path+"/app", []byte(v), 0o755))
	if !own {
		return v
	}
	root, err := os.OpenRoot(path)
	must(l.t, err)
	defer root.Close()
	entries, err := tree.Read(l.t.Context(), root)
	must(l.t, err)
	b := layout.Bundle{Platform: runtime.GOOS + "/" + runtime.GOARCH, Size: 1, SHA256: strings.Repeat("0", 64), Unpacked: 1, Entries: 1, Tree: tree.Hash(entries)}
	b.Name = layout.BundleName("mnw", v, b)
	m := &layout.Manifest{Schema: layout.ManifestSchema, App: "mnw", Version: v, Source: layout.Source{Commit: strings.Repeat("1", 40), Time: canon.At(time.Unix(1, 0))}, Bundles: []layout.Bundle{b}}
	doc, err := m.Encode()
	must(l.t, err)
	must(l.t, os.Mkdir(path+"/.sando", 0o755))
	must(l.t, os.WriteFile(path+"/.sando/manifest.json", doc, 0o644))
	at := time.Unix(1780000000+int64(l.made)*60+l.rand.Int64N(200), 0)
	must(l.t, os.Chtimes(path+"/.sando", at, at))
	return v
}

// releases returns what is on disk, and for each release when it was put in place: the zero
// time for a foreign one.
func (l *life) releases() map[string]time.Time {
	l.t.Helper()
	entries, err := os.ReadDir(l.dir.ReleasesPath())
	must(l.t, err)
	found := map[string]time.Time{}
	for _, e := range entries {
		found[e.Name()] = time.Time{}
		if info, err := os.Stat(filepath.Join(l.dir.ReleasePath(e.Name()), ".sando")); err == nil {
			found[e.Name()] = info.ModTime()
		}
	}
	return found
}

// kept asserts what must be there still of what was there before, and that nothing more is.
// What is needed is read from the files as a person would.
func (l *life) kept(before map[string]time.Time, retain int, ctx context.Context) {
	l.t.Helper()
	needed, open := l.recorded()
	now := l.releases()
	removed := 0
	for v, at := range before {
		if _, ok := now[v]; ok {
			continue
		}
		removed++
		if needed[v] || at.IsZero() {
			l.t.Errorf("%s is gone; needed are %v", v, needed)
		}
	}
	if open && retain > 0 || ctx.Err() != nil || removed == maxCollected {
		return
	}
	own := slices.Collect(maps.Keys(now))
	own = slices.DeleteFunc(own, func(v string) bool { return now[v].IsZero() })
	// Those that ran well come first, as if they were newer than all others, and so does what
	// the channel names, unless that failed.
	st, err := l.dir.State()
	must(l.t, err)
	for v, at := range now {
		ch := l.channel
		next := ch != nil && ch.Version == v && st != nil && st.IsBlocked(v, ch.Manifest, ch.Attempt) == nil
		if st != nil && (st.RanWell(v, "") || next) && !at.IsZero() {
			now[v] = at.AddDate(1000, 0, 0)
		}
	}
	slices.SortFunc(own, func(a, b string) int { return now[b].Compare(now[a]) })
	newest := own[:min(retain, len(own))]
	if _, err := os.Readlink(l.dir.CurrentPath()); err != nil && retain > 0 {
		return // nothing runs: nothing goes
	}
	for _, v := range own[len(newest):] {
		if !needed[v] && !now[v].Equal(now[own[max(0, len(newest)-1)]]) {
			l.t.Errorf("%s is still there; retain is %d, on disk %v, needed are %v", v, retain, now, needed)
		}
	}
}

// recorded returns every version that current, the channel, pin.json and state.json name, and
// whether an activation is open. Of the state, what failed and what proved itself is history.
func (l *life) recorded() (needed map[string]bool, open bool) {
	l.t.Helper()
	needed = map[string]bool{}
	if target, err := os.Readlink(l.dir.CurrentPath()); err == nil {
		needed[filepath.Base(target)] = true
	}
	pinned := false
	for _, name := range []string{"pin.json", "state.json"} {
		data, err := os.ReadFile(l.dir.Path(name))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		must(l.t, err)
		var doc map[string]any
		must(l.t, json.Unmarshal(data, &doc))
		pinned = pinned || name == "pin.json"
		open = open || doc["intent"] != nil
		for _, history := range []string{"blocked", "proven", "degraded", "last"} {
			delete(doc, history)
		}
		collectVersions(doc, needed)
	}
	if l.channel != nil && !pinned {
		needed[l.channel.Version] = true
	}
	return needed, open
}

func collectVersions(v any, into map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, value := range v {
			collectVersions(value, into)
		}
	case string:
		if strings.HasSuffix(v, ".0") {
			into[v] = true
		}
	}
}
