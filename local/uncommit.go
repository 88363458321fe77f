package local

import (
	"bytes"
	"context"
	stderrors "errors"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// uncommit changes a database of containerd's snapshotters: it turns the committed snapshot name back into the active snapshot key. Nothing else may
// refer to name. The snapshot's data is stored by a number, so that only rows change. A parent that the Commit gave
// it is taken away.
func uncommit(ctx context.Context, store *storage.MetaStore, name, key string) error {
	_, t, err := store.TransactionContext(ctx, true)
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
