package signing_test

import (
	"bytes"
	"encoding/base64"
	"strings"
	"testing"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/signing"
)

// Recorded with cosign v3.1.3:
//
//	cosign generate-key-pair
//	cosign sign-blob --key cosign.key --use-signing-config=false --tlog-upload=false --bundle hello.txt.sigstore.json hello.txt
func TestVerifiesCosign(t *testing.T) {
	k, doc, bundle := cosignKey(t), file(t, "hello.txt"), file(t, "hello.txt.sigstore.json")
	if err := signing.VerifyBundle(k, doc, bundle); err != nil {
		t.Fatal(err)
	}
	err := signing.VerifyBundle(k, append(doc, '\n'), bundle)
	if reason.Of(err) != reason.Signature {
		t.Errorf("changed document: %v (%s), want reason signature", err, reason.Of(err))
	}
}

// cosign v3.1.3 was seen to verify these bytes with
//
//	cosign verify-blob --key cosign.pub --bundle BUNDLE --insecure-ignore-tlog=true hello.txt
func TestNewBundleGolden(t *testing.T) {
	k, doc := cosignKey(t), file(t, "hello.txt")
	_, sig, err := signing.ParseBundle(file(t, "hello.txt.sigstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := signing.NewBundle(k, doc, sig)
	if err != nil {
		t.Fatal(err)
	}
	if want := file(t, "bundle.json"); !bytes.Equal(got, want) {
		t.Errorf("NewBundle:\n%s\nwant:\n%s", got, want)
	}
}

// What is offered is refused for the reason that it names, or accepted.
func TestVerifyBundle(t *testing.T) {
	k := cosignKey(t)
	names := map[string]bool{}
	for _, o := range offers(t) {
		t.Run(o.name, func(t *testing.T) {
			check(t, signing.VerifyBundle(k, o.doc, o.bundle), o.reason, o.want)
		})
		if names[o.name] {
			t.Errorf("two cases have the name %q", o.name)
		}
		names[o.name] = true
	}
}

func check(t *testing.T, err error, code reason.Code, want string) {
	t.Helper()
	if reason.Of(err) != code || (err != nil && !strings.Contains(err.Error(), want)) {
		t.Errorf("error is %v (%s), want reason %s with %q", err, reason.Of(err), code, want)
	}
}

// No bit of document, digest or signature is free.
func TestBitFlips(t *testing.T) {
	k, doc, golden := cosignKey(t), file(t, "hello.txt"), file(t, "bundle.json")
	digest, sig, err := signing.ParseBundle(golden)
	if err != nil {
		t.Fatal(err)
	}
	flips(doc, func(b []byte, at int) {
		if err := signing.VerifyBundle(k, b, golden); reason.Of(err) != reason.Signature {
			t.Errorf("document, bit %d: %v (%s)", at, err, reason.Of(err))
		}
	})
	flips(digest, func(b []byte, at int) {
		data := bytes.Replace(golden, []byte(base64.StdEncoding.EncodeToString(digest)), []byte(base64.StdEncoding.EncodeToString(b)), 1)
		if err := signing.VerifyBundle(k, doc, data); reason.Of(err) != reason.Signature {
			t.Errorf("digest, bit %d: %v (%s)", at, err, reason.Of(err))
		}
	})
	flips(sig, func(b []byte, at int) {
		data := bytes.Replace(golden, []byte(base64.StdEncoding.EncodeToString(sig)), []byte(base64.StdEncoding.EncodeToString(b)), 1)
		if r := reason.Of(signing.VerifyBundle(k, doc, data)); r != reason.Signature && r != reason.Format {
			t.Errorf("signature, bit %d: reason %s", at, r)
		}
	})
	// Of the bundle's text only the hint is free, and white space.
	hint := bytes.Index(golden, []byte(`"hint": "`)) + len(`"hint": "`)
	flips(golden, func(b []byte, at int) {
		if i := at / 8; i >= hint && i < hint+44 || len(bytes.TrimSpace(golden[i:i+1])) == 0 {
			return
		}
		if r := reason.Of(signing.VerifyBundle(k, doc, b)); r != reason.Signature && r != reason.Format {
			t.Errorf("bundle, bit %d of %q: reason %s", at, golden[at/8], r)
		}
	})
}

func flips(data []byte, try func(flipped []byte, bit int)) {
	for bit := range 8 * len(data) {
		b := bytes.Clone(data)
		b[bit/8] ^= 1 << (bit % 8)
		try(b, bit)
	}
}

func TestVerifyBundleWithoutAKey(t *testing.T) {
	doc, bundle := file(t, "hello.txt"), file(t, "bundle.json")
	for name, k := range map[string]*signing.PublicKey{"nil": nil, "zero": {}} {
		if err := signing.VerifyBundle(k, doc, bundle); reason.Of(err) != reason.Signature {
			t.Errorf("%s key: %v (%s), want reason signature", name, err, reason.Of(err))
		}
	}
}

func TestVerifyBundleOfAnotherKey(t *testing.T) {
	two := newKeys(t, 2)
	doc := []byte("document\n")
	check(t, signing.VerifyBundle(two[0].Public(), doc, sign(t, two[0], doc)), reason.Current, "")
	check(t, signing.VerifyBundle(two[1].Public(), doc, sign(t, two[0], doc)), reason.Signature, "is not by this key")
	check(t, signing.VerifyBundle(two[0].Public(), doc, sign(t, two[0], []byte("other\n"))), reason.Signature, "over another document")
}

func TestEmptyDocument(t *testing.T) {
	k := newKeys(t, 1)[0]
	if err := signing.VerifyBundle(k.Public(), nil, sign(t, k, nil)); err != nil {
		t.Error(err)
	}
}

func TestSignatureFile(t *testing.T) {
	if got, want := signing.SignatureFile("channels/b.json", cosignKid), "channels/b.json.51d816633abdd5fa.sigstore.json"; got != want {
		t.Errorf("SignatureFile = %q, want %q", got, want)
	}
}
