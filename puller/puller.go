// Package puller makes a node run what its tier's channel, or a pin, says.
//
// Step is one cycle. It may be repeated after a crash anywhere:
//
//	recover   finish or undo what a cycle that died left open      recover.go
//	poll      ask for news, walk trust, accept the state             source.go, poll.go, trust.go
//	decide    what should run, and whether to act on it now         decide.go
//	provide   manifest, tarball, unpack, put in place               provide.go, fetch.go
//	          the app's env files fit it; hooks that come before    audit.go, hooks.go
//	          outside the maintenance window: as far as that        await.go
//	activate  intent, swap, restart, health, result or the way back activate.go
//	tidy      keep `retain` releases, delete leftovers              gc.go
//
// # Report, after it, tells the bucket how this node is                report.go
//
// Accepting and acting are separate: each cycle compares what should run with what
// runs, whether or not the channel moved just now. A fault in what was polled changes
// nothing of what was accepted before.
//
// What was decided is decided anew when the release is on disk, and after a long download
// the channel is asked again before: so a halt counts, a window that closed, or opened.
//
// What a cycle may not do is in the order of its writes: the accepted channel state is
// durable before anything acts on it, a release is durable before the intent names
// it, the intent before `current` moves, the result after the release proved itself.
//
// A tarball that arrived in part stays in fetch/ when a cycle is interrupted, killed, or
// ends for a reason that passes, and the next cycle goes on with it. There is never more than
// one, it is never believed (size and hash are compared at the end, whatever it was
// begun with), and once its release is installed, or is not wanted any more, it goes. A
// download that takes longer than package download allows ends the cycle with "io"; a
// new order ends one at once.
//
// The puller runs as the owner of its directories, root on a server. It never runs
// what it fetched in order to check it, never follows a link that a bundle brought,
// and knows no private key.
package puller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/report"
	"makenot.work/sando/puller/hook"
	"makenot.work/sando/puller/reporter"
	"makenot.work/sando/puller/service"
)

// Puller updates one app on one node. It is for one goroutine.
type Puller struct {
	cfg     *Config
	dir     *node.Dir
	bucket  bucket.Bucket
	service service.Service
	hooks   *hook.Runner
	log     *slog.Logger
	now     func() time.Time
	proof   clock // in which releases prove themselves
	meter   Meter

	reporter *reporter.Reporter // nil: reports are off
	said     *report.Report     // how this node is, by the last cycle; nil: none came to an end

	mirror *repo.Repo // kept from cycle to cycle, with its connection; nil until the first poll
}

// Meter shows how far a download or an unpacking has come.
type Meter func(what string, total int64) (add func(n int64), done func())

// New returns a puller for cfg. log gets what happens; meter may be nil.
func New(ctx context.Context, cfg *Config, log *slog.Logger, meter Meter) (*Puller, error) {
	dir, err := node.View(cfg.Root)
	if err != nil {
		return nil, err
	}
	b, err := bucket.Open(ctx, cfg.bucket())
	if err != nil {
		return nil, fmt.Errorf("open storage: %w", err)
	}
	if meter == nil {
		meter = func(string, int64) (func(int64), func()) { return func(int64) {}, func() {} }
	}
	p := &Puller{
		cfg: cfg, dir: dir, bucket: b, service: service.New(cfg.service()), hooks: hook.New(cfg.hooks()),
		log: log, now: time.Now, proof: clock{time.Now, sleep}, meter: meter,
	}
	return p, p.openReports(ctx)
}

// Close ends what a Puller keeps from cycle to cycle.
func (p *Puller) Close() error {
	if p.mirror == nil {
		return nil
	}
	r := p.mirror
	p.mirror = nil
	return r.Close()
}

// Orders returns what changes whenever a pin is given or taken back.
func (p *Puller) Orders() string { return p.dir.PinStamp() }

// Options change one cycle.
type Options struct {
	Now   bool // ignore window, rollout and backoff
	Order bool // carry out a pin that was just given: poll only if it is not on disk
	Beat  Beat // is told how the cycle goes on; may be nil
	Tell  Tell // is told in words what takes its time; may be nil

	// Prepare goes as far as the release that would be activated is on disk and verified, and
	// says so in Result.Ready. Neither env files nor hooks are looked at.
	Prepare bool
	// Start activates what is live, although nothing else is to run: the app does not run.
	Start bool
	// Adopt takes over a release of another deployer that has the name of the target.
	Adopt bool
	// Handover is called when the app is about to be started, before an intent is written or
	// an open one is resumed: whoever runs in its place gives way. It may be called more than
	// once. An error ends the cycle, and changes nothing. It may be nil.
	Handover func(ctx context.Context) error

	unpin bool // a pin was just taken back
}

// Result is how a cycle ended.
type Result struct {
	Reason   reason.Code   `json:"reason"`
	Message  string        `json:"message"`
	App      string        `json:"app"`
	Node     string        `json:"node"`
	Tier     string        `json:"tier"`
	Running  string        `json:"running,omitempty"`  // the version that is live now
	Manifest layout.Digest `json:"manifest,omitempty"` // its manifest
	From     string        `json:"from,omitempty"`     // what ran before, when something was activated
	Warnings []string      `json:"warnings,omitempty"`

	Again time.Time `json:"-"` // when something is due by itself: another start of a first install, the end of a pin, the opening of the window; zero: nothing is
	Ready string    `json:"-"` // with Options.Prepare: the version on disk that would be activated
	Moved bool      `json:"-"` // something was fetched, activated or hashed
}

// cycle is the state of one Step.
type cycle struct {
	*Puller
	opts   Options
	dry    bool   // write nothing
	handed bool   // the app was to be started, and others gave way
	acting bool   // this cycle moved `current`: what is open is its own
	open   bool   // the state on disk has an intent
	moved  bool   // for Result.Moved
	seen   string // the app's invocation that has to prove itself; "" when none was seen
	// downtime is that of the release that has to prove itself, in ms; 0: it did not answer yet
	downtime int64
	cur      node.Current
	st       *node.State
	order    *node.Pin // as it was when this cycle looked last
	heard    bool      // it did look
	pin      *node.Pin // the order in force: order, unless its time is over
	trusted
	awaited
	channel  *accepted
	warnings []string
}

// Step does one cycle. The error is nil exactly when the result's reason exits 0;
// otherwise it carries that reason, and the result says the same. Callers may match
// the reasons of package reason, and ctx's error when the cycle was interrupted, in
// which case the next one goes on where this one stopped.
func (p *Puller) Step(ctx context.Context, opts Options) (Result, error) {
	_, res, err := p.once(ctx, opts, func(*cycle) error { return nil })
	return res, err
}

// once does one cycle. With the lock held, and before all else, it calls first, whose error
// ends it without a trace.
func (p *Puller) once(ctx context.Context, opts Options, first func(*cycle) error) (*cycle, Result, error) {
	c := &cycle{Puller: p, opts: opts}
	p.said = nil // what comes to no end says nothing
	dir, err := node.Open(p.cfg.Root)
	if err != nil {
		return c, p.result(reason.Of(err), err.Error()), err
	}
	unlock, err := c.lock(ctx, dir)
	if err != nil {
		return c, p.result(reason.Of(err), err.Error()), err
	}
	defer unlock()
	if err := first(c); err != nil {
		return c, p.result(reason.Of(err), err.Error()), err
	}
	res, err := c.run(ctx)
	c.clean(ctx)
	res, err = c.end(res, err)
	p.said = c.say(res, err)
	return c, res, err
}

// lock makes this the one puller at work. Another one may take as long as it needs.
func (c *cycle) lock(ctx context.Context, dir *node.Dir) (unlock func(), err error) {
	c.begin(Recovering, shortly)
	told := false
	return dir.Lock(ctx, "puller, since "+c.now().UTC().Format(canon.TimeLayout), func(holder string) {
		if !told {
			c.log.Info("waiting for the lock", "holder", holder)
		}
		told = true
		c.begin(Waiting, shortly)
		c.tell(Waiting, func() string { return c.waiting(holder) })
	})
}

func (p *Puller) result(code reason.Code, message string) Result {
	return Result{Reason: code, Message: message, App: p.cfg.App, Node: p.cfg.Node, Tier: p.cfg.Tier}
}

func (c *cycle) run(ctx context.Context) (Result, error) {
	c.begin(Recovering, hook.Patience)
	if err := c.load(); err != nil {
		return Result{}, err
	}
	if err := c.hooks.Clear(ctx); err != nil {
		return Result{}, err
	}
	recovered, err := c.recover(ctx)
	if err != nil && reason.Of(err) != reason.Unhealthy && reason.Of(err) != reason.Degraded {
		return recovered, err
	}
	recoverErr := err
	c.ballast()
	pollErr := c.loadTrust()
	if err := c.loadChannel(); err != nil {
		return Result{}, err
	}
	asked := c.opts.Order
	pending, err := c.pending()
	switch {
	case err != nil:
		return Result{}, err
	case pending:
		pollErr, c.opts.Order = nil, true
	case pollErr == nil:
		c.begin(Polling, pollLimit+shortly)
		if pollErr = c.poll(ctx); errors.Is(pollErr, errOrder) {
			pollErr = c.obey()
		}
	}
	if ctx.Err() != nil {
		return Result{}, ctx.Err()
	}
	c.begin(Deciding, shortly)
	res, err := c.follow(ctx)
	if pending && !asked && err != nil && !c.acting { // it may wait for long: news do not
		if perr := c.poll(ctx); perr != nil {
			c.warn("poll: %s", perr)
		}
	}
	c.tidy(ctx)
	return c.combine(recovered, recoverErr, pollErr, res, err)
}

// follow decides and acts, again whenever a new pin ends the probation it waits in, or what
// was decided does not hold any more.
func (c *cycle) follow(ctx context.Context) (Result, error) {
	for {
		c.judgePin()
		c.again = time.Time{}
		d := c.restarts(decide(c.facts()))
		res, err := c.act(ctx, d)
		if errors.Is(err, errNews) {
			continue
		}
		if !errors.Is(err, errOrder) {
			code := res.Reason
			if err != nil {
				code = reason.Of(err)
			}
			c.dropFetched(code)
			res, err = c.settleLeft(ctx, res, err)
		}
		if !errors.Is(err, errOrder) {
			return res, err
		}
		if err := c.obey(); err != nil {
			return Result{}, err
		}
	}
}

// obey takes note of a new order.
func (c *cycle) obey() error {
	c.log.Info("a new order came")
	c.acting = false
	if err := c.loadPin(); err != nil {
		return err
	}
	return c.look()
}

// settleLeft finishes an activation that an order overruled although the order itself
// was not carried out, so that nothing stays open. It returns errOrder when the next one came.
func (c *cycle) settleLeft(ctx context.Context, res Result, err error) (Result, error) {
	if c.st.Intent == nil || ctx.Err() != nil || c.acting {
		return res, err
	}
	left, lerr := c.resume(ctx)
	if err == nil || errors.Is(lerr, errOrder) {
		return left, lerr
	}
	if lerr != nil {
		c.log.Warn("the open activation ended", "outcome", lerr)
	}
	return res, err
}

// combine chooses what the whole cycle says. What an activation did outranks what the
// poll found, unless the poll refused something: a refusal must be seen.
func (c *cycle) combine(recovered Result, recoverErr, pollErr error, res Result, err error) (Result, error) {
	if err == nil && recoverErr != nil {
		// What recovery did is what happened in this cycle; that the channel asks for
		// nothing more does not undo it.
		return recovered, recoverErr
	}
	if recoverErr != nil && reason.Of(err) == reason.Blocked {
		return recovered, recoverErr
	}
	if err == nil && res.Reason != reason.Updated && recovered.Reason == reason.Updated {
		res.Reason, res.Message, res.From = recovered.Reason, recovered.Message, recovered.From
	}
	if pollErr == nil {
		return res, err
	}
	if c.opts.Order { // what was asked for is the order
		c.warn("poll: %s", pollErr)
		return res, err
	}
	if err == nil {
		if res.Message != "" {
			pollErr = reason.Errorf(reason.Of(pollErr), "%w (%s)", pollErr, res.Message)
		}
		return res, pollErr
	}
	if reason.Of(err) == reason.Stale && c.channel == nil {
		return res, pollErr // nothing was ever accepted, and this is why
	}
	c.warn("poll: %s", pollErr)
	return res, err
}

func (c *cycle) warn(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.warnings, text) {
		c.warnings = append(c.warnings, text)
	}
}

// end completes the result and keeps it for status.
func (c *cycle) end(res Result, err error) (Result, error) {
	code, message := res.Reason, res.Message
	if err != nil {
		code, message = reason.Of(err), err.Error()
	}
	from, ready := res.From, res.Ready
	res = c.result(code, message)
	res.From, res.Ready, res.Warnings = from, ready, c.warnings
	res.Moved = c.moved
	if c.st == nil {
		return res, err
	}
	res.Again = c.due()
	if lerr := c.look(); lerr == nil {
		res.Running = c.cur.Version
		if r := c.st.Running; r != nil && r.Version == c.cur.Version {
			res.Manifest = r.Manifest
		}
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, service.ErrGoingDown) {
		return res, err // it came to no end
	}
	// What was done is on record already: that status does not tell of it undoes nothing.
	if err := c.keep(code, message); err != nil {
		c.warn("status is not up to date: %s", err)
	}
	res.Warnings = c.warnings
	return res, err
}

// due returns when something is to be done that no poll brings; the zero time if nothing is.
func (c *cycle) due() time.Time {
	var next time.Time
	soonest := func(t time.Time) {
		if t.After(c.now()) && (next.IsZero() || t.Before(next)) {
			next = t
		}
	}
	if r := c.st.Retry; r != nil {
		soonest(r.Next.Time)
	}
	if c.pin != nil && !c.pin.Until.IsZero() {
		soonest(c.pin.Until.Time)
	}
	soonest(c.again)
	return next
}

// keep writes how the cycle ended, when it ended otherwise than the one before.
func (c *cycle) keep(code reason.Code, message string) error {
	last := c.st.Last
	if code == reason.Updated { // for status, what matters is what holds from now on
		code = reason.Current
		if c.pin != nil {
			code = reason.Pinned
		}
	}
	if code == reason.Current || code == reason.Pinned {
		message = "" // status says it from the facts
	}
	message = node.Line(message)
	if last.Reason == code && last.Message == message {
		return nil
	}
	since := canon.At(c.now())
	if last.Reason == code {
		since = last.Since
	}
	c.st.Last = node.Outcome{Reason: code, Message: message, Since: since}
	if c.dry {
		return nil
	}
	if err := c.write(); err != nil { // never at the price of the ballast
		return err
	}
	// Only then: what is not on record would be news in the next cycle, and in each after it.
	if last.Reason != code && code.Exit() == 3 {
		c.record(node.Event{Event: "refused", Reason: code, Message: message})
	}
	return nil
}

// save writes the state. What ends an activation, or turns it round, or brings back what ran
// before, takes the ballast when the disk is full.
func (c *cycle) save() error {
	if i := c.st.Intent; c.open || i != nil && (i.Pin || i.Attempt == 0) {
		return c.saveUrgently()
	}
	return c.saveBy(c.write)
}

// saveUrgently writes the state, at the price of the ballast if the disk is full: what it
// says is in the way of orders, or keeps something from being done again and again.
func (c *cycle) saveUrgently() error {
	return c.saveBy(func() error { return c.dir.Urgent(c.write) })
}

func (c *cycle) saveBy(write func() error) error {
	if c.dry {
		return nil
	}
	err := write()
	if err == nil {
		c.open = c.st.Intent != nil
	}
	return err
}

func (c *cycle) write() error {
	c.st.Shorten()
	return c.dir.SaveState(c.st)
}

// record adds to the history. A history that cannot be written holds nothing up.
func (c *cycle) record(e node.Event) {
	if c.dry {
		return
	}
	e.At = canon.At(c.now())
	if err := c.dir.Record(e); err != nil {
		c.log.Warn("history", "error", err)
	}
}
