package metadata

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// growth is what a store of a steady number of records costs over a part of a long run.
type growth struct {
	commits, pages, bytes int64
	size                  int64 // of the file in the end
}

func (g growth) perCommit() float64 { return float64(g.pages) / float64(g.commits) }

// churnBatch is how many records one transaction makes, and another removes.
const churnBatch = 20

// churn makes records and removes the oldest ones, so that there are always as many as before,
// and returns what each tenth of it cost.
func churn(t *testing.T, path string, live, total int) []growth {
	t.Helper()
	f, _, err := openFile(path, newOptions(nil))
	require.NoError(t, err)
	f.bolt.NoSync = true // what is counted does not depend on it
	s := NewStoreWithDB(f)
	id := func(i int) string { return fmt.Sprintf("%08x-%d", uint32(i)*2654435761, i) } // in no order
	require.NoError(t, s.Write(func(w *Writer) error {
		for i := range live {
			if err := fill(w, id(i)); err != nil {
				return err
			}
		}
		return nil
	}))
	var out []growth
	for part := range 10 {
		before := f.bolt.Stats()
		g := growth{}
		for at := part * total / 10; at < (part+1)*total/10; at += churnBatch {
			batch := func(do func(w *Writer, i int) error) {
				require.NoError(t, s.Write(func(w *Writer) error {
					for i := at; i < at+churnBatch; i++ {
						if err := do(w, i); err != nil {
							return err
						}
					}
					return nil
				}))
				g.commits++
			}
			batch(func(w *Writer, i int) error { return fill(w, id(live+i)) })
			batch(func(w *Writer, i int) error { return w.Remove(id(i)) })
		}
		stats := f.bolt.Stats()
		cost := stats.Sub(&before)
		g.pages, g.bytes = cost.TxStats.GetPageCount(), cost.TxStats.GetPageAlloc()
		fi, err := os.Stat(path)
		require.NoError(t, err)
		g.size = fi.Size()
		out = append(out, g)
	}
	require.Len(t, allIDs(t, s), live)
	require.NoError(t, s.Close())
	return out
}

// TestGrowth makes and removes 100000 records. The file is at its final size after the first
// tenth, and a commit writes as many pages at the end as it did at the beginning.
// fault 35
func TestGrowth(t *testing.T) {
	live, total := 1000, 100_000
	if testing.Short() {
		live, total = 500, 4000
	}
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	parts := churn(t, path, live, total)
	first, last := parts[0], parts[9]
	require.LessOrEqual(t, last.size, first.size)
	require.Less(t, last.size, int64(live)*8<<10) // a record of six keys takes less than 1 KB, twice: old and new
	require.Positive(t, first.pages)
	require.InEpsilon(t, first.perCommit(), last.perCommit(), 0.1)
	require.Less(t, last.perCommit(), 10.0*churnBatch)
	require.InEpsilon(t, float64(first.bytes)/float64(first.commits), float64(last.bytes)/float64(last.commits), 0.1)
}
