package cache_test

import (
	"context"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// TestPulledBlob: a blob that was pulled says what it is, belongs to the record, and the record says where it came from.
func TestPulledBlob(t *testing.T) { // spec PULL-3, VAR-1, VAR-2, LEASE-7, section 2.2
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		handlers := r.handlers(desc)
		handlers[desc.Digest].Annotations = map[string]string{
			"containerd.io/uncompressed":               "not the handler's to say",
			"io.containers.estargz.uncompressed-size":  "1024",
			"containerd.io/snapshot/stargz/toc.digest": "sha256:toc",
			"com.example.note":                         "is not kept",
		}
		ref, err := env.Manager.GetByBlob(ctx, desc, nil, handlers, cache.WithImageRef("docker.io/library/a:1"), cache.WithImageRef("b"))
		require.NoError(t, err)
		_, err = ref.FileList(ctx, nil)
		require.NoError(t, err)
		require.Equal(t, 1, r.opened(desc.Digest))
		require.Equal(t, "pulled from docker.io/library/a:1", ref.GetDescription())

		labels := blobLabels(t, env, desc.Digest)
		for key, want := range map[string]string{
			"containerd.io/gc.ref.content.blob-" + desc.Digest.String():            desc.Digest.String(),
			"buildkit.io/blob/mediatype":                                           desc.MediaType,
			"buildkit.io/blob/annotation.containerd.io/uncompressed":               diffIDOf(desc).String(),
			"buildkit.io/blob/annotation.io.containers.estargz.uncompressed-size":  "1024",
			"buildkit.io/blob/annotation.containerd.io/snapshot/stargz/toc.digest": "sha256:toc",
			"buildkit.io/blob/annotation.com.example.note":                         "",
		} {
			require.Equal(t, want, labels[key], key)
		}
		l, resources := leaseOf(t, env, ref.ID()+"-variants")
		require.NotNil(t, l)
		require.NotContains(t, l.Labels, "containerd.io/gc.flat", "references in labels are to be followed")
		require.Equal(t, []leases.Resource{contentResource(desc)}, resources)
		require.ElementsMatch(t, []string{ref.ID(), ref.ID() + "-variants"}, leaseIDs(t, env), "the temporary lease is gone")

		require.NoError(t, env.GC(ctx))
		require.Equal(t, []string{desc.Digest.String()}, blobNames(t, env))
		release(t, ref)
		require.Len(t, prune(t, env, usage.PruneInfo{}), 1)
		require.Empty(t, leaseIDs(t, env))
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobNames(t, env))
	})
}

// TestPulledDescription: a description that is there stays, and without image refs there is none.
func TestPulledDescription(t *testing.T) { // spec PULL-3
	env := testutil.New(t, testutil.Doubles())
	r := newRegistry()
	for text, opts := range map[string][]cache.RefOption{
		"mine": {cache.WithDescription("mine"), cache.WithImageRef("x")},
		"":     nil,
	} {
		ref := byBlob(t, env, r, r.layer(t, "gzip", tree.File("f", text)), nil, opts...)
		require.NoError(t, ref.Extract(ctx, nil))
		require.Equal(t, text, ref.GetDescription())
		release(t, ref)
	}
}

// TestBlobThatIsThere: what is local is not fetched, and needs no handler.
func TestBlobThatIsThere(t *testing.T) { // spec PULL-1, MGR-17
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		ref := ofLocalBlob(t, env, r, desc)
		require.NoError(t, ref.Extract(ctx, nil))
		requireFile(t, ref, "f", "x")
		require.Zero(t, r.opened(desc.Digest))
		release(t, ref)
	})
}

// waiting blocks transfers until open is called, and tells of each that came.
type waiting struct {
	came chan struct{}
	gate chan struct{}
	once sync.Once
}

func newWaiting(r *registry) *waiting {
	w := &waiting{came: make(chan struct{}, 100), gate: make(chan struct{})}
	r.disturb(func(ctx context.Context, _ digest.Digest) error {
		w.came <- struct{}{}
		select {
		case <-w.gate:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}, nil)
	return w
}

func (w *waiting) open() { w.once.Do(func() { close(w.gate) }) }

// TestEveryRecordThatWaits for a blob is linked to it and described, however few transfers there are.
func TestEveryRecordThatWaits(t *testing.T) { // spec PULL-1, PULL-3, quirk Q52
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		var refs []cache.ImmutableRef
		for _, name := range []string{"a", "b", "c"} {
			base := byBlob(t, env, r, r.layer(t, "gzip", tree.File("base", name)), nil)
			refs = append(refs, byBlob(t, env, r, desc, base, cache.WithImageRef(name)))
			release(t, base)
		}
		w := newWaiting(r)
		defer w.open()
		missed := make(chan struct{}, 100) // somebody was told that the blob is not there
		env.Faults.OnPoint(func(p testutil.Point) {
			if p.Op == fault.OpContentInfo && p.When == fault.After {
				missed <- struct{}{}
			}
		})
		var wg sync.WaitGroup
		errs := make([]error, len(refs))
		for i, ref := range refs {
			wg.Go(func() { _, errs[i] = ref.FileList(ctx, nil) })
		}
		<-w.came
		for range len(refs) + 1 { // each of them, and the transfer itself
			<-missed
		}
		w.open()
		wg.Wait()
		require.Equal(t, 1, r.opened(desc.Digest))
		for i, name := range []string{"a", "b", "c"} {
			require.NoError(t, errs[i])
			require.Equal(t, "pulled from "+name, refs[i].GetDescription())
			_, resources := leaseOf(t, env, refs[i].ID()+"-variants")
			require.Equal(t, []leases.Resource{contentResource(desc)}, resources)
			release(t, refs[i])
		}
	})
}

// TestFirstWaiterIsCancelled: who began a transfer or an extraction may go, with his lease, session and progress; the others get it, and it
// stays theirs.
func TestFirstWaiterIsCancelled(t *testing.T) { // spec EXT-8, EXT-12, LEASE-3, LEASE-4, fault 6, quirk Q37
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		ref := byBlob(t, env, r, desc, nil)
		second := get(t, env, ref.ID(), r.handlers(desc))
		w := newWaiting(r)
		defer w.open()

		lease, err := env.Opt.LeaseManager.Create(ctx, leases.WithRandomID())
		require.NoError(t, err)
		firstCtx, cancel := context.WithCancel(leases.WithLease(ctx, lease.ID))
		first := make(chan error, 1)
		go func() { first <- ref.Extract(firstCtx, nil) }()
		<-w.came
		others := make(chan error, 1)
		joined := &joining{Context: ctx, asked: make(chan struct{})}
		go func() { others <- second.Extract(joined, nil) }()
		<-joined.asked
		cancel()
		require.ErrorIs(t, <-first, context.Canceled)
		require.NoError(t, env.Opt.LeaseManager.Delete(ctx, lease))
		require.NoError(t, env.GC(ctx))
		w.open()
		require.NoError(t, <-others)
		require.Equal(t, 1, r.opened(desc.Digest), "the transfer went on")
		require.NoError(t, env.GC(ctx))
		require.Equal(t, []string{layerSnapshot(diffIDOf(desc))}, snapshotNames(t, env))
		require.Equal(t, []string{desc.Digest.String()}, blobNames(t, env))
		requireFile(t, second, "f", "x")
		release(t, ref, second)
	})
}

// TestAllWaitersAreCancelled: then the work ends, nothing of it stays, and the next call begins anew.
func TestAllWaitersAreCancelled(t *testing.T) { // spec EXT-9, EXT-12, LEASE-4, quirk Q77, fault 26
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		ref := byBlob(t, env, r, desc, nil)
		w := newWaiting(r)
		defer w.open()
		callCtx, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- ref.Extract(callCtx, nil) }()
		<-w.came
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		r.disturb(nil, nil) // the first transfer still waits, for nothing but the end of its context
		require.NoError(t, ref.Extract(ctx, nil))
		require.Equal(t, 2, r.opened(desc.Digest))
		require.ElementsMatch(t, []string{ref.ID(), ref.ID() + "-variants"}, leaseIDs(t, env))
		release(t, ref)
	})
}

// TestSlowPullDelaysNobody: a transfer that hangs holds up those who want its blob, and nobody else.
func TestSlowPullDelaysNobody(t *testing.T) { // spec MGR-25, LOCK-2, faults 25 and 26, quirk Q77
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r, fast := newRegistry(), newRegistry()
		slow := byBlob(t, env, r, r.layer(t, "gzip", tree.File("slow", "x")), nil)
		child := r.layer(t, "gzip", tree.File("child", "x"))
		w := newWaiting(r)
		defer w.open()
		done := make(chan error, 1)
		go func() { done <- slow.Extract(ctx, nil) }()
		<-w.came

		require.NoError(t, func() error {
			onSlow := byBlob(t, env, r, child, slow) // needs no bytes
			release(t, onSlow)
			quick := byBlob(t, env, fast, fast.layer(t, "gzip", tree.File("fast", "x")), nil, cache.Unlazy(nil))
			mut := newMutable(t, env, quick)
			release(t, mut, quick)
			other := get(t, env, slow.ID(), r.allHandlers())
			release(t, other)
			requireUsage(t, env, 1, 2)
			return nil
		}())
		select {
		case err := <-done:
			t.Fatalf("the transfer ended early: %v", err)
		default:
		}
		w.open()
		require.NoError(t, <-done)
		release(t, slow)
	})
}
