package local

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// untouched fails the test if fn changes anything in dir: names, kinds, modes, owners, times, contents, links, attributes.
func untouched(t *testing.T, dir string, fn func()) {
	t.Helper()
	changed, err := tree.Changed(dir, fn)
	require.NoError(t, err)
	require.Empty(t, changed)
}

// inspectDir looks at a directory until the end of the test.
func inspectDir(t *testing.T, dir string, opts InspectOptions) *Inspection {
	t.Helper()
	opts.TempDir = t.TempDir()
	i, err := Inspect(t.Context(), dir, opts)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, i.Close())
		left, err := os.ReadDir(opts.TempDir)
		require.NoError(t, err)
		require.Empty(t, left)
	})
	return i
}

// makeRecord makes a record with one file of n bytes; retained ones are not finalized.
func makeRecord(t *testing.T, c *Cache, parent cache.ImmutableRef, n int, retain bool) string {
	t.Helper()
	policy := cache.CachePolicyDefault
	if retain {
		policy = cache.CachePolicyRetain
	}
	mutable, err := c.New(t.Context(), parent, nil, policy, cache.WithDescription(fmt.Sprint("made of ", n)))
	require.NoError(t, err)
	m, err := mutable.Mount(t.Context(), false, nil)
	require.NoError(t, err)
	mounter := snapshot.LocalMounter(m)
	dir, err := mounter.Mount()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprint("f", n)), bytes.Repeat([]byte("x"), n), 0o644))
	require.NoError(t, mounter.Unmount())
	ref, err := mutable.Commit(t.Context())
	require.NoError(t, err)
	if !retain {
		require.NoError(t, ref.Finalize(t.Context()))
	}
	require.NoError(t, ref.SetString("k", fmt.Sprint(n), fmt.Sprint("index:", n)))
	require.NoError(t, ref.Release(t.Context()))
	return ref.ID()
}

func usageByID(t *testing.T, look func() ([]*usage.Info, error)) map[string]usage.Info {
	t.Helper()
	infos, err := look()
	require.NoError(t, err)
	out := map[string]usage.Info{}
	for _, info := range infos {
		out[info.ID] = *info
	}
	return out
}

// Looking tells what opening would tell, and changes nothing: a finished layer, one on it, and one that is not finalized. issue 7
func TestInspect(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		c := openCache(t, dir, opts)
		base := makeRecord(t, c, nil, 5000, false)
		parent, err := c.Get(t.Context(), base, nil)
		require.NoError(t, err)
		top := makeRecord(t, c, parent, 9000, false)
		sealed := makeRecord(t, c, parent, 100, true)
		require.NoError(t, parent.Release(t.Context()))
		require.NoError(t, c.Close())

		var got map[string]usage.Info
		untouched(t, dir, func() {
			i := inspectDir(t, dir, InspectOptions{})
			require.Equal(t, opts.Snapshotter, i.SnapshotterName)
			require.Nil(t, i.Salvaged)
			require.Empty(t, i.Repaired)
			got = usageByID(t, func() ([]*usage.Info, error) { return i.DiskUsage(t.Context(), usage.DiskUsageInfo{}) })
			found, err := i.Search(t.Context(), "index:9000", false)
			require.NoError(t, err)
			require.Equal(t, []string{top}, found)
			rec, err := i.Record(t.Context(), base)
			require.NoError(t, err)
			require.Equal(t, got[base], rec.Info)
			require.Equal(t, "ready", rec.State)
			require.Equal(t, "base layer", rec.Kind)
			require.Len(t, rec.Children, 2)
			require.Contains(t, rec.Children, top)
			require.JSONEq(t, `"5000"`, string(rec.Values["k"]))
			half, err := i.Record(t.Context(), sealed)
			require.NoError(t, err)
			require.Equal(t, "sealed", half.State)
			require.Equal(t, sealed, half.ImmutableID)
			require.Equal(t, half.ID, half.MutableID)
			findings, err := i.Check(t.Context())
			require.NoError(t, err)
			require.Empty(t, findings)
			over, err := i.Overhead(t.Context())
			require.NoError(t, err)
			require.Len(t, over, 4, "%v", over)
			for _, o := range over {
				if o.Kind != usage.OverheadReserve {
					require.Equal(t, usage.OverheadDatabase, o.Kind, "%v", over)
				}
				require.Positive(t, o.Size)
			}
			_, err = i.Record(t.Context(), "none")
			require.True(t, cache.IsNotFound(err))

			_, err = Open(t.Context(), dir, Options{})
			require.ErrorIs(t, err, ErrInUse)
			require.NoError(t, i.Close())
			require.NoError(t, i.Close(), "closing again")
			_, err = i.DiskUsage(t.Context(), usage.DiskUsageInfo{})
			require.ErrorIs(t, err, cache.ErrClosed)
		})
		c = openCache(t, dir, Options{})
		require.Equal(t, usageByID(t, func() ([]*usage.Info, error) { return c.DiskUsage(t.Context(), usage.DiskUsageInfo{}) }), got)
	})
}

// What a process left that died is repaired in the copy only, and told. spec INIT-12
func TestInspectAfterCrash(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		c := openCache(t, dir, opts)
		kept := makeRecord(t, c, nil, 10, false)
		abandoned, err := c.New(t.Context(), nil, nil)
		require.NoError(t, err)
		require.NoError(t, c.Close())

		untouched(t, dir, func() {
			i := inspectDir(t, dir, InspectOptions{})
			require.Len(t, i.Repaired, 1)
			require.Equal(t, abandoned.ID(), i.Repaired[0].ID)
			got := usageByID(t, func() ([]*usage.Info, error) { return i.DiskUsage(t.Context(), usage.DiskUsageInfo{}) })
			require.Len(t, got, 1)
			require.Contains(t, got, kept)
			over, err := i.Overhead(t.Context())
			require.NoError(t, err)
			require.Len(t, slices.DeleteFunc(over, func(o usage.Overhead) bool { return o.Kind != usage.OverheadSnapshot }), 1)
			require.NoError(t, i.Close())
		})
		_, err = openCache(t, dir, Options{}).Get(t.Context(), abandoned.ID(), nil)
		require.True(t, cache.IsNotFound(err))
	})
}

// Everything that takes up space beside the records is shown: what the backend lists and what it does not.
func TestInspectOverhead(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, Options{Snapshotter: Native})
	makeRecord(t, c, nil, 10, false)
	<-c.collecting
	newLayer(t, c.Parts, "foreign", "")
	desc := layerBlob(t, c.Parts, tree.File("f", "blob"))
	w, err := c.Parts.ContentStore.Writer(t.Context(), content.WithRef("half"))
	require.NoError(t, err)
	_, err = w.Write(make([]byte, 1234))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	listed, err := c.Overhead(t.Context())
	require.NoError(t, err)
	require.NoError(t, c.Close())

	stray := filepath.Join(dir, snapshotsDir, "snapshots", "new-1")
	unlisted := filepath.Join(dir, contentDir, "blobs", "sha256", strings.Repeat("ab", 32))
	damaged := filepath.Join(dir, recordsDB+".damaged-1")
	lost := filepath.Join(dir, contentDir, "ingest", "lost")
	require.NoError(t, os.MkdirAll(stray, 0o700))
	require.NoError(t, os.Mkdir(lost, 0o700))
	for path, n := range map[string]int{
		filepath.Join(stray, "f"): 8192, unlisted: 77, damaged: 5, filepath.Join(lost, "data"): 99, filepath.Join(lost, "ref"): 3,
	} {
		require.NoError(t, os.WriteFile(path, bytes.Repeat([]byte("r"), n), 0o600))
	}
	untouched(t, dir, func() {
		i := inspectDir(t, dir, InspectOptions{})
		got, err := i.Overhead(t.Context())
		require.NoError(t, err)
		require.True(t, slices.IsSortedFunc(got, func(a, b usage.Overhead) int {
			return strings.Compare(string(a.Kind)+a.Name, string(b.Kind)+b.Name)
		}))
		sizes := map[string]int64{}
		for _, o := range got {
			sizes[string(o.Kind)+" "+o.Name] = o.Size
		}
		for _, o := range listed {
			require.Equal(t, o.Size, sizes[string(o.Kind)+" "+o.Name], "%v", o)
		}
		require.Len(t, listed, 7, "%v", listed)
		require.Len(t, got, 11, "%v", got)
		require.EqualValues(t, defaultReserve, sizes["reserve "+filepath.Join(dir, reserveFile)])
		require.Equal(t, desc.Size, sizes["orphan blob "+desc.Digest.String()])
		require.EqualValues(t, 1234, sizes["ingest half"])
		require.Contains(t, sizes, "orphan snapshot foreign")
		require.EqualValues(t, 77, sizes["orphan blob sha256:"+strings.Repeat("ab", 32)])
		require.EqualValues(t, 99, sizes["ingest rrr"])
		require.EqualValues(t, 5, sizes["stray "+damaged])
		require.GreaterOrEqual(t, sizes["stray "+stray], int64(8192))
		require.NoError(t, i.Close())
	})
}

// Whatever would write is refused by type, below everything that could ask for it.
func TestInspectRefuses(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		opts.NoBackgroundGC = true // it would take the blob
		c := openCache(t, dir, opts)
		id := makeRecord(t, c, nil, 10, false)
		desc := layerBlob(t, c.Parts, tree.File("f", "blob"))
		require.NoError(t, c.Close())
		untouched(t, dir, func() {
			i := inspectDir(t, dir, InspectOptions{})
			p, ctx := i.parts, t.Context()
			ref, err := i.manager.Get(ctx, id, nil)
			require.NoError(t, err)
			_, errNew := i.manager.New(ctx, ref, nil)
			_, errMount := ref.Mount(ctx, true, nil)
			require.NoError(t, ref.Release(ctx))
			require.NoError(t, p.LeaseManager.Delete(ctx, leases.Lease{ID: id}), "leases change in the copy")
			_, errGC := p.GarbageCollect(ctx)
			_, errWriter := p.ContentStore.Writer(ctx, content.WithRef("r"))
			_, errView := p.reading.trees.View(ctx, "v", "")
			_, errLabel := p.reading.blobs.Update(ctx, content.Info{Digest: desc.Digest})
			for name, err := range map[string]error{
				"New": errNew, "Mount": errMount, "collection": errGC, "Writer": errWriter, "View": errView, "Update of a blob": errLabel,
				"Commit": p.reading.trees.Commit(ctx, "n", "k"), "Remove": p.reading.trees.Remove(ctx, "k"),
				"Prune":  i.Prune(ctx, nil, usage.PruneInfo{DryRun: true}, usage.PruneInfo{}),
				"Delete": p.reading.blobs.Delete(ctx, desc.Digest), "Abort": p.reading.blobs.Abort(ctx, "r"),
			} {
				require.ErrorIs(t, err, ErrInspection, name)
				require.ErrorIs(t, err, errdefs.ErrFailedPrecondition, name)
			}
			r, err := p.ContentStore.ReaderAt(ctx, desc)
			require.NoError(t, err)
			require.Equal(t, desc.Size, r.Size())
			require.NoError(t, r.Close())
			require.NoError(t, i.Close())
		})
		require.Contains(t, usageByID(t, func() ([]*usage.Info, error) {
			return openCache(t, dir, Options{}).DiskUsage(t.Context(), usage.DiskUsageInfo{})
		}), id)
	})
}

// What cannot be looked at is a typed error, and stays as it is; another process that has the directory, or one of the
// databases as buildkitd has, is told at once. fault 33
func TestInspectErrors(t *testing.T) {
	inspect := func(dir string, opts InspectOptions) error {
		opts.TempDir = t.TempDir()
		var err error
		look := func() {
			var i *Inspection
			i, err = Inspect(t.Context(), dir, opts)
			require.Error(t, err)
			require.Nil(t, i)
		}
		if isDir(dir) {
			untouched(t, dir, look)
		} else {
			look()
			require.NoDirExists(t, dir)
		}
		left, errRead := os.ReadDir(opts.TempDir)
		require.NoError(t, errRead)
		require.Empty(t, left)
		return err
	}
	require.ErrorIs(t, inspect(filepath.Join(t.TempDir(), "none"), InspectOptions{}), ErrNoCache)
	require.ErrorIs(t, inspect(t.TempDir(), InspectOptions{}), errdefs.ErrNotFound)
	_, err := Inspect(t.Context(), "", InspectOptions{})
	require.ErrorIs(t, err, errdefs.ErrInvalidArgument)

	legacy := t.TempDir()
	makeBolt(t, filepath.Join(legacy, "metadata.db"), "_main")
	require.ErrorIs(t, inspect(legacy, InspectOptions{}), metadata.ErrLegacyMetadata)

	dir := t.TempDir()
	c := openCache(t, dir, Options{Snapshotter: Native})
	makeRecord(t, c, nil, 10, false)
	require.NoError(t, c.Close())
	require.ErrorIs(t, inspect(dir, InspectOptions{Snapshotter: "stargz"}), ErrSnapshotter)
	for _, mode := range []string{"parts", backendDB, recordsDB} {
		stop, _ := startChild(t, dir, mode)
		require.ErrorIs(t, inspect(dir, InspectOptions{}), ErrInUse, mode)
		stop()
	}
	if os.Geteuid() != 0 {
		require.NoError(t, os.Chmod(filepath.Join(dir, backendDB), 0))
		_, err := Inspect(t.Context(), dir, InspectOptions{})
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		require.NoError(t, os.Chmod(filepath.Join(dir, backendDB), 0o600))
	}
	books := filepath.Join(dir, snapshotsDir, snapshotterDB)
	require.NoError(t, os.Rename(books, books+".elsewhere"))
	require.ErrorIs(t, inspect(dir, InspectOptions{}), ErrSnapshotter, "without its database all snapshots would look lost")
	require.NoError(t, os.Rename(books+".elsewhere", books))
	require.NoError(t, os.Truncate(books, 8<<10))
	require.ErrorIs(t, inspect(dir, InspectOptions{}), ErrForeign)
	require.NoError(t, os.WriteFile(filepath.Join(dir, backendDB), []byte("not a database"), 0o600))
	require.ErrorIs(t, inspect(dir, InspectOptions{}), ErrForeign)
}

// Open makes a cache where there is none unless it is told not to.
func TestMustExist(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	_, err := Open(t.Context(), dir, Options{Snapshotter: Native, MustExist: true})
	require.ErrorIs(t, err, ErrNoCache)
	require.NoDirExists(t, dir)
	require.NoError(t, openCache(t, dir, Options{Snapshotter: Native}).Close())
	require.NoError(t, openCache(t, dir, Options{MustExist: true}).Close())
}

// A damaged database of records is salvaged in the copy, and stays as it is. fault 30
func TestInspectSalvages(t *testing.T) {
	dir := t.TempDir()
	c := openCache(t, dir, Options{Snapshotter: Native})
	kept := makeRecord(t, c, nil, 10, false)
	hit := makeRecord(t, c, nil, 20, false)
	ref, err := c.Get(t.Context(), hit, nil)
	require.NoError(t, err)
	require.NoError(t, ref.SetString("pad", "damage me "+strings.Repeat("x", 9000), ""))
	require.NoError(t, ref.Release(t.Context()))
	require.NoError(t, c.Close())
	path := filepath.Join(dir, recordsDB)
	cleared, err := fault.ClearPages(path, "damage me")
	require.NoError(t, err)
	require.NotZero(t, cleared)
	untouched(t, dir, func() {
		_, err := Inspect(t.Context(), dir, InspectOptions{NoSalvage: true})
		require.ErrorIs(t, err, metadata.ErrCorrupt)
		i := inspectDir(t, dir, InspectOptions{})
		require.NotNil(t, i.Salvaged)
		require.Equal(t, []string{path, path}, []string{i.Salvaged.Path, i.Salvaged.Damaged})
		require.Equal(t, []string{hit}, i.Salvaged.Lost)
		got := usageByID(t, func() ([]*usage.Info, error) { return i.DiskUsage(t.Context(), usage.DiskUsageInfo{}) })
		require.Contains(t, got, kept)
		require.NotContains(t, got, hit)
		require.NoError(t, i.Close())
	})
}
