package metadata

import (
	"bytes"
	"context"
	"slices"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// IndexFault is a place where the index and the records disagree.
type IndexFault struct {
	// Record is the ID of the record; empty for an entry that names none.
	Record string
	// Entry is the key in the index bucket: the index, "::" and the record's ID.
	Entry string
	// Missing says that a value names the index and the entry is not there. Otherwise the entry
	// is there and no value names it.
	Missing bool
}

// CheckIndexes compares the index with the values of all records, in one read transaction, and
// returns where they disagree, in byte order of the entries. It takes memory in proportion to
// the number of indexed values. A value that cannot be decoded is ErrCorrupt.
func (s *Store) CheckIndexes(ctx context.Context) ([]IndexFault, error) {
	var faults []IndexFault
	err := s.view(func(tx *bolt.Tx) (err error) {
		faults, err = indexFaults(ctx, tx)
		return err
	})
	return faults, err
}

// RepairIndexes makes the given entries agree with the records: one that is missing is added, one
// that no value names is removed. The records decide, at the time of the call; an entry that is right
// by then is left alone. It returns what it changed, which happens in one transaction.
func (s *Store) RepairIndexes(ctx context.Context, entries ...string) ([]IndexFault, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	wanted := make(map[string]bool, len(entries))
	for _, e := range entries {
		wanted[e] = true
	}
	faults, err := s.CheckIndexes(ctx) // most calls have nothing to write, and need not wait for the writer
	if err != nil || !slices.ContainsFunc(faults, func(f IndexFault) bool { return wanted[f.Entry] }) {
		return nil, err
	}
	var repaired []IndexFault
	err = s.writeShared(func(t *txn) error {
		repaired = nil
		faults, err := indexFaults(ctx, t.tx)
		if err != nil {
			return err
		}
		for _, f := range faults {
			if !wanted[f.Entry] {
				continue
			}
			if err := f.repair(t.tx); err != nil {
				return translate(errors.Wrapf(err, "index entry %s", quote(f.Entry)))
			}
			repaired = append(repaired, f)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return repaired, nil
}

func (f IndexFault) repair(tx *bolt.Tx) error {
	if !f.Missing {
		return tx.Bucket(indexBucket).Delete([]byte(f.Entry))
	}
	entries, err := tx.CreateBucketIfNotExists(indexBucket)
	if err != nil {
		return err
	}
	return entries.Put([]byte(f.Entry), nil)
}

// indexFaults finds the faults within a transaction.
func indexFaults(ctx context.Context, tx *bolt.Tx) ([]IndexFault, error) {
	named, err := namedEntries(ctx, tx)
	if err != nil {
		return nil, err
	}
	var faults []IndexFault
	if entries := tx.Bucket(indexBucket); entries != nil {
		c := entries.Cursor()
		for k, _ := c.First(); k != nil; k, _ = c.Next() {
			if err := context.Cause(ctx); err != nil {
				return nil, err
			}
			entry := string(k)
			if _, ok := named[entry]; ok {
				delete(named, entry)
				continue
			}
			f := IndexFault{Entry: entry}
			if at := bytes.LastIndex(k, []byte(indexSep)); at >= 0 {
				f.Record = entry[at+len(indexSep):]
			}
			faults = append(faults, f)
		}
	}
	for entry, id := range named {
		faults = append(faults, IndexFault{Record: id, Entry: entry, Missing: true})
	}
	slices.SortFunc(faults, func(a, b IndexFault) int { return bytes.Compare([]byte(a.Entry), []byte(b.Entry)) })
	return faults, nil
}

// namedEntries returns the entries that the values of all records ask for, with the records.
func namedEntries(ctx context.Context, tx *bolt.Tx) (map[string]string, error) {
	named := map[string]string{}
	main := tx.Bucket(mainBucket)
	if main == nil {
		return named, nil
	}
	err := main.ForEachBucket(func(name []byte) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		id := string(name)
		return errors.WithMessagef(RowView{main.Bucket(name)}.Each(func(_ []byte, v RawValue) error {
			if len(v.index) > 0 {
				named[string(indexKey(v.Index(), id))] = id
			}
			return nil
		}), "record %s", quote(id))
	})
	return named, err
}
