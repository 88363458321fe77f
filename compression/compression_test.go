package compression_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compression"
)

func TestConfigSettersReturnCopies(t *testing.T) {
	var base compression.Config
	changed := base.SetForce(true).SetLevel(9)
	require.True(t, changed.Force)
	require.Equal(t, 9, *changed.Level)
	require.False(t, base.Force)
	require.Nil(t, base.Level)
}
