package cache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// Fault 8, quirk Q33, spec MNT-2: the view of a snapshot that vanished goes with it, so that the next Mount shows what was made anew.
func TestViewOfALostSnapshot(t *testing.T) {
	for _, name := range []string{"doubles", "joined", "separate"} {
		t.Run(name, func(t *testing.T) {
			env := testutil.New(t, backends[name]...)
			r := newRegistry()
			ref := byBlob(t, env, r, r.layer(t, "gzip", tree.File("f", "text")), nil)
			requireFile(t, ref, "f", "text")
			snap := snapshotOf(t, env, ref.ID())
			require.Contains(t, snapshotNames(t, env), snap+"-view")
			require.NoError(t, env.Double.LoseSnapshot(snap))
			require.NoError(t, ref.Extract(ctx, nil))
			require.Equal(t, []string{snap}, snapshotNames(t, env))
			require.NotContains(t, leaseIDs(t, env), ref.ID()+"-view")
			requireFile(t, ref, "f", "text")
			release(t, ref)
			require.NotContains(t, leaseIDs(t, env), ref.ID()+"-view")
		})
	}
}
