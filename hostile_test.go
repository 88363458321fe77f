package cache_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// hostileArchives are layers that mean harm. OUT in a name or target stands for a directory that is none of their business. All files that they
// try to make outside are called "evil".
var hostileArchives = map[string][]tar.Header{
	"dotdot":                       {{Name: "../evil"}},
	"dotdot far":                   {{Name: strings.Repeat("../", 40) + "OUT/evil"}},
	"absolute":                     {{Name: "OUT/evil"}},
	"directory outside":            {{Name: "../evil/", Typeflag: tar.TypeDir, Mode: 0o755}},
	"through a symlink":            {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUT"}, {Name: "l/evil"}},
	"through a symlink up":         {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("../", 40) + "OUT"}, {Name: "l/evil"}},
	"through two symlinks":         {{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "OUT"}, {Name: "b", Typeflag: tar.TypeSymlink, Linkname: "a"}, {Name: "b/evil"}},
	"through a symlink below":      {{Name: "below/evil"}},
	"over a symlink's target":      {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUT/precious"}, {Name: "l"}},
	"mode through a symlink":       {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUT"}, {Name: "l/", Typeflag: tar.TypeDir, Mode: 0o777}},
	"hard link outside":            {{Name: "evil", Typeflag: tar.TypeLink, Linkname: "OUT/precious"}},
	"hard link dotdot":             {{Name: "evil", Typeflag: tar.TypeLink, Linkname: strings.Repeat("../", 40) + "OUT/precious"}},
	"hard link through a symlink":  {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "OUT"}, {Name: "evil", Typeflag: tar.TypeLink, Linkname: "l/precious"}},
	"hard link below":              {{Name: "evil", Typeflag: tar.TypeLink, Linkname: "below/precious"}},
	"whiteout outside":             {{Name: "OUT/.wh.precious"}},
	"whiteout dotdot":              {{Name: ".wh..."}},
	"whiteout through a symlink":   {{Name: "below/.wh.precious"}},
	"opaque through a symlink":     {{Name: "below/.wh..wh..opq"}},
	"unknown type":                 {{Name: "evil", Typeflag: '9'}},
	"disk device":                  {{Name: "disk", Typeflag: tar.TypeBlock, Devmajor: 8, Mode: 0o666}},
	"overlay's own whiteout":       {{Name: "f", Typeflag: tar.TypeChar}},
	"overlay's redirect attribute": {{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o755, PAXRecords: map[string]string{"SCHILY.xattr.trusted.overlay.redirect": "/../../.."}}},
}

// hostile packs headers; files hold their own name.
func hostile(t testing.TB, out string, headers []tar.Header) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, hdr := range headers {
		hdr.Name, hdr.Linkname = strings.ReplaceAll(hdr.Name, "OUT", out), strings.ReplaceAll(hdr.Linkname, "OUT", out)
		hdr.Uid, hdr.Gid = os.Getuid(), os.Getgid()
		body := ""
		if hdr.Typeflag == 0 {
			hdr.Typeflag, body = tar.TypeReg, "evil"
		}
		if hdr.Mode == 0 {
			hdr.Mode = 0o644
		}
		hdr.Size = int64(len(body))
		require.NoError(t, w.WriteHeader(&hdr))
		_, err := w.Write([]byte(body))
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

// snapshotTrees tells where the snapshots' trees are, which may hold anything.
var snapshotTrees = map[string]*regexp.Regexp{
	"native":  regexp.MustCompile(`/snapshots/[0-9]+/`),
	"overlay": regexp.MustCompile(`/snapshots/[0-9]+/fs/`),
}

// evilOutside lists what hostile layers made where no snapshot's tree is.
func evilOutside(t *testing.T, dir string, trees *regexp.Regexp) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if filepath.Base(path) == "evil" && !trees.MatchString(path) {
			found = append(found, path)
		}
		return err
	}))
	return found
}

// TestHostileLayers: whatever an archive holds, it changes nothing outside of its own tree. Either it is unpacked, or the error says that the
// layer is to blame, or that the process lacks the right; then no snapshot is left of it, and the record can be dropped like any other.
func TestHostileLayers(t *testing.T) { // faults 41, 42, 43, spec EXT-7, EXT-9, MGR-25
	for name, headers := range hostileArchives {
		t.Run(name, func(t *testing.T) {
			for _, backend := range []string{"native", "overlay"} {
				t.Run(backend, func(t *testing.T) {
					parent := t.TempDir() // for the cache, so that its surroundings can be looked at
					out := filepath.Join(parent, "outside")
					testutil.WriteTree(t, parent, tree.Dir("outside"), tree.File("outside/precious", "x", tree.Mode(0o600)))
					before := testutil.ReadTree(t, out)
					dir := filepath.Join(parent, "cache")
					env := testutil.New(t, append(backends[backend], testutil.InDir(dir))...)
					r := newRegistry()
					base := r.layer(t, "gzip", tree.File("f", "x"), tree.Symlink("below", out))
					below := byBlob(t, env, r, base, nil, cache.Unlazy(nil))
					desc := r.blob(t, "gzip", hostile(t, out, headers))
					snapshots := snapshotNames(t, env)

					for _, onto := range []cache.ImmutableRef{nil, below} {
						ref, err := env.Manager.GetByBlob(ctx, desc, onto, r.allHandlers())
						require.NoError(t, err)
						if err := ref.Extract(ctx, nil); err != nil {
							var layer *cache.LayerError
							require.ErrorAs(t, err, &layer)
							require.Equal(t, desc.Digest, layer.Digest)
							require.True(t, errdefs.IsInvalidArgument(err) || errdefs.IsPermissionDenied(err), "%v", err)
							require.ElementsMatch(t, snapshots, snapshotNames(t, env))
							_, err = env.Manager.New(ctx, ref, nil)
							require.Error(t, err)
						} else {
							testutil.WithMount(t, ref, true, func(string) {})
						}
						require.Empty(t, extractSnapshots(t, env))
						testutil.DiffTree(t, before, testutil.ReadTree(t, out))
						require.Empty(t, evilOutside(t, parent, snapshotTrees[backend]))
						release(t, ref)
						require.Len(t, prune(t, env, pruneAll), 1)
						require.NoError(t, env.GC(ctx))
						require.ElementsMatch(t, snapshots, snapshotNames(t, env))
						testutil.DiffTree(t, before, testutil.ReadTree(t, out))
					}
					release(t, below)
					for _, at := range []string{"/evil", filepath.Join(filepath.Dir(parent), "evil")} {
						require.NoFileExists(t, at)
					}
				})
			}
		})
	}
}
