package remote

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp/sideband"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/channels/repo/pack"
	"makenot.work/sando/channels/repo/transport"
	"makenot.work/sando/internal/reason"
)

// network is a repository on another machine.
type network struct {
	host transport.Host
	name string // for messages
	bounds
	walked walked
}

// walked is what the last fetch found out about the history.
type walked struct {
	old, commit plumbing.Hash
	found       bool
}

// bounds is what one conversation may cost.
type bounds struct {
	poll, fetch time.Duration
	advert      int64 // bytes on the wire
	pack        int64
	objects     int
}

func defaultBounds() bounds {
	return bounds{poll: time.Minute, fetch: 5 * time.Minute, advert: 16 << 20, pack: maxFetch, objects: maxObjects}
}

func openNetwork(c Config, p transport.Patience, b bounds) (*network, error) {
	host, err := transport.New(c, p)
	if err != nil {
		return nil, err
	}
	return &network{host: host, name: transport.Name(c.URL), bounds: b}, nil
}

func (n *network) Close() error { return n.host.Close() }

// errSlow is why a conversation ended that took too long.
func errSlow(d time.Duration) error {
	return fmt.Errorf("the host is too slow: not done after %s", d)
}

// conversation is an open session, whose advertisement was read.
type conversation struct {
	transport.Session
	caps   capabilities
	cancel context.CancelFunc
}

func (c *conversation) Close() error {
	defer c.cancel()
	return c.Session.Close()
}

// open begins a conversation, and reads what is advertised.
func (n *network) open(ctx context.Context, s transport.Service, d time.Duration, each func(string, plumbing.Hash)) (*conversation, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d, errSlow(d))
	session, err := n.host.Open(ctx, s)
	if err != nil {
		cancel()
		return nil, err
	}
	c := &conversation{Session: session, cancel: cancel}
	if c.caps, err = readAdvert(newCapped(session, "advertisement", n.advert), each); err != nil {
		return nil, errors.Join(n.wrap(err), c.Close())
	}
	return c, nil
}

// wrap names the repository in an error, unless it was named already.
func (n *network) wrap(err error) error {
	if err == nil || strings.HasPrefix(err.Error(), "repo ") {
		return err
	}
	return fmt.Errorf("repo %q: %w", n.name, err)
}

const heads = "refs/heads/"

func (n *network) Branch(ctx context.Context, name string) (plumbing.Hash, error) {
	var found plumbing.Hash
	c, err := n.open(ctx, transport.Read, n.poll, func(ref string, h plumbing.Hash) {
		if ref == heads+name {
			found = h
		}
	})
	if err != nil {
		return plumbing.ZeroHash, err
	}
	if found == plumbing.ZeroHash {
		err = reason.Errorf(reason.Stale, "repo %q has no branch %q; %s", n.name, name, noBranch)
	}
	return found, errors.Join(err, c.Close())
}

func (n *network) Branches(ctx context.Context, prefix string) (map[string]plumbing.Hash, error) {
	found := make(map[string]plumbing.Hash)
	c, err := n.open(ctx, transport.Read, n.poll, func(ref string, h plumbing.Hash) {
		if name, ok := strings.CutPrefix(ref, heads); ok && strings.HasPrefix(name, prefix) {
			found[name] = h
		}
	})
	if err != nil {
		return nil, err
	}
	return found, c.Close()
}

// Fetch asks for what the commit has and the newest one in the mirror has not. The host is
// told that the mirror has the whole past of that one too, which is not so; only then it
// leaves out what is not news, and what comes shows whether the history goes on. When
// something is missing because of that (an old file that came back, a history that was
// rewritten), the one commit is asked for, with everything in it.
func (n *network) Fetch(ctx context.Context, into Into, commit plumbing.Hash) error {
	if have := into.Head(); have != plumbing.ZeroHash {
		done, err := n.fetchNews(ctx, into, commit, have)
		if done || err != nil {
			return n.wrap(err)
		}
	}
	c, err := n.openAt(ctx, commit)
	if err != nil {
		return err
	}
	defer c.Close() // was only read
	answer, err := n.ask(c, query{want: commit, depth: 1})
	if err != nil {
		return n.wrap(err)
	}
	p, err := pack.Read(answer.pack, n.limits())
	if err != nil {
		return n.wrap(err)
	}
	return n.wrap(n.copy(ctx, p, into, commit))
}

func (n *network) limits() pack.Limits {
	return pack.Limits{Objects: n.objects, Bytes: maxFetch + maxFetch/2}
}

// copy copies the commit out of a pack.
func (n *network) copy(ctx context.Context, p *pack.Pack, into Into, commit plumbing.Hash) error {
	return (&copying{from: p, to: into, maxObjects: n.objects, seen: make(map[plumbing.Hash]bool)}).commit(ctx, commit)
}

// fetchNews reports whether the commit could be had in this way.
func (n *network) fetchNews(ctx context.Context, into Into, commit, have plumbing.Hash) (bool, error) {
	c, err := n.openAt(ctx, commit)
	if err != nil {
		return false, err
	}
	defer c.Close() // was only read
	answer, err := n.ask(c, query{want: commit, have: have})
	if err != nil || !answer.known {
		return false, err
	}
	p, err := pack.Read(answer.pack, n.limits())
	if reason.Of(err) == reason.Limit {
		return false, nil // a long history, perhaps
	}
	if err != nil {
		return false, err
	}
	if err := n.copy(ctx, p, into, commit); err != nil {
		if errors.Is(err, objects.ErrAbsent) {
			err = nil
		}
		return false, err
	}
	found, err := descends(p, have, commit)
	n.walked = walked{have, commit, found}
	return err == nil, err
}

// openAt begins to read, and sees whether the commit is still what some reference names:
// hosts give out nothing else.
func (n *network) openAt(ctx context.Context, commit plumbing.Hash) (*conversation, error) {
	named := false
	c, err := n.open(ctx, transport.Read, n.fetch, func(_ string, h plumbing.Hash) { named = named || h == commit })
	if err != nil {
		return nil, err
	}
	if !named {
		return nil, errors.Join(fmt.Errorf("%w: nothing names commit %s any more", ErrMoved, commit), c.Close())
	}
	return c, nil
}

// Contains asks for the commits that commit has and old has not, and follows them. What is
// said about old counts only where it is that old is not known there; that it is an ancestor
// is seen from commits, by their hashes.
func (n *network) Contains(ctx context.Context, _ Into, old, commit plumbing.Hash) (bool, error) {
	if old == commit {
		return true, nil
	}
	if n.walked.old == old && n.walked.commit == commit {
		return n.walked.found, nil
	}
	c, err := n.openAt(ctx, commit)
	if err != nil {
		return false, err
	}
	defer c.Close() // was only read
	answer, err := n.ask(c, query{want: commit, have: old, filter: c.caps["filter"]})
	if err != nil {
		return false, n.wrap(err)
	}
	if !answer.known {
		return false, nil // nor any commit that has it in its past
	}
	p, err := pack.History(answer.pack, pack.Limits{Objects: maxCommits, Bytes: maxHistory, Skipped: 16 * maxFetch})
	if reason.Of(err) == reason.Limit {
		return false, nil
	}
	if err != nil {
		return false, n.wrap(err)
	}
	return descends(p, old, commit)
}

// descends goes back from commit through p until it meets old.
func descends(p *pack.Pack, old, commit plumbing.Hash) (bool, error) {
	seen := map[plumbing.Hash]bool{commit: true}
	for todo := []plumbing.Hash{commit}; len(todo) > 0; {
		h := todo[0]
		todo = todo[1:]
		if h == old {
			return true, nil
		}
		data, err := p.Read(plumbing.CommitObject, h, objects.MaxCommit)
		if errors.Is(err, objects.ErrAbsent) {
			continue // old has it too
		}
		var c objects.Commit
		if err == nil {
			c, err = objects.ParseCommit(data)
		}
		if err != nil {
			return false, err
		}
		for _, parent := range c.Parents {
			if !seen[parent] {
				seen[parent] = true
				todo = append(todo, parent)
			}
		}
	}
	return false, nil
}

// query is a request to git-upload-pack.
type query struct {
	want, have plumbing.Hash // a zero have: nothing
	depth      int           // 0: all of it
	filter     bool          // commits alone
}

func (q query) encode(caps capabilities) []byte {
	var buf bytes.Buffer
	e := pktline.NewEncoder(&buf)
	words := []string{"multi_ack_detailed", "side-band-64k", "ofs-delta", "no-progress"}
	if q.depth > 0 {
		words = append(words, "shallow")
	}
	if q.filter {
		words = append(words, "filter")
	}
	e.Encodef("want %s %s\n", q.want, caps.only(words...)) // a buffer takes everything
	if q.depth > 0 {
		e.Encodef("deepen %d\n", q.depth)
	}
	if q.filter {
		e.Encodef("filter tree:0\n")
	}
	e.Flush()
	if q.have != plumbing.ZeroHash {
		e.Encodef("have %s\n", q.have)
	}
	e.Encodef("done\n")
	return buf.Bytes()
}

// answer is what git-upload-pack says to a query.
type answer struct {
	known bool // the host has what was said to be had
	pack  io.Reader
}

// ask sends a query, and reads the answer up to the pack.
//
//	[(shallow HASH | unshallow HASH)* flush]  (ACK HASH WORD)*  (ACK HASH | NAK)  pack
func (n *network) ask(c *conversation, q query) (answer, error) {
	if !c.caps["shallow"] {
		q.depth = 0
	}
	if err := c.Ask(q.encode(c.caps)); err != nil {
		return answer{}, err
	}
	r := newCapped(c, "pack", n.pack)
	p := &packets{pktline.NewScanner(r)}
	for q.depth > 0 {
		line, err := p.next()
		if err != nil {
			return answer{}, err
		}
		if line == "" {
			break
		}
	}
	var a answer
	for {
		line, err := p.next()
		if err != nil {
			return answer{}, err
		}
		words := strings.Fields(line)
		switch {
		case line == "NAK" || len(words) == 2 && words[0] == "ACK":
			a.known = line != "NAK"
			a.pack = r
			if c.caps["side-band-64k"] {
				a.pack = &demux{s: pktline.NewScanner(r)}
			}
			return a, nil
		case len(words) == 3 && words[0] == "ACK":
		default:
			return answer{}, reason.Errorf(reason.Format, "answer is malformed at %q", transport.Printable(line))
		}
	}
}

// demux reads what is in the first band, which has the data. The second, which has
// progress, goes to progress unless that is nil, and the third ends it.
type demux struct {
	s        *pktline.Scanner
	progress io.Writer
	rest     []byte
}

func (d *demux) Read(p []byte) (int, error) {
	for len(d.rest) == 0 {
		if !d.s.Scan() {
			if err := d.s.Err(); err != nil {
				return 0, cut(err)
			}
			return 0, io.EOF
		}
		line := d.s.Bytes()
		if len(line) == 0 {
			return 0, io.EOF
		}
		switch sideband.Channel(line[0]) {
		case sideband.PackData:
			d.rest = line[1:]
		case sideband.ProgressMessage:
			if d.progress != nil {
				if _, err := d.progress.Write(line[1:]); err != nil {
					return 0, err
				}
			}
		case sideband.ErrorMessage:
			return 0, fmt.Errorf("the host says: %s", transport.Printable(string(line[1:])))
		default:
			return 0, reason.Errorf(reason.Format, "answer is malformed: it has a band %d", line[0])
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}
