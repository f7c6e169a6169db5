package puller

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/internal/testenv"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/report"
	"makenot.work/sando/puller/hook"
	"makenot.work/sando/puller/reporter"
)

// reporting is a world whose node reports, and publishes 1.0 and 2.0.
func reporting(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.puller.cfg.Report.Enabled = true
	must(t, w.puller.openReports(t.Context()))
	w.publish("1.0", "")
	w.publish("2.0", "")
	w.advance("1.0", nil)
	return w
}

// reported reports after a cycle, and returns what is in the bucket.
func (w *world) reported() *report.Report {
	w.t.Helper()
	w.puller.Report(w.t.Context(), nil)
	data, err := os.ReadFile(w.object(layout.ReportKey("mnw", "alpha")))
	must(w.t, err)
	r, err := report.Parse(data, report.Want{App: "mnw", Node: "alpha", Now: w.puller.now(), Ahead: time.Second})
	must(w.t, err)
	return r
}

func (w *world) wrote() canon.Time {
	w.t.Helper()
	st, err := w.puller.dir.Reporting()
	must(w.t, err)
	return st.Written
}

// TestReport: what a node says of itself, from its first install to a way back that failed.
func TestReport(t *testing.T) {
	w := reporting(t)
	names := func(v string) *report.Release { return &report.Release{Version: v, Manifest: w.digests[v]} }
	// What is the same in all of them, or is no matter of the situation.
	rest := cmp.Options{
		cmpopts.IgnoreFields(report.Report{}, "Schema", "App", "Node", "Instance", "Tier", "Platform", "Puller", "Written", "Heartbeat", "Counter", "Disk", "Downtime", "Message"),
		cmpopts.IgnoreFields(report.Release{}, "Since"), cmpopts.IgnoreFields(report.Failure{}, "At", "Cause"), cmpopts.IgnoreFields(report.Pin{}, "Since"),
	}
	says := func(want report.Report) *report.Report {
		t.Helper()
		got := w.reported()
		if want.Blocked == nil {
			want.Blocked = []report.Release{}
		}
		if diff := cmp.Diff(&want, got, rest); diff != "" {
			t.Errorf("report (-want +got)\n%s", diff)
		}
		return got
	}

	w.app.set("1.0", "500")
	w.step(reason.Unhealthy)
	says(report.Report{Desired: names("1.0"), Running: names("1.0"), Reason: reason.Unhealthy, Failure: &report.Failure{Version: "1.0"}})

	w.app.set("1.0", "")
	w.demand(reason.Updated)(w.puller.Step(t.Context(), Options{Now: true}))
	good := says(report.Report{Desired: names("1.0"), Running: names("1.0"), LastGood: names("1.0"), Healthy: true, Reason: reason.Current})
	st, err := w.puller.dir.State()
	must(t, err)
	if good.Platform == "" || good.Puller == "" || good.Heartbeat != 900 || good.Disk.Total == 0 || good.Tier != "b" || good.Downtime != st.Running.Downtime || good.Downtime == 0 {
		t.Errorf("it says %+v", good)
	}
	if good.Counter == nil || good.Counter.Trust != 1 || good.Running.Since != st.Running.Since {
		t.Errorf("counter is %+v, running %+v", good.Counter, good.Running)
	}

	w.app.set("2.0", "500")
	w.advance("2.0", nil)
	w.step(reason.Unhealthy)
	w.step(reason.Blocked)
	back := says(report.Report{Desired: names("2.0"), Running: names("1.0"), LastGood: names("1.0"), Healthy: true, Reason: reason.Blocked,
		Blocked: []report.Release{*names("2.0")}, Failure: &report.Failure{Version: "2.0"}})
	if !strings.Contains(back.Failure.Cause, "status is 500") || back.Counter.Seq <= good.Counter.Seq {
		t.Errorf("failure is %+v, counter %+v", back.Failure, back.Counter)
	}

	w.demand(reason.Updated)(w.puller.Pin(t.Context(), Order{Version: "2.0", Force: true, Reason: "the probe\nlies \x1b[31m"}, Options{}))
	forced := says(report.Report{Desired: names("2.0"), Running: names("2.0"), LastGood: names("1.0"), Reason: reason.Pinned,
		Pin: &report.Pin{Version: "2.0", Reason: "the probe lies \uFFFD[31m"}, Blocked: []report.Release{*names("2.0")}, Failure: &report.Failure{Version: "2.0"}})
	if forced.Desired.Manifest == "" || forced.Pin.Since.IsZero() {
		t.Errorf("it says %+v, %+v", forced.Desired, forced.Pin)
	}
}

// TestReportWithholds: what a hook prints does not go to the bucket, which others read.
func TestReportWithholds(t *testing.T) {
	w := reporting(t)
	w.hook(hook.BeforeSwap, `p=hunter; echo "no route to postgres://mnw:${p}2@db/mnw" >&2; exit 3`)
	res := w.step(reason.Hook)
	if !strings.Contains(res.Message, "hunter2") {
		t.Fatalf("the node itself is told %q", res.Message)
	}
	r := w.reported()
	if want := "ended with status 3; what it said is in the node's history"; !strings.Contains(r.Failure.Cause, want) || !strings.Contains(r.Message, want) {
		t.Errorf("cause %q, message %q, want %q in both", r.Failure.Cause, r.Message, want)
	}
	data, err := r.Encode()
	if err != nil || strings.Contains(string(data), "hunter2") {
		t.Errorf("%v, a secret in it:\n%s", err, data)
	}
}

// TestReportTrouble: what keeps a cycle from its end is reported as well.
func TestReportTrouble(t *testing.T) {
	w := reporting(t)
	w.step(reason.Updated)
	w.reported()
	must(t, os.WriteFile(w.puller.dir.Path("state.json"), []byte(`{"version":99}`), 0o600))
	if _, err := w.puller.Step(t.Context(), Options{}); reason.Of(err) != reason.Config {
		t.Fatal(err)
	}
	r := w.reported()
	if r.Reason != reason.Config || r.Healthy || r.Running == nil || r.Running.Version != "1.0" || !strings.Contains(r.Message, "a newer puller wrote it") {
		t.Errorf("it says %+v", r)
	}
}

// TestReportCosts: where nothing changed nothing is asked, where reports are off nothing at all.
func TestReportCosts(t *testing.T) {
	w := reporting(t)
	w.step(reason.Updated)
	w.reported()
	first := w.wrote()
	must(t, os.Remove(w.object(layout.ReportKey("mnw", "alpha"))))
	for range 3 {
		w.step(reason.Current)
		w.puller.Report(t.Context(), nil)
	}
	if _, err := os.Stat(w.object(layout.ReportKey("mnw", "alpha"))); err == nil || w.wrote() != first {
		t.Error("it was written again")
	}
	off := newWorld(t)
	off.publish("1.0", "")
	off.advance("1.0", nil)
	off.step(reason.Updated)
	if next := off.puller.Report(t.Context(), nil); !next.IsZero() {
		t.Errorf("reports are off, and the next is due at %s", next)
	}
	if found, _ := filepath.Glob(off.puller.dir.Path("report*")); found != nil {
		t.Errorf("reports are off, and there is %v", found)
	}
}

// TestReportUnwritten: an update goes through whatever becomes of the report.
func TestReportUnwritten(t *testing.T) {
	w := reporting(t)
	w.puller.reporter.Bucket = stuck{w.bucket, errors.New("no route to host")}
	w.step(reason.Updated)
	w.puller.Report(t.Context(), nil)
	w.runs("1.0")
	s, err := w.puller.Status(t.Context())
	must(t, err)
	if s.Reason != reason.Current || s.Report == nil || s.Report.Problem == nil || !strings.Contains(s.Report.Problem.Cause, "no route to host") || !s.Report.Written.IsZero() {
		t.Errorf("status is %s, report %+v", s.Reason, s.Report)
	}
	w.puller.reporter.Bucket = w.bucket
	now := time.Now().Add(time.Minute)
	w.puller.now = func() time.Time { return now }
	if r := w.reported(); r.Reason != reason.Current || !r.Healthy || r.Counter == nil {
		t.Errorf("it says %+v", r)
	}
}

// stuck is a bucket to which nothing can be written.
type stuck struct {
	bucket.Bucket
	err error // nil: it hangs
}

func (s stuck) Replace(ctx context.Context, _ string, _ []byte, _ string) (string, error) {
	if s.err == nil {
		<-ctx.Done()
		return "", ctx.Err()
	}
	return "", s.err
}

// TestReportGivesWay: an order ends a report that hangs; the end of the process does as well.
func TestReportGivesWay(t *testing.T) {
	w := reporting(t)
	w.step(reason.Updated)
	w.puller.reporter.Bucket = stuck{w.bucket, nil}
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		go func() {
			<-time.After(time.Second)
			_, err := w.puller.savePin(Order{Version: "1.0"})
			if err != nil {
				t.Error(err)
			}
		}()
		w.puller.Report(t.Context(), nil)
		if took := time.Since(begin); took < time.Second || took > time.Second+lookForOrders {
			t.Errorf("it gave way after %s", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		begin = time.Now()
		w.puller.Report(ctx, nil)
		if took := time.Since(begin); took != 2*time.Second {
			t.Errorf("it ended after %s", took)
		}
		begin = time.Now()
		w.puller.Report(t.Context(), nil)
		if took := time.Since(begin); took != reporter.Deadline {
			t.Errorf("it was given up after %s", took)
		}
	})
	st, err := w.puller.dir.Reporting()
	must(t, err)
	if st.Problem == nil || st.Problem.Count != 1 {
		t.Errorf("problem is %+v, want one", st.Problem)
	}
}

// TestAsRootReportElsewhere: root makes nothing in a directory of somebody else's.
func TestAsRootReportElsewhere(t *testing.T) {
	testenv.Root(t, "a directory of another user")
	w := reporting(t)
	w.step(reason.Updated)
	must(t, os.Chown(w.base+"/bucket", 1, 1))
	w.puller.Report(t.Context(), nil)
	st, err := w.puller.dir.Reporting()
	must(t, err)
	if p := st.Problem; p == nil || p.Code != reason.Config || !strings.Contains(p.Cause, "belongs to uid 1, and this puller runs as uid 0") {
		t.Errorf("problem is %+v", p)
	}
	if _, err := os.Stat(w.object("mnw/reports")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("something was made there: %v", err)
	}
	must(t, os.Chown(w.base+"/bucket", 0, 0))
	w.puller.now = func() time.Time { return time.Now().Add(time.Minute) }
	if r := w.reported(); r.Reason != reason.Current {
		t.Errorf("it says %+v", r)
	}
}

// TestReportOnce: where a daemon is at work, it reports.
func TestReportOnce(t *testing.T) {
	w := reporting(t)
	w.step(reason.Updated)
	daemon, err := w.puller.dir.Claim(node.Daemon{PID: 1, Since: canon.Now()})
	must(t, err)
	w.puller.ReportOnce(t.Context())
	if st, err := w.puller.dir.Reporting(); st != nil || err != nil {
		t.Errorf("reported beside a daemon: %+v, %v", st, err)
	}
	must(t, daemon.Close())
	w.puller.ReportOnce(t.Context())
	if st, err := w.puller.dir.Reporting(); st == nil || err != nil {
		t.Errorf("not reported: %v", err)
	}
}

// TestReportDuplicate: the warning, with what to do.
func TestReportDuplicate(t *testing.T) {
	w := reporting(t)
	w.step(reason.Updated)
	w.reported()
	now := time.Now()
	w.puller.now = func() time.Time { return now }
	for range 2 {
		now = now.Add(15 * time.Minute)
		must(t, os.WriteFile(w.object(layout.ReportKey("mnw", "alpha")), []byte("not ours"), 0o644))
		w.step(reason.Current)
		w.puller.Report(t.Context(), nil)
	}
	s, err := w.puller.Status(t.Context())
	must(t, err)
	if s.Report.Namesake == nil || len(s.Warnings) != 1 || !strings.Contains(s.Warnings[0], "set `node` in the configuration of one of them") {
		t.Errorf("namesake is %+v, warnings %q", s.Report.Namesake, s.Warnings)
	}
	events, err := w.puller.History(2)
	must(t, err)
	if events[0].Event != "report taken over" || events[1].Event != "duplicate node" {
		t.Errorf("events are %+v", events)
	}
}

// TestReportNothing: a node on which nothing runs yet says so.
func TestReportNothing(t *testing.T) {
	w := reporting(t)
	w.advance("2.0", func(c *channels.Channel) { c.Rollout = 0 })
	w.step(reason.Halted)
	r := w.reported()
	if r.Reason != reason.Halted || r.Running != nil || r.Healthy || r.Desired == nil || r.Desired.Version != "2.0" {
		t.Errorf("it says %+v", r)
	}
}

// TestClip: what a report says in words is short, and one line.
func TestClip(t *testing.T) {
	long := strings.Repeat("ü", report.MaxText)
	got := clip("a\nb\x1b" + long)
	if len(got) > report.MaxText || !strings.HasPrefix(got, "a b\uFFFDü") || !strings.HasSuffix(got, "ü …") || canon.Text(got, false) != nil {
		t.Errorf("%d bytes: %q", len(got), got)
	}
	if got := clip("short"); got != "short" {
		t.Errorf("%q", got)
	}
}
