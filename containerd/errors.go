package containerd

import (
	"github.com/containerd/errdefs"
)

// The errors of opening, for errors.Is. Each also belongs to the category of errdefs that is named beside it.
var (
	// ErrBackend reports that the records in the directory belong to another daemon, namespace or snapshotter than the one
	// they were opened with (failed precondition). Nothing has been changed. See Options.Adopt.
	ErrBackend error = &kindError{"the records belong to another backend", errdefs.ErrFailedPrecondition}
	// ErrSnapshotter reports that the daemon has no such snapshotter, or one that failed to start (failed precondition).
	ErrSnapshotter error = &kindError{"the daemon's snapshotter cannot be used", errdefs.ErrFailedPrecondition}
	// ErrClosed is returned by what was closed (failed precondition).
	ErrClosed error = &kindError{"the cache's parts are closed", errdefs.ErrFailedPrecondition}
)

// kindError is a sentinel with an errdefs category.
type kindError struct {
	text     string
	category error
}

func (e *kindError) Error() string { return e.text }
func (e *kindError) Unwrap() error { return e.category }

// indefinite tells whether an error leaves open what became of a call: the daemon may have done it, or do it yet.
func indefinite(err error) bool {
	return errdefs.IsUnavailable(err) || errdefs.IsDeadlineExceeded(err) || errdefs.IsCanceled(err)
}
