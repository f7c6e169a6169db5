package cli

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"

	"golang.org/x/term"

	"makenot.work/sando/internal/cli"
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
	in, ok := p.std.In.(*os.File)
	if !ok || !cli.IsTerminal(in) {
		return nil, reason.Errorf(reason.Config, "no passphrase: set %s, or run in a terminal to be asked for it", passwordVariable)
	}
	fd := int(in.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	fmt.Fprint(p.std.Err, text)
	type answer struct {
		pass []byte
		err  error
	}
	// A read from a terminal cannot be called off: after ctx has ended, the goroutine
	// waits for a line until the process ends, which is soon.
	typed := make(chan answer, 1)
	go func() {
		pass, err := term.ReadPassword(fd)
		typed <- answer{pass, err}
	}()
	defer fmt.Fprintln(p.std.Err)
	select {
	case a := <-typed:
		return a.pass, a.err
	case <-ctx.Done():
		if err := term.Restore(fd, before); err != nil {
			return nil, err
		}
		return nil, context.Cause(ctx)
	}
}
