//go:build !linux

package snapshot

import (
	"context"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// apply refuses to apply anything: that takes directory descriptors, which other systems lack or are not supported on.
func (*mergeSnapshotter) apply(_ context.Context, _ *mergeWork, _ string, diffs []Diff) (MergeReport, []snapshots.Opt, error) {
	if len(diffs) > 0 {
		return MergeReport{}, nil, errors.Wrap(errdefs.ErrNotImplemented, "layers can be merged on Linux only")
	}
	return MergeReport{}, nil, nil
}

func (*mergeSnapshotter) probeUserXattr(context.Context) error { return nil }
