package double

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
)

// The types of the resources that a lease can hold. A snapshot's has the snapshotter's name
// after the slash.
const (
	typeContent   = "content"
	typeIngests   = "ingests"
	typeImages    = "images"
	typeSnapshots = "snapshots/"
)

type leaseManager Backend

func (lm *leaseManager) b() *Backend { return (*Backend)(lm) }

func (lm *leaseManager) Create(ctx context.Context, opts ...leases.Opt) (leases.Lease, error) {
	var l leases.Lease
	for _, opt := range opts {
		if err := opt(&l); err != nil {
			return leases.Lease{}, err
		}
	}
	if l.ID == "" {
		return leases.Lease{}, errors.Wrap(errdefs.ErrInvalidArgument, "lease without ID")
	}
	err := lm.b().update(ctx, func(tx *tx) error {
		if _, ok := tx.leases.get(l.ID); ok {
			return alreadyExists("lease", l.ID)
		}
		l.CreatedAt = tx.b.now().UTC()
		tx.leases.put(l.ID, lease{created: l.CreatedAt, labels: dropEmpty(l.Labels)})
		return nil
	})
	if err != nil {
		return leases.Lease{}, err
	}
	return l, nil
}

func (lm *leaseManager) Delete(ctx context.Context, l leases.Lease, _ ...leases.DeleteOpt) error {
	return lm.b().update(ctx, func(tx *tx) error {
		if _, ok := tx.leases.get(l.ID); !ok {
			return notFound("lease", l.ID)
		}
		tx.leases.del(l.ID)
		return nil
	})
}

func (lm *leaseManager) List(ctx context.Context, fs ...string) ([]leases.Lease, error) {
	filter, err := parseFilters(fs)
	if err != nil {
		return nil, err
	}
	var found []leases.Lease
	err = lm.b().view(ctx, func(tx *tx) error {
		for _, id := range tx.leases.keys() {
			l, _ := tx.leases.get(id)
			if filter.Match(fields(map[string]string{"id": id}, l.labels)) {
				found = append(found, leases.Lease{ID: id, CreatedAt: l.created, Labels: maps.Clone(l.labels)})
			}
		}
		return nil
	})
	return found, err
}

func (lm *leaseManager) AddResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return lm.b().update(ctx, func(tx *tx) error {
		if _, ok := tx.leases.get(l.ID); !ok {
			return notFound("lease", l.ID)
		}
		if err := validResource(r); err != nil {
			return err
		}
		return tx.hold(l.ID, r)
	})
}

func (lm *leaseManager) DeleteResource(ctx context.Context, l leases.Lease, r leases.Resource) error {
	return lm.b().update(ctx, func(tx *tx) error {
		if _, ok := tx.leases.get(l.ID); !ok {
			return notFound("lease", l.ID)
		}
		if err := validResource(r); err != nil {
			return err
		}
		tx.unhold(l.ID, r)
		return nil
	})
}

func (lm *leaseManager) ListResources(ctx context.Context, l leases.Lease) (rs []leases.Resource, err error) {
	err = lm.b().view(ctx, func(tx *tx) error {
		found, ok := tx.leases.get(l.ID)
		if !ok {
			return notFound("lease", l.ID)
		}
		rs = slices.Clone(found.resources)
		return nil
	})
	return rs, err
}

func validResource(r leases.Resource) error {
	kind, name, nested := strings.Cut(r.Type, "/")
	switch {
	case kind == "snapshots" && (!nested || strings.Contains(name, "/")),
		(kind == typeContent || kind == typeIngests || kind == typeImages) && nested:
		return errors.Wrapf(errdefs.ErrInvalidArgument, "resource type %q", r.Type)
	case kind == typeContent:
		if _, err := digest.Parse(r.ID); err != nil {
			return errors.Wrapf(errdefs.ErrInvalidArgument, "content resource %q: %v", r.ID, err)
		}
		return nil
	case kind == "snapshots", kind == typeIngests, kind == typeImages:
		return nil
	}
	return errors.Wrapf(errdefs.ErrNotImplemented, "resource type %q", r.Type)
}

func compareResources(a, b leases.Resource) int {
	if c := strings.Compare(a.Type, b.Type); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// hold adds a resource to a lease.
func (tx *tx) hold(id string, r leases.Resource) error {
	l, ok := tx.leases.get(id)
	if !ok {
		return notFound("lease", id)
	}
	if i, held := slices.BinarySearchFunc(l.resources, r, compareResources); !held {
		l.resources = slices.Insert(slices.Clone(l.resources), i, r)
		tx.leases.put(id, l)
	}
	return nil
}

// unhold takes a resource from a lease, if both are there.
func (tx *tx) unhold(id string, r leases.Resource) {
	l, ok := tx.leases.get(id)
	if !ok {
		return
	}
	if i, held := slices.BinarySearchFunc(l.resources, r, compareResources); held {
		l.resources = slices.Delete(slices.Clone(l.resources), i, i+1)
		tx.leases.put(id, l)
	}
}

// holdFor adds a resource to the lease that the context carries, if it carries one, which must
// then exist. It reports whether it carries one.
func (tx *tx) holdFor(ctx context.Context, kind, id string) (bool, error) {
	lid, ok := leases.FromContext(ctx)
	if !ok {
		return false, nil
	}
	return true, tx.hold(lid, leases.Resource{Type: kind, ID: id})
}

func (tx *tx) unholdFor(ctx context.Context, kind, id string) {
	if lid, ok := leases.FromContext(ctx); ok {
		tx.unhold(lid, leases.Resource{Type: kind, ID: id})
	}
}
