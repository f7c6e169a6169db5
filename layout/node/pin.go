package node

import "time"

// Time returns when the pin was ordered.
func (p *Pin) Time() time.Time { return time.UnixMilli(p.At).UTC() }

// Ended reports whether the pin's time is over at now; then it is as if it were not there.
// issued is when the accepted channel state was signed, the zero time if there is none: a
// clock that is before it is wrong, and ends nothing.
func (p *Pin) Ended(now, issued time.Time) bool {
	return !p.Until.IsZero() && !now.Before(p.Until.Time) && !now.Before(issued)
}

// Same reports whether p and q are one order, or both none.
func (p *Pin) Same(q *Pin) bool {
	if p == nil || q == nil {
		return p == q
	}
	return p.At == q.At && p.Release == q.Release && p.Manifest == q.Manifest && p.Force == q.Force && p.Until.Equal(q.Until.Time)
}
