package cache

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pkg/errors"

	"github.com/layercache/cache/internal/graph"
	"github.com/layercache/cache/metadata"
	"github.com/layercache/cache/usage"
)

// refMetadata is the view of one name's row. It holds no state: typed values are the graph's,
// all others are read from the database, so that every view of a record agrees (spec MV-1).
type refMetadata struct {
	m  *manager
	id string
}

func (r *refMetadata) ID() string { return r.id }

func (r *refMetadata) meta() graph.Meta {
	meta, _ := r.m.g.Meta(r.id)
	return meta
}

// store writes values of the row and then shows them. Setters of one record follow one another, so that
// what memory shows last is what the database holds.
func (r *refMetadata) store(f graph.Field, meta graph.Meta, write func(*metadata.RowWriter) error) error {
	if err := r.m.life.begin(); err != nil {
		return errors.Wrapf(err, "changing record %q", r.id)
	}
	defer r.m.life.end()
	return r.change(f, &meta, write)
}

// change is store for a part of an operation, and for values that write finds out when no other setter is at work.
func (r *refMetadata) change(f graph.Field, meta *graph.Meta, write func(*metadata.RowWriter) error) error {
	m := r.m
	if err := m.life.again(); err != nil {
		return errors.Wrapf(err, "changing record %q", r.id)
	}
	defer m.life.end()
	leave, err := m.metaSlots.Enter(context.Background(), r.id)
	if err != nil {
		return err
	}
	defer leave()
	if !m.g.Has(r.id) {
		return errors.Wrapf(errNotFound, "changing record %q", r.id)
	}
	err = m.store.Write(func(w *metadata.Writer) error {
		row, err := w.Row(r.id)
		if err != nil {
			return err
		}
		return write(row)
	})
	if err != nil {
		if errdefs.IsNotFound(err) {
			err = errors.Wrap(errNotFound, err.Error())
		}
		r.showStored(f)
		return errors.Wrapf(err, "changing record %q", r.id)
	}
	if f != 0 {
		m.g.Patch(r.id, f, meta)
	}
	return nil
}

// showStored has memory show what the row holds after a write whose answer may only have been lost. If that cannot be
// found out, memory stays as it is. The caller keeps other setters out.
func (r *refMetadata) showStored(f graph.Field) {
	if f == 0 {
		return
	}
	_ = r.m.store.ReadRow(r.id, func(view metadata.RowView) error { // the caller has an error to return already
		stored, err := readRow(r.id, view)
		if err == nil {
			r.m.g.Patch(r.id, f, stored.meta)
		}
		return err
	})
}

func (r *refMetadata) set(f graph.Field, meta graph.Meta, key string, value any) error {
	return r.store(f, meta, func(w *metadata.RowWriter) error { return w.Set(key, value, "") })
}

func (r *refMetadata) GetDescription() string { return r.meta().Description }

func (r *refMetadata) SetDescription(text string) error {
	text = storable(text)
	return r.set(graph.FieldDescription, graph.Meta{Description: text}, keyDescription, text)
}

// describe is SetDescription for a part of an operation.
func (r *refMetadata) describe(text string) error {
	text = storable(text)
	return r.change(graph.FieldDescription, &graph.Meta{Description: text}, func(w *metadata.RowWriter) error {
		return w.Set(keyDescription, text, "")
	})
}

func (r *refMetadata) GetCreatedAt() time.Time { return unixTime(r.meta().CreatedAt) }

func (r *refMetadata) SetCreatedAt(t time.Time) error {
	n, err := nanoseconds(t)
	if err != nil {
		return errors.Wrapf(err, "changing record %q", r.id)
	}
	return r.set(graph.FieldCreatedAt, graph.Meta{CreatedAt: n}, keyCreatedAt, n)
}

func (r *refMetadata) HasCachePolicyDefault() bool { return !r.meta().Retain }

func (r *refMetadata) HasCachePolicyRetain() bool { return r.meta().Retain }

func (r *refMetadata) SetCachePolicyDefault() error { return r.setRetain(false) }

func (r *refMetadata) SetCachePolicyRetain() error { return r.setRetain(true) }

func (r *refMetadata) setRetain(retain bool) error {
	return r.set(graph.FieldRetain, graph.Meta{Retain: retain}, keyCachePolicy, policyOf(retain))
}

func (r *refMetadata) Pinned() bool { return r.meta().Pinned }

func (r *refMetadata) SetPinned(pinned bool) error {
	return r.set(graph.FieldPinned, graph.Meta{Pinned: pinned}, keyPinned, pinned)
}

// addImageRefs adds to the names of images that the layer belongs to; nothing is written if all are known
// (spec META-12).
func (r *refMetadata) addImageRefs(refs []string) error {
	if have := r.meta().ImageRefs; len(appendNew(have, refs)) == len(have) {
		return nil
	}
	meta := graph.Meta{}
	return r.change(graph.FieldImageRefs, &meta, func(w *metadata.RowWriter) error {
		meta.ImageRefs = appendNew(r.meta().ImageRefs, refs)
		return w.Set(keyImageRefs, meta.ImageRefs, "")
	})
}

func (r *refMetadata) GetLayerType() string { return r.meta().LayerType }

func (r *refMetadata) SetLayerType(t string) error {
	t = storable(t)
	return r.set(graph.FieldLayerType, graph.Meta{LayerType: t}, keyLayerType, t)
}

func (r *refMetadata) GetRecordType() usage.RecordType { return usage.RecordType(r.meta().RecordType) }

func (r *refMetadata) SetRecordType(t usage.RecordType) error {
	t = usage.RecordType(storable(string(t)))
	return r.set(graph.FieldRecordType, graph.Meta{RecordType: string(t)}, keyRecordType, string(t))
}

func (r *refMetadata) GetEqualMutable() (RefMetadata, bool) {
	id, ok := r.m.g.EqualMutable(r.id)
	if !ok {
		return nil, false
	}
	return &refMetadata{m: r.m, id: id}, true
}

// item is the record's raw row; nil if the record is no more.
func (r *refMetadata) item() *metadata.StorageItem {
	if !r.m.g.Has(r.id) {
		return nil
	}
	it, ok := r.m.store.Get(r.id)
	if !ok {
		return nil
	}
	return it
}

func (r *refMetadata) Get(key string) *metadata.Value {
	if key == keyLastUsedAt || key == keyUsageCount { // in memory they are ahead of the row
		return r.useValue(key)
	}
	it := r.item()
	if it == nil {
		return nil
	}
	return it.Get(key)
}

func (r *refMetadata) useValue(key string) *metadata.Value {
	meta, ok := r.m.g.Meta(r.id)
	n := meta.LastUsedAt
	if key == keyUsageCount {
		n = int64(meta.UsageCount)
	}
	if !ok || n == 0 {
		return nil
	}
	return &metadata.Value{Value: strconv.AppendInt(nil, n, 10)}
}

func (r *refMetadata) GetString(key string) string {
	v := r.Get(key)
	if v == nil {
		return ""
	}
	return jsonString(v.Value)
}

func (r *refMetadata) SetString(key, val, index string) error {
	val = storable(val)
	f, meta, err := r.typed(key, val)
	if err != nil {
		return err
	}
	return r.store(f, meta, func(w *metadata.RowWriter) error { return w.Set(key, val, index) })
}

// typed decodes a string that is about to be stored under one of the keys that are kept in memory. Those
// that say what a record is made of cannot be changed this way.
func (r *refMetadata) typed(key, val string) (graph.Field, graph.Meta, error) {
	switch {
	case key == keyDescription:
		return graph.FieldDescription, graph.Meta{Description: val}, nil
	case key == keyRecordType:
		return graph.FieldRecordType, graph.Meta{RecordType: val}, nil
	case key == keyLayerType:
		return graph.FieldLayerType, graph.Meta{LayerType: val}, nil
	case ownKeys[key]:
		return 0, graph.Meta{}, errors.Wrapf(errInvalid, "changing %q of record %q: the key is the cache's own", key, r.id)
	}
	return 0, graph.Meta{}, nil
}

func (r *refMetadata) GetExternal(key string) ([]byte, error) {
	if err := r.m.life.begin(); err != nil { // or it would look as if the data were not there
		return nil, errors.Wrapf(err, "reading %q of record %q", key, r.id)
	}
	defer r.m.life.end()
	it := r.item()
	if it == nil {
		return nil, errors.Wrapf(errNotFound, "reading %q of record %q", key, r.id)
	}
	return it.GetExternal(key)
}

func (r *refMetadata) SetExternal(key string, data []byte) error {
	return r.store(0, graph.Meta{}, func(w *metadata.RowWriter) error { return w.SetExternal(key, data) })
}

func (r *refMetadata) ClearValueAndIndex(key, indexPrefix string) error {
	f, meta, err := r.typed(key, "")
	if err != nil {
		return err
	}
	return r.store(f, meta, func(w *metadata.RowWriter) error {
		val := ""
		if v := w.Get(key); v != nil {
			val = jsonString(v.Value)
		}
		if err := w.Clear(key); err != nil {
			return err
		}
		if val == "" {
			return nil
		}
		return w.ClearIndex(indexPrefix + val)
	})
}

// storable returns the text that a row holds for text: JSON has no place for bytes that are not UTF-8.
func storable(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// nanoseconds is the opposite of unixTime. A row counts 64 bits of them.
func nanoseconds(t time.Time) (int64, error) {
	if t.IsZero() {
		return 0, nil
	}
	n := t.UnixNano()
	if !time.Unix(0, n).Equal(t) {
		return 0, errors.Wrapf(errInvalid, "time %s is out of range", t)
	}
	return n, nil
}

func unixTime(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns).UTC()
}
