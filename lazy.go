package cache

import (
	"context"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/snapshot"
)

// checkLazy makes sure that every blob of the record and its ancestors that is not local has a
// handler (spec MGR-8). It calls the backend only for records that were never extracted.
func (m *manager) checkLazy(ctx context.Context, rec *graph.Record, dhs DescHandlers) error {
	blobs := m.g.LazyBlobs(rec)
	if len(blobs) == 0 {
		return nil
	}
	if err := m.life.again(); err != nil {
		return err
	}
	defer m.life.end()
	var missing NeedsRemoteProviderError
	for _, b := range blobs {
		d := digest.Digest(b.Digest)
		if dhs[d] != nil {
			continue
		}
		lazy, err := m.isLazy(ctx, b)
		if err != nil {
			return err
		}
		if lazy {
			missing = append(missing, d)
		}
	}
	if len(missing) > 0 {
		return missing
	}
	return nil
}

// isLazy tells whether the data of a record that was never extracted is elsewhere (spec REC-5).
func (m *manager) isLazy(ctx context.Context, b graph.LazyBlob) (bool, error) {
	if local, err := m.blobLocal(ctx, digest.Digest(b.Digest)); err != nil || !local {
		return err == nil, errors.WithMessagef(err, "record %q", b.ID)
	}
	info, err := m.opt.Snapshotter.Stat(ctx, b.SnapshotID)
	if err != nil {
		if errdefs.IsNotFound(err) {
			return false, nil
		}
		return false, errors.Wrapf(err, "looking for the snapshot of record %q", b.ID)
	}
	_, remote := info.Labels[snapshot.LabelRemote]
	return remote, nil
}
