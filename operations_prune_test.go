package cache_test

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/usage"
)

// This file holds the operation on more records than Prune deletes in one go.

func init() {
	first, second := manyBatches()
	operations["prune of many"] = operation{
		arrange: many,
		do: func(ctx context.Context, s *scene) error {
			return s.env.Manager.Prune(ctx, nil, usage.PruneInfo{All: true})
		},
		states: []string{"", allGone(first), allGone(first, second)},
		blob:   true, again: true, many: true,
	}
}

// How many chains, and leaves of one base, there are: with what else many makes, as many records are leaves, or have nothing but leaves on them,
// as Prune deletes in one go. So they are what the first batch consists of, whatever their IDs are.
const (
	manyChains     = 15
	manyLeaves     = 25
	layersPerChain = 4
)

func chainName(chain, layer int) string { return fmt.Sprintf("c%02d.%d", chain, layer) }

func leafName(leaf int) string { return fmt.Sprintf("leaf%02d", leaf) }

// many makes chains, children of one base, two merges with one tree, and layers with one blob, and lets go of all of them.
func many(s *scene) {
	cache.SetPruneBatch(s.env.Manager, batch)
	keep := cache.CachePolicyRetain
	done := func(refs ...cache.ImmutableRef) {
		for _, ref := range refs {
			require.NoError(s.t, ref.Release(ctx))
		}
	}
	for c := range manyChains {
		var below cache.ImmutableRef
		for l := range layersPerChain {
			ref := s.finalized(chainName(c, l), below, keep)
			if below != nil {
				done(below)
			}
			below = ref
		}
		done(below)
	}
	base := s.finalized("base", nil, keep)
	for l := range manyLeaves {
		done(s.finalized(leafName(l), base, keep))
	}
	left, right := s.finalized("left", nil, keep), s.finalized("right", nil, keep)
	above := s.finalized("above", right, keep)
	for _, name := range []string{"merge", "same merge"} {
		ref, err := s.env.Manager.Merge(ctx, []cache.ImmutableRef{left, above}, nil)
		require.NoError(s.t, err)
		require.NoError(s.t, ref.Extract(ctx, nil))
		s.names[name] = names{Imm: ref.ID()}
		done(ref)
	}
	done(base, left, right, above)
	gz := s.lazyLayer("gz", "gz", nil)
	zs := s.lazyLayer("zs", "zs", gz)
	_, err := zs.FileList(ctx, nil)
	require.NoError(s.t, err)
	done(gz, zs, s.lazyLayer("zs alone", "zs", nil))
	clear(s.lazy)
}

// manyBatches names what Prune deletes of that at first, and then.
func manyBatches() (first, second []string) {
	for c := range manyChains {
		for l := range layersPerChain {
			if l < layersPerChain-2 {
				second = append(second, chainName(c, l))
			} else {
				first = append(first, chainName(c, l))
			}
		}
	}
	for l := range manyLeaves {
		first = append(first, leafName(l))
	}
	first = append(first, "base", "pair", "left", "above", "merge", "same merge", "gz", "zs", "zs alone")
	return first, append(second, "right")
}

// allGone is the state in which all of these records are.
func allGone(batches ...[]string) string {
	list := slices.Concat(batches...)
	slices.Sort(list)
	return strings.Join(list, " gone, ") + " gone"
}
