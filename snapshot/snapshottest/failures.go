package snapshottest

import (
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

var errorChecks = []check{
	{name: "MissingKeys", run: checkMissing},
	{name: "TakenKeys", run: checkTaken},
	{name: "EmptyKeys", run: checkEmpty},
	{name: "WrongKinds", run: checkKinds},
}

var removeChecks = []check{
	{name: "Remove", run: checkRemove},
	{name: "RemoveForbidden", run: checkRemoveForbidden},
}

// call names one call on the snapshotter.
type call struct {
	name string
	err  func() error
}

func checkMissing(t *testing.T, h *harness) {
	h.prepare(t, "a", "", nil)
	for _, c := range []call{
		{"Stat", func() error { _, err := h.sn.Stat(h.ctx, "none"); return err }},
		{"Mounts", func() error { _, err := h.sn.Mounts(h.ctx, "none"); return err }},
		{"Usage", func() error { _, err := h.sn.Usage(h.ctx, "none"); return err }},
		{"Update", func() error { _, err := h.sn.Update(h.ctx, snapshots.Info{Name: "none"}); return err }},
		{"Commit", func() error { return h.sn.Commit(h.ctx, "new", "none") }},
		{"Prepare", func() error { return h.sn.Prepare(h.ctx, "new", "none") }},
		{"View", func() error { _, err := h.sn.View(h.ctx, "new", "none"); return err }},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireIs(t, c.err(), errdefs.IsNotFound)
			_, err := h.sn.Stat(h.ctx, "new")
			requireIs(t, err, errdefs.IsNotFound)
		})
	}
}

func checkTaken(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.prepare(t, "a", "base", nil)
	h.prepare(t, "b", "base", nil)
	_, err := h.sn.View(h.ctx, "v", "base")
	require.NoError(t, err)
	for _, key := range []string{"base", "a", "v"} {
		for _, c := range []call{
			{"Prepare", func() error { return h.sn.Prepare(h.ctx, key, "base") }},
			{"View", func() error { _, err := h.sn.View(h.ctx, key, "base"); return err }},
			{"Commit", func() error { return h.sn.Commit(h.ctx, key, "b") }},
		} {
			t.Run(c.name+" "+key, func(t *testing.T) {
				before := h.kind(t, key)
				requireIs(t, c.err(), errdefs.IsAlreadyExists)
				require.Equal(t, before, h.kind(t, key), "the failure changed what was there")
			})
		}
	}
	require.NoError(t, h.sn.Commit(h.ctx, "b-committed", "b"), "a failed commit leaves the active snapshot")
}

func checkEmpty(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.prepare(t, "a", "base", nil)
	for _, c := range []call{
		{"Prepare", func() error { return h.sn.Prepare(h.ctx, "", "base") }},
		{"View", func() error { _, err := h.sn.View(h.ctx, "", "base"); return err }},
		{"Commit", func() error { return h.sn.Commit(h.ctx, "", "a") }},
	} {
		t.Run(c.name, func(t *testing.T) { requireIs(t, c.err(), errdefs.IsInvalidArgument) })
	}
	for _, c := range []call{
		{"Stat", func() error { _, err := h.sn.Stat(h.ctx, ""); return err }},
		{"Mounts", func() error { _, err := h.sn.Mounts(h.ctx, ""); return err }},
		{"Usage", func() error { _, err := h.sn.Usage(h.ctx, ""); return err }},
		{"Update", func() error { _, err := h.sn.Update(h.ctx, snapshots.Info{}); return err }},
		{"Commit of", func() error { return h.sn.Commit(h.ctx, "new", "") }},
		{"Remove", func() error { return h.sn.Remove(h.ctx, "") }},
	} {
		t.Run(c.name, func(t *testing.T) {
			requireIs(t, c.err(), errdefs.IsNotFound, errdefs.IsInvalidArgument, errdefs.IsPermissionDenied)
		})
	}
	require.Equal(t, snapshots.KindActive, h.kind(t, "a"))
}

func checkKinds(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	h.prepare(t, "a", "base", nil)
	_, err := h.sn.View(h.ctx, "v", "base")
	require.NoError(t, err)
	for _, parent := range []string{"a", "v"} {
		requireIs(t, h.sn.Prepare(h.ctx, "new", parent), errdefs.IsInvalidArgument)
		_, err = h.sn.View(h.ctx, "new", parent)
		requireIs(t, err, errdefs.IsInvalidArgument)
		_, err = h.sn.Stat(h.ctx, "new")
		requireIs(t, err, errdefs.IsNotFound)
	}
	for _, key := range []string{"v", "base"} {
		requireIs(t, h.sn.Commit(h.ctx, "new", key), errdefs.IsFailedPrecondition)
		_, err = h.sn.Stat(h.ctx, "new")
		requireIs(t, err, errdefs.IsNotFound)
	}
	_, err = h.sn.Mounts(h.ctx, "base")
	requireIs(t, err, errdefs.IsFailedPrecondition)
	require.Equal(t, snapshots.KindCommitted, h.kind(t, "base"))
	require.Equal(t, snapshots.KindActive, h.kind(t, "a"))
	require.Equal(t, snapshots.KindView, h.kind(t, "v"))
}

func checkRemove(t *testing.T, h *harness) {
	if h.RemoveForbidden {
		t.Skip("the fixture forbids Remove")
	}
	requireIs(t, h.sn.Remove(h.ctx, "none"), errdefs.IsNotFound)
	h.commit(t, "base", "", nil)
	h.commit(t, "top", "base", nil)
	h.prepare(t, "a", "top", nil)
	_, err := h.sn.View(h.ctx, "v", "top")
	require.NoError(t, err)

	for _, parent := range []string{"base", "top"} {
		requireIs(t, h.sn.Remove(h.ctx, parent), errdefs.IsFailedPrecondition)
		require.Equal(t, snapshots.KindCommitted, h.kind(t, parent))
	}
	for _, key := range []string{"a", "v", "top", "base"} { // children first
		require.NoError(t, h.sn.Remove(h.ctx, key))
		_, err := h.sn.Stat(h.ctx, key)
		requireIs(t, err, errdefs.IsNotFound)
		requireIs(t, h.sn.Remove(h.ctx, key), errdefs.IsNotFound)
	}
	h.commit(t, "base", "", nil) // names are free again
}

func checkRemoveForbidden(t *testing.T, h *harness) {
	if !h.RemoveForbidden {
		t.Skip("the fixture allows Remove")
	}
	h.commit(t, "base", "", nil)
	h.prepare(t, "a", "base", nil)
	for _, key := range []string{"a", "base"} {
		requireIs(t, h.sn.Remove(h.ctx, key), errdefs.IsPermissionDenied)
	}
	require.Equal(t, snapshots.KindActive, h.kind(t, "a"))
	require.Equal(t, snapshots.KindCommitted, h.kind(t, "base"))
}
