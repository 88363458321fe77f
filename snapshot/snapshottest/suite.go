// Package snapshottest is the suite of tests that every snapshot.Snapshotter must pass. The author of one calls
// Run from a test of his own:
//
//	func TestConformance(t *testing.T) {
//		snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
//			return snapshottest.Fixture{Snapshotter: mine.New(t.TempDir())}
//		})
//	}
//
// RunMerge does the same for a snapshot.MergeSnapshotter: with the one that snapshot.NewMergeSnapshotter makes of his snapshotter, an author
// learns whether merges on it are right.
//
// It looks through the interface only. Trees are mounted with snapshot.LocalMounter, so a snapshotter of bind
// mounts is tested without privileges.
package snapshottest

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// Fixture is a snapshotter to test.
type Fixture struct {
	// Snapshotter is empty and used by one test only. The suite does not close it, save for the one test
	// of Close: it is the fixture's, whose Close must survive that.
	Snapshotter snapshot.Snapshotter
	// RemoveForbidden says that Remove must refuse with a permission denied error, as in a namespace.
	RemoveForbidden bool
	// NoContent says that the mounts lead nowhere, as those of a double without a disk. What is in the
	// trees is not tested then.
	NoContent bool
}

// check is one test of the suite.
type check struct {
	name string
	// content says that the check mounts trees.
	content bool
	run     func(t *testing.T, h *harness)
}

// Run tests what open returns, with a fresh one for every check. Open disposes of its parts by t.Cleanup.
func Run(t *testing.T, open func(t *testing.T) Fixture) {
	t.Helper()
	for _, checks := range [][]check{infoChecks, errorChecks, removeChecks, contentChecks, concurrencyChecks} {
		for _, c := range checks {
			t.Run(c.name, func(t *testing.T) {
				f := open(t)
				if c.content && f.NoContent {
					t.Skip("the fixture's snapshots have no content")
				}
				c.run(t, &harness{Fixture: f, sn: f.Snapshotter, ctx: t.Context()})
			})
		}
	}
}

// harness is what the checks work with.
type harness struct {
	Fixture
	sn  snapshot.Snapshotter
	ctx context.Context
}

// prepare makes an active snapshot and lets change, unless nil, edit its tree.
func (h *harness) prepare(t *testing.T, key, parent string, change func(root string)) {
	t.Helper()
	require.NoError(t, h.sn.Prepare(h.ctx, key, parent))
	if change != nil {
		h.edit(t, key, change)
	}
}

// commit makes the committed snapshot name on parent.
func (h *harness) commit(t *testing.T, name, parent string, change func(root string)) {
	t.Helper()
	h.prepare(t, name+"-active", parent, change)
	require.NoError(t, h.sn.Commit(h.ctx, name, name+"-active"))
}

// edit mounts the active snapshot key.
func (h *harness) edit(t *testing.T, key string, do func(root string)) {
	t.Helper()
	m, err := h.sn.Mounts(h.ctx, key)
	require.NoError(t, err)
	with(t, m, do)
}

// view returns the tree of a committed snapshot, read through the new view key.
func (h *harness) view(t *testing.T, key, of string) tree {
	t.Helper()
	m, err := h.sn.View(h.ctx, key, of)
	require.NoError(t, err)
	var got tree
	with(t, m, func(root string) { got = readTree(t, root) })
	return got
}

// kind returns the kind of the snapshot key.
func (h *harness) kind(t *testing.T, key string) snapshots.Kind {
	t.Helper()
	info, err := h.sn.Stat(h.ctx, key)
	require.NoError(t, err)
	return info.Kind
}

// with mounts m while do runs.
func with(t *testing.T, m snapshot.Mountable, do func(root string)) {
	t.Helper()
	lm := snapshot.LocalMounter(m)
	root, err := lm.Mount()
	require.NoError(t, err)
	defer func() { require.NoError(t, lm.Unmount()) }()
	do(root)
}

// requireIs fails unless err belongs to one of the categories, whose predicates are given.
func requireIs(t *testing.T, err error, categories ...func(error) bool) {
	t.Helper()
	require.Error(t, err)
	for _, is := range categories {
		if is(err) {
			return
		}
	}
	require.Failf(t, "error of another category", "%+v", err)
}
