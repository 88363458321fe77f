package cache_test

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// forge returns a descriptor of a blob that says it is the layer that another is.
func forge(desc, as ocispecs.Descriptor) ocispecs.Descriptor {
	desc.Annotations = map[string]string{"containerd.io/uncompressed": diffIDOf(as).String()}
	return desc
}

// requireForged requires the error of an extraction that found a lie, and that nothing of it stayed.
func requireForged(t *testing.T, env *testutil.Env, err error, blob digest.Digest) {
	t.Helper()
	require.ErrorIs(t, err, cache.ErrVerification)
	require.ErrorContains(t, err, "failed to verify layer")
	require.True(t, errdefs.IsInvalidArgument(err))
	var layer *cache.LayerError
	require.ErrorAs(t, err, &layer)
	require.Equal(t, blob, layer.Digest)
	require.Empty(t, extractSnapshots(t, env))
}

// liveRefs counts the refs and links on records.
func liveRefs(t *testing.T, env *testutil.Env) (inUse int) {
	t.Helper()
	inUse, _ = testutil.Usage(t, env)
	return inUse
}

// TestForgedDiffID: a descriptor that lies about its uncompressed digest makes a record that cannot be extracted, used or built on; it can be
// dropped and pruned like any other.
func TestForgedDiffID(t *testing.T) { // scenario S-11, spec EXT-7, EXT-9, MGR-3, MGR-25, quirks Q16 and Q23, fault 41
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		honest := r.layer(t, "gzip", tree.File("f", "honest"))
		blob := r.layer(t, "gzip", tree.File("f", "evil"))
		forged := forge(blob, honest)

		rows, held := rowCount(t, env), leaseIDs(t, env)
		_, err := env.Manager.GetByBlob(ctx, forged, nil, r.allHandlers(), cache.Unlazy(nil))
		requireForged(t, env, err, forged.Digest)
		require.Equal(t, rows, rowCount(t, env), "a new record is rolled back")
		require.Equal(t, held, leaseIDs(t, env))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))

		lazy := byBlob(t, env, r, forged, nil)
		requireForged(t, env, lazy.Extract(ctx, nil), forged.Digest)
		_, err = lazy.Mount(ctx, true, nil)
		requireForged(t, env, err, forged.Digest)
		_, err = env.Manager.New(ctx, lazy, nil)
		requireForged(t, env, err, forged.Digest)
		child := byBlob(t, env, r, r.layer(t, "gzip", tree.File("child", "x")), lazy)
		requireForged(t, env, child.Extract(ctx, nil), forged.Digest)
		_, err = env.Manager.New(ctx, child, nil)
		requireForged(t, env, err, forged.Digest)
		require.Equal(t, 2, liveRefs(t, env))
		require.Equal(t, 2, rowCount(t, env))
		require.Empty(t, snapshotNames(t, env))

		release(t, child)
		requireGone(t, env, child.ID()) // no failed call holds it for longer than it takes to stop pulling it
		release(t, lazy)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 1)
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))
	})
}

// TestForgedFirst: who comes first with a lie does not harm who comes after with the truth, whatever the lie is on or under.
func TestForgedFirst(t *testing.T) { // spec MGR-24, MGR-29, EXT-7, fault 41
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base, top := r.layer(t, "gzip", tree.File("base", "honest")), r.layer(t, "gzip", tree.File("top", "honest"))
		evil := r.layer(t, "gzip", tree.File("base", "evil"))
		evilBase := byBlob(t, env, r, forge(evil, base), nil)
		evilTop := byBlob(t, env, r, top, evilBase) // the honest layer on the lie
		liedTop := byBlob(t, env, r, forge(evil, top), evilBase)
		for _, ref := range []cache.ImmutableRef{evilBase, evilTop, liedTop} {
			require.ErrorIs(t, ref.Extract(ctx, nil), cache.ErrVerification)
		}

		honestBase := byBlob(t, env, r, base, nil)
		require.NotEqual(t, evilBase.ID(), honestBase.ID())
		honestTop := byBlob(t, env, r, top, honestBase)
		require.NotEqual(t, evilTop.ID(), honestTop.ID())
		requireFile(t, honestTop, "base", "honest")
		requireFile(t, honestTop, "top", "honest")

		// Now the snapshot that the liar's record names is there, and is the honest one.
		requireFile(t, evilTop, "base", "honest")
		requireFile(t, evilBase, "base", "honest")
		mut := newMutable(t, env, evilBase)
		requireFile(t, mut, "base", "honest")
		release(t, mut, evilBase, evilTop, liedTop, honestBase, honestTop)
	})
}

// TestForgedMeanwhile: nor does it harm if both are unpacked at the same time.
func TestForgedMeanwhile(t *testing.T) { // spec EXT-7, fault 41
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		honest, evil := r.layer(t, "gzip", tree.File("f", "honest")), r.layer(t, "gzip", tree.File("f", "evil"))
		liar, victim := byBlob(t, env, r, forge(evil, honest), nil), byBlob(t, env, r, honest, nil)
		for range 10 {
			done := make(chan error, 1)
			clone := liar.Clone()
			go func() { done <- clone.Extract(ctx, nil) }()
			err := victim.Extract(ctx, nil)
			require.NoError(t, err)
			requireFile(t, victim, "f", "honest")
			if err := <-done; err != nil {
				require.ErrorIs(t, err, cache.ErrVerification)
			}
			release(t, clone)
		}
		release(t, liar, victim)
	})
}

// TestForgedEquivalent: where a layer's own blob cannot be had, another that says it is the same layer is tried, but not believed.
func TestForgedEquivalent(t *testing.T) { // faults 12 and 41
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		honest, evil := r.layer(t, "gzip", tree.File("f", "honest")), r.layer(t, "gzip", tree.File("f", "evil"))
		liar, victim := byBlob(t, env, r, forge(evil, honest), nil), byBlob(t, env, r, honest, nil)
		all := get(t, env, victim.ID(), r.allHandlers())
		r.disturb(func(_ context.Context, d digest.Digest) error {
			if d == honest.Digest {
				return errdefs.ErrNotFound
			}
			return nil
		}, nil)
		require.Error(t, all.Extract(ctx, nil))
		require.Empty(t, snapshotNames(t, env))
		r.disturb(nil, nil)
		require.NoError(t, all.Extract(ctx, nil))
		requireFile(t, all, "f", "honest")
		release(t, liar, victim, all)
	})
}

// TestForgedSizeAndType: what a descriptor says besides its digests cannot spoil the layer for those who say it right.
func TestForgedSizeAndType(t *testing.T) { // spec MGR-23, faults 11 and 41
	for name, lie := range map[string]func(*ocispecs.Descriptor){
		"too short":  func(d *ocispecs.Descriptor) { d.Size /= 2 },
		"too long":   func(d *ocispecs.Descriptor) { d.Size *= 2 },
		"media type": func(d *ocispecs.Descriptor) { d.MediaType = "application/x-nobody-unpacks-this" },
		"encrypted":  func(d *ocispecs.Descriptor) { d.MediaType += "+encrypted" },
	} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				base, top := r.layer(t, "gzip", tree.File("base", "x")), r.layer(t, "gzip", tree.File("top", "x"))
				liedBase, liedTop := base, top
				lie(&liedBase)
				lie(&liedTop)
				evilBase := byBlob(t, env, r, liedBase, nil)
				evilTop := byBlob(t, env, r, liedTop, evilBase)
				require.Error(t, evilTop.Extract(ctx, nil))
				onEvil := byBlob(t, env, r, top, evilBase)

				honestBase := byBlob(t, env, r, base, nil)
				honestTop := byBlob(t, env, r, top, honestBase)
				requireFile(t, honestTop, "base", "x")
				requireFile(t, honestTop, "top", "x")
				again := byBlob(t, env, r, top, honestBase)
				require.Equal(t, honestTop.ID(), again.ID())
				release(t, evilBase, evilTop, onEvil, honestBase, honestTop, again)
			})
		})
	}
}

// TestDockerAndOCI: names that two formats have for one kind of layer do not make two records of it.
func TestDockerAndOCI(t *testing.T) { // spec MGR-23
	env := testutil.New(t, testutil.Doubles())
	r := newRegistry()
	desc := r.layer(t, "gzip", tree.File("f", "x"))
	docker, unknown := desc, desc
	docker.MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	unknown.MediaType, unknown.Size = "", 0
	a, b, c := byBlob(t, env, r, desc, nil), byBlob(t, env, r, docker, nil), byBlob(t, env, r, unknown, nil)
	require.Equal(t, []string{a.ID(), a.ID()}, []string{b.ID(), c.ID()})
	release(t, a, b, c)
}

// TestLegacyLayers: what releases unpacked that did not verify it is not trusted: it is not found by its blob, nothing is put on top of it by blob,
// and no address of a layer above it counts. It can be opened and used as it is.
func TestLegacyLayers(t *testing.T) { // spec REC-10, INIT-9, MGR-21, MGR-23, MGR-29, OLD-3, scenario S-10
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		honest, top := r.layer(t, "gzip", tree.File("f", "honest")), r.layer(t, "gzip", tree.File("top", "x"))
		// A snapshot named by the chain ID alone, with something else in it than the blob has.
		chain := diffIDOf(honest).String()
		old := finalized(t, env, nil, fileIn(t, "f", "poison"))
		release(t, old)
		mut := newMutable(t, env, old)
		above := commit(t, mut)
		require.NoError(t, above.Finalize(ctx))
		release(t, above)
		makeLegacy(t, env, old.ID(), chain, "poison")
		blobRow(t, env, old.ID(), honest, chain, blobID(honest).String(), map[string]any{"cache.snapshot": chain})
		aboveChain, aboveBlobs := fold(diffIDOf(honest), diffIDOf(top)), fold(blobID(honest), blobID(top))
		blobRow(t, env, above.ID(), top, aboveChain.String(), aboveBlobs.String(), nil)
		env.Reopen()

		fresh := byBlob(t, env, r, honest, nil)
		require.NotEqual(t, old.ID(), fresh.ID())
		requireRow(t, env, fresh.ID(), map[string]any{"cache.snapshot": layerSnapshot(diffIDOf(honest))})
		requireFile(t, fresh, "f", "honest")
		child := byBlob(t, env, r, top, fresh)
		require.NotEqual(t, above.ID(), child.ID(), "an address above it does not count")
		requireRow(t, env, child.ID(), map[string]any{"cache.snapshot": layerSnapshot(aboveChain)})
		requireFile(t, child, "f", "honest")

		poisoned, tainted := get(t, env, old.ID()), get(t, env, above.ID())
		requireFile(t, poisoned, "f", "poison")
		for _, parent := range []cache.ImmutableRef{poisoned, tainted} {
			ref, err := env.Manager.GetByBlob(ctx, top, parent, r.handlers(top))
			require.ErrorContains(t, err, "non-addressable parent")
			require.True(t, errdefs.IsFailedPrecondition(err))
			require.True(t, ref == nil)
		}
		built := newMutable(t, env, poisoned) // but it may be built on
		release(t, built, fresh, child, poisoned, tainted)
		require.Len(t, prune(t, env, usage.PruneInfo{All: true}), 4, "no failed call holds a parent")
	})
}

// TestSharedWithLiar: who joined a transfer that was begun with a wrong size, and so came to nothing, gets the blob by his own descriptor.
func TestSharedWithLiar(t *testing.T) { // spec PULL-2, faults 11 and 41
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		honest := r.layer(t, "gzip", tree.File("f", "x"))
		short := honest
		short.Size /= 2
		liar, victim := byBlob(t, env, r, short, nil), byBlob(t, env, r, honest, nil)
		w := newWaiting(r)
		defer w.open()
		lied := make(chan error, 1)
		go func() { lied <- liar.Extract(ctx, nil) }()
		<-w.came
		got := make(chan error, 1)
		joined := &joining{Context: ctx, asked: make(chan struct{})}
		go func() { got <- victim.Extract(joined, nil) }()
		<-joined.asked
		w.open()
		require.NoError(t, <-got)
		if err := <-lied; err != nil { // else he got it by the other's descriptor
			require.ErrorIs(t, err, cache.ErrVerification)
		}
		requireFile(t, victim, "f", "x")
		release(t, liar, victim)
	})
}
