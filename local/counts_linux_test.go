package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache"
	"github.com/layercache/cache/testutil/fault"
)

// dbCommits counts the transactions committed to the databases of an open directory so far. In
// steady state, while the files do not grow, each costs two fdatasync.
func dbCommits(p *Parts) (backend, records, snapshotter int, err error) {
	count := func(n *int) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			*n = tx.ID()
			return nil
		}
	}
	if err := p.raw.View(count(&backend)); err != nil {
		return 0, 0, 0, err
	}
	if err := p.MetadataStore.DB().View(count(&records)); err != nil {
		return 0, 0, 0, err
	}
	if p.guard != nil {
		snapshotter, err = storeCommits(p.guard)
	}
	return backend, records, snapshotter, err
}

func allCommits(t *testing.T, p *Parts) int {
	t.Helper()
	backend, records, snapshotter, err := dbCommits(p)
	require.NoError(t, err)
	return backend + records + snapshotter
}

// storeCommits counts the transactions committed to overlayfs's own database, if that is below.
func storeCommits(g *guard) (n int, err error) {
	o, ok := g.Snapshotter.(*reversibleOverlayfs)
	if !ok {
		return 0, nil
	}
	_, t, err := o.store.TransactionContext(context.Background(), false)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, t.Rollback()) }()
	tx, ok := t.(*bolt.Tx)
	if !ok {
		return 0, fmt.Errorf("transaction is a %T", t)
	}
	return tx.ID(), nil
}

// layerCycle is the work of bench.md row 3.
func layerCycle(ctx context.Context, m cache.Manager, parent cache.ImmutableRef) (string, error) {
	mutable, err := m.New(ctx, parent, nil, cache.CachePolicyRetain)
	if err != nil {
		return "", err
	}
	ref, err := mutable.Commit(ctx)
	if err != nil {
		return "", err
	}
	if err := ref.Finalize(ctx); err != nil {
		return "", err
	}
	return ref.ID(), ref.Release(ctx)
}

// least runs fn a few times and returns the lowest count, since a batch of last-used times may be
// written in the background at any moment.
func least(t *testing.T, p *Parts, fn func()) int {
	t.Helper()
	low := -1
	for range 5 {
		before := allCommits(t, p)
		fn()
		if n := allCommits(t, p) - before; low < 0 || n < low {
			low = n
		}
	}
	return low
}

// New+Commit+Finalize+Release of a layer is at most 7 transactions on overlayfs, which is 14
// fdatasync. bench row 3
func TestCountsOfLayer(t *testing.T) {
	needOverlayfs(t)
	c := openCache(t, t.TempDir(), Options{Snapshotter: Overlayfs, NoBackgroundGC: true})
	var id string
	cycle := func() {
		var err error
		id, err = layerCycle(t.Context(), c, nil)
		require.NoError(t, err)
	}
	cycle()
	require.LessOrEqual(t, least(t, c.Parts, cycle), 7)
	parent, err := c.Get(t.Context(), id, nil)
	require.NoError(t, err)
	require.LessOrEqual(t, least(t, c.Parts, func() {
		_, err := layerCycle(t.Context(), c, parent)
		require.NoError(t, err)
	}), 7, "with a parent")
	require.NoError(t, parent.Release(t.Context()))
}

// Get and Release of an idle record call no part and write nothing. bench row 1
func TestCountsOfGet(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		p := openParts(t, t.TempDir(), opts)
		faults := fault.New()
		opt := p.ManagerOpt()
		opt.Snapshotter = faults.Snapshotter(p.Snapshotter)
		opt.LeaseManager = faults.LeaseManager(p.LeaseManager)
		opt.ContentStore = faults.ContentStore(p.ContentStore)
		opt.Transactions = &cache.Transactions{Update: faults.Transaction(p.Transactions.Update), Snapshots: p.Transactions.Snapshots}
		m, err := cache.NewManager(opt)
		require.NoError(t, err)
		defer func() { require.NoError(t, m.Close()) }()

		id, err := layerCycle(t.Context(), m, nil)
		require.NoError(t, err)
		require.Positive(t, faults.Len())
		calls := faults.Len()
		require.Zero(t, least(t, p, func() {
			for range 20 {
				ref, err := m.Get(t.Context(), id, nil)
				require.NoError(t, err)
				require.NoError(t, ref.Release(t.Context()))
			}
		}))
		require.Equal(t, calls, faults.Len(), "%v", faults.Trace())
	})
}

// Opening and closing a directory with clean records writes nothing; the garbage collection in the
// background is one transaction, and another one after a process that may have died. issue: counts
func TestCountsOfOpen(t *testing.T) {
	forEachSnapshotter(t, func(t *testing.T, opts Options) {
		dir := t.TempDir()
		opts.NoBackgroundGC = true
		c := openCache(t, dir, opts)
		parent, err := layerCycle(t.Context(), c, nil)
		require.NoError(t, err)
		ref, err := c.Get(t.Context(), parent, nil)
		require.NoError(t, err)
		_, err = layerCycle(t.Context(), c, ref)
		require.NoError(t, err)
		require.NoError(t, ref.Release(t.Context()))
		require.NoError(t, c.Close())

		files := []string{backendDB, recordsDB, filepath.Join(snapshotsDir, snapshotterDB)}
		before := fileCommits(t, dir, files)
		openAndClose := func(opts Options) {
			c := openCache(t, dir, opts)
			require.Equal(t, 2, c.Stats().Records)
			require.NoError(t, c.Close())
		}
		openAndClose(opts)
		require.Equal(t, before, fileCommits(t, dir, files))

		opts.NoBackgroundGC = false
		openAndClose(opts)
		after := fileCommits(t, dir, files)
		require.LessOrEqual(t, after[0]-before[0], 1, "collection")
		require.Equal(t, before[1], after[1])
		require.LessOrEqual(t, after[2]-before[2], 1, "removal of leftovers")
	})
}

// fileCommits counts the transactions committed to the databases of a closed directory.
func fileCommits(t *testing.T, dir string, files []string) (counts []int) {
	t.Helper()
	for _, name := range files {
		db, err := bolt.Open(filepath.Join(dir, name), 0o600, &bolt.Options{ReadOnly: true})
		require.NoError(t, err)
		counts = append(counts, commits(t, db))
		require.NoError(t, db.Close())
	}
	return counts
}

// The layer's count again, but of the system calls as strace sees them: the difference between
// a process with few and one with more layers.
func TestFdatasyncOfLayer(t *testing.T) {
	needOverlayfs(t)
	strace, err := exec.LookPath("strace")
	if err != nil {
		t.Skip("needs strace to count system calls")
	}
	run := func(layers int) int {
		report := filepath.Join(t.TempDir(), "strace")
		cmd := exec.CommandContext(t.Context(), strace, "-f", "-qq", "-e", "trace=fdatasync,fsync,sync_file_range", "-o", report, os.Args[0])
		cmd.Env = append(os.Environ(), childEnv+"="+filepath.Join(t.TempDir(), "cache"), childMode+"=counts", childLayers+"="+strconv.Itoa(layers))
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s", out)
		data, err := os.ReadFile(report)
		require.NoError(t, err)
		// A call that was interrupted by the trace of another thread shows as two lines.
		calls := len(regexp.MustCompile(`(?m)(fdatasync|fsync|sync_file_range)\(`).FindAll(data, -1))
		require.Positive(t, calls, "%s", bytes.TrimSpace(data))
		return calls
	}
	const few, many = 5, 15
	perLayer := float64(run(many)-run(few)) / (many - few)
	t.Logf("%.1f fdatasync per layer", perLayer)
	require.LessOrEqual(t, perLayer, 14.5, "14, and a little for files that grow")
}

// countingChild makes a number of layers.
func countingChild(dir string) int {
	n, err := strconv.Atoi(os.Getenv(childLayers))
	if err == nil {
		err = makeLayers(dir, n)
	}
	if err != nil {
		fmt.Println("failed:", err)
		return 1
	}
	return 0
}

func makeLayers(dir string, n int) error {
	c, err := Open(context.Background(), dir, Options{Snapshotter: Overlayfs, NoBackgroundGC: true})
	if err != nil {
		return err
	}
	for range n {
		if _, err := layerCycle(context.Background(), c, nil); err != nil {
			return err
		}
	}
	return c.Close()
}
