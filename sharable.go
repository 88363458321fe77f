package cache

import (
	stderrors "errors"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// panicOnErrorEnv is a debugging aid that engines know by this name: set to "1", a mount that is released
// twice ends the process instead of being forgiven.
const panicOnErrorEnv = "BUILDKIT_DEBUG_PANIC_ON_ERROR"

// sharable is how an active snapshot is mounted. If that takes a writable overlay, the kernel mounts it once, in the
// pool, and every user gets a bind mount of it: two overlays that write to one upper directory are undefined, and
// refused with overlay's index=on (spec SHM-1, fault 39). Other mounts are passed through (spec SHM-3), as are all
// in a process that may not mount.
//
// A mount that is in use when its record is finalized, or released, stays until its users release it; but
// from then on the sharable is void: no new mount begins, since the upper directory may by now belong to
// a committed layer. A view that is made meanwhile is another snapshot with mounts of its own.
type sharable struct {
	snapshot.Mountable // of the snapshotter

	pool *mountPool
	// key is the snapshot's.
	key  string
	void atomic.Bool
}

// share makes the mountable of the active snapshot key sharable.
func (p *mountPool) share(key string, m snapshot.Mountable) *sharable {
	return &sharable{Mountable: m, pool: p, key: key}
}

// Mount returns the snapshot's own mounts, or a bind mount of the shared one. A release that fails to
// unmount may be called again; the next Mount goes on with the mount that is still there.
func (s *sharable) Mount() ([]mount.Mount, func() error, error) {
	sm := s.pool.pin(s.key)
	defer s.pool.unpin(sm)
	sm.mu.Lock()
	defer sm.mu.Unlock()
	if s.void.Load() {
		return nil, nil, errors.Wrapf(errInvalid, "mounting snapshot %q, which was released or finalized", s.key)
	}
	if sm.place == nil {
		mounts, release, err := s.Mountable.Mount()
		if err != nil {
			return nil, nil, err
		}
		if !slices.ContainsFunc(mounts, isWritableOverlay) || s.pool.sys.mayMount() != nil {
			return mounts, release, nil
		}
		if err := sm.mount(mounts, release); err != nil {
			return nil, nil, err
		}
	}
	mounts, release := sm.join()
	return mounts, release, nil
}

// retire makes s void, and takes its mount away if that is left over from a release that failed.
func (s *sharable) retire() error {
	s.void.Store(true)
	return s.pool.settle(s.key)
}

// sharedReader is how a record is mounted to be read that was committed by its user and not yet finalized:
// while its snapshot is mounted in the pool, by that mount (quirk Q81), else by the snapshot's own, so that
// differs see an overlay's options (spec MNT-6, SHM-4). The caller makes it read-only.
type sharedReader struct{ *sharable }

func (r sharedReader) Mount() ([]mount.Mount, func() error, error) {
	sm := r.pool.pin(r.key)
	defer r.pool.unpin(sm)
	sm.mu.Lock()
	defer sm.mu.Unlock()
	if sm.place == nil {
		return r.Mountable.Mount()
	}
	mounts, release := sm.join()
	return mounts, release, nil
}

func isWritableOverlay(m mount.Mount) bool {
	return m.Type == "overlay" && slices.ContainsFunc(m.Options, func(o string) bool {
		return strings.HasPrefix(o, "upperdir=") || strings.Contains(o, ",upperdir=")
	})
}

// sharedMount is the one mount of a snapshot in the pool.
type sharedMount struct {
	pool *mountPool
	key  string
	// pins counts who works with it, and one more while something is mounted. The pool's mutex guards it.
	pins int

	// mu is held over mounting and unmounting: nobody else but this snapshot's users waits for that.
	mu sync.Mutex
	// place is nil while nothing is mounted.
	place *poolPlace
	// users counts the mounts handed out and not yet released. There are none, though something is
	// mounted, after unmounting failed.
	users int
	// release gives the snapshotter's mounts back.
	release func() error
}

// mount mounts the snapshotter's mounts in the pool, or gives them back. The caller has the mutex.
func (sm *sharedMount) mount(mounts []mount.Mount, release func() error) error {
	if release == nil {
		release = func() error { return nil }
	}
	place, err := sm.pool.mount(mounts)
	if err != nil {
		if err1 := release(); err1 != nil {
			err = errors.WithMessagef(err, "release failed, too (%v), after", err1)
		}
		return errors.WithMessagef(err, "sharing the mount of snapshot %q", sm.key)
	}
	sm.place, sm.release = place, release
	sm.pool.pin(sm.key)
	return nil
}

// join adds a user of the mount that is there. The caller has the mutex.
func (sm *sharedMount) join() ([]mount.Mount, func() error) {
	sm.users++
	counted, done := true, false
	return []mount.Mount{{Type: "bind", Source: sm.place.dir, Options: []string{"rw", "rbind"}}}, func() error {
		sm.mu.Lock()
		defer sm.mu.Unlock()
		if done {
			if os.Getenv(panicOnErrorEnv) == "1" {
				panic("shared mount of " + sm.key + " released twice")
			}
			return nil
		}
		if counted {
			counted = false
			sm.users--
		}
		if sm.users == 0 && sm.place != nil { // nil if this release failed and another's did not
			if err := sm.unmount(false); err != nil {
				return err
			}
		}
		done = true
		return nil
	}
}

// unmount takes the mount away. Unless that is forced by detaching it, it fails while somebody has a file open on it,
// and then all is as it was: mounting the same directories elsewhere would be wrong. The caller has the mutex.
func (sm *sharedMount) unmount(detach bool) error {
	if err := sm.pool.sys.unmount(sm.place.dir, detach); err != nil {
		return errors.Wrapf(err, "unmounting the shared mount of snapshot %q", sm.key)
	}
	place, release := sm.place, sm.release
	sm.place, sm.release = nil, nil
	sm.pool.unpin(sm)
	return stderrors.Join(
		errors.Wrapf(release(), "releasing the mounts of snapshot %q", sm.key),
		errors.WithMessagef(sm.pool.remove(place), "after unmounting snapshot %q", sm.key),
	)
}

// settle takes the mount of a snapshot away if it is left over from a release that failed. A mount that somebody
// is working on right now is his to settle.
func (p *mountPool) settle(key string) error {
	sm := p.pin(key)
	defer p.unpin(sm)
	if !sm.mu.TryLock() {
		return nil
	}
	defer sm.mu.Unlock()
	if sm.place == nil || sm.users > 0 {
		return nil
	}
	return sm.unmount(true)
}

// busy tells whether the mount of a snapshot is, or may be, in use.
func (p *mountPool) busy(key string) bool {
	p.mu.Lock()
	sm := p.shared[key]
	p.mu.Unlock()
	if sm == nil {
		return false
	}
	if !sm.mu.TryLock() {
		return true // somebody is mounting or unmounting
	}
	defer sm.mu.Unlock()
	return sm.users > 0
}
