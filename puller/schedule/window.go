package schedule

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // for a machine without; the rules of one that has them come first

	"github.com/robfig/cron/v3"
)

// Window is when releases may be activated. Its zero value never opens.
type Window struct {
	text   string
	line   cron.Schedule
	length time.Duration
	zone   *time.Location
	always bool
}

// Always returns the window of a node that has none: it is open at any time.
func Always() Window { return Window{always: true} }

const (
	minLength = time.Minute // a timer that does a cycle each minute must not miss it
	maxLength = maxEvery
	maxSpread = time.Minute
)

// Zone returns the time zone of that name, "" for that of the machine.
func Zone(name string) (*time.Location, error) {
	if name == "" {
		return time.Local, nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		return nil, fmt.Errorf("timezone: %q is not the name of a time zone, such as \"Europe/Berlin\" or \"UTC\": %w", name, err)
	}
	return zone, nil
}

// ParseWindow reads a line of cron, which says when the window opens in the given zone.
func ParseWindow(line string, length time.Duration, zone *time.Location) (Window, error) {
	w := Window{text: line, length: length, zone: zone}
	if strings.HasPrefix(line, "@every") {
		return w, fmt.Errorf("window: %q says no time of day; write a line of cron such as \"0 2 * * 6\", or \"@daily\"", line)
	}
	var err error
	if w.line, err = parseLine(line); err != nil {
		return w, fmt.Errorf("window: %q is neither a line of cron such as \"0 2 * * 6\" nor \"@daily\": %w", line, err)
	}
	if length < minLength || length > maxLength {
		return w, fmt.Errorf("window_length: %s is not 1m to 8784h", length)
	}
	return w, nil
}

// String says when the window opens and for how long, in words for people.
func (w Window) String() string {
	if w.always {
		return "always"
	}
	zone := "local time"
	if w.zone != time.Local {
		zone = w.zone.String()
	}
	return fmt.Sprintf("%q for %s, %s", w.text, short(w.length), zone)
}

// Limited reports whether there are times at which the window is not open.
func (w Window) Limited() bool { return !w.always }

// Open reports whether the window is open at that moment.
func (w Window) Open(now time.Time) bool {
	if w.always || w.line == nil {
		return w.always
	}
	opening := w.Next(now.Add(-w.length))
	return !opening.IsZero() && !opening.After(now)
}

// Next returns the first moment after now at which the window opens, whether or not it is
// open then; the zero time if it always is, or never.
func (w Window) Next(now time.Time) time.Time {
	if w.line == nil {
		return time.Time{}
	}
	// A period is a time in which the zone's clocks are not changed. What the line means
	// within one is plain arithmetic.
	for within, after := now, now; ; {
		period := within.In(w.zone)
		_, offset := period.Zone()
		_, end := period.ZoneBounds()
		if !end.IsZero() && !end.After(within) {
			// Of the last day of leap years after 2037 package time says that its period is over.
			end = within.Truncate(24 * time.Hour).Add(24 * time.Hour)
		}
		next := following(w.line, after.In(time.FixedZone("", offset)))
		if end.IsZero() {
			return w.in(next)
		}
		if !next.IsZero() && next.Before(end) {
			return w.in(next)
		}
		_, ahead := end.In(w.zone).Zone()
		if missing := time.Duration(ahead-offset) * time.Second; !next.IsZero() && next.Before(end.Add(missing)) {
			return w.in(end)
		}
		within, after = end, end.Add(-time.Nanosecond)
	}
}

func (w Window) in(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.In(w.zone)
}

// following returns the first moment after t that the line names. What cron looks for in
// vain within five years may come after eight: 2100 is no leap year.
func following(line cron.Schedule, t time.Time) time.Time {
	for range 3 {
		if next := line.Next(t); !next.IsZero() {
			return next
		}
		t = t.AddDate(4, 0, 0)
	}
	return time.Time{}
}

// Wake returns when a node begins that waits for the next opening: by its offset after it,
// so that a fleet does not restart in one second.
func (w Window) Wake(now time.Time, offset float64) time.Time {
	return w.Next(now).Add(around(min(w.length/10, maxSpread), offset-1))
}

// Say writes a moment as the window's zone and UTC have it.
func (w Window) Say(t time.Time) string {
	utc := t.UTC().Format("2006-01-02T15:04:05Z")
	if w.zone == nil || w.zone == time.UTC {
		return utc
	}
	return fmt.Sprintf("%s (%s)", t.In(w.zone).Format("2006-01-02 15:04 MST"), utc)
}

// short writes a duration without the parts that are zero at its end.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
