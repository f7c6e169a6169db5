package signing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/signing"
)

// cosignKid was computed with openssl from testdata/cosign.pub, which cosign made.
const cosignKid = "51d816633abdd5fa94b93f7506fa997181bde47d6666c8ac376916e9882a2d5d"

func cosignKey(t testing.TB) *signing.PublicKey {
	t.Helper()
	k, err := signing.ParsePublicKey(file(t, "cosign.pub"))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestPublicKey(t *testing.T) {
	k := cosignKey(t)
	if k.Kid() != cosignKid {
		t.Errorf("Kid = %s, want %s", k.Kid(), cosignKid)
	}
	if string(k.PEM()) != string(file(t, "cosign.pub")) {
		t.Errorf("PEM = %s", k.PEM())
	}
}

func pemOf(t *testing.T, key any) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func otherKinds(t *testing.T) map[string][]byte {
	t.Helper()
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string][]byte{
		"P-384": pemOf(t, p384.Public()), "P-224": pemOf(t, p224.Public()),
		"Ed25519": pemOf(t, ed), "RSA": pemOf(t, rsaKey.Public()),
	}
}

func TestPublicKeyOfOtherKinds(t *testing.T) {
	for name, data := range otherKinds(t) {
		k, err := signing.ParsePublicKey(data)
		if reason.Of(err) != reason.Format || !strings.Contains(err.Error(), "want") {
			t.Errorf("%s: %v, %v (%s), want reason format", name, k, err, reason.Of(err))
		}
	}
}

// All of these hold the same key as testdata/cosign.pub, or nearly.
func TestPublicKeyHasOneSpelling(t *testing.T) {
	good := string(file(t, "cosign.pub"))
	block, _ := pem.Decode([]byte(good))
	point := block.Bytes[len(block.Bytes)-65:]
	compressed := append([]byte{2 + point[64]&1}, point[1:33]...)
	spki := bytes.Clone(block.Bytes[:len(block.Bytes)-65])
	spki[1], spki[len(spki)-2] = spki[1]-32, spki[len(spki)-2]-32 // the lengths around the point
	offCurve := bytes.Clone(block.Bytes)
	offCurve[len(offCurve)-1] ^= 1
	longLength := append([]byte{0x30, 0x81}, block.Bytes[1:]...)
	encode := func(b pem.Block) string { return string(pem.EncodeToMemory(&b)) }
	body := strings.Split(good, "\n")
	for _, test := range []struct{ name, data, want string }{
		{"empty", "", "PEM decoding failed"},
		{"not PEM", "hello", "PEM decoding failed"},
		{"DER", string(block.Bytes), "PEM decoding failed"},
		{"private key", encode(pem.Block{Type: "PRIVATE KEY", Bytes: block.Bytes}), "file type: PRIVATE KEY"},
		{"certificate", encode(pem.Block{Type: "CERTIFICATE", Bytes: block.Bytes}), "file type: CERTIFICATE"},
		{"empty block", encode(pem.Block{Type: "PUBLIC KEY"}), "public key: "},
		{"cut", encode(pem.Block{Type: "PUBLIC KEY", Bytes: block.Bytes[:90]}), "public key: "},
		{"bytes behind the DER", encode(pem.Block{Type: "PUBLIC KEY", Bytes: append(bytes.Clone(block.Bytes), 0)}), "public key: "},
		{"length in BER", encode(pem.Block{Type: "PUBLIC KEY", Bytes: longLength}), "public key: "},
		{"compressed point", encode(pem.Block{Type: "PUBLIC KEY", Bytes: append(spki, compressed...)}), "public key: "},
		{"point not on the curve", encode(pem.Block{Type: "PUBLIC KEY", Bytes: offCurve}), "public key: "},
		{"headers", encode(pem.Block{Type: "PUBLIC KEY", Headers: map[string]string{"A": "b"}, Bytes: block.Bytes}), "not spelled"},
		{"line ends of DOS", strings.ReplaceAll(good, "\n", "\r\n"), "not spelled"},
		{"no newline at the end", strings.TrimSuffix(good, "\n"), "not spelled"},
		{"two newlines at the end", good + "\n", "not spelled"},
		{"newline in front", "\n" + good, "not spelled"},
		{"text in front", "key of alice\n" + good, "not spelled"},
		{"text behind", good + "x\n", "not spelled"},
		{"twice", good + good, "not spelled"},
		{"one long line", body[0] + "\n" + body[1] + body[2] + "\n" + body[3] + "\n", "not spelled"},
		{"short lines", body[0] + "\n" + body[1][:32] + "\n" + body[1][32:] + "\n" + body[2] + "\n" + body[3] + "\n", "not spelled"},
		{"space behind a line", strings.Replace(good, "\n", " \n", 1), "not spelled"},
	} {
		k, err := signing.ParsePublicKey([]byte(test.data))
		if reason.Of(err) != reason.Format || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, error %v (%s), want reason format with %q", test.name, k, err, reason.Of(err), test.want)
		}
	}
}
