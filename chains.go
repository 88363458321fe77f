package cache

import (
	"context"
	"slices"

	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
)

// This file addresses records by the blobs that they consist of (spec 4.3).

// address is what layers sum up to; the zero value is that of none.
type address struct{ chain, blobChain digest.Digest }

// plus puts a layer on top (spec MGR-18 to MGR-20).
func (a address) plus(l graph.LayerID) address {
	identity, blob := digest.Digest(l.Identity), chainID(digest.Digest(l.Digest), digest.Digest(l.DiffID))
	if a.chain == "" {
		return address{identity, blob}
	}
	return address{chainID(a.chain, identity), chainID(a.blobChain, blob)}
}

// addresses works out the addresses of records, each once. A record that has none is kept as the zero value.
type addresses struct {
	g     *graph.Graph
	known map[*graph.Record]address
}

// of returns the address of a record: what all its layers make, from the lowest on, or nothing (spec CHAIN-3 to CHAIN-6). So an
// address never speaks of a part of the layers (quirk Q22), and a diff that is its upper's layer has the address of that one
// layer (quirk Q21).
func (a *addresses) of(rec *graph.Record) address {
	var above []*graph.Record
	for ; rec.Kind() == graph.Layer; rec = rec.Parents()[0] {
		if _, ok := a.known[rec]; ok {
			break
		}
		above = append(above, rec)
	}
	at, ok := a.known[rec]
	if !ok {
		at = a.fold(address{}, graph.Layers(rec))
		a.known[rec] = at
	}
	for i := len(above) - 1; i >= 0; i-- {
		if at.chain != "" {
			at = a.fold(at, above[i:i+1])
		}
		a.known[above[i]] = at
	}
	return at
}

// fold puts layers on top. There is no address if one of them is not known well enough.
func (a *addresses) fold(on address, layers []*graph.Record) address {
	for _, r := range layers {
		l := a.g.LayerID(r)
		if l.Identity == "" || l.DiffID == "" || l.Digest == "" { // spec CHAIN-7
			return address{}
		}
		on = on.plus(l)
	}
	return on
}

// storeChains stores the addresses of a record, and of those that it consists of, where they are known by now and not stored yet, in
// one transaction (spec CHAIN-1). Records with legacy layers get none. The caller keeps the record.
func (m *manager) storeChains(ctx context.Context, rec *graph.Record) error {
	if m.g.HasAddress(rec) {
		return nil // and so have those below, unless they were exported for something else
	}
	a := addresses{g: m.g, known: map[*graph.Record]address{}}
	a.of(rec)
	if rec.Kind() == graph.Merge {
		for _, p := range rec.Parents() {
			a.of(p)
		}
	}
	for _, l := range graph.Layers(rec) {
		a.of(l)
	}
	var todo []*graph.Record
	for r, at := range a.known {
		if at.chain != "" && !m.g.Tainted(r) && !m.g.HasAddress(r) {
			todo = append(todo, r)
		}
	}
	if len(todo) == 0 {
		return nil
	}
	leave, err := m.enterNames(ctx, todo)
	if err != nil {
		return err
	}
	defer leave()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	err = m.store.Write(func(w *metadata.Writer) error {
		for _, r := range todo {
			row, err := w.Row(m.g.ImmutableID(r))
			if err != nil {
				return err
			}
			at := a.known[r]
			if err := setChain(row, at.chain.String(), at.blobChain.String()); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return errors.Wrapf(err, "storing the chain IDs of record %q", m.g.ImmutableID(rec))
	}
	for _, r := range todo {
		m.g.SetAddress(r, a.known[r].chain.String(), a.known[r].blobChain.String())
	}
	return nil
}

// enterNames enters the slots of those who write to the rows of records, in which Check and Repair compare rows with memory. All who take several
// do so in order.
func (m *manager) enterNames(ctx context.Context, recs []*graph.Record) (leave func(), err error) {
	names := make([]string, len(recs))
	for i, r := range recs {
		names[i] = m.g.ImmutableID(r)
	}
	slices.Sort(names)
	var leaves []func()
	leave = func() {
		for _, l := range leaves {
			l()
		}
	}
	for _, name := range names {
		l, err := m.metaSlots.Enter(ctx, name)
		if err != nil {
			leave()
			return nil, err
		}
		leaves = append(leaves, l)
	}
	return leave, nil
}
