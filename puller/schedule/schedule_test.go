package schedule

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func parse(t *testing.T, poll, jitter string) Schedule {
	t.Helper()
	s, err := Parse(poll, jitter)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParse(t *testing.T) {
	for _, poll := range []string{
		"@every 60s", "@every 1s", "@every 1h30m", "@every 8784h", "@hourly", "@midnight", "@yearly",
		"* * * * *", "*/5 8-18 * * 1-5", "0,30 3 1 jan mon-fri", "7/10 * * * 0",
	} {
		if s := parse(t, poll, "10%"); s.String() != poll {
			t.Errorf("%q is %q", poll, s)
		}
	}
	for _, jitter := range []string{"0%", "9%", "10%", "50%"} {
		parse(t, "@every 60s", jitter)
	}
}

func TestParseBad(t *testing.T) {
	for _, c := range []struct{ poll, jitter, want string }{
		{"", "10%", `"" is neither`},
		{"60s", "10%", `"60s" is neither`},
		{"@every", "10%", `"@every" is neither`},
		{"@every 0s", "10%", "1s to 8784h"},
		{"@every 999ms", "10%", "1s to 8784h"},
		{"@every 1500ms", "10%", "1s to 8784h"},
		{"@every -60s", "10%", "1s to 8784h"},
		{"@every 8785h", "10%", "1s to 8784h"},
		{"@every  60s", "10%", "1s to 8784h"},
		{"@every 60", "10%", "1s to 8784h"},
		{"@fortnightly", "10%", "unrecognized descriptor"},
		{"* * * *", "10%", "expected exactly 5 fields, found 4"},
		{"0 * * * * *", "10%", "expected exactly 5 fields, found 6"},
		{"60 * * * *", "10%", "above maximum"},
		{"* * * * 7", "10%", "above maximum"},
		{"5-1 * * * *", "10%", "beyond end of range"},
		{"*/0 * * * *", "10%", "positive number"},
		{"1,,2 * * * *", "10%", `the field "1,,2"`},
		{", * * * *", "10%", `the field ","`},
		{"*-5 * * * *", "10%", `the field "*-5"`},
		{"? * * * *", "10%", `the field "?"`},
		{"TZ=UTC * * * * *", "10%", `the field "TZ=UTC"`},
		{"CRON_TZ=", "10%", `the field "CRON_TZ="`},
		{"0 0 31 2 *", "10%", "never comes"},
		{"@every 60s", "", `jitter: "" is not`},
		{"@every 60s", "10", `jitter: "10" is not`},
		{"@every 60s", "51%", `jitter: "51%" is not`},
		{"@every 60s", "-1%", `jitter: "-1%" is not`},
		{"@every 60s", "07%", `jitter: "07%" is not`},
	} {
		if _, err := Parse(c.poll, c.jitter); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("poll %q, jitter %q: %v, want %q", c.poll, c.jitter, err, c.want)
		}
	}
}

var noon = time.Date(2026, 6, 3, 12, 0, 0, 0, time.UTC)

func TestNextEvery(t *testing.T) {
	later := Plan{Made: noon}
	for _, c := range []struct {
		jitter         string
		last           Plan
		offset, chance float64
		want           time.Duration
	}{
		{"10%", Plan{}, 0.5, 0.9, 30 * time.Second},
		{"10%", Plan{}, 0, 0.9, time.Second}, // the first look was at the start
		{"10%", later, 0.5, 0.5, time.Minute},
		{"10%", later, 0.5, 0, 54 * time.Second},
		{"10%", later, 0.5, 0.75, 63 * time.Second},
		{"50%", later, 0.9, 0, 30 * time.Second},
		{"0%", later, 0.9, 0.9, time.Minute},
	} {
		p := parse(t, "@every 60s", c.jitter).Next(noon, c.last, c.offset, c.chance)
		if p.Wait.Round(time.Millisecond) != c.want || !p.Made.Equal(noon) {
			t.Errorf("%+v: waits %s", c, p.Wait)
		}
	}
}

func TestNextLine(t *testing.T) {
	at := func(clock string) time.Time {
		d, err := time.Parse("15:04:05", clock)
		if err != nil {
			t.Fatal(err)
		}
		return noon.Truncate(24 * time.Hour).Add(d.Sub(d.Truncate(24 * time.Hour)))
	}
	for _, c := range []struct {
		poll, jitter, now string
		offset, chance    float64
		want              string
	}{
		{"*/10 * * * *", "0%", "12:00:00", 0.5, 0.5, "12:10:00"},
		{"*/10 * * * *", "0%", "12:09:59", 0.5, 0.5, "12:10:00"},
		{"*/10 * * * *", "10%", "12:03:00", 0.5, 0, "12:10:30"},
		{"*/10 * * * *", "10%", "12:03:00", 0, 0.5, "12:10:30"},
		{"*/10 * * * *", "50%", "12:03:00", 0.99, 0.99, "12:19:54"},
		{"@hourly", "10%", "12:59:59", 0.5, 0.5, "13:06:00"},
		{"0 8,20 * * *", "10%", "12:00:00", 0, 0, "20:00:00"},
	} {
		s := parse(t, c.poll, c.jitter)
		p := s.Next(at(c.now), Plan{}, c.offset, c.chance)
		if got := p.Made.Add(p.Wait).Round(time.Millisecond); !got.Equal(at(c.want)) {
			t.Errorf("%+v: looks at %s", c, got)
		}
	}
}

// A clock that runs a little fast while the daemon waits does not make it look twice.
func TestOnePerMoment(t *testing.T) {
	s := parse(t, "*/10 * * * *", "0%")
	p := s.Next(noon.Add(time.Minute), Plan{}, 0, 0)
	early := noon.Add(10*time.Minute - 200*time.Millisecond) // the wait is over, says the other clock
	p = s.Next(early, p, 0, 0)
	if got := early.Add(p.Wait); !got.Equal(noon.Add(20 * time.Minute)) {
		t.Errorf("looks again at %s", got)
	}
	// A look that comes before its time takes nothing from the one that is due.
	soon := noon.Add(20*time.Minute - 30*time.Second)
	for name, p := range map[string]Plan{"early": p.Early(), "instead": p.Instead(time.Second), "within": p.Within(time.Second)} {
		if next := s.Next(soon, p, 0, 0); next.Wait != 30*time.Second {
			t.Errorf("%s: waits %s", name, next.Wait)
		}
	}
	// Set back by hours it plans anew.
	p = s.Next(noon.Add(-5*time.Hour), p, 0, 0)
	if p.Wait != 10*time.Minute {
		t.Errorf("waits %s", p.Wait)
	}
}

func TestSummerTime(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	looks := func(poll string, from time.Time, n int) (at []string) {
		s := parse(t, poll, "0%")
		now, last := from, Plan{}
		for range n {
			last = s.Next(now, last, 0, 0)
			now = now.Add(last.Wait)
			at = append(at, now.Format("02 15:04 MST"))
		}
		return at
	}
	spring, autumn := time.Date(2026, 3, 29, 1, 10, 0, 0, berlin), time.Date(2026, 10, 25, 1, 10, 0, 0, berlin)
	for _, c := range []struct {
		poll string
		from time.Time
		want string
	}{
		{"*/30 * * * *", spring, "[29 01:30 CET 29 03:00 CEST 29 03:30 CEST]"},
		{"@hourly", spring, "[29 03:00 CEST 29 04:00 CEST 29 05:00 CEST]"},
		{"30 2 * * *", spring, "[30 02:30 CEST 31 02:30 CEST 01 02:30 CEST]"},
		{"*/30 * * * *", autumn, "[25 01:30 CEST 25 02:00 CEST 25 02:30 CEST]"},
		{"@hourly", autumn, "[25 02:00 CEST 25 02:00 CET 25 03:00 CET]"},
		{"@every 1h", spring, "[29 01:10 CET 29 03:10 CEST 29 04:10 CEST]"},
	} {
		if got := fmt.Sprint(looks(c.poll, c.from, 3)); got != c.want {
			t.Errorf("%s from %s: %s, want %s", c.poll, c.from, got, c.want)
		}
	}
}

func TestJumps(t *testing.T) {
	for _, poll := range []string{"@every 10m", "*/10 * * * *"} {
		s := parse(t, poll, "0%")
		p := s.Next(noon, Plan{Made: noon}, 0, 0)
		for _, c := range []struct {
			name    string
			jump    time.Duration // of the clock, after elapsed
			elapsed time.Duration
			want    time.Duration
		}{
			{"none", 0, 4 * time.Minute, 6 * time.Minute},
			{"none, due", 0, 10 * time.Minute, 0},
			{"back", -5 * time.Hour, 4 * time.Minute, 6 * time.Minute},
			{"back, due", -5 * time.Hour, 10 * time.Minute, 0},
			{"a little forward", time.Minute, 4 * time.Minute, 5 * time.Minute},
			{"forward", 5 * time.Hour, 4 * time.Minute, -4*time.Hour - 54*time.Minute},
		} {
			now := noon.Add(c.elapsed + c.jump)
			left := p.Left(now, c.elapsed)
			if left != c.want {
				t.Errorf("%s, %s: %s left, want %s", poll, c.name, left, c.want)
			}
			if left > 0 {
				continue
			}
			// It is one look: the next one is no sooner than always.
			if next := s.Next(now, p, 0, 0); next.Wait <= 0 || next.Wait > 10*time.Minute || poll[0] == '@' && next.Wait != 10*time.Minute {
				t.Errorf("%s, %s: then waits %s", poll, c.name, next.Wait)
			}
		}
	}
}

func TestPlans(t *testing.T) {
	p := Plan{Made: noon, Wait: time.Minute}
	for d, want := range map[time.Duration]time.Duration{time.Hour: time.Minute, 20 * time.Second: 20 * time.Second, 0: time.Second, -time.Hour: time.Second} {
		if got := p.Within(d).Wait; got != want {
			t.Errorf("within %s: %s, want %s", d, got, want)
		}
	}
	if got := p.Instead(time.Hour); got.Wait != time.Hour || !got.Made.Equal(noon) {
		t.Errorf("instead: %+v", got)
	}
	for poll, want := range map[string]time.Duration{"@every 60s": time.Minute, "@hourly": time.Hour} {
		if got := parse(t, poll, "10%").Interval(noon); got != want {
			t.Errorf("%s: interval %s", poll, got)
		}
	}
}

func TestOffset(t *testing.T) {
	var tenths [10]int
	for i := range 1000 {
		o := Offset("mnw", fmt.Sprint("node-", i))
		if o < 0 || o >= 1 {
			t.Fatalf("offset %f", o)
		}
		tenths[int(o*10)]++
	}
	for i, n := range tenths {
		if n < 60 || n > 140 {
			t.Errorf("%d of 1000 nodes are in tenth %d", n, i)
		}
	}
	if Offset("mnw", "a") == Offset("web", "a") || Offset("mnw", "a") != Offset("mnw", "a") {
		t.Error("it is not of app and node")
	}
}

func FuzzParse(f *testing.F) {
	f.Add("@every 60s", "10%")
	f.Add("*/5 8-18 * * 1-5", "0%")
	f.Fuzz(func(t *testing.T, poll, jitter string) {
		s, err := Parse(poll, jitter)
		if err != nil {
			return
		}
		last := Plan{}
		for range 3 {
			if last = s.Next(noon, last, 0.5, 0.5); last.Wait < time.Second/2 {
				t.Fatalf("%q, %q: waits %s", poll, jitter, last.Wait)
			}
		}
	})
}
