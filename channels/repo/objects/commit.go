package objects

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

// Check reports, with the reason "config", whether a may be written into a commit.
func (a Author) Check() error {
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

// Commit is what a commit says of its place in the history.
type Commit struct {
	Tree    plumbing.Hash
	Parents []plumbing.Hash
}

// Commit reads the commit h.
func (s Store) Commit(h plumbing.Hash) (Commit, error) {
	data, err := s.Read(plumbing.CommitObject, h, MaxCommit)
	if err != nil {
		return Commit{}, err
	}
	return ParseCommit(data)
}

// ParseCommit reads the beginning of a commit. Errors have the reason "format".
func ParseCommit(data []byte) (Commit, error) {
	var c Commit
	for line := range bytes.Lines(data) {
		key, value, _ := strings.Cut(strings.TrimSuffix(string(line), "\n"), " ")
		switch {
		case key == "tree" && c.Tree == plumbing.ZeroHash && plumbing.IsHash(value):
			c.Tree = plumbing.NewHash(value)
		case key == "parent" && c.Tree != plumbing.ZeroHash && plumbing.IsHash(value):
			c.Parents = append(c.Parents, plumbing.NewHash(value))
		case c.Tree == plumbing.ZeroHash || key == "parent":
			return Commit{}, reason.Errorf(reason.Format, "commit is malformed at %q", key)
		default:
			return c, nil
		}
	}
	return Commit{}, reason.Errorf(reason.Format, "commit is malformed: it has no author")
}

// WriteCommit stores a commit of tree on top of parent (zero: none) and returns it.
func (s Store) WriteCommit(tree, parent plumbing.Hash, a Author, at time.Time, message string) (plumbing.Hash, error) {
	if err := a.Check(); err != nil {
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
	return s.Write(plumbing.CommitObject, buf.Bytes())
}
