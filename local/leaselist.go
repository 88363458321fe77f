package local

import (
	"bytes"
	"context"
	"slices"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// Keys of a lease in containerd's metadata.
const (
	leaseCreatedAt = "createdat"
	leaseLabels    = "labels"
)

// listAll lists all leases of the namespace of ctx as containerd's manager does, with a third less work for each: a start
// lists as many as there are records, and containerd matches each with an empty filter, looks its creation time up, and copies every
// key of every label. In a transaction that ctx carries it shows what that has written.
func (t *transactor) listAll(ctx context.Context) ([]leases.Lease, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, err
	}
	l := leaseReader{common: map[string]string{}}
	read := func(tx *bolt.Tx) error { return l.readAll(ctx, backendBucket(tx, ns, "leases")) }
	if tx, ok := boltutil.Transaction(ctx); ok {
		err = read(tx)
	} else {
		err = t.raw.View(read)
	}
	if err != nil {
		return nil, errors.Wrap(err, "listing leases")
	}
	return slices.Concat(l.chunks...), nil
}

// leaseReader reads leases.
type leaseReader struct {
	// chunks are what was read. A list that grows one by one is copied five times until it has a million.
	chunks [][]leases.Lease
	// common has the keys of labels, of which there are few, and values that many leases have.
	common map[string]string
}

// maxCommon bounds leaseReader.common.
const maxCommon = 1024

func (l *leaseReader) readAll(ctx context.Context, all *bolt.Bucket) error {
	if all == nil {
		return nil
	}
	const perChunk = 512
	var chunk []leases.Lease
	err := all.ForEachBucket(func(id []byte) error {
		if len(chunk) == cap(chunk) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			l.chunks = append(l.chunks, chunk)
			chunk = make([]leases.Lease, 0, perChunk)
		}
		lease, err := l.read(string(id), all.Bucket(id))
		if err != nil {
			return errors.Wrapf(err, "lease %q", id)
		}
		chunk = append(chunk, lease)
		return nil
	})
	l.chunks = append(l.chunks, chunk)
	return err
}

func (l *leaseReader) read(id string, b *bolt.Bucket) (leases.Lease, error) {
	lease := leases.Lease{ID: id}
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		switch {
		case v == nil && string(k) == leaseLabels:
			lease.Labels = l.labels(id, b.Bucket(k))
		case v != nil && string(k) == leaseCreatedAt:
			if err := lease.CreatedAt.UnmarshalBinary(v); err != nil {
				return leases.Lease{}, errors.Wrap(err, "creation time")
			}
		}
	}
	return lease, nil
}

func (l *leaseReader) labels(id string, b *bolt.Bucket) map[string]string {
	labels := map[string]string{}
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if bytes.Equal(v, []byte(id)) {
			labels[l.shared(k)] = id // leases of the cache are named like their records
		} else {
			labels[l.shared(k)] = l.shared(v)
		}
	}
	return labels
}

// shared returns one copy for all who have the same text, as long as there are few.
func (l *leaseReader) shared(text []byte) string {
	if have, ok := l.common[string(text)]; ok {
		return have
	}
	s := string(text)
	if len(l.common) < maxCommon {
		l.common[s] = s
	}
	return s
}
