package metadata

import (
	"io/fs"
	"strconv"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// The errors of the store, for errors.Is. Each also belongs to the category of containerd's
// errdefs that is named beside it. An unknown record or external item is plain
// errdefs.ErrNotFound, an argument that cannot be stored errdefs.ErrInvalidArgument.
var (
	// ErrClosed is returned by every call on a closed store (failed precondition).
	ErrClosed error = &storeError{"metadata store is closed", errdefs.ErrFailedPrecondition}
	// ErrDatabaseLocked is returned by NewStore while another process, or another store of this
	// process, has the file open (unavailable).
	ErrDatabaseLocked error = &storeError{"metadata database is in use by another process", errdefs.ErrUnavailable}
	// ErrNotDatabase is returned by NewStore for something that is not a bolt database. It is
	// left as it was (failed precondition).
	ErrNotDatabase error = &storeError{"not a bolt database", errdefs.ErrFailedPrecondition}
	// ErrLegacyMetadata is returned where only version-1 metadata is present (failed precondition).
	ErrLegacyMetadata error = &storeError{"version-1 cache metadata must be removed or migrated first", errdefs.ErrFailedPrecondition}
	// ErrReadOnly is returned if the file, its directory or the handle cannot be written
	// (permission denied).
	ErrReadOnly error = &storeError{"metadata database cannot be written", errdefs.ErrPermissionDenied}
	// ErrCorrupt is returned where the database contradicts itself or this package's schema
	// (data loss). Once a page turned out to be damaged every later write is refused with it,
	// so that the damage is not built upon; reads go on as far as they get.
	ErrCorrupt error = &storeError{"metadata database is corrupt", errdefs.ErrDataLoss}
	// ErrRecordRemoved is returned by writes through an item whose record has been removed
	// (not found).
	ErrRecordRemoved error = &storeError{"record has been removed", errdefs.ErrNotFound}
)

// ErrSkipSetValue is returned by the callback of GetAndSetValue to leave the value as it is.
var ErrSkipSetValue = errors.New("value is left as it is")

// storeError is a sentinel with an errdefs category.
type storeError struct {
	msg  string
	kind error
}

func (e *storeError) Error() string { return e.msg }
func (e *storeError) Unwrap() error { return e.kind }

// translate gives the errors of bbolt, which have no category, one of this package's.
func translate(err error) error {
	if err == nil {
		return nil
	}
	for _, t := range []struct{ from, to error }{
		{bolterrors.ErrDatabaseNotOpen, ErrClosed},
		{bolterrors.ErrDatabaseReadOnly, ErrReadOnly},
		{bolterrors.ErrTxNotWritable, errdefs.ErrInvalidArgument},
		{bolterrors.ErrKeyRequired, errdefs.ErrInvalidArgument},
		{bolterrors.ErrKeyTooLarge, errdefs.ErrInvalidArgument},
		{bolterrors.ErrBucketNameRequired, errdefs.ErrInvalidArgument},
		{bolterrors.ErrValueTooLarge, errdefs.ErrInvalidArgument},
		{bolterrors.ErrIncompatibleValue, ErrCorrupt},
		{bolterrors.ErrInvalidMapping, ErrCorrupt},
		{bolterrors.ErrInvalid, ErrCorrupt},
		{bolterrors.ErrChecksum, ErrCorrupt},
		{bolterrors.ErrVersionMismatch, ErrNotDatabase},
	} {
		if errors.Is(err, t.from) {
			return errors.Wrap(t.to, err.Error())
		}
	}
	return err
}

// translateOpen does the same for what opening a file can fail with.
func translateOpen(err error) error {
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return errors.WithStack(ErrDatabaseLocked)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		return errors.Wrap(ErrReadOnly, err.Error())
	}
	return translate(err)
}

func invalid(format string, args ...any) error {
	return errors.Wrapf(errdefs.ErrInvalidArgument, format, args...)
}

// errNoCallback is for callers that pass nil where a function is asked for.
func errNoCallback() error { return invalid("the callback is nil") }

func notFound(id string) error {
	return errors.Wrapf(errdefs.ErrNotFound, "record %s", quote(id))
}

// quote renders a name for a message, cut to a length that fits one.
func quote(name string) string {
	const limit = 80
	if len(name) > limit {
		return strconv.Quote(name[:limit]) + "..."
	}
	return strconv.Quote(name)
}

// indexSep stands between index and record ID in the keys of the index bucket.
const indexSep = "::"

// checkID accepts the IDs that an index key can be taken apart again for: the last separator
// in the key must be the one that was put there.
func checkID(id string) error {
	switch {
	case id == "":
		return invalid("record ID is empty")
	case len(id) > bolt.MaxKeySize:
		return invalid("record ID %s has %d bytes, the limit is %d", quote(id), len(id), bolt.MaxKeySize)
	case strings.Contains(id, indexSep), id[0] == ':', strings.IndexByte(id, 0) >= 0:
		return invalid("record ID %s contains a separator or a NUL byte", quote(id))
	}
	return nil
}

func checkKey(key string) error {
	switch {
	case key == "":
		return invalid("key is empty")
	case len(key) > bolt.MaxKeySize:
		return invalid("key %s has %d bytes, the limit is %d", quote(key), len(key), bolt.MaxKeySize)
	case strings.IndexByte(key, 0) >= 0:
		return invalid("key %s contains a NUL byte", quote(key))
	}
	return nil
}

// checkIndex accepts the indexes that survive the JSON of the envelope unchanged, since the
// entry could not be found for removal otherwise. They may contain the separator.
func checkIndex(index, id string) error {
	switch {
	case len(index)+len(indexSep)+len(id) > bolt.MaxKeySize:
		return invalid("index %s has %d bytes, with the record ID the limit is %d", quote(index), len(index), bolt.MaxKeySize)
	case strings.IndexByte(index, 0) >= 0, !utf8.ValidString(index):
		return invalid("index %s contains a NUL byte or is not UTF-8", quote(index))
	}
	return nil
}
