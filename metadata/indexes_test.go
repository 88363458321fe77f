package metadata

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// indexEntry changes the index behind the store's back.
func indexEntry(t *testing.T, s *Store, entry string, present bool) {
	t.Helper()
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists([]byte("_index"))
		if err != nil {
			return err
		}
		if present {
			return b.Put([]byte(entry), nil)
		}
		return b.Delete([]byte(entry))
	}))
}

// Spec META-3, META-6, META-8: the index holds exactly what values name; what does not agree is found, and
// put right from the values.
func TestCheckIndexes(t *testing.T) {
	ctx := t.Context()
	s, _ := newStore(t)
	faults, err := s.CheckIndexes(ctx)
	require.NoError(t, err)
	require.Empty(t, faults, "an empty database")
	require.NoError(t, s.Write(func(w *Writer) error {
		for _, id := range []string{"a", "b"} {
			row, err := w.Create(id)
			if err != nil {
				return err
			}
			for key, index := range map[string]string{"k": "i", "same": "i", "sep": "x::y", "none": ""} {
				if err := row.Set(key, id, index); err != nil {
					return err
				}
			}
		}
		return nil
	}))
	faults, err = s.CheckIndexes(ctx)
	require.NoError(t, err)
	require.Empty(t, faults)

	indexEntry(t, s, "i::a", false)
	indexEntry(t, s, "stale::b", true)
	indexEntry(t, s, "i::gone", true)
	indexEntry(t, s, "no separator", true)
	want := []IndexFault{
		{Record: "a", Entry: "i::a", Missing: true},
		{Record: "gone", Entry: "i::gone"},
		{Entry: "no separator"},
		{Record: "b", Entry: "stale::b"},
	}
	faults, err = s.CheckIndexes(ctx)
	require.NoError(t, err)
	require.Equal(t, want, faults)

	repaired, err := s.RepairIndexes(ctx)
	require.NoError(t, err)
	require.Empty(t, repaired, "nothing was asked for")
	repaired, err = s.RepairIndexes(ctx, "i::gone", "i::b", "unknown")
	require.NoError(t, err)
	require.Equal(t, want[1:2], repaired, "what is right is left alone")
	repaired, err = s.RepairIndexes(ctx, "i::a", "no separator", "stale::b")
	require.NoError(t, err)
	require.Len(t, repaired, 3)
	faults, err = s.CheckIndexes(ctx)
	require.NoError(t, err)
	require.Empty(t, faults)
	items, err := s.Search(ctx, "i", false)
	require.NoError(t, err)
	require.Len(t, items, 2)
}

// Spec META-3: a database that lost its index bucket gets it back.
func TestRepairIndexesWithoutBucket(t *testing.T) {
	s, _ := newStore(t)
	require.NoError(t, s.Write(func(w *Writer) error {
		row, err := w.Create("a")
		if err != nil {
			return err
		}
		return row.Set("k", 1, "i")
	}))
	require.NoError(t, s.DB().Update(func(tx *bolt.Tx) error { return tx.DeleteBucket([]byte("_index")) }))
	repaired, err := s.RepairIndexes(t.Context(), "i::a")
	require.NoError(t, err)
	require.Len(t, repaired, 1)
	found, err := s.Probe("i")
	require.NoError(t, err)
	require.True(t, found)
}

func TestCheckIndexesErrors(t *testing.T) {
	s, _ := newStore(t)
	require.NoError(t, s.Write(func(w *Writer) error {
		row, err := w.Create("a")
		if err != nil {
			return err
		}
		return row.Set("k", 1, "i")
	}))
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := s.CheckIndexes(ended)
	require.ErrorIs(t, err, context.Canceled)
	_, err = s.RepairIndexes(ended, "i::a")
	require.ErrorIs(t, err, context.Canceled)

	require.NoError(t, s.Update("a", func(b *bolt.Bucket) error { return b.Put([]byte("k"), []byte("no envelope")) }))
	_, err = s.CheckIndexes(t.Context())
	require.ErrorIs(t, err, ErrCorrupt)
	_, err = s.RepairIndexes(t.Context(), "i::a")
	require.ErrorIs(t, err, ErrCorrupt)

	require.NoError(t, s.Close())
	_, err = s.CheckIndexes(t.Context())
	require.ErrorIs(t, err, ErrClosed)
	_, err = s.RepairIndexes(t.Context(), "i::a")
	require.ErrorIs(t, err, ErrClosed)
}
