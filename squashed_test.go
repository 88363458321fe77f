package cache_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// TestSquashedIsRemembered: a tree whose owners are not those of its layer is told by record and snapshot, also by another
// record that finds the snapshot in place.
func TestSquashedIsRemembered(t *testing.T) { // design section 6b
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		opt.Applier = apply.New(opt.ContentStore, apply.SquashOwners())
	}))
	r := newRegistry()
	files := []tree.Entry{tree.File("f", "f", tree.Owner(12345, 12345))}
	own := byBlob(t, env, r, r.layer(t, "gzip", files...), nil, cache.Unlazy(nil))
	require.Equal(t, "true", string(own.Get("layercache.squashed").Value))
	twin := byBlob(t, env, r, r.layer(t, "zstd", files...), nil, cache.Unlazy(nil))
	require.NotEqual(t, own.ID(), twin.ID())
	require.Equal(t, "true", string(twin.Get("layercache.squashed").Value))
	require.Error(t, own.SetString("layercache.squashed", "no", ""), "the key is the cache's own")
	requireFile(t, twin, "f", "f")
	release(t, own, twin)
}
