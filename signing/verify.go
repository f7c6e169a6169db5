package signing

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

// Verify reports whether at least as many distinct keys of role as its threshold says
// have signed exactly the bytes s.Doc. Every error has the reason "signature", says
// what became of each key, and names the way out. It looks at no more than
// layout.MaxSignatures signatures.
func (t *Trust) Verify(role string, s Signed) error {
	if t == nil {
		t = new(Trust)
	}
	r, err := t.role(role)
	if err != nil {
		return reason.Errorf(reason.Signature, "signatures: trust version %d: %w", t.Version, err)
	}
	valid := 0
	var outcome []string
	for _, kid := range r.Keys {
		err := t.VerifyBy(kid, s)
		said := "valid"
		if err != nil {
			said = err.Error()
		} else {
			valid++
		}
		outcome = append(outcome, fmt.Sprintf("key %.16s: %s", kid, said))
	}
	if valid >= r.Threshold {
		return nil
	}
	return reason.Errorf(reason.Signature, "signatures of role %q: %d valid, %d needed (%s%s): the document may be forged, "+
		"or this node's trust.json is old (it is version %d); see docs/trust.md",
		role, valid, r.Threshold, strings.Join(outcome, "; "), strangers(r, s.Sigs), t.Version)
}

// Signers returns the keys of role that have signed exactly the bytes s.Doc, sorted.
func (t *Trust) Signers(role string, s Signed) []string {
	return slices.DeleteFunc(t.Kids(role), func(kid string) bool { return t.VerifyBy(kid, s) != nil })
}

// VerifyBy reports whether the key kid of t, whatever its roles are, has signed exactly
// the bytes s.Doc.
func (t *Trust) VerifyBy(kid string, s Signed) error {
	sig, ok := s.Sigs[kid]
	if !ok {
		return fmt.Errorf("no signature")
	}
	k, err := t.key(kid)
	if err != nil {
		return err
	}
	return VerifyBundle(k, s.Doc, sig)
}

// strangers names the keys that are not of the role but said to have signed: after a
// change of keys that is the whole story.
func strangers(r Role, sigs Signatures) string {
	var text strings.Builder
	for i, kid := range slices.Sorted(maps.Keys(sigs)) {
		if i < layout.MaxSignatures && !slices.Contains(r.Keys, kid) {
			fmt.Fprintf(&text, "; key %q: not in this role, not counted", layout.Short(kid))
		}
	}
	return text.String()
}
