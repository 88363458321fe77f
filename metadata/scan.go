package metadata

import (
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// RowView is a record within a read transaction. It is valid only during the call that got it.
type RowView struct {
	b *bolt.Bucket
}

// Each calls fn for each value of the record in byte order of the keys; cleared values are left
// out. key and value alias the database: they must neither be kept nor changed. It stops at
// the first error and returns it. A value that is not an envelope is ErrCorrupt.
func (r RowView) Each(fn func(key []byte, value RawValue) error) error {
	if fn == nil {
		return errNoCallback()
	}
	if r.b == nil {
		return invalid("the row was not got from a store")
	}
	c := r.b.Cursor()
	for k, dt := c.First(); k != nil; k, dt = c.Next() {
		if len(dt) == 0 {
			continue
		}
		v, err := decode(dt)
		if err != nil {
			return errors.Wrapf(err, "key %s", quote(string(k)))
		}
		if err := fn(k, v); err != nil {
			return err
		}
	}
	return nil
}

// Scan calls fn for every record in byte order of the IDs, all in one read transaction. id
// and row are valid only during the call. It stops at the first error and returns it. fn must
// not call the store.
func (s *Store) Scan(fn func(id []byte, row RowView) error) error {
	return s.view(func(tx *bolt.Tx) error {
		if fn == nil {
			return errNoCallback()
		}
		main := tx.Bucket(mainBucket)
		if main == nil {
			return nil
		}
		return main.ForEachBucket(func(id []byte) error {
			b := main.Bucket(id)
			if b == nil {
				return errors.Wrapf(ErrCorrupt, "record %s is listed but not found", quote(string(id)))
			}
			return fn(id, RowView{b})
		})
	})
}

// ReadRow calls fn for one record, within a read transaction. An unknown ID is
// errdefs.ErrNotFound.
func (s *Store) ReadRow(id string, fn func(RowView) error) error {
	return s.View(id, func(b *bolt.Bucket) error {
		if fn == nil {
			return errNoCallback()
		}
		return fn(RowView{b})
	})
}
