package cache_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// chainOf makes a chain of lazy layers, bottom first; each has one file of its own, named like its place.
func chainOf(t *testing.T, env *testutil.Env, r *registry, n int) (descs []ocispecs.Descriptor, refs []cache.ImmutableRef) {
	t.Helper()
	var parent cache.ImmutableRef
	for i := range n {
		desc := r.layer(t, []string{"gzip", "zstd", ""}[i%3], tree.File("file"+string(rune('a'+i%26))+strings.Repeat("_", i/26), "x"))
		parent = byBlob(t, env, r, desc, parent)
		descs, refs = append(descs, desc), append(refs, parent)
	}
	return descs, refs
}

func extractSnapshots(t *testing.T, env *testutil.Env) []string {
	t.Helper()
	return slices.DeleteFunc(snapshotNames(t, env), func(name string) bool { return !strings.HasPrefix(name, "extract-") })
}

// prepared lists the keys of the snapshots that were prepared since Faults.Reset.
func prepared(env *testutil.Env) (keys []string) {
	for _, p := range env.Faults.Trace() {
		if p.Op == fault.OpSnapshotPrepare && p.When == fault.Before {
			keys = append(keys, p.Key)
		}
	}
	return keys
}

// TestBlobChainLife is a chain of two layers from blobs, from its lazy beginning to its end.
func TestBlobChainLife(t *testing.T) { // scenario S-6, spec SIZE-1, SIZE-4, SIZE-5, MGR-22
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a, b := r.layer(t, "gzip", tree.File("a", "a")), r.layer(t, "gzip", tree.File("b", "b"))
		doneA, doneB := ingest(t, env, r, a), ingest(t, env, r, b)
		base, err := env.Manager.GetByBlob(ctx, a, nil)
		require.NoError(t, err)
		child, err := env.Manager.GetByBlob(ctx, b, base)
		require.NoError(t, err)
		doneA()
		doneB()
		require.NoError(t, env.GC(ctx))
		require.Empty(t, snapshotNames(t, env))
		require.Equal(t, b.Size, usageByID(t, env)[child.ID()].Size)
		require.Equal(t, a.Size, usageByID(t, env)[base.ID()].Size)

		require.NoError(t, child.Extract(ctx, nil))
		require.ElementsMatch(t, []string{layerSnapshot(diffIDOf(a)), layerSnapshot(fold(diffIDOf(a), diffIDOf(b)))}, snapshotNames(t, env))
		info, err := env.Opt.Snapshotter.Stat(ctx, layerSnapshot(fold(diffIDOf(a), diffIDOf(b))))
		require.NoError(t, err)
		require.Equal(t, layerSnapshot(diffIDOf(a)), info.Parent)
		for ref, desc := range map[cache.ImmutableRef]ocispecs.Descriptor{base: a, child: b} {
			u, err := env.Opt.Snapshotter.Usage(ctx, ref.GetString("cache.snapshot"))
			require.NoError(t, err)
			require.Equal(t, desc.Size+u.Size, usageByID(t, env)[ref.ID()].Size, "blob and snapshot")
		}

		require.Empty(t, prune(t, env, usage.PruneInfo{All: true}))
		requireUsage(t, env, 2, 0)
		release(t, base)
		requireUsage(t, env, 2, 0)
		require.Empty(t, prune(t, env, usage.PruneInfo{All: true}))
		base = get(t, env, base.ID())
		release(t, child)
		requireUsage(t, env, 1, 1)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 1)
		release(t, base)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 1)
		require.NoError(t, env.GC(ctx))
		require.Empty(t, snapshotNames(t, env))
		require.Empty(t, blobNames(t, env))
		require.Empty(t, leaseIDs(t, env))
	})
}

// TestExtraction: which snapshot a layer is unpacked into, under which lease, and what its row says afterwards.
func TestExtraction(t *testing.T) { // spec EXT-1, EXT-3, EXT-7, EXT-8, LEASE-3, section 2.2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		progress := &progressLog{}
		ref := byBlob(t, env, r, desc, nil)
		shown, err := env.Manager.Get(ctx, ref.ID(), progress, r.handlers(desc))
		require.NoError(t, err)
		env.Faults.Reset()
		var during []string
		env.Faults.Inject(fault.Match{Op: fault.OpApply, When: fault.Before}, func(ctx context.Context, _ fault.Point) error {
			lease, ok := leases.FromContext(ctx)
			require.True(t, ok)
			l, resources := leaseOf(t, env, lease)
			require.NotNil(t, l)
			require.Contains(t, l.Labels, "buildkit/lease.temporary")
			require.NotContains(t, l.Labels, "containerd.io/gc.expire", "nothing that could run out: spec LEASE-5, quirk Q15")
			for _, res := range resources {
				during = append(during, res.ID)
			}
			return env.GC(ctx)
		})
		require.NoError(t, shown.Extract(ctx, nil))
		keys := prepared(env)
		require.Len(t, keys, 1)
		require.Regexp(t, "^extract-[0-9a-z]{25} "+diffIDOf(desc).String()+"$", keys[0])
		require.Contains(t, during, keys[0])
		require.Equal(t, []string{layerSnapshot(diffIDOf(desc))}, snapshotNames(t, env))
		requireRow(t, env, ref.ID(), map[string]any{"cache.blobonly": false})
		require.ElementsMatch(t, []string{ref.ID(), ref.ID() + "-variants"}, leaseIDs(t, env))
		statuses, ends := progress.take(t)
		require.Equal(t, []string{"extracting " + desc.Digest.String()}, statuses)
		require.Equal(t, []error{nil}, ends)

		env.Faults.Reset()
		require.NoError(t, shown.Extract(ctx, nil))
		require.Zero(t, env.Faults.Count("content.*")+env.Faults.Count("db.*")+env.Faults.Count("leases.*"), "it is extracted already")
		release(t, ref, shown)
	})
}

// TestProgressOfExtraction is the handler's where the ref has none, and ends with what really happened.
func TestProgressOfExtraction(t *testing.T) { // spec EXT-7, EXT-13, quirk Q38
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		done := ingest(t, env, r, desc)
		progress := &progressLog{}
		handlers := r.handlers(desc)
		handlers[desc.Digest].Progress = progress
		ref, err := env.Manager.GetByBlob(ctx, desc, nil, handlers)
		require.NoError(t, err)
		done()
		env.Faults.FailOp(fault.OpApply, errdefs.ErrDataLoss)
		require.ErrorIs(t, ref.Extract(ctx, nil), errdefs.ErrDataLoss)
		env.Faults.Reset()
		statuses, ends := progress.take(t)
		require.Equal(t, []string{"extracting " + desc.Digest.String()}, statuses)
		require.Len(t, ends, 1)
		require.ErrorIs(t, ends[0], errdefs.ErrDataLoss)
		require.NoError(t, ref.Extract(ctx, nil))
		_, ends = progress.take(t)
		require.Equal(t, []error{nil}, ends)
		release(t, ref)
	})
}

// TestExtractManyAtOnce: fifty who want one chain have each of its layers transferred and unpacked once.
func TestExtractManyAtOnce(t *testing.T) { // spec EXT-3, EXT-6, EXT-7, quirk Q77
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		descs, refs := chainOf(t, env, r, 5)
		top := refs[len(refs)-1]
		env.Faults.Reset()
		var wg sync.WaitGroup
		errs := make([]error, 50)
		for i := range errs {
			wg.Go(func() {
				ref := top.Clone()
				errs[i] = ref.Extract(ctx, nil)
				if err := ref.Release(ctx); errs[i] == nil {
					errs[i] = err
				}
			})
		}
		wg.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		require.Len(t, prepared(env), len(descs))
		require.Equal(t, len(descs), env.Faults.Count(fault.OpApply))
		for i, desc := range descs {
			require.Equal(t, 1, r.opened(desc.Digest), i)
			require.NoError(t, refs[i].Extract(ctx, nil))
		}
		require.Len(t, snapshotNames(t, env), len(descs))
		for i := range refs {
			release(t, refs[i])
		}
	})
}

// TestSnapshotMadeBySomebodyElse: if the snapshot appears while the layer is unpacked, that one counts, and the work is dropped.
func TestSnapshotMadeBySomebodyElse(t *testing.T) { // spec EXT-7, EXT-9
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		gz, zst := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "zstd", tree.File("f", "x"))
		a, b := byBlob(t, env, r, gz, nil), byBlob(t, env, r, zst, nil)
		env.Faults.Inject(fault.Match{Op: fault.OpApply, When: fault.After, Key: gz.Digest.String()}, func(context.Context, fault.Point) error {
			return b.Extract(ctx, nil)
		})
		require.NoError(t, a.Extract(ctx, nil))
		env.Faults.Reset()
		require.Equal(t, 1, r.opened(zst.Digest))
		require.NoError(t, env.GC(ctx))
		require.Equal(t, []string{layerSnapshot(diffIDOf(gz))}, snapshotNames(t, env))
		requireRow(t, env, a.ID(), map[string]any{"cache.blobonly": false})
		requireRow(t, env, b.ID(), map[string]any{"cache.blobonly": false})
		requireFile(t, a, "f", "x")
		release(t, a, b)
	})
}

// TestFailedExtractionLeavesNothing: whatever step fails, no active snapshot and no lease stays, the cache has garbage collected where there is
// some, and the next try succeeds.
func TestFailedExtractionLeavesNothing(t *testing.T) { // spec EXT-9, LEASE-4, LEASE-8
	for _, op := range []string{
		fault.OpSnapshotPrepare, fault.OpSnapshotMounts, fault.OpApply, fault.OpSnapshotCommit, fault.OpContentInfo,
		fault.OpContentWriter, fault.OpWriterCommit, fault.OpDBUpdate, fault.OpLeaseCreate,
	} {
		t.Run(op, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				descs, refs := chainOf(t, env, r, 2)
				top := refs[1]
				require.NoError(t, refs[0].Extract(ctx, nil))
				env.Faults.Reset()
				env.Faults.FailOp(op, errdefs.ErrPermissionDenied)
				err := top.Extract(ctx, nil)
				require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
				require.ErrorContains(t, err, top.ID())
				if op == fault.OpApply {
					require.Equal(t, 1, env.Faults.Count(fault.OpGarbageCollect))
				}
				env.Faults.Reset()
				require.Empty(t, extractSnapshots(t, env))
				requireRow(t, env, top.ID(), map[string]any{"cache.blobonly": true})
				require.NoError(t, top.Extract(ctx, nil))
				requireFile(t, top, "filea", "x")
				requireFile(t, top, "fileb", "x")
				require.LessOrEqual(t, r.opened(descs[1].Digest), 2)
				release(t, refs[0], top)
			})
		})
	}
}

// TestWithoutApplier a layer can be known, but not unpacked.
func TestWithoutApplier(t *testing.T) { // spec EXT-6
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Applier = nil }))
	r := newRegistry()
	ref := byBlob(t, env, r, r.layer(t, "gzip", tree.File("f", "x")), nil)
	err := ref.Extract(ctx, nil)
	require.ErrorIs(t, err, cache.ErrNotExtracted)
	require.ErrorContains(t, err, "unlazy requires an applier")
	_, err = ref.FileList(ctx, nil)
	require.NoError(t, err)
	release(t, ref)
}

// TestLayerContextHook: layers of Windows are unpacked in the context that the embedder makes for them, and all work is within its spans.
func TestLayerContextHook(t *testing.T) { // spec EXT-11, design 5
	type layerKey struct{}
	var (
		mu    sync.Mutex
		types []string
		spans []string
	)
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		opt.Hooks.LayerContext = func(ctx context.Context, layerType string) context.Context {
			return context.WithValue(ctx, layerKey{}, "type "+layerType)
		}
		opt.Hooks.StartSpan = func(ctx context.Context, name string, desc ocispecs.Descriptor) (context.Context, func()) {
			mu.Lock()
			defer mu.Unlock()
			spans = append(spans, "begin "+name+" "+desc.Digest.String())
			return ctx, func() {
				mu.Lock()
				defer mu.Unlock()
				spans = append(spans, "end "+name+" "+desc.Digest.String())
			}
		}
	}))
	env.Faults.Inject(fault.Match{Op: fault.OpApply, When: fault.Before}, func(ctx context.Context, _ fault.Point) error {
		text, _ := ctx.Value(layerKey{}).(string)
		types = append(types, text)
		return nil
	})
	r := newRegistry()
	descs, refs := chainOf(t, env, r, 2)
	require.NoError(t, refs[1].SetLayerType("windows"))
	require.NoError(t, refs[0].Extract(ctx, nil))
	require.NoError(t, refs[1].Extract(ctx, nil))
	require.Equal(t, []string{"type ", "type windows"}, types)
	require.Equal(t, []string{
		"begin extract " + descs[0].Digest.String(), "end extract " + descs[0].Digest.String(),
		"begin extract " + descs[1].Digest.String(), "end extract " + descs[1].Digest.String(),
	}, spans)
	release(t, refs[0], refs[1])
}
