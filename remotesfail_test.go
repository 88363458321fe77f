package cache_test

import (
	"context"
	"strconv"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/compression/codec"
	"github.com/layercache/cache/remote"
	"github.com/layercache/cache/testutil"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/tree"
	"github.com/layercache/cache/usage"
)

// underLease returns a context with a lease, and what that lists.
func underLease(t testing.TB, env *testutil.Env) (leased context.Context, id string) {
	t.Helper()
	l, err := env.Opt.LeaseManager.Create(ctx, leases.WithRandomID())
	require.NoError(t, err)
	return leases.WithLease(ctx, l.ID), l.ID
}

func endLease(t testing.TB, env *testutil.Env, ids ...string) {
	t.Helper()
	for _, id := range ids {
		require.NoError(t, env.Opt.LeaseManager.Delete(ctx, leaseNamed(id)))
	}
}

// leasedBlobs are the blobs that a lease lists.
func leasedBlobs(t *testing.T, env *testutil.Env, id string) (blobs []digest.Digest) {
	t.Helper()
	_, resources := leaseOf(t, env, id)
	for _, r := range resources {
		if r.Type == "content" {
			blobs = append(blobs, digest.Digest(r.ID))
		}
	}
	return blobs
}

// exportsOfOneLayer are what callers share when they want the same of a layer at the same time: the making of its blob, and another form.
var exportsOfOneLayer = map[string]remote.RefConfig{"pack": as(codec.Gzip), "convert": forced(codec.Zstd)}

// layerToExport makes a layer with a text, which has a blob already if it is to be converted.
func layerToExport(t *testing.T, env *testutil.Env, cfg remote.RefConfig, text string) cache.ImmutableRef {
	t.Helper()
	ref := finalized(t, env, nil, fileIn(t, "f", text), cache.CachePolicyRetain)
	if cfg.Compression.Force {
		export(t, ref, as(codec.Gzip))
	}
	return ref
}

// TestFirstExporterIsCancelled: who began to make a blob, or another form of one, may go, with his lease. The others share the result, and each has it
// in his own lease, whatever becomes of the record.
func TestFirstExporterIsCancelled(t *testing.T) { // spec BLOB-2, VAR-5, LEASE-4, fault 6, fault 10, quirk Q47
	for what, cfg := range exportsOfOneLayer {
		t.Run(what, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				ref := layerToExport(t, env, cfg, "x")
				env.Faults.Reset()
				held := env.Faults.BlockOp(fault.OpWriterCommit)
				defer held.Release()
				firstCtx, firstLease := underLease(t, env)
				firstCtx, cancel := context.WithCancel(firstCtx)
				first := make(chan error, 1)
				go func() {
					_, err := ref.GetRemotes(firstCtx, true, cfg, false, nil)
					first <- err
				}()
				<-held.Entered()
				type result struct {
					remotes []*remote.Remote
					err     error
				}
				var ids []string
				results := make(chan result, 3)
				for range cap(results) {
					leased, id := underLease(t, env)
					ids = append(ids, id)
					go func() {
						remotes, err := ref.GetRemotes(leased, true, cfg, false, nil)
						results <- result{remotes, err}
					}()
				}
				require.Eventually(t, func() bool { return cache.Exporters(env.Manager) == 1+cap(results) }, time.Minute, time.Millisecond)
				cancel()
				require.ErrorIs(t, <-first, context.Canceled)
				endLease(t, env, firstLease)
				require.NoError(t, env.GC(ctx))
				held.Release()
				var blob digest.Digest
				for range cap(results) {
					r := <-results
					require.NoError(t, r.err)
					require.Len(t, r.remotes[0].Descriptors, 1)
					require.NoError(t, readAll(ctx, r.remotes[0]))
					blob = r.remotes[0].Descriptors[0].Digest
				}
				require.Equal(t, 1, env.Faults.Count(fault.OpWriterCommit), "it went on for the others")
				requireNoWork(t, env)

				release(t, ref)
				prune(t, env, usage.PruneInfo{All: true})
				requireUsage(t, env, 0, 0)
				for i, id := range ids {
					require.Contains(t, leasedBlobs(t, env, id), blob)
					require.Contains(t, blobsOf(t, env), blob, "%d leases are left", len(ids)-i)
					endLease(t, env, id)
					require.NoError(t, env.GC(ctx))
				}
				require.Empty(t, blobsOf(t, env))
			})
		})
	}
}

// TestExportOutlivesRecords: what was exported under a caller's lease can be read for as long as that lasts, though everything else is pruned; also what
// its provider fetched later.
func TestExportOutlivesRecords(t *testing.T) { // spec BLOB-2, RMT-3, fault 10, quirk Q47
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		lazy := byBlob(t, env, r, r.layer(t, "gzip", tree.File("lazy", "x")), nil)
		base := testutil.MakeLayer(t, env, nil, fileIn(t, "a", "1"), cache.CachePolicyRetain)
		top := testutil.MakeLayer(t, env, base, fileIn(t, "b", "2"), cache.CachePolicyRetain)
		merged, err := env.Manager.Merge(ctx, refs(lazy, top), nil)
		require.NoError(t, err)
		leased, id := underLease(t, env)
		remotes, err := merged.GetRemotes(leased, true, as(codec.Zstd), true, nil)
		require.NoError(t, err)
		got := remotes[0]
		require.Len(t, got.Descriptors, 3)
		require.NotContains(t, blobsOf(t, env), got.Descriptors[0].Digest, "what is lazy stays so")
		require.NoError(t, readAll(leased, got))
		require.ElementsMatch(t, exportedAs(got), leasedBlobs(t, env, id))

		release(t, lazy, base, top, merged)
		prune(t, env, usage.PruneInfo{All: true})
		requireUsage(t, env, 0, 0)
		require.NoError(t, readAll(ctx, got))
		require.ElementsMatch(t, exportedAs(got), blobsOf(t, env))
		require.Equal(t, []string{id}, leaseIDs(t, env))
		endLease(t, env, id)
		require.NoError(t, env.GC(ctx))
		require.Empty(t, blobsOf(t, env))
		require.True(t, errdefs.IsNotFound(readAll(ctx, got)))
	})
}

func exportedAs(r *remote.Remote) (blobs []digest.Digest) {
	for _, desc := range r.Descriptors {
		blobs = append(blobs, desc.Digest)
	}
	return blobs
}

// TestExportUnderLeaseThatEnded: a caller whose lease is gone is told so, and not handed what nobody keeps for him.
func TestExportUnderLeaseThatEnded(t *testing.T) { // spec BLOB-1, LEASE-8
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		ref := layerToExport(t, env, as(codec.Gzip), "x")
		leased, id := underLease(t, env)
		endLease(t, env, id)
		_, err := ref.GetRemotes(leased, true, as(codec.Gzip), false, nil)
		require.True(t, errdefs.IsNotFound(err), "%v", err)
		require.NoError(t, readAll(ctx, export(t, ref, as(codec.Gzip))))
		release(t, ref)
	})
}

// TestCancelledExport: an export that is cancelled anywhere while a blob is written leaves no upload and no lease, and who asks again at once, while the
// first is still on its way out, is not told that something is locked.
func TestCancelledExport(t *testing.T) { // spec BLOB-2, BLOB-6, COMP-4, LEASE-4, fault 13, fault 26
	for what, cfg := range exportsOfOneLayer {
		for _, op := range []string{fault.OpContentWriter, fault.OpWriterTruncate, fault.OpWriterWrite, fault.OpWriterCommit, fault.OpContentUpdate} {
			if what == "convert" && op == fault.OpWriterTruncate {
				continue // its uploads are nobody else's, so they begin empty
			}
			for _, when := range []fault.When{fault.Before, fault.After} {
				t.Run(what+"/"+when.String()+"_"+op, func(t *testing.T) {
					eachBackend(t, func(t *testing.T, env *testutil.Env) {
						cancelExport(t, env, cfg, fault.Match{Op: op, When: when, Times: 1})
					})
				})
			}
		}
	}
}

func cancelExport(t *testing.T, env *testutil.Env, cfg remote.RefConfig, at fault.Match) {
	t.Helper()
	for _, again := range []bool{false, true} {
		ref := layerToExport(t, env, cfg, strconv.FormatBool(again))
		before := blobsOf(t, env)
		env.Faults.Reset()
		held := env.Faults.Block(at)
		leased, id := underLease(t, env)
		leased, cancel := context.WithCancel(leased)
		done := make(chan error, 1)
		go func() {
			_, err := ref.GetRemotes(leased, true, cfg, false, nil)
			done <- err
		}()
		<-held.Entered()
		cancel()
		require.ErrorIs(t, <-done, context.Canceled)
		retried := make(chan error, 1)
		if again {
			go func() {
				_, err := ref.GetRemotes(ctx, true, cfg, false, nil)
				retried <- err
			}()
		}
		held.Release()
		if again {
			require.NoError(t, <-retried)
		}
		cache.Quiesce(env.Manager)
		require.Empty(t, leasedBlobs(t, env, id))
		endLease(t, env, id)
		requireNoWork(t, env)
		if !again && at.Op != fault.OpContentUpdate && (at.Op != fault.OpWriterCommit || at.When == fault.Before) {
			require.ElementsMatch(t, before, blobsOf(t, env), "what was not finished is collected")
		}
		require.NoError(t, readAll(ctx, export(t, ref, cfg)))
		release(t, ref)
	}
	prune(t, env, usage.PruneInfo{All: true})
	require.Empty(t, blobsOf(t, env))
}

// TestFailedExport: an export that fails anywhere leaves as little as one that is cancelled.
func TestFailedExport(t *testing.T) { // spec BLOB-2, LEASE-8, fault 13
	broken := errors.New("broken")
	for what, cfg := range exportsOfOneLayer {
		for _, op := range []string{fault.OpContentWriter, fault.OpWriterWrite, fault.OpWriterCommit, fault.OpContentUpdate, fault.OpLeaseAddResource} {
			t.Run(what+"/"+op, func(t *testing.T) {
				eachBackend(t, func(t *testing.T, env *testutil.Env) {
					ref := layerToExport(t, env, cfg, "x")
					inj := env.Faults.FailOp(op, broken)
					_, err := ref.GetRemotes(ctx, true, cfg, false, nil)
					require.ErrorIs(t, err, broken)
					var layer *cache.LayerError
					require.ErrorAs(t, err, &layer)
					require.Equal(t, ref.ID(), layer.Record)
					inj.Remove()
					requireNoWork(t, env)
					require.NoError(t, readAll(ctx, export(t, ref, cfg)))
					release(t, ref)
				})
			})
		}
	}
}

// TestExportOfEitherCompression: of a layer that is known in two compressions, one of them lazy, either is exported as what it is, and the handlers of
// its own blob are asked for it.
func TestExportOfEitherCompression(t *testing.T) { // spec RMT-6, VAR-5, fault 12
	eachBackend(t, func(t *testing.T, env *testutil.Env) {
		r := newRegistry()
		gz, zst := r.layer(t, "gzip", tree.File("f", "x")), r.layer(t, "zstd", tree.File("f", "x"))
		a, b := byBlob(t, env, r, gz, nil), byBlob(t, env, r, zst, nil)
		require.NoError(t, a.Extract(ctx, nil))
		require.Equal(t, []digest.Digest{gz.Digest}, blobsOf(t, env))

		require.Equal(t, []digest.Digest{gz.Digest}, exportedAs(export(t, a, forced(codec.Gzip))))
		lazy := export(t, b, forced(codec.Zstd))
		require.Equal(t, []digest.Digest{zst.Digest}, exportedAs(lazy))
		require.Equal(t, []digest.Digest{gz.Digest}, blobsOf(t, env), "it stays lazy")

		require.NoError(t, readAll(ctx, lazy))
		back := export(t, b, forced(codec.Gzip))
		require.Equal(t, diffIDOf(gz), diffIDOf(back.Descriptors[0]))
		require.NoError(t, readAll(ctx, back))
		require.Equal(t, []int{1, 1}, []int{r.opened(gz.Digest), r.opened(zst.Digest)})
		release(t, a, b)
	})
}

// TestVariantsOfAnother: a record whose blob another one was converted to sees the other's forms, and keeps what it was given of them when the other is
// gone. Until it has been given any, it need not.
func TestVariantsOfAnother(t *testing.T) { // spec VAR-3, VAR-5, RMT-8, fault 4, fault 12, scenario S-19
	for name, cfg := range map[string]remote.RefConfig{"force": forced(codec.Uncompressed), "all": as(codec.Uncompressed)} {
		t.Run(name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, env *testutil.Env) {
				r := newRegistry()
				a := byBlob(t, env, r, r.layer(t, "gzip", tree.File("f", "x")), nil)
				zst := export(t, a, forced(codec.Zstd))
				plain := export(t, a, forced(codec.Uncompressed))
				b, err := env.Manager.GetByBlob(ctx, zst.Descriptors[0], nil)
				require.NoError(t, err)
				require.NotEqual(t, a.ID(), b.ID())
				found, err := env.Manager.Check(ctx)
				require.NoError(t, err)
				require.Empty(t, found)

				remotes, err := b.GetRemotes(ctx, false, cfg, true, nil)
				require.NoError(t, err)
				last := remotes[len(remotes)-1]
				require.Equal(t, exportedAs(plain), exportedAs(last))
				release(t, a)
				prune(t, env, usage.PruneInfo{All: true})
				require.NoError(t, env.GC(ctx))
				for _, r := range remotes {
					require.NoError(t, readAll(ctx, r))
				}
				release(t, b)
			})
		})
	}
}
