package compat

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/continuity/fs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// TestStateDirectories opens a state directory that one program made with the other, uses it, and opens it with
// the first again. Whatever the table in items_test.go says is kept is there at each step, to the byte.
// spec INIT-2, INIT-5, INIT-6, INIT-9, INIT-12, OLD-2, OLD-3, LEASE-6, MRG-6, REC-2, REC-8, fault 34, quirk Q65, Q73, Q75
func TestStateDirectories(t *testing.T) {
	for _, direction := range []struct {
		name string
		run  func(t *testing.T, dir, snapshotter string, privileged bool)
	}{
		{"made by stock", madeByStock},
		{"made by ours", madeByOurs},
	} {
		for _, snapshotter := range []string{snNative, snOverlayfs} {
			t.Run(direction.name+"/"+snapshotter, func(t *testing.T) {
				if snapshotter == snOverlayfs {
					need.Overlay(t)
				}
				direction.run(t, filepath.Join(t.TempDir(), "runc-"+snapshotter), snapshotter, os.Geteuid() == 0)
			})
		}
	}
}

// madeByStock is the way of a directory from BuildKit to us, back, and to us again.
func madeByStock(t *testing.T, dir, snapshotter string, privileged bool) {
	s := makeStock(t, dir, snapshotter, privileged)
	reported := reportOfCopy(t, s, privileged)

	o := s.openOwn(t)
	s.requireUsage(t, reported, o)
	s.requireRecipes(t, o)
	s.requireState(t, o, s.ids(goneByRule))
	require.NoError(t, o.close())
	s.requireRows(t, s.ids(goneByRule))
	s.dropAll(goneByRule)

	o = s.openOwn(t)
	s.use(t, o, "", " by ours")
	reported, err := o.usage(t.Context())
	require.NoError(t, err)
	require.NoError(t, o.close())
	s.requireRows(t, nil)

	m := openStock(t, dir, snapshotter)
	got, err := m.usage(t.Context())
	require.NoError(t, err)
	s.requireSameUsage(t, got, reported)
	s.requireState(t, m, s.ids(lostByStock))
	if privileged {
		s.extractRecipes(t, m)
	}
	s.use(t, m, " by ours", " by stock")
	reported = s.lastReport(t, m)
	require.NoError(t, m.close())
	s.requireRows(t, s.ids(lostByStock))
	s.dropAll(lostByStock)

	o = s.openOwn(t)
	s.requireUsage(t, reported, o)
	s.requireState(t, o, nil)
	require.NoError(t, o.close())
	s.requireRows(t, nil)
}

// madeByOurs is the way of a directory from us to BuildKit, back, and to BuildKit again.
func madeByOurs(t *testing.T, dir, snapshotter string, privileged bool) {
	s := &state{dir: dir, snapshotter: snapshotter, records: map[string]*record{}}
	o := openOwn(t, dir, local.Options{Snapshotter: snapshotter})
	s.makeOwn(t, o)
	reported, err := o.usage(t.Context())
	require.NoError(t, err)
	require.NoError(t, o.close())
	s.rows = readRows(t, dir)

	m := openStock(t, dir, snapshotter)
	got, err := m.usage(t.Context())
	require.NoError(t, err)
	s.requireSameUsage(t, got, reported)
	s.requireState(t, m, nil)
	s.use(t, m, "", " by stock")
	k := &kit{t: t, m: m, s: s, refs: s.stockRefs(t, m, "base", "child", "other")}
	k.recipe("merge", k.merge("merge"))
	k.recipe("diff", k.diff("diff"))
	k.recipe("blob", k.blob("blob", nil, true))
	if privileged {
		k.extracted("extracted merge", k.merge("extracted merge"))
		k.extracted("extracted blob", k.blob("extracted blob", nil, true))
	}
	for _, r := range k.refs {
		require.NoError(t, r.Release(t.Context()))
	}
	reported = s.lastReport(t, m)
	require.NoError(t, m.close())
	s.requireRows(t, nil)

	o = s.openOwn(t)
	s.requireUsage(t, reported, o)
	s.requireRecipes(t, o)
	s.requireState(t, o, nil)
	s.use(t, o, " by stock", " by ours")
	require.NoError(t, o.close())
	s.requireRows(t, nil)

	m = openStock(t, dir, snapshotter)
	s.requireState(t, m, nil)
	if privileged {
		s.extractRecipes(t, m)
	}
	require.NoError(t, m.close())
	s.requireRows(t, nil)
}

// openOwn opens the directory without saying what is in it, lets it tidy up at once, and asks whether everything agrees.
func (s *state) openOwn(t *testing.T) *own {
	t.Helper()
	o := openOwn(t, s.dir, local.Options{})
	require.Equal(t, s.snapshotter, o.Parts.SnapshotterName)
	require.NoError(t, o.collectGarbage(t.Context()))
	findings, err := o.Check(t.Context())
	require.NoError(t, err)
	require.Empty(t, findings)
	kept, err := o.Parts.LeaseManager.List(t.Context())
	require.NoError(t, err)
	gone := s.ids(goneByRule)
	for _, l := range kept {
		require.NotContains(t, l.Labels, "buildkit/lease.temporary", l.ID)
		require.False(t, gone[l.ID], l.ID)
	}
	return o
}

// reportOfCopy has BuildKit tell what a copy of the directory occupies, since looking changes it (quirk Q65),
// and extract there what is known by its recipe, to know what that gives.
func reportOfCopy(t *testing.T, s *state, privileged bool) map[string]usageRow {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "copy")
	require.NoError(t, fs.CopyDir(dir, s.dir))
	m := openStock(t, dir, s.snapshotter)
	rows, err := m.usage(t.Context())
	require.NoError(t, err)
	for _, r := range s.records {
		if privileged && r.recipe && r.lost == "" {
			h, err := m.get(t.Context(), r.id)
			require.NoError(t, err, r.name)
			r.tree = treeOf(t, h)
			require.NoError(t, h.Release(t.Context()))
		}
	}
	require.NoError(t, m.close())
	return rows
}

// lastReport is what BuildKit says before it is closed. The first look is at what changes by looking (quirk Q65).
func (s *state) lastReport(t *testing.T, m *stock) map[string]usageRow {
	t.Helper()
	_, err := m.usage(t.Context())
	require.NoError(t, err)
	rows, err := m.usage(t.Context())
	require.NoError(t, err)
	for id := range s.ids(lostByStock) {
		delete(rows, id)
	}
	return rows
}

// requireUsage compares what BuildKit reported of the directory with what we do.
func (s *state) requireUsage(t *testing.T, reported map[string]usageRow, o *own) {
	t.Helper()
	got, err := o.usage(t.Context())
	require.NoError(t, err)
	s.requireSameUsage(t, reported, got)
	again, err := o.usage(t.Context())
	require.NoError(t, err)
	require.Equal(t, got, again, "looking changes nothing")
}

// requireSameUsage compares the reports record by record. The differences that are meant to be:
//   - what a start of ours removes is shown by BuildKit alone (INIT-12, INIT-5),
//   - what stands on a record that BuildKit lost at its start (Q75) is shown by us alone,
//   - BuildKit counts a use of a parent whose child it loses (Q73).
func (s *state) requireSameUsage(t *testing.T, stock, ours map[string]usageRow) {
	t.Helper()
	names, bumped := map[string]string{}, map[string]bool{}
	for name, r := range s.records {
		names[r.id] = name
		if r.lost != "" || r.gone != "" {
			bumped[s.parent(r)] = true
		}
	}
	all := maps.Clone(stock)
	maps.Copy(all, ours)
	for id := range all {
		r := s.records[names[id]]
		require.NotNil(t, r, "unknown record %s: %+v", id, all[id])
		theirs, inTheirs := stock[id]
		mine, inOurs := ours[id]
		switch {
		case r.gone != "":
			require.False(t, inOurs, r.name)
		case r.lost != "":
			require.True(t, inOurs, r.name)
		default:
			if bumped[id] && theirs.Count > mine.Count {
				theirs.Count, theirs.LastUsed = mine.Count, mine.LastUsed
			}
			require.True(t, inTheirs && inOurs, "%s: %v %v", r.name, inTheirs, inOurs)
			require.Equal(t, theirs, mine, r.name)
		}
	}
}

// parent returns the ID that a row names as its layer parent.
func (s *state) parent(r *record) string {
	var envelope struct{ Value string }
	if json.Unmarshal([]byte(s.rows.Rows[r.id]["cache.parent"]), &envelope) != nil {
		return ""
	}
	return envelope.Value
}

// requireRecipes makes the trees of merges and diffs, which are what BuildKit makes of them. What is lazy asks for handlers.
func (s *state) requireRecipes(t *testing.T, o *own) {
	t.Helper()
	for _, r := range s.records {
		if !r.recipe || r.gone != "" {
			continue
		}
		if len(r.lazy) > 0 {
			_, err := o.get(t.Context(), r.id)
			var missing cache.NeedsRemoteProviderError
			require.ErrorAs(t, err, &missing, r.name)
			require.ElementsMatch(t, r.lazy, missing, r.name)
		}
		h, err := o.get(t.Context(), r.id, r.lazy...)
		require.NoError(t, err, r.name)
		row := s.rows.Rows[r.id]
		derived := row["cache.mergeParents"] != "" || row["cache.lowerDiffParent"] != "" || row["cache.upperDiffParent"] != ""
		if derived && len(r.lazy) == 0 { // layers from blobs are left for BuildKit to extract
			got := treeOf(t, h)
			require.NotEmpty(t, got, r.name)
			if r.tree != nil {
				require.Empty(t, tree.Diff(r.tree, got, tree.Root, tree.DirTimes), r.name) // a copied directory has a time of its own
			}
			r.tree = got
		}
		require.NoError(t, h.Release(t.Context()))
	}
}

// extractRecipes has BuildKit extract what was left for it.
func (s *state) extractRecipes(t *testing.T, m *stock) {
	t.Helper()
	for _, r := range s.records {
		if !r.recipe || r.lost != "" {
			continue
		}
		h, err := m.get(t.Context(), r.id)
		require.NoError(t, err, r.name)
		got := treeOf(t, h)
		if r.tree != nil {
			require.Empty(t, tree.Diff(r.tree, got, tree.Times), r.name)
		}
		require.NotEmpty(t, got, r.name)
		r.tree, r.recipe, r.cleared = got, false, []string{"cache.blobonly"}
		require.NoError(t, h.Release(t.Context()))
	}
}
