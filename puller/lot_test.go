package puller

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
)

// lot is a node to which anything happens, and what must hold of it all the same.
type lot struct {
	*world
	rnd     *rand.Rand
	set     func(time.Duration)
	ahead   time.Duration // of the clock
	version string        // that the channel names
	attempt int64
	proved  map[string]bool // what was started while it was good
	story   []string
}

func newLot(t *testing.T, seed uint64) *lot {
	w := newWorld(t)
	for _, v := range some() {
		w.publish(v, "")
	}
	w.advance("1.0", nil)
	w.step(reason.Updated)
	return &lot{world: w, rnd: rand.New(rand.NewPCG(seed, 1)), set: w.clock(), version: "1.0", attempt: 1, proved: map[string]bool{"1.0": true}}
}

func some() []string { return []string{"1.0", "2.0", "3.0", "4.0"} }

func (l *lot) any() string { return some()[l.rnd.IntN(len(some()))] }

func (l *lot) tell(format string, args ...any) {
	l.story = append(l.story, fmt.Sprintf(format, args...))
}

func (l *lot) fatal(format string, args ...any) {
	l.t.Helper()
	l.t.Fatalf("%s\n%s\n%+v", fmt.Sprintf(format, args...), strings.Join(l.story, "\n"), l.known())
}

func (l *lot) how(v string) string {
	l.app.mu.Lock()
	defer l.app.mu.Unlock()
	return l.app.bad[v]
}

// happens is one thing that happens, and perhaps a cycle after it.
func (l *lot) happens() {
	v := l.any()
	switch l.rnd.IntN(12) {
	case 0, 1:
		l.version = v
		l.promote()
	case 2:
		l.promote()
	case 3:
		if v != l.live() { // what runs does not turn bad by itself
			how := []string{"", "exit", "500"}[l.rnd.IntN(3)]
			l.tell("%s is %q from now on", v, how)
			l.app.set(v, how)
		}
	case 4, 5:
		o := Order{Version: v, Force: l.rnd.IntN(4) == 0}
		if l.rnd.IntN(3) == 0 {
			o.Until = canon.At(l.puller.now().Add(time.Hour))
		}
		l.tell("pin %+v", o)
		l.cycle("pin", func(ctx context.Context) (Result, error) { return l.puller.Pin(ctx, o, Options{}) })
	case 6:
		l.cycle("unpin", func(ctx context.Context) (Result, error) { return l.puller.Unpin(ctx, Options{}) })
	case 7:
		if slices.Contains(l.puller.Failed(), v) {
			l.cycle("unblock "+v, func(ctx context.Context) (Result, error) { return l.puller.Unblock(ctx, v, Options{}) })
		}
	case 8:
		l.ahead += time.Duration(l.rnd.IntN(90)) * time.Minute
		l.tell("the clock is ahead by %s", l.ahead)
		l.set(l.ahead)
	case 9:
		l.byHand(v)
	case 10:
		l.tell("current is gone")
		if err := os.Remove(l.app.current); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.fatal("%v", err)
		}
	case 11:
		if has, _ := l.puller.dir.Has(v); has && v != l.live() {
			l.tell("%s is damaged", v)
			l.damage(v)
		}
	}
	if l.rnd.IntN(3) != 0 {
		l.cycle("step", func(ctx context.Context) (Result, error) { return l.puller.Step(ctx, Options{}) })
	}
}

func (l *lot) promote() {
	l.attempt += l.rnd.Int64N(2)
	l.tell("promote %s, attempt %d", l.version, l.attempt)
	l.advance(l.version, func(c *channels.Channel) { c.Attempt = l.attempt })
}

// byHand makes a good release current, and restarts the app.
func (l *lot) byHand(v string) {
	_, err := l.puller.dir.Verify(l.t.Context(), v)
	if err != nil || v == l.live() || l.known().Intent != nil || l.how(v) != "" {
		return
	}
	l.tell("by hand: %s", v)
	l.link(v)
	l.app.mu.Lock()
	defer l.app.mu.Unlock()
	l.app.version = v
}

// cycle does an operation, in which orders may come and which may be stopped. Then it does
// cycles until no order has come, and looks at the node.
func (l *lot) cycle(name string, do func(ctx context.Context) (Result, error)) {
	ctx, stop := context.WithCancel(l.t.Context())
	defer stop()
	stops, starts, ordered := l.rnd.IntN(10), 0, false
	l.app.started = func(v string) {
		l.tell("  starts %s %s", v, l.how(v))
		if l.how(v) == "" {
			l.proved[v] = true
		}
		if starts++; starts == stops {
			l.tell("  stopped")
			stop()
		}
		switch l.rnd.IntN(12) {
		case 0, 1:
			ordered = true
			p := node.Pin{Release: l.any(), Force: l.rnd.IntN(4) == 0, At: l.puller.now().UnixMilli()}
			l.tell("  meanwhile: pin %s, by force %t", p.Release, p.Force)
			l.give(p)
		case 2:
			ordered = true
			l.tell("  meanwhile: unpin")
			must(l.t, l.puller.dir.RemovePin())
		}
	}
	res, err := do(ctx)
	for l.tell("%s: %s: %s", name, res.Reason, res.Message); ordered && ctx.Err() == nil; l.tell("then: %s: %s", res.Reason, res.Message) {
		ordered = false
		res, err = l.puller.Step(ctx, Options{})
	}
	if ctx.Err() == nil {
		l.look(err)
	}
}

// look asserts what holds of a node at which nobody is at work.
func (l *lot) look(err error) {
	l.check()
	st, live := l.known(), l.live()
	if st.Intent != nil {
		l.fatal("left open")
	}
	known := st.Proven
	if st.LastGood != nil {
		known = append(slices.Clone(known), *st.LastGood)
	}
	for _, r := range known {
		if !l.proved[r.Version] {
			l.fatal("%s never was well", r.Version)
		}
	}
	if l.app.mu.Lock(); err == nil && live != "" && !unproven(st) && (l.app.version != live || l.app.bad[live] != "") {
		l.app.mu.Unlock()
		l.fatal("%s is live, and it is %s that runs", live, l.app.version)
	}
	l.app.mu.Unlock()
	l.app.started = func(v string) { l.fatal("a cycle later %s is started", v) }
	for range 2 {
		_, _ = l.puller.Step(l.t.Context(), Options{}) // however it ends
	}
}

// TestWhateverHappens: whatever happens to a node, in whatever order, it comes to rest: nothing is left open,
// nothing is started again by itself, what counts as good was good, and what runs is what is live.
func TestWhateverHappens(t *testing.T) {
	for seed := range uint64(5) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			l := newLot(t, seed)
			for range 30 {
				l.happens()
			}
		})
	}
}
