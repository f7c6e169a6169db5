// Package channels holds the rules of what a tier follows: channel documents and their
// counter, the step from one trust document to the next, and fleet.toml. The rules do
// no I/O and read no clock; the rooms that fetch and write are channels/repo, the git
// repository, and channels/mirror, a copy of it in the bucket.
//
// # Parties
//
//	promoter    signs channels/<tier>.json with a key of the role "channel:<tier>", or
//	            "channel" where the trust document has no role for the tier
//	root        signs trust/<N>.json; see package signing
//	operators   edit fleet.toml, which is not signed and so can only ask
//	node        accepts the newest channel state of its tier, and acts on it later
//
// # channels/<tier>.json
//
// A tier's signed pointer to one manifest, in canonical form:
//
//	{
//	  "schema": "sando.channel/v1",
//	  "app": "mnw",
//	  "channel": "b",
//	  "trust": 1,
//	  "seq": 1780455236000,
//	  "issued": "2026-06-03T02:53:56Z",
//	  "expires": "2026-06-17T02:53:56Z",
//	  "version": "0.9.5",
//	  "manifest": "sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
//	  "attempt": 1,
//	  "rollout": 100,
//	  "hotfix": "login broken on Safari"
//	}
//
//	trust     version of the trust document it was signed under, 1 or more
//	seq       counter, 1 or more: see below
//	issued    when it was signed
//	expires   after issued; no new activation from then on; omitted: never
//	version   for people; the manifest must say the same
//	manifest  digest of the manifest's bytes
//	attempt   1 or more; a node tries (manifest, attempt) once when it fails
//	rollout   0 to 100, the percentage of nodes that take part; 0 halts
//	hotfix    why burn-in was bypassed; omitted: it was not
//
// Its signatures are channels/<tier>.json.<kid16>.sigstore.json, at most 16 are looked
// at; the document is at most 16 KiB.
//
// # The counter
//
// (trust, seq) must grow for each channel name. seq is the larger of the last seq under
// the same trust + 1 and the Unix time in milliseconds, so two signed states never
// share one, and a repository restored from a backup heals at the next advance. Under a
// higher trust it starts from the clock again, which heals a seq that was driven to its
// end. A node keeps the last accepted bytes: these bytes again are nothing new, the
// same (trust, seq) with other bytes or a smaller one is a replay and changes nothing.
// So no old state can be made to count again, whoever serves it. Rolling a tier back is
// a new state with a greater seq that names an older version.
//
// A node that has no counter yet, because it is new or its disk is an old one, would take
// an old state for the newest. Its operator can say which seq the channel had reached when
// the node was set up, under the trust of its anchor: no smaller one counts there (Floor).
//
// # Rollout
//
// A node takes part when the first 8 bytes, big-endian, of sha256(node LF version)
// modulo 100 are less than rollout. Nodes keep their place while rollout grows, and
// have another one for the next version.
//
// # fleet.toml
//
//	app = "mnw"
//	yanked = ["0.9.3"]        # versions not to be promoted any more
//	[[tier]]
//	name = "host"
//	advance = "auto"          # asked for; counts if the builder's config names it too
//	[[tier]]
//	name = "a"                # from defaults to the tier above; the first has none
//	[[tier]]
//	name = "b"
//	burn_in = "48h"
//	nodes = ["alpha-west-1"]  # who must have reported well on "from"; or min_nodes = 1
//	propose = true            # promoting opens a branch to merge instead of pushing
//	[[tier]]
//	name = "c"
//	from = "a"
//	provisioned = false       # has no nodes yet
//	[[node]]
//	name = "alpha-west-1"     # an inventory: who is expected to follow which tier
//	tier = "a"
//
// Tiers stand in order: "from" names one further up. Unknown keys are refused. What the
// nodes follow their own configuration says; the inventory gates nothing.
//
// # What it does not protect from
//
// Who controls the repository or the network can withhold news: a node then stays where
// it is, and says since when. Who can merge decides when a proposal that a promoter
// signed becomes the channel. fleet.toml is believed about burn-in: who may write it
// can shorten one, for versions a promoter then signs.
package channels

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"time"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Schema is the schema of the channels that this version reads and writes.
const Schema = "sando.channel/v1"

// MaxSeq is the largest seq. A channel that has reached it goes on under the next trust
// version.
const MaxSeq = 1<<53 - 1

// Channel is one state of a tier's channel. Its fields are in the order of the
// canonical form.
type Channel struct {
	Schema   string        `json:"schema"`
	App      string        `json:"app"`
	Channel  string        `json:"channel"` // the tier
	Trust    int64         `json:"trust"`
	Seq      int64         `json:"seq"`
	Issued   canon.Time    `json:"issued"`
	Expires  canon.Time    `json:"expires,omitzero"`
	Version  string        `json:"version"`
	Manifest layout.Digest `json:"manifest"`
	Attempt  int64         `json:"attempt"`
	Rollout  int           `json:"rollout"`
	Hotfix   string        `json:"hotfix,omitempty"`
}

// ParseChannel reads a channel. Errors have the reason "format", or "limit" for data
// that is too long. Who signed it is asked by Accept.
func ParseChannel(data []byte) (*Channel, error) {
	if len(data) > layout.MaxChannel {
		return nil, reason.Errorf(reason.Limit, "channel: more than %d bytes", layout.MaxChannel)
	}
	c := new(Channel)
	if err := canon.Decode(data, Schema, c); err != nil {
		return nil, reason.Errorf(reason.Format, "channel: %w", err)
	}
	if err := c.Check(); err != nil {
		return nil, reason.Errorf(reason.Format, "channel: %w", err)
	}
	return c, nil
}

// Encode returns the canonical bytes of c, the ones that are signed.
func (c *Channel) Encode() ([]byte, error) {
	if err := c.Check(); err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	data, err := canon.Encode(c)
	if err == nil && len(data) > layout.MaxChannel {
		err = reason.Errorf(reason.Limit, "channel: more than %d bytes", layout.MaxChannel)
	}
	return data, err
}

// Check reports whether every field of c means something.
func (c *Channel) Check() error {
	if c.Schema != Schema {
		return fmt.Errorf("schema is %q, want %q", c.Schema, Schema)
	}
	if err := layout.CheckApp(c.App); err != nil {
		return err
	}
	if err := layout.CheckTier(c.Channel); err != nil {
		return err
	}
	if c.Trust < 1 {
		return fmt.Errorf("trust is %d, want 1 or more", c.Trust)
	}
	if c.Seq < 1 || c.Seq > MaxSeq {
		return fmt.Errorf("seq is %d, want 1 to 2^53-1 (the next trust version starts it again)", c.Seq)
	}
	if err := c.checkTimes(); err != nil {
		return err
	}
	if err := layout.CheckVersion(c.Version); err != nil {
		return err
	}
	if err := c.Manifest.Check(); err != nil {
		return err
	}
	if c.Attempt < 1 {
		return fmt.Errorf("attempt is %d, want 1 or more", c.Attempt)
	}
	if c.Rollout < 0 || c.Rollout > 100 {
		return fmt.Errorf("rollout is %d, want 0 to 100", c.Rollout)
	}
	return nil
}

// checkTimes keeps both times in the years that TimeLayout can write.
func (c *Channel) checkTimes() error {
	if t := c.Issued; t.Unix() < 0 || t.Year() > 9999 {
		return fmt.Errorf("issued is %s, want 1970 or later", t.Format(canon.TimeLayout))
	}
	if t := c.Expires; !t.IsZero() && (!t.After(c.Issued.Time) || t.Year() > 9999) {
		return fmt.Errorf("expires is %s, want a time after issued, %s", t.Format(canon.TimeLayout), c.Issued.Format(canon.TimeLayout))
	}
	return nil
}

// Next returns the state that follows last, nil when there is none yet: change, with
// schema, trust, issued and seq set for a signature at now under the trust version
// trust, and with last's attempt unless change has one. All other fields, "expires"
// among them, are the caller's. A last under a higher trust version than trust cannot
// be followed: nodes refuse the result as a replay.
func Next(last *Channel, now time.Time, trust int64, change Channel) *Channel {
	change.Schema = Schema
	change.Trust = trust
	change.Issued = canon.At(now)
	change.Seq = now.UnixMilli()
	if last != nil && last.Trust == trust {
		change.Seq = max(change.Seq, last.Seq+1)
	}
	if change.Attempt == 0 {
		change.Attempt = 1
		if last != nil {
			change.Attempt = last.Attempt
		}
	}
	return &change
}

// Compare orders two states of one channel by their counters.
func (c *Channel) Compare(other *Channel) int {
	return cmp.Or(cmp.Compare(c.Trust, other.Trust), cmp.Compare(c.Seq, other.Seq))
}

// Expired reports whether nothing new may be activated by c at now. A clock from before
// c was issued is wrong and never expires it, because expires comes after issued.
func (c *Channel) Expired(now time.Time) bool {
	return !c.Expires.IsZero() && !now.Before(c.Expires.Time)
}

// TakesPart reports whether node is among the rollout percent of all nodes that run
// version first. A caller without any release takes part whenever rollout is not 0.
func TakesPart(node, version string, rollout int) bool {
	sum := sha256.Sum256([]byte(node + "\n" + version))
	return int(binary.BigEndian.Uint64(sum[:8])%100) < rollout
}
