package cache

import (
	"context"

	"github.com/containerd/containerd/v2/core/leases"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/snapshot"
)

func (m *manager) GetByBlob(ctx context.Context, desc ocispecs.Descriptor, parent ImmutableRef, opts ...RefOption) (ImmutableRef, error) {
	o, err := parseOptions(opts)
	if err != nil {
		return nil, err
	}
	layer, err := checkLayer(desc, m.caps)
	if err != nil {
		return nil, err
	}
	if err := m.life.begin(); err != nil {
		return nil, errors.Wrapf(err, "getting layer %s", desc.Digest)
	}
	defer m.life.end()
	start := m.eventStart()
	ref, made, err := m.getByBlob(ctx, layer, parent, o)
	ev := Event{Kind: EventGet, Reason: ReasonHit, Cause: CauseBlob}
	if made {
		ev = Event{Kind: EventNew, Reason: "blob", Cause: layer.newCause}
	}
	if err != nil {
		if ev.Err = err; !made {
			ev.Reason, ev.Cause = ReasonMiss, missCause(err)
		}
		m.observe(ev, start)
		return nil, errors.Wrapf(err, "getting layer %s", desc.Digest)
	}
	ev.ID = ref.id
	m.observe(ev, start)
	return ref, nil
}

// getByBlob finds or makes the record of a layer on a parent; made tells which, or which was tried.
func (m *manager) getByBlob(ctx context.Context, layer *layerBlob, parent ImmutableRef, o refOptions) (_ *immutableRef, made bool, err error) {
	if err := m.needBlob(ctx, layer.desc.Digest, o.handlers); err != nil {
		return nil, false, err
	}
	if own, ok := parent.(*immutableRef); ok && own == nil {
		parent = nil
	}
	var below *graph.Record
	var on address
	if parent != nil {
		if below, on, err = m.addressableParent(ctx, parent, o); err != nil {
			return nil, false, err
		}
	}
	layer.address = on.plus(layer.id)
	kept := false // the link on below belongs to a new record
	defer func() {
		if below != nil && !kept {
			m.unlink(ctx, below)
		}
	}()
	found, err := m.reusable(ctx, layer, below, o)
	if err != nil {
		return nil, false, err
	}
	if found == nil {
		if found, made, err = m.findOrMake(ctx, layer, below, o); err != nil {
			return nil, true, err
		}
	}
	var ref *immutableRef
	if kept = made; made {
		ref, err = m.takeNew(ctx, found, o)
	} else {
		ref, err = m.takeReused(ctx, found, o)
	}
	return ref, made, err
}

// findOrMake makes the record of a layer, unless an identical call has just done so (spec MGR-26). Only such
// calls wait for each other, and only until the record is there.
func (m *manager) findOrMake(ctx context.Context, layer *layerBlob, below *graph.Record, o refOptions) (found *graph.Candidate, made bool, err error) {
	leave, err := enterSlot(ctx, m, &m.blobSlots, layer.blobChain.String(), Event{Reason: PoolLayer, Digest: layer.desc.Digest})
	if err != nil {
		return nil, false, err
	}
	defer leave()
	found, err = m.reusable(ctx, layer, below, o)
	if found != nil || err != nil {
		return found, false, err
	}
	found, err = m.newFromBlob(ctx, layer, below, o)
	return found, true, err
}

// takeNew hands out the ref to a record just made, extracting it first if that was asked for. If that fails
// nothing of the record stays, unless somebody else found it meanwhile (spec MGR-25, quirk Q23).
func (m *manager) takeNew(ctx context.Context, c *graph.Candidate, o refOptions) (*immutableRef, error) {
	if o.unlazyWanted {
		if err := m.materialize(ctx, c.Record, source{handlers: o.handlers, session: o.unlazy}); err != nil {
			m.settle(ctx, c.Record, m.g.Abandon(c.Record))
			return nil, err
		}
	}
	return m.newImmutableRef(c.Record, c.ID, nil, o.handlers, true), nil
}

// takeReused turns the ref that reusable took into the caller's. Records that are reused are extracted
// on request like new ones (quirk Q02).
func (m *manager) takeReused(ctx context.Context, c *graph.Candidate, o refOptions) (*immutableRef, error) {
	err := (&refMetadata{m: m, id: c.ID}).addImageRefs(o.imageRefs)
	if err == nil && o.unlazyWanted {
		err = m.materializeAgain(ctx, c.Record, source{handlers: o.handlers, session: o.unlazy})
	}
	if err != nil {
		m.settle(ctx, c.Record, m.g.UndoRef(c.Record))
		return nil, err
	}
	if !o.noUpdate {
		m.g.Trigger(c.Record)
	}
	return m.newImmutableRef(c.Record, c.ID, nil, o.handlers, !o.noUpdate), nil
}

// needBlob makes sure that a blob can be had (spec MGR-17). There is none for a layer without content.
func (m *manager) needBlob(ctx context.Context, d digest.Digest, dhs DescHandlers) error {
	if d == "" || dhs[d] != nil {
		return nil
	}
	local, err := m.blobLocal(ctx, d)
	if err == nil && !local {
		err = NeedsRemoteProviderError{d}
	}
	return err
}

// addressableParent takes a link on the record of a parent whose layers are known, with all it needs to be
// extracted, and returns its address, too (spec MGR-21).
func (m *manager) addressableParent(ctx context.Context, parent ImmutableRef, o refOptions) (rec *graph.Record, at address, err error) {
	if rec, _, err = m.resolveParent(ctx, parent, o); err != nil {
		return nil, at, err
	}
	err = m.checkLazy(ctx, rec, o.handlers)
	if err == nil {
		var ok bool
		if at, ok = m.addressOf(rec); ok {
			err = m.finalize(ctx, rec)
		} else {
			err = errors.Wrapf(errNonAddressable, "record %q", parent.ID())
		}
	}
	if err != nil {
		m.unlink(ctx, rec)
		return nil, at, errors.Wrap(err, "parent")
	}
	return rec, at, nil
}

// reusable takes a ref, which does not count as a use yet, to the first record that consists of exactly the
// layers asked for and can be opened (spec MGR-23); nil if there is none.
func (m *manager) reusable(ctx context.Context, layer *layerBlob, below *graph.Record, o refOptions) (*graph.Candidate, error) {
	for _, c := range m.g.Reusable(layer.chain.String(), layer.blobChain.String(), below, layer.id) {
		if !m.g.Clone(c.Record, c.ID, false) {
			continue
		}
		err := m.checkLazy(ctx, c.Record, o.handlers)
		if err == nil {
			return &c, nil
		}
		m.settle(ctx, c.Record, m.g.UndoRef(c.Record))
		if missing := (NeedsRemoteProviderError{}); !errors.As(err, &missing) {
			return nil, err
		}
	}
	return nil, nil //nolint:nilnil // there is none
}

// newFromBlob makes a record of a layer that is known by its blob only; nothing is extracted yet (spec MGR-27).
func (m *manager) newFromBlob(ctx context.Context, layer *layerBlob, below *graph.Record, o refOptions) (*graph.Candidate, error) {
	b := birth{id: newID(), state: graph.Lazy, opts: o, blob: layer.row()}
	var err error
	if b.snapshotID, err = m.snapshotFor(ctx, layer, below, o); err != nil {
		return nil, err
	}
	if d := layer.desc.Digest; d != "" {
		b.resources = []leases.Resource{contentResource(d.String())}
		if o.handlers[d] == nil {
			// It was there before the lease was, so it may have gone in between.
			b.leased = func(ctx context.Context) error { return m.needBlob(ctx, d, nil) }
		}
	}
	if below != nil {
		b.kind, b.parents, b.parentIDs = graph.Layer, []*graph.Record{below}, []string{m.g.ImmutableID(below)}
	}
	rec, err := m.stage(ctx, b)
	if err != nil {
		return nil, errors.Wrapf(err, "making record %q", b.id)
	}
	return &graph.Candidate{Record: rec, ID: b.id, SnapshotID: b.snapshotID, Blob: b.blob}, nil
}

// snapshotFor returns the ID of the snapshot for a new record: that of a record with the same tree, if there is
// one (spec MGR-29), else one derived from the chain ID, which tells that its content is verified.
func (m *manager) snapshotFor(ctx context.Context, layer *layerBlob, below *graph.Record, o refOptions) (string, error) {
	derived := snapshot.LayerSnapshotID(layer.chain)
	layer.newCause = CauseUnknown
	for _, c := range m.g.Linkable(layer.chain.String(), below, layer.id) {
		if c.SnapshotID == derived {
			layer.newCause = CauseTree
			break
		}
		err := m.checkLazy(ctx, c.Record, o.handlers)
		var missing NeedsRemoteProviderError
		switch {
		case err == nil:
			layer.newCause = CauseTree
			return c.SnapshotID, nil
		case !errors.As(err, &missing):
			return "", err
		}
	}
	return derived, nil
}
