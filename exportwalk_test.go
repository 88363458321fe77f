package cache_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// namesOf lists the names in an uncompressed archive.
func namesOf(t *testing.T, data []byte) (names []string) {
	t.Helper()
	r := tar.NewReader(bytes.NewReader(data))
	for {
		hdr, err := r.Next()
		if errors.Is(err, io.EOF) {
			return names
		}
		require.NoError(t, err)
		names = append(names, hdr.Name)
	}
}

// TestWalk: the blobs of a record are those of its layers, bottom first: of a layer those below and its own, of a merge its parents' in their order, of
// a diff its upper's one where that is all it is, and else one of its own. What is not among them gets none.
func TestWalk(t *testing.T) { // spec WALK-1, WALK-2, BLOB-1, BLOB-4, RMT-3, MGR-37
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := built(t, env, nil, dated("base", "x"))
		mid := built(t, env, base, dated("mid", "x"))
		top := built(t, env, mid, dated("top", "x"))
		other := built(t, env, nil, dated("other", "x"), dated("base", "differs"))
		onOther := built(t, env, other, dated("on other", "x"))
		merge, err := env.Manager.Merge(ctx, []cache.ImmutableRef{top, onOther, base}, nil)
		require.NoError(t, err)
		upper := diffOf(t, env, mid, top)   // is top's layer
		own := diffOf(t, env, onOther, mid) // is nobody's
		whole := diffOf(t, env, other, base)
		removal, err := env.Manager.Diff(ctx, base, nil, nil)
		require.NoError(t, err)
		refs := []cache.ImmutableRef{upper, own, whole, removal, merge, top, onOther, base, mid, other}
		layers := map[string][]string{ // in the order of export
			upper.ID():   {"top"},
			own.ID():     {"base,mid,.wh.on other,.wh.other"},
			whole.ID():   {"base,.wh.other"},
			removal.ID(): {".wh.base"},
			merge.ID():   {"base", "mid", "top", "base,other", "on other", "base"},
			top.ID():     {"base", "mid", "top"},
			onOther.ID(): {"base,other", "on other"},
			base.ID():    {"base"}, mid.ID(): {"base", "mid"}, other.ID(): {"base,other"},
		}
		for i, ref := range refs {
			got := export(t, ref, as(codec.Uncompressed))
			var names []string
			for _, desc := range got.Descriptors {
				one := ""
				for j, name := range namesOf(t, readBlob(t, got, desc)) {
					if j > 0 {
						one += ","
					}
					one += name
				}
				names = append(names, one)
			}
			require.Equal(t, layers[ref.ID()], names, "%d", i)
			if ref == upper {
				for _, below := range []cache.ImmutableRef{base, mid, upper} {
					require.Empty(t, below.GetString("cache.blob"))
				}
				require.Equal(t, got.Descriptors[0].Digest.String(), top.GetString("cache.blob"))
			}
		}
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestCheckerSeesTheBlobs: the checker of external references is told the blobs of a record as they are now: none before there is one, and of
// a diff that is one layer that layer's alone.
func TestCheckerSeesTheBlobs(t *testing.T) { // spec WALK-3, DU-4, quirks Q45 and Q46
	var mu sync.Mutex
	seen := map[string][]digest.Digest{}
	image := ""
	eachBackendWith(t, func(t *testing.T, env *testutil.Env) {
		image = ""
		base := built(t, env, nil, dated("base", "x"))
		top := built(t, env, base, dated("top", "x"))
		diff := diffOf(t, env, base, top)
		shared := func() (ids []string) {
			t.Helper()
			for id, u := range usageByID(t, env) {
				if u.Shared {
					ids = append(ids, id)
				}
			}
			return ids
		}
		require.Empty(t, shared())
		require.Equal(t, [][]digest.Digest{{""}, {"", ""}, {""}}, [][]digest.Digest{seen[base.ID()], seen[top.ID()], seen[diff.ID()]})
		one := digestsOf(export(t, diff, as(codec.Gzip)).Descriptors)
		require.Empty(t, shared())
		require.Equal(t, [][]digest.Digest{{""}, {"", one[0]}, one}, [][]digest.Digest{seen[base.ID()], seen[top.ID()], seen[diff.ID()]})
		both := digestsOf(export(t, top, as(codec.Gzip)).Descriptors)
		require.Equal(t, one[0], both[1])
		image = chainOfDigests(both)
		require.ElementsMatch(t, []string{base.ID(), top.ID()}, shared())
		require.Equal(t, [][]digest.Digest{both[:1], both, one}, [][]digest.Digest{seen[base.ID()], seen[top.ID()], seen[diff.ID()]})

		release(t, base, top, diff)
		gone := prune(t, env, usage.PruneInfo{})
		require.Equal(t, []string{diff.ID()}, prunedIDs(gone), "what an image has is not deleted")
		image = ""
		require.Len(t, prune(t, env, usage.PruneInfo{}), 2)
	}, testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		opt.PruneRefChecker = func() (cache.ExternalRefChecker, error) {
			return checkerFunc(func(id string, blobs []digest.Digest) bool {
				mu.Lock()
				defer mu.Unlock()
				seen[id] = blobs
				return image != "" && image == chainOfDigests(blobs)
			}), nil
		}
	}))
}

func chainOfDigests(ds []digest.Digest) (chain string) {
	for _, d := range ds {
		chain += d.String() + " "
	}
	return chain
}

// TestBaseWithLinksToTheHost: what is below a layer is looked up in the tree and not on the host, wherever links of it lead; so a file that is
// like one of the host's by accident is in the blob.
func TestBaseWithLinksToTheHost(t *testing.T) { // spec APP-2, OVL-3, scenario S-32, quirk Q59
	host := t.TempDir()
	when := time.Unix(1_600_000_000, 0)
	require.NoError(t, os.WriteFile(filepath.Join(host, "file"), []byte("text"), 0o644))
	require.NoError(t, os.Chmod(filepath.Join(host, "file"), 0o644))
	require.NoError(t, os.Chtimes(filepath.Join(host, "file"), when, when))
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		base := built(t, env, nil, tree.Symlink("dir", host), dated("other", "x"))
		child := finalized(t, env, base, func(dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "dir")))
			testutil.WriteTree(t, dir, tree.File("dir/file", "text", tree.Time(when)))
		})
		unrelated := built(t, env, nil, tree.Symlink("dir", host))
		for _, ref := range []cache.ImmutableRef{child, diffOf(t, env, unrelated, child)} {
			got := export(t, ref, as(codec.Uncompressed))
			last := got.Descriptors[len(got.Descriptors)-1]
			require.Subset(t, namesOf(t, readBlob(t, got, last)), []string{"dir/", "dir/file"})
			release(t, ref)
		}
		data, err := os.ReadFile(filepath.Join(host, "file"))
		require.NoError(t, err)
		require.Equal(t, "text", string(data))
		release(t, base, unrelated)
	})
}
