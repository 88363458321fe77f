package local

import (
	"io/fs"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/layercache/cache/metadata"
)

// The errors of opening a directory, for errors.Is. Each also belongs to the category of
// containerd's errdefs that is named beside it. Apart from these, version-1 metadata is reported
// as metadata.ErrLegacyMetadata and a wrong option as errdefs.ErrInvalidArgument. A directory
// that is refused has not been written to.
var (
	// ErrInUse reports that another process, or another cache of this process, has the
	// directory open (unavailable).
	ErrInUse error = &kindError{"cache directory is in use", errdefs.ErrUnavailable}
	// ErrSnapshotter reports that the snapshotter asked for is not the one the directory was
	// made with, or that it does not work here (failed precondition).
	ErrSnapshotter error = &kindError{"snapshotter cannot be used for this directory", errdefs.ErrFailedPrecondition}
	// ErrForeign reports a file that has the name of one of the cache's databases but is
	// something else, or is damaged (failed precondition).
	ErrForeign error = &kindError{"not a database of the cache", errdefs.ErrFailedPrecondition}
	// ErrReadOnly reports that the directory or one of its databases cannot be written
	// (permission denied).
	ErrReadOnly error = &kindError{"cache directory cannot be written", errdefs.ErrPermissionDenied}
	// ErrNoCache reports that there is no cache in the directory, where one was not to be made (not found).
	ErrNoCache error = &kindError{"no cache directory", errdefs.ErrNotFound}
	// ErrInspection is returned by what would change a directory that is open for Inspect (failed precondition).
	ErrInspection error = &kindError{"cache directory is open for inspection only", errdefs.ErrFailedPrecondition}
	// ErrClosed is returned by what was closed (failed precondition).
	ErrClosed error = &kindError{"cache directory is closed", errdefs.ErrFailedPrecondition}
)

// kindError is a sentinel with an errdefs category.
type kindError struct {
	text     string
	category error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.category }

// causedError is a sentinel together with what it was found out by.
type causedError struct{ kind, cause error }

func (e *causedError) Error() string   { return e.kind.Error() + ": " + e.cause.Error() }
func (e *causedError) Unwrap() []error { return []error{e.kind, e.cause} }

// typed puts one of the sentinels over the errors of bolt, of package metadata and of the
// system that mean the same, and keeps them in the chain.
func typed(err error) error {
	for _, t := range []struct{ from, to error }{
		{bolterrors.ErrTimeout, ErrInUse},
		{metadata.ErrDatabaseLocked, ErrInUse},
		{bolterrors.ErrInvalid, ErrForeign},
		{bolterrors.ErrVersionMismatch, ErrForeign},
		{bolterrors.ErrChecksum, ErrForeign},
		{metadata.ErrNotDatabase, ErrForeign},
		{metadata.ErrReadOnly, ErrReadOnly},
		{fs.ErrPermission, ErrReadOnly},
		{syscall.EROFS, ErrReadOnly},
	} {
		if errors.Is(err, t.from) && !errors.Is(err, t.to) {
			return &causedError{kind: t.to, cause: err}
		}
	}
	return err
}

func invalid(format string, args ...any) error {
	return errors.Wrapf(errdefs.ErrInvalidArgument, format, args...)
}
