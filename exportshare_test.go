package cache_test

import (
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

// ingests lists the unfinished uploads.
func ingests(t testing.TB, env *testutil.Env) []content.Status {
	t.Helper()
	all, err := env.Opt.ContentStore.ListStatuses(ctx)
	require.NoError(t, err)
	return all
}

// TestParallelExportsOfOverlappingChains: whoever wants what of which part at the same time, each layer is packed once and converted once
// to each other compression.
func TestParallelExportsOfOverlappingChains(t *testing.T) { // scenario S-20, spec BLOB-1, BLOB-2, BLOB-3, VAR-5
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := built(t, env, nil, dated("base", "x"))
		refs := []cache.ImmutableRef{base}
		for _, name := range []string{"a", "b", "c"} {
			refs = append(refs, built(t, env, base, dated(name, "x")))
		}
		merge, err := env.Manager.Merge(ctx, refs[1:], nil)
		require.NoError(t, err)
		refs = append(refs, merge, built(t, env, merge, dated("top", "x")))
		var wg sync.WaitGroup
		type result struct {
			kind    compression.Type
			layers  int
			remotes []*remote.Remote
			err     error
		}
		var results []*result
		for range 2 {
			for i, ref := range refs {
				for _, kind := range allKinds {
					res := &result{kind: kind, layers: []int{1, 2, 2, 2, 6, 7}[i]}
					results = append(results, res)
					wg.Go(func() { res.remotes, res.err = ref.GetRemotes(ctx, true, forced(kind), true, nil) })
				}
			}
		}
		wg.Wait()
		for _, res := range results {
			require.NoError(t, res.err)
			require.Len(t, res.remotes, 1)
			require.Len(t, res.remotes[0].Descriptors, res.layers)
			for _, desc := range res.remotes[0].Descriptors {
				needs, err := res.kind.NeedsConversion(ctx, env.Opt.ContentStore, desc)
				require.NoError(t, err)
				require.False(t, needs, "%s: %s", res.kind, desc.MediaType)
				readBlob(t, res.remotes[0], desc)
			}
		}
		const layers = 5 // base, a, b, c and the one on top of the merge
		require.Len(t, blobNames(t, env), layers*len(allKinds))
		require.NoError(t, env.GC(ctx))
		require.Len(t, blobNames(t, env), layers*len(allKinds), "all of it is kept")
		require.Empty(t, ingests(t, env))
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestFirstFormWins: of several forms that are asked for at the same time of a layer without a blob one is made, for all who ask.
func TestFirstFormWins(t *testing.T) { // spec BLOB-2, BLOB-3
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := built(t, env, nil, dated("f", "x"))
		blocked := env.Faults.BlockOp(fault.OpWriterCommit)
		remotes, errs := make([]*remote.Remote, len(allKinds)), make([]error, len(allKinds))
		var wg sync.WaitGroup
		for i, kind := range []compression.Type{codec.Zstd, codec.Gzip, codec.Uncompressed, codec.EStargz} {
			joined := &joining{Context: ctx, asked: make(chan struct{})}
			wg.Go(func() {
				got, err := ref.GetRemotes(joined, true, as(kind), false, nil)
				if errs[i] = err; err == nil {
					remotes[i] = got[0]
				}
			})
			<-joined.asked
			<-blocked.Entered()
		}
		blocked.Release()
		wg.Wait()
		for i := range allKinds {
			require.NoError(t, errs[i])
			require.Equal(t, remotes[0].Descriptors, remotes[i].Descriptors)
		}
		require.Len(t, blobNames(t, env), 1)
		release(t, ref)
	})
}

// TestEveryWaiterKeepsTheBlob: who shared the work has the blob in his own lease when his call returns, also if the one who began it has left; when all
// have left nothing stays.
func TestEveryWaiterKeepsTheBlob(t *testing.T) { // spec BLOB-2, LEASE-3, LEASE-4, quirk Q47, fault 6
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		lm := env.Opt.LeaseManager
		ref := built(t, env, nil, dated("f", "x"))
		before := leaseIDs(t, env)
		leaving := func(n int) (wait func(), cancel []context.CancelFunc, done []chan error, own []leases.Lease) {
			blocked := env.Faults.BlockOp(fault.OpWriterCommit)
			for i := range n {
				l, err := lm.Create(ctx, leases.WithRandomID())
				require.NoError(t, err)
				cctx, stop := context.WithCancel(leases.WithLease(ctx, l.ID))
				joined := &joining{Context: cctx, asked: make(chan struct{})}
				ch := make(chan error, 1)
				go func() {
					_, err := ref.GetRemotes(joined, true, as(codec.Zstd), false, nil)
					ch <- err
				}()
				<-joined.asked
				if i == 0 {
					<-blocked.Entered()
				}
				cancel, done, own = append(cancel, stop), append(done, ch), append(own, l)
			}
			return blocked.Release, cancel, done, own
		}
		wait, cancel, done, own := leaving(2)
		for i := range cancel { // all leave
			cancel[i]()
			require.ErrorIs(t, <-done[i], context.Canceled)
			require.NoError(t, lm.Delete(ctx, own[i]))
		}
		wait()
		cache.Quiesce(env.Manager)
		require.ElementsMatch(t, append(before, ref.ID()+"-view"), leaseIDs(t, env), "the view stays mounted while the ref is held")
		require.Empty(t, ref.GetString("cache.blob"))
		require.Empty(t, blobNames(t, env))
		require.Empty(t, ingests(t, env))

		wait, cancel, done, own = leaving(3)
		cancel[0]() // the first leaves
		require.ErrorIs(t, <-done[0], context.Canceled)
		wait()
		require.NoError(t, <-done[1])
		require.NoError(t, <-done[2])
		blob := ref.GetString("cache.blob")
		for _, i := range []int{1, 2} {
			rs, err := lm.ListResources(ctx, own[i])
			require.NoError(t, err)
			require.Equal(t, []leases.Resource{{ID: blob, Type: "content"}}, rs)
			cancel[i]()
		}
		release(t, ref)
		require.Len(t, prune(t, env, pruneAll), 1)
		require.NoError(t, lm.Delete(ctx, own[1]))
		require.NoError(t, env.GC(ctx))
		require.Equal(t, []string{blob}, blobNames(t, env))
		require.NoError(t, lm.Delete(ctx, own[0]))
		require.NoError(t, lm.Delete(ctx, own[2]))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))
	})
}

// TestOrderOfPacking: a record's leases list a blob before the record's row names it, and the blob says what it is before that, too; what protected
// the work goes at the end.
func TestOrderOfPacking(t *testing.T) { // spec BLOB-10, VAR-1, LEASE-5, design section 5
	for _, name := range []string{"doubles", "joined", "separate"} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, backends[name]...)
			ref := built(t, env, nil, dated("f", "x"))
			env.Faults.Reset()
			got := export(t, ref, as(codec.Zstd)).Descriptors[0]
			var steps []string
			for _, p := range env.Faults.Trace() {
				if p.When != fault.Before || strings.HasSuffix(p.Key, "-view") {
					continue
				}
				switch {
				case p.Op == fault.OpLeaseCreate && p.Key != ref.ID()+"-variants":
					steps = append(steps, "work")
				case p.Op == fault.OpWriterCommit, p.Op == fault.OpContentUpdate:
					steps = append(steps, p.Op)
				case p.Op == fault.OpLeaseAddResource && strings.HasPrefix(p.Key, ref.ID()):
					steps = append(steps, strings.TrimPrefix(p.Key, ref.ID()))
				case p.Op == fault.OpDBUpdate, p.Op == fault.OpLeaseDelete:
					steps = append(steps, p.Op)
				}
			}
			require.Equal(t, []string{
				"work", fault.OpWriterCommit, "", "-variants", fault.OpContentUpdate, fault.OpDBUpdate, fault.OpLeaseDelete, fault.OpDBUpdate,
			}, steps, "then the address is stored")
			_, resources := leaseOf(t, env, ref.ID())
			require.Contains(t, resources, contentResource(got))
			release(t, ref)
		})
	}
}
