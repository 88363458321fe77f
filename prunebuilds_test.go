package cache_test

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// Fault 22, fault 14, spec PRN-1, PRN-14: many identical builds at once - an image pulled and unpacked, steps on it, a merge, an export - and
// when all is released, a prune brings the disk back to where it was. What was there before stays.
func TestParallelBuildsLeaveNothing(t *testing.T) {
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		kept := finalized(t, env, nil, fileIn(t, "kept", "by somebody else"))
		r := newRegistry()
		b := &build{env: env, registry: r}
		b.layers[0] = r.layer(t, "gzip", tree.File("base", "of all"))
		b.layers[1] = r.layer(t, "zstd", tree.File("tool", "of all"))
		before, files := stored(t, env), filesBelow(t, env)

		const builds = 8
		var wg sync.WaitGroup
		for range builds {
			wg.Go(func() {
				if err := b.run(ctx); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if t.Failed() {
			return
		}
		require.Greater(t, stored(t, env), before)

		gone := prune(t, env, usage.PruneInfo{All: true})
		require.GreaterOrEqual(t, len(gone), 3+2*builds)
		require.Equal(t, before, stored(t, env))
		require.Equal(t, files, filesBelow(t, env))
		require.Equal(t, []string{kept.ID()}, leaseIDs(t, env))
		require.Equal(t, 1, rowCount(t, env))
		requireFile(t, kept, "kept", "by somebody else")
		requireNoWork(t, env)
		release(t, kept)
	})
}

// build is what each of the builds does.
type build struct {
	env *testutil.Env
	*registry
	layers [2]ocispecs.Descriptor
}

func (b *build) run(ctx context.Context) (err error) {
	m := b.env.Manager
	var held []cache.Ref
	keep := func(ref cache.ImmutableRef, rerr error) cache.ImmutableRef {
		if err == nil {
			err = rerr
		}
		if rerr == nil {
			held = append(held, ref)
		}
		return ref
	}
	defer func() {
		for _, ref := range held {
			if rerr := ref.Release(ctx); err == nil {
				err = rerr
			}
		}
	}()
	handlers := b.handlers(b.layers[0], b.layers[1])
	base := keep(m.GetByBlob(ctx, b.layers[0], nil, handlers))
	if err != nil {
		return err
	}
	image := keep(m.GetByBlob(ctx, b.layers[1], base, handlers))
	if err != nil {
		return err
	}
	if err := image.Extract(ctx, nil); err != nil {
		return err
	}
	var steps []cache.ImmutableRef
	for i := range 2 {
		steps = append(steps, keep(b.step(ctx, image, fmt.Sprint("step ", i))))
		if err != nil {
			return err
		}
	}
	merged := keep(m.Merge(ctx, steps, nil))
	if err != nil {
		return err
	}
	if err := merged.Extract(ctx, nil); err != nil {
		return err
	}
	_, err = merged.GetRemotes(ctx, true, as(codec.Gzip), false, nil)
	return err
}

// step writes one file on a parent.
func (b *build) step(ctx context.Context, parent cache.ImmutableRef, name string) (cache.ImmutableRef, error) {
	mut, err := b.env.Manager.New(ctx, parent, nil, cache.CachePolicyRetain)
	if err != nil {
		return nil, err
	}
	mounts, err := mut.Mount(ctx, false, nil)
	if err != nil {
		return nil, err
	}
	mounter := snapshot.LocalMounter(mounts)
	dir, err := mounter.Mount()
	if err != nil {
		return nil, err
	}
	err = os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600)
	if uerr := mounter.Unmount(); err == nil {
		err = uerr
	}
	if err != nil {
		return nil, err
	}
	ref, err := mut.Commit(ctx)
	if err != nil {
		return nil, err
	}
	return ref, ref.Finalize(ctx)
}

// filesBelow lists all files of the cache's directory and their sizes, without databases, which do not shrink.
func filesBelow(t *testing.T, env *testutil.Env) map[string]int64 {
	t.Helper()
	sizes := map[string]int64{}
	require.NoError(t, filepath.WalkDir(env.Dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) == ".db" {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sizes[path] = info.Size()
		}
		return err
	}))
	return sizes
}
