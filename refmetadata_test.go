package cache_test

import (
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/usage"
)

// metadataFields are the typed values of a record: set stores the nth value, get reads it as text.
var metadataFields = map[string]struct {
	set func(md cache.RefMetadata, n int) error
	get func(md cache.RefMetadata) any
	val func(n int) any
}{
	"description": {
		func(md cache.RefMetadata, n int) error { return md.SetDescription(strings.Repeat("d", n)) },
		func(md cache.RefMetadata) any { return md.GetDescription() },
		func(n int) any { return strings.Repeat("d", n) },
	},
	"description, untyped": {
		func(md cache.RefMetadata, n int) error {
			return md.SetString("cache.description", strings.Repeat("d", n), "")
		},
		func(md cache.RefMetadata) any { return md.GetDescription() + md.GetString("cache.description") },
		func(n int) any { return strings.Repeat("d", 2*n) },
	},
	"created": {
		func(md cache.RefMetadata, n int) error { return md.SetCreatedAt(time.Unix(int64(n), 7)) },
		func(md cache.RefMetadata) any { return md.GetCreatedAt().UnixNano() },
		func(n int) any { return time.Unix(int64(n), 7).UnixNano() },
	},
	"layer type": {
		func(md cache.RefMetadata, n int) error { return md.SetLayerType([]string{"", "windows"}[n%2]) },
		func(md cache.RefMetadata) any { return md.GetLayerType() },
		func(n int) any { return []string{"", "windows"}[n%2] },
	},
	"record type": {
		func(md cache.RefMetadata, n int) error { return md.SetRecordType(recordTypes[n%len(recordTypes)]) },
		func(md cache.RefMetadata) any { return md.GetRecordType() },
		func(n int) any { return recordTypes[n%len(recordTypes)] },
	},
	"policy": {
		func(md cache.RefMetadata, n int) error {
			if n%2 == 0 {
				return md.SetCachePolicyDefault()
			}
			return md.SetCachePolicyRetain()
		},
		func(md cache.RefMetadata) any { return [2]bool{md.HasCachePolicyRetain(), md.HasCachePolicyDefault()} },
		func(n int) any { return [2]bool{n%2 == 1, n%2 == 0} },
	},
	"string": {
		func(md cache.RefMetadata, n int) error {
			return md.SetString("etag", strings.Repeat("<&>\"\\é", n), "t:"+strings.Repeat("x", n))
		},
		func(md cache.RefMetadata) any { return md.GetString("etag") + md.Get("etag").Index },
		func(n int) any { return strings.Repeat("<&>\"\\é", n) + "t:" + strings.Repeat("x", n) },
	},
	"external": {
		func(md cache.RefMetadata, n int) error {
			return md.SetExternal("buildkit.contenthash.v0", make([]byte, n))
		},
		func(md cache.RefMetadata) any {
			dt, err := md.GetExternal("buildkit.contenthash.v0")
			if err != nil {
				return err
			}
			return len(dt)
		},
		func(n int) any { return n },
	},
}

var recordTypes = []usage.RecordType{usage.TypeInternal, usage.TypeFrontend, usage.TypeRegular}

// Spec MV-1, MV-4, quirk Q10: every view of a name shows what was set through any other, at once, and a
// crash does not take it away.
func TestMetadataIsShared(t *testing.T) {
	for name, f := range metadataFields {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, testutil.Doubles())
			imm := testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
			require.NoError(t, imm.SetString("probe", "", "probe:imm"))
			mutMD, ok := imm.GetEqualMutable()
			require.True(t, ok)
			require.NoError(t, mutMD.SetString("probe", "", "probe:mut"))
			search := func(index string) cache.RefMetadata {
				mds, err := env.Manager.Search(ctx, index, false)
				require.NoError(t, err)
				require.Len(t, mds, 1)
				return mds[0]
			}
			clone := imm.Clone()
			detached, ok := clone.GetEqualMutable()
			require.True(t, ok)
			n := 1
			for _, views := range [][]cache.RefMetadata{{imm, clone, search("probe:imm")}, {mutMD, detached, search("probe:mut")}} {
				for _, setter := range views {
					n++
					require.NoError(t, f.set(setter, n))
					for _, v := range views {
						require.Equal(t, f.val(n), f.get(v))
					}
				}
			}
			require.Equal(t, f.val(4), f.get(imm), "the halves have values of their own")

			env.Crash()
			env.Open()
			if name == "policy" && n%2 == 0 {
				return
			}
			require.Equal(t, f.val(4), f.get(search("probe:imm")))
			require.Equal(t, f.val(n), f.get(search("probe:mut")))
		})
	}
}

// Spec META-10, MV-1: a value that could not be stored is not shown.
func TestFailedSetterChangesNothing(t *testing.T) {
	for name, f := range metadataFields {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, testutil.Doubles())
			ref := newMutable(t, env, nil)
			require.NoError(t, f.set(ref, 3))
			env.Faults.Inject(fault.Match{Op: fault.OpDBUpdateFn, When: fault.After}, fault.Fail(errBackend))
			err := f.set(ref, 4)
			require.ErrorIs(t, err, errBackend)
			require.Contains(t, err.Error(), ref.ID())
			env.Faults.Reset()
			require.Equal(t, f.val(3), f.get(ref))
			release(t, ref)
		})
	}
}

// Spec MV-1: setters at the same time leave memory and database with the same value.
func TestConcurrentSetters(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	ref := finalized(t, env, nil, nil)
	var wg sync.WaitGroup
	errs := make([]error, 32)
	for i := range errs {
		wg.Go(func() { errs[i] = ref.SetDescription(strings.Repeat("x", i)) })
	}
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, ref.GetString("cache.description"), ref.GetDescription())
	release(t, ref)
}

// Spec MV-2, REC-6, MGR-7, REF-9: a record whose removal was interrupted is not found any more, by search or by ID.
func TestSearchLeavesOutDeletedRecords(t *testing.T) {
	env := testutil.New(t, testutil.Doubles(), testutil.Separate())
	ref := newMutable(t, env, nil)
	require.NoError(t, ref.SetString("k", "v", "idx:v"))
	env.Faults.FailOp(fault.OpLeaseDelete, errBackend)
	require.ErrorIs(t, ref.Release(ctx), errBackend)
	env.Faults.Reset()
	require.Equal(t, 1, rowCount(t, env), "marked as deleted")
	for _, prefix := range []bool{false, true} {
		mds, err := env.Manager.Search(ctx, "idx:v", prefix)
		require.NoError(t, err)
		require.Empty(t, mds)
	}
	_, err := env.Manager.Get(ctx, ref.ID(), nil)
	require.True(t, cache.IsNotFound(err), "%v", err)
	requireMetadataGone(t, ref)
	require.NoError(t, env.Manager.Prune(ctx, nil))
	require.Zero(t, rowCount(t, env))
	requireMetadataGone(t, ref)
}

// requireMetadataGone checks that a view of a record that is no more shows nothing and stores nothing.
func requireMetadataGone(t *testing.T, md cache.RefMetadata) {
	t.Helper()
	require.NotEmpty(t, md.ID())
	require.Empty(t, md.GetDescription())
	require.True(t, md.GetCreatedAt().IsZero())
	require.Empty(t, md.GetLayerType())
	require.Empty(t, md.GetRecordType())
	require.True(t, md.HasCachePolicyDefault())
	require.False(t, md.HasCachePolicyRetain())
	require.Nil(t, md.Get("k"))
	require.Empty(t, md.GetString("k"))
	_, pair := md.GetEqualMutable()
	require.False(t, pair)
	_, err := md.GetExternal("k")
	require.True(t, cache.IsNotFound(err), "%v", err)
	for name, f := range metadataFields {
		err := f.set(md, 1)
		require.True(t, cache.IsNotFound(err), "%s: %v", name, err)
		require.True(t, errdefs.IsNotFound(err), "%s: %v", name, err)
		require.Contains(t, err.Error(), md.ID(), name)
	}
	err = md.ClearValueAndIndex("k", "idx:")
	require.True(t, cache.IsNotFound(err), "%v", err)
}

// Spec MV-3, META-6: clearing removes the value, its own index, and the one made of prefix and value.
func TestClearValueAndIndex(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	ref := finalized(t, env, nil, nil)
	found := func(index string) int {
		mds, err := env.Manager.Search(ctx, index, false)
		require.NoError(t, err)
		return len(mds)
	}
	require.NoError(t, ref.SetString("a", "v", "own:1"))
	require.NoError(t, ref.ClearValueAndIndex("a", "other:"))
	require.Zero(t, found("own:1"))
	require.Nil(t, ref.Get("a"))

	require.NoError(t, ref.SetString("a", "v", "p:v"))
	require.NoError(t, ref.SetString("b", "v", ""))
	require.NoError(t, ref.ClearValueAndIndex("b", "p:"), "an index that another value names")
	require.Zero(t, found("p:v"))
	require.Equal(t, "v", ref.GetString("a"))
	require.NoError(t, ref.SetString("a", "v", "")) // or Check would find that its entry is missing

	require.NoError(t, ref.ClearValueAndIndex("never", "p:"))
	require.NoError(t, ref.SetDescription("d"))
	require.NoError(t, ref.ClearValueAndIndex("cache.description", ""))
	require.Empty(t, ref.GetDescription())
	release(t, ref)
}

// Spec MV-1, API-3: what cannot be stored, and what is the cache's own, is an invalid argument.
func TestMetadataBadInput(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	ref := finalized(t, env, nil, nil)
	before := ref.GetString("cache.snapshot")
	huge := strings.Repeat("k", 1<<16)
	for name, err := range map[string]error{
		"empty key":          ref.SetString("", "v", ""),
		"NUL in the key":     ref.SetString("a\x00b", "v", ""),
		"huge key":           ref.SetString(huge, "v", ""),
		"huge index":         ref.SetString("k", "v", huge),
		"NUL in the index":   ref.SetString("k", "v", "a\x00"),
		"index not in UTF-8": ref.SetString("k", "v", "\xff"),
		"empty external key": ref.SetExternal("", []byte("v")),
		"huge external key":  ref.SetExternal(huge, []byte("v")),
		"own key":            ref.SetString("cache.snapshot", "v", ""),
		"own key, cleared":   ref.ClearValueAndIndex("cache.parent", ""),
		"own key, deleted":   ref.SetString("cache.deleted", "true", ""),
		"no such time":       ref.SetCreatedAt(time.Date(2500, 1, 1, 0, 0, 0, 0, time.UTC)),
	} {
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
		require.Contains(t, err.Error(), ref.ID(), name)
		require.Less(t, len(err.Error()), 1000, name)
	}
	require.Nil(t, ref.Get(""))
	require.Nil(t, ref.Get(huge))
	_, err := ref.GetExternal(huge)
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.Nil(t, ref.Get("k"))
	require.Equal(t, before, ref.GetString("cache.snapshot"))
	release(t, ref)
}

// Spec MV-1: memory and row agree on what no JSON string can hold, and on the time that is none.
func TestMetadataOddValues(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	ref := finalized(t, env, nil, nil)
	require.NoError(t, ref.SetDescription("a\xff\xfeb\x00\n\u2028"))
	require.Equal(t, ref.GetString("cache.description"), ref.GetDescription())
	require.NoError(t, ref.SetCreatedAt(time.Time{}))
	require.True(t, ref.GetCreatedAt().IsZero())
	want := ref.GetDescription()
	release(t, ref)
	env.Reopen()
	ref = get(t, env, ref.ID())
	require.Equal(t, want, ref.GetDescription())
	require.True(t, ref.GetCreatedAt().IsZero())
	release(t, ref)
}

// Spec META-14: external data is a copy both ways, and goes with its record.
func TestExternalData(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	ref := newMutable(t, env, nil)
	_, err := ref.GetExternal("x")
	require.True(t, errdefs.IsNotFound(err), "%v", err)
	require.False(t, cache.IsNotFound(err), "the record is there")
	data := []byte("data")
	require.NoError(t, ref.SetExternal("x", data))
	data[0] = 'X'
	got, err := ref.GetExternal("x")
	require.NoError(t, err)
	got[1] = 'X'
	got, err = ref.GetExternal("x")
	require.NoError(t, err)
	require.Equal(t, "data", string(got))
	release(t, ref)
	_, err = ref.GetExternal("x")
	require.True(t, cache.IsNotFound(err), "%v", err)
}

// Spec REC-8, OLD-2: a row without a snapshot ID has the snapshot that is named like the record.
func TestRowWithoutSnapshotID(t *testing.T) {
	env := testutil.New(t)
	ref := finalized(t, env, nil, fileIn(t, "f", "data"))
	require.Equal(t, ref.ID(), ref.GetString("cache.snapshot"))
	release(t, ref)
	require.NoError(t, env.Opt.MetadataStore.Write(func(w *metadata.Writer) error {
		row, err := w.Row(ref.ID())
		if err != nil {
			return err
		}
		return row.Clear("cache.snapshot")
	}))
	env.Reopen()
	ref = get(t, env, ref.ID())
	requireFile(t, ref, "f", "data")
	release(t, ref)
}

// Spec REC-1, REC-2: the kind of a record follows from its parents in a fixed order, and a merge or
// diff is immutable though its row does not say that it is committed.
func TestKindsOfRows(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	a, b := finalized(t, env, nil, nil), finalized(t, env, nil, nil)
	store, err := env.Opt.MetadataStore.StoreID()
	require.NoError(t, err)
	rows := map[string]map[string]any{
		"merge":     {"cache.mergeParents": []string{b.ID(), a.ID(), b.ID()}, "cache.upperDiffParent": a.ID(), "cache.parent": a.ID()},
		"diff":      {"cache.lowerDiffParent": a.ID(), "cache.upperDiffParent": b.ID(), "cache.parent": a.ID()},
		"upper":     {"cache.upperDiffParent": b.ID()},
		"layer":     {"cache.parent": a.ID(), "snapshot.committed": true, "cache.blobonly": true, "cache.blob": "sha256:1"},
		"baselayer": {"snapshot.committed": true, "cache.blobonly": true, "cache.blob": "sha256:1"},
	}
	require.NoError(t, env.Opt.MetadataStore.Write(func(w *metadata.Writer) error {
		for id, values := range rows {
			row, err := w.Create(id)
			if err != nil {
				return err
			}
			for k, v := range values {
				if err := row.Set(k, v, ""); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	for id := range rows {
		_, err := env.Opt.LeaseManager.Create(ctx, leases.WithID(id),
			leases.WithLabels(map[string]string{"layercache.io/store": store, "layercache.io/record": id}))
		require.NoError(t, err)
	}
	release(t, a, b)
	env.Reopen()
	infos := usageByID(t, env)
	for id, want := range map[string][]string{
		"merge": {b.ID(), a.ID(), b.ID()}, "diff": {a.ID(), b.ID()}, "upper": {b.ID()}, "layer": {a.ID()}, "baselayer": nil,
	} {
		require.Equal(t, want, infos[id].Parents, id)
		require.False(t, infos[id].Mutable, id)
		_, err := env.Manager.GetMutable(ctx, id)
		require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", id, err)
	}
	require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 7)
}
