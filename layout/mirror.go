package layout

import "strconv"

// Keys of the mirror of a channel repo in the bucket, below <prefix>. A signature is
// named for the digest of its document, so that it can be there before the document is.

// ChannelKey returns the key of the channel of a tier, the only object that is replaced.
func ChannelKey(app, tier string) string { return app + "/channels/" + tier + ".json" }

// ChannelSignatureKey returns the key of the signature by the key kid over the channel
// document with digest d.
func ChannelSignatureKey(app, tier string, d Digest, kid string) string {
	return app + "/channels/" + mirrorSignature(tier, d, kid)
}

// TrustKey returns the key of a version of the trust document.
func TrustKey(app string, version int64) string {
	return app + "/trust/" + strconv.FormatInt(version, 10) + ".json"
}

// TrustSignatureKey returns the key of the signature by the key kid over the trust
// document with this version and the digest d.
func TrustSignatureKey(app string, version int64, d Digest, kid string) string {
	return app + "/trust/" + mirrorSignature(strconv.FormatInt(version, 10), d, kid)
}

func mirrorSignature(name string, d Digest, kid string) string {
	return name + "-" + d.Short() + "." + Short(kid) + ".sigstore.json"
}
