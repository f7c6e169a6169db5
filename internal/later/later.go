// Package later carries a server's wish to be left alone for a while, from the answer that
// it came with to who decides when to ask again.
//
// HTTP has the header Retry-After for it, sent with 429 and 503 above all: seconds, or a
// date. An error that has the method
//
//	RetryAfter() time.Duration
//
// holds such a wish, however it is wrapped. Whoever waits decides how much of it is within
// reason: a server that is out of its mind must not keep a node from its updates for a year.
package later

import (
	"errors"
	"net/http"
	"strconv"
	"time"
)

// Parse reads both forms of the header; 0 when it is neither, or nothing is to be waited for.
func Parse(header string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(header, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(header); err == nil {
		return max(0, at.Sub(now))
	}
	return 0
}

// Wish is an error that holds a server's wish.
type Wish struct {
	Err   error
	After time.Duration
}

func (w *Wish) Error() string { return w.Err.Error() }
func (w *Wish) Unwrap() error { return w.Err }

// RetryAfter returns for how long the server wants to be left alone.
func (w *Wish) RetryAfter() time.Duration { return w.After }

// Of returns the wish that err holds; 0 when it holds none.
func Of(err error) time.Duration {
	var w interface{ RetryAfter() time.Duration }
	if !errors.As(err, &w) {
		return 0
	}
	return w.RetryAfter()
}
