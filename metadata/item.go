package metadata

import (
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// StorageItem is a view of one record. It holds no values: reads show what was committed last,
// by whomever, and what Later has pending. The items of a record share its fate: once it is
// removed their writes fail with ErrRecordRemoved. It is safe for concurrent use.
type StorageItem struct {
	id      string
	storage *Store
	life    *life

	mu    sync.Mutex // guards queue and orders the commits of it
	queue []func(*bolt.Bucket) error
}

func (s *Store) item(id string, exists bool) *StorageItem {
	it := &StorageItem{id: id, storage: s, life: s.lives.get(id)}
	if exists {
		it.life.existed.Store(true)
	}
	return it
}

// Storage returns the store of the item.
func (i *StorageItem) Storage() *Store { return i.storage }

// ID returns the ID of the record.
func (i *StorageItem) ID() string { return i.id }

// Metadata returns the item itself, for types that embed it.
func (i *StorageItem) Metadata() *StorageItem { return i }

// row returns the bucket to write to. Only a record that has never existed is created.
func (i *StorageItem) row(t *txn) (*bolt.Bucket, error) {
	if i.life.removed.Load() {
		return nil, errors.Wrapf(ErrRecordRemoved, "record %s", quote(i.id))
	}
	if b := rowBucket(t.tx, i.id); b != nil {
		return b, t.fold(i.id, b)
	}
	if i.life.existed.Load() {
		return nil, errors.Wrapf(ErrRecordRemoved, "record %s", quote(i.id))
	}
	return t.create(i.id)
}

// Update runs fn on the record's bucket within a write transaction of its own. The record is
// created if it has never existed. What fn changes other than through SetValue does not
// maintain the index.
func (i *StorageItem) Update(fn func(*bolt.Bucket) error) error {
	return i.storage.writeAlone(func(t *txn) error {
		b, err := i.row(t)
		if err != nil {
			return err
		}
		if fn == nil {
			return errNoCallback()
		}
		return fn(b)
	})
}

// read runs fn on the record's bucket, or not at all if there is none.
func (i *StorageItem) read(fn func(*bolt.Bucket)) {
	if i.life.removed.Load() {
		return
	}
	// Readers of metadata have no error to return: what cannot be read is not there.
	_ = i.storage.view(func(tx *bolt.Tx) error {
		if b := rowBucket(tx, i.id); b != nil {
			fn(b)
		}
		return nil
	})
}

// Keys returns the keys that have a value, in byte order.
func (i *StorageItem) Keys() []string {
	var keys []string
	pending, _ := i.storage.later.pending(i.id)
	i.read(func(b *bolt.Bucket) {
		c := b.Cursor()
		for k, dt := c.First(); k != nil; k, dt = c.Next() {
			if len(dt) > 0 {
				keys = append(keys, string(k))
			}
		}
		for _, v := range pending {
			if len(b.Get([]byte(v.key))) == 0 {
				keys = append(keys, v.key)
			}
		}
	})
	slices.Sort(keys)
	return keys
}

// Get returns a copy of the value, nil if there is none or if it cannot be read.
func (i *StorageItem) Get(key string) *Value {
	var v *Value
	// Looked up before the database: what is no longer pending by then is committed.
	dt := i.storage.later.value(i.id, key)
	i.read(func(b *bolt.Bucket) {
		if dt == nil {
			v = storedValue(b, key)
		} else if raw, err := decode(dt); err == nil {
			v = raw.value()
		}
	})
	return v
}

// Indexes returns the indexes that values of the record name, in the order of their keys.
func (i *StorageItem) Indexes() []string {
	var out []string
	i.read(func(b *bolt.Bucket) { out = rowIndexes(b) })
	return out
}

// GetExternal returns a copy of what SetExternal stored, errdefs.ErrNotFound if nothing is.
func (i *StorageItem) GetExternal(key string) ([]byte, error) {
	var out []byte
	err := i.storage.view(func(tx *bolt.Tx) error {
		if external := tx.Bucket(externalBucket); external != nil && !i.life.removed.Load() {
			if b := external.Bucket([]byte(i.id)); b != nil {
				if dt := b.Get([]byte(key)); dt != nil {
					out = append([]byte{}, dt...)
					return nil
				}
			}
		}
		return errors.Wrapf(errdefs.ErrNotFound, "external item %s of record %s", quote(key), quote(i.id))
	})
	return out, err
}

// SetExternal stores bytes beside the record, which go when it is removed. The record is
// created if it has never existed.
func (i *StorageItem) SetExternal(key string, dt []byte) error {
	return i.storage.writeShared(func(t *txn) error {
		if _, err := i.row(t); err != nil {
			return err
		}
		return t.setExternal(i.id, key, dt)
	})
}

// Queue collects a change for Commit.
func (i *StorageItem) Queue(fn func(*bolt.Bucket) error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.queue = append(i.queue, fn)
}

// Commit runs the queued changes in their order in one transaction. If it fails the queue is
// as it was, and nothing has changed. An empty queue writes nothing.
func (i *StorageItem) Commit() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(i.queue) == 0 {
		return nil
	}
	if err := i.Update(func(b *bolt.Bucket) error {
		for _, fn := range i.queue {
			if fn == nil {
				return errNoCallback()
			}
			if err := fn(b); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	i.queue = nil
	return nil
}

// SetValue stores v under a key of the record, nil for no value, and keeps the index in step.
// b is the bucket that Update or a queued change was called with.
func (i *StorageItem) SetValue(b *bolt.Bucket, key string, v *Value) error {
	if b == nil {
		return invalid("no bucket to set key %s in", quote(key))
	}
	dt, err := rawEnvelope(v)
	if err != nil {
		return err
	}
	var index string
	if v != nil {
		index = v.Index
	}
	if err := checkID(i.id); err != nil {
		return err
	}
	if err := checkPut(i.id, key, index); err != nil {
		return err
	}
	return setValue(b.Tx(), b, i.id, key, dt, index)
}

// ClearIndex removes an index entry of the record even if a value names it. tx is the
// transaction of the bucket that Update or a queued change was called with.
func (i *StorageItem) ClearIndex(tx *bolt.Tx, index string) error {
	if tx == nil {
		return invalid("no transaction to clear index %s in", quote(index))
	}
	return deleteIndex(tx, index, i.id)
}

// GetAndSetValue replaces a value by what fn makes of it, nil for none in either direction, in
// one transaction of its own. If fn returns ErrSkipSetValue nothing changes and the result is
// nil; any other error is returned. The record is created if it has never existed.
func (i *StorageItem) GetAndSetValue(key string, fn func(*Value) (*Value, error)) error {
	return i.storage.writeAlone(func(t *txn) error {
		if fn == nil {
			return errNoCallback()
		}
		var old *Value
		if b := rowBucket(t.tx, i.id); b != nil && !i.life.removed.Load() {
			if err := t.fold(i.id, b); err != nil {
				return err
			}
			old = storedValue(b, key)
		}
		v, err := fn(old)
		if errors.Is(err, ErrSkipSetValue) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := i.row(t)
		if err != nil {
			return err
		}
		return i.SetValue(b, key, v)
	})
}
