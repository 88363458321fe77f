package snapshottest

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

var infoChecks = []check{
	{name: "NameIsThere", run: checkName},
	{name: "StatThroughALife", run: checkStat},
	{name: "UpdateLabels", run: checkUpdate},
	{name: "UpdateOfAFixedField", run: checkUpdateFixed},
	{name: "CommitInheritsLabels", run: checkInherit},
	{name: "WalkAndFilters", run: checkWalk},
	{name: "WalkEndsWithTheErrorOfItsFunc", run: checkWalkError},
	{name: "MountListsAreCopies", run: checkMountCopies},
	{name: "ViewsAreReadOnly", run: checkViewReadOnly},
	{name: "CloseTwice", run: checkClose},
}

func checkName(t *testing.T, h *harness) {
	name, idmap := h.sn.Name(), h.sn.IdentityMapping()
	require.NotEmpty(t, name, "leases name resources by it")
	h.prepare(t, "a", "", nil)
	require.Equal(t, name, h.sn.Name(), "it must not change")
	require.Equal(t, idmap, h.sn.IdentityMapping(), "it must not change")
}

func checkStat(t *testing.T, h *harness) {
	h.prepare(t, "a", "", nil)
	info, err := h.sn.Stat(h.ctx, "a")
	require.NoError(t, err)
	require.Equal(t, "a", info.Name)
	require.Equal(t, snapshots.KindActive, info.Kind)
	require.Empty(t, info.Parent)
	require.False(t, info.Created.IsZero())
	require.False(t, info.Updated.Before(info.Created))

	require.NoError(t, h.sn.Commit(h.ctx, "base", "a"))
	_, err = h.sn.Stat(h.ctx, "a")
	requireIs(t, err, errdefs.IsNotFound)
	info, err = h.sn.Stat(h.ctx, "base")
	require.NoError(t, err)
	require.Equal(t, "base", info.Name)
	require.Equal(t, snapshots.KindCommitted, info.Kind)

	h.prepare(t, "a", "base", nil) // the key is free again
	_, err = h.sn.View(h.ctx, "v", "base")
	require.NoError(t, err)
	for key, kind := range map[string]snapshots.Kind{"a": snapshots.KindActive, "v": snapshots.KindView} {
		info, err = h.sn.Stat(h.ctx, key)
		require.NoError(t, err)
		require.Equal(t, kind, info.Kind)
		require.Equal(t, "base", info.Parent)
	}
	require.NoError(t, h.sn.Commit(h.ctx, "top", "a"))
	info, err = h.sn.Stat(h.ctx, "top")
	require.NoError(t, err)
	require.Equal(t, "base", info.Parent, "a committed snapshot has the parent of the active one")
}

func checkUpdate(t *testing.T, h *harness) {
	require.NoError(t, h.sn.Prepare(h.ctx, "a", "", snapshots.WithLabels(map[string]string{"one": "1", "two": "2"})))
	require.NoError(t, h.sn.Commit(h.ctx, "c", "a", snapshots.WithLabels(map[string]string{"one": "1", "two": "2"})))
	before, err := h.sn.Stat(h.ctx, "c")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"one": "1", "two": "2"}, before.Labels)

	got, err := h.sn.Update(h.ctx, snapshots.Info{Name: "c", Labels: map[string]string{"one": "I", "two": "II"}}, "labels.one")
	require.NoError(t, err)
	require.Equal(t, "I", got.Labels["one"])
	after, err := h.sn.Stat(h.ctx, "c")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"one": "I", "two": "2"}, after.Labels, "only the named label changes")
	require.Equal(t, before.Created, after.Created)
	require.False(t, after.Updated.Before(before.Updated))

	_, err = h.sn.Update(h.ctx, snapshots.Info{Name: "c", Labels: map[string]string{"one": ""}}, "labels.one")
	require.NoError(t, err)
	after, err = h.sn.Stat(h.ctx, "c")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"two": "2"}, after.Labels, "the empty value removes a label")

	_, err = h.sn.Update(h.ctx, snapshots.Info{Name: "c", Labels: map[string]string{"three": "3"}})
	require.NoError(t, err)
	after, err = h.sn.Stat(h.ctx, "c")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"three": "3"}, after.Labels, "without field paths all labels are replaced")
}

func checkUpdateFixed(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.commit(t, "top", "base", nil)
	_, err := h.sn.Update(h.ctx, snapshots.Info{Name: "top", Parent: "elsewhere"}, "parent")
	requireIs(t, err, errdefs.IsInvalidArgument)
	_, err = h.sn.Update(h.ctx, snapshots.Info{Name: "top", Parent: "elsewhere", Kind: snapshots.KindActive})
	require.NoError(t, err)
	info, err := h.sn.Stat(h.ctx, "top")
	require.NoError(t, err)
	require.Equal(t, "base", info.Parent)
	require.Equal(t, snapshots.KindCommitted, info.Kind)
}

func checkInherit(t *testing.T, h *harness) {
	const inherited, other = "containerd.io/snapshot/test.inherited", "containerd.io/snapshot/test.other"
	require.NoError(t, h.sn.Prepare(h.ctx, "a", "", snapshots.WithLabels(map[string]string{
		inherited: "of the active one", "plain": "of the active one",
	})))
	opts := make([]snapshots.Opt, 1, 2) // room that an append could write to
	opts[0] = snapshots.WithLabels(map[string]string{inherited: "of the options", other: "of the options"})
	require.NoError(t, h.sn.Commit(h.ctx, "c", "a", opts...))
	require.Nil(t, opts[:2][1], "the caller's options were written to")
	info, err := h.sn.Stat(h.ctx, "c")
	require.NoError(t, err)
	require.Equal(t, map[string]string{inherited: "of the active one", other: "of the options"}, info.Labels)
}

func checkWalk(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.commit(t, "top", "base", nil)
	require.NoError(t, h.sn.Prepare(h.ctx, "a", "base", snapshots.WithLabels(map[string]string{"colour": "red"})))
	_, err := h.sn.View(h.ctx, "v", "top")
	require.NoError(t, err)
	for _, tc := range []struct {
		filters []string
		want    []string
	}{
		{nil, []string{"base", "top", "a", "v"}},
		{[]string{"kind==committed"}, []string{"base", "top"}},
		{[]string{"kind==active"}, []string{"a"}},
		{[]string{"kind==view"}, []string{"v"}},
		{[]string{"parent==base"}, []string{"top", "a"}},
		{[]string{"name==top", "name==base"}, []string{"top", "base"}},
		{[]string{"parent==base,kind==active"}, []string{"a"}},
		{[]string{`labels.colour==red`}, []string{"a"}},
		{[]string{"name==nobody"}, nil},
	} {
		var got []string
		require.NoError(t, h.sn.Walk(h.ctx, func(_ context.Context, info snapshots.Info) error {
			got = append(got, info.Name)
			return nil
		}, tc.filters...))
		require.ElementsMatch(t, tc.want, got, "filters %q", tc.filters)
	}
	err = h.sn.Walk(h.ctx, func(context.Context, snapshots.Info) error { return nil }, "kind=committed")
	require.Error(t, err, "a filter that cannot be parsed")
}

func checkWalkError(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.commit(t, "top", "base", nil)
	enough := errors.New("enough")
	calls := 0
	err := h.sn.Walk(h.ctx, func(context.Context, snapshots.Info) error {
		calls++
		return enough
	})
	require.ErrorIs(t, err, enough)
	require.Equal(t, 1, calls)
}

func checkMountCopies(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.prepare(t, "a", "base", nil)
	active, err := h.sn.Mounts(h.ctx, "a")
	require.NoError(t, err)
	view, err := h.sn.View(h.ctx, "v", "base")
	require.NoError(t, err)
	for _, m := range []snapshot.Mountable{active, view} {
		first, release, err := m.Mount()
		require.NoError(t, err)
		require.NoError(t, release())
		require.NotEmpty(t, first)
		want := fmt.Sprintf("%+v", first) // as text, since the list itself may be the one that is spoilt
		spoilt, release, err := m.Mount()
		require.NoError(t, err)
		require.NoError(t, release())
		for i := range spoilt {
			spoilt[i].Source = "/spoilt"
			for j := range spoilt[i].Options {
				spoilt[i].Options[j] = "spoilt"
			}
		}
		got, release, err := m.Mount()
		require.NoError(t, err)
		require.NoError(t, release())
		require.Equal(t, want, fmt.Sprintf("%+v", got), "a change to a list of mounts reached its source")
		require.Equal(t, h.sn.IdentityMapping(), m.IdentityMapping())
	}
}

func checkViewReadOnly(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.commit(t, "top", "base", nil)
	for key, of := range map[string]string{"v0": "", "v1": "base", "v2": "top"} {
		_, err := h.sn.View(h.ctx, key, of)
		require.NoError(t, err)
		m, err := h.sn.Mounts(h.ctx, key)
		require.NoError(t, err)
		mounts, release, err := m.Mount()
		require.NoError(t, err)
		require.NoError(t, release())
		for _, mnt := range mounts {
			require.True(t, mnt.ReadOnly(), "view of %q by %+v", of, mnt)
		}
	}
}

func checkClose(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	require.NoError(t, h.sn.Close())
	require.NoError(t, h.sn.Close())
}
