package repo

import (
	"errors"
	"fmt"
	"io/fs"

	"makenot.work/sando/channels"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// TrustFile returns the path of a version of the trust document.
func TrustFile(version int64) string { return fmt.Sprintf("trust/%d.json", version) }

// ChannelFile returns the path of the channel of a tier.
func ChannelFile(tier string) string { return "channels/" + tier + ".json" }

// Walk follows the trust chain from held; see channels.Walk. Errors are also those of
// Read.
func (s *Snapshot) Walk(held *signing.Trust, accept func(next *signing.Trust, doc signing.Signed) error) (*signing.Trust, error) {
	return channels.Walk(held, s.trust, accept)
}

func (s *Snapshot) trust(version int64, kids func(doc []byte) []string) (signing.Signed, error) {
	file := TrustFile(version)
	doc, err := s.Read(file, layout.MaxTrust)
	if errors.Is(err, fs.ErrNotExist) {
		return signing.Signed{}, nil
	}
	if err != nil {
		return signing.Signed{}, err
	}
	return s.Signed(file, kids(doc), layout.MaxTrust)
}
