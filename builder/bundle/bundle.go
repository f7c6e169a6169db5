// Package bundle publishes what a version is, and reads it back: the side of a builder
// that faces the bucket. The names of the objects and their order are in package layout.
//
// # Parties
//
// A builder writes; builders, promoters and nodes read. Who can write the bucket without
// being a builder can withhold what is in it. What he changes is found out, because
// everything is held against a manifest that the release key signed.
//
// # Publish
//
// Data first, then the signature, then manifest-<digest16>.json, and manifest.json last
// and only if there is none: who finds that one finds all the rest, and of two builders
// one decides what the version is. An object that is there already, left by a builder
// that died, must hold the same bytes.
//
// It does not say whether a version should run anywhere.
package bundle

import (
	"errors"
	"io/fs"

	"makenot.work/sando/builder/stage"
	"makenot.work/sando/layout"
	"makenot.work/sando/layout/bucket"
	"makenot.work/sando/signing"
)

// Store is the bundles of one app in a bucket.
type Store struct {
	App      string
	Bucket   bucket.Bucket
	Progress func(what string, total int64) Progress // begins to show work of total bytes
	Spool    string                                  // directory for files without a name
}

// SpoolPrefix begins the names of files that are deleted as soon as they are open.
const SpoolPrefix = ".verify-"

// Progress shows how far long work has come.
type Progress interface {
	Add(bytes int64) // negative when work begins anew
	Done()
}

// Published is a version that the bucket has, its signatures verified.
type Published struct {
	*layout.Manifest
	Doc    []byte // the bytes of the manifest
	Digest layout.Digest

	sigs signing.Signatures
}

// Signed returns the manifest with the signatures that were found, good or not.
func (p *Published) Signed() signing.Signed { return signing.Signed{Doc: p.Doc, Sigs: p.sigs} }

// Signer is the private half of a key.
type Signer interface {
	Public() *signing.PublicKey
	Sign(doc []byte) ([]byte, error)
}

// Product is the bundle for one platform, made and not yet published.
type Product struct {
	layout.Bundle
	File     string // the tarball
	Contents []stage.Size
	Warnings []string
}

// refusal is the exit code of reasons that waiting does not mend.
const refusal = 3

// missing reports whether err says that there is no such object.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
