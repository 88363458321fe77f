package double

import (
	"context"
	"maps"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

type snapshotter Backend

func (s *snapshotter) b() *Backend { return (*Backend)(s) }

// lookup returns the entry of a snapshot.
func (s *snapshotter) lookup(ctx context.Context, key string) (found snap, err error) {
	err = s.b().view(ctx, func(tx *tx) error {
		var ok bool
		if found, ok = tx.snaps.get(key); !ok {
			return notFound("snapshot", key)
		}
		return nil
	})
	return found, err
}

func (s *snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	found, err := s.lookup(ctx, key)
	if err != nil {
		return snapshots.Info{}, err
	}
	return s.info(key, found)
}

// info puts together what both layers know. An entry whose snapshot is gone is not found.
func (s *snapshotter) info(key string, e snap) (snapshots.Info, error) {
	kind, err := s.disk.stat(e.backendKey)
	if err != nil {
		return snapshots.Info{}, err
	}
	return snapshots.Info{
		Kind:    kind,
		Name:    key,
		Parent:  e.parent,
		Labels:  maps.Clone(e.labels),
		Created: e.created,
		Updated: e.updated,
	}, nil
}

func (s *snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (snapshots.Info, error) {
	if info.Name == "" {
		return snapshots.Info{}, errors.Wrap(errdefs.ErrInvalidArgument, "empty snapshot key")
	}
	var updated snapshots.Info
	err := s.write(ctx, func(ctx context.Context) error {
		return s.b().update(ctx, func(tx *tx) (err error) {
			e, ok := tx.snaps.get(info.Name)
			if !ok {
				return notFound("snapshot", info.Name)
			}
			if e.labels, err = setLabels(e.labels, info.Labels, fieldpaths); err != nil {
				return err
			}
			e.updated = tx.b.now().UTC()
			if updated, err = s.info(info.Name, e); err != nil {
				return err
			}
			tx.snaps.put(info.Name, e)
			return nil
		})
	})
	if err != nil {
		return snapshots.Info{}, err
	}
	return updated, nil
}

// write runs a writing call under the lock that keeps what it makes from being garbage, and in a
// transaction if that is how this backend orders the two.
func (s *snapshotter) write(ctx context.Context, call func(ctx context.Context) error) error {
	locked := func(ctx context.Context) error {
		s.snapLock.RLock()
		defer s.snapLock.RUnlock()
		return call(ctx)
	}
	if !s.join {
		return locked(ctx)
	}
	var err error
	txErr := s.b().Update(ctx, func(ctx context.Context) error {
		if err = locked(ctx); errdefs.IsAlreadyExists(err) {
			return nil // what exists was added to the context's lease, which has to stay
		}
		return err
	})
	if err == nil {
		err = txErr
	}
	return err
}

func (s *snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	e, err := s.lookup(ctx, key)
	if err != nil {
		return snapshots.Usage{}, err
	}
	return s.disk.usage(ctx, e.backendKey)
}

func (s *snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	e, err := s.lookup(ctx, key)
	if err != nil {
		return nil, err
	}
	return s.disk.mounts(e.backendKey)
}

func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindActive, key, parent, opts)
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, snapshots.KindView, key, parent, opts)
}

func applyOpts(opts []snapshots.Opt) (snapshots.Info, error) {
	var info snapshots.Info
	for _, opt := range opts {
		if err := opt(&info); err != nil {
			return info, err
		}
	}
	labels, err := cleanLabels(info.Labels)
	info.Labels = labels
	return info, err
}

// create makes a snapshot in three steps as containerd does: look at the entries, make the
// snapshot, add its entry. The lock keeps the new snapshot from being garbage in between.
func (s *snapshotter) create(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) (mounts []mount.Mount, err error) {
	if key == "" {
		return nil, errors.Wrap(errdefs.ErrInvalidArgument, "empty snapshot key")
	}
	base, err := applyOpts(opts)
	if err != nil {
		return nil, err
	}
	err = s.write(ctx, func(ctx context.Context) (err error) {
		mounts, err = s.createLocked(ctx, kind, key, parent, base)
		return err
	})
	if err != nil {
		return nil, err
	}
	return mounts, nil
}

func (s *snapshotter) createLocked(ctx context.Context, kind snapshots.Kind, key, parent string, base snapshots.Info) ([]mount.Mount, error) {
	taken, backendKey, backendParent := "", "", ""
	err := s.b().update(ctx, func(tx *tx) error {
		for _, name := range []string{base.Labels[snapshots.LabelSnapshotRef], key} {
			if _, ok := tx.snaps.get(name); ok && name != "" {
				// The lease is extended even though the call fails: the snapshot is what the caller wanted.
				taken = name
				_, err := tx.holdFor(ctx, typeSnapshots+s.name, name)
				return err
			}
		}
		if parent != "" {
			p, ok := tx.snaps.get(parent)
			if !ok {
				return notFound("parent snapshot", parent)
			}
			backendParent = p.backendKey
		}
		backendKey = tx.backendKey(key)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if taken != "" {
		return nil, alreadyExists("snapshot", taken)
	}

	mounts, err := s.disk.create(kind, backendKey, backendParent)
	if err != nil {
		return nil, err
	}
	err = s.b().update(ctx, func(tx *tx) error {
		if _, err := tx.holdFor(ctx, typeSnapshots+s.name, key); err != nil {
			return err
		}
		if _, ok := tx.snaps.get(key); ok {
			taken = key // by a call that ran at the same time
			return nil
		}
		if parent != "" {
			if _, ok := tx.snaps.get(parent); !ok {
				return notFound("parent snapshot", parent)
			}
		}
		if s.join {
			tx.made = append(tx.made, backendKey)
		}
		now := s.now().UTC()
		tx.snaps.put(key, snap{backendKey: backendKey, parent: parent, labels: base.Labels, created: now, updated: now})
		return nil
	})
	if err == nil && taken != "" {
		err = alreadyExists("snapshot", taken)
	}
	if err != nil {
		// Nothing names the snapshot, so garbage collection gets it if this fails.
		_ = s.disk.drop(backendKey)
		return nil, err
	}
	return mounts, nil
}

func (s *snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if name == "" {
		return errors.Wrap(errdefs.ErrInvalidArgument, "empty snapshot name")
	}
	base, err := applyOpts(opts)
	if err != nil {
		return err
	}
	return s.write(ctx, func(ctx context.Context) error {
		taken := false
		err := s.b().update(ctx, func(tx *tx) error {
			if _, err := tx.holdFor(ctx, typeSnapshots+s.name, name); err != nil {
				return err
			}
			if _, taken = tx.snaps.get(name); taken {
				return nil // the lease is extended all the same
			}
			return s.commit(ctx, tx, name, key, base)
		})
		if err == nil && taken {
			return alreadyExists("snapshot", name)
		}
		return err
	})
}

func (s *snapshotter) commit(ctx context.Context, tx *tx, name, key string, base snapshots.Info) error {
	active, ok := tx.snaps.get(key)
	if !ok {
		return notFound("snapshot", key)
	}
	e := snap{backendKey: tx.backendKey(name), parent: active.parent, labels: base.Labels}
	rebased := ""
	if e.parent == "" && base.Parent != "" {
		e.parent = base.Parent
		p, ok := tx.snaps.get(e.parent)
		if !ok {
			return notFound("parent snapshot", e.parent)
		}
		rebased = p.backendKey
	}
	if e.parent != "" {
		if _, ok := tx.snaps.get(e.parent); !ok {
			return notFound("parent snapshot", e.parent)
		}
	}
	e.created = s.now().UTC()
	e.updated = e.created
	tx.snaps.put(name, e)
	tx.snaps.del(key)
	tx.unholdFor(ctx, typeSnapshots+s.name, key)
	return s.disk.commit(ctx, e.backendKey, active.backendKey, rebased)
}

// Remove removes the entry; the snapshot itself goes at the next garbage collection.
func (s *snapshotter) Remove(ctx context.Context, key string) error {
	return s.write(ctx, func(ctx context.Context) error {
		return s.b().update(ctx, func(tx *tx) error { return s.remove(ctx, tx, key) })
	})
}

func (s *snapshotter) remove(ctx context.Context, tx *tx, key string) error {
	if _, ok := tx.snaps.get(key); !ok {
		return notFound("snapshot", key)
	}
	for _, other := range tx.snaps.keys() {
		if e, _ := tx.snaps.get(other); e.parent == key {
			return errors.Wrapf(errdefs.ErrFailedPrecondition, "snapshot %q has the child %q", key, other)
		}
	}
	tx.snaps.del(key)
	tx.unholdFor(ctx, typeSnapshots+s.name, key)
	s.snapDirty = true
	return nil
}

func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	filter, err := parseFilters(fs)
	if err != nil {
		return err
	}
	var infos []snapshots.Info
	err = s.b().view(ctx, func(tx *tx) error {
		for _, key := range tx.snaps.keys() {
			e, _ := tx.snaps.get(key)
			info, err := s.info(key, e)
			if errdefs.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			if filter.Match(fields(snapshotFields(info), info.Labels)) {
				infos = append(infos, info)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := fn(ctx, info); err != nil {
			return err
		}
	}
	return nil
}

func snapshotFields(info snapshots.Info) map[string]string {
	kinds := map[snapshots.Kind]string{
		snapshots.KindActive: "active", snapshots.KindView: "view", snapshots.KindCommitted: "committed",
	}
	return map[string]string{"kind": kinds[info.Kind], "name": info.Name, "parent": info.Parent}
}

func (s *snapshotter) Close() error { return nil }
