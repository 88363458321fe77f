package cache_test

import (
	"archive/tar"
	"bytes"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
)

// TestFileList lists a layer's archive as it is, cleaned and sorted, once; the list is kept with the record.
func TestFileList(t *testing.T) { // spec REF-20, quirk Q43
	for _, compression := range []string{"", "gzip", "zstd"} {
		t.Run("compression "+compression, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				desc := r.blob(t, compression, archive(t, "./", "z", "./b/", "b/../b/c", "b/.wh.gone", "B", "/abs", "ü", "b/.wh..wh..opq"))
				want := []string{".", "/abs", "B", "b", "b/.wh..wh..opq", "b/.wh.gone", "b/c", "z", "ü"}
				ref := byBlob(t, env, r, desc, nil)
				env.Faults.Reset()
				names, err := ref.FileList(ctx, nil)
				require.NoError(t, err)
				require.Equal(t, want, names)
				require.Equal(t, env.Faults.Count(fault.OpContentReaderAt), env.Faults.Count(fault.OpReaderClose), "readers are closed")
				require.Empty(t, snapshotNames(t, env), "nothing is unpacked")
				names[0] = "changed by the caller"

				kept, err := ref.GetExternal("filelist")
				require.NoError(t, err)
				require.JSONEq(t, `[".","/abs","B","b","b/.wh..wh..opq","b/.wh.gone","b/c","z","ü"]`, string(kept))
				release(t, ref)
				env.Reopen()
				plain := get(t, env, ref.ID())
				env.Faults.Reset()
				names, err = plain.FileList(ctx, nil)
				require.NoError(t, err)
				require.Equal(t, want, names)
				require.Zero(t, env.Faults.Count("content.*"))
				release(t, plain)
			})
		})
	}
}

// archive packs empty files, and directories where the name ends with a slash, under names as they are given.
func archive(t testing.TB, names ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, name := range names {
		hdr := &tar.Header{Name: name, Mode: 0o644, Typeflag: tar.TypeReg}
		if strings.HasSuffix(name, "/") {
			hdr.Typeflag, hdr.Mode = tar.TypeDir, 0o755
		}
		require.NoError(t, w.WriteHeader(hdr))
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// TestFileListWithoutBlob is empty, and nothing is kept that would be wrong once there is one.
func TestFileListWithoutBlob(t *testing.T) { // spec REF-20
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := finalized(t, env, nil, fileIn(t, "f", "x"))
		names, err := ref.FileList(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, names)
		_, err = ref.GetExternal("filelist")
		require.Error(t, err)
		release(t, ref)
	})
}

// TestKeptFileList: a list that somebody spoilt is made anew; BuildKit's "null" is an empty one.
func TestKeptFileList(t *testing.T) { // spec REF-20, section 1.2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		ref := byBlob(t, env, r, r.layer(t, "gzip", tree.File("f", "x")), nil)
		for _, spoilt := range []string{"", "[1]", `{"a":1}`, "\x00", `["f"`} {
			require.NoError(t, ref.SetExternal("filelist", []byte(spoilt)))
			names, err := ref.FileList(ctx, nil)
			require.NoError(t, err)
			require.Equal(t, []string{"f"}, names)
			kept, err := ref.GetExternal("filelist")
			require.NoError(t, err)
			require.JSONEq(t, `["f"]`, string(kept))
		}
		require.NoError(t, ref.SetExternal("filelist", []byte("null")))
		names, err := ref.FileList(ctx, nil)
		require.NoError(t, err)
		require.Empty(t, names)
		release(t, ref)
	})
}

// TestFileListAndExtractAtOnce: who needs the blob gets it, though the tree is there already and others want no more than that.
func TestFileListAndExtractAtOnce(t *testing.T) { // spec EXT-3, REF-20, quirk Q34
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		gz, zst := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "zstd", tree.File("f", "x"))
		first := byBlob(t, env, r, gz, nil, cache.Unlazy(nil))
		second := byBlob(t, env, r, zst, nil) // its snapshot is there, its blob is not
		var (
			wg                    sync.WaitGroup
			listErrs, extractErrs [10]error
		)
		for i := range listErrs {
			wg.Go(func() { extractErrs[i] = second.Extract(ctx, nil) })
			wg.Go(func() {
				var names []string
				names, listErrs[i] = second.FileList(ctx, nil)
				if listErrs[i] == nil && len(names) != 1 {
					listErrs[i] = errdefs.ErrDataLoss
				}
			})
		}
		wg.Wait()
		for i := range listErrs {
			require.NoError(t, listErrs[i])
			require.NoError(t, extractErrs[i])
		}
		require.Equal(t, 1, r.opened(zst.Digest))
		release(t, first, second)
	})
}

// TestFileListOfGarbage fails with an error that names record and digest, keeps nothing, and closes what it opened.
func TestFileListOfGarbage(t *testing.T) { // spec REF-20, quirk Q43, fault 43
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		for i, garbage := range []string{strings.Repeat("no archive ", 100), "\x1f\x8b\x08 no gzip", "\x28\xb5\x2f\xfd no zstd", "short"} {
			desc := r.blob(t, "", []byte(garbage))
			ref := byBlob(t, env, r, desc, nil)
			env.Faults.Reset()
			_, err := ref.FileList(ctx, nil)
			require.Error(t, err, i)
			require.True(t, errdefs.IsInvalidArgument(err), "%d: %v", i, err)
			var layer *cache.LayerError
			require.ErrorAs(t, err, &layer)
			require.Equal(t, [3]string{ref.ID(), desc.Digest.String(), "listing"}, [3]string{layer.Record, layer.Digest.String(), layer.Action})
			require.Equal(t, env.Faults.Count(fault.OpContentReaderAt), env.Faults.Count(fault.OpReaderClose))
			_, err = ref.GetExternal("filelist")
			require.Error(t, err)
			release(t, ref)
		}
	})
}
