package signing_test

import (
	"bytes"
	"crypto/elliptic"
	"encoding/asn1"
	"math/big"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// offer is a document and what is said to be a signature over it.
type offer struct {
	name        string
	doc, bundle []byte
	reason      reason.Code // of our refusal; "current": accepted
	want        string      // in the error
}

// offers returns what is offered to us and to cosign: the good bundle, and the same with
// one thing changed.
func offers(t *testing.T) []offer {
	t.Helper()
	doc, golden := file(t, "hello.txt"), file(t, "bundle.json")
	var all []offer
	for _, e := range slices.Concat(kinds(), parts(), texts()) {
		data := golden
		if e.old != e.new {
			data = canontest.Edit(t, golden, e.old, e.new)
		}
		all = append(all, offer{e.name, doc, data, e.reason, e.want})
	}
	return slices.Concat(all, wholes(t), numbers(t), others(t))
}

type edit struct {
	name, old, new string
	reason         reason.Code
	want           string
}

// Parts of testdata/bundle.json.
const (
	goldenDigest    = `"digest": "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM="`
	goldenAlgorithm = `"algorithm": "SHA2_256"`
	goldenKey       = "\"publicKey\": {\n      \"hint\": \"UdgWYzq91fqUuT91BvqZcYG95H1mZsisN2kW6YgqLV0=\"\n    }"
	goldenMediaType = `"application/vnd.dev.sigstore.bundle.v0.3+json"`
)

func kinds() []edit {
	const (
		key, v03, message = goldenKey, goldenMediaType, `"messageSignature": {`
		alg, digest       = goldenAlgorithm, goldenDigest
		ok, format        = reason.Current, reason.Format
	)
	return []edit{
		{"unchanged", `{`, `{`, ok, ""},
		// Allowed differences.
		{"lying hint", "UdgWYzq91fqUuT91BvqZcYG95H1mZsisN2kW6YgqLV0=", "bm90IHRoaXMga2V5", ok, ""},
		{"hint that is no base64", "UdgWYzq91fqUuT91BvqZcYG95H1mZsisN2kW6YgqLV0=", "alice", ok, ""},
		{"no hint", `"hint": "UdgWYzq91fqUuT91BvqZcYG95H1mZsisN2kW6YgqLV0="`, "", ok, ""},
		{"empty log", key, key + `, "tlogEntries": []`, ok, ""},
		{"empty timestamps", key, key + `, "timestampVerificationData": {"rfc3161Timestamps": []}`, ok, ""},
		{"no timestamps", key, key + `, "timestampVerificationData": {}`, ok, ""},
		{"other white space", `"mediaType": `, "\r\n\t\"mediaType\"\n:\n", ok, ""},
		{"other order of fields", alg + ",\n      " + digest, digest + "," + alg, ok, ""},
		{"escape in a string", `"SHA2_256"`, `"SHA2\u005f256"`, ok, ""},
		// The kind of bundle.
		{"version 0.1", v03, `"application/vnd.dev.sigstore.bundle+json;version=0.1"`, format, "mediaType is"},
		{"version 0.2", v03, `"application/vnd.dev.sigstore.bundle+json;version=0.2"`, format, "mediaType is"},
		{"version 0.3, old spelling", v03, `"application/vnd.dev.sigstore.bundle+json;version=0.3"`, format, "mediaType is"},
		{"version 0.4", v03, `"application/vnd.dev.sigstore.bundle.v0.4+json"`, format, "mediaType is"},
		{"media type in another case", v03, strings.ToUpper(v03), format, "mediaType is"},
		{"media type empty", v03, `""`, format, "mediaType is"},
		{"media type null", v03, `null`, format, `"mediaType" is null`},
		{"media type a number", v03, `3`, format, "mediaType is not a string"},
		{"media type missing", `"mediaType": ` + v03 + `,`, "", format, `"mediaType" is missing`},
		{"DSSE instead", message, `"dsseEnvelope": {`, format, `"dsseEnvelope" is not one of`},
		{"DSSE as well", message, `"dsseEnvelope": {}, ` + message, format, `"dsseEnvelope" is not one of`},
		{"certificate instead", `"publicKey": {`, `"certificate": {`, format, `"certificate" is not one of`},
		{"certificate as well", key, key + `, "certificate": {"rawBytes": "MAA="}`, format, `"certificate" is not one of`},
		{"chain as well", key, key + `, "x509CertificateChain": {"certificates": []}`, format, `"x509CertificateChain" is not one of`},
		{"log entry", key, key + `, "tlogEntries": [{}]`, format, "tlogEntries is not an empty list"},
		{"log entry null", key, key + `, "tlogEntries": [null]`, format, "tlogEntries is not an empty list"},
		{"log null", key, key + `, "tlogEntries": null`, format, `"tlogEntries" is null`},
		{"log an object", key, key + `, "tlogEntries": {}`, format, "tlogEntries is not an empty list"},
		{"timestamp", key, key + `, "timestampVerificationData": {"rfc3161Timestamps": [{"signedTimestamp": "MAA="}]}`, format, "rfc3161Timestamps is not an empty list"},
		{"timestamps null", key, key + `, "timestampVerificationData": null`, format, `"timestampVerificationData" is null`},
		{"unknown timestamps", key, key + `, "timestampVerificationData": {"x": 1}`, format, `"x" is not one of`},
	}
}

func parts() []edit {
	const (
		key, alg, digest = goldenKey, goldenAlgorithm, goldenDigest
		ok, format       = reason.Current, reason.Format
	)
	material := "\"verificationMaterial\": {\n    " + key + "\n  }"
	md := "\"messageDigest\": {\n      " + alg + ",\n      " + digest + "\n    }"
	return []edit{
		{"material null", material, `"verificationMaterial": null`, format, `"verificationMaterial" is null`},
		{"material missing", material + ",", "", format, `"verificationMaterial" is missing`},
		{"material empty", material, `"verificationMaterial": {}`, format, `"publicKey" is missing`},
		{"material a list", material, `"verificationMaterial": []`, format, "verificationMaterial is not an object"},
		{"public key null", key, `"publicKey": null`, format, `"publicKey" is null`},
		{"public key empty", key, `"publicKey": {}`, ok, ""},
		{"public key a string", key, `"publicKey": "x"`, format, "publicKey is not an object"},
		{"public key with a key", key, `"publicKey": {"rawBytes": "MAA="}`, format, `"rawBytes" is not one of`},
		{"hint null", `"UdgWYzq91fqUuT91BvqZcYG95H1mZsisN2kW6YgqLV0="`, "null", format, `"hint" is null`},
		{"hint a number", `"UdgWYzq91fqUuT91BvqZcYG95H1mZsisN2kW6YgqLV0="`, "1", format, "hint is not a string"},
		{"message digest null", md, `"messageDigest": null`, format, `"messageDigest" is null`},
		{"message digest missing", md + ",", "", format, `"messageDigest" is missing`},
		{"message digest empty", md, `"messageDigest": {}`, format, `"algorithm" is missing`},
		{"algorithm missing", alg + ",", "", format, `"algorithm" is missing`},
		{"algorithm null", alg, `"algorithm": null`, format, `"algorithm" is null`},
		{"algorithm SHA2_512", alg, `"algorithm": "SHA2_512"`, format, "algorithm is"},
		{"algorithm unspecified", alg, `"algorithm": "HASH_ALGORITHM_UNSPECIFIED"`, format, "algorithm is"},
		{"algorithm as a number", alg, `"algorithm": 1`, format, "algorithm is not a string"},
		{"digest missing", ",\n      " + digest, "", format, `"digest" is missing`},
		{"digest null", digest, `"digest": null`, format, `"digest" is null`},
		{"signature null", `"MEYCIQDx4abK5OLst/2gctB/cD5o6hXb3MeR/9kcIYbvg099HQIhAKml3uhX+xoIvygyL4QPYp7QmB5XvO20JKZYP7Z5sBpx"`, "null", format, `"signature" is null`},
		{"signature missing", "    },\n    " + `"signature": "MEYCIQDx4abK5OLst/2gctB/cD5o6hXb3MeR/9kcIYbvg099HQIhAKml3uhX+xoIvygyL4QPYp7QmB5XvO20JKZYP7Z5sBpx"`, "    }", format, `"signature" is missing`},
	}
}

func texts() []edit {
	const (
		sig, v03, message = `"signature": "MEYCIQDx`, goldenMediaType, `"messageSignature": {`
		format            = reason.Format
	)
	return []edit{
		// What the digest says.
		{"digest of another document", "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=", "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=", reason.Signature, "over another document"},
		{"digest cut", "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=", "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2", reason.Signature, "over another document"},
		{"digest empty", "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=", "", reason.Signature, "over another document"},
		// base64.
		{"no padding", "vgM=", "vgM", format, "digest is not standard base64"},
		{"two paddings", "vgM=", "vgM==", format, "digest is not standard base64"},
		{"stray bits before the padding", "vgM=", "vgN=", format, "digest is not standard base64"},
		{"text behind the padding", "vgM=", "vgM=AAAA", format, "digest is not standard base64"},
		{"alphabet for URLs", "whtD/CxE", "whtD_CxE", format, "digest is not standard base64"},
		{"newline", "WJG1tSLV", `WJG1\ntSLV`, format, "digest is not standard base64"},
		{"carriage return", "vgM=", `vgM=\r\n`, format, "digest is not standard base64"},
		{"space", "WJG1tSLV", `WJG1 tSLV`, format, "digest is not standard base64"},
		{"hex", "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=", "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", reason.Signature, "over another document"},
		{"newline in the signature", sig, `"signature": "MEYC\nIQDx`, format, "signature is not standard base64"},
		// JSON.
		{"field twice", `"mediaType": ` + v03, `"mediaType": ` + v03 + `, "mediaType": ` + v03, format, `"mediaType" is there twice`},
		{"field twice, one escaped", `"mediaType": ` + v03, `"mediaType": ` + v03 + `, "media\u0054ype": ` + v03, format, `"mediaType" is there twice`},
		{"signature twice", sig, `"signature": "MAA=", ` + sig, format, `"signature" is there twice`},
		{"field in another case", `"mediaType"`, `"MediaType"`, format, `"MediaType" is not one of`},
		{"field in two cases", message, `"MessageSignature": {}, ` + message, format, `"MessageSignature" is not one of`},
		{"name as in the protocol buffer", `"mediaType"`, `"media_type"`, format, `"media_type" is not one of`},
		{"unknown field", `"mediaType"`, `"x": 1, "mediaType"`, format, `"x" is not one of`},
		{"name with a question mark", `"hint"`, `"hint?"`, format, `"hint?" is not one of`},
		{"comma at the end", "=\"\n    }\n  },\n  \"messageSignature\"", "=\",\n    }\n  },\n  \"messageSignature\"", format, "not one JSON document"},
		{"comment", `{` + "\n  \"mediaType\"", `{ /* */ "mediaType"`, format, "not one JSON document"},
		{"not UTF-8", `"UdgWYzq9`, "\"Udg\xffWYzq9", format, "not one JSON document"},
	}
}

// wholes returns other texts in place of a bundle.
func wholes(t *testing.T) (all []offer) {
	t.Helper()
	doc, golden := file(t, "hello.txt"), string(file(t, "bundle.json"))
	pad := func(n int) string { return golden + strings.Repeat(" ", n-len(golden)) }
	for _, test := range []struct {
		name, data string
		reason     reason.Code
		want       string
	}{
		{"at the cap", pad(layout.MaxSignature), reason.Current, ""},
		{"above the cap", pad(layout.MaxSignature + 1), reason.Limit, "longer than 65536 bytes"},
		{"no bytes", "", reason.Format, "not one JSON document"},
		{"bundle null", "null", reason.Format, "bundle is not an object"},
		{"bundle a list", "[]", reason.Format, "bundle is not an object"},
		{"bundle a string", `"x"`, reason.Format, "bundle is not an object"},
		{"bundle a number", "1", reason.Format, "bundle is not an object"},
		{"empty object", "{}", reason.Format, `"mediaType" is missing`},
		{"bundle in a list", "[" + golden + "]", reason.Format, "bundle is not an object"},
		{"bundle twice", golden + golden, reason.Format, "not one JSON document"},
		{"byte order mark", "\ufeff" + golden, reason.Format, "not one JSON document"},
		{"bundle cut", golden[:len(golden)-3], reason.Format, "not one JSON document"},
		{"NUL behind", golden + "\x00", reason.Format, "not one JSON document"},
		{"deep nesting", strings.Repeat("[", 30000) + strings.Repeat("]", 30000), reason.Format, "not one JSON document"},
		{"deep nesting in a field", strings.Replace(golden, `"mediaType"`, `"x": `+strings.Repeat("[", 9000)+strings.Repeat("]", 9000)+`, "mediaType"`, 1), reason.Format, `"x" is not one of`},
		{"legacy form of cosign", `{"base64Signature":"MEYCIQDx","cert":"","rekorBundle":null}`, reason.Format, `"base64Signature" is not one of`},
		{"bare signature", "MEYCIQDx4abK5OLst", reason.Format, "not one JSON document"},
		{"public key", string(file(t, "cosign.pub")), reason.Format, "not one JSON document"},
	} {
		all = append(all, offer{test.name, doc, []byte(test.data), test.reason, test.want})
	}
	return all
}

// signatureOf returns the DER of two integers.
func signatureOf(t *testing.T, r, s *big.Int) []byte {
	t.Helper()
	der, err := asn1.Marshal(struct{ R, S *big.Int }{r, s})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// numbers returns other signatures inside a well-formed bundle.
func numbers(t *testing.T) (all []offer) {
	t.Helper()
	k, doc := cosignKey(t), file(t, "hello.txt")
	_, good, err := signing.ParseBundle(file(t, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(good, &v); err != nil {
		t.Fatal(err)
	}
	n := elliptic.P256().Params().N
	zero, one, big2 := big.NewInt(0), big.NewInt(1), new(big.Int).Lsh(n, 300)
	plus := func(x *big.Int) *big.Int { return new(big.Int).Add(x, n) }
	p1363 := append(v.R.FillBytes(make([]byte, 32)), v.S.FillBytes(make([]byte, 32))...)
	inside := bytes.Clone(good)
	inside[1] += 3
	inside = append(inside, 2, 1, 1)
	longLength := append([]byte{0x30, 0x81}, good[1:]...)
	padded := append([]byte{good[0], good[1] + 1, good[2], good[3] + 1, 0}, good[4:]...)
	indefinite := append(append([]byte{0x30, 0x80}, good[2:]...), 0, 0)
	for _, test := range []struct {
		name   string
		sig    []byte
		reason reason.Code
		want   string
	}{
		{"taken apart and put together", good, reason.Current, ""},
		{"the other s, as good by the mathematics", signatureOf(t, v.R, new(big.Int).Sub(n, v.S)), reason.Current, ""},
		{"signature empty", nil, reason.Format, "signature is not DER"},
		{"r = 0", signatureOf(t, zero, v.S), reason.Format, "outside of 1 to n-1"},
		{"s = 0", signatureOf(t, v.R, zero), reason.Format, "outside of 1 to n-1"},
		{"r and s = 0", signatureOf(t, zero, zero), reason.Format, "outside of 1 to n-1"},
		{"r = n", signatureOf(t, n, v.S), reason.Format, "outside of 1 to n-1"},
		{"s = n", signatureOf(t, v.R, n), reason.Format, "outside of 1 to n-1"},
		{"r and s = n", signatureOf(t, n, n), reason.Format, "outside of 1 to n-1"},
		{"r + n", signatureOf(t, plus(v.R), v.S), reason.Format, "outside of 1 to n-1"},
		{"s + n", signatureOf(t, v.R, plus(v.S)), reason.Format, "outside of 1 to n-1"},
		{"r negative", signatureOf(t, new(big.Int).Neg(v.R), v.S), reason.Format, "outside of 1 to n-1"},
		{"s enormous", signatureOf(t, v.R, big2), reason.Format, "outside of 1 to n-1"},
		{"r and s = 1", signatureOf(t, one, one), reason.Signature, "is not by this key"},
		{"r and s = n-1", signatureOf(t, new(big.Int).Sub(n, one), new(big.Int).Sub(n, one)), reason.Signature, "is not by this key"},
		{"r and s swapped", signatureOf(t, v.S, v.R), reason.Signature, "is not by this key"},
		{"byte behind the signature", append(bytes.Clone(good), 0), reason.Format, "signature is not DER"},
		{"third integer in the signature", inside, reason.Format, "signature is not DER"},
		{"signature cut", good[:len(good)-1], reason.Format, "signature is not DER"},
		{"length of the signature in BER", longLength, reason.Format, "signature is not DER"},
		{"integer with a zero in front", padded, reason.Format, "signature is not DER"},
		{"indefinite length of the signature", indefinite, reason.Format, "signature is not DER"},
		{"signature in IEEE P1363", p1363, reason.Format, "signature is not DER"},
		{"signature of 40 000 bytes", bytes.Repeat([]byte{0x30}, 40000), reason.Format, "signature is not DER"},
	} {
		bundle, err := signing.NewBundle(k, doc, test.sig)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, offer{test.name, doc, bundle, test.reason, test.want})
	}
	return all
}
