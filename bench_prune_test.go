package cache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/local"
	"github.com/layercache/cache/usage"
)

// BenchmarkPrune is row 11 with fewer records: an op deletes 64, whose making is not counted, and collects the garbage, whose
// transactions are not counted either. The sizes that it reports have to be measured.
func BenchmarkPrune(b *testing.B) {
	const records = 64
	c := openBench(b, local.Native)
	c.reset(b)
	for b.Loop() {
		c.uncounted(b, func() {
			for range records {
				_, err := c.newLayer(b.Context())
				require.NoError(b, err)
			}
		})
		if err := c.Prune(b.Context(), nil, usage.PruneInfo{All: true}); err != nil {
			b.Fatal(err)
		}
		require.Zero(b, c.Stats().Records)
	}
	c.report(b)
}
