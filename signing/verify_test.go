package signing_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// cast is one key for each part, and a trust document that gives them out.
type cast struct {
	root, release, b, stranger *keys.Signer
	five                       []*keys.Signer // 3 of them sign channels
	trust                      *signing.Trust
}

func newCast(t testing.TB) cast {
	t.Helper()
	k := newKeys(t, 9)
	c := cast{root: k[0], release: k[1], b: k[2], stranger: k[3], five: k[4:]}
	c.trust = trustOf(map[string]signing.Role{
		"root": role(1, c.root), "release": role(1, c.release), "channel": role(3, c.five...), "channel:b": role(1, c.b),
	}, slices.Concat([]*keys.Signer{c.root, c.release, c.b}, c.five)...)
	data, err := c.trust.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if c.trust, err = signing.ParseTrust(data); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestVerifyThreshold(t *testing.T) {
	c := newCast(t)
	doc := []byte("document\n")
	copies := signed(t, doc, c.five[0])
	for _, k := range slices.Concat(c.five, []*keys.Signer{c.root, c.release, c.stranger, c.b}) {
		copies.Sigs[k.Public().Kid()] = copies.Sigs[c.five[0].Public().Kid()] // one signature nine times
	}
	garbage := signed(t, doc, c.five[1:4]...)
	garbage.Sigs[c.five[0].Public().Kid()] = []byte("garbage")
	short := signed(t, doc, c.five[:3]...)
	short.Sigs[c.five[2].Public().Kid()] = nil
	swapped := signed(t, doc, c.five[:3]...)
	k0, k1 := c.five[0].Public().Kid(), c.five[1].Public().Kid()
	swapped.Sigs[k0], swapped.Sigs[k1] = swapped.Sigs[k1], swapped.Sigs[k0]
	renamed := signing.Signed{Doc: doc, Sigs: signing.Signatures{}}
	for kid, b := range signed(t, doc, c.five[:3]...).Sigs {
		renamed.Sigs[layout.Short(kid)] = b
	}
	for _, test := range []struct {
		name   string
		signed signing.Signed
		want   string // "": accepted
	}{
		{"three of five", signed(t, doc, c.five[:3]...), ""},
		{"three others", signed(t, doc, c.five[2:]...), ""},
		{"all five", signed(t, doc, c.five...), ""},
		{"three and a stranger", signed(t, doc, append(slices.Clone(c.five[:3]), c.stranger)...), ""},
		{"three and one that is garbage", garbage, ""},
		{"two", signed(t, doc, c.five[:2]...), "2 valid, 3 needed"},
		{"two and a stranger", signed(t, doc, append(slices.Clone(c.five[:2]), c.stranger)...), "2 valid, 3 needed"},
		{"two and one that is empty", short, "2 valid, 3 needed"},
		{"two and a key of another role", signed(t, doc, append(slices.Clone(c.five[:2]), c.root)...), "2 valid, 3 needed"},
		{"one, under nine names", copies, "1 valid, 3 needed"},
		{"three, two of them under each other's name", swapped, "1 valid, 3 needed"},
		{"three, under short names", renamed, "0 valid, 3 needed"},
		{"none", signing.Signed{Doc: doc}, "0 valid, 3 needed"},
		{"nothing at all", signing.Signed{}, "0 valid, 3 needed"},
		{"three over another document", signing.Signed{Doc: []byte("document"), Sigs: signed(t, doc, c.five[:3]...).Sigs}, "0 valid, 3 needed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := reason.Signature
			if test.want == "" {
				want = reason.Current
			}
			check(t, c.trust.Verify("channel", test.signed), want, test.want)
		})
	}
}

// One good signature is enough for threshold 1, whatever lies beside it.
func TestGarbageBesideGood(t *testing.T) {
	k := newKeys(t, 2)
	both := role(1, k...)
	tr := trustOf(map[string]signing.Role{"root": both, "release": both, "channel": both}, k...)
	doc := []byte("document\n")
	for name, bad := range map[string][]byte{
		"nothing": nil, "garbage": []byte("garbage"), "null": []byte("null"), "too long": make([]byte, layout.MaxSignature+1),
		"another's": sign(t, k[1], doc), "over another": sign(t, k[0], []byte("x")),
	} {
		s := signed(t, doc, k[1])
		s.Sigs[k[0].Public().Kid()] = bad
		if err := tr.Verify("release", s); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		delete(s.Sigs, k[1].Public().Kid())
		check(t, tr.Verify("release", s), reason.Signature, "0 valid, 1 needed")
	}
}

func TestVerifyRoles(t *testing.T) {
	c := newCast(t)
	doc := []byte("document\n")
	for _, test := range []struct {
		name, role string
		by         *keys.Signer
		want       string
	}{
		{"root", "root", c.root, ""},
		{"release", "release", c.release, ""},
		{"tier's own", "channel:b", c.b, ""},
		{"root's key for a manifest", "release", c.root, "0 valid, 1 needed"},
		{"release key for trust", "root", c.release, "0 valid, 1 needed"},
		{"release key for a tier", "channel:b", c.release, "0 valid, 1 needed"},
		{"key of all channels for a tier with its own", "channel:b", c.five[0], "0 valid, 1 needed"},
		{"tier's key for other channels", "channel", c.b, "0 valid, 3 needed"},
		{"unknown key", "release", c.stranger, "0 valid, 1 needed"},
		{"role that is not there", "channel:a", c.b, `no role "channel:a"`},
		{"role without a name", "", c.root, `no role ""`},
		{"role in another case", "Root", c.root, `no role "Root"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			want := reason.Signature
			if test.want == "" {
				want = reason.Current
			}
			check(t, c.trust.Verify(test.role, signed(t, doc, test.by)), want, test.want)
		})
	}
}

func TestChannelRoleAndKids(t *testing.T) {
	tr := goldenTrust(t)
	for tier, want := range map[string]string{"a": "channel", "b": "channel:b", "": "channel"} {
		if got := tr.ChannelRole(tier); got != want {
			t.Errorf("ChannelRole(%q) = %q, want %q", tier, got, want)
		}
	}
	for name, want := range map[string][]string{
		"root": {kidRoot1, kidRoot2}, "channel": {cosignKid}, "channel:b": {cosignKid, kidTierB}, "channel:a": nil, "": nil,
	} {
		if got := tr.Kids(name); !slices.Equal(got, want) {
			t.Errorf("Kids(%q) = %q, want %q", name, got, want)
		}
	}
	tr.Kids("root")[0] = "changed"
	if tr.Roles["root"].Keys[0] != kidRoot1 {
		t.Error("Kids gave out the trust document's own list")
	}
}

// A Trust that was put together in memory, with one strict rule broken, is not weaker
// than a parsed one.
func TestStrictWithoutParsing(t *testing.T) {
	k := newKeys(t, 2)
	a, b := k[0].Public(), k[1].Public()
	doc := []byte("document\n")
	s := signed(t, doc, k...)
	valid := func() *signing.Trust { return trustOf(map[string]signing.Role{"root": role(2, k...)}, k...) }
	check(t, valid().Verify("root", s), reason.Current, "")
	for _, test := range []struct {
		name   string
		change func(*signing.Trust)
		want   string
	}{
		{"zero value", func(tr *signing.Trust) { *tr = signing.Trust{} }, `no role "root"`},
		{"role without keys or threshold", func(tr *signing.Trust) { tr.Roles["root"] = signing.Role{} }, "threshold 0 of 0 keys"},
		{"threshold 0", func(tr *signing.Trust) { tr.Roles["root"] = role(0, k...) }, "threshold 0 of 2 keys"},
		{"negative threshold", func(tr *signing.Trust) { tr.Roles["root"] = role(-1, k...) }, "threshold -1 of 2 keys"},
		{"threshold above the keys", func(tr *signing.Trust) { tr.Roles["root"] = role(3, k...) }, "threshold 3 of 2 keys"},
		{"one key twice", func(tr *signing.Trust) {
			tr.Roles["root"] = signing.Role{Keys: []string{a.Kid(), a.Kid()}, Threshold: 2}
		}, "not sorted and distinct"},
		{"key missing", func(tr *signing.Trust) { delete(tr.Keys, b.Kid()) }, "is not in keys"},
		{"one key under two ids", func(tr *signing.Trust) { tr.Keys[b.Kid()] = a.PEM() }, "1 valid, 2 needed"},
		{"key respelled", func(tr *signing.Trust) { tr.Keys[b.Kid()] = "x\n" + b.PEM() }, "1 valid, 2 needed"},
		{"key without PEM", func(tr *signing.Trust) { tr.Keys[b.Kid()] = "" }, "1 valid, 2 needed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := valid()
			test.change(tr)
			check(t, tr.Verify("root", s), reason.Signature, test.want)
		})
	}
	var none *signing.Trust
	check(t, none.Verify("root", s), reason.Signature, `no role "root"`)
}

// More keys than signatures that may be looked at cannot be made to count either.
func TestVerifyTooManyKeys(t *testing.T) {
	many := newKeys(t, layout.MaxSignatures+1)
	tr := trustOf(map[string]signing.Role{"root": role(1, many...)}, many...)
	check(t, tr.Verify("root", signed(t, []byte("x"), many...)), reason.Signature, "has 17 keys, want at most 16")
	if got := tr.Kids("root"); got != nil {
		t.Errorf("Kids = %q", got)
	}
}

// The text is read at 3 a.m.: golden, so that a change of it is a decision.
func TestVerifyErrorText(t *testing.T) {
	tr := goldenTrust(t)
	doc := file(t, "hello.txt")
	s := signing.Signed{Doc: doc, Sigs: signing.Signatures{
		cosignKid:  file(t, "bundle.json"),
		kidRelease: file(t, "bundle.json"),
	}}
	check := func(name, role, want string) {
		t.Helper()
		if err := tr.Verify(role, s); err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", name, err, want)
		}
	}
	check("one is missing", "channel:b", `signatures of role "channel:b": 1 valid, 2 needed (key 51d816633abdd5fa: valid; `+
		`key c7cb551bf93df0ec: no signature; key "5c4489c89e33e829": not in this role, not counted): the document may be forged, `+
		`or this node's trust.json is old (it is version 3); see docs/trust.md`)
	check("by another key", "release", `signatures of role "release": 0 valid, 1 needed (key 5c4489c89e33e829: signature is not by this key; `+
		`key "51d816633abdd5fa": not in this role, not counted): the document may be forged, `+
		`or this node's trust.json is old (it is version 3); see docs/trust.md`)
	s.Doc = append(bytes.Clone(doc), '!')
	if err := tr.Verify("release", s); err == nil || !strings.Contains(err.Error(), "key 5c4489c89e33e829: signature is over another document: digest 5891b5b5") {
		t.Errorf("changed document: %v", err)
	}
	s.Sigs["\x1b[2J\n"+strings.Repeat("x", 1000)] = nil
	if err := tr.Verify("release", s); len(err.Error()) > 1000 || canon.Text(err.Error(), false) != nil {
		t.Errorf("a made-up name is shown as it came: %v", err)
	}
}
