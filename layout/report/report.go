// Package report is what a node says of itself, as an object in the bucket:
//
//	<app>/reports/<node>.json
//
// A puller writes it when something changed, and again after every heartbeat; a builder
// reads it, to see what runs and for how long it has. It is canonical JSON (package canon)
// of at most 16 KiB, with the schema "sando.report/v1":
//
//	{
//	  "schema": "sando.report/v1",
//	  "app": "mnw",
//	  "node": "alpha-west-1",
//	  "instance": "5f0c…",             one installation, whatever it is called
//	  "tier": "b",
//	  "platform": "linux/amd64",
//	  "puller": "v1.2.0",
//	  "written": "2026-06-03T03:10:00Z",
//	  "heartbeat": 900,                the next report comes within so many seconds
//	  "desired": {…},                  what should run, and
//	  "running": {…},                  what does, since when
//	  "last_good": {…},
//	  "healthy": true,                 what runs has proved itself
//	  "reason": "current",             how the last cycle ended, as `puller` says it
//	  "message": "…",
//	  "counter": {"trust": 1, "seq": 1780455236000},
//	  "pin": {…},
//	  "blocked": […],                  what failed here and is not tried again
//	  "failure": {…},                  the last of it, with its cause
//	  "disk": {…},
//	  "downtime_ms": 73,               of the last activation
//	  "rewritten": true                the history of the channel repo was rewritten
//	}
//
// Nobody signs it. Who can write the object, by the node's credential or as the owner of
// the bucket, can say anything in it: that shortens a burn-in, and is all it does. Reports
// guard against mistakes.
//
// So Parse takes it for hostile: at most 16 KiB, one document, known fields with exactly
// their types and each once, names and digests of their forms, text that is short and
// without anything a terminal or a page would obey, and no time in the future. Fields that
// it does not know it passes over, so that a newer puller can say more. What it cannot know
// is whether any of it is true.
package report

import (
	"fmt"
	"regexp"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Schema is the schema of a report.
const Schema = "sando.report/v1"

// Bounds on what is in a report.
const (
	MaxText    = 500 // bytes of a message, a cause or the reason of a pin
	MaxBlocked = 20  // of the last failures

	// How often a node can promise to report.
	MinHeartbeat = time.Minute
	MaxHeartbeat = 24 * time.Hour

	maxProgram = 100 // bytes of the puller's version
)

// Report is what a node says of itself.
type Report struct {
	Schema    string      `json:"schema"`
	App       string      `json:"app"`
	Node      string      `json:"node"`
	Instance  string      `json:"instance"` // 32 hex digits, drawn once; another machine has others
	Tier      string      `json:"tier"`
	Platform  string      `json:"platform"`
	Puller    string      `json:"puller"` // version of the program
	Written   canon.Time  `json:"written"`
	Heartbeat int64       `json:"heartbeat"`           // seconds
	Desired   *Release    `json:"desired,omitempty"`   // by the pin, else by the channel; without Since
	Running   *Release    `json:"running,omitempty"`   // what `current` names
	LastGood  *Release    `json:"last_good,omitempty"` // the last one that proved itself
	Healthy   bool        `json:"healthy"`             // Running has proved itself: no probation, no failure, no force
	Reason    reason.Code `json:"reason"`              // how the last cycle ended
	Message   string      `json:"message,omitempty"`
	Counter   *Counter    `json:"counter,omitempty"` // of the accepted channel state
	Pin       *Pin        `json:"pin,omitempty"`     // in force
	Blocked   []Release   `json:"blocked"`           // since when they are
	Failure   *Failure    `json:"failure,omitempty"`
	Disk      Disk        `json:"disk"`
	Downtime  int64       `json:"downtime_ms,omitempty"` // of the activation of Running; 0: not known
	Rewritten bool        `json:"rewritten,omitempty"`
}

// Release names a release.
type Release struct {
	Version  string        `json:"version"`
	Manifest layout.Digest `json:"manifest,omitempty"` // none for a foreign release
	Since    canon.Time    `json:"since,omitzero"`
}

// Counter is that of a channel state.
type Counter struct {
	Trust int64 `json:"trust"`
	Seq   int64 `json:"seq"`
}

// Pin is an operator's order.
type Pin struct {
	Version string     `json:"version"`
	Reason  string     `json:"reason,omitempty"`
	Since   canon.Time `json:"since"`
	Until   canon.Time `json:"until,omitzero"`
}

// Failure is what failed last.
type Failure struct {
	Version string     `json:"version"`
	At      canon.Time `json:"at"`
	Cause   string     `json:"cause"`
}

// Disk is the filesystem of the node's root, without what only root may use.
type Disk struct {
	Free   int64 `json:"free"`   // bytes
	Total  int64 `json:"total"`  // bytes
	Inodes int64 `json:"inodes"` // free ones; 0 where they are not counted
}

// Encode returns the bytes of r. The error has the reason "format" when r is not what Parse
// would take, its times apart.
func (r *Report) Encode() ([]byte, error) {
	if err := r.check(); err != nil {
		return nil, err
	}
	data, err := canon.Encode(r)
	if err != nil {
		return nil, reason.Errorf(reason.Format, "report: %w", err)
	}
	if len(data) > layout.MaxReport {
		return nil, reason.Errorf(reason.Format, "report: %d bytes, want at most %d", len(data), layout.MaxReport)
	}
	return data, nil
}

// News is the digest of what is worth a new report: of all but the time, the disk, whose
// figures never rest, and the words of the message.
func (r *Report) News() (layout.Digest, error) {
	still := *r
	still.Written, still.Disk, still.Message = canon.Time{}, Disk{}, ""
	data, err := canon.Encode(&still)
	if err != nil {
		return "", reason.Errorf(reason.Format, "report: %w", err)
	}
	return layout.Sum(data), nil
}

var (
	instanceForm = regexp.MustCompile(`^[0-9a-f]{32}$`)
	// A newer puller may have reasons that this program does not.
	reasonForm = regexp.MustCompile(`^[a-z][a-z-]{0,31}$`)
)

// CheckInstance reports whether s may name an installation.
func CheckInstance(s string) error { return form("instance", s, instanceForm) }

func form(what, s string, want *regexp.Regexp) error {
	if !want.MatchString(s) {
		return bad("%s %s is not of the form %s", what, brief(s), want)
	}
	return nil
}

func bad(format string, args ...any) error {
	return reason.Errorf(reason.Format, "report: "+format, args...)
}

// brief quotes text of any length.
func brief(s string) string {
	if len(s) > maxProgram {
		s = s[:maxProgram] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// check holds r to all that does not depend on who reads it, and when.
func (r *Report) check() error {
	if r.Schema != Schema {
		return bad("schema is %s, want %q", brief(r.Schema), Schema)
	}
	for _, err := range []error{
		name(r.App, layout.CheckApp), name(r.Node, layout.CheckNode), name(r.Tier, layout.CheckTier),
		name(r.Platform, layout.CheckPlatform), CheckInstance(r.Instance), form("reason", string(r.Reason), reasonForm),
		short("puller", r.Puller, maxProgram), short("message", r.Message, MaxText),
	} {
		if err != nil {
			return err
		}
	}
	if r.Heartbeat < int64(MinHeartbeat/time.Second) || r.Heartbeat > int64(MaxHeartbeat/time.Second) {
		return bad("heartbeat is %d s, want %s to %s", r.Heartbeat, MinHeartbeat, MaxHeartbeat)
	}
	for _, rel := range []*Release{r.Desired, r.Running, r.LastGood} {
		if err := rel.check(); err != nil {
			return err
		}
	}
	if r.Healthy && r.Running == nil {
		return bad("healthy is true, and nothing is running")
	}
	if c := r.Counter; c != nil && (c.Trust < 1 || c.Seq < 1) {
		return bad("counter is (%d, %d), want 1 or more each", c.Trust, c.Seq)
	}
	return r.checkTrouble()
}

// checkTrouble checks what is there when not all is well.
func (r *Report) checkTrouble() error {
	if p := r.Pin; p != nil {
		if err := name(p.Version, layout.CheckVersion); err != nil {
			return err
		}
		if err := short("reason of the pin", p.Reason, MaxText); err != nil {
			return err
		}
	}
	if len(r.Blocked) > MaxBlocked {
		return bad("%d releases are blocked, want at most %d", len(r.Blocked), MaxBlocked)
	}
	for _, b := range r.Blocked {
		if err := b.check(); err != nil {
			return err
		}
	}
	if f := r.Failure; f != nil {
		if err := name(f.Version, layout.CheckVersion); err != nil {
			return err
		}
		return short("cause", f.Cause, MaxText)
	}
	return nil
}

func (r *Release) check() error {
	if r == nil {
		return nil
	}
	if err := name(r.Version, layout.CheckVersion); err != nil {
		return err
	}
	if r.Manifest != "" {
		return name(string(r.Manifest), func(s string) error { return layout.Digest(s).Check() })
	}
	return nil
}

// name checks a name of any length.
func name(s string, check func(string) error) error {
	const longest = 128 // no form takes more
	if len(s) > longest {
		return bad("a name of %d bytes: %s", len(s), brief(s))
	}
	if err := check(s); err != nil {
		return reason.Errorf(reason.Format, "report: %w", err)
	}
	return nil
}

func short(what, s string, max int) error {
	if len(s) > max {
		return bad("%s has %d bytes, want at most %d", what, len(s), max)
	}
	return nil
}
