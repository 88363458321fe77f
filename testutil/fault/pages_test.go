package fault_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/fault"
)

func TestClearPages(t *testing.T) {
	size := os.Getpagesize()
	page := func(c byte) []byte { return bytes.Repeat([]byte{c}, size) }
	path := filepath.Join(t.TempDir(), "db")
	hit := append(page('b')[:size-4], "here"...)
	require.NoError(t, os.WriteFile(path, bytes.Join([][]byte{page('a'), hit, page('c'), []byte("here")}, nil), 0o600))
	n, err := fault.ClearPages(path, "here")
	require.NoError(t, err)
	require.Equal(t, 2, n)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(bytes.Join([][]byte{page('a'), page(0), page('c'), page(0)[:4]}, nil), got))
	_, err = fault.ClearPages(path+".none", "here")
	require.ErrorIs(t, err, os.ErrNotExist)
}
