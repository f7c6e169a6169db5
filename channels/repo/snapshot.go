package repo

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/go-git/go-git/v5/plumbing"

	"makenot.work/sando/channels/repo/objects"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// Snapshot is the channel repo at one commit. It is read from the mirror, and so can
// be used until the mirror is fetched into by another Repo.
type Snapshot struct {
	Commit    string
	Rewritten bool // the commit given to Fetch is not in this one's history

	r          *Repo
	hash, tree plumbing.Hash
}

// snapshot returns the commit of the mirror.
func (r *Repo) snapshot(commit plumbing.Hash) (*Snapshot, error) {
	c, err := r.m.Commit(commit)
	if err != nil {
		return nil, r.m.broken(err)
	}
	return &Snapshot{Commit: commit.String(), r: r, hash: commit, tree: c.Tree}, nil
}

// Read returns the regular file at path, below Config.Path. The error matches
// fs.ErrNotExist when there is none, and has the reason "format" for anything that is
// not a regular file in directories, "limit" for more than max bytes.
//
// When the mirror turns out to be broken the reason is "io", and the next Fetch makes
// it anew.
func (s *Snapshot) Read(path string, max int64) ([]byte, error) {
	if err := objects.CheckPath(path); err != nil {
		return nil, err
	}
	data, err := s.r.m.File(s.tree, s.r.below(path), max)
	if err = s.r.m.broken(err); errors.Is(err, errBroken) {
		err = errors.Join(err, s.r.drop())
	}
	if err != nil {
		return nil, fmt.Errorf("read %q in commit %.12s of the channel repo: %w", path, s.Commit, err)
	}
	return data, nil
}

// below returns the path in the repo of a path below Config.Path.
func (r *Repo) below(path string) string {
	if r.c.Path == "" {
		return path
	}
	return r.c.Path + "/" + path
}

// Signed returns the document at path with those signatures by kids that exist, at most
// layout.MaxSignatures of them. A signature that is too long or not a file is there, but
// empty: it convinces nobody, and keeps nobody from seeing the others.
func (s *Snapshot) Signed(path string, kids []string, max int64) (signing.Signed, error) {
	doc, err := s.Read(path, max)
	if err != nil {
		return signing.Signed{}, err
	}
	signed := signing.Signed{Doc: doc, Sigs: make(signing.Signatures)}
	for _, kid := range kids {
		if len(signed.Sigs) == layout.MaxSignatures {
			break
		}
		sig, err := s.Read(signing.SignatureFile(path, kid), layout.MaxSignature)
		switch code := reason.Of(err); {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case code == reason.Format || code == reason.Limit:
			sig = nil
		case err != nil:
			return signing.Signed{}, err
		}
		signed.Sigs[kid] = sig
	}
	return signed, nil
}
