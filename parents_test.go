package cache_test

import (
	"context"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
)

// TestParentsOfBlobRecords: a parent has to have an address, in full, and is finalized. A failed call keeps no hold on it.
func TestParentsOfBlobRecords(t *testing.T) { // spec MGR-21, MGR-22, REC-4, CHAIN-7
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		base := r.layer(t, "gzip", tree.File("base", "x"))
		built := testutil.MakeLayer(t, env, nil, fileIn(t, "base", "x"), cache.CachePolicyRetain)
		mutID := mutableID(t, env, built)
		release(t, built)
		for _, has := range []string{"", "cache.chainID", "cache.blobChainID"} {
			if has != "" { // one of the two is not enough
				editRow(t, env, built.ID(), map[string]any{has: diffIDOf(base).String()})
				env.Reopen()
			}
			parent := get(t, env, built.ID())
			ref, err := env.Manager.GetByBlob(ctx, desc, parent, r.allHandlers())
			require.ErrorContains(t, err, "non-addressable parent")
			require.ErrorContains(t, err, built.ID())
			require.True(t, errdefs.IsFailedPrecondition(err))
			require.True(t, ref == nil)
			require.Equal(t, 2, rowCount(t, env))
			release(t, parent)
			requireUsage(t, env, 0, 1)
			if has != "" {
				editRow(t, env, built.ID(), map[string]any{has: nil})
			}
		}
		mut, err := env.Manager.GetMutable(ctx, mutID)
		require.NoError(t, err, "it was not finalized for nothing")
		release(t, mut)
	})
}

// TestBuiltParent: a layer that was built and given an address, as an export does, carries others, and is finalized by that.
func TestBuiltParent(t *testing.T) { // spec MGR-19, MGR-21, scenario S-8
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base, desc := r.layer(t, "gzip", tree.File("base", "x")), r.layer(t, "gzip", tree.File("f", "x"))
		done := ingest(t, env, r, base)
		built := testutil.MakeLayer(t, env, nil, fileIn(t, "base", "x"), cache.CachePolicyRetain)
		mutID := mutableID(t, env, built)
		release(t, built)
		require.NoError(t, env.Opt.MetadataStore.Write(func(w *metadata.Writer) error {
			row, err := w.Row(built.ID())
			if err != nil {
				return err
			}
			for _, v := range [][3]string{
				{"cache.blob", base.Digest.String()},
				{"cache.diffID", diffIDOf(base).String()},
				{"cache.mediatype", base.MediaType},
				{"cache.chainID", diffIDOf(base).String(), "chainid:" + diffIDOf(base).String()},
				{"cache.blobChainID", blobID(base).String(), "blobchainid:" + blobID(base).String()},
			} {
				if err := row.Set(v[0], v[1], v[2]); err != nil {
					return err
				}
			}
			return nil
		}))
		env.Reopen()
		parent := get(t, env, built.ID())
		ref := byBlob(t, env, r, desc, parent)
		requireRow(t, env, ref.ID(), map[string]any{
			"cache.chainID":     fold(diffIDOf(base), diffIDOf(desc)).String(),
			"cache.blobChainID": fold(blobID(base), blobID(desc)).String(),
		})
		_, err := env.Manager.GetMutable(ctx, mutID)
		require.True(t, cache.IsNotFound(err), "the parent was finalized: %v", err)
		require.NoError(t, env.Opt.LeaseManager.AddResource(ctx, leaseNamed(built.ID()), contentResource(base))) // as an export does
		done()
		requireFile(t, ref, "base", "x")
		requireFile(t, ref, "f", "x")
		release(t, parent, ref)
	})
}

// TestFailedGetByBlob leaves no row, no lease and no hold on the parent, whichever call to the backend fails.
func TestFailedGetByBlob(t *testing.T) { // spec MGR-22, MGR-25, MGR-28, LEASE-8, API-2, quirk Q23, fault 4
	for _, unlazy := range []bool{false, true} {
		eachFault(t, errdefs.ErrUnavailable, func(t *testing.T, env *testutil.Env) (func() error, func(*testing.T, error)) {
			r := newRegistry()
			a, b := r.layer(t, "gzip", tree.File("a", "x")), r.layer(t, "gzip", tree.File("b", "x"))
			base := byBlob(t, env, r, a, nil, cache.Unlazy(nil))
			held := leaseIDs(t, env)
			opts := []cache.RefOption{r.allHandlers()}
			if unlazy {
				opts = append(opts, cache.Unlazy(nil))
			}
			var ref cache.ImmutableRef
			act := func() (err error) {
				ref, err = env.Manager.GetByBlob(ctx, b, base, opts...)
				return err
			}
			return act, func(t *testing.T, err error) {
				if err != nil {
					require.True(t, ref == nil)
					require.Equal(t, 1, rowCount(t, env))
					require.Equal(t, held, leaseIDs(t, env))
					requireUsage(t, env, 1, 0)
					ref = byBlob(t, env, r, b, base, opts...)
				}
				require.NoError(t, env.GC(ctx))
				requireFile(t, ref, "b", "x")
				release(t, ref, base)
				require.Len(t, prune(t, env, pruneAll), 2)
			}
		})
	}
}

// TestFoundByAnother: a record whose first extraction fails goes with the call that made it, unless somebody else has found it meanwhile.
func TestFoundByAnother(t *testing.T) { // spec MGR-25, MGR-26, quirk Q23
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		w := newWaiting(r)
		defer w.open()
		failed := make(chan error, 1)
		go func() {
			_, err := env.Manager.GetByBlob(ctx, desc, nil, r.handlers(desc), cache.Unlazy(nil))
			failed <- err
		}()
		<-w.came
		other := byBlob(t, env, r, desc, nil)
		requireUsage(t, env, 1, 0)
		r.disturb(func(context.Context, digest.Digest) error { return errdefs.ErrNotFound }, nil)
		env.Faults.FailOp(fault.OpApply, errdefs.ErrNotFound)
		w.open()
		require.Error(t, <-failed)
		env.Faults.Reset()
		r.disturb(nil, nil)
		requireUsage(t, env, 1, 0)
		require.NoError(t, other.Extract(ctx, nil))
		requireFile(t, other, "f", "x")
		release(t, other)
		requireUsage(t, env, 0, 1)
	})
}

// TestReleasedParent: a parent that the caller has let go of serves as long as its record is there.
func TestReleasedParent(t *testing.T) { // spec MGR-6, MGR-21
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base := byBlob(t, env, r, r.layer(t, "gzip", tree.File("a", "x")), nil)
		desc := r.layer(t, "gzip", tree.File("b", "x"))
		release(t, base)
		ref := byBlob(t, env, r, desc, base)
		release(t, ref)
		require.Len(t, prune(t, env, pruneAll), 2)
		_, err := env.Manager.GetByBlob(ctx, desc, base, r.allHandlers())
		require.True(t, cache.IsNotFound(err), "%v", err)
		require.Zero(t, rowCount(t, env))
	})
}

// TestParentNobodyHas: the handlers of the call have to reach the parent's blobs, too.
func TestParentNobodyHas(t *testing.T) { // spec MGR-8, MGR-21
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		_, refs := chainOf(t, env, r, 2)
		desc := r.layer(t, "gzip", tree.File("f", "x"))
		_, err := env.Manager.GetByBlob(ctx, desc, refs[1], r.handlers(desc))
		var missing cache.NeedsRemoteProviderError
		require.ErrorAs(t, err, &missing)
		require.Len(t, missing, 2)
		release(t, refs[0], refs[1])
		require.Len(t, prune(t, env, pruneAll), 2)
	})
}

// TestGetByBlobOfManyLayers at once, on one parent: different layers do not wait for each other's transfer, and each gets its own record.
func TestGetByBlobOfManyLayers(t *testing.T) { // spec LOCK-2, MGR-26
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		base := byBlob(t, env, r, r.layer(t, "gzip", tree.File("base", "x")), nil)
		refs := make([]cache.ImmutableRef, 20)
		errs := make([]error, len(refs))
		var wg sync.WaitGroup
		for i := range refs {
			desc := r.layer(t, "gzip", tree.File("f", string(rune('a'+i/2)))) // two each
			wg.Go(func() { refs[i], errs[i] = env.Manager.GetByBlob(ctx, desc, base, r.allHandlers(), cache.Unlazy(nil)) })
		}
		wg.Wait()
		for i := range refs {
			require.NoError(t, errs[i])
			require.Equal(t, refs[i-i%2].ID(), refs[i].ID())
		}
		require.Equal(t, 1+len(refs)/2, rowCount(t, env))
		require.Len(t, snapshotNames(t, env), 1+len(refs)/2)
		release(t, base)
		for _, ref := range refs {
			release(t, ref)
		}
	})
}
