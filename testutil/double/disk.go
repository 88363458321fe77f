package double

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
)

// disk is the lower layer: what a snapshotter and a content store keep under keys that only the
// upper layer knows. Nothing here is ever undone.
type disk struct {
	dir string

	mu     sync.Mutex
	serial uint64
	snaps  map[string]*diskSnap
	blobs  map[digest.Digest][]byte
	stored bool // there has been a blob
	writes map[string]*diskWrite
}

type diskSnap struct {
	kind    snapshots.Kind
	parent  string
	dir     string // its directory, or its parent's if it is a view
	owned   bool   // the directory goes with it
	usage   snapshots.Usage
	usedSet bool // usage was set by a test
}

// diskWrite is an ingest. Its writer, if there is one, holds the lock on it.
type diskWrite struct {
	data             []byte
	total            int64
	locked           bool
	started, updated time.Time
}

func (d *disk) init(dir string) {
	d.dir = dir
	d.snaps = map[string]*diskSnap{}
	d.blobs = map[digest.Digest][]byte{}
	d.writes = map[string]*diskWrite{}
}

func (d *disk) create(kind snapshots.Kind, key, parent string) (mounts []mount.Mount, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s := &diskSnap{kind: kind, parent: parent}
	var from string
	if parent != "" {
		p, ok := d.snaps[parent]
		if !ok {
			return nil, notFound("backend snapshot", parent)
		}
		if p.kind != snapshots.KindCommitted {
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "parent %q is not committed", parent)
		}
		from = p.dir
	}
	if _, ok := d.snaps[key]; ok {
		// Not the category "already exists", which would say it of the caller's key.
		return nil, errors.Errorf("backend snapshot %q exists", key)
	}
	if kind == snapshots.KindView && from != "" {
		s.dir = from
	} else {
		d.serial++
		s.dir, s.owned = fmt.Sprintf("/nonexistent/double/%d", d.serial), d.dir != ""
		if s.owned {
			s.dir = filepath.Join(d.dir, fmt.Sprint(d.serial))
			if err := makeTree(s.dir, from); err != nil {
				return nil, errors.Wrap(err, "directory of a snapshot")
			}
		}
	}
	d.snaps[key] = s
	return s.mounts(), nil
}

// makeTree makes a directory, a copy of another one if that is given, or nothing at all.
func makeTree(dir, from string) (err error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if err = os.Chmod(dir, 0o755); err == nil && from != "" {
		err = fs.CopyDir(dir, from)
	}
	if err != nil {
		_ = os.RemoveAll(dir) // err is what counts
	}
	return err
}

func (s *diskSnap) mounts() []mount.Mount {
	access := "rw"
	if s.kind == snapshots.KindView {
		access = "ro"
	}
	return []mount.Mount{{Type: "bind", Source: s.dir, Options: []string{"rbind", access}}}
}

// stat returns what the lower layer knows: kind and existence.
func (d *disk) stat(key string) (snapshots.Kind, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.snaps[key]
	if !ok {
		return 0, notFound("backend snapshot", key)
	}
	return s.kind, nil
}

func (d *disk) mounts(key string) ([]mount.Mount, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.snaps[key]
	switch {
	case !ok:
		return nil, notFound("backend snapshot", key)
	case s.kind == snapshots.KindCommitted:
		return nil, errors.Wrapf(errdefs.ErrFailedPrecondition, "snapshot %q is committed", key)
	}
	return s.mounts(), nil
}

func (d *disk) setUsage(key string, usage snapshots.Usage) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.snaps[key]
	if !ok {
		return notFound("backend snapshot", key)
	}
	s.usage, s.usedSet = usage, true
	return nil
}

// usage measures an active snapshot and remembers a committed one's.
func (d *disk) usage(ctx context.Context, key string) (snapshots.Usage, error) {
	d.mu.Lock()
	s, ok := d.snaps[key]
	if !ok {
		d.mu.Unlock()
		return snapshots.Usage{}, notFound("backend snapshot", key)
	}
	known := *s
	d.mu.Unlock()
	return known.measure(ctx)
}

func (s *diskSnap) measure(ctx context.Context) (snapshots.Usage, error) {
	if s.usedSet || s.kind != snapshots.KindActive || !s.owned {
		return s.usage, nil
	}
	u, err := fs.DiskUsage(ctx, s.dir)
	return snapshots.Usage(u), err
}

// commit turns an active snapshot into a committed one, which gets the parent if it had none.
func (d *disk) commit(ctx context.Context, name, key, parent string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	s, ok := d.snaps[key]
	if !ok {
		return notFound("backend snapshot", key)
	}
	if s.kind == snapshots.KindView && s.parent != "" {
		// No category: the native snapshotter trips over the directory that such a view does not have.
		return errors.Errorf("view %q has no directory", key)
	}
	if _, ok := d.snaps[name]; ok {
		return alreadyExists("backend snapshot", name)
	}
	if s.kind != snapshots.KindActive {
		return errors.Wrapf(errdefs.ErrFailedPrecondition, "snapshot %q is not active", key)
	}
	if s.parent == "" && parent != "" {
		p, ok := d.snaps[parent]
		if !ok {
			return notFound("backend snapshot", parent)
		}
		if p.kind != snapshots.KindCommitted {
			return errors.Wrapf(errdefs.ErrFailedPrecondition, "parent %q is not committed", parent)
		}
	}
	usage, err := s.measure(ctx)
	if err != nil {
		return err
	}
	if s.parent == "" {
		s.parent = parent
	}
	s.usage, s.kind = usage, snapshots.KindCommitted
	delete(d.snaps, key)
	d.snaps[name] = s
	return nil
}

// drop deletes a snapshot, children or not.
func (d *disk) drop(key string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.dropLocked(key)
}

func (d *disk) dropLocked(key string) error {
	s, ok := d.snaps[key]
	if !ok {
		return nil
	}
	if s.owned {
		if err := os.RemoveAll(s.dir); err != nil {
			return errors.Wrap(err, "directory of a snapshot")
		}
	}
	delete(d.snaps, key)
	return nil
}

// sweepSnapshots deletes all snapshots whose keys are not in use, children before parents. One that
// others in use stand on stays.
func (d *disk) sweepSnapshots(used map[string]bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	children := map[string]int{}
	for _, s := range d.snaps {
		children[s.parent]++
	}
	var doomed []string
	for _, key := range slices.Sorted(maps.Keys(d.snaps)) {
		if !used[key] && children[key] == 0 {
			doomed = append(doomed, key)
		}
	}
	for len(doomed) > 0 {
		key := doomed[len(doomed)-1]
		doomed = doomed[:len(doomed)-1]
		parent := d.snaps[key].parent
		if err := d.dropLocked(key); err != nil {
			return err
		}
		if children[parent]--; children[parent] == 0 && d.snaps[parent] != nil && !used[parent] {
			doomed = append(doomed, parent)
		}
	}
	return nil
}
