package cache_test

import (
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// tryUnlazy has a remote's provider fetch everything.
func tryUnlazy(t testing.TB, r *remote.Remote) error {
	t.Helper()
	u, ok := r.Provider.(cache.Unlazier)
	require.True(t, ok)
	return u.Unlazy(ctx)
}

// unlazy is tryUnlazy where that works.
func unlazy(t testing.TB, r *remote.Remote) {
	t.Helper()
	require.NoError(t, tryUnlazy(t, r))
}

// TestLazyProvider: nothing is fetched before it is read, and then on behalf of the session that the export was for, by the outer ref's
// handlers, once.
func TestLazyProvider(t *testing.T) { // spec RMT-3, PULL-1
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base, top := r.layer(t, "gzip", tree.File("base", "x")), r.layer(t, "zstd", tree.File("top", "x"))
		below := byBlob(t, env, r, base, nil)
		dhs := r.handlers(base, top)
		var mu sync.Mutex
		var sessions []session.Group
		for _, dh := range dhs {
			dh.Provider = func(s session.Group) content.Provider {
				mu.Lock()
				defer mu.Unlock()
				sessions = append(sessions, s)
				return r
			}
		}
		ref, err := env.Manager.GetByBlob(ctx, top, below, dhs)
		require.NoError(t, err)
		group := session.NewGroup("one")
		remotes, err := ref.GetRemotes(ctx, true, remote.RefConfig{}, false, group)
		require.NoError(t, err)
		p := remotes[0].Provider
		for _, desc := range []ocispecs.Descriptor{base, top} {
			info, err := p.Info(ctx, desc.Digest)
			require.NoError(t, err)
			require.Equal(t, content.Info{Digest: desc.Digest, Size: desc.Size}, info)
		}
		require.Empty(t, blobNames(t, env))

		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				data, err := content.ReadBlob(ctx, p, base)
				if err != nil || digest.FromBytes(data) != base.Digest {
					t.Errorf("reading: %v", err)
				}
			})
		}
		wg.Wait()
		require.Equal(t, 1, r.opened(base.Digest))
		require.Equal(t, []session.Group{group}, sessions)
		require.Equal(t, []string{base.Digest.String()}, blobNames(t, env))
		info, err := p.Info(ctx, base.Digest)
		require.NoError(t, err)
		require.NotZero(t, info.CreatedAt, "the store's own, by now")

		unlazy(t, remotes[0])
		unlazy(t, remotes[0])
		require.Equal(t, [2]int{1, 1}, [2]int{r.opened(base.Digest), r.opened(top.Digest)})
		release(t, below, ref)
	})
}

// TestProviderServesItsOwn: what is not among an export's blobs is not found, even if the store has it.
func TestProviderServesItsOwn(t *testing.T) { // spec RMT-3
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc, stranger := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "gzip", tree.File("g", "x"))
		done := ingest(t, env, r, stranger)
		ref := byBlob(t, env, r, desc, nil)
		p := export(t, ref, remote.RefConfig{}).Provider
		for _, d := range []digest.Digest{stranger.Digest, digest.FromString("unknown"), "", "no digest"} {
			_, err := p.ReaderAt(ctx, ocispecs.Descriptor{Digest: d})
			require.True(t, errdefs.IsNotFound(err), "%v", err)
			_, err = p.Info(ctx, d)
			require.True(t, errdefs.IsNotFound(err), "%v", err)
		}
		release(t, ref)
		done()
	})
}

// TestProviderOutlivesTheRef: after the release of the ref, what is local can be read as long as it is, and the rest as long as there is the record.
func TestProviderOutlivesTheRef(t *testing.T) { // spec RMT-3
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base, top := r.layer(t, "gzip", tree.File("base", "x")), r.layer(t, "gzip", tree.File("top", "x"))
		third := r.layer(t, "gzip", tree.File("third", "x"))
		below := byBlob(t, env, r, base, nil)
		middle := byBlob(t, env, r, top, below)
		ref := byBlob(t, env, r, third, middle)
		lease, err := env.Opt.LeaseManager.Create(ctx, leases.WithRandomID())
		require.NoError(t, err)
		leased := leases.WithLease(ctx, lease.ID)
		got := export(t, ref, remote.RefConfig{})
		readBlob(t, got, base)
		release(t, below, middle, ref)
		readBlob(t, got, base)
		ra, err := got.Provider.ReaderAt(leased, top)
		require.NoError(t, err, "the record is still there to fetch it for")
		require.NoError(t, ra.Close())

		require.Len(t, prune(t, env, pruneAll), 3)
		require.NoError(t, env.GC(ctx))
		require.Equal(t, []string{top.Digest.String()}, blobNames(t, env))
		readBlob(t, got, top) // the lease of who read it has it, quirk Q47
		for _, gone := range []ocispecs.Descriptor{base, third} {
			_, err = got.Provider.ReaderAt(ctx, gone)
			require.True(t, errdefs.IsNotFound(err), "%v", err)
		}
		err = tryUnlazy(t, got)
		require.True(t, errdefs.IsNotFound(err), "%v", err)
		require.Zero(t, r.opened(third.Digest))
		require.NoError(t, env.Opt.LeaseManager.Delete(ctx, lease))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))
	})
}

// TestCallersLease: who exports under a lease of his own keeps the blobs that are local, other compressions included, whatever becomes of the
// records; without one he keeps nothing beyond them.
func TestCallersLease(t *testing.T) { // spec RMT-1, BLOB-2, VAR-5, quirk Q47
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := finalized(t, env, nil, fileIn(t, "a", "1"))
		ref := finalized(t, env, base, fileIn(t, "b", "2"))
		lease, err := env.Opt.LeaseManager.Create(ctx, leases.WithRandomID())
		require.NoError(t, err)
		remotes, err := ref.GetRemotes(leases.WithLease(ctx, lease.ID), true, forced(codec.Zstd), false, nil)
		require.NoError(t, err)
		gz := export(t, ref, forced(codec.Gzip)) // not under the lease
		release(t, base, ref)
		require.Len(t, prune(t, env, pruneAll), 2)
		require.NoError(t, env.GC(ctx))
		for _, desc := range remotes[0].Descriptors {
			readBlob(t, remotes[0], desc)
		}
		require.NoError(t, env.Opt.LeaseManager.Delete(ctx, lease))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))
		_, err = gz.Provider.ReaderAt(ctx, gz.Descriptors[0])
		require.True(t, errdefs.IsNotFound(err), "%v", err)
	})
}

// TestUnlazyFails: an error names record and blob, and what could be fetched was.
func TestUnlazyFails(t *testing.T) { // spec RMT-3, API-3, fault 11
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 3)
		got := export(t, refs[2], remote.RefConfig{})
		r.mu.Lock()
		lost := r.blobs[descs[1].Digest]
		delete(r.blobs, descs[1].Digest)
		r.mu.Unlock()
		err := tryUnlazy(t, got)
		var layer *cache.LayerError
		require.ErrorAs(t, err, &layer)
		require.Equal(t, [3]string{refs[1].ID(), descs[1].Digest.String(), "pulling"}, [3]string{layer.Record, layer.Digest.String(), layer.Action})
		_, err = got.Provider.ReaderAt(ctx, descs[1])
		require.ErrorAs(t, err, &layer)
		r.mu.Lock()
		r.blobs[descs[1].Digest] = lost
		r.mu.Unlock()
		unlazy(t, got)
		require.Len(t, blobNames(t, env), 3)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}
