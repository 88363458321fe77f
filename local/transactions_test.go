package local

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/metadata"
)

var errBoom = errors.New("boom")

// A group is one transaction: visible as a whole after it, and gone as a whole if it fails.
func TestGroupIsOneTransaction(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		group := func(fail error) error {
			return p.Transactions.Update(t.Context(), func(ctx context.Context) error {
				if err := addLease(ctx, p, "l", "s"); err != nil {
					return err
				}
				if p.Transactions.Snapshots {
					if err := p.Snapshotter.Prepare(ctx, "s", ""); err != nil {
						return err
					}
				}
				all, err := p.LeaseManager.List(t.Context())
				require.NoError(t, err)
				require.Empty(t, all, "others do not see it yet")
				return fail
			})
		}
		require.Same(t, errBoom, group(errBoom), "the error comes back as it is")
		all, err := p.LeaseManager.List(t.Context())
		require.NoError(t, err)
		require.Empty(t, all)
		require.Empty(t, snapshotDirs(t, p))

		before := commits(t, p.raw)
		require.NoError(t, group(nil))
		require.Equal(t, 1, commits(t, p.raw)-before)
		all, err = p.LeaseManager.List(t.Context())
		require.NoError(t, err)
		require.Len(t, all, 1)
		if p.Transactions.Snapshots {
			_, err = p.Snapshotter.Stat(t.Context(), "s")
			require.NoError(t, err)
		}
	})
}

// commits returns how many transactions have been committed to a database since it was made.
func commits(t *testing.T, db metadata.Transactor) (n int) {
	t.Helper()
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		n = tx.ID()
		return nil
	}))
	return n
}

// An update within an update joins it, and one whose transaction has ended starts anew.
func TestUpdateIsReentrant(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	before := commits(t, p.raw)
	var leaked context.Context
	require.NoError(t, p.Transactions.Update(t.Context(), func(ctx context.Context) error {
		leaked = ctx
		return p.Transactions.Update(ctx, func(ctx context.Context) error {
			return addLease(ctx, p, "inner", "s")
		})
	}))
	require.Equal(t, 1, commits(t, p.raw)-before)
	require.NoError(t, p.Transactions.Update(leaked, func(ctx context.Context) error {
		return addLease(ctx, p, "later", "s")
	}))
	require.Equal(t, 2, commits(t, p.raw)-before)
}

// A transaction of another database in the context is not mistaken for one of this.
func TestForeignTransaction(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	other, err := bolt.Open(filepath.Join(t.TempDir(), "db"), 0o600, nil)
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close()) }()
	require.NoError(t, other.Update(func(tx *bolt.Tx) error {
		return p.Transactions.Update(boltutil.WithTransaction(t.Context(), tx), func(ctx context.Context) error {
			return addLease(ctx, p, "l", "s")
		})
	}))
	all, err := p.LeaseManager.List(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
}

// Waiting for another's transaction ends with the waiter's context. fault 26
func TestWaitingForTransactionEndsWithContext(t *testing.T) {
	p := openParts(t, t.TempDir(), quick)
	inside, leave := make(chan struct{}), make(chan struct{})
	done := make(chan error, 1)
	go func() {
		done <- p.Transactions.Update(context.Background(), func(context.Context) error {
			close(inside)
			<-leave
			return nil
		})
	}()
	<-inside
	for name, wait := range map[string]func(context.Context) error{
		"group": func(ctx context.Context) error {
			return p.Transactions.Update(ctx, func(context.Context) error {
				t.Error("must not run")
				return nil
			})
		},
		"lease":          func(ctx context.Context) error { return addLease(ctx, p, "l", "s") },
		"lease deletion": func(ctx context.Context) error { return p.LeaseManager.Delete(ctx, leases.Lease{ID: "l"}) },
		"lease resource": func(ctx context.Context) error {
			return p.LeaseManager.DeleteResource(ctx, leases.Lease{ID: "l"}, snapshotResource(p, "s"))
		},
		"snapshot": func(ctx context.Context) error { return p.Snapshotter.Prepare(ctx, "s", "") },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
			defer cancel()
			require.ErrorIs(t, wait(ctx), context.DeadlineExceeded)
		})
	}
	close(leave)
	require.NoError(t, <-done)
}

// Calls that would turn the order of locks around are refused instead of deadlocking some day.
func TestWrongOrderIsRefused(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	newLayer(t, p, "one", "")
	w, err := p.ContentStore.Writer(t.Context(), content.WithRef("early"))
	require.NoError(t, err)
	defer func() { require.NoError(t, w.Close()) }()
	dgst := digest.FromString("x")
	for name, call := range map[string]func(context.Context) error{
		"Prepare": func(ctx context.Context) error { return p.Snapshotter.Prepare(ctx, "a", "") },
		"View": func(ctx context.Context) error {
			_, err := p.Snapshotter.View(ctx, "a", "one")
			return err
		},
		"Commit": func(ctx context.Context) error { return p.Snapshotter.Commit(ctx, "a", "one") },
		"Update": func(ctx context.Context) error {
			_, err := p.Snapshotter.Update(ctx, snapshots.Info{Name: "one"})
			return err
		},
		"content writer": func(ctx context.Context) error {
			_, err := p.ContentStore.Writer(ctx, content.WithRef("r"))
			return err
		},
		"content commit": func(ctx context.Context) error { return w.Commit(ctx, 0, "") },
		"content update": func(ctx context.Context) error {
			_, err := p.ContentStore.Update(ctx, content.Info{Digest: dgst})
			return err
		},
		"content abort": func(ctx context.Context) error { return p.ContentStore.Abort(ctx, "r") },
		"garbage collection": func(ctx context.Context) error {
			_, err := p.GarbageCollect(ctx)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := p.Transactions.Update(t.Context(), call)
			require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		})
	}
	require.NoError(t, p.raw.View(func(tx *bolt.Tx) error {
		err := p.Transactions.Update(boltutil.WithTransaction(t.Context(), tx), func(context.Context) error {
			t.Error("must not run")
			return nil
		})
		require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
		return nil
	}))
}

// containerd adds a snapshot that exists already to the lease of the context before it says so. That
// must survive although the call fails.
func TestAlreadyExistsKeepsLease(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		newLayer(t, p, "one", "")
		_, err := p.LeaseManager.Create(t.Context(), leases.WithID("second"))
		require.NoError(t, err)
		err = p.Snapshotter.Prepare(leases.WithLease(t.Context(), "second"), "one", "")
		require.ErrorIs(t, err, errdefs.ErrAlreadyExists)
		resources, err := p.LeaseManager.ListResources(t.Context(), leases.Lease{ID: "second"})
		require.NoError(t, err)
		require.Equal(t, []leases.Resource{snapshotResource(p, "one")}, resources)
	})
}

// quick is the native snapshotter declared quick, so that what is true of groups can be tested
// without privileges.
var quick = Options{Snapshotter: "mine", NewSnapshotter: native.NewSnapshotter, QuickSnapshots: true}

// forEachQuick runs a test on the snapshotters whose writes join transactions.
func forEachQuick(t *testing.T, fn func(t *testing.T, opts Options)) {
	t.Run("quick native", func(t *testing.T) { fn(t, quick) })
	t.Run(Overlayfs, func(t *testing.T) {
		needOverlayfs(t)
		fn(t, Options{Snapshotter: Overlayfs})
	})
}

// What a failed transaction made in the snapshotter is removed, so that the same call works when
// it is tried again, although containerd chooses the same name for it.
func TestFailedGroupCanBeRetried(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		newLayer(t, p, "one", "")
		require.NoError(t, addLease(t.Context(), p, "l", "again"))
		for _, create := range []func(context.Context) error{
			func(ctx context.Context) error { return p.Snapshotter.Prepare(ctx, "again", "one") },
			func(ctx context.Context) error {
				_, err := p.Snapshotter.View(ctx, "again", "one")
				return err
			},
		} {
			for range 2 {
				err := p.Transactions.Update(t.Context(), func(ctx context.Context) error {
					require.NoError(t, create(ctx))
					return errBoom
				})
				require.Same(t, errBoom, err)
			}
			_, err := p.Snapshotter.Stat(t.Context(), "again")
			require.ErrorIs(t, err, errdefs.ErrNotFound)
		}
		require.NoError(t, p.Snapshotter.Prepare(t.Context(), "again", "one"))
		require.Len(t, snapshotDirs(t, p), 2)
	})
}

// What a process that died within a transaction made in the snapshotter is not in the way of the same
// call, for which containerd chooses the same name. fault 29
func TestOrphanIsNotInTheWay(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		for name, create := range map[string]func(ctx context.Context, p *Parts) error{
			"Prepare": func(ctx context.Context, p *Parts) error { return p.Snapshotter.Prepare(ctx, "again", "one") },
			"View":    func(ctx context.Context, p *Parts) error { return second(p.Snapshotter.View(ctx, "again", "one")) },
		} {
			dir := t.TempDir()
			p := openParts(t, dir, opts)
			newLayer(t, p, "one", "")
			require.NoError(t, addLease(t.Context(), p, "l", "again"))
			// Without the log that undoes it: what a process leaves that is killed at this point.
			require.Same(t, errBoom, p.db.Update(func(tx *bolt.Tx) error {
				require.NoError(t, create(boltutil.WithTransaction(t.Context(), tx), p), name)
				return errBoom
			}))
			require.NoError(t, p.Close())
			p = openParts(t, dir, opts)
			require.NoError(t, create(t.Context(), p), name)
			require.Len(t, names(t, p.guard), 2)
			_, err := p.GarbageCollect(t.Context())
			require.NoError(t, err)
			require.Len(t, names(t, p.guard), 2)
			require.NoError(t, p.Close())
		}
	})
}

// A call that panics inside of a transaction leaves the cache usable.
func TestPanicInGroup(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		require.NoError(t, addLease(t.Context(), p, "l", "s"))
		require.PanicsWithValue(t, "oops", func() {
			_ = p.Transactions.Update(t.Context(), func(ctx context.Context) error {
				require.NoError(t, p.Snapshotter.Prepare(ctx, "s", ""))
				panic("oops")
			})
		})
		require.NoError(t, p.Snapshotter.Prepare(t.Context(), "s", ""))
	})
}

// A Commit whose transaction fails, or whose process dies before the transaction's end, loses
// nothing: the snapshot is as it was and can be committed again. fault 29
func TestFailedCommitLosesNothing(t *testing.T) {
	needOverlayfs(t)
	for name, fail := range map[string]func(t *testing.T, p *Parts, commit func(context.Context) error){
		"transaction fails": func(t *testing.T, p *Parts, commit func(context.Context) error) {
			err := p.Transactions.Update(t.Context(), func(ctx context.Context) error {
				require.NoError(t, commit(ctx))
				return errBoom
			})
			require.Same(t, errBoom, err)
		},
		"process dies": func(t *testing.T, p *Parts, commit func(context.Context) error) {
			// Without the log that undoes it: what a process leaves that is killed at this point.
			err := p.db.Update(func(tx *bolt.Tx) error {
				require.NoError(t, commit(boltutil.WithTransaction(t.Context(), tx)))
				return errBoom
			})
			require.Same(t, errBoom, err)
			before := commits(t, p.raw)
			require.NoError(t, addLease(t.Context(), p, "unrelated", "u"))
			require.NoError(t, p.Snapshotter.Prepare(t.Context(), "u", ""), "takes the number that the commit had")
			require.Greater(t, commits(t, p.raw), before)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			p := openParts(t, dir, Options{Snapshotter: Overlayfs})
			newLayer(t, p, "base", "")
			require.NoError(t, addLease(t.Context(), p, "l", "top"))
			require.NoError(t, p.LeaseManager.AddResource(t.Context(), leases.Lease{ID: "l"}, snapshotResource(p, "active")))
			require.NoError(t, p.Snapshotter.Prepare(t.Context(), "active", "base"))
			writeFile(t, p, "active", "precious")
			fail(t, p, func(ctx context.Context) error { return p.Snapshotter.Commit(ctx, "top", "active") })
			require.NoError(t, p.Close())

			p = openParts(t, dir, Options{})
			_, err := p.GarbageCollect(t.Context())
			require.NoError(t, err)
			info, err := p.Snapshotter.Stat(t.Context(), "active")
			require.NoError(t, err)
			require.Equal(t, snapshots.KindActive, info.Kind)
			require.Empty(t, info.Labels)
			_, err = p.Snapshotter.Stat(t.Context(), "top")
			require.ErrorIs(t, err, errdefs.ErrNotFound)
			writeFile(t, p, "active", "more")
			require.NoError(t, p.Snapshotter.Commit(t.Context(), "top", "active"))
			require.ElementsMatch(t, []string{"base", "precious", "more"}, layerFiles(t, p, "top"))
			info, err = p.Snapshotter.Stat(t.Context(), "top")
			require.NoError(t, err)
			require.Equal(t, "base", info.Parent)
			require.Empty(t, info.Labels, "the mark is not shown")
		})
	}
}

// Asking for a key while the transaction is under way that commits it does not take the commit back.
func TestReadDuringCommit(t *testing.T) {
	needOverlayfs(t)
	p := openParts(t, t.TempDir(), Options{Snapshotter: Overlayfs})
	require.NoError(t, addLease(t.Context(), p, "l", "top"))
	require.NoError(t, p.Snapshotter.Prepare(t.Context(), "active", ""))
	writeFile(t, p, "active", "file")
	asked := make(chan error, 1)
	require.NoError(t, p.Transactions.Update(t.Context(), func(ctx context.Context) error {
		if err := p.Snapshotter.Commit(ctx, "top", "active"); err != nil {
			return err
		}
		go func() {
			// The metadata still show it as active, the snapshotter does not know it any more.
			_, err := p.Snapshotter.Stat(context.Background(), "active")
			asked <- err
		}()
		select {
		case err := <-asked:
			return errors.Join(errors.New("answered before the transaction ended"), err)
		default:
			return nil
		}
	}))
	require.ErrorIs(t, <-asked, errdefs.ErrNotFound)
	require.Equal(t, []string{"file"}, layerFiles(t, p, "top"))
}

// Garbage collection works on metadata that may be older than a transaction. It must not remove
// what that made, neither before nor after it commits, and has to remove it if it was undone.
func TestCollectionSparesTransaction(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		require.NoError(t, addLease(t.Context(), p, "l", "s"))
		trees := guardOf(t, p)
		collect := func(t *testing.T) (removed bool) { // the part of a collection that works on the snapshotter
			for _, name := range names(t, trees) {
				err := trees.Remove(t.Context(), name)
				if err == nil {
					removed = true
					continue
				}
				require.ErrorIs(t, err, errdefs.ErrFailedPrecondition)
			}
			return removed
		}
		require.NoError(t, p.Transactions.Update(t.Context(), func(ctx context.Context) error {
			require.NoError(t, p.Snapshotter.Prepare(ctx, "s", ""))
			require.False(t, collect(t), "under way")
			return nil
		}))
		require.False(t, collect(t), "committed")
		writeFile(t, p, "s", "file")
		require.NoError(t, p.Transactions.Update(t.Context(), func(ctx context.Context) error {
			require.NoError(t, p.Snapshotter.Commit(ctx, "c", "s"))
			require.False(t, collect(t), "under way")
			return nil
		}))
		require.False(t, collect(t), "committed")

		_, err := trees.Prepare(t.Context(), "buildkit/99/orphan", "")
		require.NoError(t, err)
		require.True(t, collect(t), "nobody knows it")
		require.Len(t, names(t, trees), 1)
	})
}

// What a process that died left in the snapshotter goes with the first collection of the next.
func TestOrphansOfDeadProcess(t *testing.T) {
	forEachQuick(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		p := openParts(t, dir, opts)
		newLayer(t, p, "one", "")
		for _, err := range []error{
			second(p.guard.Prepare(t.Context(), "buildkit/97/a", "")),
			p.guard.Commit(t.Context(), "buildkit/98/b", "buildkit/97/a"),
			second(p.guard.View(t.Context(), "buildkit/99/c", "buildkit/98/b")),
		} {
			require.NoError(t, err)
		}
		require.NoError(t, p.Close())
		p = openParts(t, dir, opts)
		require.Len(t, names(t, p.guard), 3)
		_, err := p.GarbageCollect(t.Context())
		require.NoError(t, err)
		require.Len(t, names(t, p.guard), 1)
		require.Len(t, snapshotDirs(t, p), 1)
		require.Equal(t, []string{"one"}, layerFiles(t, p, "one"))
	})
}

func second[T any](_ T, err error) error { return err }

func guardOf(t *testing.T, p *Parts) *guard {
	t.Helper()
	require.NotNil(t, p.guard)
	return p.guard
}

func names(t *testing.T, s snapshots.Snapshotter) (all []string) {
	t.Helper()
	require.NoError(t, s.Walk(t.Context(), func(_ context.Context, info snapshots.Info) error {
		all = append(all, info.Name)
		return nil
	}))
	return all
}

// Blobs are written, found, and collected when nothing leases them.
func TestContent(t *testing.T) {
	p := openParts(t, t.TempDir(), Options{Snapshotter: Native})
	data := []byte("a blob")
	desc := ocispecs.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	_, err := p.LeaseManager.Create(t.Context(), leases.WithID("l"))
	require.NoError(t, err)
	ctx := leases.WithLease(t.Context(), "l")
	require.NoError(t, content.WriteBlob(ctx, p.ContentStore, "ref", bytes.NewReader(data), desc))
	got, err := content.ReadBlob(t.Context(), p.ContentStore, desc)
	require.NoError(t, err)
	require.Equal(t, data, got)
	require.FileExists(t, filepath.Join(p.Dir, "content", "blobs", "sha256", desc.Digest.Encoded()))

	require.NoError(t, p.LeaseManager.Delete(t.Context(), leases.Lease{ID: "l"}))
	_, err = p.GarbageCollect(t.Context())
	require.NoError(t, err)
	_, err = p.ContentStore.Info(t.Context(), desc.Digest)
	require.ErrorIs(t, err, errdefs.ErrNotFound)
	_, err = os.Stat(filepath.Join(p.Dir, "content", "blobs", "sha256", desc.Digest.Encoded()))
	require.ErrorIs(t, err, os.ErrNotExist)
}
