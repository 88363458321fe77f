package local

import (
	"bytes"
	"context"

	"github.com/containerd/containerd/v2/core/metadata/boltutil"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/pkg/errors"
	bolt "go.etcd.io/bbolt"
)

// leaseLabels is the key of a lease's labels in containerd's metadata.
const leaseLabels = "labels"

// walkLeases calls fn for each lease of the namespace of ctx, with labels that are fn's during the call only. A start looks at as many as there are
// records: a list of them would be a third of its garbage, and containerd makes a list. In a transaction that ctx carries it
// shows what that has written.
func (t *transactor) walkLeases(ctx context.Context, fn func(id string, labels map[string]string) error) error {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return err
	}
	l := leaseReader{common: map[string]string{}, labels: map[string]string{}}
	read := func(tx *bolt.Tx) error { return l.readAll(ctx, backendBucket(tx, ns, "leases"), fn) }
	if tx, ok := boltutil.Transaction(ctx); ok {
		err = read(tx)
	} else {
		err = t.raw.View(read)
	}
	return errors.Wrap(err, "reading leases")
}

// leaseReader reads leases.
type leaseReader struct {
	// common has the keys of labels, of which there are few, and values that many leases have.
	common map[string]string
	labels map[string]string // of the lease being read
}

// maxCommon bounds leaseReader.common.
const maxCommon = 1024

func (l *leaseReader) readAll(ctx context.Context, all *bolt.Bucket, fn func(id string, labels map[string]string) error) error {
	if all == nil {
		return nil
	}
	const lookEvery = 256
	n := 0
	return all.ForEachBucket(func(key []byte) error {
		if n%lookEvery == 0 && ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n++
		id := string(key)
		clear(l.labels)
		if b := all.Bucket(key).Bucket([]byte(leaseLabels)); b != nil {
			l.readLabels(id, b)
		}
		return fn(id, l.labels)
	})
}

func (l *leaseReader) readLabels(id string, b *bolt.Bucket) {
	c := b.Cursor()
	for k, v := c.First(); k != nil; k, v = c.Next() {
		if bytes.Equal(v, []byte(id)) {
			l.labels[l.shared(k)] = id // leases of the cache are named like their records
		} else {
			l.labels[l.shared(k)] = l.shared(v)
		}
	}
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
