package reliability

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"makenot.work/sando/channels"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/testenv/host"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/archive"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
	"makenot.work/sando/signing/keys"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// seal is the key of everybody, for all apps: root holder, builder, promoter. What a builder
// does is done here, since the real one takes seconds to make a key and to open it.
type seal struct {
	key        *keys.Signer
	pem        []byte // sealed with the passphrase
	passphrase string
}

func newSeal(t testing.TB) *seal {
	t.Helper()
	const passphrase = "correct horse battery staple"
	private, _, err := keys.Generate([]byte(passphrase))
	must(t, err)
	key, err := keys.Load(private, []byte(passphrase))
	must(t, err)
	return &seal{key, private, passphrase}
}

// site is the builder of one app: a channel repo, and a bucket.
type site struct {
	t      *testing.T
	seal   *seal
	host   *host.Host
	app    string
	bucket bucket.Bucket
	trust  []byte
	last   *channels.Channel
	built  map[string]layout.Digest
}

func newSite(t *testing.T, by *seal, h *host.Host, app string, store bucket.Config) *site {
	t.Helper()
	s := &site{t: t, seal: by, host: h, app: app, built: map[string]layout.Digest{}}
	public := by.key.Public()
	trust := &signing.Trust{Schema: signing.TrustSchema, App: app, Version: 1, Keys: map[string]canon.PEM{public.Kid(): public.PEM()}, Roles: map[string]signing.Role{}}
	for _, role := range []string{"root", "release", "channel"} {
		trust.Roles[role] = signing.Role{Keys: []string{public.Kid()}, Threshold: 1}
	}
	files := map[string][]byte{"fleet.toml": []byte("app = \"" + app + "\"\n[[tier]]\nname = \"host\"\n")}
	s.trust = s.sign(files, repo.TrustFile(1), trust)
	h.Run(t, "sh", "-euc", fmt.Sprintf("mkdir -p /srv/%[1]s; cd /srv/%[1]s; git init -q --bare -b main channels.git; git clone -q channels.git merged 2>/dev/null", app))
	s.push(files)
	var err error
	s.bucket, err = bucket.Open(t.Context(), store)
	must(t, err)
	return s
}

// push merges files into the channel repo, as a person does.
func (s *site) push(files map[string][]byte) {
	s.t.Helper()
	for name, data := range files {
		s.host.Write(s.t, "/srv/"+s.app+"/merged/"+name, string(data), 0o644)
	}
	s.host.Run(s.t, "sh", "-euc", "cd /srv/"+s.app+"/merged; git add -A; git -c user.name=Ada -c user.email=ada@example.org commit -qm change; git push -q origin HEAD:main")
}

// sign adds a document and its signature to files.
func (s *site) sign(files map[string][]byte, path string, doc interface{ Encode() ([]byte, error) }) []byte {
	s.t.Helper()
	data, err := doc.Encode()
	must(s.t, err)
	sig, err := s.seal.key.Sign(data)
	must(s.t, err)
	files[path], files[signing.SignatureFile(path, s.seal.key.Public().Kid())] = data, sig
	return data
}

// publish publishes a version that does as how says, and holds more files.
func (s *site) publish(version, how string, more map[string]string) {
	s.t.Helper()
	dir := s.t.TempDir()
	files := map[string]string{"VERSION": version + "\n", "HOW": how + "\n", "run": "#!/bin/sh\nexec /usr/local/bin/misbehave\n", "hook": "#!/bin/sh\n"}
	for name, text := range more {
		files[name] = text
	}
	for name, text := range files {
		must(s.t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(s.t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755))
	}
	root, err := os.OpenRoot(dir)
	must(s.t, err)
	defer root.Close()
	var tarball bytes.Buffer
	at := time.Unix(1780000000, 0).UTC()
	info, _, err := archive.Pack(s.t.Context(), &tarball, root, at, nil)
	must(s.t, err)
	b := layout.Bundle{Platform: runtime.GOOS + "/" + runtime.GOARCH, Size: info.Size, SHA256: info.SHA256, Unpacked: info.Unpacked, Entries: info.Entries, Tree: info.Tree}
	b.Name = layout.BundleName(s.app, version, b)
	m := &layout.Manifest{Schema: layout.ManifestSchema, App: s.app, Version: version, Source: layout.Source{Commit: strings.Repeat("1", 40), Time: canon.At(at)}, Bundles: []layout.Bundle{b}}
	doc, err := m.Encode()
	must(s.t, err)
	sig, err := s.seal.key.Sign(doc)
	must(s.t, err)
	d := layout.Sum(doc)
	for _, o := range []struct {
		name string
		data []byte
	}{
		{b.Name, tarball.Bytes()}, {layout.ManifestSignature(d, s.seal.key.Public().Kid()), sig},
		{layout.ManifestName(d), doc}, {layout.ManifestLatest, doc},
	} {
		must(s.t, s.bucket.Create(s.t.Context(), layout.ReleaseKey(s.app, version, o.name), bytes.NewReader(o.data), int64(len(o.data))))
	}
	s.built[version] = d
}

// advance makes the channel name a version.
func (s *site) advance(version string) {
	s.t.Helper()
	want := channels.Channel{App: s.app, Channel: "host", Version: version, Manifest: s.built[version], Rollout: 100, Attempt: 1}
	s.last = channels.Next(s.last, time.Now(), 1, want)
	files := map[string][]byte{}
	s.sign(files, repo.ChannelFile("host"), s.last)
	s.push(files)
}

// release publishes a version and advances the channel to it.
func (s *site) release(version, how string) {
	s.t.Helper()
	s.publish(version, how, nil)
	s.advance(version)
}
