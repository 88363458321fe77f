package double

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
)

// table is one kind of entry as a transaction sees it: the committed entries with the
// transaction's own changes on top. A nil change is a deletion.
type table[V any] struct {
	base    map[string]V
	changes map[string]*V
}

func (t *table[V]) get(key string) (V, bool) {
	if v, ok := t.changes[key]; ok {
		if v == nil {
			var zero V
			return zero, false
		}
		return *v, true
	}
	v, ok := t.base[key]
	return v, ok
}

func (t *table[V]) put(key string, v V) { t.changes[key] = &v }

func (t *table[V]) del(key string) { t.changes[key] = nil }

// keys returns the keys in order, as bbolt would.
func (t *table[V]) keys() []string {
	var keys []string
	for key := range t.base {
		if _, changed := t.changes[key]; !changed {
			keys = append(keys, key)
		}
	}
	for key, v := range t.changes {
		if v != nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

func (t *table[V]) commit() {
	for key, v := range t.changes {
		if v == nil {
			delete(t.base, key)
		} else {
			t.base[key] = *v
		}
	}
}

// tx is a transaction on the upper layer.
type tx struct {
	b        *Backend
	writable bool
	leases   table[lease]
	snaps    table[snap]
	blobs    table[blob]
	ingests  table[ingest]
	serial   uint64
	made     []string // backend keys of snapshots that go if the transaction fails
}

// backendKey makes a key for a snapshot. The number is taken back if the transaction fails, so the same key may
// be made again although the lower layer knows it.
func (tx *tx) backendKey(name string) string {
	tx.serial++
	return fmt.Sprintf("%d/%s", tx.serial, name)
}

func (b *Backend) begin(writable bool) *tx {
	return &tx{
		b:        b,
		writable: writable,
		leases:   table[lease]{b.mu.leases, map[string]*lease{}},
		snaps:    table[snap]{b.mu.snaps, map[string]*snap{}},
		blobs:    table[blob]{b.mu.blobs, map[string]*blob{}},
		ingests:  table[ingest]{b.mu.ingests, map[string]*ingest{}},
		serial:   b.mu.serial,
	}
}

type txKey struct{}

// fromContext returns the transaction that a context carries, if it is one of this backend.
func (b *Backend) fromContext(ctx context.Context) *tx {
	if t, ok := ctx.Value(txKey{}).(*tx); ok && t.b == b {
		return t
	}
	return nil
}

// view runs fn on the context's transaction, or on the committed entries, which then do not
// change meanwhile. fn must not call the backend.
func (b *Backend) view(ctx context.Context, fn func(*tx) error) error {
	b.mu.RLock()
	defer b.mu.RUnlock()
	if t := b.fromContext(ctx); t != nil {
		return fn(t)
	}
	return fn(b.begin(false))
}

// update runs fn in the context's transaction, or in one of its own.
func (b *Backend) update(ctx context.Context, fn func(*tx) error) error {
	if t := b.fromContext(ctx); t != nil {
		if !t.writable {
			return errors.Wrap(errdefs.ErrFailedPrecondition, "transaction has ended")
		}
		return fn(t)
	}
	b.writer.Lock()
	defer b.writer.Unlock()
	return b.transact(fn)
}

// transact is update for who holds writer already.
func (b *Backend) transact(fn func(*tx) error) error {
	t := b.begin(true)
	err := fn(t)
	t.writable = false
	if err != nil {
		for _, key := range slices.Backward(t.made) {
			_ = b.disk.drop(key) // what stays is garbage
		}
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t.leases.commit()
	t.snaps.commit()
	t.blobs.commit()
	t.ingests.commit()
	b.mu.serial = t.serial
	return nil
}

// Update runs fn in one transaction, which travels in fn's context: lease, snapshot and content
// calls with that context join it and are committed together if fn returns nil. What the calls did
// to snapshots and blobs themselves is not undone if it fails. A transaction inside another
// one is part of it. As with bbolt, fn must not use its context from several goroutines at once.
func (b *Backend) Update(ctx context.Context, fn func(ctx context.Context) error) error {
	return b.update(ctx, func(t *tx) error {
		return fn(context.WithValue(ctx, txKey{}, t))
	})
}

func notFound(kind, id string) error {
	return errors.Wrapf(errdefs.ErrNotFound, "%s %q", kind, id)
}

func alreadyExists(kind, id string) error {
	return errors.Wrapf(errdefs.ErrAlreadyExists, "%s %q", kind, id)
}

// setLabels applies an update of labels the way containerd does: all of them or just the given
// paths, where the empty value removes a label.
func setLabels(old, asked map[string]string, fieldpaths []string) (map[string]string, error) {
	next := maps.Clone(old)
	if len(fieldpaths) == 0 {
		next = maps.Clone(asked)
	}
	for _, path := range fieldpaths {
		name, one := cutLabel(path)
		switch {
		case one:
			if next == nil {
				next = map[string]string{}
			}
			next[name] = asked[name]
		case path == "labels":
			next = maps.Clone(asked)
		default:
			return nil, errors.Wrapf(errdefs.ErrInvalidArgument, "field %q cannot be updated", path)
		}
	}
	return cleanLabels(next)
}
