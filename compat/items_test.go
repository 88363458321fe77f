package compat

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/moby/buildkit/cache"
	"github.com/moby/buildkit/cache/metadata"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/leaseutil"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/testutil/tree"
)

// item is something that BuildKit leaves in a directory, and what becomes of it.
type item struct {
	name string
	// mounts tells that BuildKit must mount to make it.
	mounts bool
	// gone is the rule by which our start removes it, lost how BuildKit's own loses it.
	gone, lost string
	make       func(k *kit, name string) *record
}

// items in the order in which they are made: later ones stand on earlier ones.
var items = []item{
	{name: "base", make: func(k *kit, name string) *record {
		return k.finalized(name, k.layer(name, nil, nil, baseTree()...))
	}},
	{name: "child", make: func(k *kit, name string) *record {
		change := func(dir string) {
			require.NoError(k.t, os.Remove(filepath.Join(dir, "etc", "gone")))
			require.NoError(k.t, os.RemoveAll(filepath.Join(dir, "opt")))
			require.NoError(k.t, os.Mkdir(filepath.Join(dir, "opt"), 0o711)) // opaque on overlayfs
		}
		return k.finalized(name, k.layer(name, k.refs["base"], change, tree.File("opt/new", "new"), tree.File("child", "child")))
	}},
	{name: "grandchild", make: func(k *kit, name string) *record {
		return k.finalized(name, k.layer(name, k.refs["child"], nil, tree.File("grandchild", "grandchild")))
	}},
	{name: "victim", make: func(k *kit, name string) *record {
		return k.finalized(name, k.layer(name, k.refs["child"], nil, tree.File("victim", "victim")))
	}},
	{name: "other", make: func(k *kit, name string) *record {
		return k.finalized(name, k.layer(name, k.refs["base"], nil, tree.File("other/file", "other")))
	}},
	{name: "used", make: func(k *kit, name string) *record {
		r := k.finalized(name, k.layer(name, nil, nil, tree.File("used", "used")))
		for range 3 {
			again, err := k.m.Get(k.t.Context(), r.id, nil)
			require.NoError(k.t, err)
			require.NoError(k.t, again.Release(k.t.Context()))
		}
		return r
	}},

	// Committed and not finalized.
	{name: "pair", make: func(k *kit, name string) *record { return k.pair(name, k.refs["base"], true) }},
	{name: "pair to build on", make: func(k *kit, name string) *record { return k.pair(name, k.refs["child"], true) }},
	{name: "pair kept by its mutable half", make: func(k *kit, name string) *record { return k.pair(name, nil, false) }},
	{name: "half finalized", make: (*kit).halfFinalized},

	// Cache mounts.
	{name: "mount", make: func(k *kit, name string) *record { return k.cacheMount(name, nil) }},
	{name: "mount on base", make: func(k *kit, name string) *record { return k.cacheMount(name, k.refs["base"]) }},

	// What its process held when it died.
	{name: "held mutable", gone: "INIT-12", make: func(k *kit, name string) *record {
		mut := k.mutable(name, k.refs["base"])
		k.fill(mut, nil, tree.File("lost", "lost"))
		return k.add(&record{name: name, id: mut.ID(), isMutable: true})
	}},
	{name: "held pair", gone: "INIT-12", make: func(k *kit, name string) *record {
		mut := k.mutable(name, k.refs["base"])
		k.fill(mut, nil, tree.File("lost", "lost"))
		imm, err := mut.Commit(k.t.Context())
		require.NoError(k.t, err)
		k.add(&record{name: name + ", mutable half", id: mut.ID(), isMutable: true, gone: "INIT-12"})
		return k.add(&record{name: name, id: imm.ID(), mutable: mut.ID()})
	}},
	{name: "held view", make: func(k *kit, name string) *record {
		ref := k.layer(name, k.refs["base"], nil, tree.File("viewed", "viewed"))
		require.NoError(k.t, ref.Finalize(k.t.Context()))
		k.s.add(&record{name: name, id: ref.ID(), tree: treeOf(k.t, stockImmutable(ref))})
		return k.s.records[name] // neither the ref nor its view is released
	}},
	{name: "half deleted", gone: "INIT-2", lost: "deleted at start", make: func(k *kit, name string) *record {
		r := k.finalized(name, k.layer(name, k.refs["base"], nil, tree.File("deleted", "deleted")))
		k.edit(r.id, "cache.deleted", true)
		return r
	}},

	// Layer blobs.
	{name: "blob", make: func(k *kit, name string) *record { return k.recipe(name, k.blob(name, nil, true)) }},
	{name: "blob on blob", make: func(k *kit, name string) *record {
		return k.recipe(name, k.blob(name, k.refs["blob"], true))
	}},
	{name: "extracted blob", mounts: true, make: func(k *kit, name string) *record {
		return k.extracted(name, k.blob(name, nil, true))
	}},
	{name: "extracted blob on blob", mounts: true, make: func(k *kit, name string) *record {
		return k.extracted(name, k.blob(name, k.refs["extracted blob"], true))
	}},
	{name: "layer on extracted blob", mounts: true, make: func(k *kit, name string) *record {
		return k.finalized(name, k.layer(name, k.refs["extracted blob on blob"], nil, tree.File("built", "built")))
	}},
	{name: "lazy", lost: "Q75", make: func(k *kit, name string) *record { return k.lazy(name, nil) }},
	{name: "lazy on lazy", lost: "Q75, unknown at once", make: func(k *kit, name string) *record {
		return k.lazy(name, k.refs["lazy"])
	}},
	{name: "lazy on blob", lost: "Q75", make: func(k *kit, name string) *record { return k.lazy(name, k.refs["blob"]) }},

	// Merges and diffs.
	{name: "merge", make: func(k *kit, name string) *record { return k.recipe(name, k.merge(name)) }},
	{name: "diff", make: func(k *kit, name string) *record { return k.recipe(name, k.diff(name)) }},
	{name: "extracted merge", mounts: true, make: func(k *kit, name string) *record { return k.extracted(name, k.merge(name)) }},
	{name: "extracted diff", mounts: true, make: func(k *kit, name string) *record { return k.extracted(name, k.diff(name)) }},
	{name: "layer on merge", mounts: true, make: func(k *kit, name string) *record {
		return k.finalized(name, k.layer(name, k.refs["extracted merge"], nil, tree.File("built", "built")))
	}},

	// Old databases.
	{name: "merge without committed flag", make: func(k *kit, name string) *record {
		return k.without("snapshot.committed", k.recipe(name, k.merge(name)))
	}},
	{name: "diff without committed flag", make: func(k *kit, name string) *record {
		return k.without("snapshot.committed", k.recipe(name, k.diff(name)))
	}},
	{name: "extracted merge without committed flag", mounts: true, make: func(k *kit, name string) *record {
		return k.without("snapshot.committed", k.extracted(name, k.merge(name)))
	}},
	{name: "layer without snapshot ID", make: func(k *kit, name string) *record {
		return k.without("cache.snapshot", k.finalized(name, k.layer(name, nil, nil, tree.File("old", "old"))))
	}},
	{name: "blob without layer identity", mounts: true, make: func(k *kit, name string) *record {
		return k.without("cache.layerIdentity", k.extracted(name, k.blob(name, nil, true)))
	}},
	{name: "legacy layer", mounts: true, make: (*kit).legacy},
}

// baseTree has what real trees have.
func baseTree() []tree.Entry {
	at := time.Unix(1_500_000_000, 123_456_789)
	return []tree.Entry{
		tree.Dir("etc", tree.Time(at)),
		tree.File("etc/passwd", "root:x:0:0", tree.Mode(0o600), tree.Time(at)),
		tree.File("etc/gone", "deleted by the child"),
		tree.Symlink("etc/alias", "passwd"),
		tree.Hardlink("etc/same", "etc/passwd"),
		tree.File("opt/old/file", "hidden by the child"),
		tree.File("bin/tool", "#!/bin/sh", tree.Mode(0o755|os.ModeSetgid)),
		tree.File("empty", ""),
		tree.Dir("tmp", tree.Mode(0o777|os.ModeSticky)),
		tree.Fifo("run/fifo"),
	}
}

// kit makes items with BuildKit.
type kit struct {
	t    *testing.T
	m    *stock
	s    *state
	refs map[string]cache.ImmutableRef
	// edits are made when everything else is.
	edits []func()
}

// makeStock fills a directory with the items that this process is able to make, and ends like a process
// that was killed.
func makeStock(t *testing.T, dir, snapshotter string, privileged bool) *state {
	t.Helper()
	k := &kit{
		t: t, m: openStock(t, dir, snapshotter), refs: map[string]cache.ImmutableRef{},
		s: &state{dir: dir, snapshotter: snapshotter, records: map[string]*record{}},
	}
	for _, it := range items {
		if it.mounts && !privileged {
			continue
		}
		r := it.make(k, it.name)
		r.gone, r.lost = it.gone, it.lost
	}
	k.annotate()
	for name, ref := range k.refs {
		require.NoError(t, ref.Release(t.Context()), name)
	}
	for _, edit := range k.edits {
		edit()
	}
	_, err := k.m.leases.Create(t.Context(), leases.WithRandomID(), leaseutil.MakeTemporary) // of work under way
	require.NoError(t, err)
	require.NoError(t, k.m.close())
	k.s.rows = readRows(t, dir)
	return k.s
}

func (k *kit) add(r *record) *record { return k.s.add(r) }

func (k *kit) mutable(name string, parent cache.ImmutableRef, opts ...cache.RefOption) cache.MutableRef {
	mut, err := k.m.New(k.t.Context(), parent, nil, append(opts, cache.WithDescription(name))...)
	require.NoError(k.t, err)
	return mut
}

func (k *kit) fill(mut cache.MutableRef, change func(dir string), entries ...tree.Entry) {
	k.t.Helper()
	inTree(k.t, stockMutable(mut), false, func(dir string) error {
		if change != nil {
			change(dir)
		}
		return tree.Write(dir, entries...)
	})
}

// layer makes a committed record.
func (k *kit) layer(name string, parent cache.ImmutableRef, change func(dir string), entries ...tree.Entry) cache.ImmutableRef {
	mut := k.mutable(name, parent)
	k.fill(mut, change, entries...)
	imm, err := mut.Commit(k.t.Context())
	require.NoError(k.t, err)
	return imm
}

// finalized finalizes a layer and keeps the ref to build on.
func (k *kit) finalized(name string, ref cache.ImmutableRef) *record {
	mut, ok := ref.GetEqualMutable()
	require.True(k.t, ok)
	require.NoError(k.t, ref.Finalize(k.t.Context()))
	k.m.settle(k.t, mut.ID())
	k.refs[name] = ref
	return k.add(&record{name: name, id: ref.ID(), tree: treeOf(k.t, stockImmutable(ref))})
}

// pair leaves a retained record that was committed and not finalized.
func (k *kit) pair(name string, parent cache.ImmutableRef, both bool) *record {
	mut := k.mutable(name, parent, cache.CachePolicyRetain)
	k.fill(mut, nil, tree.File("pair", name))
	imm, err := mut.Commit(k.t.Context())
	require.NoError(k.t, err)
	if both {
		require.NoError(k.t, imm.SetCachePolicyRetain())
	}
	k.add(&record{name: name + ", mutable half", id: mut.ID(), isMutable: true})
	r := k.add(&record{name: name, id: imm.ID(), mutable: mut.ID(), tree: treeOf(k.t, stockImmutable(imm))})
	require.NoError(k.t, imm.Release(k.t.Context()))
	return r
}

// halfFinalized leaves what a process does that dies between committing the snapshot and writing it down.
func (k *kit) halfFinalized(name string) *record {
	r := k.pair(name, k.refs["base"], true)
	k.s.records[name+", mutable half"].gone = "INIT-5"
	k.s.records[name+", mutable half"].lost = "its snapshot is the other half's"
	r.cleared = []string{"cache.equalMutable"}
	require.NoError(k.t, k.m.leaseSnapshot(k.t.Context(), r.id, r.id))
	k.edits = append(k.edits, func() { require.NoError(k.t, k.m.snapshotter.Commit(k.t.Context(), r.id, r.mutable)) })
	return r
}

func (k *kit) cacheMount(name string, parent cache.ImmutableRef) *record {
	mut := k.mutable(name, parent, cache.CachePolicyRetain, cache.WithRecordType(client.UsageRecordTypeCacheMount))
	k.fill(mut, nil, tree.File("cached", name))
	require.NoError(k.t, mut.SetString("cache-dir", "cache-dir:"+name, "cache-dir:"+name))
	r := k.add(&record{name: name, id: mut.ID(), isMutable: true, tree: treeOf(k.t, stockMutable(mut))})
	require.NoError(k.t, mut.Release(k.t.Context()))
	return r
}

// blob makes a record of a layer blob, which is local or has to be fetched.
func (k *kit) blob(name string, parent cache.ImmutableRef, isLocal bool) cache.ImmutableRef {
	ctx, done, err := leaseutil.WithLease(k.t.Context(), k.m.leases, leaseutil.MakeTemporary)
	require.NoError(k.t, err)
	defer func() { require.NoError(k.t, done(ctx)) }()
	layer, err := tree.Tar(tree.Dir("blobs"), tree.File("blobs/"+name, name, tree.Mode(0o640)), tree.Symlink("link", "blobs/"+name))
	require.NoError(k.t, err)
	desc := ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(layer), Size: int64(len(layer)),
		URLs: []string{"https://z.example/l", "https://a.example/l"},
	}
	desc.Annotations = map[string]string{labels.LabelUncompressed: desc.Digest.String()}
	handlers := cache.DescHandlers{desc.Digest: &cache.DescHandler{}}
	if isLocal {
		require.NoError(k.t, content.WriteBlob(ctx, k.m.blobs, name, bytes.NewReader(layer), desc))
		handlers = nil
	}
	// The parent's own blobs have to be had, too.
	for _, r := range k.s.records {
		for _, d := range r.lazy {
			if handlers != nil {
				handlers[d] = &cache.DescHandler{}
			}
		}
	}
	ref, err := k.m.GetByBlob(ctx, desc, parent, handlers, cache.WithDescription(name), cache.WithImageRef("example.com/"+"blob:latest"))
	require.NoError(k.t, err)
	return ref
}

// lazy makes a record of a blob that is not local.
func (k *kit) lazy(name string, parent cache.ImmutableRef) *record {
	ref := k.blob(name, parent, false)
	r := k.recipe(name, ref)
	r.lazy = []digest.Digest{digest.Digest(ref.GetString("cache.blob"))}
	for _, below := range k.s.records {
		if parent != nil && below.id == parent.ID() {
			r.lazy = append(r.lazy, below.lazy...)
		}
	}
	return r
}

func (k *kit) recipe(name string, ref cache.ImmutableRef) *record {
	k.refs[name] = ref
	return k.add(&record{name: name, id: ref.ID(), recipe: true})
}

func (k *kit) extracted(name string, ref cache.ImmutableRef) *record {
	require.NoError(k.t, ref.Extract(k.t.Context(), nil))
	k.refs[name] = ref
	return k.add(&record{name: name, id: ref.ID(), tree: treeOf(k.t, stockImmutable(ref))})
}

func (k *kit) merge(name string) cache.ImmutableRef {
	ref, err := k.m.Merge(k.t.Context(), []cache.ImmutableRef{k.refs["child"], k.refs["other"], k.refs["child"]}, nil, cache.WithDescription(name))
	require.NoError(k.t, err)
	return ref
}

func (k *kit) diff(name string) cache.ImmutableRef {
	ref, err := k.m.Diff(k.t.Context(), k.refs["child"], k.refs["other"], nil, cache.WithDescription(name))
	require.NoError(k.t, err)
	return ref
}

// legacy makes a record as before v0.33, whose snapshot is named by the chain ID itself.
func (k *kit) legacy(name string) *record {
	ref := k.blob(name, nil, true)
	chain := ref.GetString("cache.chainID")
	require.NotEmpty(k.t, chain)
	require.NoError(k.t, ref.SetString("cache.snapshot", chain, ""))
	require.NoError(k.t, k.m.leases.AddResource(k.t.Context(), leases.Lease{ID: ref.ID()},
		leases.Resource{ID: chain, Type: "snapshots/" + k.s.snapshotter}))
	r := k.extracted(name, ref)
	_, err := k.m.snapshotter.Stat(k.t.Context(), chain)
	require.NoError(k.t, err)
	return r
}

// edit changes a row at the very end; a nil value removes the key.
func (k *kit) edit(id, key string, value any) {
	k.edits = append(k.edits, func() {
		it, ok := k.m.rows.Get(id)
		require.True(k.t, ok)
		var v *metadata.Value
		if value != nil {
			var err error
			v, err = metadata.NewValue(value)
			require.NoError(k.t, err)
		}
		require.NoError(k.t, it.Update(func(b *bolt.Bucket) error {
			if v == nil {
				return b.Delete([]byte(key))
			}
			return it.SetValue(b, key, v)
		}))
	})
}

func (k *kit) without(key string, r *record) *record {
	k.edit(r.id, key, nil)
	return r
}

// annotate stores what BuildKit's sources and its content hash keep on records.
func (k *kit) annotate() {
	base, blob := k.refs["base"], k.refs["blob"]
	for _, err := range []error{
		base.SetString("git-remote", "https://example.com/r.git", "git-remote::https://example.com/r.git"),
		base.SetString("git-snapshot", "k", "git-snapshot::https://example.com/r.git#main"),
		base.SetString("local.sharedKey", "dir:a", "local.sharedKey:dir:a"),
		base.SetExternal("buildkit.contenthash.v0", []byte{0, 1, 0xff}),
		blob.SetString("http.checksum", "v", digest.FromString("url").String()),
		blob.SetString("etag", `W/"1"`, ""),
		k.refs["lazy"].SetExternal("filelist", []byte(`["a"]`)),
	} {
		require.NoError(k.t, err)
	}
}
