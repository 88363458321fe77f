package apply_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestLayersOnPlainDirectory: what each layer makes of the tree below, where that is a plain directory, as on native (spec EXT-6, EXT-7; design 6b).
func TestLayersOnPlainDirectory(t *testing.T) {
	for _, c := range layerCases {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			testutil.WriteTree(t, dir, c.base...)
			applyBind(t, dir, pack(t, c.layer...))
			testutil.RequireTree(t, dir, c.want...)
		})
	}
}

// applyBind unpacks an archive in a directory.
func applyBind(t *testing.T, dir string, archive []byte) {
	t.Helper()
	store := &blobs{}
	desc := store.put(gz(t, archive), layerType+"+gzip")
	got, err := apply.New(store).Apply(t.Context(), desc, bind(dir))
	require.NoError(t, err)
	requireDiffID(t, archive, got)
	require.Zero(t, store.open)
}
