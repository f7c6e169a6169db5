package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// Put is what became of a channel object.
type Put struct {
	Changed bool              // false: it had these bytes already
	Before  *channels.Channel // what was replaced; nil: nothing, or no state of this channel
	Garbage error             // what was replaced was no state of this channel, and why
}

// PutTrust makes sure that the version of trust and its signatures are in the mirror. by
// are the trust documents that have the keys. The caller has verified all of it. The
// error has the reason "mismatch" when something else is in their place.
func (m Mirror) PutTrust(ctx context.Context, version int64, s signing.Signed, by ...*signing.Trust) error {
	d := layout.Sum(s.Doc)
	err := m.putSignatures(ctx, s, by, func(kid string) string { return layout.TrustSignatureKey(m.App, version, d, kid) })
	if err != nil {
		return err
	}
	key := layout.TrustKey(m.App, version)
	same, err := m.create(ctx, key, s.Doc, layout.MaxTrust, func([]byte) bool { return false })
	if err == nil && !same {
		err = reason.Errorf(reason.Mismatch, "object %q is another version %d of trust than the channel repo has: "+
			"if you started over with new keys, remove %s/trust and %s/channels from the bucket, or use a new storage.url; "+
			"if not, find out who wrote it", key, version, m.App, m.App)
	}
	return err
}

// maxTries bounds how often a channel object is looked at anew.
const maxTries = 10

// PutChannel makes s the channel of the tier, if it is newer than what is there. by is
// the trust that has the keys; the trust it was signed under is in the mirror already,
// and the caller has verified all of it. may is asked before anything is written. The
// error has the reason "stale" when the mirror has a newer state, or another one under
// the same counter, or is that of may.
func (m Mirror) PutChannel(ctx context.Context, tier string, s signing.Signed, by *signing.Trust, may func() error) (Put, error) {
	c, err := channels.ParseChannel(s.Doc)
	if err != nil {
		return Put{}, err
	}
	d, key := layout.Sum(s.Doc), layout.ChannelKey(m.App, tier)
	for try := 1; ; try++ {
		there, version, err := m.Bucket.Poll(ctx, key, "", layout.MaxChannel)
		switch {
		case absent(err):
			there, version = nil, ""
		case err != nil:
			return Put{}, err
		case version == "":
			return Put{}, fmt.Errorf("object %q: the bucket gives it no version, so it would be replaced blindly", key)
		}
		out, err := follow(c, s.Doc, there)
		if err != nil {
			return out, fmt.Errorf("object %q: %w", key, err)
		}
		if err := may(); err != nil {
			return out, err
		}
		// Also when the document is there already: a signature may have come since.
		err = m.putSignatures(ctx, s, []*signing.Trust{by}, func(kid string) string { return layout.ChannelSignatureKey(m.App, tier, d, kid) })
		if err != nil || !out.Changed {
			return out, err
		}
		_, err = m.Bucket.Replace(ctx, key, s.Doc, version)
		if !errors.Is(err, bucket.ErrChanged) || try == maxTries {
			return out, err
		}
	}
}

// follow decides whether c, whose bytes are doc, takes the place of what is there.
func follow(c *channels.Channel, doc, there []byte) (Put, error) {
	if bytes.Equal(doc, there) {
		return Put{Before: c}, nil
	}
	if there == nil {
		return Put{Changed: true}, nil
	}
	was, err := channels.ParseChannel(there)
	if err == nil && (was.App != c.App || was.Channel != c.Channel) {
		err = fmt.Errorf("it is of app %q, channel %q", was.App, was.Channel)
	}
	if err != nil {
		return Put{Changed: true, Garbage: err}, nil
	}
	out := Put{Changed: true, Before: was}
	switch order := c.Compare(was); {
	case order > 0:
		return out, nil
	case order == 0:
		err = reason.Errorf(reason.Stale, "it and the channel repo have two states with the counter (trust %d, seq %d)", c.Trust, c.Seq)
	default:
		err = reason.Errorf(reason.Stale, "it has version %s (trust %d, seq %d), which is newer than version %s (trust %d, seq %d) in the channel repo",
			was.Version, was.Trust, was.Seq, c.Version, c.Trust, c.Seq)
	}
	return Put{Before: was}, reason.Errorf(reason.Stale, "%w: nothing was written; builder promote %s --version %s signs a state that counts; "+
		"if nobody signed what is there, remove the object", err, c.Channel, c.Version)
}

// putSignatures creates the signatures of s.
func (m Mirror) putSignatures(ctx context.Context, s signing.Signed, by []*signing.Trust, key func(kid string) string) error {
	for _, kid := range slices.Sorted(maps.Keys(s.Sigs)) {
		good := func(sig []byte) bool {
			there := signing.Signed{Doc: s.Doc, Sigs: signing.Signatures{kid: sig}}
			return slices.ContainsFunc(by, func(t *signing.Trust) bool { return t.VerifyBy(kid, there) == nil })
		}
		same, err := m.create(ctx, key(kid), s.Sigs[kid], layout.MaxSignature, good)
		if err == nil && !same {
			err = reason.Errorf(reason.Mismatch, "object %q is not a signature by the key that its name says: remove it, and find out who wrote it", key(kid))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// create makes sure that the object is there, and reports whether it has these bytes, or
// others that good finds as good.
func (m Mirror) create(ctx context.Context, key string, data []byte, max int64, good func(there []byte) bool) (bool, error) {
	for range 2 {
		there, err := bucket.ReadAll(ctx, m.Bucket, key, max)
		switch {
		case err == nil:
			return bytes.Equal(there, data) || good(there), nil
		case reason.Of(err) == reason.Limit:
			return false, nil
		case !absent(err):
			return false, err
		}
		if err = m.Bucket.Create(ctx, key, bytes.NewReader(data), int64(len(data))); err == nil {
			return true, nil
		}
		if !errors.Is(err, fs.ErrExist) {
			return false, err
		}
	}
	return false, fmt.Errorf("object %q: it is there, and may not be read", key)
}
