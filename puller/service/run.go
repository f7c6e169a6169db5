package service

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrEnded says that the app has ended, and that nothing will start it again.
	ErrEnded = errors.New("it did not run")
	// ErrAgain says that the app has ended, and that the manager starts it again by itself.
	ErrAgain = errors.New("it ended before it was well")
	// ErrBlind says that nobody can be asked whether the app runs.
	ErrBlind = errors.New("the service manager cannot be asked")
	// ErrGoingDown says that the machine is shutting down, which proves nothing about a
	// release. The intent stays open.
	ErrGoingDown = errors.New("the machine is shutting down")
	// ErrHindered says that others kept the app from being started, or from being looked at,
	// which proves nothing about a release either. It comes with a reason of its own.
	ErrHindered = errors.New("this says nothing about the release")
)

// Run is how the app runs, as a service manager sees it.
type Run struct {
	Fresh      bool      // a restart has to make it another invocation
	Invocation string    // names this run of it; Never: there was none
	Began      time.Time // to start, before anything of it ran; zero when it neither runs nor starts
	Restarts   int       // by the manager itself
	Up         bool
	Ended      bool // and nothing starts it again
	Again      bool // it ended, and the manager is about to start it again
	Job        bool // it is being started or stopped
	Words      string
	Was        string // the same in the past tense, for what is read later; without it Words
}

// told says how the app was, in words that hold when they are read later.
func (r Run) told() string {
	if r.Was != "" {
		return r.Was
	}
	return r.Words
}

// Past is what a verdict knows from before.
type Past struct {
	Before   string // the invocation from before the restart; "" when that is not known
	Well     *Run   // the run that was well first; nil when none was yet
	Bears    bool   // an app that was never well may be restarted by the manager
	Restarts int    // how often it was when it was started, where that was not never
}

// Never is the invocation of an app that never ran.
const Never = "none"

// Verdict says what is wrong with r, for a release that has to prove itself.
func (r Run) Verdict(p Past) error {
	switch {
	case r.Ended:
		return fmt.Errorf("%w: %s", ErrEnded, r.told())
	case p.Well != nil && (r.Invocation != p.Well.Invocation || r.Restarts > p.Well.Restarts):
		return fmt.Errorf("it was restarted: %s", r.told())
	case p.Well == nil && !p.Bears && (r.Again || r.Restarts > p.Restarts):
		return fmt.Errorf("%w: %s", ErrAgain, r.told())
	case !r.Up:
		return errors.New(r.Words)
	case r.Fresh && p.Before != "" && r.Invocation == p.Before:
		return fmt.Errorf("it runs as before the restart: %s", r.Words)
	}
	return nil
}
