package compat

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/layercache/cache/local"
	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/need"
)

// packed is a layer of one of the two managers.
type packed struct {
	blob                         ocispecs.Descriptor
	archive                      []byte
	diffID, chainID, blobChainID string
}

// TestSameIDs builds the same random layers with both managers and has them packed. A layer that deletes nothing is the same archive, to the
// byte, and so are its diff ID, its chain ID and its blob chain ID. BuildKit gives a whiteout the time of the export, so that nobody's archives
// with whiteouts are the same twice, its own included; ours have none, and then the archives are compared but for that.
// spec BLOB-7, BLOB-8, CHAIN-2, CHAIN-3, CHAIN-4, OVL-3, scenario S-7
func TestSameIDs(t *testing.T) {
	need.Root(t)
	for _, snapshotter := range []string{snNative, snOverlayfs} {
		t.Run(snapshotter, func(t *testing.T) {
			if snapshotter == snOverlayfs {
				need.Overlay(t)
			}
			features := history.Probe(t, t.TempDir())
			theirs := openStock(t, filepath.Join(t.TempDir(), "runc-"+snapshotter), snapshotter)
			mine := openOwn(t, filepath.Join(t.TempDir(), "runc-"+snapshotter), local.Options{Snapshotter: snapshotter})
			same, similar := 0, 0
			history.Configure(t, 15)
			rapid.Check(t, func(rt *rapid.T) {
				h := history.Generate(rt, features)
				want, got := packAll(t, theirs, h), packAll(t, mine, h)
				require.Len(t, got, len(want))
				deletes := map[int]bool{} // there is a whiteout in the layer, or below it
				for i := range want {
					require.Equal(t, entries(t, want[i].archive), entries(t, got[i].archive), "snapshot %d of %s", i+1, h)
					if want[i].archive == nil {
						continue
					}
					if hasWhiteout(t, want[i].archive) {
						deletes[i] = true
						similar++
						continue
					}
					same++
					require.NotEmpty(t, got[i].chainID)
					require.NotEmpty(t, got[i].blobChainID)
					if w := want[i]; deletes[h[i].Parent-1] { // what is below makes other chain IDs
						deletes[i] = true
						got[i].chainID, got[i].blobChainID = w.chainID, w.blobChainID
					}
					require.Equal(t, want[i], got[i], "snapshot %d of %s", i+1, h)
				}
			})
			require.Positive(t, same)
			require.Positive(t, similar)
			t.Logf("%d layers were the same, %d but for the times of whiteouts", same, similar)
			require.NoError(t, theirs.close())
			require.NoError(t, mine.close())
		})
	}
}

// packAll makes the layers of a history and their blobs. Merges are left out, and what is on one begins anew.
func packAll(t *testing.T, e engine, h history.History) []packed {
	t.Helper()
	refs := make([]*ref, len(h)+1)
	out := make([]packed, len(h))
	for i, step := range h {
		if step.Diffs != nil {
			continue
		}
		parent := ""
		if refs[step.Parent] != nil {
			parent = refs[step.Parent].ID()
		}
		mut, err := e.create(t.Context(), parent, "", false)
		require.NoError(t, err)
		began := time.Now().Add(-time.Second)
		inTree(t, mut, false, func(dir string) error {
			if err := step.Apply(dir, i+1); err != nil {
				return err
			}
			return settleTimes(dir, began)
		})
		imm, err := mut.commit(t.Context())
		require.NoError(t, err)
		require.NoError(t, imm.finalize(t.Context()))
		refs[i+1] = imm
		chains, err := imm.export(t.Context(), exportOpt{kind: "uncompressed", create: true})
		require.NoError(t, err)
		require.Len(t, chains, 1)
		top := chains[0].blobs[len(chains[0].blobs)-1]
		delete(top.Annotations, "buildkit/createdat")
		archive, err := content.ReadBlob(t.Context(), chains[0].from, top)
		require.NoError(t, err)
		out[i] = packed{top, archive, imm.GetString("cache.diffID"), imm.GetString("cache.chainID"), imm.GetString("cache.blobChainID")}
	}
	for _, r := range refs {
		if r != nil {
			require.NoError(t, r.Release(t.Context()))
		}
	}
	return out
}

// settleTimes gives what changed just now, directories in which something was made or removed above all, a time that is the same on both sides.
func settleTimes(dir string, began time.Time) error {
	var changed []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err == nil && d.IsDir() && path != dir && info.ModTime().After(began) {
			changed = append(changed, path)
		}
		return err
	})
	stamp := time.Unix(1_600_000_000, 0)
	for _, path := range changed {
		if err == nil {
			err = os.Chtimes(path, stamp, stamp)
		}
	}
	return err
}

func isWhiteout(name string) bool { return strings.HasPrefix(path.Base(name), ".wh.") }

func hasWhiteout(t *testing.T, archive []byte) bool {
	t.Helper()
	found := false
	walk(t, archive, func(h *tar.Header, _ io.Reader) { found = found || isWhiteout(h.Name) })
	return found
}

// entries describes each entry of an archive in full, but for the times of whiteouts.
func entries(t *testing.T, archive []byte) (all []string) {
	t.Helper()
	walk(t, archive, func(h *tar.Header, data io.Reader) {
		sum := sha256.New()
		_, err := io.Copy(sum, data)
		require.NoError(t, err)
		if isWhiteout(h.Name) {
			h.ModTime, h.AccessTime, h.ChangeTime, h.PAXRecords = time.Time{}, time.Time{}, time.Time{}, nil
			h.Format = tar.FormatUnknown
		}
		all = append(all, fmt.Sprintf("%+v %x", *h, sum.Sum(nil)))
	})
	return all
}

func walk(t *testing.T, archive []byte, fn func(*tar.Header, io.Reader)) {
	t.Helper()
	if archive == nil {
		return
	}
	r := tar.NewReader(bytes.NewReader(archive))
	for {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		require.NoError(t, err)
		fn(h, r)
	}
}
