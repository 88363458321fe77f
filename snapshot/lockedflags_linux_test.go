package snapshot

import (
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLockedFlags pins the names and their order (spec LM-1).
func TestLockedFlags(t *testing.T) {
	require.Empty(t, lockedFlags(0))
	require.Equal(t, []string{"ro", "nodev", "noexec", "nosuid", "noatime", "relatime", "nodiratime"}, lockedFlags(-1))
	require.Equal(t, []string{"nosuid", "relatime"}, lockedFlags(unix.ST_NOSUID|unix.ST_RELATIME))
}

// TestWithLockedFlags: bind mounts only, each flag once, in a copy (spec LM-1).
func TestWithLockedFlags(t *testing.T) {
	in := []mount.Mount{
		{Type: "bind", Source: "/a", Options: []string{"rbind", "nodev"}},
		{Type: "none", Source: "/a", Options: []string{"bind"}},
		{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=/a"}},
	}
	flagsOf := func(path string) ([]string, error) {
		require.Equal(t, "/a", path)
		return []string{"nodev", "nosuid"}, nil
	}
	got, err := withLockedFlags(in, flagsOf)
	require.NoError(t, err)
	require.Equal(t, []string{"rbind", "nodev", "nosuid"}, got[0].Options)
	require.Equal(t, []string{"bind", "nodev", "nosuid"}, got[1].Options)
	require.Equal(t, in[2], got[2])
	require.Equal(t, []string{"rbind", "nodev"}, in[0].Options, "the argument was changed")

	_, err = withLockedFlags(in, func(string) ([]string, error) { return nil, errdefs.ErrNotFound })
	require.True(t, errdefs.IsNotFound(err))
}
