package channels_test

import (
	"slices"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

// newKeys returns n keys sorted by kid.
func newKeys(t testing.TB, n int) []*keys.Signer {
	t.Helper()
	var list []*keys.Signer
	for range n {
		k, err := keys.New()
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, k)
	}
	slices.SortFunc(list, func(a, b *keys.Signer) int {
		if a.Public().Kid() < b.Public().Kid() {
			return -1
		}
		return 1
	})
	return list
}

func signed(t testing.TB, doc []byte, by ...*keys.Signer) signing.Signed {
	t.Helper()
	s := signing.Signed{Doc: doc, Sigs: signing.Signatures{}}
	for _, k := range by {
		bundle, err := k.Sign(doc)
		if err != nil {
			t.Fatal(err)
		}
		s.Sigs[k.Public().Kid()] = bundle
	}
	return s
}

type roles map[string][]*keys.Signer

// trust returns a trust document of app mnw in which the role root has the given
// threshold and all others 1.
func trust(version int64, rootThreshold int, r roles) *signing.Trust {
	t := &signing.Trust{
		Schema: signing.TrustSchema, App: "mnw", Version: version,
		Keys: map[string]canon.PEM{}, Roles: map[string]signing.Role{},
	}
	for name, list := range r {
		role := signing.Role{Threshold: 1}
		if name == signing.RoleRoot {
			role.Threshold = rootThreshold
		}
		for _, k := range list {
			role.Keys = append(role.Keys, k.Public().Kid())
			t.Keys[k.Public().Kid()] = k.Public().PEM()
		}
		slices.Sort(role.Keys)
		t.Roles[name] = role
	}
	return t
}

type encoder interface{ Encode() ([]byte, error) }

func encode(t testing.TB, v encoder) []byte {
	t.Helper()
	data, err := v.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// fleet is one app with its keys: two tiers, b with a key of its own.
type fleet struct {
	root, release, all, b, stranger *keys.Signer
	trust                           *signing.Trust // version 2
}

func newFleet(t testing.TB) fleet {
	t.Helper()
	k := newKeys(t, 5)
	f := fleet{root: k[0], release: k[1], all: k[2], b: k[3], stranger: k[4]}
	f.trust = trust(2, 1, roles{"root": k[:1], "release": k[1:2], "channel": k[2:3], "channel:b": k[3:4]})
	return f
}

// state returns the golden channel under trust version 2 with f applied.
func state(f func(*channels.Channel)) *channels.Channel {
	c := channel()
	c.Trust = 2
	f(c)
	return c
}

func same(*channels.Channel) {}

func manifestBytes(t testing.TB) []byte {
	t.Helper()
	m := &layout.Manifest{
		Schema: layout.ManifestSchema, App: "mnw", Version: "0.9.5",
		Source: layout.Source{Commit: "f0970b8e1c5f0a3c9a1c6f2b6d9c1a7e0b4d3f21", Time: at("2026-06-02T21:00:00Z")},
		Bundles: []layout.Bundle{{
			Platform: layout.Any, Size: 1, SHA256: layout.Sum(nil).Hex(), Entries: 1, Tree: layout.Sum(nil),
		}},
	}
	m.Bundles[0].Name = layout.BundleName(m.App, m.Version, m.Bundles[0])
	return encode(t, m)
}
