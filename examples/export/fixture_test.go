package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/labels"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// compressions are all that -compression takes.
var compressions = []string{"uncompressed", "gzip", "zstd", "estargz"}

// result is how a run of the program ended.
type result struct {
	stdout, stderr string
	code           int
}

// export runs the program in this process.
func export(ctx context.Context, args ...string) result {
	var stdout, stderr bytes.Buffer
	code := program.Command(ctx, args, &stdout, &stderr, nil)
	return result{stdout.String(), stderr.String(), code}
}

func mustExport(t testing.TB, args ...string) result {
	t.Helper()
	r := export(t.Context(), args...)
	require.Zero(t, r.code, "%s%s", r.stdout, r.stderr)
	return r
}

// built is a cache directory with an image that a test made in it.
type built struct {
	dir string
	// top is the ID of the topmost of three records.
	top string
	// want is the image's tree.
	want tree.Tree
}

// build makes a cache with an image of three layers in which files are added, linked, changed and deleted.
func build(t testing.TB) *built {
	t.Helper()
	b := &built{dir: filepath.Join(t.TempDir(), "cache")}
	b.with(t, func(c *local.Cache) {
		var parent cache.ImmutableRef
		for _, change := range []func(dir string){
			func(dir string) {
				testutil.WriteTree(t, dir, tree.Dir("bin"), tree.File("bin/tool", "#!/bin/sh\n", tree.Mode(0o755)), tree.Hardlink("bin/alias", "bin/tool"),
					tree.Dir("etc"), tree.File("etc/passwd", "root\n"), tree.File("etc/shadow", "secret\n", tree.Mode(0o600)),
					tree.File("big", strings.Repeat("0123456789abcdef", 1<<15)))
			},
			func(dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "etc", "passwd"), []byte("root\nme\n"), 0o600))
				require.NoError(t, os.Symlink("tool", filepath.Join(dir, "bin", "sh")))
			},
			func(dir string) {
				require.NoError(t, os.Remove(filepath.Join(dir, "etc", "shadow")))
				require.NoError(t, os.Mkdir(filepath.Join(dir, "empty"), 0o700))
			},
		} {
			parent = b.layer(t, c, parent, change)
		}
		b.top = parent.ID()
		testutil.WithMount(t, parent, true, func(dir string) { b.want = testutil.ReadTree(t, dir) })
		require.NoError(t, parent.Release(t.Context()))
	})
	return b
}

// with opens the cache for fn.
func (b *built) with(t testing.TB, fn func(c *local.Cache)) {
	t.Helper()
	c, err := local.Open(t.Context(), b.dir, local.Options{SquashOwners: snapshot.MayMount() != nil})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	fn(c)
}

// layer makes a final record on a parent, whose ref it releases.
func (b *built) layer(t testing.TB, c *local.Cache, parent cache.ImmutableRef, change func(dir string)) cache.ImmutableRef {
	t.Helper()
	mut, err := c.New(t.Context(), parent, nil, cache.CachePolicyRetain, cache.WithDescription("made by a test"))
	require.NoError(t, err)
	testutil.WithMount(t, mut, false, func(dir string) {
		change(dir)
		stamp(t, dir)
	})
	ref, err := mut.Commit(t.Context())
	require.NoError(t, err)
	require.NoError(t, ref.Finalize(t.Context()))
	if parent != nil {
		require.NoError(t, parent.Release(t.Context()))
	}
	return ref
}

// stamp sets the times of what was changed just now to another time than that of any copy.
func stamp(t testing.TB, dir string) {
	t.Helper()
	past := time.Date(2001, 2, 3, 4, 5, 6, 0, time.UTC)
	recent := time.Now().Add(-24 * time.Hour)
	var changed []string
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && path != dir && d.Type() != fs.ModeSymlink && info.ModTime().After(recent) {
			changed = append(changed, path)
		}
		return err
	}))
	for _, path := range changed {
		require.NoError(t, os.Chtimes(path, past, past))
	}
}

// exported is an image read from a layout.
type exported struct {
	dir      string
	index    ocispecs.Index
	manifest ocispecs.Manifest
	config   ocispecs.Image
}

func blobPath(layout string, d digest.Digest) string {
	return filepath.Join(layout, "blobs", d.Algorithm().String(), d.Encoded())
}

// readLayout reads the only image of a layout, and nothing but encoding/json is trusted with it.
func readLayout(t testing.TB, dir string) *exported {
	t.Helper()
	w := &exported{dir: dir}
	read := func(path string, v any) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, v))
	}
	var header ocispecs.ImageLayout
	read(filepath.Join(dir, "oci-layout"), &header)
	require.Equal(t, "1.0.0", header.Version)
	read(filepath.Join(dir, "index.json"), &w.index)
	require.Len(t, w.index.Manifests, 1)
	read(blobPath(dir, w.index.Manifests[0].Digest), &w.manifest)
	read(blobPath(dir, w.manifest.Config.Digest), &w.config)
	require.Len(t, w.config.RootFS.DiffIDs, len(w.manifest.Layers))
	return w
}

// unpacked is what a standard decoder makes of a layer's blob.
func unpacked(t testing.TB, mediaType string, blob []byte) []byte {
	t.Helper()
	var r io.Reader = bytes.NewReader(blob)
	switch mediaType {
	case ocispecs.MediaTypeImageLayerGzip:
		z, err := gzip.NewReader(r)
		require.NoError(t, err)
		r = z
	case ocispecs.MediaTypeImageLayerZstd:
		z, err := zstd.NewReader(r)
		require.NoError(t, err)
		defer z.Close()
		r = z
	default:
		require.Equal(t, ocispecs.MediaTypeImageLayer, mediaType)
	}
	data, err := io.ReadAll(r)
	require.NoError(t, err)
	return data
}

// requireTree puts an image's layers into a new cache, reading its blobs from a provider, and looks whether they
// amount to the tree that they were made of.
func (b *built) requireTree(t testing.TB, manifest ocispecs.Manifest, config ocispecs.Image, from content.Provider) {
	t.Helper()
	c, err := local.Open(t.Context(), filepath.Join(t.TempDir(), "second"), local.Options{SquashOwners: snapshot.MayMount() != nil})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	handlers := cache.DescHandlers{}
	for _, desc := range manifest.Layers {
		handlers[desc.Digest] = &cache.DescHandler{Provider: func(session.Group) content.Provider { return from }}
	}
	var refs cache.RefList
	defer func() { require.NoError(t, refs.Release(context.Background())) }()
	var parent cache.ImmutableRef
	for i, desc := range manifest.Layers {
		desc.Annotations = map[string]string{labels.LabelUncompressed: config.RootFS.DiffIDs[i].String()}
		ref, err := c.GetByBlob(t.Context(), desc, parent, handlers)
		require.NoError(t, err)
		refs, parent = append(refs, ref), ref
	}
	require.NoError(t, parent.Extract(t.Context(), nil))
	testutil.WithMount(t, parent, true, func(dir string) { b.require(t, testutil.ReadTree(t, dir)) })
}

// require compares a tree with the image's. The root itself is in no layer, and times are in whole seconds there. Those of directories
// do not outlive the native snapshotter's copies.
func (b *built) require(t testing.TB, got tree.Tree) {
	t.Helper()
	want := maps.Clone(b.want)
	for _, tr := range []tree.Tree{want, got} {
		for path, e := range tr {
			e.ModTime = e.ModTime.Truncate(time.Second)
			tr[path] = e
		}
	}
	testutil.DiffTree(t, want, got, tree.Root, tree.DirTimes)
}

// ReaderAt implements content.Provider.
func (w *exported) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	data, err := os.ReadFile(blobPath(w.dir, desc.Digest))
	if err != nil {
		return nil, err
	}
	return memory(data).ReaderAt(ctx, desc)
}

// files are the files below a directory with what is in them.
func files(t testing.TB, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		all[strings.TrimPrefix(path, dir)] = string(data)
		return err
	}))
	return all
}
