package testutil

import (
	"context"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache"
)

// Backend makes what caches under test are made of, in place of package local: a daemon's parts, say.
type Backend interface {
	// Open opens the parts of a cache whose records are in dir, on the snapshotter of that name, which is local.Native or
	// local.Overlayfs. The same directory gets the same parts, with what is in them, until Clear. End closes what was opened, and is
	// called whether or not a manager on the parts was closed. A directory or snapshotter that the backend cannot
	// serve is errdefs' not implemented, which skips the test.
	Open(ctx context.Context, dir, snapshotter string) (opt cache.ManagerOpt, end func() error, err error)
	// Clear removes what the caches in dir have left, when a test ends and they are closed.
	Clear(t testing.TB, dir string)
}

// backend is what UseBackend set.
var backend Backend

// UseBackend has New put caches that are not on doubles on b from now on. It is for the init function of a test binary that runs a
// suite on another backend: see containerd/daemon, which adds a file to this module's tests for that.
func UseBackend(b Backend) { backend = b }

// Local tells whether the cache is package local's, or on doubles, with all that it has in Dir; else it is on a Backend.
func (e *Env) Local() bool { return backend == nil || e.cfg.doubles }

// openBackend opens the parts on the backend.
func (e *Env) openBackend(ctx context.Context) (opt cache.ManagerOpt, err error) {
	opt, e.end, err = backend.Open(ctx, e.Dir, e.cfg.snapshotter)
	if errdefs.IsNotImplemented(err) {
		e.t.Skipf("not on this backend: %v", err)
	}
	if err != nil {
		return opt, err
	}
	e.collect = opt.GarbageCollect
	return opt, errors.Wrap(opt.MetadataStore.Close(), "closing the records, which are opened anew by hand")
}
