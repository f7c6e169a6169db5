package signing_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// What parses prints back the same bytes, and every role of it can be asked for.
func FuzzTrust(f *testing.F) {
	f.Add(file(f, "trust.json"))
	small := goldenTrust(f)
	delete(small.Roles, "channel:b")
	delete(small.Keys, kidTierB)
	small.Revoked = nil
	data, err := small.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, err := signing.ParseTrust(data)
		if err != nil {
			if r := reason.Of(err); r != reason.Format && r != reason.Limit {
				t.Fatalf("reason is %s: %v", r, err)
			}
			return
		}
		again, err := tr.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("encodes to %q, %v, want %q", again, err, data)
		}
		for name := range tr.Roles {
			if n := len(tr.Kids(name)); n < 1 || n > layout.MaxSignatures {
				t.Fatalf("role %q has %d keys", name, n)
			}
			if err := tr.Verify(name, signing.Signed{Doc: data}); reason.Of(err) != reason.Signature {
				t.Fatalf("role %q without signatures: %v", name, err)
			}
		}
	})
}

// What is read prints back what is read again; what verifies is over this document by
// this key, as the standard library alone says, and over no other.
func FuzzBundle(f *testing.F) {
	k, doc := cosignKey(f), file(f, "hello.txt")
	block, _ := pem.Decode(file(f, "cosign.pub"))
	parsed, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	sum := sha256.Sum256(doc)
	f.Add(file(f, "bundle.json"))
	f.Add(file(f, "hello.txt.sigstore.json"))
	f.Fuzz(func(t *testing.T, data []byte) {
		verr := signing.VerifyBundle(k, doc, data)
		digest, sig, err := signing.ParseBundle(data)
		if len(data) > layout.MaxSignature {
			if reason.Of(verr) != reason.Limit {
				t.Fatalf("too long: %v", verr)
			}
			return
		}
		if err != nil {
			if reason.Of(verr) != reason.Format {
				t.Fatalf("malformed: %v (%s)", verr, reason.Of(verr))
			}
			return
		}
		good := bytes.Equal(digest, sum[:]) && ecdsa.VerifyASN1(parsed.(*ecdsa.PublicKey), sum[:], sig)
		if good != (verr == nil) || (verr != nil && reason.Of(verr) != reason.Signature) {
			t.Fatalf("standard library says %v, VerifyBundle says %v", good, verr)
		}
		again, err := signing.NewBundle(k, doc, sig)
		if err != nil {
			t.Fatal(err)
		}
		digest2, sig2, err := signing.ParseBundle(again)
		if err != nil || !bytes.Equal(sig2, sig) || !bytes.Equal(digest2, sum[:]) {
			t.Fatalf("printed again: %v\n%s", err, again)
		}
		if signing.VerifyBundle(k, append([]byte("x"), doc...), data) == nil {
			t.Fatal("verifies over another document")
		}
	})
}
