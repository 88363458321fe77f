package e2e

import (
	"archive/tar"
	"encoding/json"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// TestExportImage exports one image in all compressions, as OCI and as Docker tar: whole, and the same on both sides.
// spec RMT-1, RMT-3
func TestExportImage(t *testing.T) {
	both(t, func(t *testing.T, h *host) map[string]digest.Digest {
		got := map[string]digest.Digest{}
		for _, kind := range []string{
			"type=oci", "type=oci,compression=uncompressed", "type=oci,compression=gzip,compression-level=1,force-compression=true",
			"type=oci,compression=zstd", "type=oci,compression=zstd,force-compression=true", "type=oci,compression=estargz,force-compression=true",
			"type=docker,oci-mediatypes=false",
		} {
			file := filepath.Join(h.cfg.Dir, "image.tar")
			r := h.build(Build{Dockerfile: plain, Context: contextDir(t, toolFiles()), Output: kind + ",dest=" + file}.Reproducible())
			requireImage(t, file, r.Digest)
			got[kind] = r.Digest
		}
		require.Len(t, slices.Compact(slices.Sorted(maps.Values(got))), len(got), "no two are the same: %v", got)
		return got
	})
}

// requireImage reads an image's tar: what it refers to is there, and is what it is called.
func requireImage(t *testing.T, file string, image digest.Digest) {
	t.Helper()
	blobs := map[digest.Digest][]byte{}
	f, err := os.Open(file)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		hex, isBlob := strings.CutPrefix(h.Name, "blobs/sha256/")
		if !isBlob || hex == "" {
			continue
		}
		dt, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, hex, digest.FromBytes(dt).Encoded())
		blobs[digest.FromBytes(dt)] = dt
	}
	var manifest ocispecs.Manifest
	require.NoError(t, json.Unmarshal(blobs[image], &manifest))
	require.NotEmpty(t, manifest.Layers)
	for _, d := range append(manifest.Layers, manifest.Config) {
		require.Len(t, blobs[d.Digest], int(d.Size))
	}
}

// TestExportFiles exports files and no image.
func TestExportFiles(t *testing.T) {
	both(t, func(t *testing.T, h *host) tree.Tree {
		dest := t.TempDir()
		b := Build{Dockerfile: tool, Context: contextDir(t, toolFiles())}
		b.Output = "type=local,dest=" + dest
		h.build(b)
		got, err := tree.Read(dest)
		require.NoError(t, err)
		require.Equal(t, "d", got["work/linked/c/d.txt"].Data)
		require.Equal(t, "a.txt", got["b.txt"].Target)
		file := filepath.Join(t.TempDir(), "files.tar")
		b.Output = "type=tar,dest=" + file
		h.build(b)
		names := namesIn(t, file)
		for name := range got {
			if name != "." {
				require.Contains(t, names, name)
			}
		}
		return stripped(got)
	})
}

// stripped leaves out what depends on when a build was.
func stripped(t tree.Tree) tree.Tree {
	for name, e := range t {
		e.ModTime = Epoch
		t[name] = e
	}
	return t
}

// namesIn returns the names of what is in a tar.
func namesIn(t *testing.T, file string) (names []string) {
	t.Helper()
	f, err := os.Open(file)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		require.NoError(t, err)
		names = append(names, strings.TrimSuffix(h.Name, "/"))
	}
}
