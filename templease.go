package cache

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/log"
)

// workLease protects what a piece of work uses and makes until it is done. It has no expiry, so it does not
// end before the work does (spec LEASE-5): should the process die, the next start deletes it by its labels, and an
// embedder by the one that says it is temporary.
type workLease struct {
	m  *manager
	id string
}

// workLeases remembers which of them are in use, so that Check can tell them from those that were left.
type workLeases struct {
	mu  sync.Mutex
	ids map[string]bool
}

func (w *workLeases) add(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ids == nil {
		w.ids = map[string]bool{}
	}
	w.ids[id] = true
}

func (w *workLeases) remove(id string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.ids, id)
}

func (w *workLeases) has(id string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ids[id]
}

// leaseWork makes a lease for work on a record, in one transaction with what then, if not nil, does. The context
// that then gets is to be used for the work: backends add to the lease in it what they make.
func (m *manager) leaseWork(ctx context.Context, record string, then func(ctx context.Context) error, resources ...leases.Resource) (*workLease, error) {
	w := &workLease{m: m, id: newID()}
	l := lease{id: w.id, record: record, temporary: true, resources: resources}
	m.work.add(w.id)
	err := m.transact(ctx, func(ctx context.Context) error {
		if _, err := m.createLease(ctx, l); err != nil || then == nil {
			return err
		}
		return then(w.with(ctx))
	})
	if err != nil {
		w.end(ctx)
		return nil, err
	}
	return w, nil
}

func (w *workLease) with(ctx context.Context) context.Context { return leases.WithLease(ctx, w.id) }

// end deletes the lease. What fails is tried again by the next prune.
func (w *workLease) end(ctx context.Context) {
	if err := (undo{w.m.undoLease(w.id)}).try(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("layer cache: a temporary lease is left for the next prune")
		w.m.unfinished.add(leftovers{leases: []string{w.id}})
	}
	w.ended()
}

// ended notes that the lease is no more.
func (w *workLease) ended() { w.m.work.remove(w.id) }
