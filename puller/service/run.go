package service

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrEnded says that the app has ended, and that nothing will start it again.
	ErrEnded = errors.New("it does not run")
	// ErrBlind says that nobody can be asked whether the app runs.
	ErrBlind = errors.New("the service manager cannot be asked")
	// ErrGoingDown says that the machine is shutting down, which proves nothing about a
	// release. The intent stays open.
	ErrGoingDown = errors.New("the machine is shutting down")
)

// Run is how the app runs, as a service manager sees it.
type Run struct {
	Fresh      bool      // a restart has to make it another invocation
	Invocation string    // names this run of it; Never: there was none
	Began      time.Time // to start, before anything of it ran; zero when it neither runs nor starts
	Restarts   int       // by the manager itself
	Up         bool
	Ended      bool // and nothing starts it again
	Job        bool // it is being started or stopped
	Words      string
}

// Never is the invocation of an app that never ran.
const Never = "none"

// Verdict says what is wrong with r: before is the invocation from before the restart,
// "" when that is not known; first is the run that was well, nil when none was yet.
func (r Run) Verdict(before string, first *Run) error {
	switch {
	case r.Ended:
		return fmt.Errorf("%w: %s", ErrEnded, r.Words)
	case first != nil && (r.Invocation != first.Invocation || r.Restarts > first.Restarts):
		return fmt.Errorf("it was restarted: %s", r.Words)
	case !r.Up:
		return errors.New(r.Words)
	case r.Fresh && before != "" && r.Invocation == before:
		return fmt.Errorf("it runs as before the restart: %s", r.Words)
	}
	return nil
}
