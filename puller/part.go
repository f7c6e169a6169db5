package puller

import "time"

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
	Restarting Part = "restart"  // of the app
	Probing    Part = "health"   // of the app, once for each probe
	Tidying    Part = "gc"       // of old releases
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
