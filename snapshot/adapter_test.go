package snapshot_test

import (
	"context"
	"errors"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// backend is a containerd snapshotter that answers from its fields. What is not overridden panics.
type backend struct {
	snapshots.Snapshotter
	info      snapshots.Info
	statErr   error
	committed *snapshots.Info // what the options of Commit amount to
	mounts    []mount.Mount
}

func (b *backend) Stat(context.Context, string) (snapshots.Info, error) { return b.info, b.statErr }

func (b *backend) Mounts(context.Context, string) ([]mount.Mount, error) { return b.mounts, nil }

func (b *backend) Commit(_ context.Context, _, _ string, opts ...snapshots.Opt) error {
	b.committed = &snapshots.Info{}
	for _, opt := range opts {
		if err := opt(b.committed); err != nil {
			return err
		}
	}
	return nil
}

// TestCommitCarriesInheritableLabels: the active snapshot's labels win, options of other kinds pass (spec SNP-2).
func TestCommitCarriesInheritableLabels(t *testing.T) {
	b := &backend{info: snapshots.Info{Labels: map[string]string{
		"containerd.io/snapshot.ref":    "ref",
		"containerd.io/snapshot/x":      "active",
		"containerd.io/snapshot.refuse": "not inheritable",
		"plain":                         "not inheritable",
	}}}
	sn := snapshot.FromContainerdSnapshotter("fake", b, nil)
	require.NoError(t, sn.Commit(t.Context(), "name", "key", snapshots.WithParent("parent"),
		snapshots.WithLabels(map[string]string{"containerd.io/snapshot/x": "option", "plain2": "option"})))
	require.Equal(t, &snapshots.Info{Parent: "parent", Labels: map[string]string{
		"containerd.io/snapshot.ref": "ref", "containerd.io/snapshot/x": "active", "plain2": "option",
	}}, b.committed)
}

// TestCommitFailsWithStat: without the labels there is no commit (spec SNP-2).
func TestCommitFailsWithStat(t *testing.T) {
	b := &backend{statErr: errdefs.ErrUnavailable}
	err := snapshot.FromContainerdSnapshotter("fake", b, nil).Commit(t.Context(), "name", "key")
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.Nil(t, b.committed)
}

// TestNameAndMappingOfAdapter: both are what was given (spec SNP-2).
func TestNameAndMappingOfAdapter(t *testing.T) {
	idmap := &user.IdentityMapping{UIDMaps: []user.IDMap{{ID: 0, ParentID: 1000, Count: 1}}}
	sn := snapshot.FromContainerdSnapshotter("fake", &backend{}, idmap)
	require.Equal(t, "fake", sn.Name())
	require.Same(t, idmap, sn.IdentityMapping())
	m, err := sn.Mounts(t.Context(), "key")
	require.NoError(t, err)
	require.Same(t, idmap, m.IdentityMapping())
}

// lender hands out mountables that count; as a Snapshotter it knows nothing else.
type lender struct {
	snapshot.Snapshotter
	releases  []int // per mount handed out
	failAt    map[int]error
	mountErr  error
	prepared  []string
	nilReturn bool
}

type loan struct{ l *lender }

func (s *lender) Prepare(_ context.Context, key, _ string, _ ...snapshots.Opt) error {
	s.prepared = append(s.prepared, key)
	return nil
}

func (s *lender) Mounts(context.Context, string) (snapshot.Mountable, error) { return loan{s}, nil }

func (s *lender) View(context.Context, string, string, ...snapshots.Opt) (snapshot.Mountable, error) {
	return loan{s}, nil
}

func (l loan) IdentityMapping() *user.IdentityMapping { return nil }

func (l loan) Mount() ([]mount.Mount, func() error, error) {
	if l.l.mountErr != nil {
		return nil, nil, l.l.mountErr
	}
	mounts := []mount.Mount{{Type: "bind", Source: "/src"}}
	if l.l.nilReturn {
		return mounts, nil, nil
	}
	i := len(l.l.releases)
	l.l.releases = append(l.l.releases, 0)
	return mounts, func() error {
		l.l.releases[i]++
		return l.l.failAt[i]
	}, nil
}

// TestToContainerdReleasesOnce: every mount once, whatever fails, and the first error (spec SNP-4, quirk Q53).
func TestToContainerdReleasesOnce(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	l := &lender{failAt: map[int]error{1: first, 2: second}}
	sn, release := snapshot.NewContainerdSnapshotter(l)
	require.NoError(t, release(), "nothing was handed out")

	mounts, err := sn.Prepare(t.Context(), "a", "")
	require.NoError(t, err)
	require.Equal(t, []mount.Mount{{Type: "bind", Source: "/src"}}, mounts)
	require.Equal(t, []string{"a"}, l.prepared)
	_, err = sn.Mounts(t.Context(), "a")
	require.NoError(t, err)
	_, err = sn.View(t.Context(), "v", "")
	require.NoError(t, err)

	require.ErrorIs(t, release(), first)
	require.Equal(t, []int{1, 1, 1}, l.releases)
	require.NoError(t, release())
	require.Equal(t, []int{1, 1, 1}, l.releases)

	_, err = sn.Mounts(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, release())
	require.Equal(t, []int{1, 1, 1, 1}, l.releases, "a later mount is released by the next call")
}

// TestToContainerdMountFailures: the error comes through, a missing release is none (spec SNP-4).
func TestToContainerdMountFailures(t *testing.T) {
	l := &lender{mountErr: errdefs.ErrUnavailable}
	sn, release := snapshot.NewContainerdSnapshotter(l)
	_, err := sn.Prepare(t.Context(), "a", "")
	require.True(t, errdefs.IsUnavailable(err))
	_, err = sn.View(t.Context(), "v", "")
	require.True(t, errdefs.IsUnavailable(err))
	l.mountErr, l.nilReturn = nil, true
	_, err = sn.Mounts(t.Context(), "a")
	require.NoError(t, err)
	require.NoError(t, release())
}
