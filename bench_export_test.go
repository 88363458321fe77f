package cache_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil/need"
)

// BenchmarkExportLayer is row 16: an op makes the blob of a layer of 5000 files of 4 KiB, whose making is not counted.
func BenchmarkExportLayer(b *testing.B) {
	for _, snapshotter := range []string{local.Overlayfs, local.Native} {
		for _, kind := range []string{"uncompressed", "gzip", "zstd"} {
			b.Run("snapshotter="+snapshotter+"/compression="+kind, func(b *testing.B) {
				if snapshotter == local.Overlayfs {
					need.Overlay(b)
				}
				need.Mount(b)
				how, err := codec.Parse(kind)
				require.NoError(b, err)
				cfg := remote.RefConfig{Compression: compression.Config{Type: how}}
				const dirs, files, size = 50, 100, 4 << 10
				c := openBench(b, snapshotter)
				b.SetBytes(dirs * files * size)
				c.reset(b)
				for n := uint64(0); b.Loop(); n++ {
					var layer cache.ImmutableRef
					c.uncounted(b, func() { layer = c.texts(b, n, dirs, files, size) })
					_, err := layer.GetRemotes(b.Context(), true, cfg, false, nil)
					if err != nil {
						b.Fatal(err)
					}
					c.uncounted(b, func() { require.NoError(b, layer.Release(b.Context())) })
				}
				c.report(b)
			})
		}
	}
}

// texts makes a layer of files of random words, which gzip and zstd make a third of. They differ with seed.
func (c *benchCache) texts(b *testing.B, seed uint64, dirs, files, size int) cache.ImmutableRef {
	b.Helper()
	rnd := rand.New(rand.NewPCG(seed, 16))
	words := make([]string, 1000)
	for i := range words {
		word := make([]byte, 3+rnd.IntN(8))
		for j := range word {
			word[j] = byte('a' + rnd.IntN(26))
		}
		words[i] = string(word) + " "
	}
	mut, err := c.New(b.Context(), nil, nil)
	require.NoError(b, err)
	mountable, err := mut.Mount(b.Context(), false, nil)
	require.NoError(b, err)
	mounts, unmount, err := mountable.Mount()
	require.NoError(b, err)
	require.NoError(b, mount.WithTempMount(b.Context(), mounts, func(root string) error {
		text := make([]byte, 0, size+16)
		for d := range dirs {
			dir := filepath.Join(root, fmt.Sprintf("dir%02d", d))
			require.NoError(b, os.Mkdir(dir, 0o755))
			for f := range files {
				for text = text[:0]; len(text) < size; {
					text = append(text, words[rnd.IntN(len(words))]...)
				}
				require.NoError(b, os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%03d", f)), text[:size], 0o644))
			}
		}
		return nil
	}))
	require.NoError(b, unmount())
	layer, err := mut.Commit(b.Context())
	require.NoError(b, err)
	require.NoError(b, layer.Finalize(b.Context()))
	return layer
}
