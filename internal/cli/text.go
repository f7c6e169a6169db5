package cli

import (
	"fmt"
	"io"
	"strings"
	"time"

	"makenot.work/sando/internal/canon"
)

// Size writes a number of bytes for people: "0 B", "999 B", "31.4 MB".
func Size(n int64) string {
	if n < 1000 {
		return fmt.Sprintf("%d B", n)
	}
	f, unit := float64(n), ""
	for _, unit = range []string{"kB", "MB", "GB", "TB"} {
		f /= 1000
		if f < 999.95 {
			break
		}
	}
	return fmt.Sprintf("%.1f %s", f, unit)
}

// Ago writes how long ago t was, in the largest two units: "3 s ago", "2 h 5 min ago".
func Ago(now, t time.Time) string {
	d := now.Sub(t)
	if d < 0 {
		return "in " + Span(-d)
	}
	return Span(d) + " ago"
}

// Span writes a duration in its largest two units.
func Span(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 3600:
		return fmt.Sprintf("%d min %d s", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%d h %d min", s/3600, s%3600/60)
	}
	return fmt.Sprintf("%d d %d h", s/86400, s%86400/3600)
}

// Printable replaces what could change the look of a terminal: control characters
// other than newline and tab, bidirectional marks, invalid UTF-8.
func Printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return r
		}
		if canon.Unprintable(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
}

// Progress draws one line that shows how far long work has come. It draws only on a
// terminal, at most ten times a second, and wipes itself out at the end.
type Progress struct {
	w     io.Writer
	what  string
	total int64
	n     int64
	start time.Time
	drawn time.Time
}

// NewProgress begins to show work of total bytes on w. Total 0 means unknown.
func NewProgress(w io.Writer, what string, total int64) *Progress {
	if !IsTerminal(w) {
		w = nil
	}
	return &Progress{w: w, what: what, total: total, start: time.Now()}
}

// Add says that n more bytes are done, or fewer when work begins anew.
func (p *Progress) Add(n int64) {
	p.n += n
	if p.w == nil || time.Since(p.drawn) < 100*time.Millisecond {
		return
	}
	p.drawn = time.Now()
	fmt.Fprintf(p.w, "\r\x1b[K%s", p.line(time.Since(p.start)))
}

// Done removes the line.
func (p *Progress) Done() {
	if p.w != nil && !p.drawn.IsZero() {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

func (p *Progress) line(took time.Duration) string {
	rate := Size(int64(float64(p.n)/max(took.Seconds(), 0.001))) + "/s"
	if p.total <= 0 {
		return fmt.Sprintf("%s  %s  %s", p.what, Size(p.n), rate)
	}
	const width = 24
	full := int(min(p.n, p.total) * width / p.total)
	bar := strings.Repeat("=", full) + strings.Repeat(" ", width-full)
	return fmt.Sprintf("%s [%s] %3d%%  %s of %s  %s", p.what, bar, min(p.n, p.total)*100/p.total, Size(p.n), Size(p.total), rate)
}
