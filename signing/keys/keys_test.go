package keys_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// cosign.key was made by `cosign generate-key-pair` of v3.1.3 with this passphrase. It
// protects nothing.
const pass = "test"

func file(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestLoadsCosign(t *testing.T) {
	data := file(t, "testdata/cosign.key")
	for name, data := range map[string][]byte{
		"as written":     data,
		"the older name": bytes.ReplaceAll(data, []byte("SIGSTORE"), []byte("COSIGN")),
	} {
		s, err := keys.Load(data, []byte(pass))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, want := string(s.Public().PEM()), string(file(t, "../testdata/cosign.pub")); got != want {
			t.Errorf("%s: public key is\n%s\nwant\n%s", name, got, want)
		}
		if err := signing.VerifyBundle(s.Public(), []byte("doc"), sign(t, s, []byte("doc"))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func sign(t *testing.T, s *keys.Signer, doc []byte) []byte {
	t.Helper()
	bundle, err := s.Sign(doc)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func TestGenerate(t *testing.T) {
	private, public, err := keys.Generate([]byte(pass))
	if err != nil {
		t.Fatal(err)
	}
	s, err := keys.Load(private, []byte(pass))
	if err != nil {
		t.Fatal(err)
	}
	if string(s.Public().PEM()) != string(public) {
		t.Errorf("public key is\n%s\nwant\n%s", public, s.Public().PEM())
	}
	if _, err := signing.ParsePublicKey(public); err != nil {
		t.Error(err)
	}
	_, err = keys.Load(private, []byte("Test"))
	if !errors.Is(err, keys.ErrPassphrase) || reason.Of(err) != reason.Config {
		t.Errorf("wrong passphrase: %v (%s), want ErrPassphrase with reason config", err, reason.Of(err))
	}
	_, err = keys.Load(private, nil)
	if !errors.Is(err, keys.ErrPassphrase) {
		t.Errorf("no passphrase: %v, want ErrPassphrase", err)
	}
}

// What cosign's own library wrote, seen field by field, is what is written here.
func TestSealedForm(t *testing.T) {
	s, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	data, err := s.Seal([]byte(pass))
	if err != nil {
		t.Fatal(err)
	}
	ours, theirs := unpack(t, data), unpack(t, file(t, "testdata/cosign.key"))
	if len(ours.KDF.Salt) != len(theirs.KDF.Salt) || len(ours.Cipher.Nonce) != len(theirs.Cipher.Nonce) {
		t.Errorf("salt %d, nonce %d bytes, want %d and %d", len(ours.KDF.Salt), len(ours.Cipher.Nonce), len(theirs.KDF.Salt), len(theirs.Cipher.Nonce))
	}
	if len(ours.Ciphertext) != len(theirs.Ciphertext) {
		t.Errorf("ciphertext has %d bytes, want %d", len(ours.Ciphertext), len(theirs.Ciphertext))
	}
	if bytes.Equal(ours.KDF.Salt, theirs.KDF.Salt) || bytes.Equal(ours.Cipher.Nonce, theirs.Cipher.Nonce) {
		t.Error("salt or nonce is the same in two files")
	}
	theirs.KDF.Salt, theirs.Cipher.Nonce, theirs.Ciphertext = ours.KDF.Salt, ours.Cipher.Nonce, ours.Ciphertext
	want, err := json.Marshal(theirs)
	if err != nil {
		t.Fatal(err)
	}
	if block, _ := pem.Decode(data); !bytes.Equal(block.Bytes, want) || block.Type != "ENCRYPTED SIGSTORE PRIVATE KEY" {
		t.Errorf("sealed as %s, want %s", block.Bytes, want)
	}
}

type sealed struct {
	KDF struct {
		Name   string `json:"name"`
		Params struct {
			N int `json:"N"`
			R int `json:"r"`
			P int `json:"p"`
		} `json:"params"`
		Salt []byte `json:"salt"`
	} `json:"kdf"`
	Cipher struct {
		Name  string `json:"name"`
		Nonce []byte `json:"nonce"`
	} `json:"cipher"`
	Ciphertext []byte `json:"ciphertext"`
}

func unpack(t *testing.T, data []byte) sealed {
	t.Helper()
	block, _ := pem.Decode(data)
	var v sealed
	if err := json.Unmarshal(block.Bytes, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

func pack(t *testing.T, v sealed) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED SIGSTORE PRIVATE KEY", Bytes: data})
}

// Each case is cosign's file with one thing changed.
func TestLoadRefuses(t *testing.T) {
	for _, test := range []struct {
		name   string
		change func(*sealed)
		want   string
	}{
		{"other KDF", func(s *sealed) { s.KDF.Name = "argon2" }, `unknown kdf name "argon2"`},
		{"other cipher", func(s *sealed) { s.Cipher.Name = "none" }, `unknown cipher name "none"`},
		{"N for ages", func(s *sealed) { s.KDF.Params.N = 1 << 30 }, "scrypt parameters"},
		{"N 1", func(s *sealed) { s.KDF.Params.N = 1 }, "scrypt parameters"},
		{"r for gigabytes", func(s *sealed) { s.KDF.Params.R = 1 << 20 }, "scrypt parameters"},
		{"p 0", func(s *sealed) { s.KDF.Params.P = 0 }, "scrypt parameters"},
		{"N of another key", func(s *sealed) { s.KDF.Params.N = 1 << 15 }, keys.ErrPassphrase.Error()},
		{"short nonce", func(s *sealed) { s.Cipher.Nonce = s.Cipher.Nonce[1:] }, "incorrect nonce size"},
		{"no nonce", func(s *sealed) { s.Cipher.Nonce = nil }, "incorrect nonce size"},
		{"other salt", func(s *sealed) { s.KDF.Salt[0] ^= 1 }, keys.ErrPassphrase.Error()},
		{"ciphertext changed", func(s *sealed) { s.Ciphertext[20] ^= 1 }, keys.ErrPassphrase.Error()},
		{"ciphertext cut", func(s *sealed) { s.Ciphertext = s.Ciphertext[:10] }, keys.ErrPassphrase.Error()},
		{"no ciphertext", func(s *sealed) { s.Ciphertext = nil }, keys.ErrPassphrase.Error()},
	} {
		t.Run(test.name, func(t *testing.T) {
			v := unpack(t, file(t, "testdata/cosign.key"))
			test.change(&v)
			refuse(t, pack(t, v), test.want)
		})
	}
}

func refuse(t *testing.T, data []byte, want string) {
	t.Helper()
	s, err := keys.Load(data, []byte(pass))
	if s != nil || reason.Of(err) != reason.Config || !strings.Contains(err.Error(), want) {
		t.Errorf("Load: %v, error %v (%s), want reason config with %q", s, err, reason.Of(err), want)
	}
}

func TestLoadRefusesOtherFiles(t *testing.T) {
	plain, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(plain)
	if err != nil {
		t.Fatal(err)
	}
	encode := func(kind string, b []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b}))
	}
	for _, test := range []struct{ name, data, want string }{
		{"empty", "", "no PEM block"},
		{"not PEM", "hello", "no PEM block"},
		{"public key", string(file(t, "../testdata/cosign.pub")), `PEM block is "PUBLIC KEY"`},
		{"not encrypted", encode("PRIVATE KEY", der), "cosign import-key-pair"},
		{"key of openssl", encode("ENCRYPTED PRIVATE KEY", der), "cosign import-key-pair"},
		{"not JSON", encode("ENCRYPTED SIGSTORE PRIVATE KEY", der), "invalid character"},
		{"null", encode("ENCRYPTED SIGSTORE PRIVATE KEY", []byte("null")), `unknown kdf name ""`},
		{"enormous", strings.Repeat("\n", 1<<20) + string(file(t, "testdata/cosign.key")), "longer than"},
	} {
		t.Run(test.name, func(t *testing.T) { refuse(t, []byte(test.data), test.want) })
	}
}

// Well sealed, but not a key that counts here.
func TestLoadRefusesOtherKeys(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]any{"P-384": p384, "Ed25519": ed, "RSA": rsaKey} {
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) { refuse(t, reseal(t, der), "is not an ECDSA key on P-256") })
	}
	t.Run("not a key", func(t *testing.T) { refuse(t, reseal(t, []byte("hello")), "asn1: structure error") })
}

// reseal puts another plain text into cosign's file.
func reseal(t *testing.T, plain []byte) []byte {
	t.Helper()
	v := unpack(t, file(t, "testdata/cosign.key"))
	v.KDF.Params.N = 1 << 15
	key, err := scrypt.Key([]byte(pass), v.KDF.Salt, v.KDF.Params.N, v.KDF.Params.R, v.KDF.Params.P, 32)
	if err != nil {
		t.Fatal(err)
	}
	v.Ciphertext = secretbox.Seal(nil, plain, (*[24]byte)(v.Cipher.Nonce), (*[32]byte)(key))
	return pack(t, v)
}

func TestErrorsHoldNoSecrets(t *testing.T) {
	v := unpack(t, file(t, "testdata/cosign.key"))
	secret := "correct horse battery staple"
	damaged := v
	damaged.Ciphertext = append(bytes.Clone(v.Ciphertext), 0)
	for _, data := range [][]byte{file(t, "testdata/cosign.key"), pack(t, damaged), reseal(t, []byte(secret)), []byte(secret)} {
		_, err := keys.Load(data, []byte(secret))
		if err == nil {
			t.Fatal("loaded with a wrong passphrase")
		}
		for _, s := range []string{secret, base64.StdEncoding.EncodeToString(v.Ciphertext)[:8], "correct"} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("error holds %q: %v", s, err)
			}
		}
	}
}
