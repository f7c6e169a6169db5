package cli

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/cli"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

// writeStatus tells what runs, since when, what should run, why not, what happens
// next, and what a person can do. installed says that the configuration is where the puller's
// units read it.
func writeStatus(out io.Writer, s puller.Status, installed bool) {
	now := time.Now()
	fmt.Fprintln(out, cli.Printable(headline(now, s)))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	row := func(name, text string) {
		fmt.Fprintf(w, "%s\t%s\n", name, cli.Printable(strings.ReplaceAll(text, "\n", " ")))
	}
	line := func(name, format string, args ...any) {
		for _, text := range clauses(fmt.Sprintf(format, args...)) {
			row(name, text)
			name = ""
		}
	}
	message := s.Message
	if down(s.Unit) && s.Reason.Exit() == 0 {
		message += "; but the app does not run, see unit"
	}
	line(string(s.Reason), "%s", message)
	if l := s.Last; l.Reason == s.Reason && l.Reason.Exit() != 0 && !l.Since.IsZero() {
		line("so since", "%s", moment(now, l.Since))
	}
	if b := failure(s); b != nil {
		for n, text := range folded(b.Output) {
			row(map[bool]string{true: b.Version + " said"}[n == 0], "| "+text)
		}
	}
	writeWanted(line, now, s)
	if i := s.Intent; i != nil {
		to := i.To
		if i.Phase == node.RollingBack {
			to = i.From
		}
		text := fmt.Sprintf("%s to %s, since %s", i.Phase, to, moment(now, i.Started))
		if i.Tries > 0 {
			text += fmt.Sprintf(", gone on with %s", times(i.Tries))
		}
		line("in progress", "%s", text)
	}
	if s.AtWork != "" {
		line("at work", "%s", s.AtWork)
	}
	if w := s.Window; w != nil {
		text := "closed, opens"
		if w.Open {
			text = "open, opens again"
		}
		line("window", "%s %s, %s: %s", text, w.Says, cli.Ago(now, w.Opens.Time), w.Window)
	}
	for _, r := range []struct {
		name string
		rel  *node.Release
	}{{"last good", s.LastGood}, {"previous", s.Previous}} {
		if r.rel != nil {
			line(r.name, "%s", r.rel.Version)
		}
	}
	if u := s.Unit; u != nil {
		line("unit", "%s", unitLine(now, u, s.Running != nil))
	}
	if r := s.Running; r != nil && r.Downtime > 0 {
		line("downtime", "%s when %s became live", time.Duration(r.Downtime)*time.Millisecond, r.Version)
	}
	if n := len(s.Blocked); n > 0 {
		b := s.Blocked[n-1]
		text := fmt.Sprintf("%s, %s", b.Version, moment(now, b.At))
		if !strings.Contains(s.Message, b.Cause) {
			text += ": " + b.Cause
		}
		if n > 1 {
			text += fmt.Sprintf("; it is the last of %d", n)
		}
		line("failed before", "%s", text)
	}
	if r := s.Refused; r != nil {
		line("refused", "%s, %s; if it stays as it is, fetched again at %s", r.Object, times(r.Count), moment(now, r.Next))
	}
	line("on disk", "%s", orNothing(strings.Join(s.Releases, " ")))
	if !s.LastCycle.IsZero() {
		line("last cycle", "%s", moment(now, s.LastCycle))
	} else {
		line("last cycle", "never; run `puller`")
	}
	writeWorkers(line, now, s, installed)
	writeReport(line, now, s.Report)
	if s.Rewritten {
		line("note", "the history of the channel repo was rewritten; the signed counters still hold")
	}
	for _, warning := range s.Warnings {
		line("warning", "%s", warning)
	}
}

// writeWorkers tells who looks for news, or that nobody does.
func writeWorkers(line func(name, format string, args ...any), now time.Time, s puller.Status, installed bool) {
	d, starts := s.Daemon, ""
	if installed {
		starts = fmt.Sprintf("; `systemctl start puller@%s` starts one", s.App)
	}
	switch {
	case d != nil && d.PID == 0: // it was writing just now
		line("daemon", "at work")
	case d != nil:
		line("daemon", "at work, pid %d, since %s", d.PID, moment(now, d.Since))
	case s.Timer != "":
		line("timer", "%s is active", s.Timer)
	case s.AtWork == "":
		line("daemon", "none is at work, nor its timer: nothing new is found before a `puller` runs%s", starts)
	}
	if d != nil && d.Problem != "" {
		line("warning", "the daemon goes on with an older configuration: %s", d.Problem)
	}
}

// writeReport tells whether the bucket knows how this node is.
func writeReport(line func(name, format string, args ...any), now time.Time, r *puller.ReportStatus) {
	if r == nil {
		return
	}
	last := "none was written yet"
	if !r.Written.IsZero() {
		last = "the last one was written at " + moment(now, r.Written)
	}
	if p := r.Problem; p != nil {
		line("report", "not written since %s: %s; tried %s, again at %s; updates go on without it; %s",
			moment(now, p.Since), p.Cause, times(p.Count), moment(now, p.Next), last)
		return
	}
	line("report", "%s", last)
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

func unitLine(now time.Time, u *puller.UnitStatus, live bool) string {
	text := u.Name + " is " + u.Words
	if !u.Since.IsZero() {
		text += " since " + moment(now, u.Since)
	}
	if u.PID != 0 {
		text += fmt.Sprintf(", pid %d", u.PID)
	}
	if u.Memory != 0 {
		text += ", " + cli.Size(u.Memory)
	}
	switch {
	case u.Sub == "auto-restart":
		text += fmt.Sprintf("; `journalctl -u %s` tells why", u.Name)
	case down(u) && live && u.Load == "loaded":
		text += fmt.Sprintf("; `journalctl -u %s` tells why it ended; `systemctl start %[1]s` starts it: the puller does not, before another release is wanted", u.Name)
	}
	return text
}

// folded returns lines with each that is repeated once.
func folded(lines []string) (texts []string) {
	for n := 0; n < len(lines); {
		same := 1
		for n+same < len(lines) && lines[n+same] == lines[n] {
			same++
		}
		text := lines[n]
		if same > 1 {
			text += fmt.Sprintf(" (%d times)", same)
		}
		texts = append(texts, text)
		n += same
	}
	return texts
}

func writeWanted(line func(name, format string, args ...any), now time.Time, s puller.Status) {
	switch {
	case s.Wanted != nil && s.Wanted.By == "hand":
		line("wanted", "%s, changed by hand", s.Wanted.Version)
	case s.Wanted == nil:
		line("wanted", "nothing: channel %q was never accepted", s.Tier)
	case s.Pin != nil:
		line("wanted", "%s, pinned at %s%s", s.Pin.Release, moment(now, canon.At(s.Pin.Time())), pinned(now, s.Pin))
	default:
		line("wanted", "%s, by channel %q", s.Wanted.Version, s.Tier)
	}
	if p := s.EndedPin; p != nil {
		line("pin ended", "%s, pinned at %s%s; `puller --unpin` takes the order away", p.Release, moment(now, canon.At(p.Time())), pinned(now, p))
	}
	if ch := s.Channel; ch != nil {
		text := fmt.Sprintf("names %s, rollout %d %%, issued %s", ch.Version, ch.Rollout, moment(now, ch.Issued))
		if !ch.Expires.IsZero() {
			text += ", expires " + moment(now, ch.Expires)
		}
		if ch.Hotfix != "" {
			text += ", hotfix: " + ch.Hotfix
		}
		line("channel", "%s", text)
	}
}

func moment(now time.Time, t canon.Time) string {
	return fmt.Sprintf("%s (%s)", t.Format(canon.TimeLayout), cli.Ago(now, t.Time))
}

func writeHistory(out io.Writer, events []node.Event, short bool) {
	if len(events) == 0 {
		fmt.Fprintln(out, "nothing happened yet")
		return
	}
	for _, e := range events {
		at := e.At.Format(canon.TimeLayout)
		fmt.Fprintf(out, "%s  %s\n", at, printableLine(eventText(e)))
		if short {
			continue
		}
		for _, text := range e.Output {
			fmt.Fprintf(out, "%*s  | %s\n", len(at), "", printableLine(text))
		}
	}
}

// eventText tells an event in one line.
func eventText(e node.Event) string {
	text := e.Event
	switch {
	case e.Event == "degraded":
		text += fmt.Sprintf(": %s failed, and so did the way back; %s stays", e.From, orNothing(e.To))
	case e.From != "" && e.To != "":
		text += " from " + e.From + " to " + e.To
	case e.To != "":
		text += " " + e.To
	}
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// printableLine is cli.Printable of one line: the history is a file that others can write to
// who are root.
func printableLine(s string) string {
	return cli.Printable(strings.NewReplacer("\n", " ", "\t", " ").Replace(s))
}

func writeVerified(out io.Writer, found []puller.Verified) {
	if len(found) == 0 {
		fmt.Fprintln(out, "no releases on disk")
		return
	}
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	defer w.Flush()
	for _, v := range found {
		what := "whole"
		entries := "entries"
		if v.Entries == 1 {
			entries = "entry"
		}
		text := fmt.Sprintf("%d %s, %s, manifest %s", v.Entries, entries, cli.Size(v.Bytes), v.Digest)
		if v.Message != "" {
			what, text = string(v.Reason), v.Message
			switch {
			case v.Repaired:
				what = "repaired"
			case v.Reason.Exit() == 0:
				what = "foreign"
			}
		}
		name := v.Version
		if v.Current {
			name += " (current)"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", name, what, cli.Printable(text))
	}
}
