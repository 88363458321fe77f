//go:build linux

package treemerge

import (
	"context"
	"runtime"
	"sync"

	"github.com/pkg/errors"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

// Target is the directory that differences are applied to.
type Target struct {
	// Dir is the directory. It is empty, and nobody else changes anything in it.
	Dir string
	// Overlay says that it is the upper directory of an overlay.
	Overlay bool
	// Base is what lies below it in the overlay.
	Base treediff.Layers
}

// Options say how.
type Options struct {
	// Link says that files may be hard links to those in the trees that were compared (spec APP-5).
	Link bool
	// Workers is how many directories and batches of files are worked on at once; 0 for a number that suits the machine.
	Workers int
	// Log is told of extended attributes that could not be set (spec APP-7). Path is relative to the root. It may be called
	// from several goroutines; nil is allowed.
	Log func(path, attr string, err error)

	// sys replaces system calls in tests.
	sys *system
}

// Stats counts what was done to files that are not directories.
type Stats struct {
	// Linked files are hard links to the source, or to a file that was made before.
	Linked int64
	// Cloned files share their blocks with the source.
	Cloned int64
	// Copied files were read and written, Bytes of them in all, or made anew as fifos, sockets, and, without hard links, symbolic links
	// and devices are.
	Copied, Bytes int64
	// NoLink is the first reason why a file was not linked though it should have been; nil if there was none.
	NoLink error
}

// Merge is the work on one target. Its methods must not be called at once.
type Merge struct {
	opt     Options
	sys     *system
	target  Target
	rootFd  int
	root    *node
	baseDir *treediff.Dir
	// opaque is the attribute of an overlay's directories that hide what is below; "" if the target is none.
	opaque string

	stats counters
	clone cloneSupport

	mu struct {
		sync.Mutex
		// own are those files that Merge made and that have several names: as others have, too, their number of names does not tell.
		own map[inode]bool
	}
}

// inode is the identity of a file.
type inode struct{ dev, ino uint64 }

func inodeOf(st *unix.Stat_t) inode { return inode{st.Dev, st.Ino} } //nolint:unconvert // Dev has other types elsewhere

// Open begins work on the target.
func Open(t Target, opt Options) (_ *Merge, err error) {
	if opt.Workers <= 0 {
		opt.Workers = runtime.GOMAXPROCS(0) + 2
	}
	m := &Merge{opt: opt, sys: opt.sys, target: t, rootFd: -1, root: &node{}}
	if m.sys == nil {
		m.sys = &realSystem
	}
	m.mu.own = map[inode]bool{}
	defer func() {
		if err != nil {
			m.Close()
		}
	}()
	if m.rootFd, err = unix.Open(t.Dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err != nil {
		return nil, errors.Wrapf(err, "opening %s", t.Dir)
	}
	if t.Overlay {
		m.opaque = t.Base.Marks.Opaque()
		if m.opaque == "" {
			return nil, errors.New("an overlay needs to know its marks")
		}
		if m.baseDir, err = treediff.Open(t.Base); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Close gives back what is open. It removes nothing.
func (m *Merge) Close() {
	if m.rootFd >= 0 {
		_ = unix.Close(m.rootFd) // a directory
		m.rootFd = -1
	}
	m.baseDir.Close()
	m.baseDir = nil
}

// Apply applies the difference from the lower to the upper tree. The roots themselves are never part of it (spec DIF-3). It stops
// between two files when the context ends. After an error the target holds garbage.
func (m *Merge) Apply(ctx context.Context, lower, upper treediff.Layers) error {
	pair, err := treediff.OpenPair(lower, upper)
	if err != nil {
		return err
	}
	w := newWalk(ctx, m)
	root := &cursor{w: w, pair: pair, node: m.root, fd: m.rootFd, base: m.baseDir, baseKnown: true, borrowed: true}
	root.refs.Store(1)
	return w.run(root)
}

// Stats returns what was done up to now.
func (m *Merge) Stats() Stats { return m.stats.get() }
