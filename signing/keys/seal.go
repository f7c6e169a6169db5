package keys

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"

	"golang.org/x/crypto/nacl/secretbox"
	"golang.org/x/crypto/scrypt"
)

const (
	kdfName    = "scrypt"
	cipherName = "nacl/secretbox"
	saltSize   = 32
)

type sealed struct {
	KDF        kdf    `json:"kdf"`
	Cipher     cipher `json:"cipher"`
	Ciphertext []byte `json:"ciphertext"`
}

type kdf struct {
	Name   string `json:"name"`
	Params params `json:"params"`
	Salt   []byte `json:"salt"`
}

type params struct {
	N int `json:"N"`
	R int `json:"r"`
	P int `json:"p"`
}

type cipher struct {
	Name  string `json:"name"`
	Nonce []byte `json:"nonce"`
}

// known reports whether cosign or a library it used has ever written p.
func (p params) known() bool {
	return p.R == 8 && p.P == 1 && (p.N == 1<<15 || p.N == 1<<16 || p.N == 1<<17)
}

func seal(plain, pass []byte) ([]byte, error) {
	var nonce [24]byte
	salt := make([]byte, saltSize)
	rand.Read(nonce[:])
	rand.Read(salt)
	box := sealed{
		KDF:    kdf{Name: kdfName, Params: params{N: 1 << 16, R: 8, P: 1}, Salt: salt},
		Cipher: cipher{Name: cipherName, Nonce: nonce[:]},
	}
	key, err := box.KDF.key(pass)
	if err != nil {
		return nil, err
	}
	box.Ciphertext = secretbox.Seal(nil, plain, &nonce, key)
	return json.Marshal(box)
}

func open(data, pass []byte) ([]byte, error) {
	var box sealed
	if err := json.Unmarshal(data, &box); err != nil {
		return nil, errors.New("PEM block does not hold the JSON of a sealed key")
	}
	if box.KDF.Name != kdfName || box.Cipher.Name != cipherName {
		return nil, fmt.Errorf("key is sealed with %q and %q, want %q and %q", box.KDF.Name, box.Cipher.Name, kdfName, cipherName)
	}
	if p := box.KDF.Params; !p.known() {
		return nil, fmt.Errorf("scrypt parameters are N=%d r=%d p=%d, want N=32768, 65536 or 131072, r=8 p=1", p.N, p.R, p.P)
	}
	var nonce [24]byte
	if len(box.Cipher.Nonce) != len(nonce) {
		return nil, fmt.Errorf("nonce has %d bytes, want %d", len(box.Cipher.Nonce), len(nonce))
	}
	copy(nonce[:], box.Cipher.Nonce)
	key, err := box.KDF.key(pass)
	if err != nil {
		return nil, err
	}
	plain, ok := secretbox.Open(nil, box.Ciphertext, &nonce, key)
	if !ok {
		return nil, ErrPassphrase
	}
	return plain, nil
}

func (k kdf) key(pass []byte) (*[32]byte, error) {
	b, err := scrypt.Key(pass, k.Salt, k.Params.N, k.Params.R, k.Params.P, 32)
	if err != nil {
		return nil, err
	}
	return (*[32]byte)(b), nil
}
