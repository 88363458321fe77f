package containerd

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	diffapi "github.com/containerd/containerd/api/services/diff/v1"
	leasesapi "github.com/containerd/containerd/api/services/leases/v1"
	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	contentproxy "github.com/containerd/containerd/v2/core/content/proxy"
	leasesproxy "github.com/containerd/containerd/v2/core/leases/proxy"
	"github.com/containerd/containerd/v2/core/snapshots"
	snapshotsproxy "github.com/containerd/containerd/v2/core/snapshots/proxy"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/testutil/fault"
)

// shortLimit is long enough for an answer of a health check in this process, on a busy machine, too.
const shortLimit = 500 * time.Millisecond

// connTo returns a connection to a daemon with a limit.
func connTo(t *testing.T, d *fakeDaemon, limit time.Duration) *conn {
	t.Helper()
	cc, err := newConn(d.serve(t), limit)
	require.NoError(t, err)
	return cc
}

func snapshotterOn(cc *conn) snapshots.Snapshotter {
	return snapshotsproxy.NewSnapshotter(snapshotsapi.NewSnapshotsClient(cc), "overlayfs")
}

// TestLimitOfACall: a call without a deadline that is not answered ends at the limit, and without a limit with its context alone (fault 26).
func TestLimitOfACall(t *testing.T) {
	d := newFake()
	d.stat = make(chan struct{})
	start := time.Now()
	_, err := snapshotterOn(connTo(t, d, shortLimit)).Stat(t.Context(), "key")
	require.True(t, errdefs.IsDeadlineExceeded(err), "%v", err)
	require.GreaterOrEqual(t, time.Since(start), shortLimit)
	<-d.ended

	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(2*shortLimit, cancel)
	_, err = snapshotterOn(connTo(t, d, -1)).Stat(ctx, "key")
	require.True(t, errdefs.IsCanceled(err), "%v", err)
	<-d.ended
	require.Empty(t, d.asked)
}

// TestDeadlineOfTheCaller: a deadline of the caller's takes the limit's place, be it longer, and when a call ends by it his context has ended
// (fault 26).
func TestDeadlineOfTheCaller(t *testing.T) {
	d := newFake()
	d.stat, d.prepare = make(chan struct{}), make(chan struct{})
	sn := snapshotterOn(connTo(t, d, shortLimit/10))
	for range 5 {
		for _, call := range []func(context.Context) error{
			func(ctx context.Context) error { _, err := sn.Stat(ctx, "key"); return err },
			func(ctx context.Context) error { _, err := sn.Prepare(ctx, "key", ""); return err },
		} {
			ctx, cancel := context.WithTimeout(t.Context(), shortLimit/2)
			start := time.Now()
			err := call(ctx)
			require.True(t, errdefs.IsDeadlineExceeded(err), "%v", err)
			require.Error(t, ctx.Err())
			require.GreaterOrEqual(t, time.Since(start), shortLimit/2)
			cancel()
			<-d.ended
		}
	}
	require.Empty(t, d.asked)
}

// TestLongCall: a call that may take long goes on for as long as the daemon answers in between, and no longer (fault 26).
func TestLongCall(t *testing.T) {
	d := newFake()
	d.prepare = make(chan struct{})
	result := make(chan error, 1)
	sn := snapshotterOn(connTo(t, d, shortLimit))
	go func() { _, err := sn.Prepare(t.Context(), "key", ""); result <- err }()
	for range 3 {
		<-d.asked
	}
	require.Empty(t, result)
	close(d.prepare)
	require.NoError(t, <-result)

	d = newFake()
	d.prepare, d.health = make(chan struct{}), make(chan struct{})
	_, err := snapshotterOn(connTo(t, d, shortLimit)).Prepare(t.Context(), "key", "")
	require.True(t, errdefs.IsDeadlineExceeded(err), "%v", err)
	<-d.ended // the health check, and
	<-d.ended
}

// TestLimitOfAStream: the limit is on each message of a blob that is written. A daemon that stops answering ends the write, which can be closed
// (faults 11 and 26).
func TestLimitOfAStream(t *testing.T) {
	d := newFake()
	d.write = make(chan struct{})
	cs := contentproxy.NewContentStore(connTo(t, d, shortLimit))
	w, err := cs.Writer(t.Context(), content.WithRef("slow"))
	require.NoError(t, err)
	go func() {
		for range 2 {
			<-d.asked
		}
		close(d.write)
	}()
	n, err := w.Write([]byte("bytes"))
	require.NoError(t, err)
	require.Equal(t, 5, n)
	require.NoError(t, w.Close())

	d = newFake()
	d.write, d.health = make(chan struct{}), make(chan struct{})
	cs = contentproxy.NewContentStore(connTo(t, d, shortLimit))
	w, err = cs.Writer(t.Context(), content.WithRef("hung"))
	require.NoError(t, err)
	_, err = w.Write([]byte("bytes"))
	require.True(t, errdefs.IsDeadlineExceeded(err), "%v", err)
	_ = w.Close() // whatever it says, it returns
	<-d.ended
}

// TestWalkEnds: a list that somebody does not want to see to its end is not kept open for as long as his context lasts (fault 27).
func TestWalkEnds(t *testing.T) {
	d := newFake()
	cc := connTo(t, d, -1)
	enough := errors.New("enough")
	sn := newSnapshotter("overlayfs", snapshotterOn(cc), "ns", nil)
	require.ErrorIs(t, sn.Walk(t.Context(), func(context.Context, snapshots.Info) error { return enough }), enough)
	<-d.ended
	cs := &contentStore{Store: contentproxy.NewContentStore(cc)}
	require.ErrorIs(t, cs.Walk(t.Context(), func(content.Info) error { return enough }), enough)
	<-d.ended
}

// TestEmptyAnswers: an answer without what was asked for is an error, whatever part of the daemon it comes from (fault 43).
func TestEmptyAnswers(t *testing.T) {
	cc := connTo(t, newFake(), shortLimit)
	sn, cs := snapshotterOn(cc), contentproxy.NewContentStore(cc)
	df := client.NewDiffServiceFromClient(diffapi.NewDiffClient(cc))
	lm := leasesproxy.NewLeaseManager(leasesapi.NewLeasesClient(cc))
	for what, call := range map[string]func(ctx context.Context) error{
		"stat":           func(ctx context.Context) error { _, err := sn.Stat(ctx, "key"); return err },
		"update":         func(ctx context.Context) error { _, err := sn.Update(ctx, snapshots.Info{}); return err },
		"info":           func(ctx context.Context) error { _, err := cs.Info(ctx, "sha256:x"); return err },
		"reader":         func(ctx context.Context) error { _, err := cs.ReaderAt(ctx, ocispecs.Descriptor{}); return err },
		"update content": func(ctx context.Context) error { _, err := cs.Update(ctx, content.Info{}); return err },
		"status":         func(ctx context.Context) error { _, err := cs.Status(ctx, "ref"); return err },
		"apply":          func(ctx context.Context) error { _, err := df.Apply(ctx, ocispecs.Descriptor{}, nil); return err },
		"diff":           func(ctx context.Context) error { _, err := df.Compare(ctx, nil, nil); return err },
		"lease":          func(ctx context.Context) error { _, err := lm.Create(ctx); return err },
	} {
		err := call(t.Context())
		require.True(t, errdefs.IsInternal(err), "%s: %v", what, err)
	}
}

// TestScratchIsCleared: what a process left that died while it looked into a layer is removed by the next (fault 29).
func TestScratchIsCleared(t *testing.T) {
	dir := t.TempDir()
	left := filepath.Join(dir, scratchDir, "123", "file")
	require.NoError(t, os.MkdirAll(filepath.Dir(left), 0o700))
	require.NoError(t, os.WriteFile(left, nil, 0o600))
	p, err := OpenParts(t.Context(), newFake().serve(t), dir, Options{Snapshotter: "overlayfs", Reach: ReachNone})
	require.NoError(t, err)
	require.NoDirExists(t, filepath.Join(dir, scratchDir))
	require.NoError(t, p.Close())
}

// TestOptionsOfTheRecords: a damaged database is salvaged, or an error if that is asked for, with the file untouched; what cannot be flushed is no
// place to ask for that (fault 30).
func TestOptionsOfTheRecords(t *testing.T) {
	c, dir := newFake().serve(t), t.TempDir()
	opts := Options{Snapshotter: "overlayfs", Reach: ReachNone}
	p, err := OpenParts(t.Context(), c, dir, opts)
	require.NoError(t, err)
	id, err := p.MetadataStore.StoreID()
	require.NoError(t, err)
	require.NoError(t, p.Close())
	name := filepath.Join(dir, recordsDB)
	cleared, err := fault.ClearPages(name, id)
	require.NoError(t, err)
	require.NotZero(t, cleared)
	damaged, err := os.ReadFile(name)
	require.NoError(t, err)

	opts.NoSalvage = true
	_, err = OpenParts(t.Context(), c, dir, opts)
	require.ErrorIs(t, err, metadata.ErrCorrupt)
	after, err := os.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, damaged, after)

	opts.NoSalvage = false
	p, err = OpenParts(t.Context(), c, dir, opts)
	require.NoError(t, err)
	require.NotNil(t, p.MetadataStore.Salvaged())
	require.NoError(t, p.Close())

	opts.Sync = true
	_, err = OpenParts(t.Context(), c, dir, opts)
	require.True(t, errdefs.IsInvalidArgument(err), "%v", err)
}

// TestTemporaryLeaseThatWasGivenUp: a garbage collection whose caller leaves leaves no lease, nor one that is hidden (spec LEASE-4).
func TestTemporaryLeaseThatWasGivenUp(t *testing.T) {
	p, err := OpenParts(t.Context(), newFake().serve(t), t.TempDir(), Options{Snapshotter: "overlayfs", Reach: ReachNone})
	require.NoError(t, err)
	b := &backendLeases{ids: map[string]bool{}, late: make(chan struct{})}
	p.leases = newLeaseManager(b)
	p.LeaseManager = p.leases
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() { _, err := p.GarbageCollect(ctx); result <- err }()
	b.late <- struct{}{} // the first is made,
	require.NoError(t, <-result)
	go func() { _, err := p.GarbageCollect(ctx); result <- err }()
	cancel()
	b.late <- struct{}{} // and the second when, mostly, nobody waits for it
	if err := <-result; err != nil {
		require.True(t, errdefs.IsCanceled(err), "%v", err)
	}
	require.NoError(t, p.leases.close())
	require.Empty(t, b.ids)
	require.Len(t, b.made, 2)
	require.Empty(t, p.leases.mu.hidden)
	require.NoError(t, p.Close())
}
