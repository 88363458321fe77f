package invariant_test

import (
	"testing"

	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/invariant"
)

// Both builds are run in CI: plain, and with -tags invariants.
func TestViolationsPanicUnderTheTagOnly(t *testing.T) {
	boom := errors.New("boom")
	calls := map[string]func(){
		"NoError": func() { require.Equal(t, boom, invariant.NoError(boom)) },
		"Check":   func() { invariant.Check(false, "%d refs", -1) },
	}
	for name, call := range calls {
		if invariant.Enabled {
			require.Panics(t, call, name)
		} else {
			require.NotPanics(t, call, name)
		}
	}
	require.NotPanics(t, func() {
		require.NoError(t, invariant.NoError(nil))
		invariant.Check(true, "fine")
	})
}
