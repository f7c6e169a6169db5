package layout

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// Size caps on what is read from outside, in bytes.
const (
	MaxChannel    = 16 << 10  // a channel document
	MaxTrust      = 64 << 10  // a trust document
	MaxSignature  = 64 << 10  // one Sigstore bundle
	MaxManifest   = 256 << 10 // a manifest
	MaxReport     = 16 << 10  // a node's report
	MaxSignatures = 16        // signatures looked at for one document
)

// ErrName is matched by every error about a malformed app, version, tier, node,
// platform or digest.
var ErrName = errors.New("malformed name")

var (
	appForm      = regexp.MustCompile(`^[a-z][a-z0-9-]{0,31}$`)
	versionForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}$`)
	tierForm     = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)
	nodeForm     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,62}$`)
	platformForm = regexp.MustCompile(`^(any|[a-z0-9]{1,16}/[a-z0-9]{1,16})$`)
	commitForm   = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	hexForm      = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// CheckApp reports whether s may name an app.
func CheckApp(s string) error {
	if s == "builder" {
		return fmt.Errorf("%w: app %q is reserved", ErrName, s)
	}
	return check("app", s, appForm)
}

// CheckVersion reports whether s may name a version.
func CheckVersion(s string) error {
	if strings.Contains(s, "..") || strings.HasSuffix(s, ".") || strings.HasSuffix(s, ".lock") {
		return fmt.Errorf("%w: version %q holds \"..\" or ends in \".\" or \".lock\"", ErrName, s)
	}
	return check("version", s, versionForm)
}

// CheckTier reports whether s may name a tier.
func CheckTier(s string) error { return check("tier", s, tierForm) }

// CheckNode reports whether s may name a node.
func CheckNode(s string) error { return check("node", s, nodeForm) }

// CheckPlatform reports whether s is "os/arch" in Go's words, or "any".
func CheckPlatform(s string) error { return check("platform", s, platformForm) }

// CheckCommit reports whether s is a git object id.
func CheckCommit(s string) error { return check("commit", s, commitForm) }

func check(what, s string, form *regexp.Regexp) error {
	if !form.MatchString(s) {
		return fmt.Errorf("%w: %s %q is not of the form %s", ErrName, what, s, form)
	}
	return nil
}

// Digest is a SHA-256 written as "sha256:" and 64 lower-case hex digits.
type Digest string

// Sum returns the digest of data.
func Sum(data []byte) Digest {
	h := sha256.Sum256(data)
	return Digest("sha256:" + hex.EncodeToString(h[:]))
}

// Check reports whether d is well formed.
func (d Digest) Check() error {
	s, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok || !hexForm.MatchString(s) {
		return fmt.Errorf("%w: digest %q is not sha256: and 64 hex digits", ErrName, string(d))
	}
	return nil
}

// Hex returns the 64 hex digits of a well-formed digest.
func (d Digest) Hex() string { return strings.TrimPrefix(string(d), "sha256:") }

// Short returns the first 16 hex digits of a well-formed digest, as in file names.
func (d Digest) Short() string { return Short(d.Hex()) }

// Short returns the first 16 characters of a hex digest or key id, as in file names.
func Short(hex string) string {
	if len(hex) < 16 {
		return hex
	}
	return hex[:16]
}
