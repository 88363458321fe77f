package double

import (
	"bytes"
	"context"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
)

// ingestLife is how long an ingest stays that no lease holds.
const ingestLife = 24 * time.Hour

type contentStore Backend

func (cs *contentStore) b() *Backend { return (*Backend)(cs) }

func blobInfo(dgst string, e blob) content.Info {
	return content.Info{
		Digest:    digest.Digest(dgst),
		Size:      e.size,
		CreatedAt: e.created,
		UpdatedAt: e.updated,
		Labels:    maps.Clone(e.labels),
	}
}

func (cs *contentStore) Info(ctx context.Context, dgst digest.Digest) (info content.Info, err error) {
	err = cs.b().view(ctx, func(tx *tx) error {
		e, ok := tx.blobs.get(dgst.String())
		if !ok {
			return notFound("content", dgst.String())
		}
		info = blobInfo(dgst.String(), e)
		return nil
	})
	return info, err
}

func (cs *contentStore) Update(ctx context.Context, info content.Info, fieldpaths ...string) (out content.Info, err error) {
	cs.contLock.RLock()
	defer cs.contLock.RUnlock()
	err = cs.b().update(ctx, func(tx *tx) (err error) {
		e, ok := tx.blobs.get(info.Digest.String())
		if !ok {
			return notFound("content", info.Digest.String())
		}
		if e.labels, err = setLabels(e.labels, info.Labels, fieldpaths); err != nil {
			return err
		}
		e.updated = tx.b.now().UTC()
		tx.blobs.put(info.Digest.String(), e)
		out = blobInfo(info.Digest.String(), e)
		return nil
	})
	return out, err
}

func (cs *contentStore) Walk(ctx context.Context, fn content.WalkFunc, fs ...string) error {
	filter, err := parseFilters(fs)
	if err != nil {
		return err
	}
	var infos []content.Info
	err = cs.b().view(ctx, func(tx *tx) error {
		for _, dgst := range tx.blobs.keys() {
			e, _ := tx.blobs.get(dgst)
			if info := blobInfo(dgst, e); filter.Match(content.AdaptInfo(info)) {
				infos = append(infos, info)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, info := range infos {
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes the entry; the bytes go at the next garbage collection.
func (cs *contentStore) Delete(ctx context.Context, dgst digest.Digest) error {
	cs.contLock.RLock()
	defer cs.contLock.RUnlock()
	return cs.b().update(ctx, func(tx *tx) error {
		if _, ok := tx.blobs.get(dgst.String()); !ok {
			return notFound("content", dgst.String())
		}
		tx.blobs.del(dgst.String())
		tx.unholdFor(ctx, typeContent, dgst.String())
		tx.b.contDirty = true
		return nil
	})
}

func (cs *contentStore) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	if _, err := cs.Info(ctx, desc.Digest); err != nil {
		return nil, err
	}
	data, ok := cs.disk.read(desc.Digest)
	if !ok {
		return nil, notFound("content", desc.Digest.String())
	}
	return &reader{bytes.NewReader(data)}, nil
}

// reader reads the bytes as they were when it was opened, as an open file does.
type reader struct{ *bytes.Reader }

func (r *reader) Close() error { return nil }

func (cs *contentStore) Status(ctx context.Context, ref string) (st content.Status, err error) {
	err = cs.b().view(ctx, func(tx *tx) error {
		e, ok := tx.ingests.get(ref)
		if ok {
			st, ok = cs.disk.status(e.backendRef)
		}
		if !ok {
			return notFound("ingest", ref)
		}
		st.Ref = ref
		return nil
	})
	return st, err
}

func (cs *contentStore) ListStatuses(ctx context.Context, fs ...string) (found []content.Status, err error) {
	filter, err := parseFilters(fs)
	if err != nil {
		return nil, err
	}
	err = cs.b().view(ctx, func(tx *tx) error {
		for _, ref := range tx.ingests.keys() {
			e, _ := tx.ingests.get(ref)
			st, ok := cs.disk.status(e.backendRef)
			if st.Ref = ref; ok && filter.Match(fields(map[string]string{"ref": ref}, nil)) {
				found = append(found, st)
			}
		}
		return nil
	})
	return found, err
}

func (cs *contentStore) Abort(ctx context.Context, ref string) error {
	cs.contLock.RLock()
	defer cs.contLock.RUnlock()
	return cs.b().update(ctx, func(tx *tx) error {
		e, ok := tx.ingests.get(ref)
		if !ok {
			return notFound("ingest", ref)
		}
		tx.ingests.del(ref)
		tx.unholdFor(ctx, typeIngests, ref)
		if e.expected == "" && !cs.disk.abort(e.backendRef) {
			return notFound("ingest", ref)
		}
		return nil
	})
}

func (cs *contentStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var asked content.WriterOpts
	for _, opt := range opts {
		if err := opt(&asked); err != nil {
			return nil, err
		}
	}
	if asked.Ref == "" {
		return nil, errors.Wrap(errdefs.ErrInvalidArgument, "empty ingest ref")
	}
	cs.contLock.RLock()
	defer cs.contLock.RUnlock()

	var w *writer
	want := asked.Desc.Digest
	err := cs.b().update(ctx, func(tx *tx) error {
		if _, ok := tx.blobs.get(want.String()); ok && want != "" {
			// The lease is extended even though the call fails: the blob is what the caller wanted.
			_, err := tx.holdFor(ctx, typeContent, want.String())
			return err
		}
		data, shared := cs.disk.read(want)
		shared = shared && (asked.Desc.Size == 0 || asked.Desc.Size == int64(len(data)))

		e, _ := tx.ingests.get(asked.Ref)
		if e.backendRef == "" {
			// Not a new key as for a snapshot: containerd numbers ingests per ref and starts over when the
			// entry goes, so an ingest whose bytes outlived its entry is taken up again.
			e.backendRef = asked.Ref
		}
		leased, err := tx.holdFor(ctx, typeIngests, asked.Ref)
		if err != nil {
			return err
		}
		if !leased {
			e.expires = tx.b.now().Add(ingestLife)
		}
		if shared {
			// The bytes of a deleted blob that were not collected yet need not be written again.
			e.expected = want
		} else if err := cs.disk.open(e.backendRef, asked.Desc.Size, tx.b.now()); err != nil {
			return errors.Wrapf(err, "ingest %q", asked.Ref)
		}
		tx.ingests.put(asked.Ref, e)
		w = &writer{b: tx.b, ref: asked.Ref, backendRef: e.backendRef, shared: shared, want: want, size: int64(len(data))}
		return nil
	})
	if err != nil {
		if w != nil {
			_ = w.Close()
		}
		return nil, err
	}
	if w == nil {
		return nil, alreadyExists("content", want.String())
	}
	return w, nil
}
