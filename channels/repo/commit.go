package repo

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

// Author is who makes a commit.
type Author struct {
	Name, Email string
}

func (a Author) check() error {
	for _, s := range []string{a.Name, a.Email} {
		if err := canon.Text(s, false); err != nil {
			return reason.Errorf(reason.Config, "author: %w", err)
		}
		if strings.ContainsAny(s, "<>") || strings.TrimSpace(s) != s {
			return reason.Errorf(reason.Config, "author: %q holds < or >, or begins or ends with a space", s)
		}
	}
	if a.Name == "" {
		return reason.Errorf(reason.Config, "author: no name")
	}
	return nil
}

// commitHead is what this package needs of a commit.
type commitHead struct {
	tree    plumbing.Hash
	parents []plumbing.Hash
}

// commit reads the commit h.
func (s store) commit(h plumbing.Hash) (commitHead, error) {
	data, err := s.read(plumbing.CommitObject, h, maxCommit)
	if err != nil {
		return commitHead{}, err
	}
	return parseCommit(data)
}

func parseCommit(data []byte) (commitHead, error) {
	var c commitHead
	for line := range bytes.Lines(data) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch {
		case key == "tree" && c.tree == plumbing.ZeroHash && plumbing.IsHash(value):
			c.tree = plumbing.NewHash(value)
		case key == "parent" && c.tree != plumbing.ZeroHash && plumbing.IsHash(value):
			c.parents = append(c.parents, plumbing.NewHash(value))
		case c.tree == plumbing.ZeroHash || key == "parent":
			return commitHead{}, reason.Errorf(reason.Format, "commit is malformed at %q", key)
		default:
			return c, nil
		}
	}
	return commitHead{}, reason.Errorf(reason.Format, "commit is malformed: it has no author")
}

// writeCommit stores a commit of tree on top of parent (zero: none) and returns it.
func (s store) writeCommit(tree, parent plumbing.Hash, a Author, at time.Time, message string) (plumbing.Hash, error) {
	if err := a.check(); err != nil {
		return plumbing.ZeroHash, err
	}
	if err := canon.Text(message, true); err != nil {
		return plumbing.ZeroHash, reason.Errorf(reason.Format, "commit message: %w", err)
	}
	message = strings.TrimSpace(message)
	if message == "" {
		return plumbing.ZeroHash, errors.New("commit message is empty")
	}
	var buf bytes.Buffer
	fmt.Fprintf(&buf, "tree %s\n", tree)
	if parent != plumbing.ZeroHash {
		fmt.Fprintf(&buf, "parent %s\n", parent)
	}
	who := fmt.Sprintf("%s <%s> %d +0000", a.Name, a.Email, at.Unix())
	fmt.Fprintf(&buf, "author %s\ncommitter %s\n\n%s\n", who, who, message)
	return s.write(plumbing.CommitObject, buf.Bytes())
}
