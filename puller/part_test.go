package puller

import (
	"errors"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/layout/node"
)

// What a person hears who waits for another puller: what that one does, and whether it is
// this order.
func TestWaiting(t *testing.T) {
	w := pinnable(t)
	open := func(change func(i *node.Intent)) {
		w.edit(func(s *node.State) {
			s.Intent = switching("1.0", "2.0")
			if change != nil {
				change(s.Intent)
			}
		})
	}
	c := &cycle{Puller: w.puller}
	hears := func(want string) {
		t.Helper()
		if got := c.waiting("pid 7"); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
	hears("waiting for the lock, held by pid 7")
	at := time.Now()
	w.puller.now = func() time.Time { return canon.At(at).Time }
	open(func(i *node.Intent) { i.Started = canon.At(at.Add(-5 * time.Second)) })
	hears("waiting for the lock, held by pid 7; it began 5s ago to make 2.0 run instead of 1.0")
	open(func(i *node.Intent) { i.Phase = node.RollingBack })
	hears("waiting for the lock, held by pid 7; 2.0 failed, and it goes back to 1.0")
	w.give(node.Pin{Release: "2.0", At: 7})
	c.opts.Order = true
	hears("waiting for the lock, held by pid 7; 2.0 failed, and it goes back to 1.0; the order is written, and it gives way to it")
	open(func(i *node.Intent) { i.Pin, i.Attempt, i.Started = true, 7, canon.At(at) })
	hears("2.0 is started by this order, and pid 7 watches whether it stays well")
}

// What a person hears who waits for a release to prove itself.
func TestProving(t *testing.T) {
	w := pinnable(t)
	w.puller.cfg.Health.StartTimeout, w.puller.cfg.Health.StableFor = time.Minute, 30*time.Second
	c := &cycle{Puller: w.puller}
	now := time.Now()
	w.puller.now = func() time.Time { return now }
	if got := c.proving("2.0", now.Add(-12*time.Second), time.Time{}, errors.New("status is 503, want 200")); got != "2.0 is not well yet, 12s of at most 1m0s: status is 503, want 200" {
		t.Errorf("it says %q", got)
	}
	if got := c.proving("2.0", now.Add(-12*time.Second), now.Add(-5*time.Second), nil); got != "2.0 is well, and has to stay so: 5s of 30s" {
		t.Errorf("it says %q", got)
	}
}
