// Package candidate collects root signatures over the next version of trust: in files, so
// that each root holder can do it where the key is, on a machine with no network.
//
// # Files
//
//	<N>.json                         the candidate, version N
//	<N>.json.<kid16>.sigstore.json   signatures, made here or by another tool
//	<N-1>.json                       the version that it follows; none for version 1
//
// in one directory: that is how trust/ in a clone of the channel repo looks. The
// version before is believed as it lies there: whether nodes hold it, they find out by
// themselves, and so does the builder that publishes the candidate.
//
// A candidate is complete when enough keys of the role root of both versions have signed
// it. It does not say whether what the candidate changes is wise; Changes names it.
package candidate

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"makenot.work/sando/internal/durable"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// Candidate is a version of trust that is being signed.
type Candidate struct {
	*signing.Trust
	Signed signing.Signed // with the good signatures that lie beside the file
	Before *signing.Trust // nil for version 1

	file string
}

// Load reads a candidate. Errors have the reason "config" for a file that is missing or
// has another name than its version wants, "policy" for the version before of another
// app, "format" and "limit" for what no node would read.
func Load(file string) (*Candidate, error) {
	doc, t, err := load(file)
	if err != nil {
		return nil, err
	}
	c := &Candidate{Trust: t, Signed: signing.Signed{Doc: doc, Sigs: signing.Signatures{}}, file: file}
	if want := fmt.Sprintf("%d.json", t.Version); filepath.Base(file) != want {
		return nil, reason.Errorf(reason.Config, "%q says version %d: name it %s, as in trust/ of the channel repo", file, t.Version, want)
	}
	if t.Version > 1 {
		before := filepath.Join(filepath.Dir(file), fmt.Sprintf("%d.json", t.Version-1))
		if _, c.Before, err = load(before); err != nil {
			return nil, fmt.Errorf("version before: %w", err)
		}
		if c.Before.App != t.App || c.Before.Version != t.Version-1 {
			return nil, reason.Errorf(reason.Policy, "%q is version %d of app %q, want version %d of app %q",
				before, c.Before.Version, c.Before.App, t.Version-1, t.App)
		}
	}
	for _, kid := range c.kids() {
		sig, err := readFile(c.signature(kid), layout.MaxSignature)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err == nil && c.good(kid, sig) {
			c.Signed.Sigs[kid] = sig
		}
	}
	return c, nil
}

func load(file string) ([]byte, *signing.Trust, error) {
	doc, err := readFile(file, layout.MaxTrust)
	if err != nil {
		return nil, nil, reason.Wrap(reason.Config, err)
	}
	t, err := signing.ParseTrust(doc)
	if err != nil {
		return nil, nil, fmt.Errorf("%q: %w", file, err)
	}
	return doc, t, nil
}

func readFile(name string, max int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err == nil && int64(len(data)) > max {
		err = reason.Errorf(reason.Limit, "%q: more than %d bytes", name, max)
	}
	return data, err
}

func (c *Candidate) signature(kid string) string { return signing.SignatureFile(c.file, kid) }

// kids returns the root keys of both versions.
func (c *Candidate) kids() []string {
	kids := c.Kids(signing.RoleRoot)
	if c.Before != nil {
		kids = append(kids, c.Before.Kids(signing.RoleRoot)...)
	}
	slices.Sort(kids)
	return slices.Compact(kids)
}

// good reports whether sig is by the root key kid, which one of the versions has.
func (c *Candidate) good(kid string, sig []byte) bool {
	s := signing.Signed{Doc: c.Signed.Doc, Sigs: signing.Signatures{kid: sig}}
	return c.VerifyBy(kid, s) == nil || c.Before != nil && c.Before.VerifyBy(kid, s) == nil
}

// Signer is the private half of a key.
type Signer interface {
	Public() *signing.PublicKey
	Sign(doc []byte) ([]byte, error)
}

// Sign writes the signature of a root key beside the candidate and returns its file. It
// reports false for a key that has signed it already. The error has the reason "signature"
// for a key that counts in neither version.
func (c *Candidate) Sign(s Signer) (file string, fresh bool, err error) {
	kid := s.Public().Kid()
	if !slices.Contains(c.kids(), kid) {
		return "", false, reason.Errorf(reason.Signature, "key %s is a root key neither of version %d nor of the one before: it would not count",
			layout.Short(kid), c.Version)
	}
	if _, there := c.Signed.Sigs[kid]; there {
		return c.signature(kid), false, nil
	}
	sig, err := s.Sign(c.Signed.Doc)
	if err != nil {
		return "", false, err
	}
	// A file that is there is over an earlier draft.
	if err := durable.WriteFile(c.signature(kid), sig, 0o644); err != nil {
		return "", false, err
	}
	c.Signed.Sigs[kid] = sig
	return c.signature(kid), true, nil
}

// Changes says, for the person who is to sign, what the candidate changes.
func (c *Candidate) Changes() []string {
	before := c.Before
	if before == nil {
		before = new(signing.Trust)
	}
	roles := slices.Sorted(maps.Keys(c.Roles))
	roles = append(roles, slices.Sorted(maps.Keys(before.Roles))...)
	slices.Sort(roles)
	list := []string{}
	for _, name := range slices.Compact(roles) {
		was, there := before.Roles[name]
		now, stays := c.Roles[name]
		switch {
		case !stays:
			list = append(list, fmt.Sprintf("role %s is gone", name))
			continue
		case !there:
			list = append(list, fmt.Sprintf("role %s is new, needs %d of %d keys", name, now.Threshold, len(now.Keys)))
		case was.Threshold != now.Threshold || len(was.Keys) != len(now.Keys):
			list = append(list, fmt.Sprintf("role %s needs %d of %d keys, needed %d of %d", name, now.Threshold, len(now.Keys), was.Threshold, len(was.Keys)))
		}
		list = append(list, differ(fmt.Sprintf("role %s: key ", name), was.Keys, now.Keys)...)
	}
	return append(list, differ("revoked: ", digests(before.Revoked), digests(c.Revoked))...)
}

func digests(list []layout.Digest) (text []string) {
	for _, d := range list {
		text = append(text, string(d))
	}
	return text
}

// differ names what was added and taken away.
func differ(what string, was, now []string) (list []string) {
	for _, s := range now {
		if !slices.Contains(was, s) {
			list = append(list, what+s+" added")
		}
	}
	for _, s := range was {
		if !slices.Contains(now, s) {
			list = append(list, what+s+" removed")
		}
	}
	return list
}
