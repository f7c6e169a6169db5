package signing

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// TrustSchema is the schema of the trust documents that this version reads and writes.
const TrustSchema = "sando.trust/v1"

// The roles that every trust document has.
const (
	RoleRoot    = "root"    // signs the next trust document
	RoleRelease = "release" // signs manifests
	RoleChannel = "channel" // signs channels of tiers without a role of their own
)

const rolePerTier = RoleChannel + ":"

// Trust says which keys make a document good. Its fields are in the order of the
// canonical form. The zero value trusts nobody.
type Trust struct {
	Schema  string               `json:"schema"`
	App     string               `json:"app"`
	Version int64                `json:"version"`
	Keys    map[string]canon.PEM `json:"keys"` // by kid
	Roles   map[string]Role      `json:"roles"`
	Revoked []layout.Digest      `json:"revoked,omitempty"` // manifests; sorted, distinct
}

// Role is a set of keys and how many of them must have signed. The zero value cannot be
// satisfied.
type Role struct {
	Keys      []string `json:"keys"` // kids; sorted, distinct
	Threshold int      `json:"threshold"`
}

// ParseTrust reads a trust document. That it parses says nothing about who wrote it:
// the anchor is trusted because of the place it was read from, a later version because
// of channels.Step. Errors have the reason "format", or "limit" for data too long.
func ParseTrust(data []byte) (*Trust, error) {
	if len(data) > layout.MaxTrust {
		return nil, reason.Errorf(reason.Limit, "trust: more than %d bytes", layout.MaxTrust)
	}
	t := new(Trust)
	if err := canon.Decode(data, TrustSchema, t); err != nil {
		return nil, reason.Errorf(reason.Format, "trust: %w", err)
	}
	if err := t.Check(); err != nil {
		return nil, reason.Errorf(reason.Format, "trust: %w", err)
	}
	return t, nil
}

// Encode returns the canonical bytes of t, the ones that are signed.
func (t *Trust) Encode() ([]byte, error) {
	if err := t.Check(); err != nil {
		return nil, fmt.Errorf("trust: %w", err)
	}
	data, err := canon.Encode(t)
	if err == nil && len(data) > layout.MaxTrust {
		err = reason.Errorf(reason.Limit, "trust: more than %d bytes", layout.MaxTrust)
	}
	return data, err
}

// Check reports whether every field of t means something, every kid is that of its key,
// and every role can be satisfied.
func (t *Trust) Check() error {
	if t.Schema != TrustSchema {
		return fmt.Errorf("schema is %q, want %q", t.Schema, TrustSchema)
	}
	if err := layout.CheckApp(t.App); err != nil {
		return err
	}
	if t.Version < 1 {
		return fmt.Errorf("version is %d, want 1 or more", t.Version)
	}
	for _, kid := range slices.Sorted(maps.Keys(t.Keys)) {
		if _, err := t.key(kid); err != nil {
			return err
		}
	}
	if err := t.checkRoles(); err != nil {
		return err
	}
	last := layout.Digest("")
	for _, d := range t.Revoked {
		if err := d.Check(); err != nil {
			return fmt.Errorf("revoked: %w", err)
		}
		if d <= last {
			return fmt.Errorf("revoked is not sorted and distinct at %q", string(d))
		}
		last = d
	}
	return nil
}

// key returns the key with the id kid, which is computed and not believed.
func (t *Trust) key(kid string) (*PublicKey, error) {
	text, ok := t.Keys[kid]
	if !ok {
		return nil, fmt.Errorf("key %q is in a role but not in keys", kid)
	}
	k, err := ParsePublicKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("key %q: %w", kid, err)
	}
	if k.kid != kid {
		return nil, fmt.Errorf("key %q has the id %s", kid, k.kid)
	}
	return k, nil
}

func (t *Trust) checkRoles() error {
	used := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(t.Roles)) {
		if err := checkRoleName(name); err != nil {
			return err
		}
		r, err := t.role(name)
		if err != nil {
			return err
		}
		for _, kid := range r.Keys {
			used[kid] = true
		}
	}
	for _, name := range []string{RoleRoot, RoleRelease, RoleChannel} {
		if _, err := t.role(name); err != nil {
			return err
		}
	}
	for _, kid := range slices.Sorted(maps.Keys(t.Keys)) {
		if !used[kid] {
			return fmt.Errorf("key %q is in no role", kid)
		}
	}
	return nil
}

// checkRoleName refuses unknown roles: in a misspelled "chanel:b" the keys meant for
// tier b would not count, and those of "channel" would.
func checkRoleName(name string) error {
	switch name {
	case RoleRoot, RoleRelease, RoleChannel:
		return nil
	}
	tier, ok := strings.CutPrefix(name, rolePerTier)
	if !ok {
		return fmt.Errorf("role %q is not one of root, release, channel, channel:<tier>", name)
	}
	if err := layout.CheckTier(tier); err != nil {
		return fmt.Errorf("role %q: %w", name, err)
	}
	return nil
}

// role returns the role name if it can be satisfied, and only by distinct keys. It is
// asked again at each use, so a Trust that was not parsed is not weaker.
func (t *Trust) role(name string) (Role, error) {
	r, ok := t.Roles[name]
	if !ok {
		return r, fmt.Errorf("no role %q", name)
	}
	if len(r.Keys) > layout.MaxSignatures {
		return r, fmt.Errorf("role %q has %d keys, want at most %d", name, len(r.Keys), layout.MaxSignatures)
	}
	if r.Threshold < 1 || r.Threshold > len(r.Keys) {
		return r, fmt.Errorf("role %q has threshold %d of %d keys", name, r.Threshold, len(r.Keys))
	}
	last := ""
	for _, kid := range r.Keys {
		if kid <= last {
			return r, fmt.Errorf("role %q: keys are not sorted and distinct at %q", name, kid)
		}
		if _, ok := t.Keys[kid]; !ok {
			return r, fmt.Errorf("role %q: key %q is not in keys", name, kid)
		}
		last = kid
	}
	return r, nil
}

// ChannelRole returns the role that signs the channel of tier: its own where it has
// one, else the role for all channels.
func (t *Trust) ChannelRole(tier string) string {
	if _, ok := t.Roles[rolePerTier+tier]; ok {
		return rolePerTier + tier
	}
	return RoleChannel
}

// Kids returns whose signatures are worth asking for, sorted, at most
// layout.MaxSignatures; nil when there is no such role.
func (t *Trust) Kids(role string) []string {
	r, err := t.role(role)
	if err != nil {
		return nil
	}
	return slices.Clone(r.Keys)
}

// IsRevoked reports whether the manifest with digest d must not be activated any more.
func (t *Trust) IsRevoked(d layout.Digest) bool { return slices.Contains(t.Revoked, d) }
