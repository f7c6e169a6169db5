package signing_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// The key ids in testdata/trust.json, computed with openssl.
const (
	kidRoot1   = "49e43a290107fbc6057825d56aa2653cf0df1136ce9c71b2f61085dbad306520"
	kidRoot2   = "55299b79c74bc9d6e83c649eec3de7075e70b628acd798a1d1f67df19c2a4c36"
	kidRelease = "5c4489c89e33e8292accb7ea29fd21f4a429d3efc48ddf696990c10acc97dd6b"
	kidTierB   = "c7cb551bf93df0ec95617c1540b042f33ee2e84542ea30a281eb489c92ed6e2f"
)

func goldenTrust(t testing.TB) *signing.Trust {
	t.Helper()
	// Read without the parser under test.
	var keys struct {
		Keys map[string]canon.PEM `json:"keys"`
	}
	if err := json.Unmarshal(file(t, "trust.json"), &keys); err != nil {
		t.Fatal(err)
	}
	return &signing.Trust{
		Schema: "sando.trust/v1", App: "mnw", Version: 3,
		Keys: keys.Keys,
		Roles: map[string]signing.Role{
			"root":      {Keys: []string{kidRoot1, kidRoot2}, Threshold: 1},
			"release":   {Keys: []string{kidRelease}, Threshold: 1},
			"channel":   {Keys: []string{cosignKid}, Threshold: 1},
			"channel:b": {Keys: []string{cosignKid, kidTierB}, Threshold: 2},
		},
		Revoked: []layout.Digest{
			"sha256:02f8056c2d6e3b6d0ac0ea1fbd66c0f1a9ce0e23b9ef16bfe3bf6ea80b1a1d49",
			"sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab",
		},
	}
}

func TestTrustGolden(t *testing.T) {
	golden, want := file(t, "trust.json"), goldenTrust(t)
	got, err := want.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(golden), string(got)); diff != "" {
		t.Errorf("Encode (-golden +got):\n%s", diff)
	}
	parsed, err := signing.ParseTrust(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, parsed); diff != "" {
		t.Errorf("ParseTrust (-want +got):\n%s", diff)
	}
}

func parseTrust(data []byte) ([]byte, error) {
	tr, err := signing.ParseTrust(data)
	if err != nil {
		return nil, err
	}
	return tr.Encode()
}

func TestTrustForm(t *testing.T) {
	canontest.Run(t, canontest.Document{Golden: file(t, "trust.json"), Parse: parseTrust})
}

// lines returns the part of the golden trust document from the line that starts with
// first to the line before the one that starts with last.
func lines(t *testing.T, data []byte, first, last string) string {
	t.Helper()
	i := strings.Index(string(data), "\n"+first)
	j := strings.Index(string(data), "\n"+last)
	if i < 0 || j < i {
		t.Fatalf("no lines from %q to %q", first, last)
	}
	return string(data[i+1 : j+1])
}

// Bytes that differ from the canonical ones though they mean the same, or hold null.
func TestTrustFormOfLists(t *testing.T) {
	data := file(t, "trust.json")
	root1, cosign := lines(t, data, `    "49e4`, `    "51d8`), lines(t, data, `    "51d8`, `    "5529`)
	all := lines(t, data, `    "49e4`, `  },`)
	channel, b := lines(t, data, `    "channel": {`, `    "channel:b": {`), lines(t, data, `    "channel:b": {`, `    "release": {`)
	roles := lines(t, data, `  "roles": {`, `  "revoked": [`)
	revoked := lines(t, data, `  "revoked": [`, `}`)
	rootKeys := "[\n        \"" + kidRoot1 + "\",\n        \"" + kidRoot2 + "\"\n      ]"
	for _, test := range []struct{ name, old, new string }{
		{"keys not sorted", root1 + cosign, cosign + root1},
		{"key twice", root1, root1 + root1},
		{"keys null", "{\n" + all + "  },", "null,"},
		{"roles not sorted", channel + b, b + channel},
		{"role twice", b, b + b},
		{"roles null", roles, "  \"roles\": null,\n"},
		{"role null", channel, "    \"channel\": null,\n"},
		{"role's keys null", rootKeys, "null"},
		{"key of a role null", `        "` + kidRoot2 + `"`, "        null"},
		{"roles before keys", "  \"keys\": {\n" + all + "  },\n" + roles, roles + "  \"keys\": {\n" + all + "  },\n"},
		{"threshold before keys", "\"keys\": " + rootKeys + ",\n      \"threshold\": 1", "\"threshold\": 1,\n      \"keys\": " + rootKeys},
		{"revoked null", revoked, "  \"revoked\": null\n"},
		{"revoked empty", revoked, "  \"revoked\": []\n"},
		{"revoked null inside", `    "sha256:02f8056c2d6e3b6d0ac0ea1fbd66c0f1a9ce0e23b9ef16bfe3bf6ea80b1a1d49"`, "    null"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := parseTrust(canontest.Edit(t, data, test.old, test.new))
			check(t, err, reason.Format, canon.ErrForm.Error())
		})
	}
	without := canontest.Edit(t, data, ",\n"+revoked, "\n")
	if again, err := parseTrust(without); err != nil || string(again) != string(without) {
		t.Errorf("nothing revoked: %v", err)
	}
}

// Each case is the golden trust document with one thing changed that the form allows
// and the meaning does not.
func TestTrustRefuses(t *testing.T) {
	const d1, d2 = "sha256:02f8056c2d6e3b6d0ac0ea1fbd66c0f1a9ce0e23b9ef16bfe3bf6ea80b1a1d49", "sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab"
	set := func(name string, keys []string, threshold int) func(*signing.Trust) {
		return func(tr *signing.Trust) { tr.Roles[name] = signing.Role{Keys: keys, Threshold: threshold} }
	}
	for _, test := range []struct {
		name   string
		change func(*signing.Trust)
		want   string // "": accepted
	}{
		{"unchanged", func(*signing.Trust) {}, ""},
		{"schema of a channel", func(tr *signing.Trust) { tr.Schema = "sando.channel/v1" }, "schema is"},
		{"newer schema", func(tr *signing.Trust) { tr.Schema = "sando.trust/v2" }, "schema is"},
		{"reserved app", func(tr *signing.Trust) { tr.App = "builder" }, "reserved"},
		{"no app", func(tr *signing.Trust) { tr.App = "" }, `app ""`},
		{"version 0", func(tr *signing.Trust) { tr.Version = 0 }, "version is 0"},
		{"threshold 0", set("root", []string{kidRoot1, kidRoot2}, 0), "threshold 0 of 2 keys"},
		{"threshold of all keys", set("root", []string{kidRoot1, kidRoot2}, 2), ""},
		{"threshold above the keys", set("root", []string{kidRoot1, kidRoot2}, 3), "threshold 3 of 2 keys"},
		{"no keys", set("channel", []string{}, 0), "threshold 0 of 0 keys"},
		{"no keys, threshold 1", set("channel", []string{}, 1), "threshold 1 of 0 keys"},
		{"key in a role twice", set("channel:b", []string{kidTierB, kidTierB}, 2), "not sorted and distinct"},
		{"keys of a role not sorted", set("channel:b", []string{kidTierB, cosignKid}, 2), "not sorted and distinct"},
		{"key of a role unknown", set("channel", []string{strings.Repeat("0", 64)}, 1), "is not in keys"},
		{"key of a role empty", set("channel", []string{""}, 1), "not sorted and distinct"},
		{"key of a role in upper case", set("channel", []string{strings.ToUpper(cosignKid)}, 1), "is not in keys"},
		{"key of a role cut", set("channel", []string{cosignKid[:16]}, 1), "is not in keys"},
		{"no root", func(tr *signing.Trust) { delete(tr.Roles, "root") }, `no role "root"`},
		{"no release", func(tr *signing.Trust) { delete(tr.Roles, "release") }, `no role "release"`},
		{"no channel", func(tr *signing.Trust) { delete(tr.Roles, "channel") }, `no role "channel"`},
		{"no role for a tier", func(tr *signing.Trust) { delete(tr.Roles, "channel:b"); delete(tr.Keys, kidTierB) }, ""},
		{"one more tier", set("channel:c", []string{cosignKid}, 1), ""},
		{"no roles", func(tr *signing.Trust) { tr.Roles = map[string]signing.Role{} }, `no role "root"`},
		{"unknown role", set("mirror", []string{cosignKid}, 1), `role "mirror" is not one of`},
		{"misspelled role", set("chanel:b", []string{cosignKid}, 1), `role "chanel:b" is not one of`},
		{"role without a name", set("", []string{cosignKid}, 1), `role "" is not one of`},
		{"role for no tier", set("channel:", []string{cosignKid}, 1), `tier ""`},
		{"role for a tier in upper case", set("channel:B", []string{cosignKid}, 1), `tier "B"`},
		{"role for two tiers", set("channel:a:b", []string{cosignKid}, 1), `tier "a:b"`},
		{"role of release for a tier", set("release:b", []string{kidRelease}, 1), `role "release:b" is not one of`},
		{"key in no role", func(tr *signing.Trust) { delete(tr.Roles, "channel:b") }, "is in no role"},
		{"keys without any", func(tr *signing.Trust) { tr.Keys = map[string]canon.PEM{} }, "is not in keys"},
		{"key that is empty", func(tr *signing.Trust) { tr.Keys[kidRoot1] = "" }, "PEM decoding failed"},
		{"key of another id", func(tr *signing.Trust) { tr.Keys[kidRoot1] = tr.Keys[kidRoot2] }, "has the id " + kidRoot2},
		{"revoked not sorted", func(tr *signing.Trust) { tr.Revoked = []layout.Digest{d2, d1} }, "revoked is not sorted and distinct"},
		{"revoked twice", func(tr *signing.Trust) { tr.Revoked = []layout.Digest{d1, d1} }, "revoked is not sorted and distinct"},
		{"revoked in upper case", func(tr *signing.Trust) { tr.Revoked[0] = layout.Digest("sha256:" + strings.ToUpper(d1[7:])) }, "revoked: malformed name"},
		{"revoked without a digest", func(tr *signing.Trust) { tr.Revoked = []layout.Digest{""} }, "revoked: malformed name"},
	} {
		t.Run(test.name, func(t *testing.T) {
			tr := goldenTrust(t)
			test.change(tr)
			if _, err := tr.Encode(); (err == nil) != (test.want == "") {
				t.Errorf("Encode: %v", err)
			}
			data, err := canon.Encode(tr) // as another program would write it
			if err != nil {
				t.Fatal(err)
			}
			_, err = signing.ParseTrust(data)
			want := reason.Format
			if test.want == "" {
				want = reason.Current
			}
			check(t, err, want, test.want)
		})
	}
}

// One key in two spellings must not be two keys.
func TestTrustRefusesOneKeyTwice(t *testing.T) {
	good := string(goldenTrust(t).Keys[kidRoot1])
	body := strings.Split(good, "\n")
	for name, text := range map[string]string{
		"long line":               body[0] + "\n" + body[1] + body[2] + "\n" + body[3] + "\n",
		"no newline at the end":   strings.TrimSuffix(good, "\n"),
		"two newlines at the end": good + "\n",
		"text in front":           "x\n" + good,
		"followed by another key": good + string(goldenTrust(t).Keys[kidRoot2]),
	} {
		for id, kid := range map[string]string{"its own id": kidRoot1, "a made-up id": strings.Repeat("0", 64)} {
			tr := goldenTrust(t)
			tr.Keys[kid] = canon.PEM(text)
			tr.Roles["root"] = signing.Role{Keys: slices.Sorted(slices.Values(slices.Compact([]string{kid, kidRoot1, kidRoot2}))), Threshold: 2}
			data, err := canon.Encode(tr)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := signing.ParseTrust(data); reason.Of(err) != reason.Format || !strings.Contains(err.Error(), "not spelled") {
				t.Errorf("%s under %s: %v (%s), want reason format", name, id, err, reason.Of(err))
			}
		}
	}
}

func TestTrustRefusesOtherKinds(t *testing.T) {
	for name, text := range otherKinds(t) {
		tr := goldenTrust(t)
		tr.Keys[kidRoot1] = canon.PEM(text)
		data, err := canon.Encode(tr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := signing.ParseTrust(data); reason.Of(err) != reason.Format || !strings.Contains(err.Error(), "want") {
			t.Errorf("%s: %v (%s), want reason format", name, err, reason.Of(err))
		}
	}
}

func TestTrustCaps(t *testing.T) {
	_, err := signing.ParseTrust(append(file(t, "trust.json"), make([]byte, layout.MaxTrust)...))
	check(t, err, reason.Limit, "more than 65536 bytes")

	tr := goldenTrust(t)
	for i := range layout.MaxTrust / 75 {
		tr.Revoked = append(tr.Revoked, layout.Digest(fmt.Sprintf("sha256:f%063x", i)))
	}
	_, err = tr.Encode()
	check(t, err, reason.Limit, "more than 65536 bytes")

	many := newKeys(t, layout.MaxSignatures+1)
	for n, want := range map[int]reason.Code{layout.MaxSignatures: reason.Current, layout.MaxSignatures + 1: reason.Format} {
		r := role(1, many[:n]...)
		data, err := canon.Encode(trustOf(map[string]signing.Role{"root": r, "release": r, "channel": r}, many[:n]...))
		if err != nil {
			t.Fatal(err)
		}
		_, err = signing.ParseTrust(data)
		check(t, err, want, "has 17 keys, want at most 16")
	}
}

func TestIsRevoked(t *testing.T) {
	tr := goldenTrust(t)
	for d, want := range map[layout.Digest]bool{
		"sha256:02f8056c2d6e3b6d0ac0ea1fbd66c0f1a9ce0e23b9ef16bfe3bf6ea80b1a1d49": true,
		"sha256:9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab": true,
		layout.Sum(nil): false,
		"":              false,
	} {
		if got := tr.IsRevoked(d); got != want {
			t.Errorf("IsRevoked(%s) = %v", d, got)
		}
	}
}
