package cache_test

import (
	"context"
	"slices"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

const forceOverlayDiff = "BUILDKIT_DEBUG_FORCE_OVERLAY_DIFF"

// scriptedDiffer is a configured differ that notes how it was called, and may fail before it packs.
type scriptedDiffer struct {
	real  *differ.Differ
	store content.Store
	mu    sync.Mutex
	// configs are the options of the calls, and contexts what LayerContext had put into theirs.
	configs  []diff.Config
	contexts []any
	// before, if set, is asked by the number of the call, from 1.
	before func(ctx context.Context, n int) error
	// after, if set, changes what is returned.
	after func(ctx context.Context, desc ocispecs.Descriptor) (ocispecs.Descriptor, error)
}

type layerTypeKey struct{}

func (d *scriptedDiffer) Compare(ctx context.Context, lower, upper []mount.Mount, opts ...diff.Opt) (ocispecs.Descriptor, error) {
	var cfg diff.Config
	for _, opt := range opts {
		if err := opt(&cfg); err != nil {
			return ocispecs.Descriptor{}, err
		}
	}
	d.mu.Lock()
	d.configs, d.contexts = append(d.configs, cfg), append(d.contexts, ctx.Value(layerTypeKey{}))
	n, before, after := len(d.configs), d.before, d.after
	d.mu.Unlock()
	if before != nil {
		if err := before(ctx, n); err != nil {
			return ocispecs.Descriptor{}, err
		}
	}
	desc, err := d.real.Compare(ctx, lower, upper, opts...)
	if err == nil && after != nil {
		return after(ctx, desc)
	}
	return desc, err
}

// calls returns how often it was called since it was last asked.
func (d *scriptedDiffer) calls() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := len(d.configs)
	d.configs, d.contexts = nil, nil
	return n
}

// scripted configures the differ.
func scripted(d *scriptedDiffer) testutil.Option {
	return testutil.WithManagerOpt(func(opt *cache.ManagerOpt) {
		d.real, d.store = differ.New(opt.ContentStore), opt.ContentStore
		opt.Differ = d
		opt.Hooks.LayerContext = func(ctx context.Context, layerType string) context.Context {
			return context.WithValue(ctx, layerTypeKey{}, layerType)
		}
	})
}

// eachDiffer is eachBackend with a differ of the test's own that is asked for everything that the library does not do itself.
func eachDiffer(t *testing.T, run func(t *testing.T, env *testutil.Env, d *scriptedDiffer)) {
	t.Helper()
	for name, opts := range backends {
		t.Run(name, func(t *testing.T) {
			d := &scriptedDiffer{}
			run(t, testutil.New(t, append(slices.Clone(opts), scripted(d))...), d)
		})
	}
}

// countedType is gzip that counts how many compressors were asked for.
type countedType struct {
	compression.Type
	n *int
}

func (c countedType) Compress(ctx context.Context, cfg compression.Config) (compression.Compressor, compression.Finalizer) {
	*c.n++
	return c.Type.Compress(ctx, compression.Config{})
}

// TestUnavailableDiffer: a differ that is not available is asked again, under the same name and with a compressor that nothing was written to, until
// it is; any other error is the end, and so is that of the caller.
func TestUnavailableDiffer(t *testing.T) { // scenario S-35, spec BLOB-6, COMP-1
	t.Setenv(forceOverlayDiff, "false")
	eachDiffer(t, func(t *testing.T, env *testutil.Env, d *scriptedDiffer) {
		ref := built(t, env, nil, dated("f", "x"))
		compressors := 0
		kind := countedType{codec.Gzip, &compressors}
		d.before = func(context.Context, int) error { return errdefs.ErrPermissionDenied }
		_, err := ref.GetRemotes(ctx, true, as(kind), false, nil)
		require.ErrorIs(t, err, errdefs.ErrPermissionDenied)
		require.Equal(t, [2]int{1, 1}, [2]int{d.calls(), compressors})
		var layer *cache.LayerError
		require.ErrorAs(t, err, &layer)
		require.Equal(t, [2]string{ref.ID(), "packing"}, [2]string{layer.Record, layer.Action})

		ending, cancel := context.WithCancel(ctx)
		d.before = func(ctx context.Context, _ int) error {
			cancel()
			<-ctx.Done() // some time later, when the caller has noticed
			return errdefs.ErrUnavailable
		}
		_, err = ref.GetRemotes(ending, true, as(kind), false, nil)
		require.Error(t, err)
		cache.Quiesce(env.Manager)
		require.Equal(t, [2]int{1, 2}, [2]int{d.calls(), compressors})
		require.Empty(t, blobNames(t, env))
		require.Empty(t, ref.GetString("cache.blob"))

		d.before = func(_ context.Context, n int) error {
			if n < 3 {
				return errdefs.ErrUnavailable
			}
			return nil
		}
		got := export(t, ref, as(kind))
		require.Equal(t, 5, compressors)
		for _, cfg := range d.configs {
			require.Equal(t, [2]string{ref.ID(), ocispecs.MediaTypeImageLayerGzip}, [2]string{cfg.Reference, cfg.MediaType})
			require.NotNil(t, cfg.Compressor)
		}
		require.Equal(t, 3, d.calls())
		readBlob(t, got, got.Descriptors[0])
		release(t, ref)
	})
}

// TestWhoPacks: on overlayfs the library reads the upper directory, elsewhere a configured differ is asked, unless it need not know the
// compression or there is none.
func TestWhoPacks(t *testing.T) { // spec BLOB-5, COMP-1
	eachDiffer(t, func(t *testing.T, env *testutil.Env, d *scriptedDiffer) {
		asked := 1
		if env.Opt.Snapshotter.Name() == "overlayfs" {
			asked = 0
		}
		level := compression.Config{Type: codec.Gzip}.SetLevel(3)
		var top cache.ImmutableRef
		var refs []cache.ImmutableRef
		for i, c := range []struct {
			cfg   remote.RefConfig
			asked int
		}{
			{as(codec.Gzip), asked},
			{remote.RefConfig{}, asked},
			{as(codec.Uncompressed), asked},
			{as(codec.Zstd), 0},
			{as(codec.EStargz), 0},
			{remote.RefConfig{Compression: level}, 0},
		} {
			top = built(t, env, top, dated("f"+string(rune('a'+i)), "x"))
			refs = append(refs, top)
			got := export(t, top, c.cfg)
			readBlob(t, got, got.Descriptors[i])
			require.Equal(t, c.asked, d.calls(), "%d", i)
		}
		// What the library fails at is left to the configured differ in the end.
		fails := 2 - asked // on overlayfs it tries two ways
		top = built(t, env, top, dated("last", "x"))
		export(t, top, as(failingType{codec.Zstd, &fails}))
		require.Zero(t, fails)
		require.Equal(t, 1, d.calls())
		for _, ref := range append(refs, top) {
			release(t, ref)
		}
	})
}

// failingType is a kind whose next compressors fail.
type failingType struct {
	compression.Type
	n *int
}

func (f failingType) Compress(ctx context.Context, cfg compression.Config) (compression.Compressor, compression.Finalizer) {
	if *f.n == 0 {
		return f.Type.Compress(ctx, compression.Config{})
	}
	*f.n--
	failing, _ := ownType{Type: f.Type, fail: errdefs.ErrInternal}.Compress(ctx, cfg)
	return failing, nil
}

// TestForcedOverlayDiff: BuildKit's switch decides for layers, and only for them, and a value that is no boolean is an error.
func TestForcedOverlayDiff(t *testing.T) { // spec BLOB-5, BLOB-7
	for value, want := range map[string]struct {
		overlay, asked, bad bool
	}{
		"": {}, "true": {overlay: true}, "1": {overlay: true}, "T": {overlay: true},
		"false": {asked: true}, "0": {asked: true}, "maybe": {bad: true}, " ": {bad: true},
	} {
		t.Run("value "+value, func(t *testing.T) {
			t.Setenv(forceOverlayDiff, value)
			for _, backend := range []string{"overlay", "native", "doubles"} {
				t.Run(backend, func(t *testing.T) {
					d := &scriptedDiffer{}
					env := testutil.New(t, append(slices.Clone(backends[backend]), scripted(d))...)
					onOverlay := env.Opt.Snapshotter.Name() == "overlayfs"
					base := built(t, env, nil, dated("base", "x"))
					child := built(t, env, base, dated("child", "x"))
					other := built(t, env, nil, dated("other", "x"))
					diff := diffOf(t, env, other, child) // has a blob of its own
					_, err := base.GetRemotes(ctx, true, as(codec.Gzip), false, nil)
					calls := d.calls()
					_, cerr := child.GetRemotes(ctx, true, as(codec.Gzip), false, nil)
					switch {
					case want.bad:
						require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
						require.True(t, errdefs.IsInvalidArgument(cerr), "%v", cerr)
						require.Zero(t, calls+d.calls())
					case want.overlay: // a plain directory is an upper one if nothing is below
						require.NoError(t, err)
						require.Zero(t, calls+d.calls())
						if onOverlay {
							require.NoError(t, cerr)
						} else {
							require.ErrorIs(t, cerr, differ.ErrNotOverlay)
							require.True(t, errdefs.IsFailedPrecondition(cerr))
						}
					default:
						require.NoError(t, err)
						require.NoError(t, cerr)
						require.Equal(t, [2]bool{want.asked || !onOverlay, want.asked || !onOverlay}, [2]bool{calls == 1, d.calls() == 1})
					}
					cache.Quiesce(env.Manager) // where one layer failed, work on the other may still be ending
					export(t, diff, as(codec.Gzip))
					release(t, base, child, other, diff)
				})
			}
		})
	}
}

// TestSnapshottersByName: of an upper directory nobody looks whose snapshotter has none, and a snapshotter nobody knows may have some.
func TestSnapshottersByName(t *testing.T) { // spec BLOB-5
	for name, want := range map[string][2]int{
		"native": {1, 1}, "fuse-overlayfs": {1, 1}, "stargz": {0, 1}, "overlayfs": {0, 1}, "of-somebody": {0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			d := &scriptedDiffer{}
			env := testutil.New(t, testutil.DoublesNamed(name), scripted(d))
			base := built(t, env, nil, dated("base", "x"))
			child := built(t, env, base, dated("child", "x"))
			export(t, base, as(codec.Gzip))
			calls := d.calls()
			export(t, child, as(codec.Gzip))
			require.Equal(t, want, [2]int{calls, d.calls()})
			release(t, base, child)
		})
	}
}

// TestBusyReference: the library waits for somebody who writes under a record's name, does not abort him, and takes nothing of
// what he left.
func TestBusyReference(t *testing.T) { // scenario S-35, spec BLOB-6, BLOB-7
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := built(t, env, nil, dated("f", "x"))
		w, err := env.Opt.ContentStore.Writer(ctx, content.WithRef(ref.ID()))
		require.NoError(t, err)
		_, err = w.Write([]byte("something else"))
		require.NoError(t, err)
		refused := make(chan struct{})
		var once sync.Once
		env.Faults.OnPoint(func(p testutil.Point) {
			if p.Op == fault.OpContentWriter && p.When == fault.After {
				once.Do(func() { close(refused) })
			}
		})
		var got []*remote.Remote
		done := make(chan error)
		go func() {
			var err error
			got, err = ref.GetRemotes(ctx, true, as(codec.Zstd), false, nil)
			done <- err
		}()
		<-refused
		_, err = w.Write([]byte(", and more of it"))
		require.NoError(t, err, "he is not aborted")
		require.NoError(t, w.Close())
		require.NoError(t, <-done)
		require.Zero(t, env.Faults.Count(fault.OpContentAbort))
		readBlob(t, got[0], got[0].Descriptors[0])
		list, err := ref.FileList(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, []string{"f"}, list)
		release(t, ref)
	})
}
