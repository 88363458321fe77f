package snapshot

import (
	"os"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// Mounter puts something under a path of this machine. It is safe for concurrent use.
type Mounter interface {
	// Mount returns the path, the same one until Unmount.
	Mount() (string, error)
	// Unmount takes away what Mount made and releases what it holds. A Mounter that is not mounted has
	// nothing to do; one whose unmounting failed can be asked again. It may be mounted anew.
	Unmount() error
}

// LocalMounterOpt changes what LocalMounter does.
type LocalMounterOpt func(*localMounter)

// ForceRemount asks for a mount of the Mounter's own, below a temporary directory, even where the source
// path would do: for a caller that goes on to change the mount, or wants to be rid of it while others use
// the source. Without the privilege to mount it is an error.
func ForceRemount() LocalMounterOpt {
	return func(lm *localMounter) { lm.forceRemount = true }
}

// LocalMounter returns a Mounter for m, which is asked for its mounts at each Mount and released by Unmount,
// or by a Mount that fails.
//
// A single writable bind mount is its source path; nothing is mounted and no privilege needed. Anything else
// is mounted in a new temporary directory, a file on a file in it; no mounts at all are an empty directory,
// which the caller leaves empty, as Unmount deletes nothing but that directory. Where the process may not mount (on Linux: it lacks CAP_SYS_ADMIN over its mount namespace), a
// single read-only bind mount is its source path as well, and then NOTHING STOPS THE CALLER FROM WRITING TO
// IT but his own restraint; all other mounts are a permission denied error. In a Linux user namespace, bind
// mounts take over the flags of their source's mount, which the kernel would not let us drop.
func LocalMounter(m Mountable, opts ...LocalMounterOpt) Mounter {
	return newLocalMounter(func() ([]mount.Mount, func() error, error) {
		if m == nil {
			return nil, nil, errors.Wrap(errdefs.ErrInvalidArgument, "no mountable")
		}
		return m.Mount()
	}, opts)
}

// LocalMounterWithMounts is LocalMounter for a plain list of mounts, which is copied.
func LocalMounterWithMounts(mounts []mount.Mount, opts ...LocalMounterOpt) Mounter {
	mounts = copyMounts(mounts)
	return newLocalMounter(func() ([]mount.Mount, func() error, error) {
		return copyMounts(mounts), nil, nil
	}, opts)
}

func newLocalMounter(source func() ([]mount.Mount, func() error, error), opts []LocalMounterOpt) *localMounter {
	lm := &localMounter{source: source}
	for _, opt := range opts {
		if opt != nil {
			opt(lm)
		}
	}
	return lm
}

type localMounter struct {
	source       func() ([]mount.Mount, func() error, error)
	forceRemount bool

	mu sync.Mutex
	// mounted is nil while nothing is.
	mounted *localMount
}

// localMount is one life of a localMounter, from Mount to Unmount.
type localMount struct {
	path string
	// unmount takes the mount at path and its temporary directory away; nil for a source path. An error
	// means that the mount is still there.
	unmount func() error
	release func() error
}

func (lm *localMounter) Mount() (string, error) {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	if lm.mounted != nil {
		return lm.mounted.path, nil
	}
	mounts, release, err := lm.source()
	if err != nil {
		return "", err
	}
	m, err := lm.place(mounts)
	if err != nil {
		if release != nil {
			if err1 := release(); err1 != nil {
				err = errors.WithMessagef(err, "release failed, too (%v), after", err1)
			}
		}
		return "", err
	}
	m.release = release
	lm.mounted = m
	return m.path, nil
}

// place finds or makes the path for mounts, and leaves nothing behind if it fails.
func (lm *localMounter) place(mounts []mount.Mount) (*localMount, error) {
	mounts, err := platformMounts(mounts)
	if err != nil {
		return nil, err
	}
	bind := len(mounts) == 1 && isBind(mounts[0]) && mounts[0].Target == ""
	if bind && !lm.forceRemount && !slices.Contains(mounts[0].Options, "ro") {
		return &localMount{path: mounts[0].Source}, nil
	}
	if len(mounts) > 0 {
		if err := mayMount(); err != nil {
			if bind && !lm.forceRemount {
				return &localMount{path: mounts[0].Source}, nil
			}
			return nil, errors.WithMessagef(err, "mounting %s", describe(mounts))
		}
	}
	path, unmount, err := mountTemp(mounts, bind)
	if err != nil {
		return nil, errors.WithMessagef(err, "mounting %s", describe(mounts))
	}
	return &localMount{path: path, unmount: unmount}, nil
}

func (lm *localMounter) Unmount() error {
	lm.mu.Lock()
	defer lm.mu.Unlock()
	m := lm.mounted
	if m == nil {
		return nil
	}
	if m.unmount != nil {
		if err := m.unmount(); err != nil {
			return err
		}
	}
	lm.mounted = nil
	if m.release != nil {
		return m.release()
	}
	return nil
}

// tempPattern is the name of the directories mounts are made in; clean-up tools know it.
const tempPattern = "buildkit-mount"

// tempDir makes the directory a mount goes on. Remove takes it away again, with the entries named; it never
// deletes recursively, for what is seen below the path may be somebody's data should a mount still be there.
func tempDir() (dir string, remove func(entries ...string) error, err error) {
	dir, err = os.MkdirTemp("", tempPattern)
	if err != nil {
		return "", nil, errors.Wrap(err, "creating the mount point")
	}
	return dir, func(entries ...string) error {
		for _, path := range append(entries, dir) {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return errors.Wrap(err, "removing the mount point")
			}
		}
		return nil
	}, nil
}

// describe shows mounts in an error, short even where an overlay has hundreds of directories.
func describe(mounts []mount.Mount) string {
	const limit = 200
	s := ""
	for i, m := range mounts {
		if i > 0 {
			s += ", "
		}
		s += m.Type + " of " + m.Source
		for _, o := range m.Options {
			s += "," + o
		}
	}
	if len(s) > limit {
		s = s[:limit] + "..."
	}
	return s
}
