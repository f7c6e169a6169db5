// Package mirror is the copy of the channel repo in the bucket: nodes that follow it need
// one address to read from and no git. It moves bytes, as channels/repo does; what they
// mean, and whether they are to be believed, package channels and package signing decide.
//
// # Parties
//
// Whoever merges or promotes runs `builder mirror`, which verifies a state before it
// copies it. Pullers read. Who can write the bucket is trusted with nothing: he can
// withhold news, and show an older state or garbage.
//
// # Objects
//
// Their names are in package layout. Below <app>/:
//
//	trust/<N>-<digest16>.<kid16>.sigstore.json        created once
//	trust/<N>.json                                    created once
//	channels/<tier>-<digest16>.<kid16>.sigstore.json  created once
//	channels/<tier>.json                              replaced by a greater (trust, seq)
//
// A writer creates them in this order, so who sees a channel state can have all that
// belongs to it. The channel object is replaced only where it still is the version
// that was looked at; of two writers one wins, and the other looks again. What is
// there and is no channel state of this tier is replaced; an object that is created
// once and holds something else is an error that a person must look into.
//
// # Reading
//
// One object is asked for, with the version seen before: bucket.ErrSame is all there is
// to an idle poll. Trust and signatures are read only when it changed, so a new version
// of trust is seen when a channel is signed under it. Nothing is listed. A signature or a
// version of trust that is missing, or that a server denies as it does for what is missing,
// is not there yet.
//
// # What it does not protect from
//
// A state older than the accepted one is what a mirror that nobody updates shows, so it
// is called stale and no attack. A fresh node believes the newest state that the bucket
// shows it, unless its operator says how old it may be (channels.Floor).
package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// Mirror is the mirror of one app's channel repo.
type Mirror struct {
	Bucket bucket.Bucket
	App    string
}

// Copy is the channel object of a tier as it was polled.
type Copy struct {
	Version string // of the object
	Doc     []byte

	m    Mirror
	tier string
}

// Poll asks for the channel of a tier. The error matches bucket.ErrSame when its object
// is still the version given, and fs.ErrNotExist when there is none.
func (m Mirror) Poll(ctx context.Context, tier, version string) (*Copy, error) {
	doc, now, err := m.Bucket.Poll(ctx, layout.ChannelKey(m.App, tier), version, layout.MaxChannel)
	if err != nil {
		return nil, fmt.Errorf("mirror of channel %q: %w", tier, err)
	}
	return &Copy{Version: now, Doc: doc, m: m, tier: tier}, nil
}

// Signed returns the channel document with those signatures by kids that are there. One
// that is too long is there, but empty: it convinces nobody, and keeps nobody from seeing
// the others.
func (c *Copy) Signed(ctx context.Context, kids []string) (signing.Signed, error) {
	d := layout.Sum(c.Doc)
	return c.m.signed(ctx, c.Doc, kids, func(kid string) string { return layout.ChannelSignatureKey(c.m.App, c.tier, d, kid) })
}

// Walk follows the trust chain from held; see channels.Walk.
func (m Mirror) Walk(ctx context.Context, held *signing.Trust, accept func(next *signing.Trust, doc signing.Signed) error) (*signing.Trust, error) {
	asked, got := 0, 0
	t, err := channels.Walk(held, func(version int64, kids func(doc []byte) []string) (signing.Signed, error) {
		doc, err := bucket.ReadAll(ctx, m.Bucket, layout.TrustKey(m.App, version), layout.MaxTrust)
		if absent(err) {
			return signing.Signed{}, nil
		}
		if err != nil {
			return signing.Signed{}, fmt.Errorf("mirror of trust version %d: %w", version, err)
		}
		d, from := layout.Sum(doc), kids(doc)
		s, err := m.signed(ctx, doc, from, func(kid string) string { return layout.TrustSignatureKey(m.App, version, d, kid) })
		asked, got = len(from), len(s.Sigs)
		return s, err
	}, accept)
	if reason.Of(err) == reason.Signature && got < asked {
		err = lacking(err)
	}
	return t, err
}

func (m Mirror) signed(ctx context.Context, doc []byte, kids []string, key func(kid string) string) (signing.Signed, error) {
	s := signing.Signed{Doc: doc, Sigs: signing.Signatures{}}
	for _, kid := range kids {
		if len(s.Sigs) == layout.MaxSignatures {
			break
		}
		sig, err := bucket.ReadAll(ctx, m.Bucket, key(kid), layout.MaxSignature)
		switch {
		case absent(err):
			continue
		case reason.Of(err) == reason.Limit:
			sig = nil
		case err != nil:
			return signing.Signed{}, fmt.Errorf("mirror: %w", err)
		}
		s.Sigs[kid] = sig
	}
	return s, nil
}

// absent reports whether err says that there is no such object.
func absent(err error) bool { return errors.Is(err, fs.ErrNotExist) }

// Refused gives an error of channels.Accept about a copy, read with the signatures s of
// the keys kids, the words and the reason that fit a mirror.
func Refused(err error, s signing.Signed, kids []string) error {
	var older *channels.OlderError
	var below *channels.BelowError
	switch {
	case errors.As(err, &older):
		l, c := older.Last, older.Older
		return reason.Errorf(reason.Stale, "mirror of channel %q is older than what was accepted: (trust %d, seq %d) with version %s was accepted, "+
			"the bucket has (trust %d, seq %d) with version %s: `builder mirror %[1]s` brings it up to date; to roll back, run builder promote %[1]s --version %[7]s first",
			c.Channel, l.Trust, l.Seq, l.Version, c.Trust, c.Seq, c.Version)
	case errors.As(err, &below):
		f, c := below.Floor, below.Older
		return reason.Errorf(reason.Stale, "mirror of channel %q is older than this node lets count: the bucket has (trust %d, seq %d) with version %s, "+
			"channels.min_seq is %d: `builder mirror %[1]s` brings it up to date; if channels.min_seq is mistyped, or that of another tier, builder enroll NODE --tier %[1]s says which it is",
			c.Channel, c.Trust, c.Seq, c.Version, f.Seq)
	case reason.Of(err) == reason.Signature && len(s.Sigs) < len(kids):
		return lacking(err)
	default:
		return err
	}
}

// lacking is about signatures of which some are not there.
func lacking(err error) error {
	return reason.Errorf(reason.Signature, "%w; in the bucket a signature may only be missing yet: wait, or run `builder mirror`", err)
}
