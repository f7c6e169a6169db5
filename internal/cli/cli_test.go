package cli

import (
	"bytes"
	"context"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"makenot.work/sando/internal/reason"
)

func program(run func() error) *cobra.Command {
	root := &cobra.Command{Use: "puller", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return run() }}
	root.Flags().Bool("json", false, "")
	root.AddCommand(&cobra.Command{Use: "status", Args: cobra.NoArgs, RunE: func(*cobra.Command, []string) error { return nil }})
	return root
}

func TestExitCodes(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		err  error
		exit int
		text string
	}{
		"done":            {nil, nil, 0, ""},
		"no code":         {nil, errors.New("connection reset"), 1, "puller: io: connection reset\n"},
		"refused":         {nil, reason.Errorf(reason.Replay, "old"), 3, "puller: replay: old\n"},
		"shown already":   {nil, Exit(reason.Unhealthy), 4, ""},
		"exit but good":   {nil, Exit(reason.Updated), 0, ""},
		"control":         {nil, errors.New("a\x1b[2Jb"), 1, "puller: io: a\uFFFD[2Jb\n"},
		"unknown command": {[]string{"sattus"}, nil, 2, `puller: config: unknown command "sattus"`},
		"unknown flag":    {[]string{"--jsno"}, nil, 2, `puller: config: unknown flag: --jsno; see "puller --help"`},
		"extra argument":  {[]string{"status", "x"}, nil, 2, `puller: config: argument "x" is one too many: usage: puller status; see "puller status --help"`},
	} {
		t.Run(name, func(t *testing.T) {
			var out, errs bytes.Buffer
			exit := Main(context.Background(), program(func() error { return c.err }), c.args, Std{Out: &out, Err: &errs})
			if exit != c.exit || !strings.HasPrefix(errs.String(), c.text) || (c.text == "") != (errs.Len() == 0) || out.Len() != 0 {
				t.Errorf("exit %d, stderr %q, stdout %q; want %d, %q", exit, errs.String(), out.String(), c.exit, c.text)
			}
		})
	}
}

func TestErrorAsJSON(t *testing.T) {
	var out, errs bytes.Buffer
	Main(context.Background(), program(func() error { return reason.Errorf(reason.Signature, "<none>") }), []string{"--json"}, Std{Out: &out, Err: &errs})
	const want = "{\n  \"error\": \"<none>\",\n  \"reason\": \"signature\",\n  \"exit\": 3\n}\n"
	if out.String() != want {
		t.Errorf("got %s, want %s", out.String(), want)
	}
}

func TestVersion(t *testing.T) {
	var out, errs bytes.Buffer
	run := func() error { return errors.New("it ran") }
	exit := Main(context.Background(), program(run), []string{"--version"}, Std{Out: &out, Err: &errs})
	want := regexp.MustCompile(`^puller version \S+ \(go1\.\S+ linux/\w+\)\n$`)
	if exit != 0 || !want.MatchString(out.String()) || errs.Len() != 0 {
		t.Errorf("exit %d, %q, %q; want %s", exit, out.String(), errs.String(), want)
	}
}

func TestSizes(t *testing.T) {
	for n, want := range map[int64]string{0: "0 B", 999: "999 B", 1000: "1.0 kB", 31_415_926: "31.4 MB", 999_960: "1.0 MB", 1 << 40: "1.1 TB", 5e15: "5000.0 TB"} {
		if got := Size(n); got != want {
			t.Errorf("Size(%d) = %q, want %q", n, got, want)
		}
	}
}

func TestProgressLine(t *testing.T) {
	p := &Progress{what: "fetch", total: 200, n: 50}
	if got, want := p.line(time.Second), "fetch [======                  ]  25%  50 B of 200 B  50 B/s"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	var b bytes.Buffer
	q := NewProgress(&b, "fetch", 10)
	q.Add(5)
	q.Done()
	if b.Len() != 0 {
		t.Errorf("drew %q although it is no terminal", b.String())
	}
}

func TestSpans(t *testing.T) {
	now := time.Date(2026, 6, 3, 0, 0, 0, 0, time.UTC)
	for back, want := range map[time.Duration]string{
		3 * time.Second: "3 s ago", 125 * time.Minute: "2 h 5 min ago", 49 * time.Hour: "2 d 1 h ago", -time.Minute: "in 1 min 0 s",
	} {
		if got := Ago(now, now.Add(-back)); got != want {
			t.Errorf("%v: got %q, want %q", back, got, want)
		}
	}
}
