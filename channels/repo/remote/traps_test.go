package remote

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"

	"makenot.work/sando/channels/repo/pack/packtest"
	"makenot.work/sando/channels/repo/transport"
	"makenot.work/sando/internal/reason"
)

const head = "1111111111111111111111111111111111111111"

// lines writes git's lines; "" is a flush.
func lines(all ...string) []byte {
	var buf bytes.Buffer
	e := pktline.NewEncoder(&buf)
	for _, line := range all {
		if line == "" {
			e.Flush()
		} else {
			e.EncodeString(line)
		}
	}
	return buf.Bytes()
}

// advert is that of a repository with one branch.
func advert() []byte {
	return lines("# service=git-upload-pack\n", "", head+" refs/heads/main\x00shallow agent=x\n", "")
}

// hostile is a host that says what a test wants.
type hostile struct {
	advert, answer func(w io.Writer)
	header         http.Header
}

func say(data []byte) func(io.Writer) { return func(w io.Writer) { w.Write(data) } }

// good is a host that gives out a commit that is malformed: whoever says so has read it all.
func good(t *testing.T) *hostile {
	return &hostile{advert: say(advert()), answer: func(w io.Writer) {
		w.Write(lines("shallow "+head, "", "NAK\n"))
		w.Write(packtest.Pack(t))
	}}
}

func (h *hostile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	kind, say := "result", h.answer
	if r.Method == http.MethodGet {
		kind, say = "advertisement", h.advert
	}
	w.Header().Set("Content-Type", "application/x-git-upload-pack-"+kind)
	for k, v := range h.header {
		w.Header()[k] = v
	}
	say(flushing{w, r})
}

// flushing sends at once what is written, until nobody listens any more.
type flushing struct {
	http.ResponseWriter
	r *http.Request
}

func (f flushing) Write(p []byte) (int, error) {
	if err := f.r.Context().Err(); err != nil {
		return 0, err
	}
	n, err := f.ResponseWriter.Write(p)
	http.NewResponseController(f.ResponseWriter).Flush()
	return n, err
}

// reach opens a host, to be waited for as long as stall.
func reach(t *testing.T, h http.Handler, stall time.Duration, change func(*bounds)) *network {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	b := defaultBounds()
	if change != nil {
		change(&b)
	}
	n, err := openNetwork(Config{URL: s.URL + "/c.git"}, transport.Patience{Dial: patient, Stall: stall}, b)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.Close() })
	return n
}

// silence says nothing, for as long as somebody listens.
func silence(w io.Writer) { <-w.(flushing).r.Context().Done() }

func then(data []byte, next func(io.Writer)) func(io.Writer) {
	return func(w io.Writer) {
		w.Write(data)
		next(w)
	}
}

// endless writes until nobody listens.
func endless(data []byte) func(io.Writer) {
	return func(w io.Writer) {
		for {
			if _, err := w.Write(data); err != nil {
				return
			}
		}
	}
}

// TestHostile has hosts that do one thing wrong, and looks both at the branch and at what a
// fetch says.
func TestHostile(t *testing.T) {
	shortPoll := func(b *bounds) { b.poll = time.Second }
	shortFetch := func(b *bounds) { b.fetch = time.Second }
	small := func(b *bounds) { b.advert, b.pack = 10_000, 100_000 }
	many := lines("# service=git-upload-pack\n", "", head+" refs/heads/main\x00shallow\n")
	blobOf := func(n int) []byte {
		return packtest.Pack(t, packtest.Entry{Type: plumbing.BlobObject, Content: bytes.Repeat([]byte("\xfe\x01\x77"), n)})
	}
	gift := lines("shallow "+head, "", "NAK\n")
	for _, c := range []struct {
		name   string
		change func(*hostile)
		bounds func(*bounds)
		fetch  bool // the fetch fails, the branch is found
		code   reason.Code
		words  string
	}{
		{"nothing wrong", func(*hostile) {}, nil, true, reason.IO, "object is missing"},
		{"page to log in", func(h *hostile) { h.header = http.Header{"Content-Type": {"text/html; charset=utf-8"}} }, nil, false, reason.Format, "a page to log in"},
		{"compressed", func(h *hostile) { h.header = http.Header{"Content-Encoding": {"gzip"}} }, nil, false, reason.Format, `encoded as "gzip"`},
		{"no lines", func(h *hostile) { h.advert = say([]byte("<html>")) }, nil, false, reason.Format, "not in git's lines"},
		{"no reference", func(h *hostile) { h.advert = say(lines("hello\x1b[31m", "")) }, nil, false, reason.Format, `malformed at "hello [31m"`},
		{"error line", func(h *hostile) { h.advert = say(lines("ERR access denied\n")) }, nil, false, reason.IO, "the host says: access denied"},
		{"sha256", func(h *hostile) {
			h.advert = say(lines(strings.Repeat("1", 64)+" refs/heads/main\x00object-format=sha256\n", ""))
		}, nil, false, reason.Config, "sha256"},
		{"cut advertisement", func(h *hostile) { h.advert = say(advert()[:50]) }, nil, false, reason.IO, "unexpected EOF"},
		{"advertisement without end", func(h *hostile) { h.advert = say(advert()[:len(advert())-4]) }, nil, false, reason.IO, "answer ends early"},
		{"endless advertisement", func(h *hostile) {
			h.advert = then(many, endless(lines(head+" refs/heads/x\n")))
		}, small, false, reason.Limit, "advertisement has more than 10000 bytes"},
		{"silence", func(h *hostile) { h.advert = silence }, nil, false, reason.IO, "the host says nothing for 1s"},
		{"silence after headers", func(h *hostile) { h.advert = then([]byte("0"), silence) }, nil, false, reason.IO, "the host says nothing for 1s"},
		{"a byte now and then", func(h *hostile) { h.advert = then(many, func(w io.Writer) { trickle(w, []byte("1")) }) }, shortPoll, false, reason.IO, "the host is too slow: not done after 1s"},

		{"no answer", func(h *hostile) { h.answer = say(nil) }, nil, true, reason.IO, "answer ends early"},
		{"odd answer", func(h *hostile) { h.answer = say(lines("shallow "+head, "", "what?\n")) }, nil, true, reason.Format, `malformed at "what?"`},
		{"not our ref", func(h *hostile) { h.answer = say(lines("ERR upload-pack: not our ref\n")) }, nil, true, reason.IO, "not our ref"},
		{"error in its band", func(h *hostile) {
			h.advert = say(lines("# service=git-upload-pack\n", "", head+" refs/heads/main\x00shallow side-band-64k\n", ""))
			h.answer = then(gift, say(lines("\x02much ado", "\x03fatal:\x1b[31m\nsee https://u:hush@h/x", "")))
		}, nil, true, reason.IO, "the host says: fatal: [31m see https://h/x"},
		{"odd band", func(h *hostile) {
			h.advert = say(lines("# service=git-upload-pack\n", "", head+" refs/heads/main\x00shallow side-band-64k\n", ""))
			h.answer = then(gift, say(lines("\x1b[31m", "")))
		}, nil, true, reason.Format, "it has a band 27"},
		{"no pack", func(h *hostile) { h.answer = say(gift) }, nil, true, reason.IO, "pack ends early"},
		{"odd pack", func(h *hostile) { h.answer = then(gift, say([]byte("PACX0000000000000000000000"))) }, nil, true, reason.Format, "pack is malformed"},
		{"cut pack", func(h *hostile) { h.answer = then(gift, say(blobOf(1000)[:40])) }, nil, true, reason.IO, "pack ends early"},
		{"endless pack", func(h *hostile) {
			one := blobOf(1000)
			h.answer = then(gift, then([]byte("PACK\x00\x00\x00\x02\x00\x00\x4e\x20"), endless(one[12:len(one)-20])))
		}, small, true, reason.Limit, "pack has more than 100000 bytes"},
		{"endless words after a pack", func(h *hostile) {
			h.answer = then(gift, then(blobOf(1000), endless([]byte("more"))))
		}, small, true, reason.IO, "object is missing"},
		{"endless object", func(h *hostile) {
			// It is said to be small, and its compressed form goes on and on.
			h.answer = then(gift, then([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x31\x78\x01"), endless([]byte("\x00\x00\x00\xff\xff"))))
		}, small, true, reason.Limit, "pack has more than 100000 bytes"},
		{"silent pack", func(h *hostile) { h.answer = then(gift, silence) }, nil, true, reason.IO, "the host says nothing for 1s"},
		{"pack now and then", func(h *hostile) {
			h.answer = then(gift, then([]byte("PACK\x00\x00\x00\x02\x00\x00\x00\x01\x31\x78\x01"), func(w io.Writer) { trickle(w, []byte("\x00\x00\x00\xff\xff")) }))
		}, shortFetch, true, reason.IO, "the host is too slow: not done after 1s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := good(t)
			c.change(h)
			stall := patient
			if strings.Contains(c.words, "says nothing") {
				stall = time.Second
			}
			n := reach(t, h, stall, c.bounds)
			found, err := n.Branch(t.Context(), "main")
			if c.fetch {
				if err != nil || found.String() != head {
					t.Fatalf("Branch = %s, %v", found, err)
				}
				err = n.Fetch(t.Context(), make(memory), found)
			}
			checkReason(t, "what it says", err, c.code, c.words)
			if !strings.HasPrefix(err.Error(), "repo \"http://127.0.0.1:") || strings.Count(err.Error(), "repo \"") != 1 {
				t.Errorf("the error does not name the repo once: %v", err)
			}
		})
	}
}

// patient is longer than anything takes on a busy machine.
const patient = time.Minute

// trickle writes a few bytes now and then, for as long as somebody listens.
func trickle(w io.Writer, data []byte) {
	f := w.(flushing)
	for tick := time.NewTicker(50 * time.Millisecond); ; {
		select {
		case <-tick.C:
		case <-f.r.Context().Done():
			tick.Stop()
			return
		}
		f.Write(data)
	}
}

// TestManyRefs has a repository with 100 000 references, and then some.
func TestManyRefs(t *testing.T) {
	var buf bytes.Buffer
	buf.Write(lines("# service=git-upload-pack\n", "", head+" HEAD\x00shallow\n"))
	for i := range 100_000 {
		buf.Write(lines(fmt.Sprintf("%s refs/pull/%06d/with-a-longer-name/head\n", head, i)))
	}
	buf.Write(lines(head+" refs/heads/main\n", ""))
	h := good(t)
	h.advert = say(buf.Bytes())
	n := reach(t, h, patient, nil)
	if found, err := n.Branch(t.Context(), "main"); err != nil || found.String() != head {
		t.Errorf("Branch = %s, %v", found, err)
	}
	n.advert = int64(buf.Len()) - 1
	_, err := n.Branch(t.Context(), "main")
	checkReason(t, "Branch with a byte too much", err, reason.Limit, "advertisement has more than")
}

// TestContainsHostile has hosts whose word must not be taken for it.
func TestContainsHostile(t *testing.T) {
	old := plumbing.NewHash(strings.Repeat("2", 40))
	ack := lines("ACK " + old.String() + " common\n")
	ack = append(ack, lines("ACK "+old.String()+"\n")...)
	commit := func(parents ...plumbing.Hash) packtest.Entry {
		text := "tree " + strings.Repeat("3", 40) + "\n"
		for _, p := range parents {
			text += "parent " + p.String() + "\n"
		}
		return packtest.Entry{Type: plumbing.CommitObject, Content: []byte(text + "author A <a> 1 +0000\n\nx\n")}
	}
	name := func(e packtest.Entry) plumbing.Hash { return plumbing.ComputeHash(e.Type, e.Content) }
	child := commit(old)
	grandchild := commit(plumbing.NewHash(strings.Repeat("4", 40)), name(child))
	for _, c := range []struct {
		name   string
		top    packtest.Entry
		answer []byte
		pack   []packtest.Entry
		want   bool
	}{
		{"child", child, ack, []packtest.Entry{child}, true},
		{"grandchild", grandchild, ack, []packtest.Entry{child, grandchild}, true},
		{"known, and nothing", child, ack, nil, false},
		{"a commit is left out", grandchild, ack, []packtest.Entry{grandchild}, false},
		{"another history", commit(), ack, []packtest.Entry{commit(), child}, false},
		{"not known", child, lines("NAK\n"), []packtest.Entry{child}, false},
	} {
		h := good(t)
		h.advert = say(lines(name(c.top).String()+" refs/heads/main\x00shallow multi_ack_detailed\n", ""))
		h.answer = then(c.answer, say(packtest.Pack(t, c.pack...)))
		n := reach(t, h, patient, nil)
		if got, err := n.Contains(t.Context(), nil, old, name(c.top)); err != nil || got != c.want {
			t.Errorf("%s: Contains = %t, %v, want %t", c.name, got, err, c.want)
		}
	}
	h := good(t)
	h.answer = then(ack, say(packtest.Pack(t)))
	n := reach(t, h, patient, nil)
	if got, err := n.Contains(t.Context(), nil, plumbing.NewHash(head), plumbing.NewHash(head)); err != nil || !got {
		t.Errorf("Contains itself = %t, %v", got, err)
	}
	if _, err := n.Contains(t.Context(), nil, plumbing.NewHash(head), old); !errors.Is(err, ErrMoved) {
		t.Errorf("Contains with a commit that nothing names = %v, want ErrMoved", err)
	}
}

func FuzzAdvert(f *testing.F) {
	f.Add(advert())
	f.Add(lines(head+" capabilities^{}\x00report-status\n", "shallow "+head+"\n", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		readAdvert(bytes.NewReader(data), func(name string, h plumbing.Hash) {
			if name == "" {
				t.Error("a reference without a name")
			}
		})
	})
}
