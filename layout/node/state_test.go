package node

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

func fullState() *State {
	at := canon.At(time.Date(2026, 6, 3, 2, 53, 56, 0, time.UTC))
	rel := &Release{Version: "0.9.5", Manifest: layout.Sum([]byte("m")), Since: at}
	return &State{
		Version: 1, Running: rel, LastGood: rel, Previous: &Release{Version: "0.9.4", Since: at},
		Intent: &Intent{Phase: Switching, From: "0.9.5", Via: "0.9.5", To: "0.9.6", Manifest: rel.Manifest, Attempt: 1, Started: at,
			Over: &Intent{Phase: RollingBack, From: "0.9.3", To: "0.9.4", Attempt: 1, Tries: 2, Started: at}},
		Blocked: []Block{{Version: "0.9.3", Manifest: rel.Manifest, Attempt: 1, At: at, Cause: "it said: 500"}},
		Head:    "f0970b8", Rewritten: true,
		Last: Outcome{Reason: reason.Replay, Message: "old", Since: at},
	}
}

const golden = `{
  "version": 1,
  "blocked": [],
  "last": {}
}
`

func TestStateRoundTrip(t *testing.T) {
	d := open(t)
	if s, err := d.State(); s != nil || err != nil {
		t.Fatalf("fresh: %v, %v", s, err)
	}
	if err := d.SaveState(fullState()); err != nil {
		t.Fatal(err)
	}
	got, err := d.State()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(fullState(), got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	data, err := NewState().Encode()
	if err != nil || string(data) != golden {
		t.Errorf("new state is %s, %v", data, err)
	}
}

func TestStateRefusals(t *testing.T) {
	good, err := fullState().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ old, new string }{
		"empty":               {string(good), ""},
		"zeroes":              {string(good), "\x00\x00"},
		"torn":                {"\"last\"", ""},
		"unknown field":       {`"blocked"`, `"block": 1, "blocked"`},
		"version 0":           {`"version": 1,`, `"version": 0,`},
		"no version":          {"\"version\": 1,\n  ", ""},
		"intent to nowhere":   {`"to": "0.9.6"`, `"to": "../x"`},
		"unknown phase":       {`"switching"`, `"sleeping"`},
		"bad release":         {`"version": "0.9.4"`, `"version": "a/b"`},
		"bad interrupted one": {`"from": "0.9.3"`, `"from": ".."`},
		"bad digest":          {string(layout.Sum([]byte("m"))), "sha256:00"},
	} {
		t.Run(name, func(t *testing.T) {
			bad := strings.Replace(string(good), c.old, c.new, 1)
			if bad == string(good) {
				t.Fatal("nothing was changed")
			}
			if _, err := ParseState([]byte(bad)); !errors.Is(err, ErrBroken) {
				t.Errorf("got %v, want ErrBroken", err)
			}
		})
	}
	newer := strings.Replace(string(good), `"version": 1,`, `"version": 2,`, 1)
	if _, err := ParseState([]byte(newer)); reason.Of(err) != reason.Config || errors.Is(err, ErrBroken) || !strings.Contains(err.Error(), "a newer puller wrote it") {
		t.Errorf("newer: %v", err)
	}
}

func TestPin(t *testing.T) {
	d := open(t)
	if p, err := d.Pin(); p != nil || err != nil {
		t.Fatalf("fresh: %v, %v", p, err)
	}
	want := Pin{Version: 1, Release: "0.9.5", Manifest: layout.Sum(nil), At: 1780455236000, Reason: "login broken"}
	if err := d.SavePin(want); err != nil {
		t.Fatal(err)
	}
	got, err := d.Pin()
	if err != nil || cmp.Diff(want, *got) != "" {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := os.WriteFile(d.Path("pin.json"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Pin(); !errors.Is(err, ErrBroken) {
		t.Errorf("broken: %v", err)
	}
	if err := errors.Join(d.RemovePin(), d.RemovePin()); err != nil {
		t.Error(err)
	}
}

func TestHistorySurvivesATornLine(t *testing.T) {
	d := open(t)
	for _, v := range []string{"1", "2"} {
		if err := d.Record(Event{Event: "updated", To: v, At: canon.Now()}); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(d.Path("history.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path("history.jsonl"), data[:len(data)-5], 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Record(Event{Event: "updated", To: "3\n", Message: "two\nlines\x1b", At: canon.Now()}); err != nil {
		t.Fatal(err)
	}
	events, err := d.History(10)
	if err != nil || len(events) != 2 || events[0].To != "1" || events[1].Message != "two lines\uFFFD" {
		t.Errorf("got %+v, %v", events, err)
	}
	if last, err := d.History(1); err != nil || len(last) != 1 || last[0].Message != events[1].Message {
		t.Errorf("last: %+v, %v", last, err)
	}
}

func TestHistoryIsBounded(t *testing.T) {
	d := open(t)
	line := `{"at":"2026-06-03T02:53:56Z","event":"` + strings.Repeat("x", 1000) + "\"}\n"
	if err := os.WriteFile(d.Path("history.jsonl"), []byte(strings.Repeat(line, 1100)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.Record(Event{Event: "updated", To: "9", At: canon.Now()}); err != nil {
		t.Fatal(err)
	}
	events, err := d.History(10_000)
	if err != nil || len(events) != 550 || events[549].To != "9" {
		t.Errorf("%d events, %v", len(events), err)
	}
}

func TestIsBlocked(t *testing.T) {
	a, b := layout.Sum([]byte("a")), layout.Sum([]byte("b"))
	s := &State{Blocked: []Block{{Version: "1", Manifest: a, Attempt: 1}, {Version: "0", Attempt: 5}}}
	for _, c := range []struct {
		version  string
		manifest layout.Digest
		attempt  int64
		want     bool
	}{
		{"1", a, 1, true}, {"1", b, 1, false}, {"1", a, 2, false}, {"2", a, 1, true},
		{"1", "", 1, true}, {"2", "", 1, false}, {"0", "", 5, true}, {"0", "", 6, false},
	} {
		if got := s.IsBlocked(c.version, c.manifest, c.attempt) != nil; got != c.want {
			t.Errorf("%+v: got %v", c, got)
		}
	}
}

func FuzzState(f *testing.F) {
	full, err := fullState().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(full)
	f.Add([]byte(golden))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := ParseState(data)
		if err != nil {
			if !errors.Is(err, ErrBroken) && reason.Of(err) != reason.Config {
				t.Fatalf("an error that nobody matches: %v", err)
			}
			return
		}
		again, err := s.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%v: prints back %q", err, again)
		}
	})
}

func TestLines(t *testing.T) {
	many := strings.Repeat("line\n", MaxLines) + "\n  \nlast"
	if got := Lines([]byte(many)); len(got) != MaxLines || got[MaxLines-1] != "last" || got[0] != "line" {
		t.Errorf("%d lines: %q", len(got), got)
	}
	long := strings.Repeat("ü", maxLineBytes)
	got := Lines([]byte("\x1b[31mred\r\n" + long + "\xff"))
	if len(got) != 2 || got[0] != "\uFFFD[31mred" || len(got[1]) > maxLineBytes || !strings.HasSuffix(got[1], "ü…") {
		t.Errorf("%q", got)
	}
	if got := Lines(nil); got != nil {
		t.Errorf("of nothing: %q", got)
	}
}

// However much failed releases print, the state can be read again.
func TestShorten(t *testing.T) {
	s := NewState()
	output := slices.Repeat([]string{strings.Repeat(`"`, maxLineBytes)}, MaxLines)
	for range 100 {
		s.Blocked = append(s.Blocked, Block{Version: "1.0", Cause: strings.Repeat(`"`, 2000), Output: output})
	}
	s.Degraded = &s.Blocked[99]
	s.Shorten()
	data, err := s.Encode()
	if err != nil || len(data) > maxState {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	if s.Blocked[94].Output != nil || len(s.Blocked[95].Output) != MaxLines {
		t.Error("not the newest five are kept")
	}
}
