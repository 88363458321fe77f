package cache_test

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/tree"
)

// TestPullFails: an error names record and blob, leaves nothing, and does not stay with the record.
func TestPullFails(t *testing.T) { // spec PULL-2, API-3, fault 11
	cut := func(_ digest.Digest, data []byte) []byte { return data[:len(data)/2] }
	flip := func(_ digest.Digest, data []byte) []byte {
		data = append([]byte(nil), data...)
		data[len(data)/2] ^= 1
		return data
	}
	always := func(err error) func(context.Context, digest.Digest) error {
		return func(context.Context, digest.Digest) error { return err }
	}
	for name, trouble := range map[string]struct {
		before func(context.Context, digest.Digest) error
		alter  func(digest.Digest, []byte) []byte
		want   error
	}{
		"refused":     {before: always(errdefs.ErrPermissionDenied), want: errdefs.ErrPermissionDenied},
		"not there":   {before: always(errdefs.ErrNotFound), want: errdefs.ErrNotFound},
		"short":       {alter: cut, want: io.ErrUnexpectedEOF},
		"wrong bytes": {alter: flip, want: cache.ErrVerification},
	} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				desc := r.layer(t, "gzip", tree.File("f", "x"))
				progress := &progressLog{}
				handlers := r.handlers(desc)
				handlers[desc.Digest].Progress = progress
				ref, err := env.Manager.GetByBlob(ctx, desc, nil, handlers)
				require.NoError(t, err)
				r.disturb(trouble.before, trouble.alter)
				err = ref.Extract(ctx, nil)
				require.ErrorIs(t, err, trouble.want)
				var layer *cache.LayerError
				require.ErrorAs(t, err, &layer)
				require.Equal(t, [3]string{ref.ID(), desc.Digest.String(), "pulling"}, [3]string{layer.Record, layer.Digest.String(), layer.Action})
				require.ErrorContains(t, err, ref.ID())
				require.ErrorContains(t, err, desc.Digest.String())
				_, ends := progress.take(t)
				require.Len(t, ends, 1)
				require.ErrorIs(t, ends[0], trouble.want, "spec EXT-13")
				require.NoError(t, env.GC(ctx))
				require.Empty(t, blobNames(t, env))
				require.Empty(t, snapshotNames(t, env))

				r.disturb(nil, nil)
				require.NoError(t, ref.Extract(ctx, nil))
				requireFile(t, ref, "f", "x")
				release(t, ref)
			})
		})
	}
}

// TestPullIsTakenUpAgain: a transfer that breaks goes on where it was, and what was received twice is not asked for twice.
func TestPullIsTakenUpAgain(t *testing.T) { // spec PULL-2, fault 11
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "", tree.File("f", string(make([]byte, 1<<20))))
		ref := byBlob(t, env, r, desc, nil)
		tries := 0
		r.disturb(func(context.Context, digest.Digest) error {
			if tries++; tries == 1 {
				return errdefs.ErrUnavailable
			}
			return nil
		}, func(_ digest.Digest, data []byte) []byte {
			if tries == 2 {
				return data[:len(data)/2]
			}
			return data
		})
		require.NoError(t, ref.Extract(ctx, nil))
		require.Equal(t, 3, r.opened(desc.Digest))
		release(t, ref)
	})
}

// TestEitherHandlerReaches a layer that is known in two compressions.
func TestEitherHandlerReaches(t *testing.T) { // fault 12
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		gz, zst := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "zstd", tree.File("f", "x"))
		a, b := byBlob(t, env, r, gz, nil), byBlob(t, env, r, zst, nil)
		r.disturb(func(_ context.Context, d digest.Digest) error {
			if d == gz.Digest {
				return errors.Wrap(errdefs.ErrNotFound, "deleted from the registry")
			}
			return nil
		}, nil)
		require.NoError(t, a.Extract(ctx, nil))
		requireFile(t, a, "f", "x")
		require.Equal(t, []string{zst.Digest.String()}, blobNames(t, env))
		require.NoError(t, b.Extract(ctx, nil))
		require.NoError(t, env.GC(ctx))
		require.Contains(t, snapshotNames(t, env), layerSnapshot(diffIDOf(gz)))
		release(t, a, b)
	})
}

// TestFetchHook: an embedder's own transfer is used for every blob, in the session that asked, under a lease.
func TestFetchHook(t *testing.T) { // spec PULL-2, LEASE-3, design 5
	r := newRegistry()
	var (
		mu    sync.Mutex
		calls []string
	)
	hook := func(ctx context.Context, cs content.Store, provider content.Provider, desc ocispecs.Descriptor, ref string) error {
		lease, ok := leases.FromContext(ctx)
		if !ok || lease == "" {
			return errors.New("no lease in the context")
		}
		mu.Lock()
		calls = append(calls, desc.Digest.String()+" "+ref)
		mu.Unlock()
		data, err := content.ReadBlob(ctx, provider, desc)
		if err != nil {
			return err
		}
		return content.WriteBlob(ctx, cs, "hook", bytes.NewReader(data), desc)
	}
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Hooks.FetchBlob = hook }))
	desc := r.layer(t, "gzip", tree.File("f", "x"))
	handlers := r.handlers(desc)
	var got session.Group
	handlers[desc.Digest].Provider = func(s session.Group) content.Provider { got = s; return r }
	ref, err := env.Manager.GetByBlob(ctx, desc, nil, handlers)
	require.NoError(t, err)
	require.NoError(t, ref.Extract(ctx, session.NewGroup("s1")))
	require.Equal(t, []string{desc.Digest.String() + " registry.test/image"}, calls)
	require.Equal(t, session.NewGroup("s1"), got)
	release(t, ref)
}

// TestFetchHookThatLies: what says it has fetched a blob and has not is found out.
func TestFetchHookThatLies(t *testing.T) { // spec PULL-2, fault 11
	hook := func(context.Context, content.Store, content.Provider, ocispecs.Descriptor, string) error { return nil }
	env := testutil.New(t, testutil.Doubles(), testutil.WithManagerOpt(func(opt *cache.ManagerOpt) { opt.Hooks.FetchBlob = hook }))
	r := newRegistry()
	desc := r.layer(t, "gzip", tree.File("f", "x"))
	ref := byBlob(t, env, r, desc, nil)
	var layer *cache.LayerError
	require.ErrorAs(t, ref.Extract(ctx, nil), &layer)
	require.Equal(t, desc.Digest, layer.Digest)
	release(t, ref)
}

// TestHandlersWithoutProvider are an error, not a panic.
func TestHandlersWithoutProvider(t *testing.T) { // spec PULL-1, fault 43
	env := testutil.New(t, testutil.Doubles())
	r := newRegistry()
	desc := r.layer(t, "gzip", tree.File("f", "x"))
	for _, dh := range []*cache.DescHandler{{}, {Provider: func(session.Group) content.Provider { return nil }}} {
		ref, err := env.Manager.GetByBlob(ctx, desc, nil, cache.DescHandlers{desc.Digest: dh})
		require.NoError(t, err)
		err = ref.Extract(ctx, nil)
		require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
		release(t, ref)
	}
}
