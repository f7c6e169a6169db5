package signing

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"

	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

// PublicKey is an ECDSA P-256 key. The zero value verifies nothing.
type PublicKey struct {
	key *ecdsa.PublicKey
	kid string
	pem canon.PEM
}

// ParsePublicKey reads a public key in its one spelling. Errors have the reason
// "format".
func ParsePublicKey(data []byte) (*PublicKey, error) {
	parsed, err := cryptoutils.UnmarshalPEMToPublicKey(data)
	if err != nil {
		return nil, reason.Errorf(reason.Format, "public key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PublicKey)
	if !ok {
		return nil, reason.Errorf(reason.Format, "public key: type is %T, want ECDSA P-256", parsed)
	}
	if key.Curve != elliptic.P256() {
		return nil, reason.Errorf(reason.Format, "public key: curve is %s, want P-256", key.Params().Name)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, reason.Errorf(reason.Format, "public key: %w", err)
	}
	text := cryptoutils.PEMEncode(cryptoutils.PublicKeyPEMType, der)
	if !bytes.Equal(text, data) {
		return nil, reason.Errorf(reason.Format, "public key: PEM is not spelled as openssl and cosign write it "+
			"(lines of 64 characters, one newline after each, nothing around the block)")
	}
	kid := sha256.Sum256(der)
	return &PublicKey{key: key, kid: hex.EncodeToString(kid[:]), pem: canon.PEM(text)}, nil
}

// Kid returns the id of the key, 64 hex digits.
func (k *PublicKey) Kid() string { return k.kid }

// PEM returns the one spelling of the key.
func (k *PublicKey) PEM() canon.PEM { return k.pem }
