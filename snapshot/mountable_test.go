package snapshot_test

import (
	"errors"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// TestStaticMountableCopies: neither the caller's list nor any list handed out is shared (spec SNP-3, MNT-1).
func TestStaticMountableCopies(t *testing.T) {
	options := make([]string, 2, 4) // room, so that an append by anyone would be seen
	copy(options, []string{"rbind", "rw"})
	in := []mount.Mount{{Type: "bind", Source: "/src", Options: options}}
	want := []mount.Mount{{Type: "bind", Source: "/src", Options: []string{"rbind", "rw"}}}
	idmap := &user.IdentityMapping{}
	m := snapshot.NewMountable(in, nil, idmap)
	in[0].Source, in[0].Options[0] = "/spoilt", "spoilt"
	for range 2 {
		got, release, err := m.Mount()
		require.NoError(t, err)
		require.Equal(t, want, got)
		got[0].Options[1] = "spoilt"
		got[0].Source = "/spoilt"
		_ = append(got[0].Options, "spoilt")
		require.NoError(t, release())
	}
	require.Same(t, idmap, m.IdentityMapping())
}

// TestStaticMountableCounts: the release function runs for the last mount, each counts once (spec SNP-3).
func TestStaticMountableCounts(t *testing.T) {
	t.Setenv("BUILDKIT_DEBUG_PANIC_ON_ERROR", "")
	calls, failure := 0, error(nil)
	m := snapshot.NewMountable([]mount.Mount{{Type: "bind", Source: "/src"}}, func() error { calls++; return failure }, nil)
	_, one, err := m.Mount()
	require.NoError(t, err)
	_, two, err := m.Mount()
	require.NoError(t, err)
	require.NoError(t, one())
	require.NoError(t, one(), "over-release")
	require.Zero(t, calls, "the second mount is still there")
	failure = errors.New("busy")
	require.ErrorIs(t, two(), failure)
	require.Equal(t, 1, calls)
	require.NoError(t, two(), "over-release")
	require.Equal(t, 1, calls)

	failure = nil
	_, three, err := m.Mount()
	require.NoError(t, err)
	require.NoError(t, three())
	require.Equal(t, 2, calls, "mounted again, released again")
}

// TestStaticMountablePanicsOnlyWhenAsked pins the debugging variable (spec SNP-3).
func TestStaticMountablePanicsOnlyWhenAsked(t *testing.T) {
	m := snapshot.NewMountable([]mount.Mount{{Type: "bind", Source: "/the-source"}}, nil, nil)
	_, release, err := m.Mount()
	require.NoError(t, err)
	require.NoError(t, release())
	for _, v := range []string{"", "0", "true"} {
		t.Setenv("BUILDKIT_DEBUG_PANIC_ON_ERROR", v)
		require.NoError(t, release())
	}
	t.Setenv("BUILDKIT_DEBUG_PANIC_ON_ERROR", "1")
	require.PanicsWithValue(t, "mount of /the-source released twice", func() { _ = release() })
	require.NoError(t, os.Unsetenv("BUILDKIT_DEBUG_PANIC_ON_ERROR"))
	_, release, err = m.Mount()
	require.NoError(t, err)
	require.NoError(t, release(), "the panic left the mountable usable")
}

// TestStaticMountableConcurrent: as many mounts as releases, the last one counts (spec SNP-3).
func TestStaticMountableConcurrent(t *testing.T) {
	outstanding := 0 // written under the mountable's own lock only: the race detector checks that
	m := snapshot.NewMountable([]mount.Mount{{Type: "bind", Source: "/src"}}, func() error { outstanding++; return nil }, nil)
	_, hold, err := m.Mount()
	require.NoError(t, err)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			mounts, release, err := m.Mount()
			if err != nil {
				panic(err)
			}
			mounts[0].Source = "mine"
			_ = release()
			_ = release()
		})
	}
	wg.Wait()
	require.Zero(t, outstanding)
	require.NoError(t, hold())
	require.Equal(t, 1, outstanding)
}

// TestReadOnlyMounts is the table of the read-only wrapper (spec MNT-6).
func TestReadOnlyMounts(t *testing.T) {
	for _, tc := range []struct {
		name     string
		typ      string
		in, want []string
	}{
		{"writable overlay", "overlay", []string{"index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"}, []string{"index=off", "lowerdir=/u:/a:/b"}},
		{"lower first", "overlay", []string{"lowerdir=/a", "upperdir=/u", "workdir=/w", "userxattr"}, []string{"lowerdir=/u:/a", "userxattr"}},
		{"overlay without upper", "overlay", []string{"index=off", "lowerdir=/a:/b"}, []string{"index=off", "lowerdir=/a:/b"}},
		{"no upper, options in one element", "overlay", []string{"lowerdir=/a:/b,index=off"}, []string{"lowerdir=/a:/b,index=off"}},
		{"options in one element", "overlay", []string{"lowerdir=/a,upperdir=/u,workdir=/w"}, []string{"lowerdir=/u:/a"}},
		{"upper with a colon", "overlay", []string{"lowerdir=/a", `upperdir=/u:1\:2`, "workdir=/w"}, []string{`lowerdir=/u\:1\:2:/a`}},
		{"upper alone", "overlay", []string{"upperdir=/u", "workdir=/w"}, []string{"lowerdir=/u"}},
		{"writable bind", "bind", []string{"rbind", "rw"}, []string{"rbind", "ro"}},
		{"read-only bind", "bind", []string{"ro", "rbind"}, []string{"rbind", "ro"}},
		{"twice", "bind", []string{"ro", "rw", "ro"}, []string{"ro"}},
		{"no options", "tmpfs", nil, []string{"ro"}},
		{"fuse", "fuse3.fuse-overlayfs", []string{"lowerdir=/a", "rw"}, []string{"lowerdir=/a", "ro"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := []mount.Mount{{Type: tc.typ, Source: "s", Target: "t", Options: slices.Clone(tc.in)}}
			want := []mount.Mount{{Type: tc.typ, Source: "s", Target: "t", Options: tc.want}}
			got := snapshot.ReadOnlyMounts(in)
			require.Equal(t, want, got)
			require.Equal(t, tc.in, in[0].Options, "the argument was changed")
			require.True(t, got[0].ReadOnly())
			require.Equal(t, want, snapshot.ReadOnlyMounts(got), "twice is as good as once")
			got[0].Options[0] = "spoilt"
			require.Equal(t, tc.in, in[0].Options, "the result shares the argument's options")
		})
	}
	require.Empty(t, snapshot.ReadOnlyMounts(nil))
}

// TestReadOnlyMountable: mounts are wrapped, everything else passes (spec MNT-6, MNT-1).
func TestReadOnlyMountable(t *testing.T) {
	released := 0
	idmap := &user.IdentityMapping{}
	inner := snapshot.NewMountable([]mount.Mount{{Type: "bind", Source: "/src", Options: []string{"rbind", "rw"}}},
		func() error { released++; return nil }, idmap)
	ro := snapshot.ReadOnly(snapshot.ReadOnly(inner))
	got, release, err := ro.Mount()
	require.NoError(t, err)
	require.Equal(t, []string{"rbind", "ro"}, got[0].Options)
	require.NoError(t, release())
	require.Equal(t, 1, released)
	require.Same(t, idmap, ro.IdentityMapping())
	got, release, err = inner.Mount()
	require.NoError(t, err)
	require.Equal(t, []string{"rbind", "rw"}, got[0].Options)
	require.NoError(t, release())

	failure := errors.New("no mount")
	_, _, err = snapshot.ReadOnly(failing{failure}).Mount()
	require.ErrorIs(t, err, failure)
}

// failing is a mountable that cannot be mounted.
type failing struct{ err error }

func (f failing) Mount() ([]mount.Mount, func() error, error) { return nil, nil, f.err }

func (f failing) IdentityMapping() *user.IdentityMapping { return nil }
