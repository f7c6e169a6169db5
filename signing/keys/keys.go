// Package keys holds private keys: it makes them, keeps them encrypted, and signs. Only
// builders import it; nothing that runs on a node does.
//
// # Parties
//
// A key belongs to one party (see package signing): root holders keep theirs offline,
// a builder has a release key and, for the tiers it advances by itself, a channel key,
// a promoter has a channel key. Who reads the file and knows its passphrase is that
// party; who only reads the file must guess the passphrase, at 0.1 to 0.2 s and 64 MiB
// a guess.
//
// # Files
//
// The private key is written in cosign's form, so that cosign can sign with a key made
// here, and a key made by `cosign generate-key-pair` or `cosign import-key-pair` can be
// used here:
//
//	-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----
//	eyJrZGYiOnsibmFtZSI6InNjcnlwdCIsInBhcmFtcyI6eyJOIjo2NTUzNiwiciI6…
//	-----END ENCRYPTED SIGSTORE PRIVATE KEY-----
//
// ("ENCRYPTED COSIGN PRIVATE KEY", the older name of the same, is read as well.) The
// block holds JSON:
//
//	{"kdf":{"name":"scrypt","params":{"N":65536,"r":8,"p":1},"salt":"<32 bytes>"},
//	 "cipher":{"name":"nacl/secretbox","nonce":"<24 bytes>"},
//	 "ciphertext":"<sealed>"}
//
// with bytes in base64. The key of the secretbox is scrypt(passphrase, salt), the
// sealed text is the PKCS #8 DER of an ECDSA P-256 key. N may also be 32768 or 131072;
// other parameters are refused, so that a file cannot ask for hours or gigabytes.
//
// The public key is a PEM file as described in package signing.
//
// # What it does not protect from
//
// An empty passphrase is a passphrase: it keeps nobody out, and whether it is accepted
// is for the program to decide. While a program runs, the key is in its memory.
package keys

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/signing"
)

// ErrPassphrase is matched by the error of Load for a passphrase that does not open the
// key.
var ErrPassphrase = errors.New("wrong passphrase, or a damaged file")

const (
	pemSigstore = string(cryptoutils.EncryptedSigstorePrivateKeyPEMType)
	pemCosign   = "ENCRYPTED COSIGN PRIVATE KEY"
	maxFile     = 16 << 10
)

// Signer is a private key in memory.
type Signer struct {
	key    *ecdsa.PrivateKey
	public *signing.PublicKey
}

// New makes a key that exists in memory only.
func New() (*Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key: %w", err)
	}
	return newSigner(key)
}

func newSigner(key *ecdsa.PrivateKey) (*Signer, error) {
	text, err := cryptoutils.MarshalPublicKeyToPEM(key.Public())
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	public, err := signing.ParsePublicKey(text)
	if err != nil {
		return nil, fmt.Errorf("private key: %w", err)
	}
	return &Signer{key: key, public: public}, nil
}

// Generate makes a key pair as two PEM files, the private one sealed with pass.
func Generate(pass []byte) (privatePEM, publicPEM []byte, err error) {
	s, err := New()
	if err != nil {
		return nil, nil, err
	}
	privatePEM, err = s.Seal(pass)
	return privatePEM, []byte(s.public.PEM()), err
}

// Seal returns the private key as a PEM file sealed with pass.
func (s *Signer) Seal(pass []byte) ([]byte, error) {
	sealed, err := cryptoutils.MarshalPrivateKeyToEncryptedDER(s.key, passphrase(pass))
	if err != nil {
		return nil, fmt.Errorf("seal private key: %w", err)
	}
	return cryptoutils.PEMEncode(cryptoutils.EncryptedSigstorePrivateKeyPEMType, sealed), nil
}

// passphrase hands out pass. None is the empty passphrase: to cryptoutils it would mean
// a key that is not sealed at all.
func passphrase(pass []byte) cryptoutils.PassFunc {
	if pass == nil {
		pass = []byte{}
	}
	return func(bool) ([]byte, error) { return pass, nil }
}

// Load opens a sealed private key. Every error has the reason "config"; the one for a
// passphrase that does not fit matches ErrPassphrase. No error holds a secret.
func Load(privatePEM, pass []byte) (*Signer, error) {
	if err := checkFile(privatePEM); err != nil {
		return nil, reason.Errorf(reason.Config, "private key: %w", err)
	}
	parsed, err := cryptoutils.UnmarshalPEMToPrivateKey(privatePEM, passphrase(pass))
	if err != nil {
		if strings.Contains(err.Error(), "decryption failed") { // the one word for it that the library has
			err = ErrPassphrase
		}
		return nil, reason.Errorf(reason.Config, "private key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, reason.Errorf(reason.Config, "private key: %T is not an ECDSA key on P-256; builder keygen makes one", parsed)
	}
	s, err := newSigner(key)
	return s, reason.Wrap(reason.Config, err)
}

// checkFile refuses what is not one sealed key: cryptoutils would read keys in the open.
func checkFile(privatePEM []byte) error {
	if len(privatePEM) > maxFile {
		return fmt.Errorf("file is longer than %d bytes", maxFile)
	}
	block, _ := pem.Decode(privatePEM)
	switch {
	case block == nil:
		return errors.New("no PEM block in the file")
	case block.Type == pemSigstore || block.Type == pemCosign:
		return nil
	default:
		return fmt.Errorf("PEM block is %q, want %q; cosign import-key-pair converts keys of other kinds", block.Type, pemSigstore)
	}
}

// Public returns the public half.
func (s *Signer) Public() *signing.PublicKey { return s.public }

// Sign returns the Sigstore bundle with a signature over doc. It is another one each
// time: a publish that is run again finds a signature and verifies that one.
func (s *Signer) Sign(doc []byte) ([]byte, error) {
	signer, err := signature.LoadECDSASigner(s.key, crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("sign with key %.16s: %w", s.public.Kid(), err)
	}
	sig, err := signer.SignMessage(bytes.NewReader(doc))
	if err != nil {
		return nil, fmt.Errorf("sign with key %.16s: %w", s.public.Kid(), err)
	}
	bundle, err := signing.NewBundle(s.public, doc, sig)
	if err != nil {
		return nil, fmt.Errorf("sign with key %.16s: %w", s.public.Kid(), err)
	}
	// A signature that came out wrong, through a fault of the machine, can give the key
	// away: it must not leave this function.
	if err := signing.VerifyBundle(s.public, doc, bundle); err != nil {
		return nil, fmt.Errorf("sign with key %.16s: %w", s.public.Kid(), err)
	}
	return bundle, nil
}
