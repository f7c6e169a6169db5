// Package transport carries git's protocol to a repository on another machine, over https or
// ssh, and ends what takes too long. What is said is package remote's.
//
// # https://[user@]host[:port]/path
//
// The token of Config.TokenFile, read anew for each request, is sent as the password of the
// user in the URL, or of "git". Certificates are verified against those of the system and
// those in Config.CAFile; nothing turns that off. Every redirect is refused: one to another
// host would hand it the token, and one on the same host costs a request for each poll; the
// message says where to. Compressed answers are refused, since nobody asked for them. Proxies
// are those of the environment (HTTPS_PROXY, NO_PROXY). http:// is for loopback addresses only,
// and never gets a token.
//
// # ssh://user@host[:port]/path
//
// The key is Config.SSHKey, without a passphrase. The host key must be in Config.KnownHosts,
// which may hold hashed names; no certificates are asked for, and a line for a certificate
// authority stands for a host that shows that very key. The key algorithms asked for are
// those of the keys in there, so that a host with several keys shows one that is known. No
// agent, no ~/.ssh, no password, no program is used. A path that begins with /~ is below a
// home directory of the host.
//
// A connection stays open until Close, and is used again; one that turns out to be dead is
// made anew.
//
// It does not protect from a host that withholds, or says untrue things.
package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"makenot.work/sando/layout"
)

// Config says where a repository is, and by what its host and this side are known.
type Config struct {
	URL        string
	TokenFile  string // https: the password
	CAFile     string // https: more certificates to trust, PEM
	SSHKey     string // ssh: a private key
	KnownHosts string // ssh: host keys, as in OpenSSH
}

// Service is a program of git on the other side.
type Service string

const (
	Read  Service = "git-upload-pack"  // gives out what the repository has
	Write Service = "git-receive-pack" // takes in what is new
)

// Host is a repository on another machine. It is not for several goroutines.
type Host interface {
	// Open begins a conversation; at most one is open. What the service says first, the
	// advertisement, is read from the session. The reason is "stale" when there is no such
	// repository, "io" for all else.
	Open(ctx context.Context, s Service) (Session, error)

	// Close ends idle connections.
	Close() error
}

// Session is one conversation. It ends with the context that it was opened with.
type Session interface {
	// Read reads what the service says.
	io.Reader

	// Ask sends a request, once, after the advertisement was read; the answer is read then.
	Ask(request []byte) error

	// Close ends the conversation.
	Close() error
}

// Patience is how long a host may say nothing.
type Patience struct {
	Dial  time.Duration
	Stall time.Duration
}

// Default is what both programs use.
func Default() Patience { return Patience{Dial: 15 * time.Second, Stall: 30 * time.Second} }

// New returns the host that a URL names. It does not look whether it is there. Errors are
// those of Check, and about files that are not there or cannot be used; they have the reason
// "config".
func New(c Config, p Patience) (Host, error) {
	u, err := check(c)
	if err != nil {
		return nil, err
	}
	if err := checkFiles(c); err != nil {
		return nil, err
	}
	if u.Scheme == "ssh" {
		return newSSH(c, u, p), nil
	}
	return newHTTP(c, u, p)
}

// ErrSilent is matched by errors about a host that said nothing for too long.
var ErrSilent = errors.New("the host says nothing")

// watch ends a context when nothing moves for a while.
type watch struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func newWatch(ctx context.Context, stall time.Duration) *watch {
	ctx, cancel := context.WithCancelCause(ctx)
	return &watch{ctx, cancel, time.AfterFunc(stall, func() {
		cancel(fmt.Errorf("%w for %s", ErrSilent, stall))
	}), stall}
}

// moved says that something moved.
func (w *watch) moved() { w.timer.Reset(w.stall) }

func (w *watch) stop() {
	w.timer.Stop()
	w.cancel(context.Canceled)
}

// cause returns why err really happened: what ended the context, if that is over.
func (w *watch) cause(err error) error {
	if err == nil {
		return nil
	}
	if why := context.Cause(w.ctx); why != nil {
		return why
	}
	return err
}

// name returns a URL for messages.
func name(u *url.URL) string { return layout.Place(u) }

// Name returns a repo URL for messages: without a user.
func Name(repoURL string) string { return layout.StripUserInfo(repoURL) }

// Printable makes one line of what a host said, without passwords and not too long.
func Printable(text string) string {
	return layout.Redact(layout.Brief(text))
}
