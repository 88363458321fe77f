package local

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
)

// orderedSnapshotter is containerd's namespaced snapshotter with one lock order for all writes.
// If join is set each of them runs in a transaction, its own or that of its context, so that the
// transaction always comes before the snapshotter's lock. Otherwise none ever does, so that it
// always comes after. Reads take no lock of the snapshotter and pass through.
type orderedSnapshotter struct {
	snapshots.Snapshotter
	tx   *transactor
	join bool
}

func (s *orderedSnapshotter) write(ctx context.Context, what string, fn func(context.Context) error) error {
	if !s.join {
		if err := s.tx.apart(ctx, what); err != nil {
			return err
		}
		return fn(ctx)
	}
	var opErr error
	err := s.tx.update(ctx, func(ctx context.Context) error {
		opErr = fn(ctx)
		// containerd answers so after it has added what exists to the lease of the context.
		// Rolling back would lose that.
		if errdefs.IsAlreadyExists(opErr) {
			return nil
		}
		return opErr
	})
	if err != nil {
		return err
	}
	return opErr
}

func (s *orderedSnapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	err = s.write(ctx, "Prepare", func(ctx context.Context) (err error) {
		mounts, err = s.Snapshotter.Prepare(ctx, key, parent, opts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return mounts, nil
}

func (s *orderedSnapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) (mounts []mount.Mount, err error) {
	err = s.write(ctx, "View", func(ctx context.Context) (err error) {
		mounts, err = s.Snapshotter.View(ctx, key, parent, opts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return mounts, nil
}

func (s *orderedSnapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	return s.write(ctx, "Commit", func(ctx context.Context) error {
		return s.Snapshotter.Commit(ctx, name, key, opts...)
	})
}

func (s *orderedSnapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	err = s.write(ctx, "Update", func(ctx context.Context) (err error) {
		updated, err = s.Snapshotter.Update(ctx, info, fieldpaths...)
		return err
	})
	if err != nil {
		return snapshots.Info{}, err
	}
	return updated, nil
}

func (s *orderedSnapshotter) Remove(ctx context.Context, key string) error {
	return s.write(ctx, "Remove", func(ctx context.Context) error {
		return s.Snapshotter.Remove(ctx, key)
	})
}

// orderedContent is containerd's namespaced content store. Its lock always comes before the
// transaction, because committing a blob syncs it to disk under the former, and nobody else's
// write should wait for that.
type orderedContent struct {
	content.Store
	tx *transactor
}

func (s *orderedContent) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	if err := s.tx.apart(ctx, "a content update"); err != nil {
		return content.Info{}, err
	}
	return s.Store.Update(ctx, info, fieldpaths...)
}

func (s *orderedContent) Delete(ctx context.Context, dgst digest.Digest) error {
	if err := s.tx.apart(ctx, "a content deletion"); err != nil {
		return err
	}
	return s.Store.Delete(ctx, dgst)
}

func (s *orderedContent) Abort(ctx context.Context, ref string) error {
	if err := s.tx.apart(ctx, "an ingest's end"); err != nil {
		return err
	}
	return s.Store.Abort(ctx, ref)
}

func (s *orderedContent) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	if err := s.tx.apart(ctx, "a content writer"); err != nil {
		return nil, err
	}
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return &orderedWriter{Writer: w, tx: s.tx}, nil
}

type orderedWriter struct {
	content.Writer
	tx *transactor
}

func (w *orderedWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	if err := w.tx.apart(ctx, "a content commit"); err != nil {
		return err
	}
	return w.Writer.Commit(ctx, size, expected, opts...)
}

// orderedLeases is containerd's lease manager, whose writes take no lock but the transaction.
// They go the same way as the snapshotter's for one reason: waiting for the turn to write can be cancelled.
type orderedLeases struct {
	leases.Manager
	tx *transactor
	// first is what the first walk of all leases showed.
	first struct {
		sync.Mutex
		listed    bool
		temporary []leases.Lease
	}
}

// labelTemporary marks leases that are good for the time of a process only.
const labelTemporary = "buildkit/lease.temporary"

// WalkLeases calls fn for each lease; see ctdsnapshot.LeaseManager. The first such walk is that of a start, and notes the temporary
// leases, so that nobody need list all a second time for them.
func (m *orderedLeases) WalkLeases(ctx context.Context, fn func(id string, labels map[string]string) error) error {
	var temporary []leases.Lease
	err := m.tx.walkLeases(ctx, func(id string, labels map[string]string) error {
		if _, ok := labels[labelTemporary]; ok {
			temporary = append(temporary, leases.Lease{ID: id})
		}
		return fn(id, labels)
	})
	if err != nil {
		return err
	}
	m.first.Lock()
	defer m.first.Unlock()
	if !m.first.listed {
		m.first.listed, m.first.temporary = true, temporary
	}
	return nil
}

// foundTemporary returns the temporary leases that were there when all leases were walked first, which is now if
// nobody did so before. The caller takes them over.
func (m *orderedLeases) foundTemporary(ctx context.Context) ([]leases.Lease, error) {
	m.first.Lock()
	listed := m.first.listed
	m.first.Unlock()
	if !listed {
		if err := m.WalkLeases(ctx, func(string, map[string]string) error { return nil }); err != nil {
			return nil, err
		}
	}
	m.first.Lock()
	defer m.first.Unlock()
	found := m.first.temporary
	m.first.temporary = nil
	return found, nil
}

func (m *orderedLeases) Create(ctx context.Context, opts ...leases.Opt) (l leases.Lease, err error) {
	err = m.tx.update(ctx, func(ctx context.Context) (err error) {
		l, err = m.Manager.Create(ctx, opts...)
		return err
	})
	if err != nil {
		return leases.Lease{}, err
	}
	return l, nil
}

func (m *orderedLeases) Delete(ctx context.Context, l leases.Lease, opts ...leases.DeleteOpt) error {
	return m.tx.update(ctx, func(ctx context.Context) error { return m.Manager.Delete(ctx, l, opts...) })
}

func (m *orderedLeases) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return m.tx.update(ctx, func(ctx context.Context) error { return m.Manager.AddResource(ctx, l, r) })
}

func (m *orderedLeases) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return m.tx.update(ctx, func(ctx context.Context) error { return m.Manager.DeleteResource(ctx, l, r) })
}
