// Package reporter writes what a node says of itself (layout/report) to the bucket, when
// there is news and on the heartbeat, and finds out when another machine writes there too.
//
// # When
//
// After each cycle it is asked whether there is something to write: when the report differs
// from the one written last, its time, disk and words apart, or when the heartbeat is due.
// A heartbeat comes a part of it early, up to a fifth and drawn anew each time, so that a
// fleet that was switched on at one moment does not report in step; so it never comes later
// than promised but for the cycle that goes on. What it knows is on disk, in
// .sando/report.json, and so a timer's puller, of which nothing lives on, keeps the same time.
//
// # Never in the way
//
// The report is no part of the update. It is written last, without the lock of the app,
// within Deadline; a new order, or the end of ctx, ends it at once. What goes wrong is kept
// for `puller status` and told to the log, once until it is another thing, and tried again
// after a minute, then 2, 4 … up to the heartbeat, and not before the server wants
// (Retry-After). Where reports are off nothing of this is looked at.
//
// # Who else
//
// Each write names the version of the object that this node wrote last. When there is
// another one, somebody else wrote it. That may be this node itself, in a request of which
// it never heard the end: what it sends is noted before. It may have been before the disk
// was restored, or .sando/ removed. Then the node takes over, notes that once in the
// history, and is alone from then on. When it happens again within the time in which
// another machine would report twice, there is one, under the same name: a clone of the
// disk, or another machine with the same host name. `puller status` says so until it has
// not happened for as long. Both go on, the last one to write is what the bucket has; but
// each writes on its heartbeat only, so that they do not answer one another at every poll.
package reporter

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/later"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/layout/report"
)

// Deadline is how long one report may take, with all its requests.
const Deadline = 10 * time.Second

const (
	firstPause = time.Minute
	early      = 0.2 // of the heartbeat
	// slack is how much later than promised a report may be: a cycle goes on.
	slack = 10 * time.Minute
)

// Reporter writes the reports of one node.
type Reporter struct {
	Bucket    bucket.Bucket
	Where     string       // the place in words, so that another one is seen to be another
	Ready     func() error // may say, before each report, that it must not be written there
	Dir       *node.Dir
	Heartbeat time.Duration
	Log       *slog.Logger
	Now       func() time.Time
	Chance    func() float64         // from 0 to less than 1
	Record    func(event node.Event) // adds to the history

	// Once is set for a process that ends after one report. What it cannot note on a full disk
	// is lost, and would be news to the next one.
	Once bool

	unsaved *node.Reporting // what could not be noted
}

// errBusy says that another process writes the report at this moment.
var errBusy = errors.New("another puller writes the report")

// Report writes r when it is due, and returns when the next one is if nothing changes until
// then. Of r it fills in what it alone knows. It fails in the log only.
//
// A full disk keeps no daemon from it: that is worth a report.
func (w *Reporter) Report(ctx context.Context, r *report.Report) (next time.Time) {
	st, err := w.try(ctx, r)
	switch {
	case errors.Is(err, errBusy), ctx.Err() != nil:
		return w.Now().Add(firstPause)
	case st == nil: // the disk; there is no place to keep it
		w.Log.Warn("the report is not written", "error", err)
		return w.Now().Add(w.Heartbeat)
	case st.Problem != nil:
		return st.Problem.Next.Time
	}
	return st.Due.Time
}

// try writes r if it is due, and returns what is known then; nil when that cannot be kept.
func (w *Reporter) try(ctx context.Context, r *report.Report) (*node.Reporting, error) {
	unlock, err := w.Dir.LockReport()
	if err != nil {
		return nil, err
	}
	if unlock == nil {
		return nil, errBusy
	}
	defer unlock()
	st, err := w.load()
	if err != nil {
		return nil, err
	}
	r.Schema, r.Instance, r.Heartbeat = report.Schema, st.Instance, int64(w.Heartbeat/time.Second)
	r.Written = canon.At(w.Now())
	news, err := r.News()
	if err != nil {
		return nil, err
	}
	if !w.due(st, news) {
		return st, nil
	}
	timed, cancel := context.WithTimeout(ctx, Deadline)
	defer cancel()
	err = w.write(timed, st, r)
	if ctx.Err() != nil {
		return st, ctx.Err() // it came to no end
	}
	w.settle(st, news, explain(timed, layout.ReportKey(r.App, r.Node), err))
	if serr := w.save(st); serr != nil {
		w.Log.Warn("what was reported is not noted", "error", serr)
	}
	return st, err
}

func (w *Reporter) save(st *node.Reporting) error {
	err := w.Dir.SaveReporting(st)
	w.unsaved = nil
	if err != nil {
		w.unsaved = st
	}
	return err
}

// load returns what is known of the reports of this node.
func (w *Reporter) load() (*node.Reporting, error) {
	if st := w.unsaved; st != nil {
		return st, nil
	}
	st, err := w.Dir.Reporting()
	if errors.Is(err, node.ErrBroken) {
		w.Log.Warn("what was reported is not known any more", "error", err)
		st, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if st == nil {
		st = node.NewReporting()
	}
	if where := layout.Sum([]byte(w.Where)); st.Where != where {
		// Another instance as well: a clone that was renamed is one.
		st = node.NewReporting()
		st.Where = where
	}
	return st, nil
}

// due reports whether there is something to write. Times that a clock which was set back has
// left in the future are none.
func (w *Reporter) due(st *node.Reporting, news layout.Digest) bool {
	now := w.Now()
	if p := st.Problem; p != nil && now.Before(p.Next.Time) && p.Next.Sub(now) <= w.Heartbeat {
		return false
	}
	if beat := st.Due.Sub(now); beat <= 0 || beat > w.Heartbeat {
		return true
	}
	return st.Problem != nil || news != st.News && !st.Namesake.IsThere(now)
}

// write makes r the report of this node.
func (w *Reporter) write(ctx context.Context, st *node.Reporting, r *report.Report) error {
	if err := w.Ready(); err != nil {
		return err
	}
	data, err := r.Encode()
	if err != nil {
		return err
	}
	sum := layout.Sum(data)
	was := append([]layout.Digest{}, st.Pending...)
	st.Pend(sum)
	if err := w.save(st); err != nil && w.Once {
		return err
	}
	key := layout.ReportKey(r.App, r.Node)
	now, err := w.Bucket.Replace(ctx, key, data, st.Object)
	if errors.Is(err, bucket.ErrChanged) || st.Object != "" && forbidden(err) {
		// Who may not list is told so of an object that is missing.
		var there string
		if there, err = w.look(ctx, st, r, was); err == nil {
			now, err = w.Bucket.Replace(ctx, key, data, there)
		}
	}
	if err != nil {
		return err
	}
	st.Object, st.Written, st.Pending = now, r.Written, nil
	return nil
}

func forbidden(err error) bool {
	var e interface{ Forbidden() bool }
	return errors.As(err, &e) && e.Forbidden()
}

// look finds out what is there instead of what this node wrote last, and returns its version;
// "" when there is nothing.
func (w *Reporter) look(ctx context.Context, st *node.Reporting, r *report.Report, pending []layout.Digest) (version string, err error) {
	data, version, err := w.Bucket.Poll(ctx, layout.ReportKey(r.App, r.Node), "", bucket.MaxReplace)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	sum := layout.Sum(data)
	for _, d := range pending {
		if d == sum {
			return version, nil // written by this node, which never heard of it
		}
	}
	// Whatever its times are: that clock may be the one that is right.
	other, perr := report.Parse(data, report.Want{App: r.App, Node: r.Node, Now: w.Now(), Ahead: 1 << 62})
	if perr != nil {
		w.Log.Debug("the report in the bucket is none", "error", perr)
		other = &report.Report{}
	}
	w.meet(st, r.Node, other)
	return version, nil
}

// meet notes that somebody else wrote the report of this node.
func (w *Reporter) meet(st *node.Reporting, name string, other *report.Report) {
	now := w.Now()
	beat := min(max(w.Heartbeat, time.Duration(other.Heartbeat)*time.Second), report.MaxHeartbeat)
	n := &node.Namesake{Count: 1, At: canon.At(now), Until: canon.At(now.Add(2*beat + slack)), Instance: other.Instance}
	if was := st.Namesake; was != nil && now.Before(was.Until.Time) {
		n.Count = was.Count + 1
	}
	st.Namesake = n
	switch n.Count {
	case 1:
		w.Record(node.Event{Event: "report taken over", Message: "the report of this node in the bucket was not the one that it wrote last (" + origin(st, other) + "): it is this one's again"})
	case 2:
		text := Shared(name, n)
		w.Record(node.Event{Event: "duplicate node", Message: text})
		w.Log.Warn(text)
	}
}

// origin says what is known of who wrote other.
func origin(st *node.Reporting, other *report.Report) string {
	switch {
	case other.Instance == "":
		return "it cannot be read"
	case other.Instance == st.Instance:
		return "this installation wrote it: from a copy of this disk, or before it was restored"
	}
	return "another installation wrote it: another machine, or this one before .sando/ was new"
}

// Shared says that there is another machine with the name of this node, and what to do.
func Shared(name string, n *node.Namesake) string {
	return fmt.Sprintf("another machine reports as %q, which is the name of this node (last seen at %s): set `node` in the configuration of one of them to a name of its own",
		name, n.At.Format(canon.TimeLayout))
}

// explain adds to err what a person needs to know.
func explain(ctx context.Context, key string, err error) error {
	switch {
	case err != nil && ctx.Err() != nil:
		return reason.Errorf(reason.IO, "it took longer than %s: %w", Deadline, err)
	case forbidden(err):
		return fmt.Errorf("%w; the credential of [report] must have s3:GetObject and s3:PutObject on %q", err, key)
	}
	return err
}

// settle notes how it went.
func (w *Reporter) settle(st *node.Reporting, news layout.Digest, err error) {
	now := w.Now()
	if n := st.Namesake; n != nil && !now.Before(n.Until.Time) {
		st.Namesake = nil
	}
	was := st.Problem
	if err == nil {
		st.News, st.Problem = news, nil
		st.Due = canon.At(now.Add(time.Duration(float64(w.Heartbeat) * (1 - early*w.Chance()))))
		if was != nil {
			w.Log.Info("the report is written again", "not since", was.Since.Format(canon.TimeLayout))
		}
		return
	}
	p := &node.Unreported{Since: canon.At(now), Count: 1, Code: reason.Of(err), Cause: node.Line(err.Error())}
	if was != nil {
		p.Since, p.Count = was.Since, was.Count+1
	}
	wait := max(min(firstPause<<min(p.Count-1, 10), w.Heartbeat), min(later.Of(err), w.Heartbeat))
	p.Next = canon.At(now.Add(wait))
	st.Problem = p
	if was == nil || was.Code != p.Code {
		w.Log.Warn("the report is not written; updates go on without", "reason", string(p.Code), "error", p.Cause)
	}
}
