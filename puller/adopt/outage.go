package adopt

import (
	"context"
	"fmt"
	"sync"
	"time"

	"makenot.work/sando/internal/probe"
)

// askEvery is how often the app is asked while nobody may be there.
const askEvery = 20 * time.Millisecond

// meter measures for how long the app does not answer. It asks the old one until that is gone,
// and the new one from then on.
type meter struct {
	old, new probe.Probe
	now      func() time.Time

	mu    sync.Mutex
	told  time.Time // when the old one was told to stop; zero: it was not yet
	gone  bool      // nothing of it runs
	last  time.Time // the end of its last good answer; zero: none was seen
	first time.Time // the end of the first good answer of the new one
}

// look asks the old app.
func (m *meter) look(ctx context.Context) {
	if m.old.Empty() || m.old.Run(ctx, "") != nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.gone { // else it was another one
		m.last = m.now()
	}
}

// begun reports whether the old app was told to stop.
func (m *meter) begun() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.told.IsZero()
}

// stopping notes when the old app was told to stop, once.
func (m *meter) stopping(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.told.IsZero() {
		m.told = at
	}
}

// stopped notes that nothing of the old app runs.
func (m *meter) stopped() {
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
}

// run asks until the new app answers as version, or ctx ends.
func (m *meter) run(ctx context.Context, version string) {
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for ctx.Err() == nil && !m.ask(ctx, version) {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// ask asks whoever may be there, and reports whether it was the new app.
func (m *meter) ask(ctx context.Context, version string) bool {
	m.mu.Lock()
	gone := m.gone
	m.mu.Unlock()
	if !gone {
		m.look(ctx)
		return false
	}
	if m.new.Empty() || m.new.Run(ctx, version) != nil {
		return false
	}
	m.mu.Lock()
	m.first = m.now()
	m.mu.Unlock()
	return true
}

// outage says for how long nobody answered, and how that was measured. until is when the new
// app was found well, for one that nobody can ask.
func (m *meter) outage(until time.Time) (time.Duration, string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	from, by := m.told, "the old unit was told to stop"
	if m.last.After(from.Add(-time.Second)) { // an older one is of before
		from, by = m.last, "the last good answer of the old app"
	}
	to, end := m.first, fmt.Sprintf("the first good answer of the new one; %s was asked every %s", m.new.URL, askEvery)
	if to.IsZero() {
		to, end = until, "the new one was found well; there is no health URL to ask"
	}
	return to.Sub(from), fmt.Sprintf("from %s to %s", by, end)
}
