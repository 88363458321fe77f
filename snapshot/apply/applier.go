package apply

import (
	"archive/tar"
	"context"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/snapshot"
)

// Applier unpacks layers. It is safe for concurrent use.
type Applier struct {
	provider content.Provider
	squash   bool
	keep     func(*tar.Header) bool
	syncs    syncer
}

var _ snapshot.DetachedApplier = (*Applier)(nil)

// Option changes what New returns.
type Option func(*Applier)

// SquashOwners makes every file belong to the user and group of the process, whoever the layer says, and adapts the tree to
// somebody without privileges: device nodes and the extended attributes "security." (file capabilities among
// them) are left out; directories are readable, writable and searchable for their owner and files readable (those with
// extended attributes writable, too), so that their owner can copy and remove the tree. The same is done for
// root: the tree depends on the option, not on who runs the process.
func SquashOwners() Option { return func(a *Applier) { a.squash = true } }

// Entries chooses what is unpacked: the entries for which keep is true, as it left them. It may change names and link names, whose cleaning and
// checking come after it. The result of Apply is of the whole archive all the same. It is called from one goroutine at
// a time for each archive, but for several archives at once.
func Entries(keep func(*tar.Header) bool) Option { return func(a *Applier) { a.keep = keep } }

// New returns an Applier that reads blobs from provider, which stays the caller's.
func New(provider content.Provider, opts ...Option) *Applier {
	a := &Applier{provider: provider}
	for _, opt := range opts {
		if opt != nil {
			opt(a)
		}
	}
	return a
}

// Apply unpacks the layer of desc on top of what mounts hold. It returns a descriptor of the uncompressed archive, read to its
// last byte: whether that is the layer's diff ID is for the caller to verify, before which the tree is not to be trusted.
//
// A single writable bind mount is written to at its source. An overlay whose upper directory is empty gets the layer there,
// unless the layer needs what lies below, or the process may not write overlayfs's marks. All else is
// mounted for the time of the call.
//
// Of the options, SyncFs returns only once the tree is on disk; Progress is called, from one goroutine at a
// time and never after the return, with the number of the blob's bytes that have been read. Media types that are not a layer's are an invalid argument,
// unless there are payloads for the processors which the program registered for them (containerd's diff.RegisterProcessor).
//
// Errors of category invalid argument are the layer's or the mounts' fault, permission denied means that the
// process lacks a right. After any error the mounts hold garbage.
func (a *Applier) Apply(ctx context.Context, desc ocispecs.Descriptor, mounts []mount.Mount, opts ...diff.ApplyOpt) (_ ocispecs.Descriptor, err error) {
	j, err := a.newJob(ctx, desc, opts)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	if err := checkWritable(mounts); err != nil {
		return ocispecs.Descriptor{}, err
	}
	upper := upperDir(mounts)
	if upper != "" {
		j.syncPath = upper
		empty, err := isEmpty(upper)
		if err != nil {
			return ocispecs.Descriptor{}, err
		}
		// Marks would not mean the same next to files that are there already.
		if empty && mayMark() == nil {
			result, err := j.run(ctx, upper, true)
			if !errors.Is(err, snapshot.ErrNeedsParent) {
				return result, err
			}
			if err := removeContent(upper); err != nil {
				return ocispecs.Descriptor{}, err
			}
		}
	}
	lm := snapshot.LocalMounterWithMounts(mounts)
	dir, err := lm.Mount()
	if err != nil {
		return ocispecs.Descriptor{}, errors.WithMessagef(err, "unpacking layer %s", desc.Digest)
	}
	result, err := j.run(ctx, dir, false)
	if err1 := lm.Unmount(); err1 != nil && err == nil {
		err = errors.WithMessagef(err1, "unpacking layer %s", desc.Digest)
	}
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	return result, nil
}

// ApplyDetached implements snapshot.DetachedApplier. The lowest layer of a chain is for Apply: a snapshot without a parent is no overlay, and
// marks would show. In a user namespace, without the privilege to mount, and on systems other than
// Linux every layer is ErrNeedsParent. A dir that is not empty is an invalid argument.
func (a *Applier) ApplyDetached(ctx context.Context, desc ocispecs.Descriptor, dir string, opts ...diff.ApplyOpt) (ocispecs.Descriptor, error) {
	j, err := a.newJob(ctx, desc, opts)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	if err := mayMark(); err != nil {
		return ocispecs.Descriptor{}, errors.WithMessage(snapshot.ErrNeedsParent, err.Error())
	}
	empty, err := isEmpty(dir)
	if err != nil {
		return ocispecs.Descriptor{}, err
	}
	if !empty {
		return ocispecs.Descriptor{}, errors.Wrapf(errdefs.ErrInvalidArgument, "directory %s is not empty", dir)
	}
	return j.run(ctx, dir, true)
}

// checkWritable refuses mounts that cannot take a layer, in particular a read-only bind mount: without the privilege to
// mount it would be served as its source, which nothing protects.
func checkWritable(mounts []mount.Mount) error {
	if len(mounts) == 0 {
		return errors.Wrap(errdefs.ErrInvalidArgument, "no mounts to unpack to")
	}
	if top := mounts[len(mounts)-1]; slices.Contains(top.Options, "ro") {
		return errors.Wrapf(errdefs.ErrInvalidArgument, "a read-only %s mount cannot be unpacked to", top.Type)
	}
	return nil
}

func isEmpty(dir string) (bool, error) {
	f, err := os.Open(dir)
	if err != nil {
		return false, errors.Wrap(err, "directory to unpack to")
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	if len(names) > 0 {
		return false, nil
	}
	if _, serr := os.Lstat(dir); serr != nil { // Readdirnames' io.EOF is the regular case
		return false, errors.Wrap(serr, "directory to unpack to")
	}
	return err != nil, nil
}

// removeContent empties a directory that was empty when the call began.
func removeContent(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return errors.Wrap(err, "removing what was unpacked without the parent")
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return errors.Wrap(err, "removing what was unpacked without the parent")
		}
	}
	return nil
}
