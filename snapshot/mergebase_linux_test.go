package snapshot_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/tree"
)

// TestBaseSkipping: a snapshot's own layers at the beginning are not applied on an overlay, and are on others (spec MRG-3).
func TestBaseSkipping(t *testing.T) {
	onAll(t, func(t *testing.T, m *merger) {
		m.layer(t, "A", "", tree.File("a", "a"))
		m.layer(t, "B", "A", tree.File("b", "b"))
		m.layer(t, "C", "", tree.File("c", "c"))
		m.layer(t, "D", "B", tree.File("d", "d"))
		_, err := m.backend.Stat(m.ctx, "A")
		require.NoError(t, err)
		for name, test := range map[string]struct {
			diffs []snapshot.Diff
			base  string
			skip  int
		}{
			"rule":          {[]snapshot.Diff{{Upper: "A"}, {Lower: "A", Upper: "B"}, {Upper: "C"}}, "B", 2},
			"one":           {[]snapshot.Diff{{Upper: "C"}, {Upper: "A"}, {Lower: "A", Upper: "B"}}, "C", 1},
			"all":           {[]snapshot.Diff{{Upper: "A"}, {Lower: "A", Upper: "B"}, {Lower: "B", Upper: "D"}}, "D", 3},
			"not from zero": {[]snapshot.Diff{{Lower: "A", Upper: "B"}, {Upper: "C"}}, "", 0},
			"flattened":     {[]snapshot.Diff{{Upper: "B"}, {Upper: "C"}}, "", 0},
			"gap":           {[]snapshot.Diff{{Upper: "A"}, {Lower: "A", Upper: "D"}}, "A", 1},
			"deleted":       {[]snapshot.Diff{{Upper: "A"}, {Lower: "A"}}, "A", 1},
			"empty first":   {[]snapshot.Diff{{}, {Upper: "A"}}, "", 0},
		} {
			m.merge(t, name, test.diffs...)
			info, err := m.Stat(m.ctx, name)
			require.NoError(t, err)
			if m.Name() != "overlayfs" {
				test.base, test.skip = "", 0
			}
			require.Equal(t, test.base, info.Parent, name)
			require.Equal(t, test.skip, m.last().Skipped, name)
			require.Equal(t, len(test.diffs)-test.skip, m.last().Applied, name)
		}
		require.ElementsMatch(t, []string{"a", "b", "c"}, paths(m.read(t, "rule")))
		require.ElementsMatch(t, []string{"a", "b", "d"}, paths(m.read(t, "all")))
		require.ElementsMatch(t, []string{"b", "c"}, paths(m.read(t, "not from zero")))
		require.ElementsMatch(t, []string{"a", "b", "c"}, paths(m.read(t, "flattened")))
		require.ElementsMatch(t, []string{"a", "b", "d"}, paths(m.read(t, "gap")))
		require.Empty(t, m.read(t, "deleted"))
	})
}

// TestDeepBase: a chain may have as many layers as it likes. A merge starts from no more of them than leave room for layers on top, and what is
// not in there is applied; it mounts although the chain itself cannot be mounted any more (spec MRG-3, fault 38).
func TestDeepBase(t *testing.T) {
	m := newMerger(t, "overlayfs", openOverlay(t), nil)
	depth := 300 // beyond what a merge starts from
	if os.Getenv("LAYERCACHE_SWEEP") == "full" {
		depth = 510
	}
	var diffs []snapshot.Diff
	for i, parent := 0, ""; i < depth; i++ {
		name := fmt.Sprintf("layer-%03d", i)
		if i == depth/2 {
			m.layer(t, name, parent, tree.File("middle", "middle"))
		} else {
			m.commit(t, name, parent, nil) // the same empty layer again and again
		}
		diffs = append(diffs, snapshot.Diff{Lower: parent, Upper: name})
		parent = name
	}
	m.merge(t, "merged", diffs...)
	require.Less(t, m.last().Skipped, 400)
	require.Greater(t, m.last().Skipped, 100)
	require.Equal(t, depth-m.last().Skipped, m.last().Applied)
	require.Equal(t, []string{"middle"}, paths(m.read(t, "merged")))
	m.merge(t, "more", append(diffs, snapshot.Diff{Upper: "merged"})...)
	require.Equal(t, []string{"middle"}, paths(m.read(t, "more")))
}
