package local

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// There is nothing to collect in a new directory, which is no error.
func TestCollectNothing(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		_, err := p.GarbageCollect(t.Context())
		require.NoError(t, err)
	})
}

// What one collection has on its list, and another one has removed meanwhile, does not end the first.
func TestCollectWhatIsGone(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		_, err := p.guard.Prepare(t.Context(), "buildkit/99/orphan", "")
		require.NoError(t, err)
		require.NoError(t, p.guard.Remove(t.Context(), "buildkit/99/orphan"))
		require.NoError(t, p.guard.Remove(t.Context(), "buildkit/99/orphan"))
		require.Empty(t, names(t, p.guard))
	})
}
