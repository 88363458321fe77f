package cache_test

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
)

// newStress makes the verbs for a cache. Its layers from blobs come from one registry.
func newStress(t testing.TB, env *testutil.Env, base cache.ImmutableRef) *stress {
	t.Helper()
	blobs := newSceneBlobs(t)
	return &stress{env: env, base: base, m: env.Manager, blobs: blobs, handlers: blobs.through(env.Faults)}
}

// layers are the verbs on layers that come from blobs: a chain of them is got, by somebody who now and then leaves, and
// its top is used in one way or another.
func (s *stress) layers(rng *rand.Rand) (err error) {
	ctx, cancel := ctx, func() {}
	if rng.IntN(4) == 0 {
		ctx, cancel = context.WithTimeout(ctx, time.Duration(rng.IntN(3000))*time.Microsecond)
	}
	defer cancel()
	var chain cache.RefList
	defer func() {
		if rerr := chain.Release(context.WithoutCancel(ctx)); err == nil {
			err = rerr
		}
		if ctx.Err() != nil && errors.Is(err, context.DeadlineExceeded) {
			err = nil // it left
		}
	}()
	var top cache.ImmutableRef
	for _, name := range []string{"gz", "zs", "ln"}[:1+rng.IntN(3)] {
		opts := []cache.RefOption{s.handlers}
		switch rng.IntN(6) {
		case 0:
			opts = append(opts, cache.Unlazy(nil))
		case 1:
			opts = append(opts, cache.WithImageRef("registry.test/"+string(rune('a'+rng.IntN(3)))))
		}
		ref, err := s.m.GetByBlob(ctx, s.blobs.descs[name], top, opts...)
		if err != nil {
			return err
		}
		s.remember(ref.ID())
		top, chain = ref, append(chain, ref)
	}
	return s.useLayer(ctx, rng, top)
}

func (s *stress) useLayer(ctx context.Context, rng *rand.Rand, ref cache.ImmutableRef) error {
	switch rng.IntN(7) {
	case 5, 6:
		return s.export(ctx, rng, ref)
	case 0:
		return ref.Extract(ctx, nil)
	case 1:
		_, err := ref.FileList(ctx, nil)
		return err
	case 2:
		_, err := ref.Mount(ctx, true, nil)
		return err
	case 3:
		mut, err := s.m.New(ctx, ref, nil)
		if err != nil {
			return err
		}
		return s.write(rng, mut)
	}
	return nil
}

// export gets the blobs of a record in one form or another and reads them. It is all one whether it has any.
func (s *stress) export(ctx context.Context, rng *rand.Rand, ref cache.ImmutableRef) error {
	kinds := []compression.Type{codec.Gzip, codec.Zstd, codec.Uncompressed, codec.EStargz}
	cfg := as(kinds[rng.IntN(len(kinds))])
	cfg.Compression.Force = rng.IntN(3) == 0
	create, all := rng.IntN(4) > 0, rng.IntN(4) == 0
	remotes, err := ref.GetRemotes(ctx, create, cfg, all, nil)
	if !create && (errors.Is(err, cache.ErrNoBlobs) || cfg.Compression.Force && errdefs.IsNotFound(err)) {
		return nil
	}
	if err != nil {
		return errors.Wrap(err, "exporting")
	}
	return errors.Wrap(readAll(ctx, remotes[rng.IntN(len(remotes))]), "reading what was exported")
}
