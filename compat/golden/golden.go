// Package golden describes what is in a metadata database, independent of both programs that
// write it.
package golden

import (
	"encoding/json"
	"os"

	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// Content is all of a database, and what searching it gives.
type Content struct {
	// Rows holds the stored bytes by record ID and key, empty for a cleared value.
	Rows map[string]map[string]string `json:"rows"`
	// Index holds the keys of the index in their order.
	Index []string `json:"index"`
	// External holds the external items by record ID and key.
	External map[string]map[string][]byte `json:"external"`
	// Search holds the IDs, in their order, that BuildKit finds under a prefix.
	Search map[string][]string `json:"search,omitempty"`
}

// Viewer is a database to look at.
type Viewer interface {
	View(func(*bolt.Tx) error) error
}

// Read returns the content of a database without the searches. Buckets that are not of the
// format are left out.
func Read(db Viewer) (*Content, error) {
	c := &Content{
		Rows:     map[string]map[string]string{},
		Index:    []string{},
		External: map[string]map[string][]byte{},
	}
	err := db.View(func(tx *bolt.Tx) error {
		if err := nested(tx.Bucket([]byte("_main")), func(id, key, value []byte) {
			if c.Rows[string(id)] == nil {
				c.Rows[string(id)] = map[string]string{}
			}
			if key != nil {
				c.Rows[string(id)][string(key)] = string(value)
			}
		}); err != nil {
			return err
		}
		if err := nested(tx.Bucket([]byte("_external")), func(id, key, value []byte) {
			if c.External[string(id)] == nil {
				c.External[string(id)] = map[string][]byte{}
			}
			if key != nil {
				c.External[string(id)][string(key)] = append([]byte{}, value...)
			}
		}); err != nil {
			return err
		}
		index := tx.Bucket([]byte("_index"))
		if index == nil {
			return nil
		}
		return index.ForEach(func(k, v []byte) error {
			if len(v) > 0 {
				return errors.Errorf("index entry %q has a value", k)
			}
			c.Index = append(c.Index, string(k))
			return nil
		})
	})
	return c, err
}

// nested calls fn for each bucket in top, with a nil key, and for each value in it.
func nested(top *bolt.Bucket, fn func(id, key, value []byte)) error {
	if top == nil {
		return nil
	}
	return top.ForEachBucket(func(id []byte) error {
		fn(id, nil, nil)
		return top.Bucket(id).ForEach(func(k, v []byte) error {
			fn(id, k, v)
			return nil
		})
	})
}

// Load reads a description from a file.
func Load(path string) (*Content, error) {
	dt, err := os.ReadFile(path)
	if err != nil {
		return nil, errors.WithStack(err)
	}
	c := &Content{}
	return c, errors.WithStack(json.Unmarshal(dt, c))
}

// Save writes a description to a file.
func (c *Content) Save(path string) error {
	dt, err := json.MarshalIndent(c, "", " ")
	if err != nil {
		return errors.WithStack(err)
	}
	return errors.WithStack(os.WriteFile(path, append(dt, '\n'), 0o644))
}
