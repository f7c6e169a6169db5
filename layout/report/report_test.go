package report_test

import (
	"bytes"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/report"
)

func golden(t testing.TB) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/report.json")
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// want is what a reader of the golden report knows, a minute after it was written.
func want() report.Want {
	return report.Want{App: "mnw", Node: "alpha-west-1", Now: time.Date(2026, 6, 3, 3, 11, 0, 0, time.UTC), Ahead: 2 * time.Minute}
}

func parse(t testing.TB, data []byte) *report.Report {
	t.Helper()
	r, err := report.Parse(data, want())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestGolden(t *testing.T) {
	again, err := parse(t, golden(t)).Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden(t)), string(again)); diff != "" {
		t.Errorf("Encode (-golden +got):\n%s", diff)
	}
}

// TestTolerant: what does not change the meaning is taken, and what a newer puller may say
// passed over.
func TestTolerant(t *testing.T) {
	same := parse(t, golden(t))
	for _, tt := range []struct{ name, old, new string }{
		{"white space", `"tier": "b",`, `"tier":"b" ,` + "\n\n\t"},
		{"an unknown field", `"tier": "b",`, `"tier": "b", "load": {"a": [null, 1e3], "b": "\u001b"},`},
		{"an unknown field within", `"free": 13958643712,`, `"free": 13958643712, "swap": null,`},
		{"another case is another field", `"tier": "b",`, `"tier": "b", "Tier": "c",`},
		{"another order", `"free": 13958643712,` + "\n" + `    "total": 21474836480,`, `"total": 21474836480, "free": 13958643712,`},
		{"an escape", `"tier": "b"`, `"tier": "\u0062"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := parse(t, canontest.Edit(t, golden(t), tt.old, tt.new))
			if diff := cmp.Diff(same, got); diff != "" {
				t.Errorf("it says something else (-want +got):\n%s", diff)
			}
		})
	}
}

// TestLater: a newer puller may have reasons that this program does not know, and a node's
// clock may be a little ahead.
func TestLater(t *testing.T) {
	r := parse(t, canontest.Edit(t, golden(t), `"reason": "blocked"`, `"reason": "paused"`))
	if r.Reason != "paused" || r.Reason.Exit() != 1 {
		t.Errorf("reason is %q, exit %d", r.Reason, r.Reason.Exit())
	}
	ahead := parse(t, canontest.Edit(t, golden(t), "2026-06-03T03:10:00Z", "2026-06-03T03:13:00Z"))
	if got := ahead.Written.Format(canon.TimeLayout); got != "2026-06-03T03:13:00Z" {
		t.Errorf("written is %s", got)
	}
}

const (
	manifest = `"sha256:6b51d431df5d7f141cbececcf79edf3dd861c3b4069f0b11661a3eefacbba918",
    "since": "2026-05-20T08:00:00Z"`
	blocked = `      "version": "0.9.5",
      "manifest": "sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
      "since": "2026-06-03T02:55:11Z"`
)

// TestHostile changes one thing of the golden report in each case.
func TestHostile(t *testing.T) {
	long := strings.Repeat("x", report.MaxText+1)
	for _, tt := range []struct {
		name, old, new string
		code           reason.Code
		is             error // nil: any
	}{
		{"a key twice", `"tier": "b",`, `"tier": "b", "tier": "b",`, reason.Format, nil},
		{"an unknown key twice", `"tier": "b",`, `"tier": "b", "x": 1, "x": 2,`, reason.Format, nil},
		{"a key twice within", `"free": 13958643712,`, `"free": 1, "free": 13958643712,`, reason.Format, nil},
		{"a field is missing", `"tier": "b",`, ``, reason.Format, nil},
		{"a field is missing within", `"free": 13958643712,`, ``, reason.Format, nil},
		{"a field in another case", `"tier"`, `"Tier"`, reason.Format, nil},
		{"null", `"tier": "b"`, `"tier": null`, reason.Format, nil},
		{"null for what may be missing", `"rewritten": true`, `"rewritten": null`, reason.Format, nil},
		{"another schema", `report/v1`, `report/v2`, reason.Format, nil},
		{"a schema twice", `"schema": `, `"schema": "sando.report/v1", "schema": `, reason.Format, nil},
		{"a number for a string", `"tier": "b"`, `"tier": 7`, reason.Format, nil},
		{"a string for a number", `"heartbeat": 900`, `"heartbeat": "900"`, reason.Format, nil},
		{"a string for a boolean", `"healthy": true`, `"healthy": "true"`, reason.Format, nil},
		{"a list for an object", `"disk": {`, `"disk": [], "x": {`, reason.Format, nil},
		{"an object for a list", `"blocked": [`, `"blocked": {}, "x": [`, reason.Format, nil},
		{"a number in the list", `"blocked": [`, `"blocked": [5,`, reason.Format, nil},
		{"null in the list", `"blocked": [`, `"blocked": [null,`, reason.Format, nil},
		{"1e3", `"heartbeat": 900`, `"heartbeat": 9e2`, reason.Format, nil},
		{"a fraction", `"heartbeat": 900`, `"heartbeat": 900.0`, reason.Format, nil},
		{"2^53", `"seq": 1780455236000`, `"seq": 9007199254740992`, reason.Format, nil},
		{"10^400", `"seq": 1780455236000`, `"seq": 1` + strings.Repeat("0", 400), reason.Format, nil},
		{"a negative number", `"free": 13958643712`, `"free": -1`, reason.Format, nil},
		{"a counter of 0", `"trust": 1`, `"trust": 0`, reason.Format, nil},
		{"a heartbeat of nothing", `"heartbeat": 900`, `"heartbeat": 0`, reason.Format, nil},
		{"a heartbeat of a year", `"heartbeat": 900`, `"heartbeat": 31536000`, reason.Format, nil},
		{"an escape sequence", `0.9.5 failed here`, `\u001b[31m0.9.5 failed here`, reason.Format, nil},
		{"a C1 control", `0.9.5 failed here`, "\u009b0.9.5 failed here", reason.Format, nil},
		{"a newline", `the importer is slow`, `the importer\nis slow`, reason.Format, nil},
		{"a bidirectional mark", `after 1m0s still`, "after \u202e1m0s still", reason.Format, nil},
		{"a line separator", `"puller": "v1.2.0"`, `"puller": "v1.2.0\u2028"`, reason.Format, nil},
		{"invalid UTF-8", `"puller": "v1.2.0"`, "\"puller\": \"v1\xff\"", reason.Format, nil},
		{"a long message", `0.9.5 failed here and is not tried again`, long, reason.Format, nil},
		{"a long cause", `after 1m0s still unhealthy`, long, reason.Format, nil},
		{"a long reason of a pin", `the importer is slow`, long, reason.Format, nil},
		{"a long version of the puller", `v1.2.0`, long, reason.Format, nil},
		{"markup for a version", `"0.9.4",
    "manifest": ` + manifest, `"<b>",
    "manifest": ` + manifest, reason.Format, nil},
		{"a path for a version", `"version": "0.9.5",
    "at"`, `"version": "../x",
    "at"`, reason.Format, nil},
		{"no version", `"version": "0.9.5",
    "reason"`, `"version": "",
    "reason"`, reason.Format, nil},
		{"a bad digest", manifest, strings.Replace(manifest, "6b51", "6B51", 1), reason.Format, nil},
		{"another algorithm", manifest, strings.Replace(manifest, "sha256", "sha512", 1), reason.Format, nil},
		{"a bad digest of what is blocked", blocked, strings.Replace(blocked, "sha256:", "", 1), reason.Format, nil},
		{"too much is blocked", blocked + "\n    }", strings.Repeat(blocked+"\n},{\n", report.MaxBlocked) + blocked + "\n    }", reason.Format, nil},
		{"a bad tier", `"tier": "b"`, `"tier": "../b"`, reason.Format, nil},
		{"a bad platform", `linux/amd64`, `Linux`, reason.Format, nil},
		{"a bad instance", `5f0c3a9b1d7e42860b4d3f219a1c6f2b`, `5F0c3a9b1d7e42860b4d3f219a1c6f2b`, reason.Format, nil},
		{"a bad reason", `"reason": "blocked"`, `"reason": "Blocked!"`, reason.Format, nil},
		{"a time in another form", `"2026-06-03T03:10:00Z"`, `"2026-06-03 03:10:00"`, reason.Format, nil},
		{"a time in another zone", `"2026-06-03T03:10:00Z"`, `"2026-06-03T03:10:00+00:00"`, reason.Format, nil},
		{"healthy, and nothing runs", `"running"`, `"ran"`, reason.Format, nil},
		{"text behind it", "  \"rewritten\": true\n}", "  \"rewritten\": true\n}{}", reason.Format, nil},
		{"cut", "  \"rewritten\": true\n}", "", reason.Format, nil},

		{"another node", `"alpha-west-1"`, `"alpha-west-2"`, reason.Policy, report.ErrOther},
		{"another app", `"mnw"`, `"wiki"`, reason.Policy, report.ErrOther},
		{"written in the future", `2026-06-03T03:10:00Z`, `2026-06-03T03:13:01Z`, reason.Policy, report.ErrFuture},
		{"runs since the future", `2026-06-03T02:55:12Z`, `2126-06-03T02:55:12Z`, reason.Policy, report.ErrFuture},
		{"good since the future", `2026-05-20T08:00:00Z`, `2026-06-20T08:00:00Z`, reason.Policy, report.ErrFuture},
		{"wanted since the future", `430635ab"
  },`, `430635ab", "since": "2126-06-03T02:55:12Z"
  },`, reason.Policy, report.ErrFuture},
		{"pinned in the future", `2026-06-03T02:54:10Z`, `2026-06-05T02:54:10Z`, reason.Policy, report.ErrFuture},
		{"failed in the future", `"at": "2026-06-03T02:55:11Z"`, `"at": "9999-12-31T23:59:59Z"`, reason.Policy, report.ErrFuture},
		{"blocked in the future", blocked, strings.Replace(blocked, "2026", "2027", 1), reason.Policy, report.ErrFuture},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := report.Parse(canontest.Edit(t, golden(t), tt.old, tt.new), want())
			if err == nil || reason.Of(err) != tt.code || tt.is != nil && !errors.Is(err, tt.is) {
				t.Fatalf("error is %v (%s), want %s, %v", err, reason.Of(err), tt.code, tt.is)
			}
			if text := err.Error(); canon.Text(text, false) != nil || len(text) > 2000 {
				t.Errorf("the error is no line for people: %q", text)
			}
		})
	}
}

// TestWhole: what is no report at all.
func TestWhole(t *testing.T) {
	for _, tt := range []struct {
		name string
		data []byte
		code reason.Code
	}{
		{"empty", nil, reason.Format},
		{"null", []byte("null"), reason.Format},
		{"a list", []byte("[]"), reason.Format},
		{"an empty object", []byte("{}"), reason.Format},
		{"a byte order mark", append([]byte("\ufeff"), golden(t)...), reason.Format},
		{"two of them", append(golden(t), golden(t)...), reason.Format},
		{"too long", append(golden(t), bytes.Repeat([]byte(" "), layout.MaxReport)...), reason.Limit},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := report.Parse(tt.data, want()); reason.Of(err) != tt.code {
				t.Errorf("error is %v, want the reason %s", err, tt.code)
			}
		})
	}
	// Nothing becomes of what is passed over, however deep it is.
	head := "{\n  \"x\": " + strings.Repeat("[", 7000) + strings.Repeat("]", 7000) + ",\n"
	if _, err := report.Parse(append([]byte(head), golden(t)[2:]...), want()); err != nil {
		t.Errorf("deep nesting in what is passed over: %v", err)
	}
}

// TestEncode: nothing is written that would not be read.
func TestEncode(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*report.Report)
	}{
		{"a bad version", func(r *report.Report) { r.Running.Version = "a/b" }},
		{"no list", func(r *report.Report) { r.Blocked = nil }},
		{"a control character", func(r *report.Report) { r.Message = "a\tb" }},
		{"a long text", func(r *report.Report) { r.Failure.Cause = strings.Repeat("x", report.MaxText+1) }},
		{"no schema", func(r *report.Report) { r.Schema = "" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := parse(t, golden(t))
			tt.change(r)
			if _, err := r.Encode(); reason.Of(err) != reason.Format {
				t.Errorf("error is %v, want the reason format", err)
			}
		})
	}
}

// TestFull: the longest report there can be is within the cap.
func TestFull(t *testing.T) {
	r := parse(t, golden(t))
	worst := strings.Repeat(`"`, report.MaxText) // two bytes each
	r.Message, r.Pin.Reason, r.Failure.Cause = worst, worst, worst
	one := report.Release{Version: strings.Repeat("9", 64), Manifest: r.Running.Manifest, Since: r.Written}
	r.Desired, r.Running, r.LastGood, r.Pin.Version, r.Failure.Version = &one, &one, &one, one.Version, one.Version
	r.Blocked = nil
	for range report.MaxBlocked {
		r.Blocked = append(r.Blocked, one)
	}
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := report.Parse(data, want()); err != nil || len(data) > layout.MaxReport*2/3 {
		t.Errorf("%d bytes: %v", len(data), err)
	}
}

func TestNews(t *testing.T) {
	news := func(change func(*report.Report)) layout.Digest {
		r := parse(t, golden(t))
		change(r)
		d, err := r.News()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	same := news(func(*report.Report) {})
	for name, tt := range map[string]struct {
		change func(*report.Report)
		is     bool
	}{
		"time":      {func(r *report.Report) { r.Written = canon.Now() }, false},
		"disk":      {func(r *report.Report) { r.Disk.Free-- }, false},
		"words":     {func(r *report.Report) { r.Message += "." }, false},
		"reason":    {func(r *report.Report) { r.Reason = reason.IO }, true},
		"health":    {func(r *report.Report) { r.Healthy = false }, true},
		"version":   {func(r *report.Report) { r.Running.Version = "0.9.5" }, true},
		"unpinned":  {func(r *report.Report) { r.Pin = nil }, true},
		"heartbeat": {func(r *report.Report) { r.Heartbeat++ }, true},
	} {
		if got := news(tt.change) != same; got != tt.is {
			t.Errorf("%s is news: %v, want %v", name, got, tt.is)
		}
	}
}

// FuzzParse: no panic, and what is read is written and read again as the same.
func FuzzParse(f *testing.F) {
	f.Add(golden(f))
	f.Add([]byte(`{"schema":"sando.report/v1"}`))
	f.Add(bytes.ReplaceAll(golden(f), []byte("\n"), nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := report.Parse(data, want())
		if err != nil {
			if text := err.Error(); r != nil || canon.Text(text, false) != nil {
				t.Fatalf("a report besides the error, or one that is no line: %q", text)
			}
			return
		}
		again, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		r2, err := report.Parse(again, want())
		if err != nil {
			t.Fatalf("what was written is refused: %v\n%s", err, again)
		}
		if diff := cmp.Diff(r, r2); diff != "" {
			t.Fatalf("read again it differs:\n%s", diff)
		}
	})
}
