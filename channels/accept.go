package channels

import (
	"bytes"
	"errors"
	"fmt"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// ErrLast is matched by the error of Accept when not the news but the bytes of the last
// accepted state are unusable. It has the reason "format".
var ErrLast = errors.New("last accepted channel state")

// Accept decides whether s is the newest known state of the channel of tier. t is the
// newest trust document that the caller holds, last are the bytes of the last state it
// accepted for this tier, nil when there is none. news is false when s has exactly
// these bytes. The caller makes s.Doc durable before it acts on c.
//
// The reasons of its errors, in the order of the checks: "limit" too long; "signature"
// too few good signatures; "format" malformed; "policy" another app's or tier's;
// "signature" signed under a trust version that t has not reached; "replay" older than
// last (an OlderError), or other bytes under the same counter.
func Accept(t *signing.Trust, app, tier string, s signing.Signed, last []byte) (c *Channel, news bool, err error) {
	return Floor{}.Accept(t, app, tier, s, last)
}

// Floor is what the operator of a node knows of the counter from elsewhere: states of his
// time have a seq of at least Seq. It tells a node that has no counter yet an old state from
// the newest one. The zero value knows nothing.
type Floor struct {
	Seq   int64
	Trust int64 // version of the node's anchor: under a higher one seq starts again
}

// Accept is the function Accept, for a node with this floor. A state below it is refused
// with the reason "replay" (a BelowError), before it is held against last.
func (f Floor) Accept(t *signing.Trust, app, tier string, s signing.Signed, last []byte) (c *Channel, news bool, err error) {
	c, err = accept(t, app, tier, s)
	if err == nil {
		err = f.Check(c)
	}
	if err == nil && last == nil {
		return c, true, nil
	}
	if err == nil {
		news, err = follows(c, s.Doc, last)
	}
	if err != nil {
		return nil, false, fmt.Errorf("channel %q: %w", tier, err)
	}
	return c, news, nil
}

// Check refuses a state that is below the floor, as Accept does.
func (f Floor) Check(c *Channel) error {
	if c.Trust > f.Trust || c.Seq >= f.Seq {
		return nil
	}
	return reason.Wrap(reason.Replay, &BelowError{Floor: f, Older: c})
}

// BelowError is the error of Floor.Accept for a state below the floor.
type BelowError struct {
	Floor Floor
	Older *Channel // refused
}

func (e *BelowError) Error() string {
	c := e.Older
	return fmt.Sprintf("(trust %d, seq %d) with version %s is below %d, the channels.min_seq of this node: it may be replayed from an old copy, "+
		"or channels.min_seq is mistyped, or that of another tier; builder promote %s --version %[3]s signs a state that counts, builder enroll NODE --tier %[5]s says which channels.min_seq is right",
		c.Trust, c.Seq, c.Version, e.Floor.Seq, c.Channel)
}

// accept decides everything about s that does not depend on what was accepted before.
func accept(t *signing.Trust, app, tier string, s signing.Signed) (*Channel, error) {
	if len(s.Doc) > layout.MaxChannel {
		return nil, reason.Errorf(reason.Limit, "more than %d bytes", layout.MaxChannel)
	}
	if t == nil {
		t = new(signing.Trust)
	}
	if err := t.Verify(t.ChannelRole(tier), s); err != nil {
		return nil, err
	}
	c, err := ParseChannel(s.Doc)
	if err != nil {
		return nil, err
	}
	if c.App != app || t.App != app {
		return nil, reason.Errorf(reason.Policy, "app is %q, signed under the trust of app %q, want %q: "+
			"[channels] path or the trust file belongs to another app", c.App, t.App, app)
	}
	if c.Channel != tier {
		return nil, reason.Errorf(reason.Policy, "document is the channel %q: the files of two tiers were swapped; "+
			"builder promote %s signs a new state", c.Channel, tier)
	}
	if c.Trust > t.Version {
		return nil, reason.Errorf(reason.Signature, "signed under trust version %d, this node has reached version %d: "+
			"trust/%d.json is missing or was refused, or the number is made up; see docs/trust.md", c.Trust, t.Version, t.Version+1)
	}
	return c, nil
}

// follows holds c, whose bytes are doc, against the counter in last.
func follows(c *Channel, doc, last []byte) (news bool, err error) {
	l, err := ParseChannel(last)
	if err == nil && (l.App != c.App || l.Channel != c.Channel) {
		err = fmt.Errorf("it is of app %q, channel %q", l.App, l.Channel)
	}
	if err != nil {
		return false, reason.Errorf(reason.Format, "%w: %w", ErrLast, err)
	}
	switch order := c.Compare(l); {
	case order > 0:
		return true, nil
	case order == 0 && bytes.Equal(doc, last):
		return false, nil
	case order == 0:
		return false, reason.Errorf(reason.Replay, "two states have the counter (trust %d, seq %d): version %s was accepted, "+
			"version %s is refused; builder promote %s --version %s signs a state that counts", l.Trust, l.Seq, l.Version, c.Version, c.Channel, c.Version)
	}
	return false, reason.Wrap(reason.Replay, &OlderError{Last: l, Older: c})
}

// OlderError is the error of Accept for a state from before the last accepted one.
type OlderError struct {
	Last  *Channel // accepted
	Older *Channel // refused
}

func (e *OlderError) Error() string {
	l, c := e.Last, e.Older
	return fmt.Sprintf("counter went back: (trust %d, seq %d) with version %s was accepted, "+
		"(trust %d, seq %d) with version %s is older: it may be replayed from an old copy, or a bump was undone with git revert, "+
		"which nodes refuse; to roll back run builder promote %[7]s --version %[6]s, to stay where nodes are builder promote %[7]s --version %[3]s",
		l.Trust, l.Seq, l.Version, c.Trust, c.Seq, c.Version, c.Channel)
}

// Step returns the trust document next when it may replace held: the next version, for
// the same app, good for the role root of both. Whose signatures to look for: the root
// kids of held, and those of signing.ParseTrust(next.Doc), whose word is good for no
// more than that until Step has accepted it.
//
// The reasons of its errors, in the order of the checks: "limit" too long; "signature"
// too few good signatures by the root keys of held; "format" malformed; "policy"
// another app's; "mismatch" not the next version; "signature" too few good signatures
// by its own root keys.
func Step(held *signing.Trust, next signing.Signed) (*signing.Trust, error) {
	if held == nil {
		held = new(signing.Trust)
	}
	n, err := step(held, next)
	if err != nil {
		return nil, fmt.Errorf("trust version %d: %w", held.Version+1, err)
	}
	return n, nil
}

func step(held *signing.Trust, next signing.Signed) (*signing.Trust, error) {
	if len(next.Doc) > layout.MaxTrust {
		return nil, reason.Errorf(reason.Limit, "more than %d bytes", layout.MaxTrust)
	}
	if err := held.Verify(signing.RoleRoot, next); err != nil {
		return nil, err
	}
	n, err := signing.ParseTrust(next.Doc)
	if err != nil {
		return nil, err
	}
	if n.App != held.App {
		return nil, reason.Errorf(reason.Policy, "document is of app %q, want %q", n.App, held.App)
	}
	if n.Version != held.Version+1 {
		return nil, reason.Errorf(reason.Mismatch, "document says version %d: versions go up one by one, each in the file of its number", n.Version)
	}
	if err := n.Verify(signing.RoleRoot, next); err != nil {
		return nil, fmt.Errorf("under its own root keys: %w", err)
	}
	return n, nil
}
