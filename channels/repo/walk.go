package repo

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"makenot.work/sando/channels"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// MaxWalk is how many versions of trust one Walk goes through, so that an endless valid
// chain costs a bounded time.
const MaxWalk = 64

// TrustFile returns the path of a version of the trust document.
func TrustFile(version int64) string { return fmt.Sprintf("trust/%d.json", version) }

// Walk follows the trust chain from held, one version after the other, to the newest
// one that follows, or MaxWalk versions on. accept, which may be nil, is called with each one before
// it counts. The trust returned is the newest accepted one, also beside an error;
// errors are those of channels.Step, of Read and of accept.
func (s *Snapshot) Walk(held *signing.Trust, accept func(next *signing.Trust, doc signing.Signed) error) (*signing.Trust, error) {
	for range MaxWalk {
		file := TrustFile(held.Version + 1)
		doc, err := s.Read(file, layout.MaxTrust)
		if errors.Is(err, fs.ErrNotExist) {
			return held, nil
		}
		if err != nil {
			return held, err
		}
		kids := held.Kids(signing.RoleRoot)
		if next, err := signing.ParseTrust(doc); err == nil { // only to know whose signatures to look for
			kids = append(kids, next.Kids(signing.RoleRoot)...)
		}
		slices.Sort(kids)
		signed, err := s.Signed(file, slices.Compact(kids), layout.MaxTrust)
		if err != nil {
			return held, err
		}
		next, err := channels.Step(held, signed)
		if err != nil {
			return held, err
		}
		if accept != nil {
			if err := accept(next, signed); err != nil {
				return held, err
			}
		}
		held = next
	}
	return held, nil
}
