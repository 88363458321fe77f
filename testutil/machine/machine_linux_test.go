package machine

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestDescribe(t *testing.T) {
	m, err := Describe(t.TempDir())
	require.NoError(t, err)
	require.Positive(t, m.CPUs)
	for _, s := range []string{m.CPU, m.Memory, m.Kernel, m.Filesystem, m.GoVersion} {
		require.NotEmpty(t, s)
		require.Contains(t, m.Markdown(), s)
	}
	_, err = Describe(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
