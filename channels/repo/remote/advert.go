package remote

import (
	"fmt"
	"io"
	"strings"

	"github.com/go-git/go-git/v5/plumbing"
	"github.com/go-git/go-git/v5/plumbing/format/pktline"

	"makenot.work/sando/channels/repo/transport"
	"makenot.work/sando/internal/reason"
)

// capabilities is what the other side can do, word for word.
type capabilities map[string]bool

// only returns those of words that the other side knows, for a request.
func (c capabilities) only(words ...string) string {
	all := []string{"agent=sando"}
	for _, w := range words {
		if c[w] {
			all = append(all, w)
		}
	}
	return strings.Join(all, " ")
}

// readAdvert reads an advertisement up to its end: all references, one by one, since there
// may be very many.
//
//	[# service=NAME LF  flush]  (HASH SP NAME [NUL CAPABILITIES] LF)*  (shallow HASH LF)*  flush
func readAdvert(r io.Reader, each func(name string, h plumbing.Hash)) (capabilities, error) {
	p := &packets{s: pktline.NewScanner(r)}
	caps := capabilities{}
	for first := true; ; {
		line, err := p.next()
		switch {
		case err != nil:
			return nil, err
		case first && strings.HasPrefix(line, "# service="):
			if line, err = p.next(); err != nil || line != "" {
				return nil, fmt.Errorf("advertisement is malformed after its first line: %w", cut(err))
			}
			continue
		case line == "":
			return caps, nil
		case strings.HasPrefix(line, "version "), strings.HasPrefix(line, "shallow "):
			continue
		}
		ref, words, _ := strings.Cut(line, "\x00")
		if first {
			for _, w := range strings.Fields(words) {
				caps[w] = true
			}
			first = false
			if caps["object-format=sha256"] {
				return nil, reason.Errorf(reason.Config, "it has names of the kind sha256, which is not in this version; make it with git's defaults")
			}
		}
		hash, name, ok := strings.Cut(ref, " ")
		if !ok || !plumbing.IsHash(hash) || name == "" {
			return nil, reason.Errorf(reason.Format, "advertisement is malformed at %q", transport.Printable(ref))
		}
		if name != "capabilities^{}" {
			each(name, plumbing.NewHash(hash))
		}
	}
}

// packets reads git's lines.
type packets struct{ s *pktline.Scanner }

// next returns a line without its end; "" is a flush.
func (p *packets) next() (string, error) {
	if p.s.Scan() {
		return strings.TrimSuffix(string(p.s.Bytes()), "\n"), nil
	}
	return "", cut(p.s.Err())
}

// cut returns what an error of git's lines means.
func cut(err error) error {
	switch e := err.(type) {
	case nil:
		return fmt.Errorf("answer ends early: %w", io.ErrUnexpectedEOF)
	case *pktline.ErrorLine:
		return fmt.Errorf("the host says: %s", transport.Printable(e.Text))
	default:
		if err == pktline.ErrInvalidPktLen {
			return reason.Errorf(reason.Format, "answer is malformed: it is not in git's lines")
		}
		return err
	}
}

// capped ends with an error after max bytes.
type capped struct {
	r    io.Reader
	left int64
	what string
	max  int64
}

func newCapped(r io.Reader, what string, max int64) *capped { return &capped{r, max, what, max} }

func (c *capped) Read(p []byte) (int, error) {
	n, err := c.r.Read(p[:min(int64(len(p)), c.left+1)])
	if c.left -= int64(n); c.left < 0 {
		return 0, reason.Errorf(reason.Limit, "%s has more than %d bytes", c.what, c.max)
	}
	return n, err
}
