package double_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/snapshottest"
	"github.com/layercache/cache/testutil/double"
)

// TestConformance holds the double to the suite that every snapshotter has to pass (spec SNP-1), with
// both orders of locks.
func TestConformance(t *testing.T) {
	for name, opts := range map[string][]double.Option{"apart": nil, "joined": {double.WithJoin()}} {
		t.Run(name, func(t *testing.T) {
			snapshottest.Run(t, func(t *testing.T) snapshottest.Fixture {
				b := double.New(append(opts, double.WithDir(t.TempDir()))...)
				return snapshottest.Fixture{Snapshotter: snapshot.FromContainerdSnapshotter(b.Name(), b.Snapshotter(), nil)}
			})
		})
	}
}

// TestLeasesExpireByClock: the clock given decides, not the machine's (spec LEASE-5).
func TestLeasesExpireByClock(t *testing.T) {
	ctx := context.Background()
	now := time.Date(2001, 1, 1, 0, 0, 0, 0, time.UTC)
	b := double.New(double.WithClock(func() time.Time { return now }))
	_, err := b.LeaseManager().Create(ctx, leases.WithID("l"), leases.WithLabel("containerd.io/gc.expire", now.Add(time.Hour).Format(time.RFC3339)))
	require.NoError(t, err)
	_, err = b.Snapshotter().Prepare(leases.WithLease(ctx, "l"), "s", "")
	require.NoError(t, err)
	for _, want := range []int{1, 0} {
		_, err = b.GC(ctx)
		require.NoError(t, err)
		ls, err := b.LeaseManager().List(ctx)
		require.NoError(t, err)
		require.Len(t, ls, want)
		_, err = b.Snapshotter().Stat(ctx, "s")
		require.Equal(t, want == 0, errdefs.IsNotFound(err))
		now = now.Add(2 * time.Hour)
	}
}

// TestDirectories: a child starts with its parent's tree, garbage collection removes directories.
func TestDirectories(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	b := double.New(double.WithDir(dir))
	sn := b.Snapshotter()
	m, err := sn.Prepare(ctx, "a", "")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(m[0].Source, "f"), []byte("text"), 0o600))
	require.NoError(t, sn.Commit(ctx, "A", "a"))
	m, err = sn.Prepare(ctx, "b", "A")
	require.NoError(t, err)
	got, err := os.ReadFile(filepath.Join(m[0].Source, "f"))
	require.NoError(t, err)
	require.Equal(t, "text", string(got))
	u, err := sn.Usage(ctx, "A")
	require.NoError(t, err)
	require.Equal(t, int64(2), u.Inodes)
	require.Positive(t, u.Size)
	require.NoError(t, b.SetUsage(ctx, "A", snapshots.Usage{Size: 7}))
	u, err = sn.Usage(ctx, "A")
	require.NoError(t, err)
	require.Equal(t, snapshots.Usage{Size: 7}, u)
	require.True(t, errdefs.IsNotFound(b.SetUsage(ctx, "none", u)))

	_, err = b.GC(ctx)
	require.NoError(t, err)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)

	// Without a directory nothing touches the disk.
	m, err = double.New().Snapshotter().Prepare(ctx, "a", "")
	require.NoError(t, err)
	require.NoFileExists(t, m[0].Source)
}

// TestFailedCommitLosesSnapshot: a snapshot that was committed in a transaction that then failed
// exists in name only, as with containerd (design section 5: the snapshotter call is the last of its group).
func TestFailedCommitLosesSnapshot(t *testing.T) {
	ctx, boom := context.Background(), errors.New("boom")
	b := double.New(double.WithJoin())
	_, err := b.Snapshotter().Prepare(ctx, "a", "")
	require.NoError(t, err)
	require.ErrorIs(t, b.Update(ctx, func(ctx context.Context) error {
		require.NoError(t, b.Snapshotter().Commit(ctx, "A", "a"))
		return boom
	}), boom)
	for _, key := range []string{"a", "A"} {
		_, err = b.Snapshotter().Stat(ctx, key)
		require.True(t, errdefs.IsNotFound(err), key)
	}
}

// TestFailedPrepare: the key of a snapshot that was prepared in a transaction that then failed can be used again
// if all calls join transactions, and not if they do not.
func TestFailedPrepare(t *testing.T) {
	ctx, boom := context.Background(), errors.New("boom")
	for _, join := range []bool{true, false} {
		var opts []double.Option
		if join {
			opts = append(opts, double.WithJoin())
		}
		b := double.New(opts...)
		require.ErrorIs(t, b.Update(ctx, func(ctx context.Context) error {
			_, err := b.Snapshotter().Prepare(ctx, "a", "")
			require.NoError(t, err)
			return boom
		}), boom)
		_, err := b.Snapshotter().Prepare(ctx, "a", "")
		require.Equal(t, join, err == nil, "join %v: %v", join, err)
	}
}

// TestIsolation: others see a transaction's changes when it has ended and not before, and its
// context is of no use afterwards.
func TestIsolation(t *testing.T) {
	ctx := context.Background()
	b := double.New()
	var inner context.Context
	require.NoError(t, b.Update(ctx, func(txCtx context.Context) error {
		inner = txCtx
		_, err := b.LeaseManager().Create(txCtx, leases.WithID("l"))
		require.NoError(t, err)
		outside, err := b.LeaseManager().List(ctx)
		require.NoError(t, err)
		require.Empty(t, outside)
		inside, err := b.LeaseManager().List(txCtx)
		require.NoError(t, err)
		require.Len(t, inside, 1)
		return nil
	}))
	ls, err := b.LeaseManager().List(ctx)
	require.NoError(t, err)
	require.Len(t, ls, 1)
	require.True(t, errdefs.IsFailedPrecondition(b.LeaseManager().Delete(inner, leases.Lease{ID: "l"})))
}

// TestLose: a snapshot or blob that is lost is gone, whatever leases it (fault 8, fault 9).
func TestLose(t *testing.T) {
	ctx := context.Background()
	b := double.New(double.WithDir(t.TempDir()))
	_, err := b.LeaseManager().Create(ctx, leases.WithID("l"))
	require.NoError(t, err)
	ctx = leases.WithLease(ctx, "l")
	_, err = b.Snapshotter().Prepare(ctx, "a", "")
	require.NoError(t, err)
	dgst := digest.FromString("text")
	require.NoError(t, writeBlob(ctx, b.ContentStore(), "text"))
	require.NoError(t, b.LoseSnapshot("a"))
	require.NoError(t, b.LoseSnapshot("a"))
	require.NoError(t, b.LoseBlob(dgst))
	_, err = b.Snapshotter().Mounts(ctx, "a")
	require.True(t, errdefs.IsNotFound(err))
	_, err = b.ContentStore().ReaderAt(ctx, ocispecs.Descriptor{Digest: dgst})
	require.True(t, errdefs.IsNotFound(err))
	rs, err := b.LeaseManager().ListResources(ctx, leases.Lease{ID: "l"})
	require.NoError(t, err)
	require.Len(t, rs, 2)
}

func writeBlob(ctx context.Context, cs content.Store, text string) error {
	return content.WriteBlob(ctx, cs, text, strings.NewReader(text), ocispecs.Descriptor{Digest: digest.FromString(text), Size: int64(len(text))})
}

// TestRace: creators, removers and garbage collection at the same time; what is leased stays.
func TestRace(t *testing.T) {
	ctx := context.Background()
	b := double.New(double.WithJoin())
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 40 {
				id := string(rune('a'+g)) + string(rune('A'+i))
				err := b.Update(ctx, func(ctx context.Context) error {
					if _, err := b.LeaseManager().Create(ctx, leases.WithID(id)); err != nil {
						return err
					}
					_, err := b.Snapshotter().Prepare(leases.WithLease(ctx, id), id, "")
					return err
				})
				leased := leases.WithLease(ctx, id)
				if err == nil {
					err = b.Snapshotter().Commit(leased, id+"c", id)
				}
				if err == nil {
					_, err = b.Snapshotter().View(leased, id+"v", id+"c")
				}
				if err == nil {
					err = writeBlob(leased, b.ContentStore(), id)
				}
				if err == nil {
					_, err = b.Snapshotter().Mounts(ctx, id+"v")
				}
				if err == nil && i%2 == 0 {
					err = b.LeaseManager().Delete(ctx, leases.Lease{ID: id})
				}
				if err != nil {
					t.Errorf("%s: %v", id, err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 100 {
			if _, err := b.GC(ctx); err != nil {
				t.Error(err)
			}
		}
	})
	wg.Wait()
	_, err := b.GC(ctx)
	require.NoError(t, err)
	n := 0
	require.NoError(t, b.Snapshotter().Walk(ctx, func(context.Context, snapshots.Info) error { n++; return nil }))
	require.Equal(t, 4*20*2, n)
	blobs := 0
	require.NoError(t, b.ContentStore().Walk(ctx, func(content.Info) error { blobs++; return nil }))
	require.Equal(t, 4*20, blobs)
}
