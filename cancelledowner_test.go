package cache_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// Spec SIZE-6, PRN-17, fault 14: what a record owned together with others is counted at these, also if nobody waited for the end of the deletion.
func TestHeirsOfACancelledPrune(t *testing.T) {
	env := testutil.New(t, testutil.Doubles())
	r := newRegistry()
	base := byBlob(t, env, r, r.layer(t, "gzip", tree.File("base", "1")), nil)
	files := tree.File("f", "in two compressions")
	owner, heir := byBlob(t, env, r, r.layer(t, "gzip", files), base), byBlob(t, env, r, r.layer(t, "zstd", files), base)
	require.NoError(t, owner.Extract(ctx, nil))
	requireAccounted(t, env, "the heir has extracted nothing")
	id := owner.ID()
	release(t, owner, heir, base)

	short, cancel := context.WithCancel(ctx)
	block := env.Faults.BlockOp(fault.OpLeaseDelete)
	done := make(chan error, 1)
	go func() {
		done <- env.Manager.Prune(short, nil, usage.PruneInfo{All: true, Filter: []string{"id==" + id}})
	}()
	<-block.Entered()
	cancel()
	require.ErrorIs(t, <-done, context.Canceled)
	block.Release()
	cache.Quiesce(env.Manager)
	require.NotContains(t, usageByID(t, env), id)
	requireAccounted(t, env, "the owner is gone")
}
