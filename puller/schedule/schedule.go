// Package schedule says when a daemon looks for news next, and when a node may activate
// what it found.
//
// Both are keys of the puller's configuration:
//
//	poll          = "@every 60s"       from one look to the next, 1s to 8784h, whole seconds
//	              = "*/5 8-18 * * 1-5" a line of cron: minute, hour, day of month, month,
//	                                   day of week (0 is Sunday); where both days are
//	                                   given, either will do
//	              = "@hourly"          or @daily, @midnight, @weekly, @monthly, @yearly
//	jitter        = "10%"              0% to 50% of the interval
//	window        = "0 2 * * 6"        when the maintenance window opens: a line of cron, or
//	                                   @daily and so on; none: it is always open
//	window_length = "1h"               how long it stays open, 1m to 8784h
//	timezone      = "Europe/Berlin"    of both lines; none: the machine's local time, as it
//	                                   was when the program started
//
// # Looks
//
// A fleet that starts at one moment, after a power cut, must not ask its servers in step
// for ever after. So each node has an offset of its own, from its app and its name, and
// each look its part of chance:
//
//	@every: the first look comes after the node's part of the interval, the others after
//	        the interval, more or less by up to the jitter
//	a line: each look comes after the moment that the line says, by the node's part of
//	        the jitter and as much again by chance; so before the next moment of the line
//
// The clock of the machine may jump. A look is due when the time it was to wait has
// passed by the clock that cannot jump, or when its moment has come by the one that can.
// So a clock that is set back delays nothing, and one that is set forward causes one look
// and no more: the next is planned from the new time. In the night when clocks go
// forward, what a line says of the hour that is missing is left out; in the night when
// they go back, it happens twice.
//
// # The window
//
// The window opens at each moment that its line names, and stays open for its length.
// One that opens again before it closes stays open; so with a length above the distance
// of two openings it always is. The length is time that passes: a window of two hours is
// as long in the nights when clocks are changed. An opening in the hour that is missing
// happens when the clocks go forward; what the line says of the hour that is there twice
// happens twice.
//
// Whether it is open is a matter of the machine's clock alone. One that is wrong opens
// the window at the wrong time, one that jumps opens or closes it at once.
//
// Who waits for an opening begins after it: by the node's offset of a minute, or of a tenth
// of the length if that is less, so that a fleet does not restart in one second.
//
// Time zones are those of the machine's tzdata; for a machine without, the program has
// its own. The package reads no clock and draws no lots.
package schedule

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
)

// Schedule is when to look. Its zero value is of no use.
type Schedule struct {
	text  string
	every time.Duration // 0: line says it
	line  cron.Schedule
	zone  *time.Location // of the line; nil: as the clock has it
	share float64        // of the interval that the jitter may be
}

const (
	minEvery = time.Second
	maxEvery = 8784 * time.Hour // a long year
)

var (
	// What cron's own parser lets pass is not all sense: "1,,2", "*-5" and "TZ=…" are not.
	fieldForm  = regexp.MustCompile(`^(\*|[0-9a-zA-Z]+(-[0-9a-zA-Z]+)?)(/[0-9]+)?(,(\*|[0-9a-zA-Z]+(-[0-9a-zA-Z]+)?)(/[0-9]+)?)*$`)
	jitterForm = regexp.MustCompile(`^([0-9]|[1-4][0-9]|50)%$`)
)

// Parse reads the two keys.
func Parse(poll, jitter string) (Schedule, error) {
	s := Schedule{text: poll}
	if !jitterForm.MatchString(jitter) {
		return s, fmt.Errorf("jitter: %q is not \"0%%\" to \"50%%\"", jitter)
	}
	percent, err := strconv.Atoi(strings.TrimSuffix(jitter, "%"))
	if err != nil {
		return s, fmt.Errorf("jitter: %w", err)
	}
	s.share = float64(percent) / 100
	if d, ok := strings.CutPrefix(poll, "@every "); ok {
		s.every, err = time.ParseDuration(d)
		if err != nil || s.every < minEvery || s.every > maxEvery || s.every%time.Second != 0 {
			return s, fmt.Errorf("poll: %q is not \"@every\" and a duration of whole seconds from 1s to 8784h", poll)
		}
		return s, nil
	}
	if s.line, err = parseLine(poll); err != nil {
		return s, fmt.Errorf("poll: %q is neither \"@every 60s\" nor a line of cron such as \"*/5 * * * *\" nor \"@hourly\": %w", poll, err)
	}
	return s, nil
}

// parseLine reads a line of cron, or a word such as @hourly.
func parseLine(text string) (cron.Schedule, error) {
	if !strings.HasPrefix(text, "@") {
		for _, field := range strings.Fields(text) {
			if !fieldForm.MatchString(field) {
				return nil, fmt.Errorf("the field %q is none of cron's", field)
			}
		}
	}
	line, err := cron.ParseStandard(text)
	if err != nil {
		return nil, err
	}
	if line.Next(time.Unix(0, 0)).IsZero() {
		return nil, errors.New("it never comes")
	}
	return line, nil
}

// In returns the schedule with its line read in the given zone.
func (s Schedule) In(zone *time.Location) Schedule {
	s.zone = zone
	return s
}

// local returns the moment t, without its monotonic clock, as the line sees it.
func (s Schedule) local(t time.Time) time.Time {
	if t = t.Round(0); s.zone != nil {
		t = t.In(s.zone)
	}
	return t
}

// String returns the key poll.
func (s Schedule) String() string { return s.text }

// Offset returns the node's part of an interval, from 0 to less than 1.
func Offset(app, node string) float64 {
	sum := sha256.Sum256([]byte(app + "\n" + node))
	return float64(binary.BigEndian.Uint64(sum[:])>>11) / (1 << 53)
}

// Plan is when the next look is due.
type Plan struct {
	Made time.Time
	Wait time.Duration
	tick time.Time // what the line said; zero: the plan is not by a line
}

// Next plans the look after now. last is the plan before, or its zero value for the first
// look after the start; offset is the node's, chance is drawn anew from 0 to less than 1.
func (s Schedule) Next(now time.Time, last Plan, offset, chance float64) Plan {
	p := Plan{Made: now}
	if s.line == nil {
		p.Wait = around(s.every, s.share*(2*chance-1))
		if last.Made.IsZero() {
			p.Wait = max(minEvery, around(s.every, offset-1))
		}
		return p
	}
	from := s.local(now)
	// A clock that is corrected by a little while a daemon waits must not make it look
	// twice for one moment.
	if ahead := last.tick.Sub(from); ahead > 0 && ahead < time.Minute {
		from = last.tick
	}
	p.tick = s.line.Next(from)
	after := s.line.Next(p.tick)
	if p.tick.IsZero() || after.IsZero() { // a clock beyond all calendars
		p.Wait = time.Hour
		return p
	}
	p.Wait = p.tick.Sub(from) + from.Sub(now.Round(0)) + around(after.Sub(p.tick), s.share*(offset+chance)-1)
	return p
}

// around returns d, more or less by a part of it.
func around(d time.Duration, part float64) time.Duration {
	return d + time.Duration(part*float64(d))
}

// Within returns the plan with a wait of at most d, and of a second at least.
func (p Plan) Within(d time.Duration) Plan {
	if d = max(d, time.Second); d < p.Wait {
		return p.Instead(d)
	}
	return p
}

// Instead returns the plan with another wait.
func (p Plan) Instead(d time.Duration) Plan {
	p.Wait = d
	return p.Early()
}

// Early returns the plan as it is when a look comes before it is due: the moment that a line
// says is then still to come.
func (p Plan) Early() Plan {
	p.tick = time.Time{}
	return p
}

// Interval returns how long it is from one look to the next, about.
func (s Schedule) Interval(now time.Time) time.Duration {
	if s.line == nil {
		return s.every
	}
	tick := s.line.Next(s.local(now))
	return s.line.Next(tick).Sub(tick)
}

// Left returns how long it is until the look is due; not above 0 when it is. elapsed is
// how long the plan has waited by a clock that cannot jump; now may have jumped.
func (p Plan) Left(now time.Time, elapsed time.Duration) time.Duration {
	return min(p.Wait-elapsed, p.Made.Round(0).Add(p.Wait).Sub(now.Round(0)))
}
