// Package metadata stands in for BuildKit's package of that path: its names, on the library.
package metadata

import (
	"github.com/moby/buildkit/util/db/boltutil"
	"github.com/moby/buildkit/util/db/compaction"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"

	lib "github.com/layercache/cache/metadata"
)

type (
	// Store is the database of the records.
	Store = lib.Store
	// StorageItem is a record's row.
	StorageItem = lib.StorageItem
	// Value is what stands under a key, and what it is found by.
	Value = lib.Value
)

// ErrSkipSetValue is returned by the callback of GetAndSetValue to change nothing.
var ErrSkipSetValue = lib.ErrSkipSetValue

// NewValue makes a value of what can be written as JSON.
func NewValue(v any) (*Value, error) { return lib.NewValue(v) }

// NewStore opens the database at a path, and makes it if there is none. Close closes it. The handle is BuildKit's: by the policies it
// compacts the database while it is in use, and BuildKit's debug address shows it. So what the library's own NewStore does
// with a damaged file is not done. The library's metadata.ErrLegacyMetadata means that there is only one of the format before it.
func NewStore(dbPath string, policies ...compaction.Config) (*Store, error) {
	if err := lib.CheckLegacy(dbPath); err != nil {
		return nil, err
	}
	// What BuildKit opens it with; the free list of a database that was closed without it is found by reading the database.
	db, err := boltutil.Open(dbPath, 0o600, &bolt.Options{FreelistType: bolt.FreelistMapType, NoFreelistSync: true}, policies...)
	if err != nil {
		return nil, errors.Wrapf(err, "opening metadata database %s", dbPath)
	}
	return lib.NewStoreWithDB(db), nil
}
