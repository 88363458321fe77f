package cache

import (
	"context"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/snapshots"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// evidence is what the store and the backend say. A new one asks them for each thing once; after
// readAll it knows all rows, leases and snapshots, and what it does not know is not there. Things
// that are not there are nil and no error.
type evidence struct {
	m         *manager
	complete  bool
	rows      map[string]*row
	leases    map[string]*leases.Lease
	snapshots map[string]*snapshots.Info
}

func newEvidence(m *manager) *evidence {
	return &evidence{
		m: m, rows: map[string]*row{}, leases: map[string]*leases.Lease{}, snapshots: map[string]*snapshots.Info{},
	}
}

// readAll takes everything in bulk: one transaction of the store, and one listing of leases and one of snapshots.
func (e *evidence) readAll(ctx context.Context) error {
	reader := newRowReader()
	err := e.m.store.Scan(func(id []byte, view metadata.RowView) error {
		if err := context.Cause(ctx); err != nil {
			return err
		}
		r := &row{meta: &graph.Meta{}}
		if err := reader.read(r, id, view); err != nil {
			return errors.Wrapf(err, "record %q", id)
		}
		e.rows[r.meta.ID] = r
		return nil
	})
	if err != nil {
		return errors.Wrap(err, "reading the records")
	}
	ls, err := e.m.opt.LeaseManager.List(ctx)
	if err != nil {
		return errors.Wrap(err, "listing leases")
	}
	for _, l := range ls {
		e.leases[l.ID] = &l
	}
	err = e.m.opt.Snapshotter.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		e.snapshots[info.Name] = &info
		return nil
	})
	e.complete = true
	return errors.Wrap(err, "listing snapshots")
}

func (e *evidence) row(id string) (*row, error) {
	if r, ok := e.rows[id]; ok || e.complete {
		return r, nil
	}
	var r *row
	err := e.m.store.ReadRow(id, func(view metadata.RowView) (err error) {
		r, err = readRow(id, view)
		return err
	})
	if err = notFoundIsNil(err, "reading record %q", id); err != nil {
		return nil, err
	}
	e.rows[id] = r
	return r, nil
}

func (e *evidence) lease(ctx context.Context, id string) (*leases.Lease, error) {
	if l, ok := e.leases[id]; ok || e.complete {
		return l, nil
	}
	ls, err := e.m.opt.LeaseManager.List(ctx, "id=="+strconv.Quote(id))
	if err != nil {
		return nil, errors.Wrapf(err, "looking for lease %q", id)
	}
	var found *leases.Lease
	for _, l := range ls {
		if l.ID == id {
			found = &l
		}
	}
	e.leases[id] = found
	return found, nil
}

// resources lists what a lease holds; nothing for a lease that is not there.
func (e *evidence) resources(ctx context.Context, id string) ([]leases.Resource, error) {
	rs, err := e.m.opt.LeaseManager.ListResources(ctx, leases.Lease{ID: id})
	return rs, notFoundIsNil(err, "listing the resources of lease %q", id)
}

func (e *evidence) snapshot(ctx context.Context, key string) (*snapshots.Info, error) {
	if info, ok := e.snapshots[key]; ok || e.complete {
		return info, nil
	}
	var found *snapshots.Info
	info, err := e.m.opt.Snapshotter.Stat(ctx, key)
	if err == nil {
		found = &info
	}
	if err = notFoundIsNil(err, "looking for snapshot %q", key); err != nil {
		return nil, err
	}
	e.snapshots[key] = found
	return found, nil
}

func (e *evidence) blob(ctx context.Context, dgst string) (*content.Info, error) {
	if !isDigest(dgst) {
		return nil, nil // there is no such blob
	}
	info, err := e.m.opt.ContentStore.Info(ctx, digest.Digest(dgst))
	if err == nil {
		return &info, nil
	}
	return nil, notFoundIsNil(err, "looking for blob %s", dgst)
}

// variantsKept tells whether the lease on variants of any record lists a blob or one that it is linked to, which keeps them all, or there are none:
// when the record that had them goes, links to them stay.
func (e *evidence) variantsKept(ctx context.Context, dgst string) (bool, error) {
	among, local := map[string]bool{dgst: true}, 0
	err := e.m.walkVariants(ctx, digest.Digest(dgst), func(info content.Info) {
		local++
		for _, to := range linksOf(info) {
			among[to.String()] = true
		}
	})
	if err != nil || local < 2 {
		return err == nil, err
	}
	ls, err := e.m.opt.LeaseManager.List(ctx)
	if err != nil {
		return false, errors.Wrap(err, "listing leases")
	}
	for _, l := range ls {
		if !strings.HasSuffix(l.ID, variantsSuffix) {
			continue
		}
		rs, err := e.resources(ctx, l.ID)
		if err != nil {
			return false, err
		}
		for _, r := range rs {
			if among[r.ID] && r.Type == contentResource("").Type {
				return true, nil
			}
		}
	}
	return false, nil
}

// isDigest tells whether a blob may have the name at all; rows may hold anything.
func isDigest(dgst string) bool { return digest.Digest(dgst).Validate() == nil }
