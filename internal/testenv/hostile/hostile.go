// Package hostile is a proxy in front of an S3-compatible server that goes wrong on demand.
// For each request a script chooses a Fault, or none:
//
//	p := hostile.Start(t, hostile.Server{Endpoint: s.Endpoint, AccessKey: …, SecretKey: …, Region: …})
//	p.Script(func(n int, r *http.Request) hostile.Fault {
//		if n == 0 {
//			return hostile.Answer(503, "SlowDown", "Retry-After", "1")
//		}
//		return nil
//	})
//
// A request that is passed on is signed anew, when it was signed and the proxy has keys, so
// that a fault may alter it. Without keys of the proxy, it is the client's and must stay as
// it is. The proxy speaks HTTP on loopback and ends with its test.
//
// Only tests import this package.
package hostile

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// Server is the real one.
type Server struct {
	Endpoint, Region     string
	AccessKey, SecretKey string
}

// Request is what a client asked for.
type Request struct {
	Method, Path, Query string
	Header              http.Header
}

// String is "GET /bucket/key", with range and conditions where there are any.
func (r Request) String() string {
	s := r.Method + " " + r.Path
	for _, name := range []string{"Range", "If-Match", "If-None-Match"} {
		if v := r.Header.Get(name); v != "" {
			s += fmt.Sprintf(" %s:%s", name, v)
		}
	}
	return s
}

// Proxy is a running proxy.
type Proxy struct {
	Endpoint string

	to     Server
	client *http.Client
	done   chan struct{} // the test is over

	mu     sync.Mutex
	script func(n int, r *http.Request) Fault
	n      int
	seen   []Request
	sent   int64
	epoch  int // how often Script was called
}

// Fault deals with one request instead of the proxy. It may pass it on.
type Fault func(x *Exchange)

// Exchange is one request and its answer. A fault may put another request in its place
// before it passes it on.
type Exchange struct {
	*http.Request
	w     http.ResponseWriter
	p     *Proxy
	epoch int
}

// Start starts a proxy, which ends with t.
func Start(t testing.TB, to Server) *Proxy {
	t.Helper()
	p := &Proxy{to: to, done: make(chan struct{})}
	transport := &http.Transport{DisableCompression: true}
	p.client = &http.Client{Transport: transport}
	var held sync.WaitGroup // handlers that took their connection over
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		held.Add(1)
		defer held.Done()
		p.serve(w, r)
	}))
	p.Endpoint = s.URL
	t.Cleanup(func() {
		close(p.done)
		s.Close()
		held.Wait()
		transport.CloseIdleConnections()
	})
	return p
}

// Script chooses what happens from now on: to the request n, counted from 0. Without a
// fault, a request is passed on; so are all without a script.
func (p *Proxy) Script(choose func(n int, r *http.Request) Fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.script, p.n, p.seen, p.sent = choose, 0, nil, 0
	p.epoch++
}

// Seen returns the requests since Script.
func (p *Proxy) Seen() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// Sent returns how many bytes of bodies were sent to clients since Script.
func (p *Proxy) Sent() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.sent
}

func (p *Proxy) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.seen = append(p.seen, Request{r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Clone()})
	var fault Fault
	if p.script != nil {
		fault = p.script(p.n, r)
	}
	p.n++
	x := &Exchange{r, w, p, p.epoch}
	p.mu.Unlock()
	if fault == nil {
		fault = func(x *Exchange) { x.Relay(x.Pass()) }
	}
	fault(x)
}

// Pass sends the request on, as it is now, and returns the answer, whose body Relay and
// the like close.
func (x *Exchange) Pass() *http.Response {
	out, err := http.NewRequestWithContext(x.Context(), x.Method, x.p.to.Endpoint+x.URL.EscapedPath(), x.Body)
	if err != nil {
		return answer(http.StatusBadGateway, "BadRequest")
	}
	out.ContentLength = x.ContentLength
	if x.ContentLength == 0 {
		out.Body = http.NoBody
	}
	out.Header = x.Header.Clone()
	out.Header.Del("Connection")
	out.Host = x.Host // is signed
	if out.Header.Get("Authorization") != "" && x.p.to.AccessKey != "" {
		out.Header.Del("Authorization")
		out = signer.SignV4(*out, x.p.to.AccessKey, x.p.to.SecretKey, "", x.p.to.Region)
	}
	resp, err := x.p.client.Do(out)
	if err != nil {
		return answer(http.StatusBadGateway, "BadGateway")
	}
	return resp
}

// Relay answers the client with resp.
func (x *Exchange) Relay(resp *http.Response) {
	defer resp.Body.Close()
	for k, v := range resp.Header {
		x.w.Header()[k] = v
	}
	x.w.WriteHeader(resp.StatusCode)
	io.Copy(counted{x.w, x}, resp.Body) // a client that went away is none of the proxy's business
}

// counted counts what is written for an exchange, and before it is, so that a client that
// has it all finds it counted.
type counted struct {
	to io.Writer
	x  *Exchange
}

func (c counted) Write(data []byte) (int, error) {
	c.x.count(len(data))
	n, err := c.to.Write(data)
	c.x.count(n - len(data))
	return n, err
}

// count counts n bytes, unless they belong to an earlier script.
func (x *Exchange) count(n int) {
	x.p.mu.Lock()
	if x.epoch == x.p.epoch {
		x.p.sent += int64(n)
	}
	x.p.mu.Unlock()
}

// raw takes the connection over, sends the head of resp, and has body send the rest.
func (x *Exchange) raw(resp *http.Response, body func(c net.Conn)) {
	defer resp.Body.Close()
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return // the client is gone
	}
	defer conn.Close()
	if resp.StatusCode != 0 {
		var head bytes.Buffer
		fmt.Fprintf(&head, "HTTP/1.1 %d %s\r\n", resp.StatusCode, http.StatusText(resp.StatusCode))
		resp.Header.Write(&head) // to memory
		head.WriteString("\r\n")
		if _, err := conn.Write(head.Bytes()); err != nil {
			return
		}
	}
	body(conn)
}

// some sends n bytes of the body.
func (x *Exchange) some(c io.Writer, resp *http.Response, n int64) {
	io.CopyN(counted{c, x}, resp.Body, n)
}

// gone waits until the client closes the connection, or the test is over.
func (x *Exchange) gone(c net.Conn) {
	read := make(chan struct{})
	go func() {
		defer close(read)
		io.Copy(io.Discard, c) // until there is no more
	}()
	select {
	case <-read:
	case <-x.p.done:
		c.Close()
		<-read
	}
}

func reset(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		tcp.SetLinger(0) // what is on its way is lost
	}
	c.Close()
}

// answer is an error as S3 words it.
func answer(status int, code string, header ...string) *http.Response {
	text := fmt.Sprintf("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>%s</Code><Message>as the test wants it</Message>"+
		"<RequestId>TEST</RequestId></Error>", code)
	resp := &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}
	resp.Header.Set("Content-Type", "application/xml")
	resp.Header.Set("Content-Length", strconv.Itoa(len(text)))
	for i := 0; i+1 < len(header); i += 2 {
		resp.Header.Set(header[i], header[i+1])
	}
	return resp
}

// Answer is an answer of the proxy's own: an error with S3's code, and pairs of headers.
// The server is not asked. With the status 200 it is an error in the guise of a success.
func Answer(status int, code string, header ...string) Fault {
	return func(x *Exchange) { x.Relay(answer(status, code, header...)) }
}

// Lose has the server do as asked, and resets the connection instead of answering.
func Lose() Fault {
	return func(x *Exchange) {
		resp := x.Pass()
		io.Copy(io.Discard, resp.Body)
		x.raw(&http.Response{Body: resp.Body}, reset)
	}
}

// Refuse resets the connection without asking the server.
func Refuse() Fault {
	return func(x *Exchange) { x.raw(&http.Response{Body: http.NoBody}, reset) }
}

// Reset resets the connection after n bytes of the body.
func Reset(n int64) Fault {
	return func(x *Exchange) {
		resp := x.Pass()
		x.raw(resp, func(c net.Conn) {
			x.some(c, resp, n)
			reset(c)
		})
	}
}

// Truncate closes the connection in good order after n bytes of the body.
func Truncate(n int64) Fault {
	return func(x *Exchange) {
		resp := x.Pass()
		x.raw(resp, func(c net.Conn) { x.some(c, resp, n) })
	}
}

// Silence sends n bytes of the body, and then nothing for ever.
func Silence(n int64) Fault {
	return func(x *Exchange) {
		resp := x.Pass()
		x.raw(resp, func(c net.Conn) {
			x.some(c, resp, n)
			x.gone(c)
		})
	}
}

// Mute never answers, and does not ask the server.
func Mute() Fault {
	return func(x *Exchange) { x.raw(&http.Response{Body: http.NoBody}, x.gone) }
}

// Slow sends the body byte by byte, waiting between them.
func Slow(pause time.Duration) Fault {
	return func(x *Exchange) {
		resp := x.Pass()
		x.raw(resp, func(c net.Conn) {
			tick := time.NewTicker(pause)
			defer tick.Stop()
			for one := make([]byte, 1); ; {
				if _, err := io.ReadFull(resp.Body, one); err != nil {
					return
				}
				if _, err := c.Write(one); err != nil {
					return
				}
				x.count(1)
				select {
				case <-tick.C:
				case <-x.p.done:
					return
				}
			}
		})
	}
}

// Gzip compresses the body, as a proxy that means well does.
func Gzip() Fault {
	return func(x *Exchange) {
		resp := x.Pass()
		plain := resp.Body
		defer plain.Close()
		var packed bytes.Buffer
		z := gzip.NewWriter(&packed)
		io.Copy(z, plain) // what is short is found out by the client
		z.Close()         // to memory
		resp.Header.Set("Content-Encoding", "gzip")
		resp.Header.Set("Content-Length", strconv.Itoa(packed.Len()))
		resp.Body = io.NopCloser(&packed)
		x.Relay(resp)
	}
}

// Without passes the request on without these headers: a server that ignores them.
func Without(names ...string) Fault {
	return func(x *Exchange) {
		for _, name := range names {
			x.Header.Del(name)
		}
		x.Relay(x.Pass())
	}
}

// Edit has f change the head of the answer.
func Edit(f func(h http.Header)) Fault {
	return func(x *Exchange) {
		resp := x.Pass()
		f(resp.Header)
		x.Relay(resp)
	}
}
