package metadata

import (
	"crypto/rand"
	"strings"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

var (
	ownBucket  = []byte("_layercache")
	storeIDKey = []byte("storeID")
)

// StoreID returns the random ID of the database, which tells what this store owns from what
// others do in places they share. The first call ever writes it, later ones only read: it is
// the same as long as the database exists. It consists of lower-case letters and digits.
func (s *Store) StoreID() (string, error) {
	s.storeID.Lock()
	defer s.storeID.Unlock()
	if s.storeID.value != "" {
		return s.storeID.value, nil
	}
	id, err := s.readStoreID()
	if err != nil {
		return "", err
	}
	if id == "" {
		fresh := strings.ToLower(rand.Text())
		if err := s.writeShared(func(t *txn) (err error) {
			id, err = t.claimStoreID(fresh)
			return err
		}); err != nil {
			return "", err
		}
	}
	s.storeID.value = id
	return id, nil
}

func (s *Store) readStoreID() (string, error) {
	var id string
	err := s.view(func(tx *bolt.Tx) error {
		if b := tx.Bucket(ownBucket); b != nil {
			id = string(b.Get(storeIDKey))
		}
		return nil
	})
	if err == nil && id != "" && !validStoreID(id) {
		return "", errors.Wrapf(ErrCorrupt, "store ID %s", quote(id))
	}
	return id, err
}

// validStoreID tells whether a store ID can be one.
func validStoreID(id string) bool {
	return id != "" && strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") == ""
}

// claimStoreID stores a new ID unless another store on the same database was faster.
func (t *txn) claimStoreID(fresh string) (string, error) {
	b, err := t.child(nil, ownBucket)
	if err != nil {
		return "", err
	}
	if id := b.Get(storeIDKey); len(id) > 0 {
		return string(id), nil
	}
	return fresh, translate(errors.WithStack(b.Put(storeIDKey, []byte(fresh))))
}
