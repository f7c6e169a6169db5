// Package signing decides whose word counts: public keys, signatures in Sigstore's
// form, and trust.json, which says how many signatures of which keys each role needs.
// It only verifies; private keys live in signing/keys, which nothing that runs on a
// node imports. It reads no file and no network, and links the standard library only.
//
// # Parties
//
//	root holders   sign the next version of trust.json; keys kept offline
//	builder        holds a key of the role "release": signs manifests
//	promoter       holds a key of the role "channel", or "channel:<tier>": signs channels
//	node           holds trust.json, put there by its operator, and verifies
//
// # Keys
//
// Keys are ECDSA P-256. A public key is written as the PEM block "PUBLIC KEY" around
// its SubjectPublicKeyInfo in DER, 64 characters a line, nothing before or after it:
// what `builder keygen`, `cosign generate-key-pair` and `openssl ec -pubout` write. A
// key has this one spelling; every other is refused, so that no key counts twice. Its
// id, the kid, is the SHA-256 of the DER in 64 lower-case hex digits. People and file
// names use the first 16 of them.
//
// # Signatures
//
// What is signed is the exact bytes of a document. Each signature is a file of its
// own, a Sigstore bundle v0.3 with a messageSignature:
//
//	{
//	  "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
//	  "verificationMaterial": {
//	    "publicKey": {
//	      "hint": "UdgWYzq91fqUuT91BvqZcYG95H1mZsisN2kW6YgqLV0="
//	    }
//	  },
//	  "messageSignature": {
//	    "messageDigest": {
//	      "algorithm": "SHA2_256",
//	      "digest": "WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM="
//	    },
//	    "signature": "MEYCIQDx4abK5OLst/2gctB/cD5o6hXb3MeR/9kcIYbvg099HQIh…"
//	  }
//	}
//
// The digest is the SHA-256 of the document. The signature is an ECDSA signature over
// that digest, in DER. All three base64 texts are standard, padded. The hint is the
// base64 of the kid; it is written for other tools and selects nothing here: which key
// a file is by, its name says, and the key decides.
//
// Other tools write the same with other white space and another order of fields, so a
// reader takes both as they come. All else is strict: these fields, spelled like this,
// once, none of them null; "hint" may be absent, "tlogEntries" and
// "timestampVerificationData" may be there but empty. Certificates, DSSE envelopes,
// transparency log entries, timestamps and other versions of the bundle are refused:
// nothing here would verify them. Stock tools agree, both ways:
//
//	cosign verify-blob --key release.pub --bundle SIGNATURE --insecure-ignore-tlog=true DOCUMENT
//	cosign sign-blob --key release.key --use-signing-config=false --tlog-upload=false --bundle SIGNATURE DOCUMENT
//
// In the channel repo the signature over DOCUMENT is the file
// DOCUMENT.<kid16>.sigstore.json, so a reader asks for the keys it trusts and never
// lists a directory.
//
// # trust.json
//
// In canonical form (two spaces, this order, one newline at the end; here "<kid>"
// stands for 64 hex digits):
//
//	{
//	  "schema": "sando.trust/v1",
//	  "app": "mnw",
//	  "version": 1,
//	  "keys": {
//	    "<kid>": "-----BEGIN PUBLIC KEY-----\nMFkw…\n-----END PUBLIC KEY-----\n"
//	  },
//	  "roles": {
//	    "channel": {"keys": ["<kid>"], "threshold": 1},
//	    "channel:b": {"keys": ["<kid>", "<kid>"], "threshold": 2},
//	    "release": {"keys": ["<kid>"], "threshold": 1},
//	    "root": {"keys": ["<kid>", "<kid>"], "threshold": 1}
//	  },
//	  "revoked": ["sha256:<64 hex digits>"]
//	}
//
// (a role takes several lines in the real file). The roles root, release and channel
// are required; "channel:<tier>" replaces "channel" for one tier; there are no others.
// A role has 1 to 16 keys, sorted and distinct, and a threshold from 1 to their number.
// Every key of "keys" is in some role, and every kid is that of its PEM. "revoked",
// omitted when empty, names manifests that are not activated any more, sorted.
//
// A document is good for a role when at least threshold of the role's keys have signed
// it. Keys are counted, not signatures: one key counts once, however often it signed.
// A broken signature beside enough good ones does no harm.
//
// Version N+1 replaces version N when it is good for the role root of both; see
// channels.Step. It has no expiry: who can withhold version N+1 can keep a node at N.
//
// # What it does not protect from
//
// Signatures say who, not when: an old document verifies for ever, and the counter in
// the channel is what refuses it. A threshold of root keys that fell into wrong hands
// replaces all others, and only a new trust.json put on each node by its operator
// mends that. Where one host holds the release and the channel key, that host is both
// parties.
package signing

import "makenot.work/sando/layout"

// Signatures maps the full kid of a key to the bytes of a Sigstore bundle that is said
// to be by this key.
type Signatures map[string][]byte

// Signed is a document with the signatures found for it. Nothing in it is trusted.
type Signed struct {
	Doc  []byte
	Sigs Signatures
}

// SignatureFile returns the name that the signature by the key kid over the file doc
// has in the channel repo.
func SignatureFile(doc, kid string) string {
	return doc + "." + layout.Short(kid) + ".sigstore.json"
}
