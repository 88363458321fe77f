package snapshot

import (
	"context"
	"crypto/rand"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/pkg/errors"
)

// leaseTemporary is the label by which BuildKit and this module know leases that a dead process left.
const leaseTemporary = "buildkit/lease.temporary"

// mergeWork are the snapshots that a merge needs for its own time.
type mergeWork struct {
	sn    *mergeSnapshotter
	lease leases.Lease
	// own says that the lease is the merge's.
	own bool
	// keys are the snapshots that have to go.
	keys []string
}

// begin returns the context to work with, which has a lease: the caller's, or a temporary one (spec MRG-4).
func (sn *mergeSnapshotter) begin(ctx context.Context) (context.Context, *mergeWork, error) {
	w := &mergeWork{sn: sn}
	if id, ok := leases.FromContext(ctx); ok || sn.lm == nil {
		w.lease.ID = id
		return ctx, w, nil
	}
	var err error
	w.lease, err = sn.lm.Create(ctx, leases.WithID(rand.Text()), leases.WithLabel(leaseTemporary, time.Now().UTC().Format(time.RFC3339Nano)))
	if err != nil {
		return nil, nil, errors.Wrap(err, "creating a lease for the time of a merge")
	}
	w.own = true
	return leases.WithLease(ctx, w.lease.ID), w, nil
}

// newKey returns the key for a snapshot that end will remove, whether it comes to exist or not.
func (w *mergeWork) newKey() string {
	key := "merge-" + rand.Text()
	w.keys = append(w.keys, key)
	return key
}

// committed notes that a snapshot is no more, as it has become another.
func (w *mergeWork) committed(key string) {
	for i, k := range w.keys {
		if k == key {
			w.keys = append(w.keys[:i], w.keys[i+1:]...)
			return
		}
	}
}

// remove removes a snapshot. Where that is for garbage collection alone, it is taken off the caller's lease; off one of our own
// it goes with the lease.
func (w *mergeWork) remove(ctx context.Context, key string) {
	ctx = context.WithoutCancel(ctx)
	w.committed(key)
	err := w.sn.Snapshotter.Remove(ctx, key)
	if err != nil && !w.own && w.lease.ID != "" && w.sn.lm != nil && !errdefs.IsNotFound(err) {
		err = w.sn.lm.DeleteResource(ctx, w.lease, leases.Resource{ID: key, Type: "snapshots/" + w.sn.Name()})
	}
	switch {
	case err == nil, errdefs.IsNotFound(err):
	case w.own && errdefs.IsPermissionDenied(err):
	default:
		log.G(ctx).WithError(err).Warnf("snapshot: %s of a merge could not be removed", key)
	}
}

// end removes what is left, whatever became of the context.
func (w *mergeWork) end(ctx context.Context) {
	for len(w.keys) > 0 {
		w.remove(ctx, w.keys[len(w.keys)-1])
	}
	if !w.own {
		return
	}
	if err := w.sn.lm.Delete(context.WithoutCancel(ctx), w.lease); err != nil && !errdefs.IsNotFound(err) {
		log.G(ctx).WithError(err).Warnf("snapshot: lease %s of a merge could not be deleted", w.lease.ID)
	}
}
