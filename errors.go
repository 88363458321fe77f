package cache

import (
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
)

// kindError is a sentinel that also belongs to one of containerd's error categories, so that
// errdefs.IsNotFound and its like work on what the cache returns (spec API-3, design section 7).
type kindError struct {
	text     string
	category error
}

func (e *kindError) Error() string { return e.text }

func (e *kindError) Unwrap() error { return e.category }

var (
	// ErrLocked reports that live refs exclude the request. It is also errdefs' "unavailable".
	ErrLocked error = &kindError{"locked", errdefs.ErrUnavailable}
	// ErrNoBlobs reports that a layer has no blob and that none was to be made.
	ErrNoBlobs error = &kindError{"no blobs for snapshot", errdefs.ErrFailedPrecondition}
	// ErrClosed reports that the manager was closed. It is also errdefs' "failed precondition".
	ErrClosed error = &kindError{"cache manager is closed", errdefs.ErrFailedPrecondition}
	// ErrNotExtracted reports that a tree was asked for of a layer that is known only by its
	// blob or recipe, and that cannot be extracted. It is also errdefs' "failed precondition".
	ErrNotExtracted error = &kindError{"layer is not extracted", errdefs.ErrFailedPrecondition}

	// ErrVerification reports that the data of a layer are not what its descriptor says. It is also errdefs'
	// "invalid argument".
	ErrVerification error = &kindError{"failed to verify layer", errdefs.ErrInvalidArgument}

	errNonAddressable error = &kindError{"non-addressable parent: its layers are not known by their blobs", errdefs.ErrFailedPrecondition}

	errNotFound error = &kindError{"record not found", errdefs.ErrNotFound}
	errInvalid  error = &kindError{"invalid", errdefs.ErrInvalidArgument}
	errReleased error = &kindError{"ref was released", errdefs.ErrInvalidArgument}
)

// IsNotFound reports whether err says that a record is unknown, dead or deleted. It does not
// match the "not found" of a backend: a lost snapshot is not an unknown record (spec API-3).
func IsNotFound(err error) bool {
	return errors.Is(err, errNotFound)
}

// NeedsRemoteProviderError lists the blobs that are neither local nor have a handler among the
// options. Get them by passing DescHandlers for each.
type NeedsRemoteProviderError []digest.Digest

// Error names the digests.
func (e NeedsRemoteProviderError) Error() string {
	parts := make([]string, len(e))
	for i, d := range e {
		parts[i] = d.String()
	}
	return "missing descriptor handlers for lazy blobs [" + strings.Join(parts, " ") + "]"
}

// Unwrap puts the error into errdefs' category "failed precondition".
func (e NeedsRemoteProviderError) Unwrap() error { return errdefs.ErrFailedPrecondition }

// LayerError reports that a layer could not be pulled, unpacked, merged, packed or read. Err says why; errors.Is and errors.As
// see it.
type LayerError struct {
	// Record is the ID of the layer's record.
	Record string
	// Digest is that of the layer's blob; empty if the record has none.
	Digest digest.Digest
	// Action is what was tried: "pulling", "extracting", "merging", "diffing", "listing", "packing", "converting", "exporting".
	Action string
	Err    error
}

// Error names record and blob.
func (e *LayerError) Error() string {
	blob := "layer"
	if e.Digest != "" {
		blob = "blob " + e.Digest.String()
	}
	return e.Action + " " + blob + " of record " + strconv.Quote(e.Record) + ": " + e.Err.Error()
}

// Unwrap returns Err.
func (e *LayerError) Unwrap() error { return e.Err }
