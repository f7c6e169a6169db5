// Package wire is a wire between a client and a server on this machine, which counts what
// goes over it, and can be cut. It forwards TCP connections and understands nothing of
// what they carry.
package wire

import (
	"context"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
)

// Wire is one wire. It ends with its test.
type Wire struct {
	Addr string // where clients connect to

	to    string
	wg    sync.WaitGroup
	mu    sync.Mutex
	links map[*link]bool
	ended bool
	down  int64   // bytes sent to clients
	cuts  []int64 // of down, sorted
	cut   int     // how many of them were made
	hold  int64   // nothing passes from here on; -1 none
	held  chan struct{}
}

// link is one connection of a client, forwarded.
type link struct {
	client, server *net.TCPConn
	ctx            context.Context
	end            context.CancelFunc
}

// New lays a wire to the server at the address to.
func New(t testing.TB, to string) *Wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{Addr: l.Addr().String(), to: to, links: map[*link]bool{}, hold: -1}
	w.wg.Go(func() { w.serve(l) })
	t.Cleanup(func() {
		l.Close()
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		w.reset(false)
		w.wg.Wait()
	})
	return w
}

// CutAt ends every connection whenever clients were sent one of these numbers of bytes,
// counted from the first connection on. By turns the connections are closed, and
// reset, which loses what is on its way.
func (w *Wire) CutAt(at ...int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts = append(w.cuts, at...)
	slices.Sort(w.cuts)
}

// Cuts returns how often the wire was cut.
func (w *Wire) Cuts() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cut
}

// Down returns how many bytes clients were sent.
func (w *Wire) Down() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.down
}

// HoldAt lets nothing more through once clients were sent so many bytes. The channel is
// closed then. Release goes on.
func (w *Wire) HoldAt(down int64) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hold, w.held = down, make(chan struct{})
	return w.held
}

// Release undoes HoldAt, and ends the connections that it held.
func (w *Wire) Release() {
	w.mu.Lock()
	w.hold = -1
	w.mu.Unlock()
	w.reset(false)
}

func (w *Wire) serve(l net.Listener) {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", w.to)
		if err != nil {
			client.Close()
			continue
		}
		k := &link{client: client.(*net.TCPConn), server: server.(*net.TCPConn)}
		k.ctx, k.end = context.WithCancel(context.Background())
		k.client.SetWriteBuffer(64 << 10) // what a reset loses
		w.mu.Lock()
		w.links[k] = true
		ended := w.ended
		w.mu.Unlock()
		if ended {
			w.reset(false)
		}
		w.wg.Go(func() {
			defer w.drop(k, false)
			io.Copy(k.server, k.client)
		})
		w.wg.Go(func() {
			defer w.drop(k, false)
			w.bring(k)
		})
	}
}

// bring sends a client what its server says.
func (w *Wire) bring(k *link) {
	buf := make([]byte, 64<<10)
	for {
		n, err := k.server.Read(buf)
		pass, cut, held := w.take(int64(n))
		_, werr := k.client.Write(buf[:pass])
		switch {
		case held != nil:
			held()
			<-k.ctx.Done()
			return
		case cut > 0:
			w.reset(cut%2 == 0)
			return
		case err != nil || werr != nil:
			return
		}
	}
}

// take counts n bytes for a client, as many as may pass until the next cut or hold. It
// returns the number of the cut, and for a hold what tells of it.
func (w *Wire) take(n int64) (pass int64, cut int, held func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	pass = n
	if len(w.cuts) > 0 && w.down+pass >= w.cuts[0] {
		pass = w.cuts[0] - w.down
		w.cuts = w.cuts[1:]
		w.cut++
		cut = w.cut
	}
	if w.hold >= 0 && w.down+pass >= w.hold {
		pass = max(0, w.hold-w.down)
		tell := w.held
		w.held = nil
		held = func() {
			if tell != nil {
				close(tell)
			}
		}
	}
	w.down += pass
	return pass, cut, held
}

// reset ends all connections.
func (w *Wire) reset(hard bool) {
	w.mu.Lock()
	links := make([]*link, 0, len(w.links))
	for k := range w.links {
		links = append(links, k)
	}
	w.mu.Unlock()
	for _, k := range links {
		w.drop(k, hard)
	}
}

func (w *Wire) drop(k *link, hard bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.links[k] {
		return
	}
	delete(w.links, k)
	if hard {
		k.client.SetLinger(0)
	}
	k.client.Close()
	k.server.Close()
	k.end()
}
