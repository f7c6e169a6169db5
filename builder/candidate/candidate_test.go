package candidate

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func newKey(t *testing.T) *keys.Signer {
	t.Helper()
	k, err := keys.New()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// trust returns a version of trust with these root keys, the first of which has the other
// roles as well.
func trust(version int64, threshold int, root ...*keys.Signer) *signing.Trust {
	t := &signing.Trust{Schema: signing.TrustSchema, App: "mnw", Version: version, Keys: map[string]canon.PEM{}, Roles: map[string]signing.Role{}}
	r := signing.Role{Threshold: threshold}
	for _, k := range root {
		r.Keys = append(r.Keys, k.Public().Kid())
		t.Keys[k.Public().Kid()] = k.Public().PEM()
	}
	slices.Sort(r.Keys)
	t.Roles[signing.RoleRoot] = r
	one := signing.Role{Keys: []string{root[0].Public().Kid()}, Threshold: 1}
	t.Roles[signing.RoleRelease], t.Roles[signing.RoleChannel] = one, one
	return t
}

func write(t *testing.T, file string, doc *signing.Trust) string {
	t.Helper()
	data, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestCollect(t *testing.T) {
	dir, a, b, stranger := t.TempDir(), newKey(t), newKey(t), newKey(t)
	write(t, dir+"/1.json", trust(1, 1, a))
	next := trust(2, 2, a, b)
	next.Revoked = []layout.Digest{layout.Sum(nil)}
	file := write(t, dir+"/2.json", next)
	// A signature over an earlier draft, and a broken one, count for nothing.
	old, err := a.Sign([]byte("draft"))
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{signing.SignatureFile(file, a.Public().Kid()): old, signing.SignatureFile(file, b.Public().Kid()): []byte("{")} {
		if err := os.WriteFile(name, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for i, key := range []*keys.Signer{a, b} {
		c, err := Load(file)
		if err != nil {
			t.Fatal(err)
		}
		if len(c.Signed.Sigs) != i {
			t.Errorf("%d signatures, want %d", len(c.Signed.Sigs), i)
		}
		if _, _, err := c.Sign(stranger); reason.Of(err) != reason.Signature || !strings.Contains(err.Error(), "would not count") {
			t.Errorf("signed by a stranger: %v, want the reason signature", err)
		}
		if at, fresh, err := c.Sign(key); err != nil || !fresh || at != signing.SignatureFile(file, key.Public().Kid()) {
			t.Errorf("signed: %q, %t, %v", at, fresh, err)
		}
		if _, fresh, err := c.Sign(key); err != nil || fresh {
			t.Errorf("signed again: %t, %v", fresh, err)
		}
	}
	c, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Verify(signing.RoleRoot, c.Signed); err != nil {
		t.Error(err)
	}
	want := []string{
		"role root needs 2 of 2 keys, needed 1 of 1",
		"role root: key " + b.Public().Kid() + " added",
		"revoked: " + string(layout.Sum(nil)) + " added",
	}
	if got := c.Changes(); !slices.Equal(got, want) {
		t.Errorf("changes %q, want %q", got, want)
	}
}

func TestLoadRefuses(t *testing.T) {
	a := newKey(t)
	other := trust(1, 1, a)
	other.App = "other"
	for name, test := range map[string]struct {
		file   string
		change func(t *testing.T, dir string)
		code   reason.Code
		says   string
	}{
		"missing":      {"3.json", nil, reason.Config, "no such file"},
		"another name": {"next.json", func(t *testing.T, dir string) { write(t, dir+"/next.json", trust(2, 1, a)) }, reason.Config, "name it 2.json"},
		"malformed":    {"2.json", func(t *testing.T, dir string) { must(t, os.WriteFile(dir+"/2.json", []byte("{}"), 0o644)) }, reason.Format, "2.json"},
		"too long": {"2.json", func(t *testing.T, dir string) {
			must(t, os.WriteFile(dir+"/2.json", make([]byte, layout.MaxTrust+1), 0o644))
		}, reason.Limit, "more than 65536 bytes"},
		"no version before":   {"2.json", func(t *testing.T, dir string) { must(t, os.Remove(dir+"/1.json")) }, reason.Config, "version before: "},
		"of another app":      {"2.json", func(t *testing.T, dir string) { write(t, dir+"/1.json", other) }, reason.Policy, `is version 1 of app "other", want version 1 of app "mnw"`},
		"before says another": {"2.json", func(t *testing.T, dir string) { write(t, dir+"/1.json", trust(4, 1, a)) }, reason.Policy, `is version 4 of app "mnw"`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir+"/1.json", trust(1, 1, a))
			write(t, dir+"/2.json", trust(2, 1, a))
			if _, err := Load(filepath.Join(dir, "2.json")); err != nil {
				t.Fatal(err)
			}
			if test.change != nil {
				test.change(t, dir)
			}
			_, err := Load(filepath.Join(dir, test.file))
			if reason.Of(err) != test.code || !strings.Contains(err.Error(), test.says) {
				t.Errorf("got reason %q: %v\nwant %q: %s", reason.Of(err), err, test.code, test.says)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestFirst: version 1 follows nothing.
func TestFirst(t *testing.T) {
	a := newKey(t)
	c, err := Load(write(t, filepath.Join(t.TempDir(), "1.json"), trust(1, 1, a)))
	must(t, err)
	if _, fresh, err := c.Sign(a); err != nil || !fresh {
		t.Errorf("signed: %t, %v", fresh, err)
	}
	if got := c.Changes(); len(got) != 6 || got[0] != "role channel is new, needs 1 of 1 keys" {
		t.Errorf("changes: %q", got)
	}
}
