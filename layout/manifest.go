package layout

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"

	"makenot.work/sando/internal/canon"
	"makenot.work/sando/internal/reason"
)

// ManifestSchema is the schema of the manifests that this version reads and writes.
const ManifestSchema = "sando.manifest/v1"

// DeltaFormat is the delta format that this version knows of.
const DeltaFormat = "sando.delta/v1"

// Any is the platform of a bundle that runs everywhere.
const Any = "any"

// Manifest names and hashes everything in the bundle of one version. Its fields are
// in the order of the canonical form.
type Manifest struct {
	Schema  string   `json:"schema"`
	App     string   `json:"app"`
	Version string   `json:"version"`
	Source  Source   `json:"source"`
	Bundles []Bundle `json:"bundles"` // sorted by platform, distinct
}

// Source says what was built.
type Source struct {
	Repo   string     `json:"repo,omitempty"` // without user info
	Commit string     `json:"commit"`
	Time   canon.Time `json:"time"` // of the commit; the mtime of everything in the tarball
}

// Bundle is the tarball for one platform.
type Bundle struct {
	Platform string  `json:"platform"`
	Name     string  `json:"name"`     // of the object; derived from the other fields
	Size     int64   `json:"size"`     // bytes of the tarball
	SHA256   string  `json:"sha256"`   // of the tarball, 64 hex digits
	Unpacked int64   `json:"unpacked"` // bytes of all regular files together
	Entries  int64   `json:"entries"`  // directories, files and links
	Tree     Digest  `json:"tree"`
	Deltas   []Delta `json:"deltas,omitempty"`
}

// Delta turns the tree of one older version into this one.
type Delta struct {
	Format string `json:"format"`
	From   string `json:"from"`
	Tree   Digest `json:"tree"` // of the older version
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"`
}

// BundleName returns the name that the bundle b of app and version must have.
func BundleName(app, version string, b Bundle) string {
	return fmt.Sprintf("%s-%s-%s-%s.tar.zst", app, version, dashed(b.Platform), Short(b.SHA256))
}

// DeltaName returns the name that the delta d to a version for a platform must have.
func DeltaName(app, version, platform string, d Delta) string {
	return fmt.Sprintf("%s-%s..%s-%s-%s.delta", app, d.From, version, dashed(platform), Short(d.SHA256))
}

func dashed(platform string) string { return strings.Replace(platform, "/", "-", 1) }

// ParseManifest reads a manifest whose signatures were verified over exactly these
// bytes. Errors have the reason "format", or "limit" for data that is too long.
func ParseManifest(data []byte) (*Manifest, error) {
	if len(data) > MaxManifest {
		return nil, reason.Errorf(reason.Limit, "manifest: more than %d bytes", MaxManifest)
	}
	m := new(Manifest)
	if err := canon.Decode(data, ManifestSchema, m); err != nil {
		return nil, reason.Errorf(reason.Format, "manifest: %w", err)
	}
	if err := m.Check(); err != nil {
		return nil, reason.Errorf(reason.Format, "manifest: %w", err)
	}
	return m, nil
}

// Encode returns the canonical bytes of m, the ones that are signed.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.Check(); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	return canon.Encode(m)
}

// For returns the bundle for the platform goos/goarch: its own, or the one for any.
func (m *Manifest) For(goos, goarch string) (Bundle, bool) {
	var found Bundle
	for _, b := range m.Bundles {
		if b.Platform == goos+"/"+goarch {
			return b, true
		}
		if b.Platform == Any {
			found = b
		}
	}
	return found, found.Platform != ""
}

// Check reports whether every field of m means something, and all derived fields are
// what they are derived from.
func (m *Manifest) Check() error {
	if m.Schema != ManifestSchema {
		return fmt.Errorf("schema is %q, want %q", m.Schema, ManifestSchema)
	}
	if err := CheckApp(m.App); err != nil {
		return err
	}
	if err := CheckVersion(m.Version); err != nil {
		return err
	}
	if err := CheckCommit(m.Source.Commit); err != nil {
		return err
	}
	if m.Source.Repo != StripUserInfo(m.Source.Repo) {
		return fmt.Errorf("source.repo holds user info")
	}
	if t := m.Source.Time.Unix(); t < 0 || t > maxMtime {
		return fmt.Errorf("source.time %s is outside of what a tar header holds", m.Source.Time.Format(canon.TimeLayout))
	}
	if len(m.Bundles) == 0 {
		return fmt.Errorf("no bundles")
	}
	last := ""
	for _, b := range m.Bundles {
		if b.Platform <= last {
			return fmt.Errorf("bundles are not sorted and distinct at %q", b.Platform)
		}
		last = b.Platform
		if err := m.checkBundle(b); err != nil {
			return fmt.Errorf("bundle %q: %w", b.Platform, err)
		}
	}
	return nil
}

// maxMtime is the largest time that eleven octal digits hold.
const maxMtime = 1<<33 - 1

func (m *Manifest) checkBundle(b Bundle) error {
	if err := CheckPlatform(b.Platform); err != nil {
		return err
	}
	if err := checkObject(b.SHA256, b.Size, b.Tree); err != nil {
		return err
	}
	if want := BundleName(m.App, m.Version, b); b.Name != want {
		return fmt.Errorf("name is %q, want %q", b.Name, want)
	}
	if b.Entries < 1 {
		return fmt.Errorf("no entries")
	}
	for _, d := range b.Deltas {
		if err := m.checkDelta(b, d); err != nil {
			return fmt.Errorf("delta from %q: %w", d.From, err)
		}
	}
	return nil
}

// checkDelta holds a delta of a known format to its rules. One of another format is
// for other readers.
func (m *Manifest) checkDelta(b Bundle, d Delta) error {
	if d.Format != DeltaFormat {
		return nil
	}
	if err := CheckVersion(d.From); err != nil {
		return err
	}
	if err := checkObject(d.SHA256, d.Size, d.Tree); err != nil {
		return err
	}
	if want := DeltaName(m.App, m.Version, b.Platform, d); d.Name != want {
		return fmt.Errorf("name is %q, want %q", d.Name, want)
	}
	return nil
}

func checkObject(sha string, size int64, tree Digest) error {
	if !hexForm.MatchString(sha) {
		return fmt.Errorf("%w: sha256 %q is not 64 hex digits", ErrName, sha)
	}
	if size < 1 {
		return fmt.Errorf("size is %d", size)
	}
	return tree.Check()
}

var userInfo = regexp.MustCompile(`^([a-zA-Z][a-zA-Z0-9+.-]*://)?[^/]*@`)

// StripUserInfo returns the repository URL without user name and password; it knows
// both URLs and the "user@host:path" form.
func StripUserInfo(repo string) string { return userInfo.ReplaceAllString(repo, "$1") }

var userInfoInText = regexp.MustCompile(`([a-zA-Z][a-zA-Z0-9+.-]*://)[^/\s]*@`)

// Redact returns text, the words of a program for example, with no user name and no
// password in the URLs that it holds.
func Redact(text string) string { return userInfoInText.ReplaceAllString(text, "$1") }

// Brief makes one line of at most 500 bytes of what another machine said, and leaves out what
// could change the look of a terminal.
func Brief(text string) string {
	const longest = 500
	text = strings.Join(strings.FieldsFunc(text, canon.Unprintable), " ")
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > longest {
		text = strings.ToValidUTF8(text[:longest], "") + "…"
	}
	return text
}

// Place returns where a URL leads, for messages: people put tokens and passwords into all
// that is not scheme, host and path.
func Place(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// Keys of a version's objects in the bucket, below <prefix>.

// ReleaseKey returns the key of the object name of a version.
func ReleaseKey(app, version, name string) string {
	return app + "/releases/" + version + "/" + name
}

// ManifestName returns the name of the manifest with digest d.
func ManifestName(d Digest) string { return "manifest-" + d.Short() + ".json" }

// ManifestLatest is the name of the object that says which manifest a version has.
const ManifestLatest = "manifest.json"

// ManifestSignature returns the name of the signature by the key kid over the
// manifest with digest d.
func ManifestSignature(d Digest, kid string) string {
	return "manifest-" + d.Short() + "." + Short(kid) + ".sigstore.json"
}
