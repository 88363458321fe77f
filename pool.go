package cache

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/log"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// poolPrefix begins the names of the directories that overlays are mounted on; tools that clean up know it.
const poolPrefix = "buildkit"

// mountPool is where writable overlays are mounted, once each, for all their users (spec 3.4.1).
//
// A directory that is in use is locked: its owner holds a lock on the pool's root, at a place that
// follows from the directory's name, for as long as the mount is there. The kernel drops it with the process. So
// the cleaning at a start tells what a dead process left from what a live one uses, though both may
// share the root, and without a file in it. Processes that know nothing of the locks, BuildKit among them,
// are kept out by the lock on the whole cache directory (package local), or must be by the embedder.
type mountPool struct {
	// root is absolute.
	root string
	// found are the directories that were there at the start, by name.
	found []string
	sys   poolSystem

	// mu guards memory only, and is taken with or without the mutex of a sharedMount.
	mu sync.Mutex
	// shared has an entry for each snapshot that is mounted, or being mounted.
	shared map[string]*sharedMount
	// strays are places in the pool that nobody uses and that could not be taken away.
	strays []*poolPlace
}

// poolSystem is what the pool asks of the operating system.
type poolSystem struct {
	// mayMount returns nil if this process can mount. If not, nothing is shared.
	mayMount func() error
	// mount mounts a list on a directory.
	mount func(mounts []mount.Mount, dir string) error
	// unmount takes away what is mounted on a directory, or does nothing if nothing is. With detach it goes
	// from the directory at once, even if it is in use.
	unmount func(dir string, detach bool) error
	// mounted tells whether something is mounted on a directory.
	mounted func(dir string) (bool, error)
}

// poolPlace is a directory of the pool that is in use.
type poolPlace struct {
	dir string
	// unlock declares it unused.
	unlock func()
}

// openPool prepares the pool in root, and looks what is in it. An empty root stands for the system's
// directory for temporary files, of which nothing is known and nothing will be cleaned.
func openPool(root string) (*mountPool, error) {
	p := &mountPool{root: root, sys: systemPool(), shared: map[string]*sharedMount{}}
	if root == "" {
		p.root = os.TempDir()
	}
	// Whoever bind mounts the directory may have another working directory.
	abs, err := filepath.Abs(p.root)
	if err != nil {
		return nil, errors.Wrap(err, "finding the mount pool")
	}
	p.root = abs
	if root == "" {
		return p, nil
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, errors.Wrap(err, "creating the mount pool")
	}
	entries, err := os.ReadDir(abs)
	if err != nil {
		return nil, errors.Wrap(err, "reading the mount pool")
	}
	for _, e := range entries {
		if e.IsDir() {
			p.found = append(p.found, e.Name())
		}
	}
	return p, nil
}

// clean takes away what processes that are dead left in the pool before it was opened (spec SHM-5).
// Nothing is removed but empty directories, and what fails is left for the next start.
func (p *mountPool) clean(ctx context.Context) {
	for _, name := range p.found {
		logger := log.G(ctx).WithField("dir", filepath.Join(p.root, name))
		switch live, err := placeLocked(p.root, name); {
		case err != nil:
			logger.WithError(err).Warn("layer cache: whether a mount is in use cannot be known; it stays")
			continue
		case live:
			logger.Info("layer cache: a mount in the pool is in use; it stays")
			continue
		}
		if err := p.cleanDir(filepath.Join(p.root, name)); err != nil {
			logger.WithError(err).Warn("layer cache: cleaning the mount pool")
		}
	}
	p.found = nil
}

func (p *mountPool) cleanDir(dir string) error {
	if err := p.sys.unmount(dir, true); err != nil {
		// Who may not mount may not unmount either, also what is not mounted.
		mounted, err1 := p.sys.mounted(dir)
		if err1 != nil {
			return errors.WithMessagef(err, "whether it is mounted cannot be known (%v), after", err1)
		}
		if mounted {
			return err
		}
	}
	return removeDir(dir)
}

// removeDir removes an empty directory: should something be mounted on it still, its content is safe.
func removeDir(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return errors.Wrap(err, "removing the mount point")
	}
	return nil
}

// mount mounts a list on a new directory of the pool.
func (p *mountPool) mount(mounts []mount.Mount) (*poolPlace, error) {
	mounts, err := snapshot.AdaptMounts(mounts)
	if err != nil {
		return nil, err
	}
	name := poolPrefix + newID()
	place := &poolPlace{dir: filepath.Join(p.root, name)}
	// Locked first: one who cleans never sees the directory without its lock.
	if place.unlock, err = lockPlace(p.root, name); err != nil {
		return nil, errors.Wrapf(err, "locking the mount point %s", place.dir)
	}
	if err := os.Mkdir(place.dir, 0o700); err != nil {
		place.unlock()
		return nil, errors.Wrap(err, "creating the mount point")
	}
	if err := p.sys.mount(mounts, place.dir); err != nil {
		err = errors.Wrapf(err, "mounting on %s", place.dir)
		// Some of the list may have been mounted.
		if err1 := p.takeAway(place); err1 != nil {
			err = errors.WithMessagef(err, "and the mount point stays for now (%v)", err1)
		}
		return nil, err
	}
	return place, nil
}

// takeAway makes an end of a place that nobody uses. If it fails, close tries it again.
func (p *mountPool) takeAway(place *poolPlace) error {
	if err := p.sys.unmount(place.dir, true); err != nil {
		p.keepStray(place)
		return err
	}
	return p.remove(place)
}

// remove is takeAway for a place on which nothing is mounted any more.
func (p *mountPool) remove(place *poolPlace) error {
	if err := removeDir(place.dir); err != nil {
		p.keepStray(place)
		return err
	}
	place.unlock()
	return nil
}

func (p *mountPool) keepStray(place *poolPlace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.strays = append(p.strays, place)
}

// close takes away what is left of mounts that nobody uses any more. Those in use stay until their
// users release them. What cannot be taken away is the error, and left for the next start.
func (p *mountPool) close() error {
	p.mu.Lock()
	keys := make([]string, 0, len(p.shared))
	for key := range p.shared {
		keys = append(keys, key)
	}
	strays := p.strays
	p.strays = nil
	p.mu.Unlock()
	var errs []error
	for _, key := range keys {
		errs = append(errs, p.settle(key))
	}
	for _, place := range strays {
		errs = append(errs, p.takeAway(place))
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, place := range p.strays {
		place.unlock() // for whoever cleans next
	}
	p.strays = nil
	return stderrors.Join(errs...)
}

// pin returns the state of a snapshot's shared mount, which is the same one for all until it is unpinned
// as often.
func (p *mountPool) pin(key string) *sharedMount {
	p.mu.Lock()
	defer p.mu.Unlock()
	sm := p.shared[key]
	if sm == nil {
		sm = &sharedMount{pool: p, key: key}
		p.shared[key] = sm
	}
	sm.pins++
	return sm
}

func (p *mountPool) unpin(sm *sharedMount) {
	p.mu.Lock()
	defer p.mu.Unlock()
	sm.pins--
	if sm.pins == 0 {
		delete(p.shared, sm.key)
	}
}
