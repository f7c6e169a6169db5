package cli

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/layout/node"
)

// What an app printed stands below its failure, and nothing in it reaches the terminal as
// more than text.
func TestHistoryOutput(t *testing.T) {
	at := canon.At(time.Date(2026, 6, 3, 12, 0, 0, 0, time.UTC))
	events := []node.Event{
		{At: at, Event: "rolled back", From: "2.0.0", To: "1.0.0", Message: "status is 500", Output: []string{"panic: \x1b[31mred\x1b[0m", "two\nlines\rhere"}},
		{At: at, Event: "degraded", From: "3.0.0", To: "1.0.0", Message: "1.0.0 does not start"},
		{At: at, Event: "unhealthy", To: "1.0.0", Message: "\x07bell"},
	}
	var long, short bytes.Buffer
	writeHistory(&long, events, false)
	want := `2026-06-03T12:00:00Z  rolled back from 2.0.0 to 1.0.0: status is 500
                      | panic: �[31mred�[0m
                      | two lines�here
2026-06-03T12:00:00Z  degraded: 3.0.0 failed, and so did the way back; 1.0.0 stays: 1.0.0 does not start
2026-06-03T12:00:00Z  unhealthy 1.0.0: �bell
`
	if long.String() != want {
		t.Errorf("got\n%s\nwant\n%s", long.String(), want)
	}
	writeHistory(&short, events, true)
	if n := strings.Count(short.String(), "\n"); n != 3 || strings.Contains(short.String(), "|") {
		t.Errorf("the short form is\n%s", short.String())
	}
}
