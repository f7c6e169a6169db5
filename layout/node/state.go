package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"syscall"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// ErrBroken is matched when a state file cannot be read as what it should be.
var ErrBroken = errors.New("state file is broken")

// stateVersion is the integer version of state.json and pin.json.
const stateVersion = 1

const maxState = 1 << 20

// Phase is where an activation stands.
type Phase string

const (
	Switching   Phase = "switching"    // `current` goes from From to To, then To must prove itself
	RollingBack Phase = "rolling back" // To failed; `current` goes back to From
)

// State is state.json: what the puller knows about this node.
type State struct {
	Version   int      `json:"version"`
	Running   *Release `json:"running,omitempty"`   // by the last result
	LastGood  *Release `json:"last_good,omitempty"` // the last one that proved itself
	Previous  *Release `json:"previous,omitempty"`  // what ran before Running
	Intent    *Intent  `json:"intent,omitempty"`    // an activation that has no result yet
	Retry     *Retry   `json:"retry,omitempty"`     // Running never proved itself, and there is nothing to go back to
	Refused   *Refused `json:"refused,omitempty"`   // a tarball that was fetched for nothing
	Degraded  *Block   `json:"degraded,omitempty"`  // the way back from this one failed as well
	Blocked   []Block  `json:"blocked"`
	Head      string   `json:"head,omitempty"`      // commit of the channel repo seen last
	Rewritten bool     `json:"rewritten,omitempty"` // its history was rewritten since the last good look
	Mirror    *Mirror  `json:"mirror,omitempty"`    // where channels come from the bucket
	// Proven are releases that ran well here, newest last.
	Proven   []Release `json:"proven,omitempty"`
	PinEnded int64     `json:"pin_ended,omitempty"` // the time of the last pin whose end has passed
	Repair   string    `json:"repair,omitempty"`    // the live release, exchanged for a whole one, is to be started again
	Last     Outcome   `json:"last"`
}

// Release names one release on this node.
type Release struct {
	Version  string        `json:"version"`
	Manifest layout.Digest `json:"manifest,omitempty"` // none for a foreign release
	Since    canon.Time    `json:"since"`
	// Forced is the time of the pin with --force that made it live: it has not proved itself
	// since then.
	Forced int64 `json:"forced,omitempty"`
	// Downtime is how long the app did not answer when this became live: from the call to
	// restart it to the first good answer. 0: not known.
	Downtime int64 `json:"downtime_ms,omitempty"`
}

// Mirror is the channel object in the bucket of which everything was accepted.
type Mirror struct {
	Version string        `json:"version"` // of the object, as the bucket names it
	Channel layout.Digest `json:"channel"` // the document in it
}

// Intent is an activation in progress. It is on disk before `current` moves.
type Intent struct {
	Phase    Phase         `json:"phase"`
	From     string        `json:"from,omitempty"` // what to go back to; none on a first install
	Via      string        `json:"via,omitempty"`  // what `current` named when the intent was written
	To       string        `json:"to"`
	Manifest layout.Digest `json:"manifest,omitempty"`
	Attempt  int64         `json:"attempt"`
	Pin      bool          `json:"pin,omitempty"`   // ordered by a pin, not by the channel
	Force    bool          `json:"force,omitempty"` // To need not prove itself, and nothing goes back
	// Invocation is that of the app's unit from before the restart: another one later
	// means that it was restarted. "none": it never ran; empty: nobody knows.
	Invocation string     `json:"invocation,omitempty"`
	Hooked     bool       `json:"hooked,omitempty"` // the hooks of after_swap have run for To
	Tries      int        `json:"tries"`            // recoveries begun
	Started    canon.Time `json:"started"`
	Cause      string     `json:"cause,omitempty"` // why it goes back
	Over       *Intent    `json:"over,omitempty"`  // the one whose probation this one ended; back in force if this one is dropped
}

// Retry says when a first install that did not become healthy is tried again.
type Retry struct {
	Count int        `json:"count"`
	Next  canon.Time `json:"next"`
	Order int64      `json:"order,omitempty"` // the time of the pin by which it was tried last
	Cause string     `json:"cause,omitempty"` // why it was not healthy
	// Output is what the app's unit last wrote to the journal.
	Output []string `json:"output,omitempty"`
}

// Refused is a tarball that was fetched and was not what its manifest says, or nothing that
// is unpacked. As long as it is the same it is fetched again at Next.
type Refused struct {
	Object  string      `json:"object"`            // the last part of its key
	Version string      `json:"version,omitempty"` // of the object, as the storage says
	Order   int64       `json:"order"`             // seq of the channel state, or the time of the pin
	Count   int         `json:"count"`
	Next    canon.Time  `json:"next"`
	Reason  reason.Code `json:"reason"`
	Cause   string      `json:"cause"`
}

// Block is something that failed here and is not tried again.
type Block struct {
	Version  string        `json:"version"`
	Manifest layout.Digest `json:"manifest,omitempty"`
	Attempt  int64         `json:"attempt"`
	At       canon.Time    `json:"at"`
	Cause    string        `json:"cause"`
	// Output is what the app's unit, or a hook, wrote last.
	Output []string `json:"output,omitempty"`
}

// Outcome is how the last cycle ended.
type Outcome struct {
	Reason  reason.Code `json:"reason,omitempty"`
	Message string      `json:"message,omitempty"`
	Since   canon.Time  `json:"since,omitzero"` // of the first cycle in a row that ended so
}

// IsBlocked returns the block of (manifest, attempt). Where no manifest is known, of a
// foreign release or a pin that names none, the version stands for it.
func (s *State) IsBlocked(version string, manifest layout.Digest, attempt int64) *Block {
	for i, b := range s.Blocked {
		same := b.Manifest == manifest
		if b.Manifest == "" || manifest == "" {
			same = b.Version == version
		}
		if same && b.Attempt == attempt {
			return &s.Blocked[i]
		}
	}
	return nil
}

// Unblock forgets the failures of a release that has proved itself since.
func (s *State) Unblock(version string, manifest layout.Digest) {
	s.Blocked = slices.DeleteFunc(s.Blocked, func(b Block) bool {
		return b.Manifest == manifest && (manifest != "" || b.Version == version)
	})
}

// maxOutputs is of how many failures the output is kept.
const maxOutputs = 5

// Shorten forgets what older failures printed, so that the file stays small.
func (s *State) Shorten() {
	for i := range s.Blocked[:max(0, len(s.Blocked)-maxOutputs)] {
		s.Blocked[i].Output = nil
	}
}

// Forget forgets what is known against a version, with whatever manifest and at whatever
// attempt, and returns how many failures that were.
func (s *State) Forget(version string) int {
	before := len(s.Blocked)
	s.Blocked = slices.DeleteFunc(s.Blocked, func(b Block) bool { return b.Version == version })
	n := before - len(s.Blocked)
	if d := s.Degraded; d != nil && d.Version == version && d.Attempt != 0 {
		// What the node stands on has proved nothing by this: it is still to be started again
		// by whatever asks for it.
		forgotten := *d
		forgotten.Attempt = 0
		s.Degraded = &forgotten
		n = max(n, 1)
	}
	return n
}

// Failed returns the versions that are blocked, each once, the last to fail at the end.
func (s *State) Failed() []string {
	var versions []string
	for _, b := range s.Blocked {
		versions = append(slices.DeleteFunc(versions, func(v string) bool { return v == b.Version }), b.Version)
	}
	return versions
}

// Suspect reports whether a release runs by force, or failed here and did not prove itself
// since: nothing to go back to, where there is something else.
func (s *State) Suspect(r *Release) bool {
	return r.Forced != 0 || slices.Contains(s.Failed(), r.Version)
}

// maxProven is how many releases that ran well are remembered; the oldest are forgotten.
const maxProven = 50

// RanWell reports whether a release ran well here before. Where no manifest is known, of a
// foreign release or a pin that names none, the version stands for it.
func (s *State) RanWell(version string, manifest layout.Digest) bool {
	return slices.ContainsFunc(s.Proven, func(r Release) bool {
		return r.Version == version && (manifest == "" || r.Manifest == manifest)
	})
}

// Prove notes that a release ran well here.
func (s *State) Prove(rel Release) {
	s.Proven = slices.DeleteFunc(s.Proven, func(r Release) bool { return r.Version == rel.Version && r.Manifest == rel.Manifest })
	s.Proven = append(s.Proven, rel)
	s.Proven = s.Proven[max(0, len(s.Proven)-maxProven):]
}

// Aside has the state call a foreign release otherwise.
func (s *State) Aside(version, name string) {
	known := []*Release{s.Running, s.LastGood, s.Previous}
	for i := range s.Proven {
		known = append(known, &s.Proven[i])
	}
	for _, r := range known {
		if r != nil && r.Version == version && r.Manifest == "" {
			r.Version = name
		}
	}
}

// Pin is pin.json: an operator's order. It is written without the lock.
type Pin struct {
	Version  int           `json:"version"` // of the file
	Release  string        `json:"release"`
	Manifest layout.Digest `json:"manifest,omitempty"`
	At       int64         `json:"at"`              // Unix time in ms; the order's attempt
	Until    canon.Time    `json:"until,omitzero"`  // when it ends by itself; see Ended
	Force    bool          `json:"force,omitempty"` // see Intent.Force
	Reason   string        `json:"reason,omitempty"`
}

// NewState returns the state of a node about which nothing is known.
func NewState() *State { return &State{Version: stateVersion, Blocked: []Block{}} }

// ParseState reads the bytes of state.json; errors as of State.
func ParseState(data []byte) (*State, error) {
	s := new(State)
	if err := parse(data, s); err != nil {
		return nil, err
	}
	return s, s.check()
}

// check holds the state to what recovery relies on.
func (s *State) check() error {
	for _, r := range []*Release{s.Running, s.LastGood, s.Previous} {
		if r != nil && (layout.CheckVersion(r.Version) != nil || r.Manifest != "" && r.Manifest.Check() != nil) {
			return fmt.Errorf("%w: release %q", ErrBroken, r.Version)
		}
	}
	if s.Repair != "" && layout.CheckVersion(s.Repair) != nil {
		return fmt.Errorf("%w: repair of %q", ErrBroken, s.Repair)
	}
	if m := s.Mirror; m != nil && (m.Version == "" || m.Channel.Check() != nil) {
		return fmt.Errorf("%w: mirror %q with version %q", ErrBroken, m.Channel, m.Version)
	}
	for i := s.Intent; i != nil; i = i.Over {
		bad := i.Phase != Switching && i.Phase != RollingBack || layout.CheckVersion(i.To) != nil ||
			i.From != "" && layout.CheckVersion(i.From) != nil || i.Via != "" && layout.CheckVersion(i.Via) != nil
		if bad {
			return fmt.Errorf("%w: intent %q from %q to %q", ErrBroken, i.Phase, i.From, i.To)
		}
	}
	return nil
}

// Encode returns the bytes of state.json.
func (s *State) Encode() ([]byte, error) { return canon.Encode(s) }

// State reads state.json. It returns nil when there is none; an error matches
// ErrBroken, or has the reason "config" when a newer program wrote the file.
func (d *Dir) State() (*State, error) {
	data, err := readCapped(d.Path("state.json"), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	s, err := ParseState(data)
	if err != nil {
		return nil, fmt.Errorf("state.json: %w", err)
	}
	return s, nil
}

// SaveState replaces state.json durably.
func (d *Dir) SaveState(s *State) error {
	data, err := s.Encode()
	if err != nil {
		return fmt.Errorf("encode state: %w", err)
	}
	return d.save("state.json", data)
}

// ParsePin reads the bytes of pin.json; errors as of Pin.
func ParsePin(data []byte) (*Pin, error) {
	p := new(Pin)
	if err := parse(data, p); err != nil {
		return nil, err
	}
	if layout.CheckVersion(p.Release) != nil || p.Manifest != "" && p.Manifest.Check() != nil {
		return nil, fmt.Errorf("%w: release %q", ErrBroken, p.Release)
	}
	return p, nil
}

// Pin reads pin.json; nil when there is none. Errors as of State.
func (d *Dir) Pin() (*Pin, error) {
	data, err := readCapped(d.Path("pin.json"), maxState)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	p, err := ParsePin(data)
	if err != nil {
		return nil, fmt.Errorf("pin.json: %w", err)
	}
	return p, nil
}

// PinStamp returns what changes whenever the pin is given, changed or taken back. It
// is cheap, and waits for nothing.
func (d *Dir) PinStamp() string {
	info, err := os.Lstat(d.Path("pin.json"))
	if err != nil {
		return ""
	}
	st := info.Sys().(*syscall.Stat_t)
	return fmt.Sprint(st.Ino, st.Ctim.Nano(), st.Size)
}

// SavePin writes the order p durably. It needs no lock, and on a full disk takes the ballast.
func (d *Dir) SavePin(p Pin) error {
	p.Version = stateVersion
	data, err := canon.Encode(&p)
	if err != nil {
		return fmt.Errorf("encode pin: %w", err)
	}
	return d.Urgent(func() error { return d.save("pin.json", data) })
}

// RemovePin takes the order back; it is no error when there is none.
func (d *Dir) RemovePin() error {
	return d.Urgent(func() error {
		err := durable.Remove(d.Path("pin.json"))
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return reason.OnDisk(fmt.Errorf("remove pin: %w", err))
	})
}

func (d *Dir) save(name string, data []byte) error {
	if err := durable.WriteFile(d.Path(name), data, 0o600); err != nil {
		return reason.OnDisk(fmt.Errorf("write %s: %w", name, err))
	}
	return nil
}

// SetAside renames a broken file in .sando/ to NAME.broken, replacing an older one.
func (d *Dir) SetAside(name string) error {
	if err := durable.Rename(d.Path(name), d.Path(name+".broken")); err != nil {
		return reason.OnDisk(fmt.Errorf("set %s aside: %w", name, err))
	}
	return nil
}

// parse reads a state file: its integer version first, then strictly.
func parse(data []byte, v any) error {
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if head.Version > stateVersion {
		return reason.Errorf(reason.Config, "version is %d, and this puller knows %d: a newer puller wrote it; install that one", head.Version, stateVersion)
	}
	if head.Version != stateVersion {
		return fmt.Errorf("%w: version is %d, want %d", ErrBroken, head.Version, stateVersion)
	}
	if err := canon.Parse(data, v); err != nil {
		return fmt.Errorf("%w: %w", ErrBroken, err)
	}
	return nil
}

// Line makes text fit for a state file: one line, nothing unprintable.
func Line(s string) string {
	s = strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || r == '\r' {
			return ' '
		}
		if canon.Unprintable(r) {
			return '\uFFFD'
		}
		return r
	}, strings.ToValidUTF8(s, "\uFFFD"))
	if len(s) > 2000 {
		s = strings.ToValidUTF8(s[:2000], "") + " …"
	}
	return s
}

// Said begins, in a cause, what a program of the operator's printed. It may hold a secret, and
// goes to the end of the cause or of what it is a part of.
const Said = "it said: "

// MaxLines is how many lines of output are kept of one failure.
const MaxLines = 20

// maxLineBytes is how much is kept of one of them.
const maxLineBytes = 300

// Lines makes output fit for a state file: its last lines, those without text left out, each
// of at most 300 bytes and with nothing unprintable.
func Lines(output []byte) []string {
	var lines []string
	for line := range bytes.Lines(output) {
		if text := strings.TrimSpace(Line(string(line))); text != "" {
			lines = append(lines, shortLine(text))
		}
	}
	return lines[max(0, len(lines)-MaxLines):]
}

func shortLine(s string) string {
	if len(s) <= maxLineBytes {
		return s
	}
	const more = "…"
	return strings.ToValidUTF8(s[:maxLineBytes-len(more)], "") + more
}

// Event is one line of history.jsonl.
type Event struct {
	At      canon.Time    `json:"at"`
	Event   string        `json:"event"` // "updated", "rolled back", "pin", …
	Reason  reason.Code   `json:"reason,omitempty"`
	From    string        `json:"from,omitempty"`
	To      string        `json:"to,omitempty"`
	Digest  layout.Digest `json:"manifest,omitempty"`
	Message string        `json:"message,omitempty"`
	Output  []string      `json:"output,omitempty"` // what a hook or the app's unit wrote last
	// Downtime is that of To; see Release.
	Downtime int64 `json:"downtime_ms,omitempty"`
}

// Record appends e to the history.
func (d *Dir) Record(e Event) error {
	e.Message = Line(e.Message)
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	if d.torn() {
		data = append([]byte{'\n'}, data...)
	}
	if err := d.shorten(); err != nil {
		return err
	}
	if err := durable.Append(d.Path("history.jsonl"), append(data, '\n'), 0o600); err != nil {
		return reason.OnDisk(fmt.Errorf("write history: %w", err))
	}
	return nil
}

// maxHistory is how many bytes of history are kept at most.
const maxHistory = 1 << 20

// shorten drops the older half of a history that has grown too long.
func (d *Dir) shorten() error {
	info, err := os.Lstat(d.Path("history.jsonl"))
	if err != nil || info.Size() < maxHistory {
		return nil // a file that cannot be looked at shows when it is appended to
	}
	data, err := os.ReadFile(d.Path("history.jsonl"))
	if err != nil {
		return reason.OnDisk(err)
	}
	data = data[len(data)/2:]
	data = data[bytes.IndexByte(data, '\n')+1:]
	return d.save("history.jsonl", data)
}

// torn reports whether a crash cut the last line of the history.
func (d *Dir) torn() bool {
	f, err := os.Open(d.Path("history.jsonl"))
	if err != nil {
		return false
	}
	defer f.Close()
	last := make([]byte, 1)
	end, err := f.Seek(-1, io.SeekEnd)
	if err != nil {
		return false
	}
	_, err = f.ReadAt(last, end)
	return err == nil && last[0] != '\n'
}

// History returns the last n events, oldest first. A line that a crash tore is left out.
func (d *Dir) History(n int) ([]Event, error) {
	data, err := os.ReadFile(d.Path("history.jsonl"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, reason.OnDisk(err)
	}
	events := []Event{}
	for line := range strings.Lines(string(data)) {
		var e Event
		if json.Unmarshal([]byte(line), &e) == nil {
			events = append(events, e)
		}
	}
	return events[max(0, len(events)-n):], nil
}
