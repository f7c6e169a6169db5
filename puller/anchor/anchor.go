// Package anchor finds the version of trust that a person named by its fingerprint, for a
// node that has no anchor yet.
//
// # Parties
//
// Whoever enrolls the node passes the fingerprint on: the SHA-256 of the bytes of one
// version of trust. The channel repo, or the bucket that mirrors it, is asked for the bytes
// and is believed nothing: bytes with another hash are not returned.
//
// # What it does not protect from
//
// Which of its versions the fingerprint names is for the person who said it. An old one, of
// which a root key fell into wrong hands, is found like any other; nobody's signature is
// looked at, as for an anchor that was copied by hand.
package anchor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// Source says where versions of trust are: in the channel repo, or in a bucket that
// mirrors it.
type Source struct {
	App    string
	Repo   *repo.Config // nil: the bucket
	Bucket bucket.Config
}

// Found is a version of trust that has the fingerprint asked for.
type Found struct {
	Doc   []byte // what the anchor is to hold, byte for byte
	Trust *signing.Trust
}

// ParseFingerprint reads a fingerprint as builder prints it, "sha256:…", or as sha256sum
// does, without that. Its error has the reason "config".
func ParseFingerprint(s string) (layout.Digest, error) {
	d := layout.Digest("sha256:" + strings.ToLower(strings.TrimPrefix(strings.TrimSpace(s), "sha256:")))
	if err := d.Check(); err != nil {
		return "", reason.Errorf(reason.Config, "trust fingerprint %q is not sha256: and 64 hex digits", s)
	}
	return d, nil
}

// maxVersions bounds how many versions are looked at: as many as a node walks in one poll.
const maxVersions = channels.MaxWalk

// Find returns the version of trust with this fingerprint, of the first maxVersions. Its
// errors have the reason "signature" when no version has it, a NotFound; "stale" when
// there is no version at all; "format" or "policy" when what has it is no trust of this app; and
// those of reading.
func Find(ctx context.Context, s Source, fingerprint layout.Digest) (*Found, error) {
	if err := fingerprint.Check(); err != nil {
		return nil, reason.Wrap(reason.Config, err)
	}
	read, done, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	missing := &NotFound{Fingerprint: fingerprint, Place: s.place()}
	for version := int64(1); version <= maxVersions; version++ {
		doc, err := read(version)
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(missing.Seen) == 0:
			if missing.absent == nil {
				missing.absent = err
			}
			continue // who moved to another repo may not have brought the first ones
		case errors.Is(err, fs.ErrNotExist):
			return nil, missing.err()
		case reason.Of(err) == reason.Format, reason.Of(err) == reason.Limit:
			missing.Seen = append(missing.Seen, Seen{Version: version})
			continue // garbage must not hide what is behind it
		case err != nil:
			return nil, fmt.Errorf("look for trust %s: %w", fingerprint, err)
		}
		if d := layout.Sum(doc); d != fingerprint {
			missing.Seen = append(missing.Seen, Seen{version, d})
			continue
		}
		return s.found(doc)
	}
	return nil, missing.err()
}

func (s Source) found(doc []byte) (*Found, error) {
	t, err := signing.ParseTrust(doc)
	if err != nil {
		return nil, err
	}
	if t.App != s.App {
		return nil, reason.Errorf(reason.Policy, "trust %s is of app %q, want %q: the fingerprint is another app's", layout.Sum(doc), t.App, s.App)
	}
	return &Found{doc, t}, nil
}

func (s Source) place() string {
	if s.Repo == nil {
		return "mirror in the bucket"
	}
	return "channel repo"
}

// open returns how a version is read; done ends it.
func (s Source) open(ctx context.Context) (read func(version int64) ([]byte, error), done func(), err error) {
	if s.Repo != nil {
		return openRepo(ctx, *s.Repo)
	}
	b, err := bucket.Open(ctx, s.Bucket)
	if err != nil {
		return nil, nil, fmt.Errorf("open storage: %w", err)
	}
	return func(version int64) ([]byte, error) {
		return bucket.ReadAll(ctx, b, layout.TrustKey(s.App, version), layout.MaxTrust)
	}, func() {}, nil
}

// openRepo reads from one commit, seen through a mirror of its own.
func openRepo(ctx context.Context, c repo.Config) (read func(version int64) ([]byte, error), done func(), err error) {
	tmp, err := os.MkdirTemp("", "puller-trust-")
	if err != nil {
		return nil, nil, reason.OnDisk(err)
	}
	r, err := repo.Open(tmp, c)
	if err != nil {
		return nil, nil, errors.Join(err, os.RemoveAll(tmp))
	}
	done = func() {
		r.Close() // nothing is written through it
		os.RemoveAll(tmp)
	}
	snap, err := r.Fetch(ctx, "")
	if err != nil {
		done()
		return nil, nil, err
	}
	return func(version int64) ([]byte, error) { return snap.Read(repo.TrustFile(version), layout.MaxTrust) }, done, nil
}

// NotFound is the error of Find when no version of trust has the fingerprint.
type NotFound struct {
	Fingerprint layout.Digest
	Place       string
	Seen        []Seen

	absent error // what was said instead of the first version
}

// Seen is a version of trust that there is. One that is no file, or too long, has no
// fingerprint.
type Seen struct {
	Version     int64
	Fingerprint layout.Digest
}

func (e *NotFound) Error() string {
	if len(e.Seen) == 0 {
		return fmt.Sprintf("the %s holds no version of trust, so none with the fingerprint %s: are its address and path right, and did `builder mirror` run where nodes read the bucket? (%v)",
			e.Place, e.Fingerprint, e.absent)
	}
	var seen []string
	for _, s := range e.Seen {
		d := string(s.Fingerprint)
		if d == "" {
			d = "unreadable"
		}
		seen = append(seen, fmt.Sprintf("version %d is %s", s.Version, d))
	}
	return fmt.Sprintf("no version of trust in the %s has the fingerprint %s: %s; either that place is another app's or somebody changed it, "+
		"or the fingerprint is mistyped: compare it with what `builder enroll` prints", e.Place, e.Fingerprint, strings.Join(seen, ", "))
}

func (e *NotFound) err() error {
	if len(e.Seen) == 0 {
		return reason.Wrap(reason.Stale, e)
	}
	return reason.Wrap(reason.Signature, e)
}
