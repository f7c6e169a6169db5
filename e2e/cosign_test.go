package e2e

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"makenot.work/sando/channels"
	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/testenv/cosign"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// TestCosignVerifies: cosign verifies whatever a builder signs, found by looking for
// signatures in everything that it wrote.
func TestCosignVerifies(t *testing.T) {
	t.Parallel() // most of it is waiting
	c, s := cosign.New(t), newSite(t, "1.0", "2.0")
	s.release("1.0")
	s.promote("1.0")
	s.release("2.0")
	s.run(0, "builder", "promote", "a", "--version", "2.0", "--propose")

	// A second key for both roles signs what the first has signed.
	second := s.path("site", "keys", "second")
	s.run(0, "builder", "keygen", second)
	repo, trust := s.path("repo"), s.path("repo", "trust", "2.json")
	s.out("git", "clone", "-q", s.path("site", "channels.git"), repo)
	must(t, os.WriteFile(trust, s.nextTrust(map[string][]string{"release": {"release", "second"}, "channel": {"channel", "second"}}), 0o644))
	s.run(0, "builder", "sign", "--trust", trust, "--key", s.path("site", "keys", "root-1.key"), "--push")
	s.run(0, "builder", "sign", "1.0", "--key", second+".key")
	s.run(0, "builder", "sign", "--channel", "a", "--key", second+".key")
	s.run(0, "builder", "sign", "--channel", "a", "--branch", "bump/a/2.0", "--key", second+".key")
	s.run(0, "builder", "mirror")

	seen := map[string]int{}
	s.cosignVerifies(c, s.path("site", "bucket"), seen)
	for _, branch := range strings.Fields(s.out("git", "-C", s.path("site", "channels.git"), "for-each-ref", "--format=%(refname:short)")) {
		clone := s.path("clones", branch)
		s.out("git", "clone", "-q", "--branch", branch, s.path("site", "channels.git"), clone)
		s.cosignVerifies(c, clone, seen)
	}
	// By document and key: in the bucket, and in the mirror and on both branches.
	want := map[string]int{
		"manifest-release": 2, "manifest-second": 1, "2-root-1": 2, "1-root-1": 3, "1-root-2": 3,
		"host-channel": 3, "a-channel": 3, "a-second": 3,
	}
	for what, n := range want {
		if seen[what] != n {
			t.Errorf("%s: %d signatures, want %d", what, seen[what], n)
		}
	}
	if len(seen) != len(want) {
		t.Errorf("signatures of %v, want those of %v", seen, want)
	}
}

// cosignVerifies has cosign verify each signature in dir, and counts them by document and key.
func (s *site) cosignVerifies(c *cosign.Cosign, dir string, seen map[string]int) {
	s.t.Helper()
	keys := map[string]string{}
	for _, name := range []string{"root-1", "root-2", "release", "channel", "second"} {
		keys[s.kid(name)[:16]] = name
	}
	file := regexp.MustCompile(`^(.+)\.([0-9a-f]{16})\.sigstore\.json$`)
	must(s.t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		m := file.FindStringSubmatch(path)
		if err != nil || m == nil {
			return err
		}
		doc, key := document(m[1]), keys[m[2]]
		if err := c.Verify(s.path("site", "keys", key+".pub"), path, doc); err != nil {
			s.t.Errorf("%s: %v", path, err)
		}
		what, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(doc), ".json"), "-")
		seen[what+"-"+key]++
		return nil
	}))
}

// document returns the document that a signature belongs to, whose name begins with
// name: in a channel repo that is the document's, in a bucket it names the digest.
func document(name string) string {
	plain := regexp.MustCompile(`-[0-9a-f]{16}$`).ReplaceAllString(name, "") + ".json" // in a mirror
	for _, doc := range []string{name, name + ".json", plain} {
		if _, err := os.Stat(doc); err == nil {
			return doc
		}
	}
	return name
}

// out runs any program, which must end well, and returns what it printed.
func (s *site) out(args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), args[0], args[1:]...)
	cmd.Env = append(os.Environ(), environment()...)
	return finish(s.t, cmd, 0)
}

// public returns the public half of a key of the site.
func (s *site) public(name string) *signing.PublicKey {
	s.t.Helper()
	data, err := os.ReadFile(s.path("site", "keys", name+".pub"))
	must(s.t, err)
	k, err := signing.ParsePublicKey(data)
	must(s.t, err)
	return k
}

func (s *site) kid(name string) string { return s.public(name).Kid() }

// TestCosignSigns: keys that cosign made, and signatures that it made with keys of
// either, are as good to a builder and a node as their own.
func TestCosignSigns(t *testing.T) {
	t.Parallel() // most of it is waiting
	c, s := cosign.New(t), newSite(t, "1.0", "2.0")
	s.release("1.0")
	s.release("2.0")
	m := s.machine("node")
	key := func(name string) string { return s.path("site", "keys", name) }
	clone := s.path("clone")
	s.out("git", "clone", "-q", s.path("site", "channels.git"), clone)
	push := func() {
		s.out("git", "-C", clone, "add", "-A")
		s.out("git", "-C", clone, "commit", "-q", "-m", "By cosign")
		s.out("git", "-C", clone, "push", "-q")
	}
	sign := func(with, doc, signature string) {
		t.Helper()
		c.Sign(key(with+".key"), "secret", signature, doc)
	}

	// Trust with a channel key by cosign, signed by cosign with our root key.
	c.GenerateKeyPair(key("theirs"), "secret")
	trust := filepath.Join(clone, "trust", "2.json")
	must(t, os.WriteFile(trust, s.nextTrust(map[string][]string{"channel": {"theirs"}}), 0o644))
	sign("root-1", trust, signing.SignatureFile(trust, s.kid("root-1")))
	push()

	// The builder signs with that key.
	config := s.path("site", "builder.toml")
	data, err := os.ReadFile(config)
	must(t, err)
	must(t, os.WriteFile(config, []byte(strings.Replace(string(data), "channel.key", "theirs.key", 1)), 0o644))
	s.promote("1.0")
	if got := m.cycle(0); got != "updated" {
		t.Errorf("trust signed by cosign: %s, want updated", got)
	}
	m.settled("1.0")

	// The channel's next state and the manifest of 2.0, signed by cosign.
	s.out("git", "-C", clone, "pull", "-q")
	channel := filepath.Join(clone, "channels", "a.json")
	manifest := s.manifest("2.0")
	must(t, os.WriteFile(channel, nextChannel(t, channel, "2.0", manifest), 0o644))
	signature := signing.SignatureFile(channel, s.kid("theirs"))
	must(t, os.Remove(signature))
	sign("theirs", channel, signature)
	if err := c.Verify(key("theirs.pub"), signature, channel); err != nil {
		t.Error(err)
	}
	push()
	of := strings.TrimSuffix(manifest, ".json") + "." + s.kid("release")[:16] + ".sigstore.json"
	must(t, os.Remove(of))
	sign("release", manifest, of)
	if got := m.cycle(0); got != "updated" {
		t.Errorf("channel and manifest signed by cosign: %s, want updated", got)
	}
	m.settled("2.0")
	s.run(0, "builder", "verify", "2.0")
}

// nextTrust returns version 2 of the site's trust, in which some roles have other keys.
func (s *site) nextTrust(roles map[string][]string) []byte {
	s.t.Helper()
	data, err := os.ReadFile(s.path("site", "keys", "trust.json"))
	must(s.t, err)
	trust, err := signing.ParseTrust(data)
	must(s.t, err)
	trust.Version++
	for role, names := range roles {
		for _, kid := range trust.Roles[role].Keys {
			delete(trust.Keys, kid)
		}
		r := signing.Role{Threshold: 1}
		for _, name := range names {
			k := s.public(name)
			trust.Keys[k.Kid()] = k.PEM()
			r.Keys = append(r.Keys, k.Kid())
		}
		slices.Sort(r.Keys)
		trust.Roles[role] = r
	}
	data, err = trust.Encode()
	must(s.t, err)
	return data
}

// manifest returns the file of a version's manifest in the bucket.
func (s *site) manifest(version string) string {
	s.t.Helper()
	found, err := filepath.Glob(s.path("site", "bucket", "mnw", "releases", version, "manifest-*.json"))
	must(s.t, err)
	found = slices.DeleteFunc(found, func(name string) bool { return strings.HasSuffix(name, ".sigstore.json") })
	if len(found) != 1 {
		s.t.Fatalf("manifests of %s: %q, want one", version, found)
	}
	return found[0]
}

// nextChannel returns the state of a channel that follows the one in file and names the
// manifest of version.
func nextChannel(t *testing.T, file, version, manifest string) []byte {
	t.Helper()
	data, err := os.ReadFile(file)
	must(t, err)
	c, err := channels.ParseChannel(data)
	must(t, err)
	data, err = os.ReadFile(manifest)
	must(t, err)
	c.Version = version
	c.Manifest = layout.Sum(data)
	c.Seq++
	c.Issued = canon.Now()
	data, err = c.Encode()
	must(t, err)
	return data
}
