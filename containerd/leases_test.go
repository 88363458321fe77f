package containerd

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// backendLeases are leases in memory, whose calls are counted.
type backendLeases struct {
	leases.Manager
	ids  map[string]bool
	made []string
	// lost is the error that a Create has which was done.
	lost error
	// late, if set, is what a Create waits for.
	late chan struct{}
	// most is how many leases an answer may have; 0 for any number.
	most int
}

func (b *backendLeases) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	var l leases.Lease
	for _, opt := range opts {
		if err := opt(&l); err != nil {
			return l, err
		}
	}
	if b.late != nil {
		select {
		case <-b.late:
		case <-ctx.Done():
			return l, ctx.Err()
		}
	}
	b.ids[l.ID] = true
	return l, b.lost
}

func (b *backendLeases) Delete(_ context.Context, l leases.Lease, _ ...leases.DeleteOpt) error {
	b.made = append(b.made, l.ID)
	if !b.ids[l.ID] {
		return errdefs.ErrNotFound
	}
	delete(b.ids, l.ID)
	return nil
}

func (b *backendLeases) List(_ context.Context, filters ...string) ([]leases.Lease, error) {
	var list []leases.Lease
	for id := range b.ids {
		if len(filters) == 0 || matches(filters[0], id) {
			list = append(list, leases.Lease{ID: id})
		}
	}
	if b.most > 0 && len(list) > b.most {
		return nil, errdefs.ErrResourceExhausted
	}
	return list, nil
}

// matches does what containerd does for the filters that listParts makes.
func matches(filter, id string) bool {
	quoted, ok := strings.CutPrefix(filter, "id~=")
	pattern, err := strconv.Unquote(quoted)
	if !ok || err != nil {
		panic("unexpected filter " + filter)
	}
	pattern = strings.TrimPrefix(pattern, "^")
	if prefix, class, ok := strings.Cut(pattern, "("); ok { // "prefix([^chars]|$)"
		class = strings.TrimSuffix(strings.TrimPrefix(class, "[^"), "]|$)")
		rest, has := strings.CutPrefix(id, prefix)
		return has && (rest == "" || !strings.ContainsAny(rest[:1], class))
	}
	return strings.HasPrefix(id, pattern)
}

// TestDeletedOnlyIfThere: the leases that a record may have are deleted without a call if there are none: none was made here, and none was there when
// all were listed. Before that, and for all other names, the daemon is asked (spec 2.2, LEASE-7).
func TestDeletedOnlyIfThere(t *testing.T) {
	ctx := t.Context()
	b := &backendLeases{ids: map[string]bool{"old-variants": true}}
	lm := newLeaseManager(b)
	del := func(id string, call bool, want error) {
		t.Helper()
		b.made = nil
		require.ErrorIs(t, lm.Delete(ctx, leases.Lease{ID: id}), want)
		require.Equal(t, call, len(b.made) == 1, "%s: %q", id, b.made)
	}
	del("a-view", true, errdefs.ErrNotFound)
	_, err := lm.List(ctx)
	require.NoError(t, err)
	del("a-view", false, errdefs.ErrNotFound)
	del("a", true, errdefs.ErrNotFound)
	del("old-variants", true, nil)
	del("old-variants", false, errdefs.ErrNotFound)
	_, err = lm.Create(ctx, leases.WithID("b-view"))
	require.NoError(t, err)
	del("b-view", true, nil)

	b.lost = errors.New("the answer was lost")
	_, err = lm.Create(ctx, leases.WithID("c-repair"))
	require.ErrorIs(t, err, b.lost)
	del("c-repair", true, nil)
}

// TestLongLists: a list that is too long for one answer is asked for in parts, each lease once; an error of another kind is an error (bench row 7).
func TestLongLists(t *testing.T) {
	b := &backendLeases{ids: map[string]bool{}, most: 10}
	for _, first := range "abz0" {
		for _, second := range "xyz09" {
			for _, third := range "12345" {
				b.ids[string([]rune{first, second, third})] = true
			}
		}
	}
	for _, odd := range []string{"Ünicode", "UPPER", "a", "_x", "-", "a.b"} {
		b.ids[odd] = true
	}
	list, err := newLeaseManager(b).List(t.Context())
	require.NoError(t, err)
	seen := map[string]int{}
	for _, l := range list {
		seen[l.ID]++
	}
	require.Len(t, seen, len(b.ids))
	for id, n := range seen {
		require.Equal(t, 1, n, id)
	}

	b.most = 1
	b.ids = map[string]bool{"same1": true, "same2": true, "same3": true}
	list, err = newLeaseManager(b).List(t.Context())
	require.NoError(t, err)
	require.Len(t, list, 3)
}

// TestHiddenLeases: what the parts use for a moment is in no list, whether all leases are asked for or that one, until it is over.
func TestHiddenLeases(t *testing.T) {
	b := &backendLeases{ids: map[string]bool{"mine": true, "other": true}}
	lm := newLeaseManager(b)
	lists := func() (n int) {
		for _, filters := range [][]string{nil, {idFilter("mine")}} {
			list, err := lm.List(t.Context(), filters...)
			require.NoError(t, err)
			n += len(list)
		}
		return n
	}
	require.Equal(t, 3, lists())
	lm.hide("mine")
	require.Equal(t, 1, lists())
	lm.show("mine")
	require.Equal(t, 3, lists())
}

// TestCreateThatWasGivenUp: a lease whose maker has no time any more is taken back when it is made, and not before, so that it does not come to be
// afterwards; nor is it waited for without end, and close waits for the rest (fault 26; spec LEASE-4).
func TestCreateThatWasGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backendLeases{ids: map[string]bool{}, late: make(chan struct{})}
		lm := newLeaseManager(b)
		giveUp := func(id string) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := lm.Create(ctx, leases.WithID(id))
			require.True(t, errdefs.IsDeadlineExceeded(err), "%v", err)
		}
		giveUp("one")
		deleted := make(chan error, 1)
		go func() { deleted <- lm.Delete(t.Context(), leases.Lease{ID: "one"}) }()
		synctest.Wait()
		require.Empty(t, b.made)
		close(b.late)
		require.NoError(t, <-deleted)
		require.Empty(t, b.ids)

		b.late = make(chan struct{})
		giveUp("two")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		require.True(t, errdefs.IsDeadlineExceeded(lm.Delete(ctx, leases.Lease{ID: "two"})))
		cancel()
		start := time.Now()
		require.ErrorIs(t, lm.Delete(t.Context(), leases.Lease{ID: "two"}), errdefs.ErrNotFound)
		require.Equal(t, creationGrace-time.Second, time.Since(start))

		giveUp("three")
		require.NoError(t, lm.close())
		_, err := lm.Create(t.Context(), leases.WithID("four"))
		require.ErrorIs(t, err, ErrClosed)
		require.Empty(t, b.ids)
	})
}
