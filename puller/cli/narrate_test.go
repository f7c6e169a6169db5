package cli

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/cli"
	"makenot.work/sando/puller"
)

// What is over soon is not spoken of; what goes on is, at once and then every ten seconds.
func TestNarrator(t *testing.T) {
	var out bytes.Buffer
	var now time.Time
	n := &narrator{w: &out, now: func() time.Time { return now }}
	for _, s := range []struct {
		at    time.Duration
		part  puller.Part
		words string
	}{
		{0, puller.Polling, "polls"},
		{900 * time.Millisecond, puller.Polling, "polls still"},
		{950 * time.Millisecond, puller.Waiting, "waits"},
		{2 * time.Second, puller.Waiting, "waits for pid 7"},
		{3 * time.Second, puller.Waiting, "waits for pid 7, 1 s more"},
		{13 * time.Second, puller.Waiting, "waits for pid 7\x1b[2J"},
		{14 * time.Second, puller.Probing, "probes"},
		{15 * time.Second, puller.Probing, "is not well yet"},
	} {
		now = time.Unix(0, 0).Add(s.at)
		n.tell(s.part, func() string { return s.words })
	}
	want := "puller: waits for pid 7\npuller: waits for pid 7\ufffd[2J\npuller: is not well yet\n"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// Only a person at a terminal is told.
func TestNobodyLooks(t *testing.T) {
	var out bytes.Buffer
	p := &program{std: cli.Std{Err: &out}}
	if p.teller() != nil {
		t.Error("what is no terminal is told")
	}
}
