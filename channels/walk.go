package channels

import (
	"slices"

	"makenot.work/sando/signing"
)

// MaxWalk is how many versions of trust one Walk goes through, so that an endless valid
// chain costs a bounded time.
const MaxWalk = 64

// Walk follows the trust chain from held, one version after the other, to the newest
// one that follows, or MaxWalk versions on. read returns a version with the signatures by
// those whom kids names for its bytes; without bytes there is no such version. accept,
// which may be nil, is called with each one before it counts. The trust returned is the
// newest accepted one, also beside an error; errors are those of Step, of read and of
// accept.
func Walk(held *signing.Trust, read func(version int64, kids func(doc []byte) []string) (signing.Signed, error),
	accept func(next *signing.Trust, doc signing.Signed) error) (*signing.Trust, error) {
	for range MaxWalk {
		signed, err := read(held.Version+1, func(doc []byte) []string { return rootKids(held, doc) })
		if err != nil || signed.Doc == nil {
			return held, err
		}
		next, err := Step(held, signed)
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

// rootKids returns whose signatures over the candidate doc are worth asking for.
func rootKids(held *signing.Trust, doc []byte) []string {
	kids := held.Kids(signing.RoleRoot)
	if next, err := signing.ParseTrust(doc); err == nil { // its word is good for no more than this
		kids = append(kids, next.Kids(signing.RoleRoot)...)
	}
	slices.Sort(kids)
	return slices.Compact(kids)
}
