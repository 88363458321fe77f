package cache

import (
	"context"
	"maps"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/metadata"
)

// listing is a lease manager that only lists.
type listing struct {
	leases.Manager
	list func(context.Context) ([]leases.Lease, error)
}

func (l listing) List(ctx context.Context, _ ...string) ([]leases.Lease, error) { return l.list(ctx) }

// Spec INIT-3: a start ends with its context, whether or not the lease manager looks at it, and with the error of either half.
func TestReadingEndsEarly(t *testing.T) {
	store, err := metadata.NewStore(filepath.Join(t.TempDir(), "metadata_v2.db"))
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close()) }()
	require.NoError(t, store.Write(func(w *metadata.Writer) error {
		_, err := w.Create("a")
		return err
	}))
	read := func(ctx context.Context, list func(context.Context) ([]leases.Lease, error)) ([]*found, error) {
		r := &recovery{m: &manager{store: store, opt: ManagerOpt{LeaseManager: listing{list: list}}}}
		err := r.read(ctx)
		return r.rows, err
	}
	ignores := func(context.Context) ([]leases.Lease, error) { return nil, nil }
	rows, err := read(t.Context(), ignores)
	require.NoError(t, err)
	require.Len(t, rows, 1)

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = read(ended, ignores)
	require.ErrorIs(t, err, context.Canceled)

	broken := errors.New("broken")
	_, err = read(t.Context(), func(context.Context) ([]leases.Lease, error) { return nil, broken })
	require.ErrorIs(t, err, broken)
	require.ErrorContains(t, err, "listing leases")
	require.PanicsWithValue(t, "theirs", func() {
		_, _ = read(t.Context(), func(context.Context) ([]leases.Lease, error) { panic("theirs") })
	})

	require.NoError(t, store.Close())
	_, err = read(t.Context(), func(ctx context.Context) ([]leases.Lease, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	})
	require.ErrorIs(t, err, metadata.ErrClosed)
	require.ErrorContains(t, err, "reading the records")
}

// walking is a lease manager that is not to be asked for a list.
type walking struct {
	leases.Manager
	leases []leases.Lease
	err    error
}

func (w walking) WalkLeases(_ context.Context, fn func(string, map[string]string) error) error {
	labels := map[string]string{}
	for _, l := range w.leases {
		clear(labels)
		maps.Copy(labels, l.Labels)
		if err := fn(l.ID, labels); err != nil {
			return err
		}
	}
	clear(labels)
	return w.err
}

// Leases mean the same to a start whether they are walked or listed.
func TestLeasesWalkedOrListed(t *testing.T) {
	all := []leases.Lease{
		{ID: "a", Labels: map[string]string{labelStore: "mine", labelRecord: "a"}},
		{ID: "b", Labels: map[string]string{labelStore: "mine", labelRecord: "a", labelTemporary: "now"}},
		{ID: "c", Labels: map[string]string{labelStore: "other", labelRecord: "c", labelTemporary: "now"}},
		{ID: "d"},
	}
	want := []foundLease{
		{id: "a", record: "a", own: true}, {id: "b", record: "a", own: true, temporary: true}, {id: "c"}, {id: "d"},
	}
	list := func(context.Context) ([]leases.Lease, error) { return all, nil }
	for _, lm := range []leases.Manager{walking{leases: all}, listing{list: list}} {
		r := &recovery{m: &manager{storeID: "mine", opt: ManagerOpt{LeaseManager: lm}}}
		require.NoError(t, r.readLeases(t.Context()))
		require.Equal(t, want, r.leases)
	}
	broken := errors.New("broken")
	r := &recovery{m: &manager{opt: ManagerOpt{LeaseManager: walking{err: broken}}}}
	require.ErrorIs(t, r.readLeases(t.Context()), broken)
}
