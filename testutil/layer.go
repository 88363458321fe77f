package testutil

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/usage"
)

// MakeLayer makes a layer on parent (nil for none): New with the options, a writable mount that fill
// writes to (nil writes nothing), Commit. The caller releases the ref; the layer is not finalized.
func MakeLayer(t testing.TB, env *Env, parent cache.ImmutableRef, fill func(dir string), opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	ctx := context.Background()
	ref, err := env.Manager.New(ctx, parent, nil, opts...)
	require.NoError(t, err)
	if fill != nil {
		WithMount(t, ref, false, fill)
	}
	layer, err := ref.Commit(ctx)
	require.NoError(t, err)
	return layer
}

// WithMount mounts a ref, calls fn with the directory, and unmounts it, also if fn ends the test.
func WithMount(t testing.TB, ref cache.Mountable, readonly bool, fn func(dir string)) {
	t.Helper()
	m, err := ref.Mount(context.Background(), readonly, nil)
	require.NoError(t, err)
	mounter := snapshot.LocalMounter(m)
	dir, err := mounter.Mount()
	require.NoError(t, err)
	defer func() {
		if err := mounter.Unmount(); err != nil {
			t.Errorf("unmounting: %v", err)
		}
	}()
	fn(dir)
}

// Usage returns how many records are in use and how many are not, by DiskUsage.
func Usage(t testing.TB, env *Env) (inUse, idle int) {
	t.Helper()
	infos, err := env.Manager.DiskUsage(context.Background(), usage.DiskUsageInfo{})
	require.NoError(t, err)
	for _, info := range infos {
		if info.InUse {
			inUse++
		} else {
			idle++
		}
	}
	return inUse, idle
}
