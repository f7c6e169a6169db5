package signing

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sigstore/sigstore/pkg/signature"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
)

const (
	mediaType       = "application/vnd.dev.sigstore.bundle.v0.3+json"
	digestAlgorithm = "SHA2_256"
)

// VerifyBundle reports whether bundle holds a signature by k over exactly the bytes of
// doc. The reasons of its errors: "limit" for a bundle that is too long, "format" for
// one that is malformed, "signature" for one that is by another key or over something
// else.
func VerifyBundle(k *PublicKey, doc, bundle []byte) error {
	if k == nil || k.key == nil {
		return reason.Errorf(reason.Signature, "no key to verify with")
	}
	if len(bundle) > layout.MaxSignature {
		return reason.Errorf(reason.Limit, "signature is longer than %d bytes", layout.MaxSignature)
	}
	m, err := parseBundle(bundle)
	if err != nil {
		return reason.Errorf(reason.Format, "malformed signature: %w", err)
	}
	sum := sha256.Sum256(doc)
	if !bytes.Equal(m.digest, sum[:]) {
		return reason.Errorf(reason.Signature, "signature is over another document: digest %x, want %x", m.digest, sum)
	}
	// The verifier takes other encodings of a signature too; parseBundle has refused
	// them.
	v, err := signature.LoadECDSAVerifier(k.key, crypto.SHA256)
	if err != nil {
		return reason.Errorf(reason.Signature, "key: %w", err)
	}
	if err := v.VerifySignature(bytes.NewReader(m.signature), bytes.NewReader(doc)); err != nil {
		return reason.Errorf(reason.Signature, "signature is not by this key")
	}
	return nil
}

// NewBundle returns the Sigstore bundle for the DER signature by k over doc. It does
// not verify the signature.
func NewBundle(k *PublicKey, doc, signature []byte) ([]byte, error) {
	hint, err := hex.DecodeString(k.kid)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(doc)
	var b bundleDoc
	b.MediaType = mediaType
	b.VerificationMaterial.PublicKey.Hint = base64.StdEncoding.EncodeToString(hint)
	b.MessageSignature.MessageDigest.Algorithm = digestAlgorithm
	b.MessageSignature.MessageDigest.Digest = base64.StdEncoding.EncodeToString(sum[:])
	b.MessageSignature.Signature = base64.StdEncoding.EncodeToString(signature)
	return canon.Encode(&b)
}

// bundleDoc is what is written. Reading goes field by field instead, because
// encoding/json would take keys in any case, twice, and null.
type bundleDoc struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint string `json:"hint"`
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	MessageSignature struct {
		MessageDigest struct {
			Algorithm string `json:"algorithm"`
			Digest    string `json:"digest"`
		} `json:"messageDigest"`
		Signature string `json:"signature"`
	} `json:"messageSignature"`
}

type message struct{ digest, signature []byte }

func parseBundle(data []byte) (message, error) {
	var m message
	if !utf8.Valid(data) || !json.Valid(data) {
		return m, errors.New("bundle is not one JSON document in UTF-8")
	}
	top, err := object("bundle", data, fields{"mediaType", "verificationMaterial", "messageSignature"}, nil)
	if err != nil {
		return m, err
	}
	if err := exactly("mediaType", top["mediaType"], mediaType); err != nil {
		return m, err
	}
	if err := checkMaterial(top["verificationMaterial"]); err != nil {
		return m, err
	}
	sig, err := object("messageSignature", top["messageSignature"], fields{"messageDigest", "signature"}, nil)
	if err != nil {
		return m, err
	}
	if m.digest, err = parseDigest(sig["messageDigest"]); err != nil {
		return m, err
	}
	if m.signature, err = base64Text("signature", sig["signature"]); err != nil {
		return m, err
	}
	return m, checkDER(m.signature)
}

// checkMaterial accepts the public key's hint and refuses all that would need a
// certificate, a log or a clock to verify.
func checkMaterial(data json.RawMessage) error {
	f, err := object("verificationMaterial", data, fields{"publicKey"}, fields{"tlogEntries", "timestampVerificationData"})
	if err != nil {
		return err
	}
	key, err := object("publicKey", f["publicKey"], nil, fields{"hint"})
	if err != nil {
		return err
	}
	if hint, ok := key["hint"]; ok {
		if _, err := text("hint", hint); err != nil {
			return err
		}
	}
	if err := checkEmpty("tlogEntries", f["tlogEntries"]); err != nil {
		return err
	}
	if stamps, ok := f["timestampVerificationData"]; ok {
		f, err := object("timestampVerificationData", stamps, nil, fields{"rfc3161Timestamps"})
		if err != nil {
			return err
		}
		return checkEmpty("rfc3161Timestamps", f["rfc3161Timestamps"])
	}
	return nil
}

func checkEmpty(name string, list json.RawMessage) error {
	if list == nil {
		return nil
	}
	var items []json.RawMessage
	if err := json.Unmarshal(list, &items); err != nil || len(items) > 0 {
		return fmt.Errorf("%s is not an empty list: sign without a transparency log and without timestamps", name)
	}
	return nil
}

func parseDigest(data json.RawMessage) ([]byte, error) {
	f, err := object("messageDigest", data, fields{"algorithm", "digest"}, nil)
	if err != nil {
		return nil, err
	}
	if err := exactly("algorithm", f["algorithm"], digestAlgorithm); err != nil {
		return nil, err
	}
	return base64Text("digest", f["digest"])
}

type fields []string

// object splits valid JSON that is an object with all of the required fields, perhaps
// with optional ones, each once, none of them null, and no others.
func object(name string, data []byte, required, optional fields) (map[string]json.RawMessage, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, fmt.Errorf("%s is not an object", name)
	}
	known := slices.Concat(required, optional)
	found := map[string]json.RawMessage{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		key, _ := t.(string)
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("%s: field %q is not one of %s", name, key, strings.Join(known, ", "))
		}
		if _, ok := found[key]; ok {
			return nil, fmt.Errorf("%s: field %q is there twice", name, key)
		}
		var value json.RawMessage
		if err := dec.Decode(&value); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if string(value) == "null" {
			return nil, fmt.Errorf("%s: field %q is null", name, key)
		}
		found[key] = value
	}
	for _, f := range required {
		if _, ok := found[f]; !ok {
			return nil, fmt.Errorf("%s: field %q is missing", name, f)
		}
	}
	return found, nil
}

func exactly(name string, data json.RawMessage, want string) error {
	s, err := text(name, data)
	if err == nil && s != want {
		err = fmt.Errorf("%s is %q, want %q", name, s, want)
	}
	return err
}

func text(name string, data json.RawMessage) (string, error) {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return "", fmt.Errorf("%s is not a string", name)
	}
	return s, nil
}

// base64Text reads standard base64. It compares with what the bytes encode to, because
// the decoder skips newlines and, unless told, ignores stray bits before the padding.
func base64Text(name string, data json.RawMessage) ([]byte, error) {
	s, err := text(name, data)
	if err != nil {
		return nil, err
	}
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || base64.StdEncoding.EncodeToString(b) != s {
		return nil, fmt.Errorf("%s is not standard base64 with padding", name)
	}
	return b, nil
}

// checkDER accepts the one DER encoding of two integers from 1 to the order of P-256.
func checkDER(sig []byte) error {
	var v struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(sig, &v); err != nil {
		return fmt.Errorf("signature is not DER: %w", err)
	}
	if again, err := asn1.Marshal(v); err != nil || !bytes.Equal(again, sig) {
		return errors.New("signature is not DER: bytes left over or another encoding")
	}
	order := elliptic.P256().Params().N
	for _, n := range []*big.Int{v.R, v.S} {
		if n.Sign() < 1 || n.Cmp(order) >= 0 {
			return errors.New("signature holds a number outside of 1 to n-1")
		}
	}
	return nil
}
