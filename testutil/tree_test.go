package testutil_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// TestTreesInLayers: a declared tree written into a layer is what a later mount of it holds, and a
// difference fails the test.
func TestTreesInLayers(t *testing.T) {
	ctx := context.Background()
	env := testutil.New(t)
	entries := []tree.Entry{
		tree.File("bin/sh", "#!", tree.Mode(0o755)), tree.Hardlink("bin/bash", "bin/sh"), tree.Symlink("sh", "bin/sh"), tree.Fifo("pipe"),
	}
	base := testutil.MakeLayer(t, env, nil, func(dir string) { testutil.WriteTree(t, dir, entries...) })
	top := testutil.MakeLayer(t, env, base, func(dir string) { testutil.WriteTree(t, dir, tree.File("new", "")) })
	for ref, want := range map[cache.ImmutableRef][]tree.Entry{base: entries, top: append(entries, tree.File("new", ""))} {
		testutil.WithMount(t, ref, true, func(dir string) { testutil.RequireTree(t, dir, want...) })
		require.NoError(t, ref.Release(ctx))
	}

	r := &recorder{TB: t}
	testutil.DiffTree(r, tree.Tree{"f": tree.File("f", "")}, tree.Tree{})
	require.Equal(t, []string{"the trees differ:\nf: file is missing"}, r.errs)
}
