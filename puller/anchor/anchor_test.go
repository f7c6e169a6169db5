package anchor_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/puller/anchor"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func newTrust(t *testing.T, app string, version int64) []byte {
	t.Helper()
	doc := &signing.Trust{Schema: signing.TrustSchema, App: app, Version: version, Keys: map[string]canon.PEM{}, Roles: map[string]signing.Role{}}
	for _, role := range []string{signing.RoleRoot, signing.RoleRelease, signing.RoleChannel} {
		k, err := keys.New()
		if err != nil {
			t.Fatal(err)
		}
		doc.Keys[k.Public().Kid()] = k.Public().PEM()
		doc.Roles[role] = signing.Role{Keys: []string{k.Public().Kid()}, Threshold: 1}
	}
	data, err := doc.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// places returns the files as a channel repo and as a mirror in a bucket.
func places(t *testing.T, app string, files map[string][]byte) map[string]anchor.Source {
	t.Helper()
	dir := t.TempDir()
	all := map[string][]byte{"apps/fleet.toml": []byte("app = \"mnw\"\n")}
	b, err := bucket.Open(t.Context(), bucket.Config{URL: "file://" + dir + "/bucket"})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/bucket", 0o755); err != nil {
		t.Fatal(err)
	}
	for name, data := range files {
		all["apps/trust/"+name] = data
		if err := b.Create(t.Context(), app+"/trust/"+name, bytes.NewReader(data), int64(len(data))); err != nil {
			t.Fatal(err)
		}
	}
	c := repo.Config{URL: "file://" + filepath.Join(dir, "channels.git"), Branch: "main", Path: "apps", OwnsMirror: true}
	author := repo.Author{Name: "Ada", Email: "ada@example.org"}
	if err := repo.Create(t.Context(), c.URL, c.Branch, author, all); err != nil {
		t.Fatal(err)
	}
	return map[string]anchor.Source{
		"repo":   {App: app, Repo: &c},
		"bucket": {App: app, Bucket: bucket.Config{URL: "file://" + dir + "/bucket"}},
	}
}

func TestFind(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	one, two, three := newTrust(t, "mnw", 1), newTrust(t, "mnw", 2), newTrust(t, "mnw", 3)
	for name, s := range places(t, "mnw", map[string][]byte{"1.json": one, "2.json": bytes.Repeat([]byte("x"), layout.MaxTrust+1), "3.json": three}) {
		t.Run(name, func(t *testing.T) {
			for version, doc := range map[int64][]byte{1: one, 3: three} {
				got, err := anchor.Find(t.Context(), s, layout.Sum(doc))
				if err != nil || !bytes.Equal(got.Doc, doc) || got.Trust.Version != version {
					t.Errorf("version %d: %+v, %v", version, got, err)
				}
			}
			_, err := anchor.Find(t.Context(), s, layout.Sum(two))
			var missing *anchor.NotFound
			if reason.Of(err) != reason.Signature || !errors.As(err, &missing) || len(missing.Seen) != 3 {
				t.Fatalf("another fingerprint: %v (%s)", err, reason.Of(err))
			}
			for _, want := range []string{
				"has the fingerprint " + string(layout.Sum(two)), "version 1 is " + string(layout.Sum(one)),
				"version 2 is unreadable", "version 3 is " + string(layout.Sum(three)),
			} {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error does not say %q: %v", want, err)
				}
			}
		})
	}
	if left, err := os.ReadDir(os.Getenv("TMPDIR")); err != nil || len(left) != 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// A repo may begin with a later version; a version behind a gap is not one of the chain.
func TestFindGaps(t *testing.T) {
	five, seven := newTrust(t, "mnw", 5), newTrust(t, "mnw", 7)
	for name, s := range places(t, "mnw", map[string][]byte{"5.json": five, "7.json": seven}) {
		if got, err := anchor.Find(t.Context(), s, layout.Sum(five)); err != nil || got.Trust.Version != 5 {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if _, err := anchor.Find(t.Context(), s, layout.Sum(seven)); reason.Of(err) != reason.Signature {
			t.Errorf("%s: behind a gap: %v", name, err)
		}
	}
}

func TestFindNothing(t *testing.T) {
	for name, s := range places(t, "mnw", nil) {
		_, err := anchor.Find(t.Context(), s, layout.Sum(nil))
		if reason.Of(err) != reason.Stale || !strings.Contains(err.Error(), "holds no version of trust") || !strings.Contains(err.Error(), "1.json") {
			t.Errorf("%s: %v (%s)", name, err, reason.Of(err))
		}
	}
	s := anchor.Source{App: "mnw", Repo: &repo.Config{URL: "file:///nowhere/channels.git", Branch: "main"}}
	if _, err := anchor.Find(t.Context(), s, layout.Sum(nil)); !errors.Is(err, fs.ErrNotExist) && reason.Of(err) != reason.IO {
		t.Errorf("no repo: %v (%s)", err, reason.Of(err))
	}
}

// Bytes with the fingerprint that are no trust of this app are said, not returned.
func TestFindOther(t *testing.T) {
	other, garbage := newTrust(t, "shop", 2), []byte("{}\n")
	for name, s := range places(t, "mnw", map[string][]byte{"1.json": garbage, "2.json": other}) {
		if got, err := anchor.Find(t.Context(), s, layout.Sum(other)); got != nil || reason.Of(err) != reason.Policy || !strings.Contains(err.Error(), `is of app "shop", want "mnw"`) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		if got, err := anchor.Find(t.Context(), s, layout.Sum(garbage)); got != nil || reason.Of(err) != reason.Format {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestParseFingerprint(t *testing.T) {
	want := layout.Sum([]byte("x"))
	for _, s := range []string{string(want), want.Hex(), " " + strings.ToUpper(want.Hex()) + "\n"} {
		if got, err := anchor.ParseFingerprint(s); err != nil || got != want {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "sha256:", want.Hex()[1:], "sha512:" + want.Hex(), string(want) + "0"} {
		if got, err := anchor.ParseFingerprint(s); got != "" || reason.Of(err) != reason.Config {
			t.Errorf("%q: %q, %v", s, got, err)
		}
	}
}
