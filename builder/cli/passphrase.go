package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"

	"makenot.work/sando/internal/reason"
)

const passwordVariable = "SANDO_KEY_PASSWORD"

// given returns the passphrase from the environment. One that is set and empty is a
// decision that somebody made.
func (p *program) given(log *slog.Logger) ([]byte, bool) {
	if v := p.std.Env(passwordVariable); v != "" {
		return []byte(v), true
	}
	if _, set := os.LookupEnv(passwordVariable); !set {
		return nil, false
	}
	log.Warn("the passphrase is empty: who can read a private key can use it")
	return []byte{}, true
}

// passphrase returns the passphrase of an existing key.
func (p *program) passphrase(ctx context.Context, log *slog.Logger, file string) ([]byte, error) {
	if pass, ok := p.given(log); ok {
		return pass, nil
	}
	return p.prompt(ctx, fmt.Sprintf("Passphrase of %s: ", file))
}

// newPassphrase returns the passphrase to seal new keys with.
func (p *program) newPassphrase(ctx context.Context) ([]byte, error) {
	if pass, ok := p.given(p.log()); ok {
		return pass, nil
	}
	first, err := p.prompt(ctx, "Passphrase for the new keys: ")
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return nil, reason.Errorf(reason.Config, "passphrase is empty: to seal keys with no passphrase, set %s to nothing", passwordVariable)
	}
	again, err := p.prompt(ctx, "The same once more: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, again) {
		return nil, reason.Errorf(reason.Config, "the two passphrases differ; nothing was made")
	}
	return first, nil
}

// prompt asks on the terminal.
func (p *program) prompt(ctx context.Context, text string) ([]byte, error) {
	if !p.std.Asks() {
		return nil, reason.Errorf(reason.Config, "no passphrase: set %s, or run in a terminal to be asked for it", passwordVariable)
	}
	return p.std.Secret(ctx, text)
}
