package metadata

import (
	"bytes"
	"encoding/json"
	stderrors "errors"
	"os"
	"time"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// salvageBatch is the number of bytes after which a transaction is committed, since bbolt keeps
// all of one in memory.
const salvageBatch = 8 << 20

// salvageWriter fills a new database. Nobody sees the file before it is complete, so it is
// synced once, at the end.
type salvageWriter struct {
	db   *bolt.DB
	tx   *bolt.Tx
	size int // of what the transaction has written
}

// newSalvageWriter makes a database. The file must not exist.
func newSalvageWriter(name string) (*salvageWriter, error) {
	db, err := bolt.Open(name, 0o600, &bolt.Options{
		FreelistType: bolt.FreelistMapType,
		NoSync:       true,
		NoGrowSync:   true,
		Timeout:      time.Nanosecond,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			return os.OpenFile(name, flag|os.O_EXCL, mode)
		},
	})
	if err != nil {
		return nil, errors.Wrap(translateOpen(err), "making a new file")
	}
	w := &salvageWriter{db: db}
	if w.tx, err = db.Begin(true); err != nil {
		return nil, errors.WithStack(stderrors.Join(err, db.Close()))
	}
	return w, nil
}

// finish writes what is left, to the disk too.
func (w *salvageWriter) finish() error {
	err := w.tx.Commit()
	w.tx = nil
	if err == nil {
		err = w.db.Sync()
	}
	return errors.Wrap(err, "writing the new file")
}

// close closes the database, whose file is of no use unless finish was called before.
func (w *salvageWriter) close() error {
	var err error
	if w.tx != nil {
		err = w.tx.Rollback()
	}
	return errors.WithStack(stderrors.Join(err, w.db.Close()))
}

// has tells whether a record was moved.
func (w *salvageWriter) has(id string) bool { return rowBucket(w.tx, id) != nil }

// row adds a record and the index entries that its values name.
func (w *salvageWriter) row(id string, c *content, indexes []string) error {
	entries, err := w.tx.CreateBucketIfNotExists(indexBucket)
	for i := 0; err == nil && i < len(indexes); i++ {
		err = entries.Put(indexKey(indexes[i], id), nil)
	}
	if err != nil {
		return errors.Wrapf(err, "index entries of record %s", quote(id))
	}
	return w.bucket(mainBucket, []byte(id), c)
}

// bucket adds a bucket, to a top-level one or as one itself.
func (w *salvageWriter) bucket(in, name []byte, c *content) error {
	var b *bolt.Bucket
	var err error
	if in == nil {
		b, err = w.tx.CreateBucket(name)
	} else if b, err = w.tx.CreateBucketIfNotExists(in); err == nil {
		b, err = b.CreateBucket(name)
	}
	if err == nil {
		err = w.fill(b, c)
	}
	if err != nil {
		return errors.Wrapf(err, "adding bucket %s", quote(string(name)))
	}
	if w.size < salvageBatch {
		return nil
	}
	w.size = 0
	if err := w.tx.Commit(); err != nil {
		w.tx = nil
		return errors.WithStack(err)
	}
	w.tx, err = w.db.Begin(true)
	return errors.WithStack(err)
}

func (w *salvageWriter) fill(b *bolt.Bucket, c *content) error {
	if err := b.SetSequence(c.sequence); err != nil {
		return err
	}
	for _, e := range c.elems {
		w.size += len(e.key) + len(e.value)
		if e.bucket == nil {
			if err := b.Put(e.key, e.value); err != nil {
				return err
			}
			continue
		}
		sub, err := b.CreateBucket(e.key)
		if err != nil {
			return err
		}
		if err := w.fill(sub, e.bucket); err != nil {
			return err
		}
	}
	return nil
}

// decodeStrict takes an envelope apart that has the two members there are, or one of them. A
// third one may be what damage made of these.
func decodeStrict(dt []byte) (RawValue, error) {
	if v, ok := decodeFast(dt); ok {
		return v, nil
	}
	var v Value
	d := json.NewDecoder(bytes.NewReader(dt))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return RawValue{}, errors.WithStack(err)
	}
	return decode(dt)
}

// storable tells whether bbolt takes a key.
func storable(key []byte) bool { return len(key) > 0 && len(key) <= bolt.MaxKeySize }

// rowInOrder tells whether the values of a record can be read, and returns the indexes they name.
func rowInOrder(id string, c *content) (indexes []string, ok bool) {
	if c == nil || !storable([]byte(id)) {
		return nil, false
	}
	for _, e := range c.elems {
		if e.bucket != nil || len(e.value) == 0 {
			continue
		}
		v, err := decodeStrict(e.value)
		if err != nil || !storable(indexKey(v.Index(), id)) {
			return nil, false
		}
		if len(v.index) > 0 {
			indexes = append(indexes, v.Index())
		}
	}
	return indexes, true
}
