package builder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"

	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// keyring opens private keys, and asks for no passphrase that it knows.
type keyring struct {
	ask    func(ctx context.Context, file string) ([]byte, error)
	log    *slog.Logger
	known  [][]byte
	opened map[string]*keys.Signer
}

const maxKeyFile = 16 << 10

// open returns the private key in file; setting names it in the configuration.
func (k *keyring) open(ctx context.Context, setting, file string) (*keys.Signer, error) {
	if s := k.opened[file]; s != nil {
		return s, nil
	}
	if file == "" {
		return nil, reason.Errorf(reason.Config, "%s is not set: this builder does not sign that", setting)
	}
	pem, err := readFile(file, maxKeyFile)
	if err != nil {
		return nil, reason.Errorf(reason.Config, "%s: %w", setting, err)
	}
	if info, err := os.Stat(file); err == nil && info.Mode().Perm()&0o077 != 0 {
		k.log.Warn("others may read a private key: chmod 600 it", "file", file)
	}
	s, err := k.unlock(ctx, file, pem)
	if err != nil {
		return nil, fmt.Errorf("%s %q: %w", setting, file, err)
	}
	if k.opened == nil {
		k.opened = map[string]*keys.Signer{}
	}
	k.opened[file] = s
	return s, nil
}

func (k *keyring) unlock(ctx context.Context, file string, pem []byte) (*keys.Signer, error) {
	for _, pass := range k.known {
		s, err := keys.Load(pem, pass)
		if !errors.Is(err, keys.ErrPassphrase) {
			return s, err
		}
	}
	if k.ask == nil {
		return nil, reason.Errorf(reason.Config, "no passphrase")
	}
	var last []byte
	for try := 1; ; try++ {
		pass, err := k.ask(ctx, file)
		if err != nil {
			return nil, err
		}
		s, err := keys.Load(pem, pass)
		if err == nil {
			k.known = append(k.known, pass)
			return s, nil
		}
		// What answers the same again is no person who mistyped.
		if !errors.Is(err, keys.ErrPassphrase) || try == passphraseTries || try > 1 && bytes.Equal(pass, last) {
			return nil, err
		}
		last = pass
	}
}

// passphraseTries is how often a person may mistype.
const passphraseTries = 3

// readAnchor reads the trust document that everything hangs from.
func readAnchor(file, app string) (*signing.Trust, error) {
	data, err := readFile(file, layout.MaxTrust)
	if err != nil {
		return nil, reason.Errorf(reason.Config, "signing.trust: %w", err)
	}
	t, err := signing.ParseTrust(data)
	if err != nil {
		return nil, reason.Errorf(reason.Config, "signing.trust %q: %w", file, err)
	}
	if t.App != app {
		return nil, reason.Errorf(reason.Config, "signing.trust %q is of app %q, this configuration of app %q", file, t.App, app)
	}
	return t, nil
}

// counts reports, before any work is done, whether a signature by the key s counts for
// role.
func counts(t *signing.Trust, role string, s *keys.Signer, setting string) error {
	kid := s.Public().Kid()
	if !slices.Contains(t.Kids(role), kid) {
		return reason.Errorf(reason.Signature, "%s is the key %s, which trust version %d does not have in role %q: "+
			"use a key of that role, or have the root holders sign a trust version with this one",
			setting, layout.Short(kid), t.Version, role)
	}
	return nil
}
