package snapshottest

import (
	"fmt"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// parallel is how many callers the concurrent checks have.
const parallel = 12

var concurrencyChecks = []check{
	{name: "ConcurrentLives", run: checkConcurrentLives},
	{name: "ConcurrentPrepareOfOneKey", run: checkConcurrentPrepare},
	{name: "ConcurrentCommitToOneName", run: checkConcurrentCommit},
}

// together runs do for 0..parallel-1, released at one moment, and returns the errors by index.
func together(do func(i int) error) []error {
	errs := make([]error, parallel)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range parallel {
		wg.Go(func() {
			<-start
			errs[i] = do(i)
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// winner returns the index of the only success; all others must have found the key taken.
func winner(t *testing.T, errs []error) int {
	t.Helper()
	won := -1
	for i, err := range errs {
		if err == nil {
			require.Equal(t, -1, won, "two callers got the same key")
			won = i
			continue
		}
		requireIs(t, err, errdefs.IsAlreadyExists)
	}
	require.NotEqual(t, -1, won, "nobody got the key")
	return won
}

func checkConcurrentLives(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	for _, err := range together(func(i int) error {
		key, name := fmt.Sprintf("a-%d", i), fmt.Sprintf("c-%d", i)
		if err := h.sn.Prepare(h.ctx, key, "base"); err != nil {
			return err
		}
		if _, err := h.sn.Mounts(h.ctx, key); err != nil {
			return err
		}
		if err := h.sn.Commit(h.ctx, name, key); err != nil {
			return err
		}
		if _, err := h.sn.View(h.ctx, "v-"+name, name); err != nil {
			return err
		}
		_, err := h.sn.Usage(h.ctx, name)
		return err
	}) {
		require.NoError(t, err)
	}
	for i := range parallel {
		info, err := h.sn.Stat(h.ctx, fmt.Sprintf("c-%d", i))
		require.NoError(t, err)
		require.Equal(t, snapshots.KindCommitted, info.Kind)
		require.Equal(t, "base", info.Parent)
	}
}

func checkConcurrentPrepare(t *testing.T, h *harness) {
	h.commit(t, "base", "", nil)
	winner(t, together(func(int) error { return h.sn.Prepare(h.ctx, "one", "base") }))
	require.Equal(t, snapshots.KindActive, h.kind(t, "one"))
	require.NoError(t, h.sn.Commit(h.ctx, "one-committed", "one"))
}

func checkConcurrentCommit(t *testing.T, h *harness) {
	for i := range parallel {
		h.prepare(t, fmt.Sprintf("a-%d", i), "", nil)
	}
	won := winner(t, together(func(i int) error { return h.sn.Commit(h.ctx, "one", fmt.Sprintf("a-%d", i)) }))
	require.Equal(t, snapshots.KindCommitted, h.kind(t, "one"))
	for i := range parallel {
		key := fmt.Sprintf("a-%d", i)
		if i == won {
			_, err := h.sn.Stat(h.ctx, key)
			requireIs(t, err, errdefs.IsNotFound)
			continue
		}
		require.Equal(t, snapshots.KindActive, h.kind(t, key), "a failed commit lost its snapshot")
	}
}
