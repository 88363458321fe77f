package overlaymounts

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSplitOptions: commas that are escaped or quoted belong to the option.
func TestSplitOptions(t *testing.T) {
	require.Equal(t, []string{"a", "b=1", "c"}, SplitOptions([]string{"a,b=1", "c"}))
	require.Equal(t, []string{`lowerdir=/x\,y`, "z"}, SplitOptions([]string{`lowerdir=/x\,y,z`}))
	require.Equal(t, []string{`context="u:r,s0"`, "z"}, SplitOptions([]string{`context="u:r,s0",z`}))
	require.Equal(t, []string{"a", "b"}, SplitOptions([]string{"a,,b,"})[:2])
	require.Empty(t, SplitOptions(nil))
	require.Equal(t, []string{`a\`}, SplitOptions([]string{`a\`}))
}
