package cache_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// blobRow writes a row as BuildKit would, with its indexes. Values are those of the layer with the address given, and then more.
func blobRow(t testing.TB, env *testutil.Env, id string, desc ocispecs.Descriptor, chain, blobChain string, more map[string]any) {
	t.Helper()
	editRow(t, env, id, map[string]any{
		"cache.createdAt": 1, "snapshot.committed": true, "cache.snapshot": id, "cache.blob": desc.Digest.String(),
		"cache.diffID": diffIDOf(desc).String(), "cache.layerIdentity": diffIDOf(desc).String(),
		"cache.mediatype": desc.MediaType, "cache.blobsize": desc.Size,
	})
	editRow(t, env, id, more)
	require.NoError(t, env.Opt.MetadataStore.Write(func(w *metadata.Writer) error {
		row, err := w.Row(id)
		if err == nil {
			err = row.Set("cache.chainID", chain, "chainid:"+chain)
		}
		if err == nil {
			err = row.Set("cache.blobChainID", blobChain, "blobchainid:"+blobChain)
		}
		return err
	}))
}

// TestReuseOfABlobRecord: the same layer on the same parent is the same record, and nothing but image refs is added to it. The caller
// keeps the parent, and what the cache held of it itself is let go of.
func TestReuseOfABlobRecord(t *testing.T) { // spec MGR-22, MGR-23, MGR-26, section 0.5, scenario S-7
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a, b := r.layer(t, "gzip", tree.File("a", "a")), r.layer(t, "gzip", tree.File("b", "b"))
		base := byBlob(t, env, r, a, nil)
		first := byBlob(t, env, r, b, base, cache.WithImageRef("one"), cache.WithDescription("first"))
		env.Faults.Reset()
		again := byBlob(t, env, r, b, base, cache.WithImageRef("two"), cache.WithImageRef("one"),
			cache.WithDescription("second"), cache.WithRecordType(usage.TypeFrontend), cache.CachePolicyRetain, cache.WithCreationTime(time.Unix(1, 0)))
		require.Equal(t, first.ID(), again.ID())
		require.Equal(t, 1, env.Faults.Count("db.Update"), "the image ref is appended")
		require.Zero(t, env.Faults.Count("leases.*"))
		requireRow(t, env, again.ID(), map[string]any{
			"cache.imageRefs": []any{"one", "two"}, "cache.description": "first", "cache.recordType": nil, "cache.cachePolicy": nil,
		})
		require.NotNil(t, again.DescHandler(b.Digest))

		release(t, first, again)
		requireUsage(t, env, 1, 1)
		release(t, base)
		requireUsage(t, env, 0, 2)
		require.Len(t, prune(t, env, usage.PruneInfo{}), 2, "nothing holds the base but its child")
	})
}

// TestReuseCountsAsAUse: and only the caller's ref does, unless it does not want to; the refs that the cache takes meanwhile on parents and
// on records that lend their snapshot never do.
func TestReuseCountsAsAUse(t *testing.T) { // spec MGR-21, MGR-23, MGR-29, REF-2, quirk Q18
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a := r.layer(t, "", tree.File("a", "a"))
		plain := r.layer(t, "gzip", tree.File("b", "b"))
		other := r.layer(t, "zstd", tree.File("b", "b"))
		base := byBlob(t, env, r, a, nil)
		top := byBlob(t, env, r, plain, base)
		release(t, base, top)
		count := func(ref cache.Ref) int { return usageByID(t, env)[ref.ID()].UsageCount }
		require.Equal(t, [2]int{1, 1}, [2]int{count(base), count(top)})

		quiet := byBlob(t, env, r, plain, base, cache.NoUpdateLastUsed)
		release(t, quiet)
		require.Equal(t, [2]int{1, 1}, [2]int{count(base), count(top)})
		used := byBlob(t, env, r, plain, base)
		release(t, used)
		require.Equal(t, [2]int{1, 2}, [2]int{count(base), count(top)})
		linked := byBlob(t, env, r, other, base)
		require.NotEqual(t, top.ID(), linked.ID())
		release(t, linked)
		require.Equal(t, [3]int{1, 2, 1}, [3]int{count(base), count(top), count(linked)})
	})
}

// TestReuseExtracts: who asks for an extracted layer gets one, be it new or not.
func TestReuseExtracts(t *testing.T) { // spec MGR-25, OPT-1, quirk Q02
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a, b := r.layer(t, "gzip", tree.File("a", "a")), r.layer(t, "gzip", tree.File("b", "b"))
		base := byBlob(t, env, r, a, nil)
		lazy := byBlob(t, env, r, b, base)
		require.Empty(t, snapshotNames(t, env))
		reused := byBlob(t, env, r, b, base, cache.Unlazy(nil))
		require.Equal(t, lazy.ID(), reused.ID())
		require.Len(t, snapshotNames(t, env), 2)
		requireRow(t, env, lazy.ID(), map[string]any{"cache.blobonly": false})

		c := r.layer(t, "gzip", tree.File("c", "c"))
		fresh := byBlob(t, env, r, c, reused, cache.Unlazy(nil))
		require.Len(t, snapshotNames(t, env), 3)
		release(t, base, lazy, reused, fresh)
	})
}

// TestFailedExtractionOfAReusedRecord costs the caller its ref, and the record nothing.
func TestFailedExtractionOfAReusedRecord(t *testing.T) { // spec MGR-25, fault 11
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a := r.layer(t, "gzip", tree.File("a", "a"))
		lazy := byBlob(t, env, r, a, nil)
		release(t, lazy)
		env.Faults.FailOp("applier.Apply", os.ErrDeadlineExceeded)
		_, err := env.Manager.GetByBlob(ctx, a, nil, r.handlers(a), cache.Unlazy(nil))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		env.Faults.Reset()
		requireUsage(t, env, 0, 1)
		require.Equal(t, 1, usageByID(t, env)[lazy.ID()].UsageCount, "it was not used")
		again := byBlob(t, env, r, a, nil, cache.Unlazy(nil))
		require.Equal(t, lazy.ID(), again.ID())
		release(t, again)
	})
}

// TestConcurrentGetByBlob: identical calls make one record, whoever is first.
func TestConcurrentGetByBlob(t *testing.T) { // spec MGR-26
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a, b := r.layer(t, "gzip", tree.File("a", "a")), r.layer(t, "gzip", tree.File("b", "b"))
		base := byBlob(t, env, r, a, nil)
		const calls = 50
		refs, errs := make([]cache.ImmutableRef, calls), make([]error, calls)
		var wg sync.WaitGroup
		env.Faults.Reset()
		for i := range calls {
			wg.Go(func() { refs[i], errs[i] = env.Manager.GetByBlob(ctx, b, base, r.handlers(a, b)) })
		}
		wg.Wait()
		for i := range calls {
			require.NoError(t, errs[i])
			require.Equal(t, refs[0].ID(), refs[i].ID())
		}
		require.Equal(t, 1, env.Faults.Count("leases.Create"))
		require.Equal(t, 1, env.Faults.Count("db.Update"))
		requireUsage(t, env, 2, 0)
		for _, ref := range refs {
			release(t, ref)
		}
		require.Equal(t, 2, rowCount(t, env))
		requireUsage(t, env, 1, 1)
		release(t, base)
		require.Len(t, prune(t, env, usage.PruneInfo{}), 2)
	})
}

// TestLinkedRecords: another compression of a layer is another record with the same snapshot, whoever unpacks it. It is not extracted before it
// was found to be.
func TestLinkedRecords(t *testing.T) { // spec MGR-29, MGR-30, REC-8, SIZE-1, scenario S-7, quirk Q24
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		gz, zst := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "zstd", tree.File("f", "x"))
		a := byBlob(t, env, r, gz, nil)
		require.NoError(t, a.Extract(ctx, nil))
		before := usageByID(t, env)[a.ID()].Size
		b := byBlob(t, env, r, zst, nil)
		require.NotEqual(t, a.ID(), b.ID())
		requireRow(t, env, b.ID(), map[string]any{"cache.blobonly": true, "cache.snapshot": layerSnapshot(diffIDOf(gz))})
		require.NoError(t, b.Extract(ctx, nil))
		require.Zero(t, r.opened(zst.Digest), "the snapshot is in place")
		require.Len(t, snapshotNames(t, env), 1)
		requireRow(t, env, b.ID(), map[string]any{"cache.blobonly": false})

		plain := get(t, env, b.ID()) // it needs no provider any more
		requireFile(t, plain, "f", "x")
		release(t, a, b, plain)
		require.Len(t, prune(t, env, usage.PruneInfo{Filter: []string{"id==" + a.ID()}}), 1)
		require.NoError(t, env.GC(ctx))
		left := get(t, env, b.ID())
		requireFile(t, left, "f", "x")
		require.Equal(t, before-gz.Size, usageByID(t, env)[b.ID()].Size, "the snapshot is counted by the one that is left")
		release(t, left)
	})
}

// TestLinkToABuiltLayer: the lender's snapshot need not be one that was extracted, and is found among several in the order of the index.
func TestLinkToABuiltLayer(t *testing.T) { // spec MGR-23, MGR-29
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		gz, zst := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "zstd", tree.File("f", "x"))
		built := finalized(t, env, nil, fileIn(t, "f", "x"))
		release(t, built)
		done := ingest(t, env, r, gz)
		// As BuildKit stores a layer that it built and then packed.
		blobRow(t, env, built.ID(), gz, diffIDOf(gz).String(), blobID(gz).String(), nil)
		env.Reopen()
		require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, leaseNamed(built.ID()), contentResource(gz)))
		done()
		same := byBlob(t, env, r, gz, nil)
		require.Equal(t, built.ID(), same.ID(), "the record is found by its blob")
		linked := byBlob(t, env, r, zst, nil)
		require.NotEqual(t, built.ID(), linked.ID())
		requireRow(t, env, linked.ID(), map[string]any{"cache.snapshot": built.ID(), "cache.blobonly": true})
		release(t, same)
		require.Len(t, prune(t, env, usage.PruneInfo{Filter: []string{"id==" + built.ID()}}), 1)
		require.NoError(t, env.GC(ctx))
		require.Equal(t, []string{built.ID()}, snapshotNames(t, env), "the borrower's lease keeps the snapshot")
		requireFile(t, linked, "f", "x")
		require.Zero(t, r.opened(zst.Digest))
		release(t, linked)
	})
}

// TestWrongTreeGuard: a database of BuildKit's may hold a diff that is but a layer's own files and carries the address of all below it, too. It
// is not taken for the whole, and does not lend its snapshot, whether it is first in the index or last.
func TestWrongTreeGuard(t *testing.T) { // spec MGR-24, MGR-29, quirk Q21, scenario S-16
	for _, id := range []string{"0", strings.Repeat("z", 25)} {
		t.Run(id, func(t *testing.T) { wrongTreeGuard(t, id) })
	}
}

func wrongTreeGuard(t *testing.T, id string) {
	t.Helper()
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a, b := r.layer(t, "gzip", tree.File("a", "a")), r.layer(t, "gzip", tree.File("b", "b"))
		other := r.layer(t, "zstd", tree.File("b", "b"))
		base := byBlob(t, env, r, a, nil)
		top := byBlob(t, env, r, b, base, cache.Unlazy(nil))
		chain, blobChain := top.GetString("cache.chainID"), top.GetString("cache.blobChainID")
		release(t, base, top)
		blobRow(t, env, id, b, chain, blobChain, map[string]any{"cache.lowerDiffParent": base.ID(), "cache.upperDiffParent": top.ID()})
		env.Reopen()
		base = get(t, env, base.ID())
		for range 3 {
			ref := byBlob(t, env, r, b, base)
			require.Equal(t, top.ID(), ref.ID())
			release(t, ref)
		}
		linked := byBlob(t, env, r, other, base)
		requireRow(t, env, linked.ID(), map[string]any{"cache.snapshot": layerSnapshot(fold(diffIDOf(a), diffIDOf(b)))})
		testutil.WithMount(t, linked, true, func(dir string) {
			require.FileExists(t, filepath.Join(dir, "a"))
			require.FileExists(t, filepath.Join(dir, "b"))
		})
		release(t, base, linked)
	})
}

// TestPartialChainGuard: a database of BuildKit's may hold layers with the address of the layer alone, as if nothing were below. Children of such
// layers on different bases are kept apart, and so are their snapshots.
func TestPartialChainGuard(t *testing.T) { // spec MGR-19, MGR-24, CHAIN-4, quirk Q22, scenario S-17
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		top := r.layer(t, "gzip", tree.File("top", "top"))
		child := r.layer(t, "gzip", tree.File("child", "child"))
		var uppers [2]string
		for i, name := range []string{"A", "B"} {
			lower := byBlob(t, env, r, r.layer(t, "gzip", tree.File("lower", name)), nil)
			upper := byBlob(t, env, r, top, lower, cache.Unlazy(nil))
			uppers[i] = upper.ID()
			release(t, lower, upper)
			blobRow(t, env, upper.ID(), top, diffIDOf(top).String(), blobID(top).String(), map[string]any{"cache.snapshot": upper.GetString("cache.snapshot")})
		}
		env.Reopen()
		var refs []cache.ImmutableRef
		for i, name := range []string{"A", "B"} {
			upper := get(t, env, uppers[i])
			ref := byBlob(t, env, r, child, upper)
			requireFile(t, ref, "lower", name)
			refs = append(refs, upper, ref)
		}
		require.NotEqual(t, refs[1].ID(), refs[3].ID())
		alone := byBlob(t, env, r, top, nil, cache.Unlazy(nil))
		testutil.WithMount(t, alone, true, func(dir string) { require.NoFileExists(t, filepath.Join(dir, "lower")) })
		refs = append(refs, alone)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}
