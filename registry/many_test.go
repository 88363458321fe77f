package registry

import (
	"fmt"
	"os"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Images from many seeds through one cache, each compared with the oracle: LAYERCACHE_IMAGES of them, 6 unless said otherwise. The seeds
// begin at LAYERCACHE_IMAGES_FROM, so that one that failed can be looked at alone. Spec EXT-6, EXT-7, MGR-26.
func TestManyImages(t *testing.T) {
	from, images := number(t, "LAYERCACHE_IMAGES_FROM", 2000), number(t, "LAYERCACHE_IMAGES", 6)
	formats := []format{gzipped, zstded, plain}
	onEach(t, func(t *testing.T, r *rig) {
		for seed := from; seed < from+images; seed++ {
			img := newImage(t, seed, plain, int(2+seed%9)).mix(t, formats[seed%3:]...)
			remote := r.publishAs(t, fmt.Sprintf("%s/%d", repoName(t), seed), img)
			ref := r.get(remote)
			require.NoError(t, ref.Extract(t.Context(), nil), "seed %d", seed)
			require.NoError(t, r.compare(img.tree, ref), "seed %d", seed)
			requireFetched(t, r.front, img.layers)
			r.release(ref)
			require.NoError(t, pruneAll(t.Context(), r.Manager))
		}
		r.requireTidy()
		r.requireEmpty()
	})
}

func number(t *testing.T, name string, otherwise uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(text, 10, 32)
	require.NoError(t, err, name)
	return n
}
