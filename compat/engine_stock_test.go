package compat

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/leases"
	ctdmetadata "github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/config"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/snapshot"
	ctdsnapshot "github.com/moby/buildkit/snapshot/containerd"
	"github.com/moby/buildkit/snapshot/imagerefchecker"
	"github.com/moby/buildkit/util/compression"
	"github.com/moby/buildkit/util/leaseutil"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// stock is BuildKit's cache manager with the parts that its runc worker puts below it.
type stock struct {
	cache.Manager
	snapshotter snapshot.Snapshotter
	blobs       *ctdsnapshot.Store
	leases      *leaseutil.Manager
	rows        *metadata.Store
	parts       *ctdmetadata.DB
	closers     []func() error // run in reverse
}

// openStock opens a worker directory as buildkitd does, and deletes the temporary leases like it.
func openStock(t *testing.T, dir, name string) *stock {
	t.Helper()
	ctx := t.Context()
	require.NoError(t, os.MkdirAll(dir, 0o700))
	s := &stock{}
	t.Cleanup(func() { _ = s.close() }) // of a test that failed; else it is closed already
	var trees snapshots.Snapshotter
	var err error
	if name == snNative {
		trees, err = native.NewSnapshotter(filepath.Join(dir, "snapshots"))
	} else {
		trees, err = overlay.NewSnapshotter(filepath.Join(dir, "snapshots"), overlay.AsynchronousRemove)
	}
	require.NoError(t, err)
	s.closers = append(s.closers, trees.Close)
	files, err := local.NewStore(filepath.Join(dir, "content"))
	require.NoError(t, err)
	db, err := bolt.Open(filepath.Join(dir, "containerdmeta.db"), 0o644, &bolt.Options{
		FreelistType: bolt.FreelistMapType, NoFreelistSync: true, Timeout: time.Second,
	})
	require.NoError(t, err)
	s.closers = append(s.closers, db.Close)
	s.parts = ctdmetadata.NewDB(db, files, map[string]snapshots.Snapshotter{name: trees})
	require.NoError(t, s.parts.Init(ctx))
	s.rows, err = metadata.NewStore(filepath.Join(dir, "metadata_v2.db"))
	require.NoError(t, err)
	s.closers = append(s.closers, s.rows.Close)
	s.snapshotter = ctdsnapshot.NewSnapshotter(name, s.parts.Snapshotter(name), "buildkit", nil)
	s.blobs = ctdsnapshot.NewContentStore(s.parts.ContentStore(), "buildkit")
	s.leases = leaseutil.WithNamespace(ctdmetadata.NewLeaseManager(s.parts), "buildkit")
	s.Manager, err = cache.NewManager(cache.ManagerOpt{
		Snapshotter:     s.snapshotter,
		PruneRefChecker: imagerefchecker.New(imagerefchecker.Opt{ContentStore: s.blobs}),
		Applier:         apply.NewFileSystemApplier(s.blobs),
		GarbageCollect:  s.parts.GarbageCollect,
		LeaseManager:    s.leases,
		ContentStore:    s.blobs,
		Differ:          walking.NewWalkingDiff(s.blobs),
		MetadataStore:   s.rows,
		Root:            dir,
		MountPoolRoot:   filepath.Join(dir, "cachemounts"),
	})
	require.NoError(t, err)
	temporary, err := s.leases.List(ctx, `labels."buildkit/lease.temporary"`)
	require.NoError(t, err)
	for _, l := range temporary {
		require.NoError(t, s.leases.Delete(ctx, l))
	}
	return s
}

// close closes what the manager stands on, as far as it is open. Refs that are held are left as
// they are, so it ends a manager like the death of its process.
func (s *stock) close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i]())
	}
	s.closers = nil
	return stderrors.Join(errs...)
}

func (s *stock) collectGarbage(ctx context.Context) error {
	_, err := s.parts.GarbageCollect(ctx)
	return err
}

func (s *stock) get(ctx context.Context, id string, lazy ...digest.Digest) (*ref, error) {
	handlers := cache.DescHandlers{}
	for _, d := range lazy {
		handlers[d] = &cache.DescHandler{}
	}
	r, err := s.Get(ctx, id, nil, handlers)
	if err != nil {
		return nil, err
	}
	return stockImmutable(r), nil
}

func (s *stock) getMutable(ctx context.Context, id string) (*ref, error) {
	r, err := s.GetMutable(ctx, id)
	if err != nil {
		return nil, err
	}
	return stockMutable(r), nil
}

func (s *stock) create(ctx context.Context, parent, description string, cacheMount bool) (_ *ref, err error) {
	var on cache.ImmutableRef
	if parent != "" {
		if on, err = s.Get(ctx, parent, nil, cache.NoUpdateLastUsed); err != nil {
			return nil, err
		}
		defer func() { err = stderrors.Join(err, on.Release(ctx)) }()
	}
	opts := []cache.RefOption{cache.WithDescription(description)}
	if cacheMount {
		opts = append(opts, cache.CachePolicyRetain, cache.WithRecordType(client.UsageRecordTypeCacheMount))
	}
	r, err := s.New(ctx, on, nil, opts...)
	if err != nil {
		return nil, err
	}
	return stockMutable(r), nil
}

func (s *stock) search(ctx context.Context, index string) (ids []string, err error) {
	found, err := s.Search(ctx, index, false)
	for _, md := range found {
		ids = append(ids, md.ID())
	}
	return ids, err
}

func (s *stock) usage(ctx context.Context) (map[string]usageRow, error) {
	infos, err := s.DiskUsage(ctx, client.DiskUsageInfo{})
	out := map[string]usageRow{}
	for _, u := range infos {
		row := usageRow{
			Mutable: u.Mutable, InUse: u.InUse, Shared: u.Shared, Size: u.Size, Created: u.CreatedAt.UnixNano(),
			Count: u.UsageCount, Parents: strings.Join(u.Parents, " "), Description: u.Description, Type: string(u.RecordType),
		}
		if u.LastUsedAt != nil {
			row.LastUsed = u.LastUsedAt.UnixNano()
		}
		out[u.ID] = row
	}
	return out, err
}

func (s *stock) prune(ctx context.Context, id string) (ids []string, err error) {
	ch := make(chan client.UsageInfo)
	done := make(chan error, 1)
	go func() {
		defer close(ch)
		done <- s.Prune(ctx, ch, client.PruneInfo{Filter: []string{"id==" + id}})
	}()
	for u := range ch {
		ids = append(ids, u.ID)
	}
	return ids, <-done
}

// settle waits for the rows to go that a Finalize removes behind its caller's back (quirk Q29).
func (s *stock) settle(t *testing.T, ids ...string) {
	t.Helper()
	for _, id := range ids {
		require.Eventually(t, func() bool {
			_, ok := s.rows.Get(id)
			return !ok
		}, 20*time.Second, time.Millisecond, id)
	}
	// The removal holds the manager's lock to its end, and so does a search.
	_, err := s.Search(t.Context(), "none", false)
	require.NoError(t, err)
}

// leaseSnapshot makes a lease as BuildKit does for a record.
func (s *stock) leaseSnapshot(ctx context.Context, record, snapshotID string) error {
	l, err := s.leases.Create(ctx, leases.WithID(record), leases.WithLabel("containerd.io/gc.flat", time.Now().UTC().Format(time.RFC3339Nano)))
	if err != nil {
		return err
	}
	return s.leases.AddResource(ctx, l, leases.Resource{ID: snapshotID, Type: "snapshots/" + s.snapshotter.Name()})
}

func stockImmutable(r cache.ImmutableRef) *ref {
	return &ref{
		handle:   r,
		mount:    func(ctx context.Context, readonly bool) (mountable, error) { return r.Mount(ctx, readonly, nil) },
		finalize: r.Finalize,
		export: func(ctx context.Context, o exportOpt) ([]chain, error) {
			kind, err := compression.Parse(o.kind)
			if err != nil {
				return nil, err
			}
			remotes, err := r.GetRemotes(ctx, o.create, config.RefConfig{Compression: compression.New(kind).SetForce(o.force)}, o.all, nil)
			var chains []chain
			for _, rem := range remotes {
				chains = append(chains, chain{rem.Descriptors, rem.Provider})
			}
			return chains, err
		},
	}
}

func stockMutable(r cache.MutableRef) *ref {
	return &ref{
		handle: r,
		mount:  func(ctx context.Context, readonly bool) (mountable, error) { return r.Mount(ctx, readonly, nil) },
		commit: func(ctx context.Context) (*ref, error) {
			imm, err := r.Commit(ctx)
			if err != nil {
				return nil, err
			}
			return stockImmutable(imm), nil
		},
	}
}
