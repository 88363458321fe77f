package cache_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

// TestWindowsLayers: a layer in Windows' layout, or whose tree comes from one, is packed by the configured differ alone, in the context that the
// embedder makes for such; others are not.
func TestWindowsLayers(t *testing.T) { // spec BLOB-5, BLOB-11, quirk Q48
	eachDiffer(t, func(t *testing.T, env *testutil.Env, d *scriptedDiffer) {
		windows := built(t, env, nil, dated("base", "windows"))
		require.NoError(t, windows.SetLayerType("windows"))
		onWindows := built(t, env, windows, dated("child", "x"))
		linux := built(t, env, nil, dated("base", "linux"))
		onLinux := built(t, env, linux, dated("child", "x"))
		merge, err := env.Manager.Merge(ctx, []cache.ImmutableRef{linux, windows}, nil)
		require.NoError(t, err)
		onMerge := built(t, env, merge, dated("child", "x"))
		upper := diffOf(t, env, onLinux, windows)
		upperMerge := diffOf(t, env, onLinux, merge)
		lower := diffOf(t, env, windows, onLinux)
		refs := []cache.ImmutableRef{windows, onWindows, linux, onLinux, merge, onMerge, upper, upperMerge, lower}
		for _, c := range []struct {
			ref   cache.ImmutableRef
			calls []any // the layer types of what the differ is asked for
		}{
			{windows, []any{"windows"}},
			{onWindows, []any{"windows"}},
			{linux, nil},
			{onLinux, nil},
			{merge, nil}, // all of its layers have blobs by now
			{onMerge, []any{"windows"}},
			{upper, []any{"windows"}},
			{upperMerge, []any{"windows"}},
			{lower, nil},
		} {
			got := export(t, c.ref, as(codec.Zstd)) // which the library packs itself otherwise
			require.Equal(t, c.calls, d.contexts, c.ref.ID())
			d.calls()
			for _, desc := range got.Descriptors {
				readBlob(t, got, desc)
				require.Equal(t, ocispecs.MediaTypeImageLayerZstd, desc.MediaType)
			}
		}
		for _, ref := range refs {
			release(t, ref)
		}
	})
}

// TestWindowsLayersWithoutDiffer cannot be packed, and that is said.
func TestWindowsLayersWithoutDiffer(t *testing.T) { // spec BLOB-5
	eachBackendWith(t, func(t *testing.T, env *testutil.Env) {
		windows := built(t, env, nil, dated("base", "windows"))
		require.NoError(t, windows.SetLayerType("windows"))
		_, err := windows.GetRemotes(ctx, true, as(codec.Gzip), false, nil)
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		require.Empty(t, blobNames(t, env))
		linux := built(t, env, nil, dated("base", "linux"))
		for _, kind := range allKinds {
			got := export(t, linux, forced(kind))
			readBlob(t, got, got.Descriptors[0])
		}
		release(t, windows, linux)
	}, testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Differ = nil }))
}

// eachBackendWith is eachBackend with options for the cache.
func eachBackendWith(t *testing.T, run func(t *testing.T, env *testutil.Env), more ...testutil.Option) {
	t.Helper()
	for name, opts := range backends {
		t.Run(name, func(t *testing.T) { run(t, testutil.New(t, append(slices.Clone(opts), more...)...)) })
	}
}

// TestDiffIDOfADiffer: a blob's diff ID is what the differ labelled it with. Of a plain archive it is the digest, and of others it has to
// be said.
func TestDiffIDOfADiffer(t *testing.T) { // spec BLOB-8, BLOB-10
	t.Setenv(forceOverlayDiff, "false")
	eachDiffer(t, func(t *testing.T, env *testutil.Env, d *scriptedDiffer) {
		d.after = func(ctx context.Context, desc ocispecs.Descriptor) (ocispecs.Descriptor, error) {
			_, err := d.store.Update(ctx, content.Info{Digest: desc.Digest, Labels: map[string]string{}}, "labels.containerd.io/uncompressed")
			return ocispecs.Descriptor{MediaType: desc.MediaType, Digest: desc.Digest, Size: 1}, err
		}
		packed, plain := built(t, env, nil, dated("f", "x")), built(t, env, nil, dated("g", "x"))
		_, err := packed.GetRemotes(ctx, true, as(codec.Gzip), false, nil)
		require.True(t, errdefs.IsFailedPrecondition(err), "%v", err)
		require.Empty(t, packed.GetString("cache.blob"))
		got := export(t, plain, as(codec.Uncompressed))
		require.Equal(t, got.Descriptors[0].Digest, diffIDOf(got.Descriptors[0]))
		readBlob(t, got, got.Descriptors[0]) // with its true size

		d.after = func(_ context.Context, desc ocispecs.Descriptor) (ocispecs.Descriptor, error) {
			desc.Digest = digest.FromString("is not there")
			return desc, nil
		}
		_, err = packed.GetRemotes(ctx, true, as(codec.Gzip), false, nil)
		require.True(t, errdefs.IsNotFound(err), "%v", err)
		require.False(t, cache.IsNotFound(err), "it is no record that is missing")
		d.after = nil
		export(t, packed, as(codec.Gzip))
		release(t, packed, plain)
	})
}

// device makes a file that stands for a block device of overlaybd's, and the snapshot of a record say so.
func device(t *testing.T, env *testutil.Env, ref cache.ImmutableRef, text string) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "device")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	_, err := env.Opt.Snapshotter.Update(ctx, snapshots.Info{
		Name: snapshotOf(t, env, ref.ID()), Labels: map[string]string{snapshot.LabelDevice: path},
	}, "labels."+snapshot.LabelDevice)
	require.NoError(t, err)
	return path
}

// TestDevices: what overlaybd holds on a device is a blob as it is, whatever compression is asked for; what it does not is packed as elsewhere.
func TestDevices(t *testing.T) { // spec BLOB-5, BLOB-8, BLOB-9, VAR-2
	var committed []string
	fail := error(nil)
	d := &scriptedDiffer{}
	env := testutil.New(t, testutil.DoublesNamed("overlaybd"), scripted(d), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		opt.Hooks.CommitDevice = func(_ context.Context, device string) (string, error) {
			committed = append(committed, device)
			return device, fail
		}
	}))
	base := built(t, env, nil, dated("base", "x"))
	path := device(t, env, base, "the device's blocks")
	fail = errdefs.ErrUnavailable
	_, err := base.GetRemotes(ctx, true, as(codec.Zstd), false, nil)
	require.ErrorIs(t, err, errdefs.ErrUnavailable)
	require.Equal(t, []string{path}, committed, "it is not tried again")
	fail = nil
	require.NoError(t, os.Rename(path, path+" for a while"))
	_, err = base.GetRemotes(ctx, true, as(codec.Zstd), false, nil)
	require.ErrorIs(t, err, os.ErrNotExist)
	require.Empty(t, blobNames(t, env))
	require.NoError(t, os.Rename(path+" for a while", path))

	got := export(t, base, as(codec.Zstd))
	desc := got.Descriptors[0]
	require.Equal(t, "the device's blocks", string(readBlob(t, got, desc)))
	require.Equal(t, [2]string{ocispecs.MediaTypeImageLayer, desc.Digest.String()}, [2]string{desc.MediaType, diffIDOf(desc).String()})
	require.Equal(t, desc.Digest.String(), desc.Annotations["containerd.io/snapshot/overlaybd/blob-digest"])
	require.Equal(t, strconv.Itoa(len("the device's blocks")), desc.Annotations["containerd.io/snapshot/overlaybd/blob-size"])
	require.Zero(t, d.calls())

	child := built(t, env, base, dated("child", "x")) // is on no device
	export(t, child, as(codec.Gzip))
	require.Equal(t, 1, d.calls())
	require.Len(t, committed, 3)
	other := built(t, env, nil, dated("other", "x"))
	diff := diffOf(t, env, other, child) // has no snapshot yet, and needs none
	export(t, diff, as(codec.Gzip))
	require.NotContains(t, snapshotNames(t, env), snapshotOf(t, env, diff.ID()))
	release(t, base, child, other, diff)
}

// TestWriterOfADevice: whatever fails, the writer of a device's blob is closed once, and the next attempt begins anew.
func TestWriterOfADevice(t *testing.T) { // spec BLOB-5, BLOB-6, fault 11
	env := testutil.New(t, testutil.DoublesNamed("overlaybd"), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		opt.Hooks.CommitDevice = func(_ context.Context, device string) (string, error) { return device, nil }
	}))
	base := built(t, env, nil, dated("base", "x"))
	device(t, env, base, "the device's blocks")
	ended := func() [2]int {
		return [2]int{env.Faults.Count(fault.OpWriterClose), env.Faults.Count(fault.OpWriterCommit)}
	}
	for op, want := range map[string][2]int{fault.OpWriterTruncate: {1, 0}, fault.OpWriterWrite: {1, 0}, fault.OpWriterCommit: {0, 1}} {
		env.Faults.Reset()
		env.Faults.FailOp(op, errdefs.ErrUnavailable)
		_, err := base.GetRemotes(ctx, true, as(codec.Gzip), false, nil)
		require.ErrorIs(t, err, errdefs.ErrUnavailable)
		require.Equal(t, want, ended(), "closes and commits: %s", env.Faults.Trace())
	}
	env.Faults.Reset()
	got := export(t, base, as(codec.Gzip))
	require.Equal(t, [2]int{0, 1}, ended(), "closes and commits: %s", env.Faults.Trace())
	require.Equal(t, "the device's blocks", string(readBlob(t, got, got.Descriptors[0])))
	release(t, base)
}
