package signing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"testing"
	"time"

	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// cosignSigner returns the private half of cosignKey.
func cosignSigner(t *testing.T) *keys.Signer {
	t.Helper()
	data, err := os.ReadFile("keys/testdata/cosign.key")
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.Load(data, []byte("test"))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// others returns good signatures over something else, by somebody else, or in another
// form, and the good one with a bit changed.
func others(t *testing.T) []offer {
	t.Helper()
	const format, signature = reason.Format, reason.Signature
	signer, stranger, doc := cosignSigner(t), newKeys(t, 1)[0], file(t, "hello.txt")
	golden, other := file(t, "bundle.json"), []byte("other\n")
	lying := canontest.Edit(t, sign(t, stranger, doc), hint(t, stranger), hint(t, signer))
	all := []offer{
		{"signed now", doc, sign(t, signer, doc), reason.Current, ""},
		{"unknown key", doc, sign(t, stranger, doc), signature, "is not by this key"},
		{"unknown key under the hint of a known one", doc, lying, signature, "is not by this key"},
		{"signature over another document", doc, sign(t, signer, other), signature, "over another document"},
		{"another document", other, golden, signature, "over another document"},
		{"document cut", doc[:len(doc)-1], golden, signature, "over another document"},
		{"document empty", nil, golden, signature, "over another document"},
		{"DSSE envelope that is well signed", doc, dsse(t, signer, doc), format, `"dsseEnvelope" is not one of`},
		{"certificate for the key", doc, certified(t, golden, `"certificate": %s`), format, `"certificate" is not one of`},
		{"certificate and key", doc, certified(t, golden, goldenKey+`, "certificate": %s`), format, `"certificate" is not one of`},
		{"chain of certificates for the key", doc, certified(t, golden, `"x509CertificateChain": {"certificates": [%s]}`), format, `"x509CertificateChain" is not one of`},
		{"entry of a log", doc, logged(t, golden), format, "tlogEntries is not an empty list"},
		{"legacy form of cosign that is well signed", doc, legacy(t, golden), format, `"base64Signature" is not one of`},
	}
	return append(all, flipped(t, doc, golden)...)
}

// flipped returns the good bundle with one bit changed: of each third byte of document,
// digest and signature, another one each time. TestBitFlips has them all.
func flipped(t *testing.T, doc, golden []byte) (all []offer) {
	t.Helper()
	digest, sig, err := signing.ParseBundle(golden)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(data []byte, at int) []byte {
		b := bytes.Clone(data)
		b[at] ^= 1 << (at / 3 % 8)
		return b
	}
	in := func(what string, data []byte, at int) []byte {
		return canontest.Edit(t, golden, base64.StdEncoding.EncodeToString(data), base64.StdEncoding.EncodeToString(flip(data, at)))
	}
	for at := 0; at < len(doc); at += 3 {
		all = append(all, offer{fmt.Sprintf("bit of byte %d of the document", at), flip(doc, at), golden, reason.Signature, "over another document"})
	}
	for at := 0; at < len(digest); at += 3 {
		all = append(all, offer{fmt.Sprintf("bit of byte %d of the digest", at), doc, in("digest", digest, at), reason.Signature, "over another document"})
	}
	for at := 0; at < len(sig); at += 3 {
		o := offer{fmt.Sprintf("bit of byte %d of the signature", at), doc, in("signature", sig, at), reason.Signature, "is not by this key"}
		if at < 6 || at == 39 { // what kind, how long, and the sign of a number
			o.reason, o.want = reason.Format, "signature "
		}
		all = append(all, o)
	}
	return all
}

func hint(t *testing.T, s *keys.Signer) string {
	t.Helper()
	var kid []byte
	if _, err := fmt.Sscanf(s.Public().Kid(), "%x", &kid); err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(kid)
}

// dsse returns a bundle of the other kind: a signed statement that names doc by its
// digest.
func dsse(t *testing.T, s *keys.Signer, doc []byte) []byte {
	t.Helper()
	const kind = "application/vnd.in-toto+json"
	payload := fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"doc","digest":{"sha256":"%x"}}],`+
		`"predicateType":"https://example.org/x","predicate":{}}`, sha256.Sum256(doc))
	_, sig, err := signing.ParseBundle(sign(t, s, fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(kind), kind, len(payload), payload)))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"mediaType":%s,"verificationMaterial":{%s},"dsseEnvelope":{"payload":"%s","payloadType":"%s","signatures":[{"sig":"%s"}]}}`,
		goldenMediaType, goldenKey, base64.StdEncoding.EncodeToString([]byte(payload)), kind, base64.StdEncoding.EncodeToString(sig))
}

// certified returns the good bundle with material that holds a certificate for its key.
func certified(t *testing.T, golden []byte, material string) []byte {
	t.Helper()
	block, _ := pem.Decode([]byte(cosignKey(t).PEM()))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, authority)
	if err != nil {
		t.Fatal(err)
	}
	raw := fmt.Sprintf(`{"rawBytes": "%s"}`, base64.StdEncoding.EncodeToString(der))
	return canontest.Edit(t, golden, goldenKey, fmt.Sprintf(material, raw))
}

// logged returns the good bundle with an entry of a transparency log, as signing with
// cosign's defaults leaves one.
func logged(t *testing.T, golden []byte) []byte {
	t.Helper()
	digest, sig, err := signing.ParseBundle(golden)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	body := fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},`+
		`"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`, digest, b64(sig), b64([]byte(cosignKey(t).PEM())))
	entry := fmt.Sprintf(`{"logIndex":"0","logId":{"keyId":"%s"},"kindVersion":{"kind":"hashedrekord","version":"0.0.1"},`+
		`"inclusionProof":{"rootHash":"%[1]s","treeSize":"1","checkpoint":{"envelope":"log.example\n1\n%[1]s\n"}},`+
		`"canonicalizedBody":"%[2]s"}`, b64(digest), b64([]byte(body)))
	return canontest.Edit(t, golden, goldenKey, goldenKey+`, "tlogEntries": [`+entry+`]`)
}

// legacy returns the good signature as cosign wrote it before Sigstore bundles.
func legacy(t *testing.T, golden []byte) []byte {
	t.Helper()
	_, sig, err := signing.ParseBundle(golden)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Appendf(nil, `{"base64Signature":"%s","cert":"","rekorBundle":null}`, base64.StdEncoding.EncodeToString(sig))
}
