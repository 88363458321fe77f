package metadata

import (
	"bytes"
	"context"
	stderrors "errors"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/containerd/log"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// DB is the database a store works on. *bolt.DB and BuildKit's compacting wrapper are ones.
type DB interface {
	io.Closer
	Transactor
}

// Transactor runs transactions. The transaction is valid only during the callback.
type Transactor interface {
	// View runs fn in a read transaction.
	View(fn func(*bolt.Tx) error) error
	// Update runs fn in a write transaction and commits it when fn returns nil.
	Update(fn func(*bolt.Tx) error) error
}

var (
	mainBucket     = []byte("_main")
	indexBucket    = []byte("_index")
	externalBucket = []byte("_external")
)

// Store keeps the records of a cache in a database. It is safe for concurrent use.
type Store struct {
	db      DB
	gate    gate
	commits commitQueue
	lives   lifeTable
	later   writeBehind
	corrupt atomic.Bool

	salvaged *SalvageReport

	storeID struct {
		sync.Mutex
		value string
	}
	closing struct {
		sync.Once
		err error
	}
}

// NewStoreWithDB returns a store on db, which it owns from now on: Close closes it. Without a
// database the store is a closed one.
func NewStoreWithDB(db DB, opts ...Option) *Store {
	o := newOptions(opts)
	if db == nil {
		db = noDB{}
	}
	s := &Store{db: db}
	s.later.interval, s.later.afterFunc = o.flushInterval, o.afterFunc
	return s
}

// noDB stands for a database that is missing.
type noDB struct{}

func (noDB) View(func(*bolt.Tx) error) error   { return errors.WithStack(ErrClosed) }
func (noDB) Update(func(*bolt.Tx) error) error { return errors.WithStack(ErrClosed) }
func (noDB) Close() error                      { return nil }

// Close waits for the calls under way, writes what Later left pending and closes the database.
// Every other call fails with ErrClosed from the moment Close is called; repeated calls wait
// for the first and return its result. The database is closed even if Close fails. It must
// not be called from within a transaction's callback.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.gate.close()
		s.later.shutdown()
		err := s.flushLater()
		s.closing.err = stderrors.Join(err, errors.Wrap(s.db.Close(), "closing the metadata database"))
	})
	return s.closing.err
}

// Salvaged returns what NewStore saved of a damaged database, nil if it was not damaged. The
// report is the caller's.
func (s *Store) Salvaged() *SalvageReport { return s.salvaged.clone() }

// DB gives access to the database below the schema. Changes that are made to records through
// it bypass the rules of this package.
func (s *Store) DB() Transactor { return s.db }

// All returns the items of all records in byte order of their IDs.
func (s *Store) All() ([]*StorageItem, error) {
	return s.items(func(tx *bolt.Tx, add func(id []byte)) error {
		main := tx.Bucket(mainBucket)
		if main == nil {
			return nil
		}
		return main.ForEachBucket(func(id []byte) error {
			add(id)
			return nil
		})
	})
}

// Probe reports whether Search(index, false) would find a record.
func (s *Store) Probe(index string) (bool, error) {
	found := false
	err := s.view(func(tx *bolt.Tx) error {
		return searchIndex(tx, index, false, func(_, id []byte) (bool, error) {
			main := tx.Bucket(mainBucket)
			found = main != nil && main.Bucket(id) != nil
			return !found, nil
		})
	})
	return found, err
}

// Search returns the records that are found under index. With prefix set it returns those with
// an index entry, which is the index, "::" and the ID, that starts with the bytes of index.
// They come in byte order of the entries, a record once for each of its entries that match.
// Entries of records that are missing are skipped and logged.
func (s *Store) Search(ctx context.Context, index string, prefix bool) ([]*StorageItem, error) {
	const named = 10 // of the orphans, in the log
	var orphans []string
	missing := 0
	items, err := s.items(func(tx *bolt.Tx, add func(id []byte)) error {
		main := tx.Bucket(mainBucket)
		if main == nil {
			return nil
		}
		orphans, missing = nil, 0
		return searchIndex(tx, index, prefix, func(key, id []byte) (bool, error) {
			if main.Bucket(id) != nil {
				add(id)
			} else if missing++; missing <= named {
				orphans = append(orphans, quote(string(key)))
			}
			return true, context.Cause(ctx)
		})
	})
	if missing > 0 {
		log.G(ctx).WithField("count", missing).WithField("entries", orphans).Warn("metadata index points to missing records")
	}
	return items, err
}

// searchIndex calls fn for each index entry that matches until it returns false. An entry
// belongs to the index before its last separator: "a::b" is not found when "a" is asked for.
func searchIndex(tx *bolt.Tx, index string, prefix bool, fn func(key, id []byte) (bool, error)) error {
	b := tx.Bucket(indexBucket)
	if b == nil {
		return nil
	}
	want := index
	if !prefix {
		want += indexSep
	}
	c := b.Cursor()
	for k, _ := c.Seek([]byte(want)); k != nil && bytes.HasPrefix(k, []byte(want)); k, _ = c.Next() {
		at := bytes.LastIndex(k, []byte(indexSep))
		if at < 0 || at+len(indexSep) == len(k) || !prefix && at != len(index) {
			continue
		}
		if more, err := fn(k, k[at+len(indexSep):]); err != nil || !more {
			return err
		}
	}
	return nil
}

// items turns the IDs that list adds within a read transaction into items.
func (s *Store) items(list func(tx *bolt.Tx, add func(id []byte)) error) ([]*StorageItem, error) {
	var out []*StorageItem
	removals := s.lives.removals.Load()
	err := s.view(func(tx *bolt.Tx) error {
		out = nil
		return list(tx, func(id []byte) { out = append(out, s.item(string(id), true)) })
	})
	if err != nil || s.lives.removals.Load() == removals {
		return out, err
	}
	// A record may have gone between the transaction and the registration of its item, which
	// then does not know of it. Those that are still there now cannot have been missed.
	kept := out[:0]
	err = s.view(func(tx *bolt.Tx) error {
		main := tx.Bucket(mainBucket)
		for _, it := range out {
			if main != nil && main.Bucket([]byte(it.id)) != nil {
				kept = append(kept, it)
			}
		}
		return nil
	})
	return kept, err
}

// Get returns the item of id and whether the record exists. An item of an ID that does not
// exist creates the record when something is written through it, provided the ID is valid.
func (s *Store) Get(id string) (*StorageItem, bool) {
	// The item is registered first: a removal after the look at the database then reaches it.
	it := s.item(id, false)
	exists := false
	if err := s.view(func(tx *bolt.Tx) error {
		exists = rowBucket(tx, id) != nil
		return nil
	}); err != nil {
		return it, false
	}
	if exists {
		it.life.existed.Store(true)
	}
	return it, exists
}

// View runs fn on the bucket of a record within a read transaction. An unknown ID is
// errdefs.ErrNotFound.
func (s *Store) View(id string, fn func(*bolt.Bucket) error) error {
	return s.view(func(tx *bolt.Tx) error {
		b := rowBucket(tx, id)
		if b == nil {
			return notFound(id)
		}
		if fn == nil {
			return errNoCallback()
		}
		return fn(b)
	})
}

// Update runs fn on the bucket of a record within a write transaction of its own. It never
// creates a record: an unknown ID is errdefs.ErrNotFound.
func (s *Store) Update(id string, fn func(*bolt.Bucket) error) error {
	return s.writeAlone(func(t *txn) error {
		b, err := t.existing(id)
		if err != nil {
			return err
		}
		if fn == nil {
			return errNoCallback()
		}
		return fn(b)
	})
}

// Clear removes a record with its index entries and external items. Removing an unknown
// record succeeds.
func (s *Store) Clear(id string) error {
	return s.Write(func(w *Writer) error { return w.Remove(id) })
}

// rowBucket returns the bucket of a record, nil if there is none.
func rowBucket(tx *bolt.Tx, id string) *bolt.Bucket {
	main := tx.Bucket(mainBucket)
	if main == nil {
		return nil
	}
	return main.Bucket([]byte(id))
}

func indexKey(index, id string) []byte {
	return []byte(strings.Join([]string{index, id}, indexSep))
}
