// Package daemon is a puller that goes on running: `puller run`.
//
// One goroutine does cycle after cycle: the first at once, the next by schedule.poll. It
// wakes early for a pin that another process has given, for what a cycle said is due by then
// (puller.Result.Again: the end of a pin, for example, or the opening of the maintenance
// window), for SIGHUP, and when the configuration file has changed. A second goroutine
// answers to the service manager:
//
//	READY=1        once the first cycle has recovered what was left open, or found that
//	               another puller is at work. A node without network becomes ready. A
//	               release that was restarted and has yet to prove itself, which may take
//	               as long as health.stable_for, is not waited for: there is nothing left
//	               that starting the daemon could add to it
//	STATUS=        how the last cycle ended, as `puller` would have said it
//	WATCHDOG=1     every half of WATCHDOG_USEC, while the cycle moves
//	RELOADING=1    when the configuration is read again, then READY=1
//	STOPPING=1     at SIGTERM or SIGINT
//	EXTEND_TIMEOUT_USEC=  while starting and stopping, as long as the cycle moves
//
// A cycle moves when it says what it does next within the time that it gave itself
// (puller.Beat). When it does not, the log says once which part of it hangs, and the
// manager hears no more: it kills the daemon and starts it again, and the first thing
// that the new one does is recovery.
//
// SIGTERM and SIGINT stop the daemon between steps. A poll or a download ends at once; a
// swap or a restart is finished first; a release that has not proven itself yet is left
// to the next start, which goes on. A second signal has its default effect: it kills.
//
// SIGHUP reads the configuration again. A good one counts from the next cycle on, which
// begins at once. With a bad one, or one for another app or root, the daemon goes on as
// before; log, STATUS and `puller status` say so.
//
// The configuration file is looked at between two cycles, every two seconds. When it is
// another one than was read, and stays so for two seconds, it is read as at SIGHUP; if it
// says the same as before nothing happens. A bad file, or none, is said once, and read again
// when it changes. Files that the configuration names are not watched: credentials and the
// anchor of trust are read when they are used.
//
// After a cycle that failed with exit 1 the daemon waits longer each time, and starts
// anew with the first that does not: 10 s, 20 s, 40 s … 15 min, less up to a fifth by
// chance; and as long as the storage or the git host asks for (Retry-After), 15 min at
// most. Whatever else a cycle ends with, the next one comes by the schedule.
//
// After each cycle, and between two when its heartbeat is due, the daemon writes the report of
// its node (puller.Report), if that is on. No cycle waits for more than that takes, ten
// seconds, and an order for nothing.
//
// A cycle in which nothing happens logs nothing, and how cycles end is logged when it
// changes. Of the memory that a busy cycle took nothing is kept.
//
// One daemon per app holds the file .sando/daemon, and makes it again when it is gone. It takes the lock of the app for each
// cycle only, so that single runs of `puller` find their turn.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"sync"
	"syscall"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/later"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
	"makenot.work/sando/puller/schedule"
)

// Puller does the cycles of one configuration.
type Puller interface {
	Step(ctx context.Context, opts puller.Options) (puller.Result, error)
	Report(ctx context.Context, beat puller.Beat) time.Time
	Orders() string
	Close() error
}

// Options are what a daemon is made of.
type Options struct {
	Load    func() (*puller.Config, error) // reads the configuration, at each reload again
	File    string                         // what it is read from
	Open    func(ctx context.Context, cfg *puller.Config) (Puller, error)
	Manager Manager
	Log     *slog.Logger
}

// Run is the daemon. It returns nil when it was told to stop: by ctx, which the first
// SIGTERM or SIGINT must end. Errors are of the start: a configuration that is not good,
// a root that is not safe, another daemon at work.
func Run(ctx context.Context, o Options) error {
	// The watchdog's SIGABRT, or a panic, must not look like exit 2: Go's runtime exits so,
	// and a manager does not start again what only a person can mend. This way it dies by
	// the signal.
	debug.SetTraceback("crash")
	// A journal that is gone must not take the daemon with it, in the midst of a restart.
	unheard := make(chan os.Signal, 1)
	signal.Notify(unheard, syscall.SIGPIPE)
	defer signal.Stop(unheard)
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP)
	defer signal.Stop(reload)
	d := &daemon{
		Options: o, reload: reload, wall: time.Now, chance: rand.Float64,
		// From now on the next signal has its default effect.
		stopping: func() { signal.Reset(os.Interrupt, syscall.SIGTERM) },
	}
	return d.run(ctx)
}

type daemon struct {
	Options
	reload   <-chan os.Signal
	wall     func() time.Time // the clock that may jump
	chance   func() float64
	stopping func()

	cfg    *puller.Config
	file   file
	puller Puller
	claim  *node.Claim
	me     node.Daemon
	watch  *watch
	ready  sync.Once
	said   said

	tell     time.Time // when the report of this node is due; zero: never
	plan     schedule.Plan
	planned  time.Time // the same by the clock that does not jump
	failures int       // in a row
}

// tick is how often a daemon that waits looks for a pin.
const tick = 2 * time.Second

func (d *daemon) run(ctx context.Context) error {
	d.file.path = d.File
	d.file.reading()
	cfg, err := d.Load()
	if err != nil {
		return err
	}
	d.cfg = cfg
	if d.puller, err = d.Open(ctx, cfg); err != nil {
		return err
	}
	defer func() { d.close(d.puller) }()
	dir, err := node.Open(cfg.Root)
	if err != nil {
		return err
	}
	d.me = node.Daemon{PID: os.Getpid(), Since: canon.At(d.wall())}
	if d.claim, err = dir.Claim(d.me); err != nil {
		return err
	}
	defer func() { d.claim.Close() }()
	d.Log.Info("daemon starts", "app", cfg.App, "node", cfg.Node, "tier", cfg.Tier, "poll", cfg.Polls().String())
	if d.watch, err = newWatch(d.Manager, d.Log); err != nil {
		return err
	}
	idle := make(chan struct{})
	var feeder sync.WaitGroup
	feeder.Go(func() { d.watch.run(ctx, idle, d.stopping) })
	defer feeder.Wait()
	defer close(idle)
	err = d.cycles(ctx)
	d.Log.Info("daemon stops")
	return err
}

// cycles does cycles until it is told to stop, or finds another daemon at work.
func (d *daemon) cycles(ctx context.Context) error {
	opts := puller.Options{Beat: d.beat}
	for first := true; ctx.Err() == nil; first = false {
		select {
		case <-d.reload: // it came during the last cycle, and so did what woke this one
			d.reloaded(ctx, true)
		default:
		}
		before := d.puller.Orders()
		res, err := d.puller.Step(ctx, opts)
		if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
			d.Log.Info("stopped in a cycle", "at", err)
			return nil
		}
		d.beat(puller.Deciding, tick+time.Minute)
		if err := d.keepClaim(); err != nil {
			return err
		}
		d.report(res)
		d.replan(res, later.Of(err))
		if res.Moved || first {
			debug.FreeOSMemory()
		}
		d.tell = d.puller.Report(ctx, d.beat)
		opts.Order = d.wait(ctx, before)
	}
	return nil
}

// keepClaim makes the daemon file again when somebody took it away, with all of .sando for
// example: nobody would know of this daemon, and a second one could begin. One that has
// begun is an error.
func (d *daemon) keepClaim() error {
	if d.claim.Held() {
		return nil
	}
	dir, err := node.Open(d.cfg.Root)
	if err == nil {
		var next *node.Claim
		if next, err = dir.Claim(d.me); err == nil {
			d.Log.Warn("the daemon file was gone: made again", "app", d.cfg.App)
			err = d.claim.Close()
			d.claim = next
		}
	}
	if reason.Of(err) == reason.Config {
		return err
	}
	if err != nil {
		d.Log.Warn("daemon file", "error", err) // tried again after the next cycle
	}
	return nil
}

// beat passes on what a cycle says of itself. A part that comes after recovery makes the
// daemon ready, and so does a release that merely has to prove itself.
func (d *daemon) beat(part puller.Part, within time.Duration) {
	d.watch.beat(part, within)
	switch part {
	case puller.Waiting, puller.Polling, puller.Deciding, puller.Probing:
		d.ready.Do(d.watch.ready)
	}
}

// replan sets when the next cycle is due. wish is for how long a server that failed wants to
// be left alone.
func (d *daemon) replan(res puller.Result, wish time.Duration) {
	now := d.wall()
	polls := d.cfg.Polls()
	plan := polls.Next(now, d.plan, schedule.Offset(d.cfg.App, d.cfg.Node), d.chance())
	if res.Reason.Exit() == 1 {
		d.failures++
		pause := backoff(d.failures, polls.Interval(now), d.chance())
		plan = plan.Instead(max(pause, min(wish, maxBackoff)))
	} else {
		d.failures = 0
	}
	if again := res.Again.Sub(now); again > 0 {
		plan = plan.Within(again)
	}
	d.plan, d.planned = plan, time.Now()
	d.Log.Debug("next cycle", "in", plan.Wait.Round(time.Millisecond))
}

const (
	firstBackoff = 10 * time.Second
	maxBackoff   = 15 * time.Minute
)

// backoff returns how long to wait after the n-th failure in a row.
func backoff(n int, interval time.Duration, chance float64) time.Duration {
	d := min(firstBackoff, interval) << min(n-1, 10)
	return time.Duration(float64(min(d, maxBackoff)) * (1 - chance/5))
}

// wait waits until the next cycle is due, a pin has changed since before, or the
// configuration did, and reports whether a pin is to be carried out.
func (d *daemon) wait(ctx context.Context, before string) (order bool) {
	for {
		if d.file.changed() && d.reloaded(ctx, false) {
			return false
		}
		left := d.plan.Left(d.wall(), time.Since(d.planned))
		if left <= 0 {
			return false
		}
		if now := d.puller.Orders(); now != before {
			d.plan = d.plan.Early()
			return now != ""
		}
		if !d.tell.IsZero() && !d.wall().Before(d.tell) {
			d.tell = d.puller.Report(ctx, d.beat)
		}
		d.beat(sleeping, tick+time.Minute)
		select {
		case <-ctx.Done():
			return false
		case <-d.reload:
			if d.reloaded(ctx, true) {
				return false
			}
		case <-time.After(min(left, tick)):
		}
	}
}

// sleeping is what a daemon does between two cycles.
const sleeping puller.Part = "sleep"

// reloaded reads the configuration again, and reports whether it is another one now. When
// nobody asked for it, what is no news is not said.
func (d *daemon) reloaded(ctx context.Context, asked bool) bool {
	d.file.reading()
	cfg, err := d.Load()
	if err == nil && !asked && d.me.Problem == "" && same(cfg, d.cfg) {
		d.Log.Debug("the configuration file changed, and says the same")
		return false
	}
	d.watch.reloading()
	if err == nil {
		err = d.change(ctx, cfg)
	}
	problem := ""
	if err != nil {
		problem = node.Line(err.Error())
	}
	switch {
	case err == nil:
		d.Log.Info("reloaded", "node", d.cfg.Node, "tier", d.cfg.Tier, "poll", d.cfg.Polls().String())
	case asked || problem != d.me.Problem:
		d.Log.Error("not reloaded: the configuration of before stays in force", "reason", string(reason.Of(err)), "error", err)
	}
	d.me.Problem = problem
	if err := d.claim.Write(d.me); err != nil {
		d.Log.Warn("daemon file", "error", err)
	}
	d.watch.status(d.status())
	d.watch.reloaded()
	return err == nil
}

// change goes on with cfg.
func (d *daemon) change(ctx context.Context, cfg *puller.Config) error {
	for _, fixed := range []struct{ key, old, now string }{{"app", d.cfg.App, cfg.App}, {"root", d.cfg.Root, cfg.Root}} {
		if fixed.old != fixed.now {
			return reason.Errorf(reason.Config, "%s changed from %q to %q: this takes a new daemon; restart it", fixed.key, fixed.old, fixed.now)
		}
	}
	next, err := d.Open(ctx, cfg)
	if err != nil {
		return err
	}
	d.close(d.puller)
	d.cfg, d.puller = cfg, next
	d.plan, d.failures = schedule.Plan{}, 0
	d.said.outcome = "" // who reloads wants to see what comes of it
	return nil
}

func (d *daemon) close(p Puller) {
	if err := p.Close(); err != nil {
		d.Log.Warn("close", "error", err)
	}
}

// said is what the log holds already.
type said struct {
	outcome  string
	warnings []string
	line     string // of the last cycle, for the manager
}

// report says how a cycle ended: to the manager always, in the log what is news.
func (d *daemon) report(res puller.Result) {
	for _, w := range res.Warnings {
		if !slices.Contains(d.said.warnings, w) {
			d.Log.Warn(w)
		}
	}
	d.said.warnings = res.Warnings
	outcome := fmt.Sprintf("%s: %s", res.Reason, res.Message)
	if res.Reason == reason.Current || res.Reason == reason.Updated {
		outcome = "runs " + res.Running // that it was activated is no news in the next cycle
	}
	level := slog.LevelInfo
	switch {
	case outcome == d.said.outcome && res.Reason != reason.Updated:
		level = slog.LevelDebug
	case res.Reason == reason.Degraded:
		level = slog.LevelError // nothing more happens by itself
	case res.Reason.Exit() != 0:
		level = slog.LevelWarn
	}
	d.Log.Log(context.Background(), level, res.Message, "reason", string(res.Reason))
	d.said.outcome, d.said.line = outcome, fmt.Sprintf("%s: %s", res.Reason, res.Message)
	d.watch.status(d.status())
}

// status is one line for the manager.
func (d *daemon) status() string {
	line := d.said.line
	if d.me.Problem != "" {
		line = "not reloaded, " + d.me.Problem + "; " + line
	}
	return node.Line(line)
}
