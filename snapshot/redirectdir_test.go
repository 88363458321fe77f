package snapshot

import (
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/stretchr/testify/require"
)

// TestDecideRedirectDir: only where the kernel has the option and takes it (spec SNP-5).
func TestDecideRedirectDir(t *testing.T) {
	require.Equal(t, "redirect_dir=off", decideRedirectDir(true, false).option)
	require.Empty(t, decideRedirectDir(true, true).option)
	require.Empty(t, decideRedirectDir(false, false).option)
	require.Empty(t, decideRedirectDir(false, true).option)
}

// TestApplyRedirectDir: appended to overlays only, in place of other values, in a copy (spec SNP-5).
func TestApplyRedirectDir(t *testing.T) {
	mounts := func() []mount.Mount {
		return []mount.Mount{
			{Type: "overlay", Source: "overlay", Options: []string{"redirect_dir=on", "lowerdir=/a:/b", "redirect_dir=follow"}},
			{Type: "overlay", Source: "overlay", Options: []string{"index=off,redirect_dir=on", `lowerdir=/with\,redirect_dir=comma`}},
			{Type: "overlay", Source: "overlay"},
			{Type: "bind", Source: "/a", Options: []string{"rbind", "redirect_dir=on"}},
			{Type: "fuse3.fuse-overlayfs", Source: "overlay", Options: []string{"lowerdir=/a:/b"}},
		}
	}
	in := mounts()
	got := redirectDirRule{option: "redirect_dir=off"}.apply(in)
	require.Equal(t, mounts(), in, "the argument was changed")
	want := mounts()
	want[0].Options = []string{"lowerdir=/a:/b", "redirect_dir=off"}
	want[1].Options = []string{"index=off", `lowerdir=/with\,redirect_dir=comma`, "redirect_dir=off"}
	want[2].Options = []string{"redirect_dir=off"}
	require.Equal(t, want, got)
	require.Equal(t, want, redirectDirRule{option: "redirect_dir=off"}.apply(got), "twice is as good as once")

	require.Equal(t, mounts(), redirectDirRule{}.apply(in))
}

// TestMountablesFollowTheProcessRule: static mountables have the rule applied (spec SNP-5, SNP-3).
func TestMountablesFollowTheProcessRule(t *testing.T) {
	in := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a:/b"}}}
	got, release, err := NewMountable(in, nil, nil).Mount()
	require.NoError(t, err)
	require.NoError(t, release())
	require.Equal(t, processRedirectDir().apply(in), got)
}
