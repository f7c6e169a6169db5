package transport

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"makenot.work/sando/internal/reason"
)

// shell is a repository of a user of another machine.
type shell struct {
	c        Config
	u        *url.URL
	patience Patience
	client   *ssh.Client // nil: none is open
}

func newSSH(c Config, u *url.URL, p Patience) *shell { return &shell{c: c, u: u, patience: p} }

func (h *shell) Close() error {
	if h.client == nil {
		return nil
	}
	client := h.client
	h.client = nil
	client.Close() // it may be dead: no error matters
	return nil
}

func (h *shell) Open(ctx context.Context, service Service) (Session, error) {
	if h.client != nil {
		// It may have died since: then a new one is made, and soon.
		s, err := h.begin(ctx, service, h.patience.Stall/3)
		if err == nil || ctx.Err() != nil {
			return s, err
		}
		h.Close()
	}
	client, err := h.dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("repo %q: %w", name(h.u), err)
	}
	h.client = client
	return h.begin(ctx, service, h.patience.Stall)
}

// dial connects, and lets each side prove who it is.
func (h *shell) dial(ctx context.Context) (*ssh.Client, error) {
	port := h.u.Port()
	if port == "" {
		port = "22"
	}
	addr := net.JoinHostPort(h.u.Hostname(), port)
	conf, err := h.config(addr)
	if err != nil {
		return nil, err
	}
	w := newWatch(ctx, h.patience.Dial)
	defer w.stop()
	conn, err := (&net.Dialer{}).DialContext(w.ctx, "tcp", addr)
	if err != nil {
		return nil, w.cause(err)
	}
	defer context.AfterFunc(w.ctx, func() { conn.Close() })()
	c, channels, requests, err := ssh.NewClientConn(conn, addr, conf)
	if err != nil {
		conn.Close()
		return nil, w.cause(h.explain(addr, err))
	}
	return ssh.NewClient(c, channels, requests), nil
}

// config reads key and known hosts, each time: they may have been renewed.
func (h *shell) config(addr string) (*ssh.ClientConfig, error) {
	key, err := readKey(h.c.SSHKey)
	if err != nil {
		return nil, err
	}
	known, err := readKnownHosts(h.c.KnownHosts)
	if err != nil {
		return nil, err
	}
	algorithms, err := hostKeyAlgorithms(known, addr)
	if err != nil {
		return nil, err
	}
	if len(algorithms) == 0 {
		return nil, h.unknown(addr)
	}
	return &ssh.ClientConfig{
		User: h.u.User.Username(), Auth: []ssh.AuthMethod{ssh.PublicKeys(key)},
		HostKeyCallback: known, HostKeyAlgorithms: algorithms, ClientVersion: "SSH-2.0-sando",
	}, nil
}

// hostKeyAlgorithms returns the algorithms of the keys that a host is known by. It finds
// them by asking about a key that no host has.
func hostKeyAlgorithms(known ssh.HostKeyCallback, addr string) ([]string, error) {
	nobody, err := ssh.NewPublicKey(ed25519.PublicKey(make([]byte, ed25519.PublicKeySize)))
	if err != nil {
		return nil, err
	}
	var found *knownhosts.KeyError
	if err := known(addr, &net.TCPAddr{}, nobody); !errors.As(err, &found) {
		return nil, err
	}
	var all []string
	for _, k := range found.Want {
		switch t := k.Key.Type(); t {
		case ssh.KeyAlgoRSA: // its own name stands for signatures with SHA-1
			all = append(all, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256)
		default:
			all = append(all, t)
		}
	}
	slices.Sort(all)
	return slices.Compact(all), nil
}

func (h *shell) unknown(addr string) error {
	return fmt.Errorf("host %s is not in channels.known_hosts %q: get its keys with `ssh-keyscan -p PORT HOST`, compare them with what its operator says, and add them",
		knownhosts.Normalize(addr), h.c.KnownHosts)
}

// explain says what to do about an error of the handshake.
func (h *shell) explain(addr string, err error) error {
	var other *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	var apart *ssh.AlgorithmNegotiationError
	switch {
	case errors.As(err, &revoked):
		return fmt.Errorf("host %s shows a key that channels.known_hosts %q revokes", knownhosts.Normalize(addr), h.c.KnownHosts)
	case errors.As(err, &other):
		return fmt.Errorf("host %s shows another key than the one in channels.known_hosts %q: somebody may be in between, or the host has a new key; ask its operator before the file is changed",
			knownhosts.Normalize(addr), h.c.KnownHosts)
	case errors.As(err, &apart) && apart.What == "host key":
		return fmt.Errorf("host %s has no key of the kinds in channels.known_hosts %q: somebody may be in between, or the host has new keys; ask its operator before the file is changed",
			knownhosts.Normalize(addr), h.c.KnownHosts)
	case strings.Contains(err.Error(), "unable to authenticate"):
		return fmt.Errorf("host %s does not accept the key in channels.ssh_key %q for user %q", knownhosts.Normalize(addr), h.c.SSHKey, h.u.User.Username())
	default:
		return fmt.Errorf("ssh: %s", Printable(err.Error()))
	}
}

// begin runs the service, and waits for its first words.
func (h *shell) begin(ctx context.Context, service Service, patience time.Duration) (Session, error) {
	w := newWatch(ctx, patience)
	s := &shellSession{h: h, watch: w}
	// Nothing but the end of the connection ends a wait for it.
	client := h.client
	s.stop = context.AfterFunc(w.ctx, func() { client.Close() })
	err := s.start(service)
	if err == nil {
		if _, err = s.out.Peek(1); err != nil {
			err = s.failed(err)
		}
	}
	if err != nil {
		err = fmt.Errorf("repo %q: %w", name(h.u), w.cause(err))
		s.end(false)
		return nil, err
	}
	w.stall = h.patience.Stall
	w.moved()
	return s, nil
}

// shellSession is one run of a service.
type shellSession struct {
	h     *shell
	watch *watch
	stop  func() bool
	ssh   *ssh.Session
	in    io.WriteCloser
	out   *bufio.Reader
	asked bool
	words words
}

func (s *shellSession) start(service Service) (err error) {
	if s.ssh, err = s.h.client.NewSession(); err != nil {
		return err
	}
	s.ssh.Stderr = &s.words
	if s.in, err = s.ssh.StdinPipe(); err != nil {
		return err
	}
	out, err := s.ssh.StdoutPipe()
	if err != nil {
		return err
	}
	s.out = bufio.NewReader(out)
	return s.ssh.Start(string(service) + " " + quote(s.path()))
}

// path returns the path as the host is to see it.
func (s *shellSession) path() string {
	if strings.HasPrefix(s.h.u.Path, "/~") {
		return s.h.u.Path[1:]
	}
	return s.h.u.Path
}

// quote writes a word for the shell of the host, as git does.
func quote(s string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(s) + "'"
}

// failed says why the service ended before it said anything.
func (s *shellSession) failed(err error) error {
	if s.watch.ctx.Err() != nil {
		return err
	}
	s.in.Close()
	ended := s.ssh.Wait() // also for its last words
	text := s.words.String()
	var exit *ssh.ExitError
	if text == "" && !errors.As(ended, &exit) {
		return fmt.Errorf("connection lost: %w", err)
	}
	for _, w := range []string{"does not appear to be a git repository", "not found", "No such file or directory", "does not exist", "could not be found"} {
		if strings.Contains(text, w) {
			return reason.Errorf(reason.Stale, "there is no such repository, or the key in channels.ssh_key may not see it: %s", text)
		}
	}
	if text == "" {
		text = "nothing"
	}
	return fmt.Errorf("the host ran no git for us, and said: %s", text)
}

func (s *shellSession) Read(p []byte) (int, error) {
	n, err := s.out.Read(p)
	s.watch.moved()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("repo %q: %w", name(s.h.u), s.watch.cause(err))
	}
	if err == io.EOF && s.watch.ctx.Err() != nil {
		err = fmt.Errorf("repo %q: %w", name(s.h.u), context.Cause(s.watch.ctx))
	}
	return n, err
}

func (s *shellSession) Ask(request []byte) error {
	s.asked = true
	for chunk := range slices.Chunk(request, 32<<10) {
		if _, err := s.in.Write(chunk); err != nil {
			return fmt.Errorf("repo %q: %w", name(s.h.u), s.watch.cause(err))
		}
		s.watch.moved()
	}
	return nil
}

// flush is what ends a conversation that asks for nothing.
const flush = "0000"

// maxRest bounds what a service may still say when nobody wants more of it, in bytes.
const maxRest = 4 << 10

// Close lets the connection be where the host has ended the service too. Of one that it
// leaves open, the connection would keep what it says, for every conversation anew.
func (s *shellSession) Close() error {
	if !s.asked {
		io.WriteString(s.in, flush) // it may be gone: no matter
	}
	_, err := io.CopyN(io.Discard, s.out, maxRest)
	over := err == io.EOF
	if over {
		s.ssh.Wait() // how it ended does not matter
	}
	s.end(over)
	return nil
}

// end ends the conversation, and the connection unless it is to be kept. Nothing is said
// to the host any more: it may not be listening.
func (s *shellSession) end(keep bool) {
	keep = s.stop() && keep
	s.watch.stop()
	if !keep {
		s.h.Close()
	}
}

// words keeps the last words of a program.
type words struct {
	mu   sync.Mutex
	data []byte
}

const maxWords = 4 << 10

func (w *words) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.data = append(w.data, p...)
	if extra := len(w.data) - maxWords; extra > 0 {
		w.data = append(w.data[:0], w.data[extra:]...)
	}
	return len(p), nil
}

func (w *words) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return Printable(string(w.data))
}
