package containerd_test

import (
	"bytes"
	"context"
	"errors"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/containerd"
	"github.com/layercache/cache/snapshot/snapshottest"
	"github.com/layercache/cache/testutil/need"
)

// openDB returns containerd's metadata store over a real content store and the snapshotter, which it closes.
func openDB(t *testing.T, name string, sn snapshots.Snapshotter) *metadata.DB {
	t.Helper()
	dir := t.TempDir()
	cs, err := local.NewStore(filepath.Join(dir, "content"))
	require.NoError(t, err)
	db, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{NoSync: true}) // no test survives a power cut
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, db.Close())
		require.NoError(t, sn.Close())
	})
	mdb := metadata.NewDB(db, cs, map[string]snapshots.Snapshotter{name: sn})
	require.NoError(t, mdb.Init(t.Context()))
	return mdb
}

func openNativeDB(t *testing.T) *metadata.DB {
	t.Helper()
	sn, err := native.NewSnapshotter(t.TempDir())
	require.NoError(t, err)
	return openDB(t, "native", sn)
}

// TestConformanceNamespacedNative runs the suite on the parts a real cache has, as any user (spec SNP-6, SNP-2).
func TestConformanceNamespacedNative(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
		sn := containerd.NewSnapshotter("native", openNativeDB(t).Snapshotter("native"), "buildkit", nil)
		return snapshottest.Fixture{Snapshotter: sn, RemoveForbidden: true}
	})
}

// TestConformanceNamespacedOverlay is the same on overlayfs (spec SNP-6, SNP-2).
func TestConformanceNamespacedOverlay(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
		need.Overlay(t)
		backend, err := overlay.NewSnapshotter(t.TempDir(), overlay.AsynchronousRemove)
		require.NoError(t, err)
		sn := containerd.NewSnapshotter("overlayfs", openDB(t, "overlayfs", backend).Snapshotter("overlayfs"), "buildkit", nil)
		return snapshottest.Fixture{Snapshotter: sn, RemoveForbidden: true}
	})
}

// TestConformanceNamespacedThereAndBack has the namespaced snapshotter adapted to containerd, as differs and
// unpackers get it (spec SNP-4, SNP-6).
func TestConformanceNamespacedThereAndBack(t *testing.T) {
	snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
		sn := containerd.NewSnapshotter("native", openNativeDB(t).Snapshotter("native"), "buildkit", nil)
		there, release := snapshot.NewContainerdSnapshotter(sn)
		t.Cleanup(func() { require.NoError(t, release()) })
		return snapshottest.Fixture{Snapshotter: snapshot.FromContainerdSnapshotter("native", there, nil), RemoveForbidden: true}
	})
}

// TestNamespacesAreApart: one key in two namespaces is two snapshots (spec SNP-6).
func TestNamespacesAreApart(t *testing.T) {
	backend := openNativeDB(t).Snapshotter("native")
	one := containerd.NewSnapshotter("native", backend, "one", nil)
	two := containerd.NewSnapshotter("native", backend, "two", nil)
	require.NoError(t, one.Prepare(t.Context(), "key", ""))
	_, err := two.Stat(t.Context(), "key")
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.NoError(t, two.Prepare(t.Context(), "key", ""))
	require.NoError(t, one.Commit(t.Context(), "name", "key"))
	_, err = two.Stat(t.Context(), "key")
	require.NoError(t, err)
}

// TestTransactionInTheContext: a transaction of the metadata store reaches it through all wrappers, so that several
// calls are one commit, and none if it fails (spec SNP-6, SNP-7; design section 5).
func TestTransactionInTheContext(t *testing.T) {
	mdb := openNativeDB(t)
	sn := containerd.NewSnapshotter("native", mdb.Snapshotter("native"), "ns", nil)
	lm := containerd.NewLeaseManager(metadata.NewLeaseManager(mdb), "ns")
	group := func(id string, end error) error {
		return mdb.Update(func(tx *bolt.Tx) error {
			ctx := boltutil.WithTransaction(t.Context(), tx)
			l, err := lm.Create(ctx, leases.WithID(id))
			if err != nil {
				return err
			}
			if err := lm.AddResource(ctx, l, leases.Resource{ID: id, Type: "snapshots/native"}); err != nil {
				return err
			}
			if err := sn.Prepare(leases.WithLease(ctx, id), id, ""); err != nil {
				return err
			}
			return end
		})
	}
	require.NoError(t, group("kept", nil))
	failure := errors.New("after all")
	require.ErrorIs(t, group("lost", failure), failure)

	ls, err := lm.List(t.Context())
	require.NoError(t, err)
	require.Len(t, ls, 1)
	require.Equal(t, "kept", ls[0].ID)
	_, err = sn.Stat(t.Context(), "kept")
	require.NoError(t, err)
	_, err = sn.Stat(t.Context(), "lost")
	require.True(t, errdefs.IsNotFound(err), "%v", err)
}

// TestLeaseKeepsSnapshot: with Remove forbidden, a snapshot goes with its last lease (spec SNP-6, LEASE-1).
func TestLeaseKeepsSnapshot(t *testing.T) {
	mdb := openNativeDB(t)
	sn := containerd.NewSnapshotter("native", mdb.Snapshotter("native"), "ns", nil)
	lm := containerd.NewLeaseManager(metadata.NewLeaseManager(mdb), "ns")
	l, err := lm.Create(t.Context(), leases.WithID("l"))
	require.NoError(t, err)
	require.NoError(t, lm.AddResource(t.Context(), l, leases.Resource{ID: "key", Type: "snapshots/native"}), "before it exists")
	require.NoError(t, sn.Prepare(t.Context(), "key", ""))
	_, err = mdb.GarbageCollect(t.Context())
	require.NoError(t, err)
	_, err = sn.Stat(t.Context(), "key")
	require.NoError(t, err)
	require.NoError(t, lm.Delete(t.Context(), l))
	_, err = mdb.GarbageCollect(t.Context())
	require.NoError(t, err)
	_, err = sn.Stat(t.Context(), "key")
	require.True(t, errdefs.IsNotFound(err), "%v", err)
}

// put writes a blob and returns its descriptor.
func put(t *testing.T, cs content.Store, data string) ocispecs.Descriptor {
	t.Helper()
	desc := ocispecs.Descriptor{Digest: digest.FromString(data), Size: int64(len(data))}
	require.NoError(t, content.WriteBlob(t.Context(), cs, desc.Digest.String(), bytes.NewBufferString(data), desc))
	return desc
}

func digests(t *testing.T, cs content.Store) []digest.Digest {
	t.Helper()
	var out []digest.Digest
	require.NoError(t, cs.Walk(t.Context(), func(info content.Info) error {
		out = append(out, info.Digest)
		return nil
	}))
	return out
}

// TestFallbackNamespace: reads see both namespaces, main first, and writes one (spec SNP-6).
func TestFallbackNamespace(t *testing.T) {
	main := containerd.NewContentStore(openNativeDB(t).ContentStore(), "main")
	other := main.WithNamespace("other")
	both := main.WithFallbackNS("other")
	inMain, inOther := put(t, main, "main"), put(t, other, "other")
	shared := put(t, main, "shared")
	require.Equal(t, shared, put(t, other, "shared"))

	_, err := main.Info(t.Context(), inOther.Digest)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	for _, desc := range []ocispecs.Descriptor{inMain, inOther, shared} {
		info, err := both.Info(t.Context(), desc.Digest)
		require.NoError(t, err)
		require.Equal(t, desc.Size, info.Size)
		data, err := content.ReadBlob(t.Context(), both, desc)
		require.NoError(t, err)
		require.Equal(t, desc.Digest, digest.FromBytes(data))
	}
	missing := digest.FromString("missing")
	_, err = both.Info(t.Context(), missing)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	_, err = both.ReaderAt(t.Context(), ocispecs.Descriptor{Digest: missing})
	require.True(t, errdefs.IsNotFound(err), "%v", err)

	got := digests(t, both)
	require.Len(t, got, 3, "what both have is visited once")
	require.ElementsMatch(t, []digest.Digest{inMain.Digest, shared.Digest}, got[:2])
	require.Equal(t, inOther.Digest, got[2])

	written := put(t, both, "written")
	_, err = main.Info(t.Context(), written.Digest)
	require.NoError(t, err)
	_, err = other.Info(t.Context(), written.Digest)
	require.True(t, errdefs.IsNotFound(err), "%v", err)

	stop := errors.New("stop")
	require.ErrorIs(t, both.Walk(t.Context(), func(content.Info) error { return stop }), stop)
}

// TestWriterCommitsInItsNamespace: whatever namespace the context of Commit has, or none (spec SNP-6).
func TestWriterCommitsInItsNamespace(t *testing.T) {
	cs := containerd.NewContentStore(openNativeDB(t).ContentStore(), "ns")
	w, err := cs.Writer(t.Context(), content.WithRef("ref"))
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	_, err = w.Write([]byte("data"))
	require.NoError(t, err)
	require.NoError(t, w.Commit(context.Background(), 4, digest.FromString("data")))
	_, err = cs.Info(t.Context(), digest.FromString("data"))
	require.NoError(t, err)
}
