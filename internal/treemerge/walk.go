//go:build linux

package treemerge

import (
	"context"
	"sync"
	"sync/atomic"

	"github.com/pkg/errors"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/layercache/cache/internal/treediff"
)

// walk is one difference being applied.
type walk struct {
	*Merge
	ctx   context.Context //nolint:containedctx // a walk is one call
	group *errgroup.Group
	// links are the files with several names in the upper tree that had to be copied, and where the copy is (spec DIF-6).
	links struct {
		sync.Mutex
		made map[inode]made
	}
	// noLink says that the trees lie on another filesystem than the target: trying to link is no use.
	noLink atomic.Bool
	// blamed says that the error that ends the walk names its place.
	blamed atomic.Bool
}

// made is a file of the target.
type made struct {
	path string
	id   inode
}

func newWalk(ctx context.Context, m *Merge) *walk {
	w := &walk{Merge: m}
	w.group, w.ctx = errgroup.WithContext(ctx)
	w.group.SetLimit(m.opt.Workers)
	w.links.made = map[inode]made{}
	return w
}

// run walks the whole trees, and drops root.
func (w *walk) run(root *cursor) error {
	w.group.Go(func() error { return w.dir(root) })
	return w.group.Wait()
}

// do runs fn now, or while the caller goes on.
func (w *walk) do(fn func() error) error {
	if w.group.TryGo(fn) {
		return nil
	}
	return fn()
}

// cursor is a directory that is being walked: in the trees that are compared, and in the target.
type cursor struct {
	w      *walk
	parent *cursor
	name   string
	pair   *treediff.Pair
	refs   atomic.Int32
	// borrowed says that fd and base are not the cursor's to close.
	borrowed bool

	mu sync.Mutex
	// node and fd are the directory of the target, once it is there (see enter).
	node *node
	fd   int
	// base is what lies below it in an overlay.
	base      *treediff.Dir
	baseKnown bool
}

func (c *cursor) path() string {
	if c.parent == nil {
		return ""
	}
	return joinPath(c.parent.path(), c.name)
}

func (c *cursor) hold() *cursor {
	c.refs.Add(1)
	return c
}

func (c *cursor) drop() {
	for c != nil && c.refs.Add(-1) == 0 {
		c.pair.Close()
		if !c.borrowed {
			if c.fd >= 0 {
				_ = unix.Close(c.fd) // a directory
			}
			c.base.Close()
		}
		c = c.parent
	}
}

// batchSize is how many files are copied in one go. It is small enough for a directory to keep all workers busy, and large enough for
// the hand-over to cost nothing.
const batchSize = 32

// dir applies what changed in one directory, and below it. It drops the cursor.
func (w *walk) dir(c *cursor) (err error) {
	defer c.drop()
	defer func() {
		if err != nil && w.ctx.Err() == nil && w.blamed.CompareAndSwap(false, true) {
			err = errors.WithMessagef(err, "directory /%s", c.path())
		}
	}()
	var batch []treediff.Change
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		changes := batch
		batch = nil
		c.hold()
		return w.do(func() error {
			defer c.drop()
			for i := range changes {
				if w.ctx.Err() != nil {
					return context.Cause(w.ctx)
				}
				if err := w.file(c, &changes[i]); err != nil {
					w.blamed.Store(true)
					return errors.WithMessagef(err, "/%s", joinPath(c.path(), changes[i].Name))
				}
			}
			return nil
		})
	}
	err = c.pair.Changes(w.ctx, func(ch treediff.Change) error {
		if ch.Kind != treediff.Unchanged {
			if err := c.enter(); err != nil {
				if ch.Sub != nil {
					ch.Sub.Close()
				}
				return err
			}
		}
		if ch.Sub != nil {
			return w.sub(c, &ch)
		}
		if w.linking() || ch.Kind == treediff.Delete {
			if err := w.file(c, &ch); err != nil {
				w.blamed.Store(true)
				return errors.WithMessagef(err, "/%s", joinPath(c.path(), ch.Name))
			}
			return nil
		}
		batch = append(batch, ch)
		if len(batch) == batchSize {
			return flush()
		}
		return nil
	})
	if err != nil {
		return err
	}
	return flush()
}

// sub goes into a directory of the upper tree.
func (w *walk) sub(c *cursor, ch *treediff.Change) error {
	s := &cursor{w: w, parent: c.hold(), name: ch.Name, pair: ch.Sub, fd: -1}
	s.refs.Store(1)
	if ch.Kind != treediff.Unchanged {
		if err := s.enter(); err != nil {
			s.drop()
			return err
		}
	}
	return w.do(func() error { return w.dir(s) })
}

func (w *walk) linking() bool { return w.opt.Link && !w.noLink.Load() }
