package channels_test

import (
	"bytes"
	"slices"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// The cases of TUF's conformance suite about root rotation, for trust documents.
func TestStep(t *testing.T) {
	k := newKeys(t, 8)
	others := func(root ...*keys.Signer) roles {
		return roles{"root": root, "release": k[6:7], "channel": k[7:]}
	}
	five, rotated := k[:5], slices.Concat(k[:4], k[5:6]) // one of five replaced
	by := func(i ...int) (list []*keys.Signer) {
		for _, n := range i {
			list = append(list, k[n])
		}
		return list
	}
	one := trust(1, 1, others(k[0]))
	for _, test := range []struct {
		name       string
		held, next *signing.Trust
		by         []*keys.Signer
		reason     reason.Code
		want       string
	}{
		{"same root key", one, trust(2, 1, others(k[0])), by(0), reason.Current, ""},
		{"root key replaced, signed by both", one, trust(2, 1, others(k[1])), by(0, 1), reason.Current, ""},
		{"signed only by the new key", one, trust(2, 1, others(k[1])), by(1), reason.Signature, `trust version 2: signatures of role "root": 0 valid, 1 needed`},
		{"signed only by the old key", one, trust(2, 1, others(k[1])), by(0), reason.Signature, "under its own root keys"},
		{"not signed", one, trust(2, 1, others(k[0])), nil, reason.Signature, "no signature"},
		{"signed by release and channel keys", one, trust(2, 1, others(k[0])), by(6, 7), reason.Signature, "0 valid, 1 needed"},
		{"signed by a stranger", one, trust(2, 1, others(k[0])), by(5), reason.Signature, "0 valid, 1 needed"},

		{"3 of 5, one replaced, by three in both", trust(1, 3, others(five...)), trust(2, 3, others(rotated...)), by(0, 1, 2), reason.Current, ""},
		{"3 of 5, one replaced, by all", trust(1, 3, others(five...)), trust(2, 3, others(rotated...)), by(0, 1, 2, 3, 4, 5), reason.Current, ""},
		{"3 of 5, two of the old and the new one", trust(1, 3, others(five...)), trust(2, 3, others(rotated...)), by(0, 1, 5), reason.Signature, "2 valid, 3 needed"},
		{"3 of 5, two in both and the one removed", trust(1, 3, others(five...)), trust(2, 3, others(rotated...)), by(0, 1, 4), reason.Signature, "under its own root keys"},
		{"3 of 5, two in both, the removed and the new", trust(1, 3, others(five...)), trust(2, 3, others(rotated...)), by(0, 1, 4, 5), reason.Current, ""},
		{"3 of 5, two", trust(1, 3, others(five...)), trust(2, 3, others(five...)), by(0, 1), reason.Signature, "2 valid, 3 needed"},

		{"threshold 1 to 2, by two", trust(1, 1, others(k[0], k[1])), trust(2, 2, others(k[0], k[1])), by(0, 1), reason.Current, ""},
		{"threshold 1 to 2, by one", trust(1, 1, others(k[0], k[1])), trust(2, 2, others(k[0], k[1])), by(0), reason.Signature, "under its own root keys"},
		{"threshold 2 to 1, by two", trust(1, 2, others(k[0], k[1])), trust(2, 1, others(k[0], k[1])), by(0, 1), reason.Current, ""},
		{"threshold 2 to 1, by one", trust(1, 2, others(k[0], k[1])), trust(2, 1, others(k[0], k[1])), by(0), reason.Signature, "1 valid, 2 needed"},

		{"a version skipped", one, trust(3, 1, others(k[0])), by(0), reason.Mismatch, "trust version 2: document says version 3"},
		{"same version, same content", one, trust(1, 1, others(k[0])), by(0), reason.Mismatch, "document says version 1"},
		{"same version, other content", one, trust(1, 1, others(k[0], k[1])), by(0, 1), reason.Mismatch, "document says version 1"},
		{"an older version", trust(3, 1, others(k[0])), trust(2, 1, others(k[0])), by(0), reason.Mismatch, "trust version 4: document says version 2"},
		{"file 4 that says 5", trust(3, 1, others(k[0])), trust(5, 1, others(k[0])), by(0), reason.Mismatch, "trust version 4: document says version 5"},

		{"nothing held", nil, trust(1, 1, others(k[0])), by(0), reason.Signature, `no role "root"`},
		{"zero value held", &signing.Trust{}, trust(1, 1, others(k[0])), by(0), reason.Signature, `no role "root"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			next, err := channels.Step(test.held, signed(t, encode(t, test.next), test.by...))
			check(t, err, test.reason, test.want)
			if err == nil && !bytes.Equal(encode(t, next), encode(t, test.next)) || err != nil && next != nil {
				t.Errorf("Step returned %v", next)
			}
		})
	}
}

// Well signed by root, and still not a next version.
func TestStepRefuses(t *testing.T) {
	k := newKeys(t, 2)
	r := roles{"root": k[:1], "release": k[1:], "channel": k[1:]}
	held, next := trust(1, 1, r), trust(2, 1, r)
	good := encode(t, next)
	other := trust(2, 1, r)
	other.App = "other"
	for _, test := range []struct {
		name   string
		doc    []byte
		reason reason.Code
		want   string
	}{
		{"good", good, reason.Current, ""},
		{"other app", encode(t, other), reason.Policy, `document is of app "other", want "mnw"`},
		{"threshold 0", canontest.Edit(t, good, "\"threshold\": 1\n    }\n  }", "\"threshold\": 0\n    }\n  }"), reason.Format, "threshold 0 of 1 keys"},
		{"not canonical", append(bytes.Clone(good), '\n'), reason.Format, "canonical"},
		{"channel", golden(t), reason.Format, `schema is "sando.channel/v1"`},
		{"empty", nil, reason.Format, "trust"},
		{"too long", append(bytes.Clone(good), make([]byte, layout.MaxTrust)...), reason.Limit, "more than 65536 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := channels.Step(held, signed(t, test.doc, k[0]))
			check(t, err, test.reason, test.want)
		})
	}
	t.Run("changed after signing", func(t *testing.T) {
		s := signed(t, good, k[0])
		s.Doc = canontest.Edit(t, good, `"version": 2`, `"version": 3`)
		_, err := channels.Step(held, s)
		check(t, err, reason.Signature, "over another document")
	})
}

// A chain is walked one step at a time, and each step is judged by the one before it:
// a key that was removed does not come back.
func TestStepChain(t *testing.T) {
	k := newKeys(t, 5)
	rest := func(root *keys.Signer) roles { return roles{"root": {root}, "release": k[4:], "channel": k[4:]} }
	held := trust(1, 1, rest(k[0]))
	for i := 1; i < 4; i++ {
		next, err := channels.Step(held, signed(t, encode(t, trust(int64(i+1), 1, rest(k[i]))), k[i-1], k[i]))
		if err != nil {
			t.Fatalf("step to %d: %v", i+1, err)
		}
		held = next
	}
	_, err := channels.Step(held, signed(t, encode(t, trust(5, 1, rest(k[0]))), k[0], k[1], k[2]))
	check(t, err, reason.Signature, "trust version 5: signatures of role \"root\": 0 valid, 1 needed")
}
