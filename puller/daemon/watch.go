package daemon

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/puller"
)

// Manager is the service manager that started the daemon, if there is one; see package
// systemd.
type Manager interface {
	Ready() error
	Reloading() error
	Stopping() error
	Status(text string) error
	Alive() error
	Patience(d time.Duration) error
	Watchdog() (time.Duration, error)
}

// watch tells the manager that the daemon is well, as long as it is.
type watch struct {
	manager Manager
	log     *slog.Logger
	every   time.Duration
	dog     bool

	mu    sync.Mutex
	part  puller.Part
	until time.Time
	hangs bool // part has overstayed, and the log says so
	is    bool // ready
	deaf  bool // telling the manager failed, and the log says so
}

// unwatched is how often a manager without a watchdog is told to be patient, while the
// daemon starts and stops.
const unwatched = 10 * time.Second

func newWatch(m Manager, log *slog.Logger) (*watch, error) {
	within, err := m.Watchdog()
	if err != nil {
		return nil, reason.Errorf(reason.Config, "watchdog: %w", err)
	}
	w := &watch{manager: m, log: log, every: unwatched, dog: within > 0}
	if w.dog {
		w.every = within / 2
	}
	w.beat(puller.Recovering, time.Minute)
	return w, nil
}

// beat notes what the daemon does, and within how long it will say the next thing.
func (w *watch) beat(part puller.Part, within time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.hangs {
		w.log.Info("it moves again", "part", string(w.part))
	}
	w.part, w.until, w.hangs = part, time.Now().Add(within), false
}

// run feeds the watchdog until idle is closed. When ctx ends it tells that the daemon
// stops, calls stopping, and goes on.
func (w *watch) run(ctx context.Context, idle <-chan struct{}, stopping func()) {
	t := time.NewTicker(w.every)
	defer t.Stop()
	stop, patience := ctx.Done(), true
	for {
		w.feed(patience || !w.isReady())
		patience = ctx.Err() != nil
		select {
		case <-idle:
			return
		case <-stop:
			stop, patience = nil, true // it is closed from now on
			w.tell(w.manager.Stopping)
			stopping()
		case <-t.C:
		}
	}
}

// feed sends what the manager waits for, unless the daemon hangs.
func (w *watch) feed(patience bool) {
	if !w.moves() {
		return
	}
	if w.dog {
		w.tell(w.manager.Alive)
	}
	if patience {
		w.tell(func() error { return w.manager.Patience(3 * w.every) })
	}
}

// moves reports whether the daemon is within the time that it gave itself.
func (w *watch) moves() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	late := time.Since(w.until)
	if late < 0 {
		return true
	}
	if !w.hangs {
		w.log.Error("a cycle hangs: the watchdog is not fed any more", "part", string(w.part), "late", late.Round(time.Millisecond))
	}
	w.hangs = true
	return false
}

func (w *watch) isReady() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.is
}

// ready tells that the daemon has started.
func (w *watch) ready() {
	w.mu.Lock()
	w.is = true
	w.mu.Unlock()
	w.tell(w.manager.Ready)
}

func (w *watch) reloading() { w.tell(w.manager.Reloading) }

func (w *watch) reloaded() { w.tell(w.manager.Ready) }

func (w *watch) status(text string) {
	w.tell(func() error { return w.manager.Status(text) })
}

// tell tells the manager something. That it cannot be reached changes nothing here.
func (w *watch) tell(what func() error) {
	err := what()
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !w.deaf {
		w.log.Warn("the service manager cannot be told", "error", err)
	}
	w.deaf = err != nil
}
