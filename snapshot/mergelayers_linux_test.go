package snapshot

import (
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/treediff"
)

// TestWhereATreeLies: a bind mount is its source and an overlay its directories, both without being mounted (spec OVL-1, APP-1); what else a snapshot may
// be is mounted.
func TestWhereATreeLies(t *testing.T) {
	dir := t.TempDir()
	bind := []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "ro"}}}
	plain, overlay := &mergeSnapshotter{}, &mergeSnapshotter{overlay: true, userXattr: true}

	l, unmount, err := plain.layers(bind)
	require.NoError(t, err)
	require.Nil(t, unmount)
	require.Equal(t, treediff.Layers{Dirs: []string{dir}}, l)
	l, _, err = overlay.layers(bind)
	require.NoError(t, err)
	require.Equal(t, treediff.Layers{Dirs: []string{dir}, Marks: treediff.User}, l)
	l, unmount, err = plain.layers([]mount.Mount{{Type: "overlay", Options: []string{"lowerdir=/b:/a"}}})
	require.NoError(t, err)
	require.Nil(t, unmount)
	require.Equal(t, treediff.Layers{Dirs: []string{"/b", "/a"}, Marks: treediff.Trusted}, l)
	_, _, err = plain.layers([]mount.Mount{{Type: "no such filesystem", Source: dir}})
	require.Error(t, err)

	target, _, err := plain.target(bind)
	require.NoError(t, err)
	require.Equal(t, dir, target.Dir)
	require.False(t, target.Overlay)
	target, _, err = plain.target([]mount.Mount{{Type: "overlay", Options: []string{"volatile", "workdir=/w", "upperdir=/c", "lowerdir=/b:/a"}}})
	require.NoError(t, err, "options that have no bearing on what is written are anybody's")
	require.Equal(t, "/c", target.Dir)
	require.True(t, target.Overlay)
	require.Equal(t, []string{"/b", "/a"}, target.Base.Dirs)
	for _, options := range [][]string{{"lowerdir=/b:/a"}, {"upperdir=/c"}} {
		_, _, err = plain.target([]mount.Mount{{Type: "overlay", Options: options}})
		require.ErrorContains(t, err, "no upper or no lower")
	}
}
