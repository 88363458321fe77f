package main

import (
	"context"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil/tree"
)

// mediaTypes are those of the compressions.
var mediaTypes = map[string]string{
	"uncompressed": ocispecs.MediaTypeImageLayer, "gzip": ocispecs.MediaTypeImageLayerGzip,
	"estargz": ocispecs.MediaTypeImageLayerGzip, "zstd": ocispecs.MediaTypeImageLayerZstd,
}

// An exported record is an image that standard decoders read, whose diff IDs are those of what they read, and which
// amounts to the record's tree in another cache. A second export is the same, byte for byte.
func TestLayout(t *testing.T) { // spec RMT-1, RMT-6, DESC-1, DESC-4, COMP-4
	b := build(t)
	for _, kind := range compressions {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "layout")
			r := mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", kind, "-force", "-platform", "linux/amd64", "-o", dir)
			w := readLayout(t, dir)
			require.Equal(t, "latest", w.index.Manifests[0].Annotations[ocispecs.AnnotationRefName])
			require.Len(t, w.manifest.Layers, 3)
			for i, desc := range w.manifest.Layers {
				blob, err := os.ReadFile(blobPath(dir, desc.Digest))
				require.NoError(t, err)
				require.Equal(t, mediaTypes[kind], desc.MediaType)
				require.Len(t, blob, int(desc.Size))
				require.Equal(t, desc.Digest, digest.FromBytes(blob))
				require.Equal(t, w.config.RootFS.DiffIDs[i], digest.FromBytes(unpacked(t, desc.MediaType, blob)))
				require.Equal(t, kind == "estargz", desc.Annotations[annotationTOC] != "")
				for name := range desc.Annotations {
					require.False(t, strings.HasPrefix(name, "buildkit/") || name == "containerd.io/uncompressed", name)
				}
				require.Contains(t, r.stdout, desc.Digest.String())
			}
			require.Len(t, files(t, dir), 3+2+2, "three layers, config, manifest, index, header")
			require.Equal(t, "linux/amd64", platforms.Format(w.config.Platform))
			require.NotNil(t, w.config.Created)
			require.Len(t, w.config.History, 3)
			b.requireTree(t, w.manifest, w.config, w)

			again := filepath.Join(t.TempDir(), "layout")
			mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", kind, "-force", "-platform", "linux/amd64", "-o", again)
			require.Equal(t, files(t, dir), files(t, again))
		})
	}
}

// Without -force a layer is exported in the form that it has.
func TestNotForced(t *testing.T) { // spec RMT-6
	b := build(t)
	dir := t.TempDir()
	mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", "zstd", "-o", filepath.Join(dir, "1"))
	mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", "gzip", "-o", filepath.Join(dir, "2"))
	mustExport(t, "-dir", b.dir, "-record", b.top, "-o", filepath.Join(dir, "3"))
	require.Equal(t, files(t, filepath.Join(dir, "1")), files(t, filepath.Join(dir, "2")))
	require.Equal(t, files(t, filepath.Join(dir, "1")), files(t, filepath.Join(dir, "3")))
	require.Equal(t, ocispecs.MediaTypeImageLayerZstd, readLayout(t, filepath.Join(dir, "3")).manifest.Layers[0].MediaType)
}

// containerd's own importer takes the layout, and finds all of the image.
func TestContainerdImports(t *testing.T) { // spec RMT-1
	b := build(t)
	for _, kind := range compressions {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "layout")
			mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", kind, "-force", "-platform", "linux/arm64", "-tag", "v1", "-o", dir)
			store, err := contentlocal.NewLabeledStore(t.TempDir(), &labelStore{all: map[digest.Digest]map[string]string{}})
			require.NoError(t, err)
			root, err := archive.ImportIndex(t.Context(), store, tarOf(t, dir))
			require.NoError(t, err)
			only := platforms.OnlyStrict(platforms.MustParse("linux/arm64"))
			complete, required, _, missing, err := images.Check(t.Context(), store, root, only)
			require.NoError(t, err)
			require.True(t, complete)
			require.Empty(t, missing)
			require.Len(t, required, 4)
			manifest, err := images.Manifest(t.Context(), store, root, only)
			require.NoError(t, err)
			diffIDs, err := images.RootFS(t.Context(), store, manifest.Config)
			require.NoError(t, err)
			want, err := codec.Parse(kind)
			require.NoError(t, err)
			for i, desc := range manifest.Layers {
				other, err := want.NeedsConversion(t.Context(), store, desc)
				require.NoError(t, err)
				require.False(t, other, "%s is not %s", desc.Digest, kind)
				got, err := images.GetDiffID(t.Context(), store, desc)
				require.NoError(t, err)
				require.Equal(t, diffIDs[i], got)
			}
			platform, err := images.ConfigPlatform(t.Context(), store, manifest.Config)
			require.NoError(t, err)
			require.Equal(t, "linux/arm64", platforms.Format(platform))
			_, err = images.Manifest(t.Context(), store, root, platforms.OnlyStrict(platforms.MustParse("linux/s390x")))
			require.Error(t, err)
			text, err := content.ReadBlob(t.Context(), store, root)
			require.NoError(t, err)
			require.Contains(t, string(text), `"v1"`)
		})
	}
}

// labelStore keeps the labels of blobs in memory, for a content store without a database.
type labelStore struct {
	mu  sync.Mutex
	all map[digest.Digest]map[string]string
}

func (l *labelStore) Get(d digest.Digest) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.all[d]), nil
}

func (l *labelStore) Set(d digest.Digest, labels map[string]string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all[d] = maps.Clone(labels)
	return nil
}

func (l *labelStore) Update(d digest.Digest, labels map[string]string) (map[string]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all[d] == nil {
		l.all[d] = map[string]string{}
	}
	maps.Copy(l.all[d], labels)
	return maps.Clone(l.all[d]), nil
}

// tarOf is the archive of a directory, in the form in which image layouts are sent.
func tarOf(t testing.TB, dir string) io.Reader {
	t.Helper()
	var entries []tree.Entry
	for path, data := range files(t, dir) {
		entries = append(entries, tree.File(strings.TrimPrefix(filepath.ToSlash(path), "/"), data))
	}
	text, err := tree.Tar(entries...)
	require.NoError(t, err)
	return strings.NewReader(string(text))
}

// tool runs another program on a layout, and skips the test where it is not installed.
func tool(ctx context.Context, t testing.TB, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("needs %s: %v", name, err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "HOME="+t.TempDir())
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %s\n%s", name, strings.Join(args, " "), out)
	return string(out)
}

// skopeo reads the image, and what it decodes has the digests that the config says.
func TestSkopeoReads(t *testing.T) { // spec RMT-1, COMP-1
	b := build(t)
	for _, kind := range compressions {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "layout")
			mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", kind, "-force", "-platform", "linux/amd64", "-o", dir)
			w := readLayout(t, dir)
			inspected := tool(t.Context(), t, "skopeo", "--override-os", "linux", "--override-arch", "amd64", "inspect", "oci:"+dir+":latest")
			for _, desc := range w.manifest.Layers {
				require.Contains(t, inspected, desc.Digest.String())
			}
			copied := filepath.Join(t.TempDir(), "copy")
			tool(t.Context(), t, "skopeo", "--insecure-policy", "--override-os", "linux", "--override-arch", "amd64",
				"copy", "--dest-decompress", "oci:"+dir+":latest", "dir:"+copied)
			for _, diffID := range w.config.RootFS.DiffIDs {
				data, err := os.ReadFile(filepath.Join(copied, diffID.Encoded()))
				require.NoError(t, err, "the decoded layer is stored by its digest")
				require.Equal(t, diffID, digest.FromBytes(data))
			}
		})
	}
}

// umoci unpacks the image to the record's tree. Versions before 0.5 know gzip alone, which is how they take estargz as well.
func TestUmociUnpacks(t *testing.T) { // spec RMT-1, COMP-5
	b := build(t)
	for _, kind := range []string{"uncompressed", "gzip", "estargz"} {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "layout")
			mustExport(t, "-dir", b.dir, "-record", b.top, "-compression", kind, "-force", "-tag", "v1", "-o", dir)
			bundle := filepath.Join(t.TempDir(), "bundle")
			args := []string{"unpack", "--image", dir + ":v1", bundle}
			if os.Geteuid() != 0 {
				args = append(args[:1:1], append([]string{"--rootless"}, args[1:]...)...)
			}
			tool(t.Context(), t, "umoci", args...)
			got, err := tree.Read(filepath.Join(bundle, "rootfs"))
			require.NoError(t, err)
			for _, e := range got {
				delete(e.Xattrs, "user.rootlesscontainers") // what umoci notes of owners, if it may not set them
			}
			delete(got, "stargz.index.json") // for who reads on behind the end of an archive
			b.require(t, got)
		})
	}
}
