package cache_test

import (
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// fold computes a chain ID as spec MGR-20 words it, and not as the code does.
func fold(ids ...digest.Digest) digest.Digest {
	out := ids[0]
	for _, d := range ids[1:] {
		out = digest.FromString(string(out) + " " + string(d))
	}
	return out
}

// blobID is what a layer's blob counts as in blob chain IDs (spec MGR-18).
func blobID(desc ocispecs.Descriptor) digest.Digest { return fold(desc.Digest, diffIDOf(desc)) }

// layerSnapshot is the ID of the snapshot for a chain ID (spec REC-8).
func layerSnapshot(chain digest.Digest) string {
	return "buildkit-layer-snapshot-v1-sha256-" + chain.Encoded()
}

// rowValue reads a value of a record's row from the database; nil if there is none.
func rowValue(t *testing.T, env *testutil.Env, id, key string) (value any, index string) {
	t.Helper()
	item, ok := env.Opt.MetadataStore.Get(id)
	require.True(t, ok, id)
	v := item.Get(key)
	if v == nil {
		return nil, ""
	}
	require.NoError(t, v.Unmarshal(&value))
	return value, v.Index
}

func requireRow(t *testing.T, env *testutil.Env, id string, want map[string]any) {
	t.Helper()
	for key, value := range want {
		got, _ := rowValue(t, env, id, key)
		require.Equal(t, value, got, key)
	}
}

// found returns the IDs that Search finds.
func found(t *testing.T, env *testutil.Env, index string) []string {
	t.Helper()
	refs, err := env.Manager.Search(ctx, index, false)
	require.NoError(t, err)
	ids := []string{}
	for _, r := range refs {
		ids = append(ids, r.ID())
	}
	return ids
}

// TestBlobChainIDs: a layer is addressed by its diff ID and by its blob, on top of what its parent is addressed by.
func TestBlobChainIDs(t *testing.T) { // spec MGR-18, MGR-19, MGR-20, MGR-30, REC-4, REC-8, scenario S-7
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		var refs []cache.ImmutableRef
		var chain, blobChain digest.Digest
		for i, compression := range []string{"gzip", "zstd", ""} {
			desc := r.layer(t, compression, tree.File("f", strings.Repeat("x", i)))
			desc.URLs = []string{"https://b.test/2", "https://a.test/1"}
			var parent cache.ImmutableRef
			want := map[string]any{}
			if i == 0 {
				chain, blobChain = diffIDOf(desc), blobID(desc)
				want["cache.parent"] = nil
			} else {
				parent = refs[i-1]
				chain, blobChain = fold(chain, diffIDOf(desc)), fold(blobChain, blobID(desc))
				want["cache.parent"] = parent.ID()
			}
			ref := byBlob(t, env, r, desc, parent)
			refs = append(refs, ref)
			for k, v := range map[string]any{
				"cache.diffID": diffIDOf(desc).String(), "cache.layerIdentity": diffIDOf(desc).String(),
				"cache.blob": desc.Digest.String(), "cache.chainID": chain.String(), "cache.blobChainID": blobChain.String(),
				"cache.snapshot": layerSnapshot(chain), "cache.blobonly": true, "cache.mediatype": desc.MediaType,
				"cache.blobsize": float64(desc.Size), "cache.layer.urls": []any{"https://b.test/2", "https://a.test/1"},
				"snapshot.committed": true, "cache.equalMutable": nil, "cache.deleted": nil,
			} {
				want[k] = v
			}
			requireRow(t, env, ref.ID(), want)
			_, index := rowValue(t, env, ref.ID(), "cache.chainID")
			require.Equal(t, "chainid:"+chain.String(), index)
			_, index = rowValue(t, env, ref.ID(), "cache.blobChainID")
			require.Equal(t, "blobchainid:"+blobChain.String(), index)
			require.Equal(t, []string{ref.ID()}, found(t, env, index))
			require.Equal(t, []string{ref.ID()}, found(t, env, "chainid:"+chain.String()))
			_, err := env.Manager.GetMutable(ctx, ref.ID())
			require.True(t, errdefs.IsInvalidArgument(err), "it is born finalized: %v", err)
		}
		require.Empty(t, snapshotNames(t, env))
		release(t, refs[0], refs[1], refs[2])
	})
}

// TestLeaseOfABlobRecord: a record made of a blob leases the snapshot and the blob before they exist.
func TestLeaseOfABlobRecord(t *testing.T) { // spec MGR-27, LEASE-1, LEASE-2, META-1
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		env.Faults.Reset()
		ref := byBlob(t, env, r, desc, nil)
		require.Equal(t, 1, env.Faults.Count("db.Update"), "one transaction has all of the row: %s", env.Faults.Trace())
		l, resources := leaseOf(t, env, ref.ID())
		require.NotNil(t, l)
		_, err := time.Parse(time.RFC3339Nano, l.Labels["containerd.io/gc.flat"])
		require.NoError(t, err)
		require.NotContains(t, l.Labels, "containerd.io/gc.expire")
		require.ElementsMatch(t, []leases.Resource{
			{ID: layerSnapshot(diffIDOf(desc)), Type: "snapshots/" + env.Opt.Snapshotter.Name()},
			{ID: desc.Digest.String(), Type: "content"},
		}, resources)
		require.Equal(t, []string{ref.ID()}, leaseIDs(t, env))
		release(t, ref)
	})
}

// TestOptionsOfABlobRecord: what the options say of a new record, and that of several the first counts where the specification says so.
func TestOptionsOfABlobRecord(t *testing.T) { // spec OPT-1, OPT-5, REF-21, section 0.5
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r, other := newRegistry(), newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		created := time.Unix(1_500_000_000, 5)
		ref, err := env.Manager.GetByBlob(ctx, desc, nil,
			r.handlers(desc), other.handlers(desc),
			cache.WithDescription("base"), cache.WithRecordType(usage.TypeInternal), cache.WithCreationTime(created),
			cache.CachePolicyRetain, cache.WithImageRef("b"), cache.WithImageRef("a"), cache.WithImageRef("b"))
		require.NoError(t, err)
		requireRow(t, env, ref.ID(), map[string]any{
			"cache.description": "base", "cache.recordType": "internal", "cache.createdAt": float64(created.UnixNano()),
			"cache.cachePolicy": float64(1), "cache.imageRefs": []any{"b", "a"},
		})
		dh := ref.DescHandler(desc.Digest)
		require.NotNil(t, dh)
		require.Nil(t, ref.DescHandler(digest.FromString("another")))
		require.NoError(t, ref.Extract(ctx, nil))
		require.Equal(t, 1, r.opened(desc.Digest), "the first handlers win")
		require.Zero(t, other.opened(desc.Digest))
		release(t, ref)

		plain := get(t, env, ref.ID())
		require.Nil(t, plain.DescHandler(desc.Digest), "handlers are the ref's own")
		release(t, plain)
	})
}

// TestTOCIdentity: with stargz a layer's table of contents is part of what it is; with any other snapshotter it is not.
func TestTOCIdentity(t *testing.T) { // spec MGR-18, REC-8, scenario S-9
	toc := func(desc ocispecs.Descriptor, text string) ocispecs.Descriptor {
		desc.Annotations = map[string]string{
			"containerd.io/uncompressed":               desc.Annotations["containerd.io/uncompressed"],
			"containerd.io/snapshot/stargz/toc.digest": digest.FromString(text).String(),
		}
		return desc
	}
	t.Run("stargz", func(t *testing.T) {
		env := testutil.New(t, testutil.Doubles(), named("stargz"))
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		var refs []cache.ImmutableRef
		for _, text := range []string{"one", "two"} {
			identity := fold(diffIDOf(desc), digest.FromString(text))
			ref := byBlob(t, env, r, toc(desc, text), nil)
			requireRow(t, env, ref.ID(), map[string]any{
				"cache.diffID": diffIDOf(desc).String(), "cache.layerIdentity": identity.String(), "cache.chainID": identity.String(),
				"cache.snapshot": layerSnapshot(identity), "cache.blobChainID": blobID(desc).String(),
			})
			again := byBlob(t, env, r, toc(desc, text), nil)
			require.Equal(t, ref.ID(), again.ID())
			refs = append(refs, ref, again)
		}
		require.NotEqual(t, refs[0].ID(), refs[2].ID())
		require.ElementsMatch(t, []string{refs[0].ID(), refs[2].ID()}, found(t, env, "blobchainid:"+blobID(desc).String()))
		for _, ref := range refs {
			release(t, ref)
		}
		bad := toc(desc, "")
		bad.Annotations["containerd.io/snapshot/stargz/toc.digest"] = "sha256:short"
		_, err := env.Manager.GetByBlob(ctx, bad, nil, r.handlers(desc))
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
	})
	t.Run("others", func(t *testing.T) {
		eachBackend(t, func(t *testing.T, env *testutil.Env) {
			r := newRegistry()
			gz, zst := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "zstd", tree.File("f", "x"))
			a, b := byBlob(t, env, r, toc(gz, "one"), nil), byBlob(t, env, r, toc(zst, "two"), nil)
			require.NotEqual(t, a.ID(), b.ID())
			for _, ref := range []cache.ImmutableRef{a, b} {
				requireRow(t, env, ref.ID(), map[string]any{
					"cache.chainID": diffIDOf(gz).String(), "cache.snapshot": layerSnapshot(diffIDOf(gz)), "cache.layerIdentity": diffIDOf(gz).String(),
				})
			}
			invalid := toc(gz, "one")
			invalid.Annotations["containerd.io/snapshot/stargz/toc.digest"] = "is not looked at"
			same := byBlob(t, env, r, invalid, nil)
			require.Equal(t, a.ID(), same.ID())
			release(t, a, b, same)
		})
	})
}

// TestLayerDescriptors: what a descriptor has to have, and that a bad one leaves nothing.
func TestLayerDescriptors(t *testing.T) { // spec MGR-16, fault 43
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		good := r.layer(t, "gzip", tree.File("f", "x"))
		for name, spoil := range map[string]func(*ocispecs.Descriptor){
			"no annotations":       func(d *ocispecs.Descriptor) { d.Annotations = nil },
			"no diff ID":           func(d *ocispecs.Descriptor) { delete(d.Annotations, "containerd.io/uncompressed") },
			"empty diff ID":        func(d *ocispecs.Descriptor) { d.Annotations["containerd.io/uncompressed"] = "" },
			"diff ID is no digest": func(d *ocispecs.Descriptor) { d.Annotations["containerd.io/uncompressed"] = "sha256:../../x" },
			"short diff ID":        func(d *ocispecs.Descriptor) { d.Annotations["containerd.io/uncompressed"] = "sha256:abcd" },
			"digest is none":       func(d *ocispecs.Descriptor) { d.Digest = "../../etc/passwd" },
			"unknown algorithm":    func(d *ocispecs.Descriptor) { d.Digest = "md5:d41d8cd98f00b204e9800998ecf8427e" },
			"negative size":        func(d *ocispecs.Descriptor) { d.Size = -1 },
		} {
			bad := good
			bad.Annotations = map[string]string{"containerd.io/uncompressed": diffIDOf(good).String()}
			spoil(&bad)
			env.Faults.Reset()
			ref, err := env.Manager.GetByBlob(ctx, bad, nil, r.handlers(bad, good))
			require.True(t, errdefs.IsInvalidArgument(err), "%s: %v", name, err)
			require.True(t, ref == nil, "spec API-2")
			require.Zero(t, env.Faults.Len(), "%s: %s", name, env.Faults.Trace())
		}
		require.Zero(t, rowCount(t, env))
		require.Empty(t, leaseIDs(t, env))
	})
}

// TestLayerWithoutContent: a descriptor without a digest names a layer nobody has the blob of. It is never lazy, and not extracted.
func TestLayerWithoutContent(t *testing.T) { // spec MGR-16, MGR-20, MGR-27, REC-5, EXT-10
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		diffID := digest.FromString("moby")
		desc := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Annotations: map[string]string{"containerd.io/uncompressed": diffID.String()}}
		env.Faults.Reset()
		ref, err := env.Manager.GetByBlob(ctx, desc, nil)
		require.NoError(t, err)
		require.Zero(t, env.Faults.Count("content.*"))
		requireRow(t, env, ref.ID(), map[string]any{
			"cache.blob": "", "cache.diffID": diffID.String(), "cache.chainID": diffID.String(),
			"cache.blobChainID": digest.FromString(" " + diffID.String()).String(), "cache.blobonly": true,
		})
		_, resources := leaseOf(t, env, ref.ID())
		require.Equal(t, []leases.Resource{{ID: layerSnapshot(diffID), Type: "snapshots/" + env.Opt.Snapshotter.Name()}}, resources)
		again := get(t, env, ref.ID()) // without a handler
		names, err := again.FileList(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, names)
		err = again.Extract(ctx, nil)
		require.ErrorIs(t, err, cache.ErrNotExtracted)
		require.ErrorContains(t, err, "no blob available")
		release(t, ref, again)
	})
}

// TestBlobNobodyHas: without the blob and without a handler for it there is no record; other trouble is told as it is.
func TestBlobNobodyHas(t *testing.T) { // spec MGR-17, API-2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		for _, handlers := range []cache.DescHandlers{nil, {}, {desc.Digest: nil}, r.handlers(ocispecs.Descriptor{Digest: digest.FromString("other")})} {
			ref, err := env.Manager.GetByBlob(ctx, desc, nil, handlers)
			var missing cache.NeedsRemoteProviderError
			require.ErrorAs(t, err, &missing)
			require.Equal(t, cache.NeedsRemoteProviderError{desc.Digest}, missing)
			require.True(t, ref == nil)
		}
		env.Faults.Reset()
		env.Faults.FailOp("content.Info", errdefs.ErrUnavailable)
		_, err := env.Manager.GetByBlob(ctx, desc, nil)
		require.True(t, errdefs.IsUnavailable(err), "%v", err)
		env.Faults.Reset()
		require.Zero(t, rowCount(t, env))
		require.Empty(t, leaseIDs(t, env))

		ref := ofLocalBlob(t, env, r, desc)
		require.NoError(t, env.GC(ctx))
		again := get(t, env, ref.ID()) // the lease keeps the blob, so it is not lazy
		require.NoError(t, again.Extract(ctx, nil))
		release(t, ref, again)
	})
}
