package cache_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
)

// fileIn returns a fill function for testutil.MakeLayer that writes one file.
func fileIn(t testing.TB, name, text string) func(dir string) {
	t.Helper()
	return func(dir string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
}

// requireFile mounts a ref read-only and compares one of its files.
func requireFile(t *testing.T, ref cache.Mountable, name, want string) {
	t.Helper()
	testutil.WithMount(t, ref, true, func(dir string) {
		got, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	})
}

// finalized makes a layer whose snapshot is committed, and returns the ref that Commit gave.
func finalized(t *testing.T, env *testutil.Env, parent cache.ImmutableRef, fill func(dir string), opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	layer := testutil.MakeLayer(t, env, parent, fill, opts...)
	require.NoError(t, layer.Finalize(ctx))
	return layer
}

func get(t *testing.T, env *testutil.Env, id string, opts ...cache.RefOption) cache.ImmutableRef {
	t.Helper()
	ref, err := env.Manager.Get(ctx, id, nil, opts...)
	require.NoError(t, err)
	return ref
}

// leaseOf returns the lease with an ID and what it lists; nil if there is none.
func leaseOf(t *testing.T, env *testutil.Env, id string) (*leases.Lease, []leases.Resource) {
	t.Helper()
	ls, err := env.Opt.LeaseManager.List(ctx)
	require.NoError(t, err)
	for _, l := range ls {
		if l.ID == id {
			rs, err := env.Opt.LeaseManager.ListResources(ctx, l)
			require.NoError(t, err)
			return &l, rs
		}
	}
	return nil, nil
}

// eachFault runs a scenario on every backend in memory: once to learn how many points act passes,
// then once per point with the call there failing. check gets act's error. more are options for the cache.
func eachFault(t *testing.T, fault error, scenario func(t *testing.T, env *testutil.Env) (act func() error, check func(t *testing.T, err error)), more ...testutil.Option) {
	t.Helper()
	for _, name := range []string{"doubles", "joined", "separate"} {
		t.Run(name, func(t *testing.T) {
			run := func(n int) (points int) {
				env := testutil.New(t, append(more, backends[name]...)...)
				act, check := scenario(t, env)
				env.Faults.Reset()
				if n > 0 {
					env.Faults.FailAt(n, fault)
				}
				err := act()
				points = env.Faults.Len()
				if n == 0 {
					require.NoError(t, err)
				}
				require.Empty(t, env.Faults.Pending(), "point %d", n)
				t.Logf("point %d: %v", n, err)
				env.Faults.Reset()
				check(t, err)
				return points
			}
			points := run(0)
			require.Positive(t, points)
			for n := 1; n <= points; n++ {
				run(n)
			}
		})
	}
}

// rowCount returns the number of rows on disk.
func rowCount(t *testing.T, env *testutil.Env) int {
	t.Helper()
	items, err := env.Opt.MetadataStore.All()
	require.NoError(t, err)
	return len(items)
}
