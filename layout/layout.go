// Package layout is the shape of everything Sando stores: names, digests, the
// manifest, the keys of the bucket. Its rooms hold the rest:
//
//	layout/tree     the tree of a release: entries, listing, hash
//	layout/archive  the tar profile: pack a tree, unpack exactly that profile
//	layout/bucket   where bundles are kept: a small interface, and file://
//	layout/node     the directories and state files of a node, and the swap
//	layout/report   what a node says of itself
//
// # Names
//
//	app       [a-z][a-z0-9-]{0,31}, not "builder"
//	version   [A-Za-z0-9][A-Za-z0-9._+-]{0,63}, no "..", not ending in "." or ".lock"
//	tier      [a-z0-9][a-z0-9-]{0,31}
//	node      [A-Za-z0-9][A-Za-z0-9.-]{0,62}
//	platform  "os/arch" in Go's words, or "any"
//	digest    "sha256:" and 64 lower-case hex digits
//
// # Bucket
//
// Below an optional prefix:
//
//	<app>/releases/<version>/<app>-<version>-<os>-<arch>-<sha16>.tar.zst   the tarball
//	<app>/releases/<version>/manifest-<digest16>.<kid16>.sigstore.json     a signature
//	<app>/releases/<version>/manifest-<digest16>.json                      the manifest
//	<app>/releases/<version>/manifest.json                                 the same bytes
//
// They are written in this order. Every name but the last holds the first 16 hex
// digits of a SHA-256, so nothing is overwritten; manifest.json is created once, and
// which manifest it holds decides which content the version has for ever.
//
// In a mirror of the channel repo, for nodes that follow the bucket alone:
//
//	<app>/trust/<N>-<digest16>.<kid16>.sigstore.json        a signature
//	<app>/trust/<N>.json                                    a version of trust
//	<app>/channels/<tier>-<digest16>.<kid16>.sigstore.json  a signature
//	<app>/channels/<tier>.json                              the channel of a tier
//
// They are written in this order as well. Only the last is ever replaced, by a newer
// state of the channel.
//
// And what nodes say of themselves, each node its own:
//
//	<app>/reports/<node>.json
//
// Who can write the bucket can withhold what is in it. Who changes something in it is
// found out, because all of it hangs from the digest of the manifest, which a channel
// names and the release key signs.
package layout
