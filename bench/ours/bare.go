package ours

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"

	"github.com/layercache/cache/metadata"
)

// BareLayer has the parts write what NewLayer writes, in the same transactions and as many of them at a time, and nothing else: without a record, a ref,
// a state or anything that could be taken back. The names are the caller's to choose. It needs no Start.
func (c *Cache) BareLayer(ctx context.Context, mutID, immID string) error {
	var g errgroup.Group
	g.Go(func() error {
		prepare := func(ctx context.Context) error { return c.Parts.Snapshotter.Prepare(ctx, mutID, "") }
		return c.bareSnapshot(ctx, mutID, "", prepare)
	})
	g.Go(func() error {
		return c.Parts.MetadataStore.Write(func(w *metadata.Writer) error {
			return bareRow(w, mutID, "cache.createdAt", "cache.snapshot", "cache.cachePolicy")
		})
	})
	err := g.Wait()
	if err != nil {
		return errors.Wrap(err, "new")
	}
	err = c.Parts.MetadataStore.Write(func(w *metadata.Writer) error {
		return bareRow(w, immID, "cache.createdAt", "cache.committed", "snapshot.size", "cache.snapshot", "cache.equalMutable")
	})
	if err != nil {
		return errors.Wrap(err, "commit")
	}
	commit := func(ctx context.Context) error { return c.Parts.Snapshotter.Commit(ctx, immID, mutID) }
	if err := c.bareSnapshot(ctx, immID, mutID, commit); err != nil {
		return errors.Wrap(err, "finalize")
	}
	err = c.Parts.MetadataStore.Write(func(w *metadata.Writer) error {
		row, err := w.Row(immID)
		if err != nil {
			return err
		}
		if err := row.Clear("cache.equalMutable"); err != nil {
			return err
		}
		return w.Remove(mutID)
	})
	return errors.Wrap(err, "finalize")
}

// bareSnapshot makes the lease of a snapshot, deletes another one, unless that is "", and has the snapshotter do its part.
func (c *Cache) bareSnapshot(ctx context.Context, id, old string, snapshot func(context.Context) error) error {
	p := c.Parts
	err := p.Transactions.Update(ctx, func(ctx context.Context) error {
		l, err := p.LeaseManager.Create(ctx, leases.WithID(id), leases.WithLabel("containerd.io/gc.flat", "now"))
		if err != nil {
			return err
		}
		resource := leases.Resource{ID: id, Type: "snapshots/" + p.SnapshotterName}
		if err := p.LeaseManager.AddResource(ctx, l, resource); err != nil || !p.Transactions.Snapshots {
			return err
		}
		if old != "" {
			if err := p.LeaseManager.Delete(ctx, leases.Lease{ID: old}); err != nil {
				return err
			}
		}
		return snapshot(ctx)
	})
	if err != nil || p.Transactions.Snapshots {
		return err
	}
	if err := snapshot(ctx); err != nil || old == "" {
		return err
	}
	return p.LeaseManager.Delete(ctx, leases.Lease{ID: old})
}

func bareRow(w *metadata.Writer, id string, keys ...string) error {
	row, err := w.Create(id)
	if err != nil {
		return err
	}
	for _, key := range keys {
		if err := row.Set(key, id, ""); err != nil {
			return err
		}
	}
	return nil
}

// CommittedSnapshots counts the snapshots that are committed.
func (c *Cache) CommittedSnapshots(ctx context.Context) (n int, err error) {
	err = c.Parts.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Kind == snapshots.KindCommitted {
			n++
		}
		return nil
	})
	return n, err
}
