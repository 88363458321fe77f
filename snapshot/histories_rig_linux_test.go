package snapshot_test

import (
	"context"
	stderrors "errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/native"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/moby/sys/userns"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"

	"github.com/layercache/cache/snapshot"
	ctdsnapshot "github.com/layercache/cache/snapshot/containerd"
	"github.com/layercache/cache/testutil/history"
	"github.com/layercache/cache/testutil/loopfs"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// filesystems are what a snapshotter may work on, by what tests call them. Each opens a directory and says which
// snapshotter works there: one that is called "copying" is not known to have anything, so merges cannot link.
var filesystems = map[string]func(t *testing.T) (dir, name string){
	"overlayfs without links": func(t *testing.T) (string, string) {
		need.Overlay(t)
		return t.TempDir(), "copying overlayfs"
	},
	"overlayfs": func(t *testing.T) (string, string) {
		need.Overlay(t)
		return t.TempDir(), "overlayfs"
	},
	"native":  func(t *testing.T) (string, string) { return t.TempDir(), "native" },
	"copying": func(t *testing.T) (string, string) { return t.TempDir(), "copying" },
	"btrfs":   func(t *testing.T) (string, string) { return loopfs.New(t, loopfs.Btrfs), "copying" },
	"xfs":     func(t *testing.T) (string, string) { return loopfs.New(t, loopfs.XFS), "copying" },
}

// mergeRig is a merge snapshotter on containerd's own metadata, leases and garbage collection.
type mergeRig struct {
	snapshot.MergeSnapshotter
	leases   leases.Manager
	db       *metadata.DB
	caps     snapshot.Capabilities
	features history.Features
	// links says that the trees show what overlayfs has noted on files: a snapshot of one layer is no overlay, and a file that is linked from
	// another one's upper directory has its attributes.
	links bool
	// trees is where the snapshotter has its directories, scratch where the oracle works, on the same filesystem.
	trees, scratch string
	runs           int
}

const rigNamespace = "histories"

// newMergeRig opens one on the filesystem of that name, or skips.
func newMergeRig(t *testing.T, filesystem string) *mergeRig {
	t.Helper()
	dir, name := filesystems[filesystem](t)
	return openMergeRig(t, dir, name)
}

func openMergeRig(t *testing.T, dir, name string) *mergeRig {
	t.Helper()
	r := &mergeRig{trees: filepath.Join(dir, "trees"), scratch: filepath.Join(dir, "scratch")}
	require.NoError(t, os.Mkdir(r.scratch, 0o755))
	r.features = history.Probe(t, r.scratch)
	var sn snapshots.Snapshotter
	var err error
	if strings.HasSuffix(name, "overlayfs") {
		var opts []overlay.Opt
		if userns.RunningInUserNS() { // said, since the snapshotter does without where the trees are in memory, which few kernels need
			opts = append(opts, overlay.WithMountOptions([]string{"userxattr"}))
		}
		sn, err = overlay.NewSnapshotter(r.trees, opts...)
	} else {
		sn, err = native.NewSnapshotter(r.trees)
	}
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, sn.Close()) })
	blobs, err := contentlocal.NewStore(filepath.Join(dir, "blobs"))
	require.NoError(t, err)
	raw, err := bolt.Open(filepath.Join(dir, "meta.db"), 0o600, &bolt.Options{NoSync: true})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, raw.Close()) })
	r.db = metadata.NewDB(raw, blobs, map[string]snapshots.Snapshotter{name: sn})
	require.NoError(t, r.db.Init(t.Context()))
	r.leases = ctdsnapshot.NewLeaseManager(metadata.NewLeaseManager(r.db), rigNamespace)
	under := ctdsnapshot.NewSnapshotter(name, r.db.Snapshotter(name), rigNamespace, nil)
	r.caps = snapshot.CapabilitiesOf(name)
	opt := snapshot.MergeOptions{}
	if name == "copying overlayfs" {
		r.caps.OverlayBased = true
		opt.Capabilities = &r.caps
	}
	r.MergeSnapshotter = snapshot.NewMergeSnapshotterWith(t.Context(), under, r.leases, opt)
	r.links = r.caps.HardlinkMerge && r.caps.OverlayBased
	return r
}

// round is one use of a rig: all that it makes is held by one lease.
type round struct {
	*mergeRig
	ctx   context.Context // with the lease
	free  context.Context
	lease leases.Lease
	key   string
	views int
}

func (r *mergeRig) begin(ctx context.Context) (*round, error) {
	r.runs++
	key := fmt.Sprintf("%d", r.runs)
	l, err := r.leases.Create(ctx, leases.WithID(key))
	if err != nil {
		return nil, err
	}
	return &round{mergeRig: r, ctx: leases.WithLease(ctx, key), free: ctx, lease: l, key: key}, nil
}

// end drops all that the round has made, and fails if anything is left.
func (r *round) end() error {
	ctx := context.WithoutCancel(r.ctx)
	if err := r.leases.Delete(ctx, r.lease); err != nil {
		return err
	}
	if _, err := r.db.GarbageCollect(ctx); err != nil {
		return errors.WithStack(err)
	}
	var left []string
	if err := r.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		left = append(left, info.Name)
		return nil
	}); err != nil {
		return err
	}
	dirs, err := os.ReadDir(filepath.Join(r.trees, "snapshots"))
	if err != nil {
		return errors.WithStack(err)
	}
	for _, d := range dirs {
		left = append(left, d.Name())
	}
	if len(left) > 0 {
		return errors.Errorf("left behind: %s", strings.Join(left, ", "))
	}
	return nil
}

// name is that of snapshot n of a history.
func (r *round) name(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf("%s-%d", r.key, n)
}

// layer makes snapshot n.
func (r *round) layer(n int, s history.Step) error {
	active := r.name(n) + "-active"
	if err := r.Prepare(r.ctx, active, r.name(s.Parent)); err != nil {
		return err
	}
	m, err := r.Mounts(r.ctx, active)
	if err != nil {
		return err
	}
	if err := mounted(m, func(dir string) error { return s.Apply(dir, n) }); err != nil {
		return err
	}
	return r.Commit(r.ctx, r.name(n), active)
}

// merge makes the merged snapshot key. It is held beforehand, as a record's is, so that Merge has a lease of its own.
func (r *round) merge(key string, diffs []history.Diff) error {
	resource := leases.Resource{ID: key, Type: "snapshots/" + r.Name()}
	if err := r.leases.AddResource(r.ctx, r.lease, resource); err != nil {
		return err
	}
	list := make([]snapshot.Diff, len(diffs))
	for i, d := range diffs {
		list[i] = snapshot.Diff{Lower: r.name(d.Lower), Upper: r.name(d.Upper)}
	}
	if err := r.Merge(r.free, key, list); err != nil {
		return err
	}
	return r.openFiles()
}

// openFiles fails if this process has a file open where the snapshots are.
func (r *mergeRig) openFiles() error {
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return errors.WithStack(err)
	}
	for _, fd := range fds {
		at, err := os.Readlink(filepath.Join("/proc/self/fd", fd.Name()))
		if err == nil && strings.HasPrefix(at, filepath.Join(r.trees, "snapshots")+"/") {
			return errors.Errorf("left open: %s", at)
		}
	}
	return nil
}

// read reads the tree of a committed snapshot.
func (r *round) read(key string) (t tree.Tree, err error) {
	r.views++
	m, err := r.View(r.ctx, fmt.Sprintf("%s-view-%d", r.key, r.views), key)
	if err != nil {
		return nil, err
	}
	err = mounted(m, func(dir string) (err error) {
		t, err = tree.Read(dir)
		return err
	})
	if r.links {
		for _, e := range t {
			maps.DeleteFunc(e.Xattrs, func(name, _ string) bool {
				return strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.")
			})
		}
	}
	return t, err
}

func mounted(m snapshot.Mountable, fn func(dir string) error) (err error) {
	lm := snapshot.LocalMounter(m)
	dir, err := lm.Mount()
	if err != nil {
		return err
	}
	defer func() { err = stderrors.Join(err, lm.Unmount()) }()
	return fn(dir)
}

// base is how many of the diffs are the parents of one snapshot, on which the merge then starts (spec MRG-3).
func (r *round) base(diffs []history.Diff) (n int, err error) {
	if !r.caps.OverlayBased {
		return 0, nil
	}
	base := ""
	for _, d := range diffs {
		upper, parent := r.name(d.Upper), ""
		if upper != "" {
			info, err := r.Stat(r.ctx, upper)
			if err != nil {
				return 0, err
			}
			parent = info.Parent
		}
		if lower := r.name(d.Lower); upper == "" || parent != lower || lower != base {
			break
		}
		base = upper
		n++
	}
	return n, nil
}

// expect is what the oracle says about a merge of the trees.
func (r *round) expect(trees []tree.Tree, diffs []history.Diff) (want tree.Tree, err error) {
	n, err := r.base(diffs)
	if err != nil {
		return nil, err
	}
	var base tree.Tree
	if n > 0 {
		base = trees[diffs[n-1].Upper]
	}
	var pairs [][2]tree.Tree
	for _, d := range diffs[n:] {
		pairs = append(pairs, [2]tree.Tree{trees[d.Lower], trees[d.Upper]})
	}
	dir, err := os.MkdirTemp(r.scratch, "")
	if err != nil {
		return nil, errors.WithStack(err)
	}
	defer func() { err = stderrors.Join(err, os.RemoveAll(dir)) }()
	return history.Merge(dir, base, pairs)
}

// play makes all snapshots of a history and compares those that are merged with what the oracle says. It returns
// the trees by number.
func (r *round) play(h history.History) ([]tree.Tree, error) {
	trees := []tree.Tree{{".": tree.Dir(".")}}
	for i, s := range h {
		n := i + 1
		var err error
		if s.Diffs == nil {
			err = r.layer(n, s)
		} else {
			err = r.checkMerge(trees, r.name(n), s.Diffs)
		}
		if err != nil {
			return nil, errors.WithMessagef(err, "snapshot %d", n)
		}
		t, err := r.read(r.name(n))
		if err != nil {
			return nil, errors.WithMessagef(err, "snapshot %d", n)
		}
		trees = append(trees, t)
	}
	return trees, nil
}

func (r *round) checkMerge(trees []tree.Tree, key string, diffs []history.Diff) error {
	want, err := r.expect(trees, diffs)
	if err != nil {
		return errors.WithMessage(err, "the oracle")
	}
	if err := r.merge(key, diffs); err != nil {
		return err
	}
	got, err := r.read(key)
	if err != nil {
		return err
	}
	if list := tree.Diff(want, got, tree.Root); len(list) > 0 {
		return errors.Errorf("merged wrongly:\n  %s", strings.Join(list, "\n  "))
	}
	return nil
}
