package metadata

import (
	"bytes"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// txn is a write transaction of the store. It holds the rules of the schema: what goes along
// with a change of a record.
type txn struct {
	s         *Store
	tx        *bolt.Tx
	committed []func()
}

// afterCommit registers what follows from a change once it is durable.
func (t *txn) afterCommit(fn func()) { t.committed = append(t.committed, fn) }

// child returns the bucket below parent, or below the root, and makes it if it is missing.
func (t *txn) child(parent *bolt.Bucket, name []byte) (b *bolt.Bucket, err error) {
	if parent == nil {
		b, err = t.tx.CreateBucketIfNotExists(name)
	} else {
		b, err = parent.CreateBucketIfNotExists(name)
	}
	return b, translate(errors.WithStack(err))
}

// existing returns the bucket of a record, with what Later left pending for it written in.
func (t *txn) existing(id string) (*bolt.Bucket, error) {
	b := rowBucket(t.tx, id)
	if b == nil {
		return nil, notFound(id)
	}
	return b, t.fold(id, b)
}

// create makes the bucket of a record that does not exist.
func (t *txn) create(id string) (*bolt.Bucket, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if rowBucket(t.tx, id) != nil {
		return nil, errors.Wrapf(errdefs.ErrAlreadyExists, "record %s", quote(id))
	}
	main, err := t.child(nil, mainBucket)
	if err != nil {
		return nil, err
	}
	b, err := t.child(main, []byte(id))
	if err != nil {
		return nil, err
	}
	t.afterCommit(func() { t.s.lives.created(id) })
	return b, nil
}

// fold writes the pending values of a record, so that every write of it comes after them.
func (t *txn) fold(id string, b *bolt.Bucket) error {
	values, seq := t.s.later.pending(id)
	if len(values) == 0 {
		return nil
	}
	for _, v := range values {
		if err := setValue(t.tx, b, id, v.key, v.envelope(), ""); err != nil {
			return err
		}
	}
	t.afterCommit(func() { t.s.later.written(id, seq) })
	return nil
}

// setValue stores an envelope, or nothing for a nil one, under a key of a record and moves the
// index entry from what the value that was there named to index.
func setValue(tx *bolt.Tx, b *bolt.Bucket, id, key string, dt []byte, index string) error {
	old := b.Get([]byte(key))
	var oldIndex string
	if len(old) > 0 {
		// A value that cannot be decoded has no index that could be known, and is replaced.
		v, _ := decode(old)
		oldIndex = v.Index()
	}
	if !bytes.Equal(old, dt) {
		if err := b.Put([]byte(key), dt); err != nil {
			return translate(errors.Wrapf(err, "key %s", quote(key)))
		}
	}
	if oldIndex != "" && oldIndex != index && !namesIndex(b, oldIndex) {
		if err := deleteIndex(tx, oldIndex, id); err != nil {
			return err
		}
	}
	if index == "" {
		return nil
	}
	entries, err := tx.CreateBucketIfNotExists(indexBucket)
	if err != nil {
		return translate(errors.WithStack(err))
	}
	if entries.Get(indexKey(index, id)) != nil {
		return nil
	}
	return translate(errors.Wrapf(entries.Put(indexKey(index, id), nil), "index %s", quote(index)))
}

// namesIndex tells whether a value of the record is found under index.
func namesIndex(b *bolt.Bucket, index string) bool {
	c := b.Cursor()
	for k, dt := c.First(); k != nil; k, dt = c.Next() {
		if len(dt) == 0 {
			continue
		}
		if v, err := decode(dt); err == nil && string(v.index) == index {
			return true
		}
	}
	return false
}

// deleteIndex removes an entry, if it is there.
func deleteIndex(tx *bolt.Tx, index, id string) error {
	entries := tx.Bucket(indexBucket)
	if entries == nil {
		return nil
	}
	return translate(errors.WithStack(entries.Delete(indexKey(index, id))))
}

// setExternal stores bytes outside the record's bucket.
func (t *txn) setExternal(id, key string, dt []byte) error {
	if err := checkKey(key); err != nil {
		return err
	}
	external, err := t.child(nil, externalBucket)
	if err != nil {
		return err
	}
	b, err := t.child(external, []byte(id))
	if err != nil {
		return err
	}
	if old := b.Get([]byte(key)); old != nil && bytes.Equal(old, dt) {
		return nil
	}
	return translate(errors.Wrapf(b.Put([]byte(key), dt), "external item %s", quote(key)))
}

// remove deletes everything that belongs to a record, in so far as it is there.
func (t *txn) remove(id string) error {
	name := []byte(id)
	if external := t.tx.Bucket(externalBucket); external != nil && external.Bucket(name) != nil {
		if err := external.DeleteBucket(name); err != nil {
			return translate(errors.WithStack(err))
		}
	}
	b := rowBucket(t.tx, id)
	if b == nil {
		return nil
	}
	for _, index := range rowIndexes(b) {
		if err := deleteIndex(t.tx, index, id); err != nil {
			return err
		}
	}
	if err := t.tx.Bucket(mainBucket).DeleteBucket(name); err != nil {
		return translate(errors.WithStack(err))
	}
	t.afterCommit(func() {
		t.s.lives.ended(id)
		t.s.later.dropped(id)
	})
	return nil
}

// rowIndexes returns the indexes that the values of a record name, in the order of the keys.
func rowIndexes(b *bolt.Bucket) []string {
	var out []string
	c := b.Cursor()
	for k, dt := c.First(); k != nil; k, dt = c.Next() {
		if len(dt) == 0 {
			continue
		}
		if v, err := decode(dt); err == nil && len(v.index) > 0 {
			out = append(out, v.Index())
		}
	}
	return out
}
