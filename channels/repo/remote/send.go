package remote

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/packfile"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"
	"github.com/go-git/go-git/v5/plumbing/protocol/packp"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/channels/repo/transport"
	"makenot.work/sando/internal/reason"
)

// Push is done in process, so that the rules of who is trusted are the same as for reading.
// What the branch was is sent along: of two writers, the host refuses the later one.
func (n *network) Push(ctx context.Context, gitDir string, commit plumbing.Hash, branch string, force bool) error {
	var now plumbing.Hash
	c, err := n.open(ctx, transport.Write, n.fetch, func(ref string, h plumbing.Hash) {
		if ref == heads+branch {
			now = h
		}
	})
	if err != nil {
		return err
	}
	defer c.Close() // all that counts was read
	if now == commit {
		return nil
	}
	var body bytes.Buffer
	if err := n.encodePush(&body, c, gitDir, update{branch, now, commit, force}); err != nil {
		return err
	}
	if err := c.Ask(body.Bytes()); err != nil {
		return n.unclear(ctx, err)
	}
	return n.verdict(ctx, c, force)
}

// update is a change of a branch; a zero hash is none.
type update struct {
	branch   string
	old, new plumbing.Hash
	force    bool
}

func (n *network) encodePush(w *bytes.Buffer, c *conversation, gitDir string, u update) error {
	if !c.caps["report-status"] {
		return n.wrap(reason.Errorf(reason.Config, "its host does not report what became of a push: it is too old"))
	}
	words := c.caps.only("report-status", "side-band-64k", "delete-refs", "ofs-delta")
	e := pktline.NewEncoder(w)
	if err := e.Encodef("%s %s %s%s\x00%s", u.old, u.new, heads, u.branch, words); err != nil {
		return err
	}
	if err := e.Flush(); err != nil || u.new == plumbing.ZeroHash {
		return err
	}
	s := objects.Open(gitDir)
	all, parents, err := news(s, u.new)
	if err != nil {
		return err
	}
	if !u.force && u.old != plumbing.ZeroHash && !slices.Contains(parents, u.old) {
		return &PushError{Busy, fmt.Sprintf("branch %q is at %s, which commit %s does not follow", u.branch, u.old, u.new)}
	}
	_, err = packfile.NewEncoder(w, s.Git(), false).Encode(all, 0)
	return err
}

// news returns the parents of a commit, and the objects that it has and its first parent has
// not. A parent that is not there (as those of every commit but the newest) has nothing.
func news(s objects.Store, h plumbing.Hash) (all, parents []plumbing.Hash, err error) {
	c, err := s.Commit(h)
	if err != nil {
		return nil, nil, err
	}
	d := difference{s: s, seen: make(map[plumbing.Hash]bool)}
	var old plumbing.Hash
	if len(c.Parents) > 0 {
		if has, err := s.Has(c.Parents[0]); err != nil {
			return nil, nil, err
		} else if has {
			parent, err := s.Commit(c.Parents[0])
			if err != nil {
				return nil, nil, err
			}
			old = parent.Tree
		}
	}
	if err := d.tree(c.Tree, old); err != nil {
		return nil, nil, err
	}
	return append(d.all, h), c.Parents, nil
}

// difference collects the objects of one tree that another one has not in the same place.
type difference struct {
	s    objects.Store
	all  []plumbing.Hash
	seen map[plumbing.Hash]bool
}

func (d *difference) tree(now, old plumbing.Hash) error {
	if now == old || d.seen[now] {
		return nil
	}
	d.seen[now] = true
	entries, err := d.s.Tree(now)
	if err != nil {
		return err
	}
	before := make(map[string]objects.Entry)
	if old != plumbing.ZeroHash {
		was, err := d.s.Tree(old)
		if err != nil {
			return err
		}
		for _, e := range was {
			before[e.Name] = e
		}
	}
	for _, e := range entries {
		was := before[e.Name]
		switch {
		case e.Hash == was.Hash || e.Mode == objects.ModeSubmodule:
		case e.IsDir() && was.IsDir():
			err = d.tree(e.Hash, was.Hash)
		case e.IsDir():
			err = d.tree(e.Hash, plumbing.ZeroHash)
		case !d.seen[e.Hash]:
			d.seen[e.Hash] = true
			d.all = append(d.all, e.Hash)
		}
		if err != nil {
			return err
		}
	}
	d.all = append(d.all, now)
	return nil
}

// maxReport bounds what is read after a push, in bytes.
const maxReport = 1 << 20

// verdict reads what became of a push.
func (n *network) verdict(ctx context.Context, c *conversation, force bool) error {
	var r io.Reader = newCapped(c, "report", maxReport)
	var words tail
	if c.caps["side-band-64k"] {
		r = &demux{s: pktline.NewScanner(r), progress: &words}
	}
	report := packp.NewReportStatus()
	if err := report.Decode(r); err != nil {
		return n.unclear(ctx, fmt.Errorf("%w %s", cut(err), transport.Printable(string(words.data))))
	}
	if report.Error() == nil && len(report.CommandStatuses) == 1 {
		return nil
	}
	text := "unpack " + report.UnpackStatus
	if len(report.CommandStatuses) > 0 {
		text = report.CommandStatuses[0].Status
	}
	said := &said{out: tail{[]byte(text)}, err: words}
	p := &PushError{Refused, "the host refused: " + transport.Printable(text+"; "+string(words.data))}
	if said.late() || !force && strings.Contains(text, "fetch first") {
		p.Verdict = Busy
	}
	return p
}

// unclear is the error about a push whose end nobody heard.
func (n *network) unclear(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return n.wrap(err)
	}
	return &PushError{Unclear, n.wrap(err).Error()}
}
