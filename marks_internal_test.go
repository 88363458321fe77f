package cache

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/graph"
)

// Design section 5: where nobody knows which boot this is, nothing counts as lost, and nothing is marked.
func TestUnknownBoot(t *testing.T) {
	for boot, lost := range map[string]bool{"": false, "this": false, "that": true} {
		r := &recovery{m: &manager{bootID: boot}, rows: []*found{
			{row: row{meta: &graph.Meta{ID: "a", SnapshotID: "a"}, unsynced: "this"}},
			{row: row{meta: &graph.Meta{ID: "b", SnapshotID: "a"}}},
			{row: row{meta: &graph.Meta{ID: "c", SnapshotID: "c"}}},
		}}
		r.findLost()
		require.Equal(t, lost, r.isLost(r.rows[0]), boot)
		require.Equal(t, lost, r.isLost(r.rows[1]), boot)
		require.False(t, r.isLost(r.rows[2]))
		require.False(t, r.m.marking(), "without SyncFS")
	}
}

// Design section 5: the system's boot ID is the same all the time, where there is one.
func TestSystemBootID(t *testing.T) {
	id, err := systemBootID()
	if err != nil {
		t.Skip("this system has no boot ID: ", err)
	}
	require.NotEmpty(t, id)
	again, err := systemBootID()
	require.NoError(t, err)
	require.Equal(t, id, again)
	require.Equal(t, id, bootIDOf(ManagerOpt{}))
	require.Equal(t, "mine", bootIDOf(ManagerOpt{BootID: "mine"}))
}

// Design section 5: a mark that is being taken off while somebody begins to write stays, whatever becomes of the transaction.
func TestMarkTakenOffAndPutOn(t *testing.T) {
	for name, done := range map[string]bool{"stored": true, "failed": false} {
		t.Run(name, func(t *testing.T) {
			var k marks
			k.add(nil, "r", "", "boot", true)
			k.add(nil, "idle", "", "boot", true)
			recs, cut := k.candidates("boot")
			require.Len(t, recs, 2)
			ids := k.beginClear(recs, cut)
			require.Len(t, ids, 2)
			require.True(t, k.clearing("r"))
			require.False(t, k.touch("r"), "it has to be stored anew")
			k.add(nil, "r", "", "boot", false)
			require.False(t, k.clearing("r"))
			k.endClear(ids, done)
			require.Equal(t, "boot", k.of("r"))
			require.False(t, k.touch("r"), "not before its transaction")
			k.stored("r")
			require.True(t, k.touch("r"))
			if done {
				require.Empty(t, k.of("idle"))
			} else {
				require.False(t, k.touch("idle"), "nobody knows whether the row has it")
			}
			recs, cut = k.candidates("boot")
			require.True(t, k.touch("r"))
			require.NotContains(t, k.beginClear(recs, cut), "r", "written to since")
			recs, _ = k.candidates("another")
			require.Empty(t, recs)
		})
	}
}
