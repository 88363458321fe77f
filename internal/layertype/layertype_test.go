package layertype

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestDistributable: each form leads to the other of the same compression, and back; other types stay (spec DESC-2).
func TestDistributable(t *testing.T) {
	for open, closed := range restricted {
		require.Equal(t, closed, NonDistributable(open))
		require.Equal(t, closed, NonDistributable(closed))
		require.Equal(t, open, Distributable(closed))
		require.Equal(t, open, Distributable(open))
		require.Equal(t, CompressionOf(open), CompressionOf(closed))
		require.NotEqual(t, Unknown, CompressionOf(open))
	}
	require.Len(t, free, len(restricted))
	for _, other := range []string{"", "application/json", "application/vnd.docker.image.rootfs.diff.tar.zstd"} {
		require.Equal(t, other, NonDistributable(other))
		require.Equal(t, other, Distributable(other))
	}
}
