package metadata

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/util/db/compaction"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	lib "github.com/layercache/cache/metadata"
)

// set stores a value under a key of a record.
func set(t *testing.T, s *Store, id, value string) {
	t.Helper()
	v, err := NewValue(value)
	require.NoError(t, err)
	v.Index = "index:" + id
	item, _ := s.Get(id)
	require.NoError(t, item.Update(func(b *bolt.Bucket) error { return item.SetValue(b, "key", v) }))
}

// TestCompaction has BuildKit's scheduler, which finds the database by its path, swap the file of an open store. The store goes on, and so
// it does when it is opened again.
// spec META-2
func TestCompaction(t *testing.T) {
	path := filepath.Join(t.TempDir(), "metadata_v2.db")
	s, err := NewStore(path, compaction.Config{
		ManualOnly: true, WritesPerCheck: 1, SizeWatermark: 1, SizeGrowthPercent: 1, IdleTimeout: time.Millisecond, MinReclaimBytes: 1, MinReclaimPercent: 1, MinReclaimPercentFloor: 1,
	})
	require.NoError(t, err)
	set(t, s, "kept", "before")
	kept, ok := s.Get("kept")
	require.True(t, ok)
	for i := range 50 {
		set(t, s, fmt.Sprint("gone", i), strings.Repeat("x", 10_000))
	}
	for i := range 50 {
		require.NoError(t, s.Clear(fmt.Sprint("gone", i)))
	}
	before, err := os.Stat(path)
	require.NoError(t, err)
	request, err := compaction.Files()[path].Request(context.Background())
	require.NoError(t, err)
	outcome := <-request.Done()
	require.Empty(t, outcome.Error)
	require.True(t, outcome.Result.Compacted)
	after, err := os.Stat(path)
	require.NoError(t, err)
	require.Less(t, after.Size(), before.Size())

	var text string
	require.NoError(t, kept.Get("key").Unmarshal(&text))
	require.Equal(t, "before", text)
	set(t, s, "kept", "after")
	require.NoError(t, s.Close())
	require.NotContains(t, compaction.Files(), path)

	s, err = NewStore(path)
	require.NoError(t, err)
	items, err := s.Search(context.Background(), "index:", true)
	require.NoError(t, err)
	require.Len(t, items, 1)
	require.NoError(t, items[0].Get("key").Unmarshal(&text))
	require.Equal(t, "after", text)
	require.NoError(t, s.Close())
}

// TestOpenFails: what is there of an older format is refused and left, and so is what is no database.
func TestOpenFails(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "metadata.db"), nil, 0o600))
	path := filepath.Join(dir, "metadata_v2.db")
	_, err := NewStore(path)
	require.ErrorIs(t, err, lib.ErrLegacyMetadata)
	require.NoFileExists(t, path)

	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("no database\n", 1000)), 0o600))
	_, err = NewStore(path)
	require.ErrorContains(t, err, path)
}
