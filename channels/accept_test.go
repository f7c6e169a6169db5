package channels_test

import (
	"bytes"
	"errors"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon/canontest"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

type acceptCase struct {
	name   string
	signed signing.Signed
	last   []byte
	reason reason.Code // "current": nothing new; "updated": news
	want   string      // in the error
}

// run offers each case to a node of app mnw, tier b, that holds f's trust.
func run(t *testing.T, f fleet, cases []acceptCase) {
	t.Helper()
	for _, test := range cases {
		t.Run(test.name, func(t *testing.T) {
			c, news, err := channels.Accept(f.trust, "mnw", "b", test.signed, test.last)
			got := reason.Of(err)
			if err == nil && news {
				got = reason.Updated
			}
			if got != test.reason {
				t.Fatalf("Accept: news %v, error %v (%s), want %s", news, err, got, test.reason)
			}
			if err != nil {
				check(t, err, test.reason, test.want)
				if c != nil || news {
					t.Errorf("refused, and still returned %v, %v", c, news)
				}
				return
			}
			if again := encode(t, c); !bytes.Equal(again, test.signed.Doc) {
				t.Errorf("accepted another document:\n%s", again)
			}
		})
	}
}

// The counter: whatever is offered is well signed.
func TestAcceptCounter(t *testing.T) {
	f := newFleet(t)
	last := encode(t, state(same))
	offer := func(change func(*channels.Channel)) signing.Signed { return signed(t, encode(t, state(change)), f.b) }
	const seq = 1780455236000
	run(t, f, []acceptCase{
		{"the first", offer(same), nil, reason.Updated, ""},
		{"the same bytes", offer(same), last, reason.Current, ""},
		{"the next", offer(func(c *channels.Channel) { c.Seq++; c.Version = "0.9.6" }), last, reason.Updated, ""},
		{"the next, older version", offer(func(c *channels.Channel) { c.Seq++; c.Version = "0.9.4" }), last, reason.Updated, ""},
		{"the next, halted", offer(func(c *channels.Channel) { c.Seq++; c.Rollout = 0 }), last, reason.Updated, ""},
		{"expired already", offer(func(c *channels.Channel) { c.Seq++; c.Expires = at("2026-06-03T02:53:57Z") }), last, reason.Updated, ""},
		{"signed under an older trust", offer(func(c *channels.Channel) { c.Trust = 1 }), nil, reason.Updated, ""},
		{"new trust, smaller seq", offer(func(c *channels.Channel) { c.Seq = 1 }), encode(t, state(func(c *channels.Channel) { c.Trust, c.Seq = 1, channels.MaxSeq })), reason.Updated, ""},

		{"smaller seq", offer(func(c *channels.Channel) { c.Seq-- }), last, reason.Replay, "counter went back: (trust 2, seq 1780455236000) with version 0.9.5 was accepted"},
		{"smaller seq, newer version", offer(func(c *channels.Channel) { c.Seq--; c.Version = "0.9.6" }), last, reason.Replay, "(trust 2, seq 1780455235999) with version 0.9.6 is older"},
		{"smaller seq, issued later", offer(func(c *channels.Channel) { c.Seq--; c.Issued = at("2026-06-04T00:00:00Z") }), last, reason.Replay, "counter went back"},
		{"old file as a revert brings it back", offer(func(c *channels.Channel) { c.Seq -= 1000; c.Version = "0.9.4" }), last, reason.Replay, "git revert, which nodes refuse; to roll back run builder promote b --version 0.9.4"},
		{"older trust, greater seq", offer(func(c *channels.Channel) { c.Trust, c.Seq = 1, seq+1 }), last, reason.Replay, "(trust 1, seq 1780455236001)"},
		{"equal seq, other version", offer(func(c *channels.Channel) { c.Version = "0.9.6" }), last, reason.Replay, "two states have the counter (trust 2, seq 1780455236000): version 0.9.5 was accepted, version 0.9.6 is refused; builder promote b --version 0.9.6"},
		{"equal seq, other rollout", offer(func(c *channels.Channel) { c.Rollout = 99 }), last, reason.Replay, "two states have the counter"},
		{"equal seq, no expiry", offer(func(c *channels.Channel) { c.Expires = c.Issued; c.Expires.Time = c.Expires.AddDate(1, 0, 0) }), last, reason.Replay, "two states have the counter"},

		{"signed under a trust not reached", offer(func(c *channels.Channel) { c.Trust = 3 }), last, reason.Signature, "signed under trust version 3, this node has reached version 2: trust/3.json is missing or was refused"},
		{"made-up trust", offer(func(c *channels.Channel) { c.Trust = channels.MaxSeq }), nil, reason.Signature, "signed under trust version 9007199254740991"},
	})
}

// A->B->A->B, each a fresh state: every one is accepted. The same four replayed: none.
func TestAcceptBackAndForth(t *testing.T) {
	f := newFleet(t)
	var last []byte
	var seen []signing.Signed
	for i, version := range []string{"1.0", "2.0", "1.0", "2.0"} {
		s := signed(t, encode(t, state(func(c *channels.Channel) { c.Seq += int64(i); c.Version = version })), f.b)
		c, news, err := channels.Accept(f.trust, "mnw", "b", s, last)
		if err != nil || !news || c.Version != version {
			t.Fatalf("%d: %v, %v, %v", i, c, news, err)
		}
		last, seen = s.Doc, append(seen, s)
	}
	for i, s := range seen[:3] {
		_, _, err := channels.Accept(f.trust, "mnw", "b", s, last)
		if reason.Of(err) != reason.Replay {
			t.Errorf("%d again: %v (%s), want replay", i, err, reason.Of(err))
		}
	}
}

func TestAcceptSignatures(t *testing.T) {
	f := newFleet(t)
	doc := encode(t, state(same))
	good := signed(t, doc, f.b)
	kid := f.b.Public().Kid()
	with := func(bundle []byte) signing.Signed {
		return signing.Signed{Doc: doc, Sigs: signing.Signatures{kid: bundle}}
	}
	flipped := bytes.Clone(doc)
	flipped[bytes.Index(doc, []byte("0.9.5"))+4] = '6'
	run(t, f, []acceptCase{
		{"good", good, nil, reason.Updated, ""},
		{"missing", signing.Signed{Doc: doc}, nil, reason.Signature, "no signature"},
		{"empty", with(nil), nil, reason.Signature, "malformed signature"},
		{"of another state", with(signed(t, encode(t, state(func(c *channels.Channel) { c.Seq++ })), f.b).Sigs[kid]), nil, reason.Signature, "over another document"},
		{"one byte of the document", signing.Signed{Doc: flipped, Sigs: good.Sigs}, nil, reason.Signature, "over another document"},
		{"newline behind the document", signing.Signed{Doc: append(bytes.Clone(doc), '\n'), Sigs: good.Sigs}, nil, reason.Signature, "over another document"},
		{"key of all channels", signed(t, doc, f.all), nil, reason.Signature, "not in this role"},
		{"release key", signed(t, doc, f.release), nil, reason.Signature, "not in this role"},
		{"root key", signed(t, doc, f.root), nil, reason.Signature, "not in this role"},
		{"unknown key", signed(t, doc, f.stranger), nil, reason.Signature, "0 valid, 1 needed"},
		{"unknown key under the right name", with(signed(t, doc, f.stranger).Sigs[f.stranger.Public().Kid()]), nil, reason.Signature, "is not by this key"},
		{"all the wrong keys", signed(t, doc, f.all, f.release, f.root, f.stranger), nil, reason.Signature, "0 valid, 1 needed"},
		{"garbage beside it", func() signing.Signed {
			s := signed(t, doc, f.b)
			s.Sigs[f.all.Public().Kid()] = []byte("garbage")
			return s
		}(), nil, reason.Updated, ""},
	})
	_, _, err := channels.Accept(f.trust, "mnw", "b", signing.Signed{Doc: doc}, nil)
	check(t, err, reason.Signature, `channel "b": signatures of role "channel:b": 0 valid, 1 needed`)
	check(t, err, reason.Signature, "the document may be forged, or this node's trust.json is old (it is version 2); see docs/trust.md")
	for name, tr := range map[string]*signing.Trust{"no trust": nil, "zero trust": {}} {
		_, _, err := channels.Accept(tr, "mnw", "b", good, nil)
		if reason.Of(err) != reason.Signature {
			t.Errorf("%s: %v (%s), want reason signature", name, err, reason.Of(err))
		}
	}
}

// Well signed by the tier's key, and still not this tier's channel.
func TestAcceptMeaning(t *testing.T) {
	f := newFleet(t)
	edit := func(old, new string) signing.Signed {
		return signed(t, canontest.Edit(t, encode(t, state(same)), old, new), f.b)
	}
	offer := func(change func(*channels.Channel)) signing.Signed { return signed(t, encode(t, state(change)), f.b) }
	last := encode(t, state(same))
	run(t, f, []acceptCase{
		{"other app", offer(func(c *channels.Channel) { c.App = "other" }), nil, reason.Policy, `app is "other"`},
		{"other tier", offer(func(c *channels.Channel) { c.Channel = "a" }), nil, reason.Policy, `document is the channel "a": the files of two tiers were swapped`},
		{"other tier, newer", offer(func(c *channels.Channel) { c.Channel = "a"; c.Seq++ }), last, reason.Policy, `document is the channel "a"`},
		{"trust document", signed(t, encode(t, f.trust), f.b), nil, reason.Format, `schema is "sando.trust/v1"`},
		{"manifest", signed(t, manifestBytes(t), f.b), nil, reason.Format, `schema is "sando.manifest/v1"`},
		{"compact", signed(t, bytes.ReplaceAll(last, []byte("\n"), nil), f.b), nil, reason.Format, "canonical"},
		{"seq as 1e3", edit("1780455236000", "1e3"), nil, reason.Format, "channel"},
		{"duplicate key", edit(`"trust": 2`, "\"trust\": 1,\n  \"trust\": 2"), nil, reason.Format, "canonical"},
		{"key in another case", edit(`"trust"`, `"Trust"`), nil, reason.Format, "canonical"},
		{"unknown field", edit(`"trust"`, "\"run\": \"rm\",\n  \"trust\""), nil, reason.Format, "unknown field"},
		{"empty", signed(t, nil, f.b), nil, reason.Format, "channel"},
		{"null", signed(t, []byte("null\n"), f.b), nil, reason.Format, "schema is"},
		{"too long", signed(t, append(bytes.Clone(last), make([]byte, layout.MaxChannel)...), f.b), nil, reason.Limit, "more than 16384 bytes"},
		{"too long, not signed", signing.Signed{Doc: make([]byte, layout.MaxChannel+1)}, nil, reason.Limit, "more than 16384 bytes"},
	})
	f.trust.App = "other"
	_, _, err := channels.Accept(f.trust, "mnw", "b", offer(same), nil)
	check(t, err, reason.Policy, `signed under the trust of app "other", want "mnw"`)
}

// A tier without a role of its own is signed by the keys of all channels.
func TestAcceptOtherTier(t *testing.T) {
	f := newFleet(t)
	doc := encode(t, state(func(c *channels.Channel) { c.Channel = "a" }))
	if _, news, err := channels.Accept(f.trust, "mnw", "a", signed(t, doc, f.all), nil); err != nil || !news {
		t.Errorf("key of all channels: %v, %v", news, err)
	}
	_, _, err := channels.Accept(f.trust, "mnw", "a", signed(t, doc, f.b), nil)
	check(t, err, reason.Signature, `role "channel"`)
}

// A counter that is broken on disk is told apart from broken news.
func TestAcceptBrokenLast(t *testing.T) {
	f := newFleet(t)
	s := signed(t, encode(t, state(same)), f.b)
	for name, last := range map[string][]byte{
		"empty":         {},
		"cut":           s.Doc[:100],
		"of other tier": encode(t, state(func(c *channels.Channel) { c.Channel = "a" })),
		"of other app":  encode(t, state(func(c *channels.Channel) { c.App = "other" })),
	} {
		_, _, err := channels.Accept(f.trust, "mnw", "b", s, last)
		if !errors.Is(err, channels.ErrLast) || reason.Of(err) != reason.Format {
			t.Errorf("%s: %v (%s), want ErrLast with reason format", name, err, reason.Of(err))
		}
	}
	_, _, err := channels.Accept(f.trust, "mnw", "b", signed(t, []byte("{}\n"), f.b), s.Doc)
	if errors.Is(err, channels.ErrLast) {
		t.Errorf("broken news: %v", err)
	}
}

// An old file after the counter was lost: the node cannot know, and starts again.
func TestAcceptAfterLoss(t *testing.T) {
	f := newFleet(t)
	old := signed(t, encode(t, state(func(c *channels.Channel) { c.Seq = 1 })), f.b)
	if _, news, err := channels.Accept(f.trust, "mnw", "b", old, nil); err != nil || !news {
		t.Errorf("Accept: %v, %v", news, err)
	}
}

// The floor is held against what is well signed, and after everything that Accept asks
// of it; the same states pass without it.
func TestFloor(t *testing.T) {
	f := newFleet(t) // trust version 2
	const seq = 1780455236000
	at := func(trust, seq int64) *channels.Channel {
		return state(func(c *channels.Channel) { c.Trust, c.Seq = trust, seq })
	}
	for _, test := range []struct {
		name  string
		floor channels.Floor
		offer *channels.Channel
		last  *channels.Channel
		want  reason.Code
	}{
		{"no floor", channels.Floor{Trust: 2}, at(2, 1), nil, reason.Updated},
		{"at it", channels.Floor{Seq: seq, Trust: 2}, at(2, seq), nil, reason.Updated},
		{"below", channels.Floor{Seq: seq, Trust: 2}, at(2, seq-1), nil, reason.Replay},
		{"below, under an older trust", channels.Floor{Seq: seq, Trust: 2}, at(1, seq-1), nil, reason.Replay},
		{"above, under an older trust", channels.Floor{Seq: seq, Trust: 2}, at(1, seq+1), nil, reason.Updated},
		{"below, under a trust above the anchor", channels.Floor{Seq: seq, Trust: 1}, at(2, seq-1), nil, reason.Updated},
		{"below, and news by the counter", channels.Floor{Seq: seq, Trust: 2}, at(2, seq-1), at(2, seq-2), reason.Replay},
		{"below, and nothing new by the counter", channels.Floor{Seq: seq, Trust: 2}, at(2, seq-1), at(2, seq-1), reason.Replay},
		{"above, and a replay by the counter", channels.Floor{Seq: seq - 2, Trust: 2}, at(2, seq-1), at(2, seq), reason.Replay},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := signed(t, encode(t, test.offer), f.b)
			var last []byte
			if test.last != nil {
				last = encode(t, test.last)
			}
			c, news, err := test.floor.Accept(f.trust, "mnw", "b", s, last)
			var below *channels.BelowError
			var older *channels.OlderError
			switch {
			case test.want == reason.Updated:
				if err != nil || !news || c == nil {
					t.Errorf("Accept: %v, %v, %v", c, news, err)
				}
			case reason.Of(err) != test.want || c != nil || news:
				t.Errorf("Accept: %v, %v, %v (%s)", c, news, err, reason.Of(err))
			case errors.As(err, &below) == errors.As(err, &older):
				t.Errorf("neither below the floor nor older, or both: %v", err)
			case below != nil && (below.Floor != test.floor || below.Older.Seq != test.offer.Seq):
				t.Errorf("BelowError is %+v", below)
			}
		})
	}
	floor := channels.Floor{Seq: seq + 1, Trust: 2}
	_, _, err := floor.Accept(f.trust, "mnw", "b", signed(t, encode(t, state(same)), f.b), nil)
	check(t, err, reason.Replay, `channel "b": (trust 2, seq 1780455236000) with version 0.9.5 is below 1780455236001, the channels.min_seq of this node: `+
		"it may be replayed from an old copy, or channels.min_seq is mistyped, or that of another tier; "+
		"builder promote b --version 0.9.5 signs a state that counts, builder enroll NODE --tier b says which channels.min_seq is right")
	_, _, err = floor.Accept(f.trust, "mnw", "b", signed(t, encode(t, state(same)), f.stranger), nil)
	check(t, err, reason.Signature, "0 valid, 1 needed") // before the floor is asked
	_, _, err = floor.Accept(f.trust, "mnw", "b", signed(t, encode(t, state(func(c *channels.Channel) { c.Trust = 3 })), f.b), nil)
	check(t, err, reason.Signature, "signed under trust version 3")
}
