package cache_test

import (
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// overhead lists what is no record's, without the databases and the reserve.
func overhead(t *testing.T, env *testutil.Env) []usage.Overhead {
	t.Helper()
	all, err := env.Manager.Overhead(ctx)
	require.NoError(t, err)
	var out []usage.Overhead
	for _, o := range all {
		if o.Kind != usage.OverheadDatabase && o.Kind != usage.OverheadReserve {
			out = append(out, o)
		}
	}
	return out
}

// What a record owns is not beside the records: its blobs in all compressions, its view, what its tree lies on. Everything else
// is, until it is collected. issue 7 point 1
func TestOverhead(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		in := single(t, env, 3)
		first := mergeOf(t, env, in[:2])
		require.NoError(t, first.Extract(ctx, nil))
		longer := mergeOf(t, env, in)
		require.NoError(t, longer.Extract(ctx, nil))
		for _, kind := range []compression.Type{codec.Gzip, codec.Zstd} {
			export(t, in[0], forced(kind))
		}
		require.GreaterOrEqual(t, len(blobNames(t, env)), 2)
		mutable := newMutable(t, env, in[0])
		require.NoError(t, env.GC(ctx)) // of what the merges needed for a while
		testutil.WithMount(t, in[1], true, func(string) { require.Empty(t, overhead(t, env)) })
		// On an overlay the longer merge lies on the tree of the one that goes.
		release(t, first, mutable)
		prune(t, env, usage.PruneInfo{Filter: []string{"id==" + first.ID()}})
		require.Empty(t, overhead(t, env))

		orphan := writeBlob(t, env, "orphan")
		require.NoError(t, env.Opt.Snapshotter.Prepare(ctx, "foreign", ""))
		w, err := env.Opt.ContentStore.Writer(ctx, content.WithRef("broken off"))
		require.NoError(t, err)
		_, err = w.Write(make([]byte, 1000))
		require.NoError(t, err)
		require.NoError(t, w.Close())
		got := overhead(t, env)
		require.Len(t, got, 3, "%v", got)
		require.Equal(t, usage.Overhead{Kind: usage.OverheadIngest, Name: "broken off", Size: 1000}, got[0])
		require.Equal(t, usage.Overhead{Kind: usage.OverheadBlob, Name: orphan, Size: 6}, got[1])
		require.Equal(t, usage.OverheadSnapshot, got[2].Kind)
		require.Equal(t, "foreign", got[2].Name)
		require.NoError(t, env.Opt.ContentStore.Abort(ctx, "broken off"))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, overhead(t, env))
		releaseAll(t, in)
		release(t, longer)
	})
}

// The databases are listed with their sizes; one that is not there is left out. A backend that fails is an error, and no list.
func TestOverheadOfDatabases(t *testing.T) {
	env := testutil.New(t, testutil.WithManagerOpt(func(o *cache.ManagerOpt) { o.Databases = append(o.Databases, o.Root+"/none") }))
	all, err := env.Manager.Overhead(ctx)
	require.NoError(t, err)
	kinds := map[usage.OverheadKind]int{}
	for _, o := range all {
		kinds[o.Kind]++
		require.Positive(t, o.Size, o.Name)
	}
	require.Equal(t, map[usage.OverheadKind]int{
		usage.OverheadDatabase: len(env.Opt.Databases) - 2, // the snapshotter has not made its own yet
		usage.OverheadReserve:  1,
	}, kinds)
	require.NoError(t, env.Opt.Reserve.Release())
	all, err = env.Manager.Overhead(ctx)
	require.NoError(t, err)
	require.Len(t, all, len(env.Opt.Databases)-2, "what is not kept back right now is not listed")
	for _, op := range []string{fault.OpContentListStatuses, fault.OpSnapshotWalk, fault.OpContentWalk} {
		failure := errors.New(op)
		env.Faults.Inject(fault.Match{Op: op, When: fault.Before}, fault.Fail(failure))
		all, err = env.Manager.Overhead(ctx)
		require.ErrorIs(t, err, failure)
		require.Nil(t, all)
		env.Faults.Reset()
	}
	require.NoError(t, env.Close())
}

// Everything is known of a record, under either of its names, and looking takes no ref and counts as no use.
func TestRecord(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	record := func(id string) *cache.RecordInfo {
		t.Helper()
		before := usageByID(t, env)
		rec, err := env.Manager.Record(ctx, id)
		require.NoError(t, err)
		require.Equal(t, *before[rec.ID], rec.Info)
		require.Equal(t, before, usageByID(t, env))
		return rec
	}
	mutable := newMutable(t, env, nil, cache.CachePolicyRetain)
	rec := record(mutable.ID())
	require.Equal(t, []any{"active", true, true, true, mutable.ID(), ""},
		[]any{rec.State, rec.Mutable, rec.InUse, rec.Retain, rec.MutableID, rec.ImmutableID})
	base, err := mutable.Commit(ctx)
	require.NoError(t, err)
	require.NoError(t, base.SetString("engine.key", "v", "engine:v"))
	require.NoError(t, base.SetDescription("base"))
	for _, id := range []string{mutable.ID(), base.ID()} {
		rec = record(id)
		require.Equal(t, []string{"sealed", "base layer", mutable.ID(), base.ID()}, []string{rec.State, rec.Kind, rec.MutableID, rec.ImmutableID})
		require.Len(t, rec.Snapshots, 2)
	}
	require.NoError(t, base.Finalize(ctx))
	child := testutil.MakeLayer(t, env, base, nil)
	require.NoError(t, child.Finalize(ctx))
	merge := mergeOf(t, env, refs(child, base))
	diff := diffOf(t, env, base, nil)
	rec = record(base.ID())
	require.Equal(t, "ready", rec.State)
	require.Equal(t, "base", rec.Description)
	require.ElementsMatch(t, []string{child.ID(), merge.ID(), diff.ID()}, rec.Children)
	require.Len(t, rec.Values, 1)
	require.JSONEq(t, `"v"`, string(rec.Values["engine.key"]))
	require.Nil(t, rec.Blob)
	require.Equal(t, []string{"layer", "ready"}, []string{record(child.ID()).Kind, record(child.ID()).State})
	require.Equal(t, []string{"merge", "lazy"}, []string{record(merge.ID()).Kind, record(merge.ID()).State})
	require.Equal(t, []string{"diff", "lazy"}, []string{record(diff.ID()).Kind, record(diff.ID()).State})

	r := newRegistry()
	desc := r.layer(t, "gzip")
	blob := byBlob(t, env, r, desc, nil, cache.WithImageRef("example.org/app:v1"))
	rec = record(blob.ID())
	require.Equal(t, []string{"example.org/app:v1"}, rec.Images)
	require.Equal(t, desc.Digest, rec.Blob.Digest)
	require.Equal(t, desc.MediaType, rec.Blob.MediaType)
	require.Equal(t, diffIDOf(desc), rec.Blob.DiffID)
	require.Equal(t, diffIDOf(desc), rec.Blob.ChainID, "of a single layer")
	require.True(t, rec.Blob.Lazy)
	require.False(t, rec.Blob.Local)

	release(t, diff, merge, child, base, blob)
	_, err = env.Manager.Record(ctx, digest.FromString("nobody").String())
	require.True(t, cache.IsNotFound(err))
	prune(t, env, pruneAll)
	_, err = env.Manager.Record(ctx, blob.ID())
	require.True(t, cache.IsNotFound(err))
}

// A blob in another compression is told as what it is.
func TestRecordWithVariants(t *testing.T) {
	env := testutil.New(t)
	ref := testutil.MakeLayer(t, env, nil, fileIn(t, "f", "f"))
	for _, kind := range []compression.Type{codec.Gzip, codec.Zstd} {
		export(t, ref, forced(kind))
	}
	rec, err := env.Manager.Record(ctx, ref.ID())
	require.NoError(t, err)
	require.True(t, rec.Blob.Local)
	require.False(t, rec.Blob.Lazy)
	require.Positive(t, rec.Blob.Size)
	require.Len(t, rec.Blob.Variants, 1)
	require.NotEqual(t, rec.Blob.Digest, rec.Blob.Variants[0].Digest)
	require.NotEqual(t, rec.Blob.MediaType, rec.Blob.Variants[0].MediaType)
	release(t, ref)
}
