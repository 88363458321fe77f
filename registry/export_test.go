package registry

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/tree"
)

// TestRoundTrip builds random layers, pushes them to the registry in each compression, pulls them from there into another cache and extracts
// them: it is the same tree, and the diff IDs are those of what standard decoders make of the blobs. The other cache exports them as they are.
// spec RMT-1, RMT-6, DESC-1, DESC-4, COMP-4, COMP-5, BLOB-7, DIF-6, DIF-7, fault 36
func TestRoundTrip(t *testing.T) {
	kinds := []compression.Type{codec.Uncompressed, codec.Gzip, codec.Zstd, codec.EStargz}
	onEach(t, func(t *testing.T, r *rig) {
		others := map[string]*rig{}
		for _, kind := range kinds {
			others[kind.String()] = newRig(t, r.overlay)
		}
		features := history.Probe(t, t.TempDir())
		history.Configure(t, 4)
		n, layers := 0, 0
		rapid.Check(t, func(rt *rapid.T) {
			n++
			h := history.Generate(rt, features)
			top, want := r.build(h)
			if top == nil {
				return
			}
			defer r.release(top)
			var plain []string
			for _, kind := range kinds {
				rem := exported(t, top, kind)
				remote := r.publishRemote(t, fmt.Sprintf("%s/%s-%d", repoName(t), kind, n), rem)
				diffIDs := diffIDsOf(t, rem)
				layers += len(diffIDs)
				if kind == codec.Uncompressed {
					plain = diffIDs
				}
				require.Equal(t, kind != codec.EStargz, slices.Equal(plain, diffIDs), "the index of an estargz blob is part of what gzip makes of it, and of nothing else")

				other := others[kind.String()]
				ref := other.get(remote)
				require.NoError(t, ref.Extract(t.Context(), nil))
				require.Empty(t, differences(t, want, ref), "%s of %s", kind, h)
				again, err := ref.GetRemotes(t.Context(), false, remoteConfig(kind, false), false, nil)
				require.NoError(t, err)
				require.Equal(t, digestsOf(rem.Descriptors), digestsOf(again[0].Descriptors))
				other.release(ref)
			}
		})
		require.Positive(t, layers)
		t.Logf("%d blobs went out and came in", layers)
		r.requireTidy()
	})
}

func remoteConfig(kind compression.Type, force bool) remote.RefConfig {
	return remote.RefConfig{Compression: compression.Config{Type: kind, Force: force}}
}

func exported(t *testing.T, ref cache.ImmutableRef, kind compression.Type) *remote.Remote {
	t.Helper()
	list, err := ref.GetRemotes(t.Context(), true, remoteConfig(kind, true), false, nil)
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

// build makes the layers of a history one on top of the other, merges left out, and returns the topmost with the tree that its archives hold;
// nil if there are none. The format knows no sockets.
func (r *rig) build(h history.History) (top cache.ImmutableRef, want tree.Tree) {
	r.t.Helper()
	var lower tree.Tree
	for i, step := range h {
		if step.Diffs != nil {
			continue
		}
		step.Ops = slices.DeleteFunc(slices.Clone(step.Ops), func(op history.Op) bool { return op.Do == history.Socket })
		ref := testutil.MakeLayer(r.t, r.Env, top, func(dir string) { require.NoError(r.t, step.Apply(dir, i+1)) })
		if top != nil {
			r.release(top)
		}
		top = ref
		var upper tree.Tree
		testutil.WithMount(r.t, ref, true, func(dir string) { upper = testutil.ReadTree(r.t, dir) })
		want = packed(want, lower, upper)
		lower = upper
	}
	return top, want
}

// packed is what becomes of a layer's tree on top of what its parents' archives hold: a path is replaced if differs tell it from the one
// below, and of attributes only capabilities are kept.
func packed(below, lower, upper tree.Tree) tree.Tree {
	changed := map[string]bool{".": true}
	for _, c := range history.Changes(lower, upper) {
		changed[c.Entry.Path] = true
	}
	out := tree.Tree{}
	for path := range upper {
		from := below
		if changed[path] {
			from = upper
		}
		e, ok := from.Resolve(path)
		if !ok {
			continue
		}
		e.Xattrs = maps.Clone(e.Xattrs)
		maps.DeleteFunc(e.Xattrs, func(name, _ string) bool { return name != "security.capability" })
		e.ModTime = e.ModTime.Truncate(time.Second)
		out[path] = e
	}
	return out
}

// differences compares a ref's tree with one. Which names are of one file depends on where a snapshotter had them.
func differences(t *testing.T, want tree.Tree, ref cache.ImmutableRef) (diffs []string) {
	t.Helper()
	testutil.WithMount(t, ref, true, func(dir string) {
		diffs = tree.Diff(want, testutil.ReadTree(t, dir), tree.Root, tree.DirTimes, tree.Links)
	})
	return diffs
}

func digestsOf(descs []ocispecs.Descriptor) (all []string) {
	for _, desc := range descs {
		all = append(all, desc.MediaType+" "+desc.Digest.String())
	}
	return all
}

// diffIDsOf decodes the blobs with standard decoders, and makes sure that the descriptors say what comes of it.
func diffIDsOf(t *testing.T, rem *remote.Remote) (ids []string) {
	t.Helper()
	for _, desc := range rem.Descriptors {
		blob, err := content.ReadBlob(t.Context(), rem.Provider, desc)
		require.NoError(t, err)
		var r io.Reader = bytes.NewReader(blob)
		switch {
		case strings.HasSuffix(desc.MediaType, "gzip"):
			r, err = gzip.NewReader(r)
		case strings.HasSuffix(desc.MediaType, "zstd"):
			r, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1))
		}
		require.NoError(t, err)
		d, err := digest.FromReader(r)
		require.NoError(t, err)
		require.Equal(t, d.String(), desc.Annotations[uncompressedLabel])
		ids = append(ids, d.String())
	}
	return ids
}

// publishRemote pushes what GetRemotes returned, through containerd's pusher, and resolves it through the proxy.
func (f *front) publishRemote(t testing.TB, repo string, rem *remote.Remote) *remoteImage {
	t.Helper()
	ctx := context.Background()
	pusher, err := newResolver(t).Pusher(ctx, hubHost()+"/"+repo+":latest")
	require.NoError(t, err)
	config := ocispecs.Image{Platform: ocispecs.Platform{Architecture: "amd64", OS: "linux"}, RootFS: ocispecs.RootFS{Type: "layers"}}
	manifest := ocispecs.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispecs.MediaTypeImageManifest}
	for _, desc := range rem.Descriptors {
		pushFrom(ctx, t, pusher, desc, rem.Provider)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.Digest(desc.Annotations[uncompressedLabel]))
		desc.Annotations = nil
		manifest.Layers = append(manifest.Layers, desc)
	}
	manifest.Config = pushJSON(t, pusher, ocispecs.MediaTypeImageConfig, config)
	pushJSON(t, pusher, ocispecs.MediaTypeImageManifest, manifest)
	return f.resolve(t, repo)
}

func pushFrom(ctx context.Context, t testing.TB, pusher remotes.Pusher, desc ocispecs.Descriptor, from content.Provider) {
	t.Helper()
	data, err := content.ReadBlob(ctx, from, desc)
	require.NoError(t, err)
	pushBlob(t, pusher, desc, data)
}

// TestLazyPush exports an image of which nothing was fetched: descriptors and what is known of blobs cost nothing, the descriptors say where the
// blobs can be found, and each blob is fetched once, when it is read.
// spec RMT-3, RMT-5, DESC-3, PULL-1, quirk Q42
func TestLazyPush(t *testing.T) {
	onEach(t, func(t *testing.T, r *rig) {
		img := newImage(t, 3, plain, 3).mix(t, gzipped, zstded, plain)
		source := r.publish(t, img)
		ref := r.get(source)
		defer r.release(ref)
		list, err := ref.GetRemotes(t.Context(), false, remoteConfig(codec.Gzip, false), false, nil)
		require.NoError(t, err)
		require.Len(t, list, 1)
		rem := list[0]
		require.Equal(t, digestsOf(source.descs), digestsOf(rem.Descriptors))
		host, repo, _ := strings.Cut(strings.TrimSuffix(source.ref, ":latest"), "/")
		host, _, _ = strings.Cut(host, ":")
		for _, desc := range rem.Descriptors {
			require.Equal(t, repo, desc.Annotations["containerd.io/distribution.source."+host])
			info, err := rem.Provider.Info(t.Context(), desc.Digest)
			require.NoError(t, err)
			require.Equal(t, desc.Size, info.Size)
		}
		r.requireUntouched()

		copied := r.publishRemote(t, repoName(t)+"/copy", rem)
		for i, desc := range rem.Descriptors {
			require.True(t, r.local(desc.Digest))
			require.Equal(t, copied.descs[i].Annotations[uncompressedLabel], desc.Annotations[uncompressedLabel])
		}
		other := newRig(t, r.overlay)
		second := other.get(copied)
		require.NoError(t, second.Extract(t.Context(), nil))
		other.requireTree(img.tree, second)
		other.release(second)
		r.requireTidy()
	})
}

// TestUnlazy fetches all blobs of an export at once, each of them once.
// spec RMT-3, PULL-1
func TestUnlazy(t *testing.T) {
	r := newRig(t, false)
	source := r.publish(t, newImage(t, 4, gzipped, 3))
	ref := r.get(source)
	defer r.release(ref)
	list, err := ref.GetRemotes(t.Context(), false, remoteConfig(codec.Gzip, false), false, nil)
	require.NoError(t, err)
	unlazier, ok := list[0].Provider.(cache.Unlazier)
	require.True(t, ok)
	for range 2 {
		require.NoError(t, unlazier.Unlazy(t.Context()))
		for _, desc := range source.descs {
			require.True(t, r.local(desc.Digest))
			require.Equal(t, 1, r.gets(desc.Digest))
		}
	}
	require.Empty(t, r.Faults.Count("snapshots.Prepare"), "nothing is unpacked")
}
