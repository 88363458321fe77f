package local

import (
	"context"
	stderrors "errors"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"
)

// overlayfsBackend is quick: making, committing and removing a snapshot costs a few system calls
// and a row, since data is removed asynchronously. Commit adds up the sizes of the layer's own files, but
// containerd does so inside of its transaction in any case.
func overlayfsBackend(reason string) backend {
	return backend{name: Overlayfs, reason: reason, quick: true, numbered: true, open: openOverlayfs}
}

func openOverlayfs(root string) (snapshots.Snapshotter, error) {
	// Opening the database here rather than at the first use finds damage and locks early. Its
	// options are otherwise containerd's, since changing them would rewrite the file.
	store, err := storage.NewMetaStore(filepath.Join(root, snapshotterDB), func(o *bolt.Options) error {
		o.Timeout = lockWait
		return nil
	})
	if err != nil {
		return nil, errors.WithStack(err)
	}
	if err := touch(store); err != nil {
		return nil, stderrors.Join(err, store.Close())
	}
	sn, err := overlay.NewSnapshotter(root, overlay.AsynchronousRemove, overlay.WithMetaStore(store))
	if err != nil {
		return nil, stderrors.Join(errors.Wrap(err, "open overlayfs snapshotter"), store.Close())
	}
	short := &shortNames{root: root}
	if err := short.clean(); err != nil {
		return nil, stderrors.Join(errors.Wrap(err, "cleaning short names"), sn.Close())
	}
	return &reversibleOverlayfs{sn, store, short}, nil
}

// reversibleOverlayfs is containerd's snapshotter with access to its database.
type reversibleOverlayfs struct {
	snapshots.Snapshotter
	store *storage.MetaStore
	short *shortNames
}

// Cleanup removes the data of removed snapshots.
func (s *reversibleOverlayfs) Cleanup(ctx context.Context) error {
	if c, ok := s.Snapshotter.(snapshots.Cleaner); ok {
		return c.Cleanup(ctx)
	}
	return errdefs.ErrNotImplemented
}

// uncommit implements reverser.
func (s *reversibleOverlayfs) uncommit(ctx context.Context, name, key string) error {
	return uncommit(ctx, s.store, name, key)
}

// touch makes the store open its database.
func touch(store *storage.MetaStore) (err error) {
	defer recoverDamage("the snapshotter's "+snapshotterDB, &err)
	_, tx, err := store.TransactionContext(context.Background(), false)
	if err != nil {
		return errors.Wrap(err, "open the snapshotter's database")
	}
	return errors.WithStack(tx.Rollback())
}

// canMount tells whether this process has CAP_SYS_ADMIN in its user namespace.
func canMount() bool {
	var data [2]unix.CapUserData
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// probeOverlayfs finds out whether overlayfs works below dir by mounting one there. The error
// says why not. Nothing is left behind.
func probeOverlayfs(dir string) (err error) {
	if !canMount() {
		return errors.New("no capability to mount")
	}
	tmp, err := os.MkdirTemp(dir, "overlayfs-probe")
	if err != nil {
		return errors.WithStack(err)
	}
	defer func() {
		if rerr := os.RemoveAll(tmp); rerr != nil && err == nil {
			err = errors.WithStack(rerr)
		}
	}()
	if ok, err := fs.SupportsDType(tmp); err != nil {
		return errors.Wrap(err, "d_type")
	} else if !ok {
		return errors.New("the filesystem does not tell file types in directory entries (d_type)")
	}
	userxattr, err := overlayutils.NeedsUserXAttr(tmp)
	if err != nil {
		return errors.Wrap(err, "userxattr")
	}
	return tryMount(tmp, userxattr)
}

// tryMount mounts two layers and a writable one on top in tmp, and unmounts them.
func tryMount(tmp string, userxattr bool) error {
	path := func(name string) string { return filepath.Join(tmp, name) }
	for _, name := range []string{"lower1", "lower2", "upper", "work", "merged"} {
		if err := os.Mkdir(path(name), dirMode); err != nil {
			return errors.WithStack(err)
		}
	}
	options := []string{
		"lowerdir=" + strings.Join([]string{path("lower2"), path("lower1")}, ":"),
		"upperdir=" + path("upper"),
		"workdir=" + path("work"),
	}
	if userxattr {
		options = append(options, "userxattr")
	}
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: options}
	if err := m.Mount(path("merged")); err != nil {
		return errors.Wrap(err, "trial mount")
	}
	return errors.Wrap(mount.UnmountAll(path("merged"), 0), "unmount of the trial mount")
}
