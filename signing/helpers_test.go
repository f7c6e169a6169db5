package signing_test

import (
	"maps"
	"os"
	"slices"
	"testing"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func file(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

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

func sign(t testing.TB, k *keys.Signer, doc []byte) []byte {
	t.Helper()
	bundle, err := k.Sign(doc)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

func signed(t testing.TB, doc []byte, by ...*keys.Signer) signing.Signed {
	t.Helper()
	s := signing.Signed{Doc: doc, Sigs: signing.Signatures{}}
	for _, k := range by {
		s.Sigs[k.Public().Kid()] = sign(t, k, doc)
	}
	return s
}

func role(threshold int, list ...*keys.Signer) signing.Role {
	r := signing.Role{Threshold: threshold, Keys: []string{}}
	for _, k := range list {
		r.Keys = append(r.Keys, k.Public().Kid())
	}
	slices.Sort(r.Keys)
	return r
}

// trustOf returns a valid trust document with the given roles, and the keys in them.
func trustOf(roles map[string]signing.Role, list ...*keys.Signer) *signing.Trust {
	t := &signing.Trust{
		Schema: signing.TrustSchema, App: "mnw", Version: 1,
		Keys: map[string]canon.PEM{}, Roles: maps.Clone(roles),
	}
	for _, k := range list {
		t.Keys[k.Public().Kid()] = k.Public().PEM()
	}
	return t
}
