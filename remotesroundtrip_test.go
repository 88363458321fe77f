package cache_test

import (
	"testing"
	"time"

	"github.com/opencontainers/image-spec/identity"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/tree"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
)

// TestRoundTrip: random trees become layers, merges and diffs, are exported in each compression, got by their blobs in another cache, and unpacked
// there: the trees are equal. So are the diff IDs, in all but estargz, whose index counts; and the blobs, when another cache exports what came in.
// LAYERCACHE_HISTORIES and LAYERCACHE_HISTORIES_SEED have it try more, or the same.
func TestRoundTrip(t *testing.T) { // spec RMT-1, BLOB-1, BLOB-8, COMP-4, WALK-1, scenario S-15
	for _, name := range []string{"native", "overlay"} {
		t.Run(name, func(t *testing.T) {
			_ = testutil.New(t, backends[name]...) // skips where it does not work
			history.Configure(t, 3)
			rapid.Check(t, func(rt *rapid.T) {
				h := history.Generate(rt, history.Features{Modes: []uint32{0o600, 0o644, 0o755, 0o4755}})
				tb := &scriptTB{TB: t, rt: rt}
				defer tb.cleanUp()
				roundTrip(tb, portable(h), backends[name])
			})
		})
	}
}

// portable is a history without what no archive of a layer holds.
func portable(h history.History) history.History {
	for i := range h {
		var ops []history.Op
		for _, op := range h[i].Ops {
			if op.Do != history.Socket {
				ops = append(ops, op)
			}
		}
		h[i].Ops = ops
	}
	return h
}

func roundTrip(t *scriptTB, h history.History, opts []testutil.Option) {
	env := testutil.New(t, opts...)
	last, done := buildHistory(t, env, h)
	defer done()
	want := readTree(t, last)
	diffIDs := map[string][]digest.Digest{}
	for _, kind := range []compression.Type{codec.Gzip, codec.Zstd, codec.Uncompressed, codec.EStargz} {
		out := export(t, last, forced(kind))
		require.Equal(t, exportedAs(out), exportedAs(export(t, last, forced(kind))), "%s: %s", kind, h)
		for _, desc := range out.Descriptors {
			readBlob(t, out, desc)
			diffIDs[kind.String()] = append(diffIDs[kind.String()], diffIDOf(desc))
		}
		if kind != codec.EStargz {
			require.Equal(t, diffIDs[codec.Gzip.String()], diffIDs[kind.String()], "%s: %s", kind, h)
		}
		requireImported(t, opts, out, want, kind.String()+": "+h.String())
	}
	require.Equal(t, identity.ChainID(diffIDs[codec.Gzip.String()]).String(), last.GetString("cache.chainID"))
}

// requireImported gets exported layers in a new cache, whose tree is to be as the one that they were made of.
func requireImported(t *scriptTB, opts []testutil.Option, out *remote.Remote, want tree.Tree, what string) {
	env := testutil.New(t, opts...)
	handlers := cache.DescHandlers{}
	for _, desc := range out.Descriptors {
		handlers[desc.Digest] = &cache.DescHandler{Provider: func(session.Group) content.Provider { return out.Provider }}
	}
	var chain cache.RefList
	var top cache.ImmutableRef
	for _, desc := range out.Descriptors {
		ref, err := env.Manager.GetByBlob(ctx, desc, top, handlers)
		require.NoError(t, err)
		top, chain = ref, append(chain, ref)
	}
	require.NoError(t, top.Extract(ctx, nil), what)
	// An archive has neither the times of unchanged directories, nor names that a file has in another layer.
	require.Empty(t, tree.Diff(want, readTree(t, top), tree.Root, tree.DirTimes, tree.Links), what)
	require.Equal(t, exportedAs(out), exportedAs(export(t, top, remote.RefConfig{})))
	require.NoError(t, chain.Release(ctx))
}

// readTree reads the tree of a record, with times as archives have them.
func readTree(t testing.TB, ref cache.Mountable) (got tree.Tree) {
	t.Helper()
	testutil.WithMount(t, ref, true, func(dir string) {
		var err error
		got, err = tree.Read(dir)
		require.NoError(t, err)
		for path, e := range got {
			e.ModTime = e.ModTime.Truncate(time.Second)
			got[path] = e
		}
	})
	return got
}

// buildHistory makes the layers and merges of a history, and returns the record of its last step. done lets go of all of them.
func buildHistory(t *scriptTB, env *testutil.Env, h history.History) (last cache.ImmutableRef, done func()) {
	made := cache.RefList{nil}
	for i, step := range h {
		var ref cache.ImmutableRef
		if step.Diffs == nil {
			ref = testutil.MakeLayer(t, env, made[step.Parent], func(dir string) { require.NoError(t, step.Apply(dir, i)) }, cache.CachePolicyRetain)
		} else {
			parts := make([]cache.ImmutableRef, 0, len(step.Diffs))
			for _, d := range step.Diffs {
				part, err := changesOf(env, made[d.Lower], made[d.Upper])
				require.NoError(t, err)
				if part != nil {
					parts = append(parts, part)
				}
			}
			var err error
			ref, err = env.Manager.Merge(ctx, parts, nil)
			require.NoError(t, err)
			require.NoError(t, cache.RefList(parts).Release(ctx))
		}
		if ref == nil { // a merge of nothing
			ref = testutil.MakeLayer(t, env, nil, nil, cache.CachePolicyRetain)
		}
		require.NoError(t, ref.Finalize(ctx))
		made = append(made, ref)
	}
	return made[len(made)-1], func() { require.NoError(t, made[1:].Release(ctx)) }
}

// diffOf is nil for what is nothing on either side, or deletes everything.
func changesOf(env *testutil.Env, lower, upper cache.ImmutableRef) (cache.ImmutableRef, error) {
	switch {
	case upper == nil:
		return nil, nil //nolint:nilnil // there is none
	case lower == nil:
		return upper.Clone(), nil
	}
	return env.Manager.Diff(ctx, lower, upper, nil)
}
