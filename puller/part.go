package puller

import (
	"fmt"
	"time"

	"makenot.work/sando/layout/node"
)

// Part is a part of a cycle. Meters have more: "fetch" and "unpack".
type Part string

const (
	Waiting    Part = "lock"     // another puller is at work
	Recovering Part = "recover"  // what a cycle that died left open
	Polling    Part = "poll"     // recovery is over
	Deciding   Part = "decide"   // the poll is over, or was not needed
	Asking     Part = "manifest" // and its signatures
	Installing Part = "install"  // what was unpacked becomes durable
	Hashing    Part = "verify"   // a release that is on disk
	Hooking    Part = "hook"     // a program of the operator's
	Restarting Part = "restart"  // of the app
	Probing    Part = "health"   // of the app, once for each probe
	Tidying    Part = "gc"       // of old releases
	Reporting  Part = "report"   // the cycle is over
)

// Beat is told what a cycle begins to do, and within how long it will be told the next
// thing: a cycle that is silent for longer hangs. What moves bytes says so again while
// it moves them. A Beat is called by several goroutines, and often.
type Beat func(part Part, within time.Duration)

// How long a part may take. Each is far above what a slow machine needs, and above the
// part's own timeouts, which end it with an error: only what ignores them hangs.
const (
	shortly  = time.Minute
	askTime  = 5 * time.Minute // requests, each with retries
	tidyTime = 10 * time.Minute
	stall    = 5 * time.Minute // without a byte moved
)

func (c *cycle) begin(part Part, within time.Duration) {
	if c.opts.Beat != nil {
		c.opts.Beat(part, within)
	}
}

// beginBulk begins a part that reads or writes at most a whole release.
func (c *cycle) beginBulk(part Part) {
	c.moved = true
	const slowest = 4 << 20 // bytes a second
	c.begin(part, stall+time.Duration(c.cfg.maxBundle/slowest)*time.Second)
}

// meter shows progress, and tells it to the beat.
func (c *cycle) meter(what string, total int64) (add func(n int64), done func()) {
	c.moved = true
	show, done := c.Puller.meter(what, total)
	c.begin(Part(what), stall)
	return func(n int64) {
		show(n)
		c.begin(Part(what), stall)
	}, done
}

// Tell is told in words, for a person who waits, what a cycle does that takes its time. The
// words of a part change while it lasts; to ask for them costs something. A Tell is called by
// one goroutine at a time, about once a second or more often.
type Tell func(part Part, words func() string)

func (c *cycle) tell(part Part, words func() string) {
	if c.opts.Tell != nil {
		c.opts.Tell(part, words)
	}
}

// waiting says what the puller does that holds the lock.
func (c *cycle) waiting(holder string) string {
	text := "waiting for the lock, held by " + holder
	var open *node.Intent
	if st, err := c.dir.State(); err == nil && st != nil {
		open = st.Intent
	}
	switch {
	case open == nil:
	case open.Phase == node.RollingBack:
		text += fmt.Sprintf("; %s failed, and it goes back to %s", open.To, open.From)
	default:
		text += fmt.Sprintf("; it began %s to make %s run instead of %s", c.age(open.Started), open.To, orNone(open.Via))
	}
	if !c.opts.Order {
		return text
	}
	if p, err := c.dir.Pin(); err == nil && p != nil && open != nil && open.Pin && open.Attempt == p.At {
		return fmt.Sprintf("%s is started by this order, and %s watches whether it stays well", open.To, holder)
	}
	return text + "; the order is written, and it gives way to it"
}

// proving says how a release proves itself, in the words of a person who waits for it.
func (c *cycle) proving(v string, begin, well time.Time, err error) string {
	now, h := c.proof.now(), c.cfg.Health
	if err != nil {
		return fmt.Sprintf("%s is not well yet, %s of at most %s: %s", v, now.Sub(begin).Round(time.Second), h.StartTimeout, err)
	}
	return fmt.Sprintf("%s is well, and has to stay so: %s of %s", v, now.Sub(well).Round(time.Second), h.StableFor)
}
