package builder

import (
	"context"

	"makenot.work/sando/builder/bundle"
	"makenot.work/sando/channels/repo"
	"makenot.work/sando/internal/reason"
	"makenot.work/sando/layout"
	"makenot.work/sando/signing"
)

// Verify reads everything that a version has in the bucket, and holds it against the
// manifest, the manifest against its signatures. With an error that is about what it
// found, the result is there as well.
func (b *Builder) Verify(ctx context.Context, version string) (*bundle.Verified, error) {
	if err := layout.CheckVersion(version); err != nil {
		return nil, reason.Wrap(reason.Config, err)
	}
	var trust *signing.Trust
	err := b.withChannels(ctx, "verify "+version, func(r *repo.Repo) error {
		head, err := r.Fetch(ctx, "")
		if err != nil {
			return err
		}
		trust, err = b.trust(head)
		return err
	})
	if err != nil {
		return nil, err
	}
	return b.store.Verify(ctx, trust, version)
}
