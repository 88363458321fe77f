package local

import (
	"bytes"
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

// uncommit turns the committed snapshot name back into the active snapshot key. Nothing else may
// refer to name. The snapshot's data is stored by a number, so that only rows change. A parent that the Commit gave
// it is taken away.
func (s *reversibleOverlayfs) uncommit(ctx context.Context, name, key string) error {
	_, t, err := s.store.TransactionContext(ctx, true)
	if err != nil {
		return errors.WithStack(err)
	}
	tx, ok := t.(*bolt.Tx)
	if !ok {
		return stderrors.Join(errors.Errorf("transaction is a %T", t), t.Rollback())
	}
	if err := uncommitRow(tx, name, key); err != nil {
		return stderrors.Join(err, tx.Rollback())
	}
	return errors.WithStack(tx.Commit())
}

// uncommitRow moves the row of a snapshot, and the entry under its parent:
//
//	v1/snapshots/<name or key>   kind, id, parent, size, inodes, timestamps, labels
//	v1/parents/<ids>             -> <name or key>
func uncommitRow(tx *bolt.Tx, name, key string) error {
	top := tx.Bucket([]byte("v1"))
	if top == nil || top.Bucket([]byte("snapshots")) == nil {
		return errors.Wrapf(errdefs.ErrNotFound, "snapshot %q", name)
	}
	rows := top.Bucket([]byte("snapshots"))
	from := rows.Bucket([]byte(name))
	if from == nil {
		return errors.Wrapf(errdefs.ErrNotFound, "snapshot %q", name)
	}
	to, err := rows.CreateBucket([]byte(key))
	if err != nil {
		return errors.Wrapf(err, "snapshot %q", key)
	}
	if err := copyBucket(to, from); err != nil {
		return err
	}
	if err := to.Put([]byte("kind"), []byte{byte(snapshots.KindActive)}); err != nil {
		return errors.WithStack(err)
	}
	rebased := false
	if labels := to.Bucket([]byte("labels")); labels != nil {
		rebased = labels.Get([]byte(labelRebased)) != nil
		for _, label := range []string{labelFrom, labelRebased} {
			if err := labels.Delete([]byte(label)); err != nil {
				return errors.WithStack(err)
			}
		}
	}
	if rebased {
		if err := to.Delete([]byte("parent")); err != nil {
			return errors.WithStack(err)
		}
	}
	if err := rows.DeleteBucket([]byte(name)); err != nil {
		return errors.WithStack(err)
	}
	if rebased {
		key = "" // no parent, no link
	}
	return renameChild(top.Bucket([]byte("parents")), name, key)
}

// renameChild changes what the link from a parent says, or removes the link if the child has no new name.
func renameChild(parents *bolt.Bucket, name, key string) error {
	if parents == nil {
		return nil
	}
	var links [][]byte
	c := parents.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if string(v) == name {
			links = append(links, bytes.Clone(k))
		}
	}
	for _, k := range links {
		err := parents.Delete(k)
		if err == nil && key != "" {
			err = parents.Put(k, []byte(key))
		}
		if err != nil {
			return errors.WithStack(err)
		}
	}
	return nil
}

func copyBucket(to, from *bolt.Bucket) error {
	return from.ForEach(func(k, v []byte) error {
		if v != nil {
			return errors.WithStack(to.Put(k, v))
		}
		sub, err := to.CreateBucket(k)
		if err != nil {
			return errors.WithStack(err)
		}
		return copyBucket(sub, from.Bucket(k))
	})
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
