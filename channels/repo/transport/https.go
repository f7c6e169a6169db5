package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"makenot.work/sando/internal/later"
	"makenot.work/sando/internal/reason"
)

// web is a repository behind an HTTP server.
type web struct {
	base   *url.URL // without user
	user   string
	token  string // file; "" none
	client *http.Client
	stall  time.Duration
}

func newHTTP(c Config, u *url.URL, p Patience) (*web, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CAFile != "" {
		pool, err := readCA(c.CAFile)
		if err != nil {
			return nil, err
		}
		conf.RootCAs = pool
	}
	base := *u
	base.User = nil
	base.Path = strings.TrimRight(u.Path, "/")
	base.RawPath = ""
	w := &web{base: &base, user: "git", token: c.TokenFile, stall: p.Stall}
	if u.User != nil {
		w.user = u.User.Username()
	}
	w.client = &http.Client{
		// Redirects are looked at, never followed.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: p.Dial}).DialContext,
			TLSClientConfig:        conf,
			TLSHandshakeTimeout:    p.Dial,
			MaxResponseHeaderBytes: 64 << 10,
			MaxConnsPerHost:        1,
			IdleConnTimeout:        10 * time.Minute,
			DisableCompression:     true,
		},
	}
	return w, nil
}

func (w *web) Close() error {
	w.client.CloseIdleConnections()
	return nil
}

func (w *web) Open(ctx context.Context, service Service) (Session, error) {
	s := &webSession{w: w, service: service, watch: newWatch(ctx, w.stall)}
	u := *w.base
	u.Path += "/info/refs"
	u.RawQuery = "service=" + string(service)
	if err := s.do(http.MethodGet, &u, nil, "advertisement"); err != nil {
		s.watch.stop()
		return nil, err
	}
	return s, nil
}

// webSession is a GET, and perhaps a POST after it.
type webSession struct {
	w       *web
	service Service
	watch   *watch
	body    io.ReadCloser
}

func (s *webSession) Read(p []byte) (int, error) {
	n, err := s.body.Read(p)
	s.watch.moved()
	if err != nil && err != io.EOF {
		err = fmt.Errorf("repo %q: %w", name(s.w.base), s.watch.cause(err))
	}
	return n, err
}

func (s *webSession) Ask(request []byte) error {
	s.drain()
	u := *s.w.base
	u.Path += "/" + string(s.service)
	return s.do(http.MethodPost, &u, request, "result")
}

func (s *webSession) Close() error {
	s.drain()
	s.watch.stop()
	return nil
}

// drain reads the little that may be left, so that the connection can be used again.
func (s *webSession) drain() {
	io.CopyN(io.Discard, s.body, 4<<10) // or it cannot: no matter
	s.body.Close()
}

// do sends a request; the answer is of the kind that git says for it.
func (s *webSession) do(method string, u *url.URL, body []byte, kind string) error {
	req, err := http.NewRequestWithContext(s.watch.ctx, method, u.String(), bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("repo %q: %w", name(s.w.base), err)
	}
	req.Header.Set("User-Agent", "git/sando")
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/x-"+string(s.service)+"-request")
	}
	if s.w.token != "" {
		token, err := readToken(s.w.token) // each time: it may have been renewed
		if err != nil {
			return fmt.Errorf("repo %q: %w", name(s.w.base), err)
		}
		req.SetBasicAuth(s.w.user, token)
	}
	resp, err := s.w.client.Do(req)
	s.watch.moved()
	if err != nil {
		var outer *url.Error
		if errors.As(err, &outer) {
			err = outer.Err // its text repeats method and URL
		}
		cause := error(&short{s.watch.cause(err)})
		if verify := (*tls.CertificateVerificationError)(nil); errors.As(err, &verify) {
			cause = fmt.Errorf("%w: if the host's certificate is of your own authority, name that in channels.ca_file", cause)
		}
		return fmt.Errorf("repo %q: %w", name(s.w.base), cause)
	}
	s.body = resp.Body
	if err := s.judge(resp, "application/x-"+string(s.service)+"-"+kind); err != nil {
		s.drain()
		return fmt.Errorf("repo %q: %w", name(s.w.base), err)
	}
	return nil
}

// short is an error in whose text the host has a say: the names in its certificate, or a line
// that should have been a header.
type short struct{ err error }

func (s *short) Error() string { return Printable(s.err.Error()) }
func (s *short) Unwrap() error { return s.err }

// judge refuses every answer but the one that was asked for.
func (s *webSession) judge(resp *http.Response, want string) error {
	switch code := resp.StatusCode; {
	case code == http.StatusOK:
	case code >= 300 && code < 400:
		return s.redirected(resp)
	case code == http.StatusUnauthorized && s.w.token == "":
		return errors.New("the host wants a password; set channels.token_file")
	case code == http.StatusUnauthorized:
		return fmt.Errorf("the host does not accept the token in channels.token_file (user %q); it may have expired, or belong to another user: write https://USER@HOST/PATH", s.w.user)
	case code == http.StatusForbidden:
		return fmt.Errorf("the host forbids this (%s); see whether the token in channels.token_file may do %s here", resp.Status[:3], strings.TrimPrefix(string(s.service), "git-"))
	case code == http.StatusNotFound || code == http.StatusGone:
		return reason.Errorf(reason.Stale, "there is no such repository, or the token in channels.token_file may not see it (status %d)", code)
	default:
		err := fmt.Errorf("the host answers with status %d", code)
		if after := later.Parse(resp.Header.Get("Retry-After"), time.Now()); after > 0 {
			return &later.Wish{Err: err, After: after}
		}
		return err
	}
	if e := resp.Header.Get("Content-Encoding"); e != "" {
		return reason.Errorf(reason.Format, "the answer is encoded as %q, which nobody asked for", e)
	}
	got, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	if err != nil || got != want {
		return reason.Errorf(reason.Format, "the answer is a %q, want %q: this is not a git server of today, or a page to log in", got, want)
	}
	return nil
}

// redirected says where to, as far as that can be said.
func (s *webSession) redirected(resp *http.Response) error {
	to, err := resp.Location()
	if err != nil {
		return fmt.Errorf("the host redirects (status %d) to nowhere", resp.StatusCode)
	}
	to.Path = strings.TrimSuffix(strings.TrimSuffix(to.Path, "/info/refs"), "/"+string(s.service))
	to.RawQuery, to.Fragment, to.RawPath = "", "", ""
	other := "the same host"
	if to.Host != s.w.base.Host || to.Scheme != s.w.base.Scheme {
		other = "another place, which gets no token"
	}
	return fmt.Errorf("redirects are not followed: the host sends to %q, %s; if that is right, write it as channels.repo", name(to), other)
}
