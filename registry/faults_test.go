package registry

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
)

// Fault 11: a registry that fails or lies for good, in every way. The error names record and digest; nothing of the blob is taken for the
// blob; nothing is left that the attempt worked with; and the same ref can be extracted as soon as the registry has come to its
// senses. Spec EXT-9, PULL-1, PULL-2.
func TestBadRegistry(t *testing.T) {
	img := newImage(t, 700, gzipped, 4)
	for _, tc := range []struct {
		name   string
		answer answer
		words  string
		lied   bool // about the blob's bytes
		slow   bool // the cache tries again a few times
	}{
		{name: "wrong bytes", answer: wrong, lied: true},
		{name: "too short", answer: short, slow: true},
		{name: "cut off", answer: cut, slow: true},
		{name: "503", answer: status(http.StatusServiceUnavailable), words: "503", slow: true},
		{name: "500", answer: status(http.StatusInternalServerError), words: "500", slow: true},
		{name: "429", answer: status(http.StatusTooManyRequests), words: "429", slow: true},
		{name: "403", answer: status(http.StatusForbidden), words: "403", slow: true},
		{name: "404", answer: status(http.StatusNotFound), words: "not found"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			onSome(t, !tc.slow, func(t *testing.T, r *rig) {
				bad := img.layers[1].desc.Digest
				remote := r.publish(t, img)
				r.blob(bad, tc.answer)
				ref := r.get(remote)
				chain := ref.LayerChain()
				ways := tries(ref, chain[1])
				if tc.slow {
					ways = ways[:1]
				}
				for _, try := range ways {
					le := requireLayerError(t, try(t.Context()))
					require.Equal(t, chain[1].ID(), le.Record)
					require.Equal(t, bad, le.Digest)
					require.ErrorContains(t, le, tc.words)
					require.Equal(t, tc.lied, errors.Is(le, cache.ErrVerification), "%v", le)
					require.False(t, r.local(bad))
					r.requireTidy()
				}
				r.recovers(t, img, remote, ref, chain)
			})
		})
	}
}

// tries are all ways to want a blob: as a part of a tree, and for itself.
func tries(top, layer cache.ImmutableRef) []func(context.Context) error {
	return []func(context.Context) error{
		func(ctx context.Context) error { return top.Extract(ctx, nil) },
		func(ctx context.Context) error {
			_, err := layer.FileList(ctx, nil)
			return err
		},
		func(ctx context.Context) error {
			_, err := top.Mount(ctx, true, nil)
			return err
		},
	}
}

// recovers makes sure that an image whose extraction failed is as good as new once the registry answers as it should; a collection in
// between takes nothing of what is held.
func (r *rig) recovers(t *testing.T, img *image, remote *remoteImage, ref cache.ImmutableRef, chain cache.RefList) {
	t.Helper()
	r.gc()
	for _, l := range img.layers {
		r.blob(l.desc.Digest, honest)
	}
	require.NoError(t, ref.Extract(t.Context(), nil))
	r.requireTidy()
	r.gc()
	r.requireTree(img.tree, ref)
	r.forget()
	again := r.get(remote)
	require.Equal(t, ref.ID(), again.ID())
	require.Zero(t, r.requests())
	r.release(again, ref)
	require.NoError(t, chain.Release(t.Context()))
	r.requireEmpty()
}

// A registry that fails for a while is not worth an error. Fault 11.
func TestPassingTrouble(t *testing.T) {
	img := newImage(t, 800, zstded, 3)
	unavailable := status(http.StatusServiceUnavailable)
	for _, tc := range []struct {
		name     string
		answers  []answer
		requests int
	}{
		{"503 twice", []answer{unavailable, unavailable, honest}, 3},
		{"503 four times", []answer{unavailable, unavailable, unavailable, unavailable, honest}, 5},
		{"cut off once", []answer{cut, honest}, 2},
		{"cut off three times", []answer{cut, cut, cut, honest}, 4},
		{"too long", []answer{long, honest}, 1}, // the bytes that count are the blob's
		{"cut off and 503", []answer{cut, unavailable, unavailable, honest}, 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, r *rig) {
				remote := r.publish(t, img)
				bad := img.layers[1].desc.Digest
				r.blob(bad, tc.answers...)
				ref := r.get(remote)
				require.NoError(t, ref.Extract(t.Context(), nil))
				if tc.requests > 0 {
					require.Equal(t, tc.requests, r.gets(bad))
				}
				r.requireTidy()
				r.requireTree(img.tree, ref)
				r.release(ref)
				r.requireEmpty()
			})
		})
	}
}

// Spec MGR-25, quirk Q23: what GetByBlob was to extract at once, and could not, is not there at all afterwards; quirk Q16: New on what
// cannot be extracted leaves no claim on it.
func TestFailureLeavesNoRecord(t *testing.T) {
	img := newImage(t, 900, gzipped, 2)
	onEach(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		remote := r.publish(t, img)
		bad := img.layers[1].desc.Digest
		r.blob(bad, wrong)
		base, err := r.Manager.GetByBlob(ctx, remote.descs[0], nil, remote.handlers())
		require.NoError(t, err)
		refs := r.Manager.Stats().Refs
		ref, err := r.Manager.GetByBlob(ctx, remote.descs[1], base, remote.handlers(), cache.Unlazy(nil))
		require.True(t, ref == nil)
		require.Equal(t, bad, requireLayerError(t, err).Digest)
		require.Equal(t, refs, r.Manager.Stats().Refs)
		inUse, idle := testutil.Usage(t, r.Env)
		require.Equal(t, [2]int{1, 0}, [2]int{inUse, idle})
		r.requireTidy()

		ref, err = r.Manager.GetByBlob(ctx, remote.descs[1], base, remote.handlers())
		require.NoError(t, err)
		refs = r.Manager.Stats().Refs
		mut, err := r.Manager.New(ctx, ref, nil)
		require.True(t, mut == nil)
		require.Equal(t, bad, requireLayerError(t, err).Digest)
		require.Equal(t, refs, r.Manager.Stats().Refs)
		r.requireTidy()
		r.release(base)
		r.recovers(t, img, remote, ref, nil)
	})
}

// Scenario S-11, fault 41: the configuration of an image lies about a layer's diff ID. The layer is not extracted, nobody else gets what
// is in it, and the honest image, whose blob it is, is not harmed.
func TestForgedDiffID(t *testing.T) {
	img := newImage(t, 1000, gzipped, 3)
	onEach(t, func(t *testing.T, r *rig) {
		ctx := t.Context()
		honestOne, forged := r.publish(t, img), r.publish(t, img)
		blob := img.layers[1].desc.Digest
		forged.descs[1].Annotations = map[string]string{uncompressedLabel: digest.FromString("somebody else's layer").String()}
		ref := r.get(forged)
		for range 2 {
			le := requireLayerError(t, ref.Extract(ctx, nil))
			require.Equal(t, blob, le.Digest)
			require.ErrorIs(t, le, cache.ErrVerification)
			require.ErrorContains(t, le, "failed to verify layer")
			r.requireTidy()
		}
		good := r.get(honestOne)
		require.NotEqual(t, ref.ID(), good.ID())
		r.gc()
		r.requireTree(img.tree, good)
		r.release(ref, good)
		r.requireEmpty()
	})
}

// deadline bounds waits that a test expects to end; it is no more than a guard against tests that hang.
const deadline = 30 * time.Second

// tick is how often a condition is looked at that nobody tells of.
const tick = 2 * time.Millisecond

// Faults 11, 26: the caller goes in the middle of a transfer. It is told at once, the transfer ends, too, and another attempt
// is not kept out by what the first one left.
func TestCallerGoes(t *testing.T) {
	img := newImage(t, 1100, plain, 3)
	for _, tc := range []struct {
		name string
		hold func(*gate) answer
	}{
		{"before the answer", func(g *gate) answer { return g.hang }},
		{"in the middle of the blob", func(g *gate) answer { return g.stall }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			onEach(t, func(t *testing.T, r *rig) {
				remote := r.publish(t, img)
				ref := r.get(remote)
				chain := ref.LayerChain()
				for _, try := range tries(ref, chain[1]) {
					g := newGate()
					r.blob(img.layers[1].desc.Digest, tc.hold(g))
					ctx, cancel := context.WithCancel(t.Context())
					done := make(chan error, 1)
					go func() { done <- try(ctx) }()
					await(t, g.reached)
					require.Empty(t, done)
					cancel()
					require.ErrorIs(t, await(t, done), context.Canceled)
					await(t, g.left) // the client hung up
					r.requireTidy()
					require.False(t, r.local(img.layers[1].desc.Digest))
				}
				r.recovers(t, img, remote, ref, chain)
			})
		})
	}
}

// await returns what comes from a channel.
func await[T any](t testing.TB, ch <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-ch:
	case <-time.After(deadline):
		require.FailNow(t, "waiting in vain")
	}
	return v
}

// Spec EXT-9: a snapshot was made to extract into, and the answer got lost, or that of the transaction which it was made in.
// It does not stay all the same.
func TestLostAnswer(t *testing.T) {
	img := newImage(t, 1600, gzipped, 1) // no other layer has anything collected
	for _, op := range []string{fault.OpSnapshotPrepare, fault.OpTransaction} {
		t.Run(op, func(t *testing.T) {
			onEach(t, func(t *testing.T, r *rig) {
				remote := r.publish(t, img)
				ref := r.get(remote)
				var made, lost atomic.Bool
				r.Faults.OnPoint(func(p fault.Point) {
					if p.Op == fault.OpSnapshotPrepare && p.When == fault.After {
						made.Store(true)
					}
				})
				r.Faults.Inject(fault.Match{Op: op, When: fault.After}, func(context.Context, fault.Point) error {
					if made.Load() && lost.CompareAndSwap(false, true) {
						return errdefs.ErrUnavailable
					}
					return nil
				})
				require.ErrorIs(t, requireLayerError(t, ref.Extract(t.Context(), nil)), errdefs.ErrUnavailable)
				require.True(t, lost.Load())
				r.requireTidy()
				r.recovers(t, img, remote, ref, nil)
			})
		})
	}
}
