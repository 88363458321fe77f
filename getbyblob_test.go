package cache_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// TestBlobChain pulls and unpacks a chain of layers when its top is mounted, and not before.
func TestBlobChain(t *testing.T) { // spec MGR-27, EXT-3, EXT-6, PULL-1, scenario S-6
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		a := r.layer(t, "gzip", tree.Dir("etc"), tree.File("etc/a", "a"), tree.File("etc/b", "b"))
		b := r.layer(t, "zstd", tree.Dir("etc"), tree.Whiteout("etc/a"), tree.File("etc/c", "c"))
		c := r.layer(t, "", tree.Dir("d"), tree.Hardlink("d/link", "etc/c"))
		base := byBlob(t, env, r, a, nil)
		mid := byBlob(t, env, r, b, base)
		top := byBlob(t, env, r, c, mid)
		require.Zero(t, r.opened(a.Digest)+r.opened(b.Digest)+r.opened(c.Digest))
		testutil.WithMount(t, top, true, func(dir string) {
			for name, want := range map[string]string{"etc/b": "b", "etc/c": "c", "d/link": "c"} {
				got, err := os.ReadFile(filepath.Join(dir, name))
				require.NoError(t, err)
				require.Equal(t, want, string(got))
			}
			require.NoFileExists(t, filepath.Join(dir, "etc/a"))
		})
		require.Equal(t, 1, r.opened(a.Digest))
		names, err := mid.FileList(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"etc", "etc/.wh.a", "etc/c"}, names)
		release(t, base, mid, top)
	})
}
