package metadata

import (
	"slices"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// Write runs fn's changes in one transaction, shared with callers that write at the same time.
// When it returns nil the changes are durable; when it returns an error there are none, and
// an error of one caller does not touch the writes of another. If fn changes nothing, nothing
// is written.
//
// fn may run more than once, and on another caller's goroutine, so it should do nothing but
// call w. It must not keep w nor call the store.
func (s *Store) Write(fn func(w *Writer) error) error {
	if fn == nil {
		return errNoCallback()
	}
	return s.writeShared(func(t *txn) error {
		w := &Writer{t: t}
		defer func() { w.t = nil }()
		if err := fn(w); err != nil {
			return err
		}
		return w.err
	})
}

// Writer makes changes within a transaction. It is valid only in the callback of Write. If one
// of its methods fails for another reason than its arguments or the state of a record, Write
// fails, whatever the callback returns.
type Writer struct {
	t   *txn
	err error
}

var errWriterKept = errors.Wrap(errdefs.ErrFailedPrecondition, "metadata writer is used after its transaction")

// note keeps the errors after which the transaction must not be committed.
func (w *Writer) note(err error) error {
	if err != nil && w.err == nil && !errdefs.IsInvalidArgument(err) &&
		!errdefs.IsNotFound(err) && !errdefs.IsAlreadyExists(err) {
		w.err = err
	}
	return err
}

// Create makes a record without values. It is errdefs.ErrAlreadyExists if there is one.
func (w *Writer) Create(id string) (*RowWriter, error) {
	if w.t == nil {
		return nil, errWriterKept
	}
	b, err := w.t.create(id)
	if err != nil {
		return nil, w.note(err)
	}
	return &RowWriter{w: w, id: id, b: b}, nil
}

// Row returns the record of an ID, errdefs.ErrNotFound if there is none.
func (w *Writer) Row(id string) (*RowWriter, error) {
	if w.t == nil {
		return nil, errWriterKept
	}
	b, err := w.t.existing(id)
	if err != nil {
		return nil, w.note(err)
	}
	return &RowWriter{w: w, id: id, b: b}, nil
}

// Remove deletes a record with its index entries and external items. Removing an unknown
// record succeeds. RowWriters of the record fail with ErrRecordRemoved afterwards.
func (w *Writer) Remove(id string) error {
	if w.t == nil {
		return errWriterKept
	}
	return w.note(w.t.remove(id))
}

// RowWriter changes one record. It is valid as long as its Writer.
type RowWriter struct {
	w  *Writer
	id string
	b  *bolt.Bucket
}

// open refuses a writer that was kept, or whose record was removed in the same transaction.
func (r *RowWriter) open() error {
	if r.w.t == nil {
		return errWriterKept
	}
	if rowBucket(r.w.t.tx, r.id) != r.b { // a transaction has one bucket value for a bucket
		return errors.Wrapf(ErrRecordRemoved, "record %s", quote(r.id))
	}
	return nil
}

// ID returns the ID of the record.
func (r *RowWriter) ID() string { return r.id }

// Set stores the JSON of value under key and lets Search find the record under index, which
// may be empty. It replaces the value that was there together with its index.
func (r *RowWriter) Set(key string, value any, index string) error {
	dt, err := marshal(value)
	if err != nil {
		return err
	}
	if dt, err = envelope(dt, index); err != nil {
		return err
	}
	return r.put(key, dt, index)
}

// SetRaw stores a value that the caller assembled.
func (r *RowWriter) SetRaw(key string, env Value) error {
	dt, err := rawEnvelope(&env)
	if err != nil {
		return err
	}
	return r.put(key, dt, env.Index)
}

// AppendSet adds those of values to a stored array of strings that are not in it, in their
// order, and writes nothing if all are. What is stored in another type counts as empty. An
// index of the value is kept.
func (r *RowWriter) AppendSet(key string, values ...string) error {
	var set []string
	var index string
	if v := r.Get(key); v != nil {
		index = v.Index
		if v.Unmarshal(&set) != nil {
			set = nil
		}
	}
	had := len(set)
	for _, value := range values {
		if !slices.Contains(set, value) {
			set = append(set, value)
		}
	}
	if len(set) == had {
		return r.open()
	}
	return r.Set(key, set, index)
}

// Clear takes the value away, and its index entry unless another value of the record names it.
func (r *RowWriter) Clear(key string) error { return r.put(key, nil, "") }

func (r *RowWriter) put(key string, dt []byte, index string) error {
	if err := r.open(); err != nil {
		return err
	}
	if err := checkPut(r.id, key, index); err != nil {
		return err
	}
	return r.w.note(setValue(r.w.t.tx, r.b, r.id, key, dt, index))
}

func checkPut(id, key, index string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	return checkIndex(index, id)
}

// Get returns a copy of the value, nil if there is none or if it cannot be decoded.
func (r *RowWriter) Get(key string) *Value {
	if r.open() != nil {
		return nil
	}
	return storedValue(r.b, key)
}

// SetExternal stores bytes that are not loaded with the record.
func (r *RowWriter) SetExternal(key string, data []byte) error {
	if err := r.open(); err != nil {
		return err
	}
	return r.w.note(r.w.t.setExternal(r.id, key, data))
}

// ClearIndex removes an index entry of the record even if a value names it.
func (r *RowWriter) ClearIndex(index string) error {
	if err := r.open(); err != nil {
		return err
	}
	return r.w.note(deleteIndex(r.w.t.tx, index, r.id))
}

// storedValue returns a copy of a value of a record, nil if there is none.
func storedValue(b *bolt.Bucket, key string) *Value {
	dt := b.Get([]byte(key))
	if len(dt) == 0 {
		return nil
	}
	v, err := decode(dt)
	if err != nil {
		return nil
	}
	return v.value()
}
