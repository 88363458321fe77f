package listfile

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRead(t *testing.T) {
	got, err := Read(strings.NewReader("# head\n\n a b # note\n#x\nc#d\n"))
	require.NoError(t, err)
	require.Equal(t, []Entry{{3, []string{"a", "b"}}, {5, []string{"c#d"}}}, got)
}

func TestReadFileRefusesAnEmptyList(t *testing.T) {
	name := filepath.Join(t.TempDir(), "list")
	require.NoError(t, os.WriteFile(name, []byte("# nothing\n"), 0o600))
	_, err := ReadFile(name)
	require.ErrorContains(t, err, "the list is empty")
	_, err = ReadFile(name + ".absent")
	require.ErrorIs(t, err, os.ErrNotExist)
}
