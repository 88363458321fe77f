package local

import (
	"context"
	stderrors "errors"
	"path/filepath"
	"sync"
	"time"

	"github.com/pkg/errors"

	"github.com/layercache/cache"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/usage"
)

// InspectOptions say how a directory is looked at. The zero value is a good choice.
type InspectOptions struct {
	// Snapshotter is needed for a directory that has snapshots of more than one, to say whose to look at.
	Snapshotter string
	// TempDir is where the copies of the databases go, for as long as the inspection lasts; empty means the system's directory for
	// temporary files. Nothing else is copied.
	TempDir string
	// NoSalvage makes a damaged database of records the error metadata.ErrCorrupt; see Inspection.Salvaged.
	NoSalvage bool
	// PruneRefChecker and Now are those of Options.
	PruneRefChecker cache.ExternalRefCheckerFunc
	Now             func() time.Time
}

// Inspection is a cache directory as Open would find it, of which nothing is changed: the databases are copied and opened as copies,
// trees and blobs are read where they lie. What Open repairs is repaired in the copies. Methods may be called from any goroutine.
type Inspection struct {
	// Dir is the directory's absolute path, SnapshotterName the snapshotter it was made with.
	Dir, SnapshotterName string
	// Salvaged tells what Open would save of a damaged database of records; nil if it is sound. Path and Damaged both name the file
	// in the directory, which is as it was.
	Salvaged *metadata.SalvageReport
	// Repaired are the records of an earlier process that Open would drop or repair, as the events that it would report
	// (cache.EventRecover).
	Repaired []cache.Event

	parts   *Parts
	manager cache.Manager
	once    sync.Once
	err     error
}

// Inspect opens a directory to look at it, be it that of a stopped buildkitd, without changing a byte of it. It takes no privileges
// beyond reading what is in the directory, and works for all of containerd's snapshotters that keep their books as overlayfs and
// native do. The caller must Close the result; until then nobody else can open the directory.
//
// A directory that another process has open is [ErrInUse], one without a cache in it [ErrNoCache], one that has snapshots of several
// snapshotters [ErrSnapshotter], and a damaged database of the backend [ErrForeign]. Where the directory or
// something in it may not be read the error is errdefs' permission denied.
func Inspect(ctx context.Context, dir string, opts InspectOptions) (_ *Inspection, err error) {
	if dir == "" {
		return nil, invalid("cache directory is empty")
	}
	if err := ctx.Err(); err != nil {
		return nil, errors.WithStack(err)
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, errors.WithStack(err)
	}
	p, err := openCopies(ctx, dir, opts)
	if err != nil {
		return nil, errors.Wrapf(err, "inspect cache directory %s", dir)
	}
	var seen repairs
	opt := p.ManagerOpt()
	opt.MountPoolRoot, opt.GarbageCollect, opt.SyncFS = p.MountPoolRoot, nil, nil
	opt.Observer = &seen
	i := &Inspection{Dir: dir, SnapshotterName: p.SnapshotterName, Salvaged: p.Salvaged, parts: p}
	if i.manager, err = cache.NewManager(opt); err != nil {
		return nil, stderrors.Join(errors.Wrapf(err, "inspect cache directory %s", dir), p.Close())
	}
	if err := p.dropTemporaryLeases(ctx); err != nil {
		return nil, stderrors.Join(errors.Wrapf(err, "inspect cache directory %s", dir), i.Close())
	}
	i.Repaired = seen.take()
	return i, nil
}

// repairs collects what a start does to records.
type repairs struct {
	mu     sync.Mutex
	events []cache.Event
}

func (r *repairs) Observe(ev cache.Event) {
	if ev.Kind != cache.EventRecover {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events = append(r.events, ev)
}

func (r *repairs) take() []cache.Event {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.events
}

// DiskUsage is that of cache.Controller. Sizes that were never measured are measured, and not remembered after Close.
func (i *Inspection) DiskUsage(ctx context.Context, info usage.DiskUsageInfo) ([]*usage.Info, error) {
	return i.manager.DiskUsage(ctx, info)
}

// Record is that of cache.Inspector.
func (i *Inspection) Record(ctx context.Context, id string) (*cache.RecordInfo, error) {
	return i.manager.Record(ctx, id)
}

// Search returns the IDs of what cache.MetadataStore's Search finds.
func (i *Inspection) Search(ctx context.Context, index string, prefix bool) ([]string, error) {
	found, err := i.manager.Search(ctx, index, prefix)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(found))
	for _, md := range found {
		ids = append(ids, md.ID())
	}
	return ids, nil
}

// Prune is that of cache.Controller for policies that are dry runs: what the same policies would delete is sent to ch. Others
// are [ErrInspection].
func (i *Inspection) Prune(ctx context.Context, ch chan usage.Info, policies ...usage.PruneInfo) error {
	for _, p := range policies {
		if !p.DryRun {
			return lookOnly("a prune that is no dry run")
		}
	}
	return i.manager.Prune(ctx, ch, policies...)
}

// Check is that of cache.Checker. What Open repairs by itself, as it does after every crash, is no finding; see Repaired.
func (i *Inspection) Check(ctx context.Context) ([]cache.Finding, error) {
	return i.manager.Check(ctx)
}

// Overhead is that of cache.Inspector, together with what the backend itself does not list: snapshots, blobs and transfers that its
// database has lost, and strays. The next Open and garbage collection remove most of it.
func (i *Inspection) Overhead(ctx context.Context) ([]usage.Overhead, error) {
	listed, err := i.manager.Overhead(ctx)
	if err != nil {
		return nil, err
	}
	return i.parts.addUnlisted(ctx, listed)
}

// Close ends the inspection, removes the copies and gives the directory free. Closing again returns the same result.
func (i *Inspection) Close() error {
	i.once.Do(func() {
		i.err = stderrors.Join(i.manager.Close(), i.parts.Close())
	})
	return i.err
}
