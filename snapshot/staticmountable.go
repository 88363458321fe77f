package snapshot

import (
	"os"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/moby/sys/user"
)

// panicOnErrorEnv is a debugging aid with a name that engines already know: set to "1", a mount that is
// released twice ends the process instead of being forgiven.
const panicOnErrorEnv = "BUILDKIT_DEBUG_PANIC_ON_ERROR"

// NewMountable returns a Mountable that always mounts as mounts says. The list is copied, here and for
// every caller of Mount, and overlay mounts get redirect_dir=off where the kernel lets us (spec SNP-5).
//
// Release (may be nil) runs each time the last of the mounts outstanding has been released, never twice at
// once, and its error is the result of that last release. A mount counts once: releasing it again does
// nothing, or panics with BUILDKIT_DEBUG_PANIC_ON_ERROR=1 in the environment. The result is safe for
// concurrent use; idmap (may be nil) is handed out as it is.
func NewMountable(mounts []mount.Mount, release func() error, idmap *user.IdentityMapping) Mountable {
	sources := make([]string, len(mounts))
	for i, m := range mounts {
		sources[i] = m.Source
	}
	return newStaticMountable(strings.Join(sources, " "), mounts, release, idmap)
}

// newStaticMountable names the mountable, for the message of the panic.
func newStaticMountable(name string, mounts []mount.Mount, release func() error, idmap *user.IdentityMapping) *staticMountable {
	return &staticMountable{
		name:    name,
		mounts:  processRedirectDir().apply(copyMounts(mounts)),
		release: release,
		idmap:   idmap,
	}
}

type staticMountable struct {
	name    string
	mounts  []mount.Mount
	idmap   *user.IdentityMapping
	release func() error

	mu sync.Mutex
	// outstanding counts the mounts not yet released. The lock is held over release too: a new mount must
	// not begin while the old one is being taken away.
	outstanding int
}

func (m *staticMountable) IdentityMapping() *user.IdentityMapping { return m.idmap }

func (m *staticMountable) Mount() ([]mount.Mount, func() error, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.outstanding++
	released := false
	return copyMounts(m.mounts), func() error {
		m.mu.Lock()
		defer m.mu.Unlock()
		if released {
			if os.Getenv(panicOnErrorEnv) == "1" {
				panic("mount of " + m.name + " released twice")
			}
			return nil
		}
		released = true
		m.outstanding--
		if m.outstanding > 0 || m.release == nil {
			return nil
		}
		return m.release()
	}, nil
}
