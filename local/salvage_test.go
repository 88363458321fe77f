package local

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/metadata"
)

// A damaged database of records costs the records that were hit. The caller is told, or gets the
// error if that is what the options ask for. fault 30
func TestSalvage(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, Options{Snapshotter: Native})
	var made []string
	for i := range 12 {
		mutable, err := c.New(t.Context(), nil, nil)
		require.NoError(t, err)
		ref, err := mutable.Commit(t.Context())
		require.NoError(t, err)
		require.NoError(t, ref.Finalize(t.Context()))
		// Long enough for a page of its own.
		require.NoError(t, ref.SetString("pad", fmt.Sprintf("padding %02d %s", i, strings.Repeat("x", 1100)), fmt.Sprint("index:", i)))
		made = append(made, ref.ID())
		require.NoError(t, ref.Release(t.Context()))
	}
	require.Nil(t, c.Parts.Salvaged)
	require.NoError(t, c.Close())

	path := filepath.Join(dir, recordsDB)
	content, err := os.ReadFile(path)
	require.NoError(t, err)
	hit := 0
	for at := 0; at < len(content); at += 4096 {
		if page := content[at : at+4096]; bytes.Contains(page, []byte("padding 07")) {
			clear(page)
			hit++
		}
	}
	require.Positive(t, hit)
	require.NoError(t, os.WriteFile(path, content, 0o600))

	_, err = Open(t.Context(), dir, Options{NoSalvage: true})
	require.ErrorIs(t, err, metadata.ErrCorrupt)
	after, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, content, after)

	c = openCache(t, dir, Options{})
	report := c.Parts.Salvaged
	require.NotNil(t, report)
	require.Equal(t, []string{made[7]}, report.Lost)
	require.Equal(t, len(made)-1, report.Records)
	kept, err := os.ReadFile(report.Damaged)
	require.NoError(t, err)
	require.Equal(t, content, kept)
	<-c.collecting
	for i, id := range made {
		ref, err := c.Get(t.Context(), id, nil)
		found, errSearch := c.Search(t.Context(), fmt.Sprint("index:", i), false)
		require.NoError(t, errSearch)
		if i == 7 {
			require.True(t, errdefs.IsNotFound(err))
			require.Empty(t, found)
			continue
		}
		require.NoError(t, err)
		require.Len(t, found, 1)
		require.NoError(t, ref.Release(t.Context()))
	}
	// The store ID survived, so the lost record's lease is known as this store's, and goes.
	require.False(t, report.NewStoreID)
	leases, err := c.Parts.LeaseManager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, leases, len(made)-1)
	require.NoError(t, c.Close())
	require.Nil(t, openCache(t, dir, Options{NoSalvage: true}).Parts.Salvaged)
}
