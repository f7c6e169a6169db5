package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/layout/node"
	"makenot.work/sando/puller"
)

// headline is the first line of status: what runs, since when, and how that is.
//
//	APP on NODE (tier TIER): LIVE, as wanted
//	                               , pinned [until TIME]
//	                               , changed by hand
//	                               , on probation [; trouble: REASON]
//	                               ; VERSION is wanted [by a pin]: REASON, "next cycle", "at work"
//	                               ; nothing is wanted yet: REASON
//	                               ; VERSION failed: going back to VERSION
//	                               ; trouble: REASON
//
// LIVE is "runs VERSION since TIME (AGO)" and perhaps ", by force: …", "VERSION is live since TIME (AGO), but UNIT is …"
// or "runs nothing". Scripts may rely on it; people read the lines below it.
func headline(now time.Time, s puller.Status) string {
	return fmt.Sprintf("%s on %s (tier %s): %s%s", s.App, s.Node, orUnknown(s.Tier), live(now, s), outlook(s))
}

func orUnknown(tier string) string {
	if tier == "" {
		return "unknown"
	}
	return tier
}

// live says what runs.
func live(now time.Time, s puller.Status) string {
	u := s.Unit
	switch {
	case s.Running == nil:
		return "runs nothing"
	case !down(u):
		return fmt.Sprintf("runs %s since %s%s", s.Running.Version, moment(now, s.Running.Since), byForce(s.Running))
	}
	how := u.Active
	if u.Sub == "auto-restart" {
		how = "restarting again and again"
	}
	return fmt.Sprintf("%s is live since %s, but %s is %s", s.Running.Version, moment(now, s.Running.Since), u.Name, how)
}

func byForce(r *node.Release) string {
	if r.Forced == 0 {
		return ""
	}
	return ", by force: it never proved itself"
}

// down reports whether the unit of the app does not run, as far as that is known.
func down(u *puller.UnitStatus) bool {
	return u != nil && (u.Active == "inactive" || u.Active == "failed" || u.Sub == "auto-restart")
}

// outlook says how that is.
func outlook(s puller.Status) string {
	trouble := ""
	if s.Reason.Exit() != 0 {
		trouble = "; trouble: " + string(s.Reason)
	}
	i, w := s.Intent, s.Wanted
	switch {
	case i != nil && i.Phase == node.RollingBack:
		return fmt.Sprintf("; %s failed: going back to %s", i.To, i.From)
	case i != nil:
		return ", on probation" + trouble
	case w == nil:
		return fmt.Sprintf("; nothing is wanted yet: %s", s.Reason)
	case s.Running == nil || w.Version != s.Running.Version:
		return fmt.Sprintf("; %s is wanted%s: %s", w.Version, byPin(w), hindrance(s))
	case trouble != "":
		return trouble
	case down(s.Unit):
		return ""
	case w.By == "hand":
		return ", changed by hand"
	case w.By != "pin":
		return ", as wanted"
	case s.Pin != nil && !s.Pin.Until.IsZero():
		return ", pinned until " + s.Pin.Until.Format(canon.TimeLayout)
	}
	return ", pinned"
}

func byPin(w *puller.Wanted) string {
	if w.By == "pin" {
		return " by a pin"
	}
	return ""
}

// hindrance says why what is wanted does not run.
func hindrance(s puller.Status) string {
	switch {
	case !s.Pending:
		return string(s.Reason)
	case s.AtWork != "":
		return "at work"
	}
	return "next cycle"
}

// failure is what went wrong last with what is wanted, or with what is gone back from; nil
// when nothing did.
func failure(s puller.Status) *node.Block {
	version := ""
	switch {
	case s.Intent != nil && s.Intent.Phase == node.RollingBack:
		version = s.Intent.To
	case s.Retry != nil && s.Running != nil:
		return &node.Block{Version: s.Running.Version, Cause: s.Retry.Cause, Output: s.Retry.Output}
	case s.Running != nil && s.Running.Forced != 0 && s.Wanted != nil && s.Wanted.Version == s.Running.Version:
		return nil // what it printed before it was forced is of another run
	case s.Wanted != nil:
		version = s.Wanted.Version
	}
	for n := len(s.Blocked) - 1; n >= 0; n-- {
		if b := &s.Blocked[n]; b.Version == version {
			return b
		}
	}
	return nil
}

// Lines are broken between two clauses after width columns, which most terminals have, and
// within a clause where it alone has more than the other.
const (
	width = 120
	most  = 150
)

// clauses breaks a text that is too long for one line, its name included: between clauses, and
// one that is too long itself where it says more exactly what it means.
func clauses(text string) []string {
	const name = 15
	fits := func(s string, columns int) bool { return name+utf8.RuneCountInString(s) <= columns }
	var lines []string
	add := func(part string) {
		if last := len(lines) - 1; last >= 0 && fits(lines[last]+" "+part, width) {
			lines[last] += " " + part
		} else {
			lines = append(lines, part)
		}
	}
	if fits(text, width) {
		return []string{text}
	}
	for _, clause := range parts(text, "; ") {
		if fits(clause, most) {
			add(clause)
			continue
		}
		for _, part := range parts(clause, ": ") {
			add(part)
		}
	}
	return lines
}

// parts cuts text after each mark, whose space is left out.
func parts(text, mark string) []string {
	found := strings.SplitAfter(text, mark)
	for n := range found[:len(found)-1] {
		found[n] = strings.TrimSuffix(found[n], " ")
	}
	return found
}
