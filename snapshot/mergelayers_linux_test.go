package snapshot

import (
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/treediff"
)

// TestOverlayLayers: the directories of an overlay, and which options say nothing about them (spec OVL-2).
func TestOverlayLayers(t *testing.T) {
	for name, test := range map[string]struct {
		options []string
		dirs    []string
		upper   bool
		unknown bool
		marks   treediff.Marks
	}{
		"view":       {options: []string{"lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, marks: treediff.Trusted},
		"active":     {options: []string{"index=off", "workdir=/w", "upperdir=/c", "lowerdir=/b:/a"}, dirs: []string{"/c", "/b", "/a"}, upper: true, marks: treediff.Trusted},
		"userxattr":  {options: []string{"userxattr", "redirect_dir=off", "lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, marks: treediff.User},
		"one string": {options: []string{"upperdir=/c,lowerdir=/b:/a,index=off"}, dirs: []string{"/c", "/b", "/a"}, upper: true, marks: treediff.Trusted},
		"escaped":    {options: []string{`lowerdir=/b\:1:/a\\2:/c`, `upperdir=/u\,v`}, dirs: []string{"/u,v", "/b:1", `/a\2`, "/c"}, upper: true, marks: treediff.Trusted},
		"index on":   {options: []string{"index=on", "lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, unknown: true, marks: treediff.Trusted},
		"metacopy":   {options: []string{"metacopy=on", "lowerdir=/b:/a"}, dirs: []string{"/b", "/a"}, unknown: true, marks: treediff.Trusted},
		"data only":  {options: []string{"lowerdir=/b::/a"}, dirs: []string{"/b", "", "/a"}, unknown: true, marks: treediff.Trusted},
		"nothing":    {options: []string{"index=off"}, unknown: true, marks: treediff.Trusted},
	} {
		t.Run(name, func(t *testing.T) {
			l, upper, known := overlayLayers(mount.Mount{Type: "overlay", Options: test.options})
			require.Equal(t, test.dirs, l.Dirs)
			require.Equal(t, test.upper, upper)
			require.Equal(t, !test.unknown, known)
			require.Equal(t, test.marks, l.Marks)
		})
	}
}

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
