package schedule

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"
)

func zone(t *testing.T, name string) *time.Location {
	t.Helper()
	z, err := Zone(name)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

func window(t *testing.T, line string, length time.Duration, name string) Window {
	t.Helper()
	w, err := ParseWindow(line, length, zone(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func TestParseWindowBad(t *testing.T) {
	for _, c := range []struct {
		line   string
		length time.Duration
		want   string
	}{
		{"", time.Hour, `window: "" is neither`},
		{"@every 24h", time.Hour, `window: "@every 24h" says no time of day`},
		{"0 2 * *", time.Hour, "expected exactly 5 fields, found 4"},
		{"0 2 * * 7", time.Hour, "above maximum"},
		{"TZ=UTC 0 2 * * *", time.Hour, `the field "TZ=UTC"`},
		{"0 0 30 2 *", time.Hour, "never comes"},
		{"0 2 * * 6", 0, "window_length: 0s is not 1m to 8784h"},
		{"0 2 * * 6", -time.Hour, "window_length: -1h0m0s is not"},
		{"0 2 * * 6", time.Minute - 1, "window_length: 59.999999999s is not"},
		{"0 2 * * 6", 8784*time.Hour + 1, "is not 1m to 8784h"},
	} {
		if _, err := ParseWindow(c.line, c.length, time.UTC); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%q for %s: %v, want %q", c.line, c.length, err, c.want)
		}
	}
	for _, name := range []string{"Europe/Atlantis", "../etc/passwd", "europe", "CEST+2"} {
		if _, err := Zone(name); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("timezone: %q is not the name", name)) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestNoWindow(t *testing.T) {
	if w := Always(); !w.Open(noon) || !w.Next(noon).IsZero() || w.Limited() || w.String() != "always" {
		t.Errorf("no window: %v, open %t, next %s", w, w.Open(noon), w.Next(noon))
	}
	if w := (Window{}); w.Open(noon) || !w.Next(noon).IsZero() || !w.Limited() {
		t.Errorf("the zero value is open %t, next %s", w.Open(noon), w.Next(noon))
	}
}

func TestWindow(t *testing.T) {
	for _, c := range []struct {
		line   string
		length time.Duration
		zone   string
		now    string // in UTC
		open   bool
		next   string // in UTC
	}{
		{"0 2 * * 6", time.Hour, "UTC", "2026-06-06 01:59:59", false, "2026-06-06 02:00:00"},
		{"0 2 * * 6", time.Hour, "UTC", "2026-06-06 02:00:00", true, "2026-06-13 02:00:00"},
		{"0 2 * * 6", time.Hour, "UTC", "2026-06-06 02:59:59", true, "2026-06-13 02:00:00"},
		{"0 2 * * 6", time.Hour, "UTC", "2026-06-06 03:00:00", false, "2026-06-13 02:00:00"},
		{"0 2 * * 6", time.Hour, "Europe/Berlin", "2026-06-06 00:00:00", true, "2026-06-13 00:00:00"},
		{"0 2 * * 6", time.Hour, "Asia/Kathmandu", "2026-06-05 20:15:00", true, "2026-06-12 20:15:00"},
		// Over midnight, and over the turn of the year.
		{"30 23 31 12 *", 2 * time.Hour, "UTC", "2027-01-01 01:29:59", true, "2027-12-31 23:30:00"},
		{"30 23 31 12 *", 2 * time.Hour, "UTC", "2027-01-01 01:30:00", false, "2027-12-31 23:30:00"},
		// Longer than it is to the next opening: always.
		{"0 2 * * *", 24 * time.Hour, "UTC", "2026-06-06 01:59:59", true, "2026-06-06 02:00:00"},
		{"0 2 * * *", 1000 * time.Hour, "UTC", "2026-06-06 01:59:59", true, "2026-06-06 02:00:00"},
		// The hour from 02:00 to 03:00 is missing on 2026-03-29: it opens at 03:00 CEST.
		{"30 2 * * 0", time.Hour, "Europe/Berlin", "2026-03-29 00:59:59", false, "2026-03-29 01:00:00"},
		{"30 2 * * 0", time.Hour, "Europe/Berlin", "2026-03-29 01:59:59", true, "2026-04-05 00:30:00"},
		{"30 2 * * 0", time.Hour, "Europe/Berlin", "2026-03-29 02:00:00", false, "2026-04-05 00:30:00"},
		// It is there twice on 2026-10-25.
		{"0 2 * * 0", 30 * time.Minute, "Europe/Berlin", "2026-10-25 00:00:00", true, "2026-10-25 01:00:00"},
		{"0 2 * * 0", 30 * time.Minute, "Europe/Berlin", "2026-10-25 00:30:00", false, "2026-10-25 01:00:00"},
		{"0 2 * * 0", 30 * time.Minute, "Europe/Berlin", "2026-10-25 01:29:59", true, "2026-11-01 01:00:00"},
		// A day without midnight, half an hour, a day that never was.
		{"0 0 4 11 *", time.Hour, "America/Sao_Paulo", "2018-11-04 02:59:59", false, "2018-11-04 03:00:00"},
		{"15 3 7 10 *", time.Hour, "Australia/Lord_Howe", "2018-10-06 15:00:00", false, "2018-10-06 16:15:00"},
		{"15 2 7 10 *", time.Hour, "Australia/Lord_Howe", "2018-10-06 15:00:00", false, "2018-10-06 15:30:00"},
		{"0 12 30 12 *", time.Hour, "Pacific/Apia", "2011-12-30 09:59:59", false, "2011-12-30 10:00:00"},
		// Leap days, also those that are eight years apart, and what is far away.
		{"0 0 29 2 *", time.Hour, "UTC", "2026-06-06 00:00:00", false, "2028-02-29 00:00:00"},
		{"0 0 29 2 *", time.Hour, "UTC", "2097-01-01 00:00:00", false, "2104-02-29 00:00:00"},
		{"0 0 29 2 *", time.Hour, "Europe/Berlin", "2097-01-01 00:00:00", false, "2104-02-28 23:00:00"},
		{"0 2 * * 6", time.Hour, "Europe/Berlin", "9000-07-01 00:00:00", false, "9000-07-05 00:00:00"},
		// A clock that was never set.
		{"0 2 * * 6", time.Hour, "Europe/Berlin", "1970-01-01 00:00:00", false, "1970-01-03 01:00:00"},
	} {
		w := window(t, c.line, c.length, c.zone)
		now, err := time.Parse(time.DateTime, c.now)
		if err != nil {
			t.Fatal(err)
		}
		if next := w.Next(now).UTC().Format(time.DateTime); w.Open(now) != c.open || next != c.next {
			t.Errorf("%s at %s: open %t, next %s; want %t, %s", w, c.now, w.Open(now), next, c.open, c.next)
		}
	}
}

// field is one part of a line of cron, and what it means.
type field struct {
	text string
	has  func(n int) bool
}

func anyField(r *rand.Rand, low, high int, star float64) field {
	switch {
	case r.Float64() < star:
		return field{"*", func(int) bool { return true }}
	case r.Float64() < 0.3:
		step := 2 + r.IntN(high-low)
		return field{fmt.Sprintf("*/%d", step), func(n int) bool { return (n-low)%step == 0 }}
	}
	var values []int
	var texts []string
	for range 1 + r.IntN(3) {
		n := low + r.IntN(high-low+1)
		values, texts = append(values, n), append(texts, fmt.Sprint(n))
	}
	return field{strings.Join(texts, ","), func(n int) bool { return slices.Contains(values, n) }}
}

// anyLine returns a line of cron, and whether it names a minute of the wall's clock.
func anyLine(r *rand.Rand) (string, func(wall time.Time) bool) {
	minute, hour := anyField(r, 0, 59, 0.1), anyField(r, 0, 23, 0.2)
	day, week := anyField(r, 1, 31, 0.7), anyField(r, 0, 6, 0.7)
	line := fmt.Sprintf("%s %s %s * %s", minute.text, hour.text, day.text, week.text)
	return line, func(wall time.Time) bool {
		days := day.has(wall.Day()) && week.has(int(wall.Weekday()))
		if day.text != "*" && week.text != "*" {
			days = day.has(wall.Day()) || week.has(int(wall.Weekday()))
		}
		return minute.has(wall.Minute()) && hour.has(wall.Hour()) && days
	}
}

// TestWindowByMinute compares with what a watchman does, who looks at the clock on the wall
// every minute, in nights in which somebody moves its hands.
func TestWindowByMinute(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, c := range []struct{ zone, begin string }{
		{"UTC", "2026-03-28"}, {"Europe/Berlin", "2026-03-28"}, {"Europe/Berlin", "2026-10-24"}, {"America/New_York", "2040-03-10"},
		{"America/Sao_Paulo", "2018-11-03"}, {"Australia/Lord_Howe", "2018-10-06"}, {"Australia/Lord_Howe", "2019-04-06"},
		{"Pacific/Apia", "2011-12-29"}, {"Asia/Kathmandu", "2028-02-28"}, {"Africa/Cairo", "2026-04-23"}, {"America/Asuncion", "2023-09-30"},
	} {
		z := zone(t, c.zone)
		begin, err := time.Parse(time.DateOnly, c.begin)
		if err != nil {
			t.Fatal(err)
		}
		for range 40 {
			line, names := anyLine(r)
			length := time.Duration(1+r.IntN(300)) * time.Minute
			w, err := ParseWindow(line, length, z)
			if err != nil {
				continue // the 31st of no month
			}
			opens := func(m time.Time) bool {
				_, before := m.Add(-time.Minute).In(z).Zone()
				_, now := m.In(z).Zone()
				for wall := before; wall < now; wall += 60 { // what the hands are moved over
					if names(m.In(time.FixedZone("", wall))) {
						return true
					}
				}
				return names(m.In(z))
			}
			last := time.Time{} // opening
			var openings []time.Time
			for m := begin.Add(-6 * time.Hour); m.Before(begin.Add(72 * time.Hour)); m = m.Add(time.Minute) {
				if opens(m) {
					last = m
					openings = append(openings, m)
				}
				if open := !last.IsZero() && m.Sub(last) < length; !m.Before(begin) && w.Open(m) != open {
					t.Fatalf("%s: at %s open is %t", w, m.In(z), !open)
				}
			}
			for now, i := begin.Add(-6*time.Hour-time.Second), 0; i < len(openings); i++ {
				if now = w.Next(now); !now.Equal(openings[i]) {
					t.Fatalf("%s: opens at %s, want %s", w, now, openings[i].In(z))
				}
			}
		}
	}
}

// However the clock jumps: from any moment the next opening is ahead, and it is open then.
func TestWindowAnywhere(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, name := range []string{"UTC", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo", "Pacific/Apia"} {
		for range 200 {
			line, _ := anyLine(r)
			length := time.Duration(60+r.IntN(1e6))*time.Second + time.Duration(r.IntN(1e9))
			w, err := ParseWindow(line, length, zone(t, name))
			if err != nil {
				continue
			}
			now := time.Unix(r.Int64N(1<<37)-1<<33, r.Int64N(1e9))
			next := w.Next(now)
			if !next.After(now) || !w.Open(next) || !w.Open(next.Add(length-1)) {
				t.Fatalf("%s at %s: next is %s, open %t", w, now.UTC(), next, w.Open(next))
			}
			if before := next.Add(-time.Nanosecond); w.Open(before) && !w.Open(now) && before.After(now) {
				t.Fatalf("%s at %s: open before it opens at %s", w, now.UTC(), next)
			}
		}
	}
}

func TestWake(t *testing.T) {
	for _, c := range []struct {
		length time.Duration
		offset float64
		want   time.Duration // after the opening
	}{{time.Hour, 0, 0}, {time.Hour, 0.5, 30 * time.Second}, {5 * time.Minute, 0.5, 15 * time.Second}, {time.Minute, 0.99, 5940 * time.Millisecond}} {
		w := window(t, "0 2 * * *", c.length, "UTC")
		if got := w.Wake(noon, c.offset).Sub(w.Next(noon)); got != c.want {
			t.Errorf("%+v: wakes %s after the opening", c, got)
		}
	}
}

func TestWindowWords(t *testing.T) {
	w := window(t, "0 2 * * 6", 90*time.Minute, "Europe/Berlin")
	if got := w.String(); got != `"0 2 * * 6" for 1h30m, Europe/Berlin` {
		t.Errorf("it is %s", got)
	}
	if got := w.Say(w.Next(noon)); got != "2026-06-06 02:00 CEST (2026-06-06T00:00:00Z)" {
		t.Errorf("opens %s", got)
	}
	w = window(t, "@daily", time.Hour, "UTC")
	if got := w.String() + " " + w.Say(w.Next(noon)); got != `"@daily" for 1h, UTC 2026-06-04T00:00:00Z` {
		t.Errorf("it is %s", got)
	}
}

// The line of looks is read in the zone as well.
func TestLooksInZone(t *testing.T) {
	s := parse(t, "0 3 * * *", "0%").In(zone(t, "Asia/Kathmandu"))
	if p := s.Next(noon, Plan{}, 0, 0); p.Wait != 9*time.Hour+15*time.Minute || s.Interval(noon) != 24*time.Hour {
		t.Errorf("waits %s, interval %s", p.Wait, s.Interval(noon))
	}
}

func FuzzParseWindow(f *testing.F) {
	f.Add("0 2 * * 6", int64(time.Hour), int64(1780000000))
	f.Add("*/7 8-18 29 2 mon", int64(time.Minute), int64(-1))
	f.Fuzz(func(t *testing.T, line string, length, unix int64) {
		w, err := ParseWindow(line, time.Duration(length), time.UTC)
		if err != nil {
			return
		}
		now := time.Unix(unix%(1<<37), 0)
		if next := w.Next(now); !next.After(now) || !w.Open(next) {
			t.Fatalf("%s at %s: opens at %s", w, now.UTC(), next)
		}
	})
}
