package cache_test

import (
	"math/rand/v2"

	"github.com/layercache/cache"
)

// derive merges what is at hand, now and then the same twice, or makes a diff of it, and uses the result.
func (s *stress) derive(rng *rand.Rand) (err error) {
	inputs := cache.RefList{s.base.Clone()}
	defer func() {
		if rerr := inputs.Release(ctx); err == nil {
			err = rerr
		}
	}()
	for range 1 + rng.IntN(3) {
		ref, err := s.m.Get(ctx, s.pick(rng), nil, s.handlers)
		if err != nil {
			if expected(err) != nil {
				return err
			}
			ref = s.base.Clone()
		}
		inputs = append(inputs, ref)
	}
	rng.Shuffle(len(inputs), func(i, j int) { inputs[i], inputs[j] = inputs[j], inputs[i] })
	var ref cache.ImmutableRef
	switch rng.IntN(3) {
	case 0:
		ref, err = s.m.Diff(ctx, inputs[0], inputs[1], nil)
	case 1:
		ref, err = s.m.Diff(ctx, inputs[0], nil, nil)
	default:
		ref, err = s.m.Merge(ctx, inputs, nil)
	}
	if err != nil {
		return err
	}
	s.remember(ref.ID())
	inputs = append(inputs, ref)
	return s.useLayer(ctx, rng, ref)
}
