package testutil

import (
	"context"
	stderrors "errors"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/gc"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"go.etcd.io/bbolt"
	"go.uber.org/goleak"

	"github.com/layercache/cache"
	"github.com/layercache/cache/local"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/snapshot"
	"github.com/layercache/cache/snapshot/apply"
	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/snapshot/winlayers"
	"github.com/layercache/cache/testutil/double"
	"github.com/layercache/cache/testutil/fault"
	"github.com/layercache/cache/testutil/need"
)

// recordsDB is the name of the records' database in a cache directory.
const recordsDB = "metadata_v2.db"

// Option is an option of New.
type Option func(*config)

type config struct {
	doubles     bool
	doubleName  string
	join        bool
	snapshotter string
	separate    bool
	bare        bool
	deep        bool
	faults      *Faults
	parallel    bool
	dir         string
	adjust      []func(*cache.ManagerOpt)
}

// Doubles puts the cache on an in-memory backend with the lock order of the native snapshotter. Only
// the records' database and the snapshots' trees are on disk.
func Doubles() Option { return func(c *config) { c.doubles = true } }

// DoublesNamed is Doubles with a snapshotter of another name, which decides what the cache takes it to be
// capable of.
func DoublesNamed(name string) Option {
	return func(c *config) { c.doubles, c.doubleName = true, name }
}

// JoinedDoubles is Doubles with snapshot calls that share transactions with lease calls, as those of
// overlayfs do in package local.
func JoinedDoubles() Option { return func(c *config) { c.doubles, c.join = true, true } }

// Overlay puts the cache on overlayfs, and skips the test where that does not work. Without this
// option and Doubles it is on the native snapshotter, which needs no privileges.
func Overlay() Option { return func(c *config) { c.snapshotter = local.Overlayfs } }

// Separate leaves the transaction hook out, as with a containerd in another process.
func Separate() Option { return func(c *config) { c.separate = true } }

// Bare leaves the fault points out, for measurements.
func Bare() Option { return func(c *config) { c.bare = true } }

// Deep puts fault points below containerd's metadata as well, on real parts: between the commits
// of the snapshotter's own database and containerd's, and within a garbage collection. The
// calls are named like the manager's own and told by their keys, "buildkit/<number>/<key>". On a Backend there are none.
func Deep() Option { return func(c *config) { c.deep = true } }

// WithFaults uses fault points that the test made, so that it can inject something into the first opening.
func WithFaults(f *Faults) Option { return func(c *config) { c.faults = f } }

// Parallel is required of tests that call t.Parallel: other tests' goroutines come and go
// meanwhile, so those that this one leaks cannot be told.
func Parallel() Option { return func(c *config) { c.parallel = true } }

// InDir opens dir, which may hold a cache, instead of a new temporary directory.
func InDir(dir string) Option { return func(c *config) { c.dir = dir } }

// WithManagerOpt changes the options that the manager is made with, each time it is opened. The
// parts in them have their fault points already.
func WithManagerOpt(adjust func(*cache.ManagerOpt)) Option {
	return func(c *config) { c.adjust = append(c.adjust, adjust) }
}

// Env is a cache under test. Its fields may be read while it is open and must not be changed.
type Env struct {
	// Manager is the cache. It is nil after Close and Crash, and another one after Open.
	Manager cache.Manager
	// Opt are the options that Manager was made with. Calls to their parts pass fault points.
	Opt cache.ManagerOpt
	// Faults has the fault points of everything below Manager, the metadata database included.
	// Opening passes points, too; New calls Reset when it is done.
	Faults *Faults
	// Clock is Manager's clock and drives what it writes behind.
	Clock *Clock
	// Dir is the cache's directory.
	Dir string
	// Parts are the real parts without fault points, nil on doubles, on another Backend, and while closed.
	Parts *local.Parts
	// Double is the backend in memory, nil on real parts. It outlives Close and Crash.
	Double *double.Backend

	t   testing.TB
	cfg config
	db  *bbolt.DB
	// end closes the parts of a Backend, whose garbage collection is collect.
	end     func() error
	collect func(context.Context) (gc.Stats, error)
	boot    int          // counts the reboots
	dead    *atomic.Bool // set when the records' database is closed, for timers that wait
}

// New opens a cache in a new temporary directory and has it checked and closed when the test ends.
func New(t testing.TB, opts ...Option) *Env {
	t.Helper()
	e := &Env{t: t, Clock: NewClock(time.Time{}), cfg: config{snapshotter: local.Native, faults: fault.New()}}
	for _, opt := range opts {
		opt(&e.cfg)
	}
	e.Faults = e.cfg.faults
	if e.cfg.snapshotter == local.Overlayfs {
		need.Overlay(t)
	}
	if e.Dir = e.cfg.dir; e.Dir == "" {
		e.Dir = t.TempDir()
	}
	before := readable(func() goleak.Option { return goleak.IgnoreCurrent() })
	if !e.Local() {
		t.Cleanup(func() { backend.Clear(t, e.Dir) })
	}
	if e.cfg.doubles {
		trees := t.TempDir()
		dopts := []double.Option{double.WithDir(trees), double.WithClock(e.Clock.Now)}
		if e.cfg.join {
			dopts = append(dopts, double.WithJoin())
		}
		if e.cfg.doubleName != "" {
			dopts = append(dopts, double.WithName(e.cfg.doubleName))
		}
		e.Double = double.New(dopts...)
	}
	t.Cleanup(func() {
		e.finish()
		if !e.cfg.parallel {
			if err := readable(func() error { return goleak.Find(before) }); err != nil {
				t.Errorf("goroutines are left: %v", err)
			}
		}
	})
	e.Open()
	e.Faults.Reset()
	return e
}

// Open opens the cache after Close or Crash. A failure ends the test; TryOpen is for those expected.
func (e *Env) Open() {
	e.t.Helper()
	require.NoError(e.t, e.TryOpen(context.Background()))
}

// TryOpen opens the cache after Close or Crash and returns why it could not. Then the cache is still
// closed and may be opened again.
func (e *Env) TryOpen(ctx context.Context) (err error) {
	if e.Manager != nil {
		return errors.New("testutil: the cache is open")
	}
	defer func() {
		if err != nil {
			err = stderrors.Join(err, e.drop())
		}
	}()
	opt, err := e.openParts(ctx)
	if err != nil {
		return err
	}
	for _, adjust := range e.cfg.adjust {
		adjust(&opt)
	}
	m, err := cache.NewManager(opt)
	if err != nil {
		return err
	}
	e.Manager, e.Opt = m, opt
	return nil
}

// openParts opens everything below the manager and puts the fault points in between.
func (e *Env) openParts(ctx context.Context) (opt cache.ManagerOpt, err error) {
	switch {
	case e.cfg.doubles:
		opt = e.doubleOpt()
	case !e.Local():
		if opt, err = e.openBackend(ctx); err != nil {
			return opt, err
		}
	default:
		opts := local.Options{Snapshotter: e.cfg.snapshotter}
		if e.cfg.deep {
			opts.WrapSnapshotter = e.Faults.ContainerdSnapshotter
		}
		e.Parts, err = local.OpenParts(ctx, e.Dir, opts)
		if err != nil {
			return opt, err
		}
		opt = e.Parts.ManagerOpt()
		// The records are opened anew by hand: below the store there have to be fault points.
		if err := e.Parts.MetadataStore.Close(); err != nil {
			return opt, err
		}
	}
	e.db, err = bbolt.Open(filepath.Join(e.Dir, recordsDB), 0o600, &bbolt.Options{
		FreelistType:   bbolt.FreelistMapType,
		NoFreelistSync: true,
		NoSync:         e.cfg.doubles, // a test is not meant to survive a power cut
		Timeout:        time.Second,
	})
	if err != nil {
		return opt, errors.Wrap(err, "opening the records")
	}
	if e.cfg.separate {
		opt.Transactions = nil
	}
	opt.Applier = unsynced(opt.Applier)
	var db fault.DB = e.db
	if !e.cfg.bare {
		db = e.Faults.DB(db)
		e.addFaults(&opt)
	}
	dead := new(atomic.Bool)
	e.dead = dead
	opt.AfterFunc = func(d time.Duration, fn func()) func() bool {
		return e.Clock.AfterFunc(d, func() {
			if !dead.Load() {
				fn()
			}
		})
	}
	opt.MetadataStore = metadata.NewStoreWithDB(db, metadata.WithAfterFunc(opt.AfterFunc))
	opt.Now = e.Clock.Now
	opt.BootID = "boot " + strconv.Itoa(e.boot)
	return opt, nil
}

func (e *Env) doubleOpt() cache.ManagerOpt {
	return cache.ManagerOpt{
		Snapshotter:    snapshot.FromContainerdSnapshotter(e.Double.Name(), e.Double.Snapshotter(), nil),
		ContentStore:   e.Double.ContentStore(),
		Applier:        apply.New(e.Double.ContentStore()),
		LeaseManager:   e.Double.LeaseManager(),
		GarbageCollect: e.Double.GC,
		Transactions:   &cache.Transactions{Update: e.Double.Update, Snapshots: e.cfg.join},
		Root:           e.Dir,
		MountPoolRoot:  filepath.Join(e.Dir, "cachemounts"),
		SyncFS:         noSync,
	}
}

// noSync flushes nothing: no test gets to see what a machine forgets.
func noSync(context.Context) error { return nil }

// unsynced has an applier return without waiting for the disk, for the same reason as noSync.
func unsynced(a diff.Applier) diff.Applier {
	if d, ok := a.(snapshot.DetachedApplier); ok {
		return unsyncedDetached{d}
	}
	return a
}

type unsyncedDetached struct{ snapshot.DetachedApplier }

func noSyncFS(_ context.Context, _ ocispecs.Descriptor, c *diff.ApplyConfig) error {
	c.SyncFs = false
	return nil
}

func (a unsyncedDetached) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	return a.DetachedApplier.Apply(ctx, desc, mounts, append(opts[:len(opts):len(opts)], noSyncFS)...)
}

func (a unsyncedDetached) ApplyDetached(ctx context.Context, desc ocispecs.Descriptor, dir string, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	return a.DetachedApplier.ApplyDetached(ctx, desc, dir, append(opts[:len(opts):len(opts)], noSyncFS)...)
}

// addFaults wraps the parts of a manager's options.
func (e *Env) addFaults(opt *cache.ManagerOpt) {
	f := e.Faults
	opt.Snapshotter = f.Snapshotter(opt.Snapshotter)
	opt.ContentStore = f.ContentStore(opt.ContentStore)
	opt.LeaseManager = f.LeaseManager(opt.LeaseManager)
	if opt.GarbageCollect != nil {
		opt.GarbageCollect = f.GarbageCollect(opt.GarbageCollect)
	}
	opt.SyncFS = f.SyncFS(noSync)
	if opt.Applier != nil {
		opt.Applier = f.Applier(opt.Applier)
	}
	if opt.Differ != nil {
		if runtime.GOOS == "linux" { // that of package local, on the store with fault points
			opt.Differ = winlayers.NewComparer(opt.ContentStore, differ.New(opt.ContentStore))
		}
		opt.Differ = f.Differ(opt.Differ)
	}
	if tx := opt.Transactions; tx != nil {
		opt.Transactions = &cache.Transactions{Update: f.Transaction(tx.Update), Snapshots: tx.Snapshots}
	}
}

// GC runs the backend's garbage collection without passing fault points, as somebody else would.
func (e *Env) GC(ctx context.Context) error {
	var collect func(context.Context) (gc.Stats, error)
	switch {
	case e.Double != nil:
		collect = e.Double.GC
	case e.collect != nil:
		collect = e.collect
	default:
		collect = e.Parts.GarbageCollect
	}
	_, err := collect(ctx)
	return err
}

// Close closes the cache in good order and keeps its directory. Closing it again does nothing.
func (e *Env) Close() error {
	var err error
	if e.Manager != nil {
		err = e.Manager.Close()
	}
	return stderrors.Join(err, e.drop())
}

// Reopen closes the cache and opens it again. A failure ends the test.
func (e *Env) Reopen() {
	e.t.Helper()
	require.NoError(e.t, e.Close())
	e.Open()
}

// Crash drops the cache as if the process had died: nothing that is pending is written, only the
// databases' locks are given up. Refs that the test holds are of no use any more. Open goes on
// with what was on disk.
func (e *Env) Crash() {
	e.t.Helper()
	require.NoError(e.t, e.drop())
}

// Reboot is Crash of the whole machine: the next Open finds itself under another boot ID. What was
// written is all there, in this test at least.
func (e *Env) Reboot() {
	e.t.Helper()
	e.Crash()
	e.boot++
}

// drop closes what is open without telling the manager. The databases that it does not know of have
// nothing pending.
func (e *Env) drop() error {
	var errs []error
	if e.dead != nil {
		e.dead.Store(true)
	}
	if e.db != nil {
		errs = append(errs, e.db.Close())
	}
	if e.Parts != nil {
		errs = append(errs, e.Parts.Close())
	}
	if e.end != nil {
		errs = append(errs, e.end())
	}
	e.end, e.collect = nil, nil
	e.Manager, e.Parts, e.db, e.dead, e.Opt = nil, nil, nil, nil, cache.ManagerOpt{}
	return stderrors.Join(errs...)
}
