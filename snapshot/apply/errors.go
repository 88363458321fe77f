package apply

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// OwnerError reports an entry of a layer that belongs to somebody this process cannot give files to. It is also
// errdefs' "permission denied".
type OwnerError struct {
	// Entry is the name in the archive.
	Entry string
	// UID and GID are the owner it should have had.
	UID, GID int
}

func (e *OwnerError) Error() string {
	return fmt.Sprintf("entry %s belongs to %d:%d, and this process may not make files of others", quote(e.Entry), e.UID, e.GID)
}

// Unwrap gives the category.
func (e *OwnerError) Unwrap() error { return errdefs.ErrPermissionDenied }

// PrivilegeError reports an entry of a layer that takes a privilege which this process lacks. It is also errdefs'
// "permission denied".
type PrivilegeError struct {
	// Entry is the name in the archive.
	Entry string
	// What is what the process may not make: "a device node", or the name of an extended attribute.
	What string
}

func (e *PrivilegeError) Error() string {
	return fmt.Sprintf("entry %s has %s, which this process may not make", quote(e.Entry), e.What)
}

// Unwrap gives the category.
func (e *PrivilegeError) Unwrap() error { return errdefs.ErrPermissionDenied }

// refuse is the error for an entry that no layer may hold.
func refuse(name, reason string) error {
	return errors.Wrapf(errdefs.ErrInvalidArgument, "entry %s: %s", quote(name), reason)
}

// needsParent is the error for an entry that cannot be written without the layers below.
func needsParent(name, reason string) error {
	return errors.WithMessagef(snapshot.ErrNeedsParent, "entry %s: %s", quote(name), reason)
}

// quote shows a name in an error, short even if the archive says otherwise.
func quote(name string) string {
	const most = 200
	if len(name) > most {
		return fmt.Sprintf("%q... (%d bytes)", name[:most], len(name))
	}
	return fmt.Sprintf("%q", name)
}

// blame gives an error of unpacking its category. Read is the error that reading the archive failed with, if any: it
// has one already.
func blame(ctx context.Context, err, read error) error {
	switch {
	case ctx.Err() != nil:
		return errors.Wrap(ctx.Err(), "unpacking")
	case read != nil:
		return read
	}
	for _, damaged := range []error{tar.ErrHeader, tar.ErrFieldTooLong, tar.ErrInsecurePath, io.ErrUnexpectedEOF} {
		if errors.Is(err, damaged) {
			return categorized(errdefs.ErrInvalidArgument, err)
		}
	}
	errno, ok := systemError(err)
	if !ok {
		return errors.WithStack(err) // our own, or nothing we know
	}
	// What the system says to names, links and attributes that it cannot have.
	for _, bad := range []syscall.Errno{
		syscall.ENAMETOOLONG, syscall.ELOOP, syscall.ENOTDIR, syscall.EISDIR, syscall.EINVAL, syscall.E2BIG, syscall.ERANGE, syscall.EMLINK,
	} {
		if errno == bad {
			return categorized(errdefs.ErrInvalidArgument, err)
		}
	}
	if errno == syscall.EPERM || errno == syscall.EACCES {
		return categorized(errdefs.ErrPermissionDenied, err)
	}
	return errors.WithStack(err)
}

func systemError(err error) (errno syscall.Errno, ok bool) {
	ok = errors.As(err, &errno)
	return errno, ok
}

// categoryError adds a category to an error.
type categoryError struct{ category, cause error }

func categorized(category, cause error) error {
	if errors.Is(cause, category) {
		return errors.WithStack(cause)
	}
	return errors.WithStack(&categoryError{category, cause})
}

func (e *categoryError) Error() string   { return e.cause.Error() + ": " + e.category.Error() }
func (e *categoryError) Unwrap() []error { return []error{e.category, e.cause} }
