package double

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	"github.com/pkg/errors"
)

// writer writes one blob. While it is open nobody else can write under its ref; closing it without
// a commit keeps what was written, for the next writer of the ref to resume.
type writer struct {
	b          *Backend
	ref        string
	backendRef string
	want       digest.Digest

	mu     sync.Mutex
	closed bool
	// shared says that the bytes are there already and the writer has none of its own.
	shared bool
	size   int64 // of the shared bytes
	result digest.Digest
}

func (w *writer) open() error {
	if w.closed {
		return errors.Wrapf(errdefs.ErrFailedPrecondition, "writer of %q is closed", w.ref)
	}
	return nil
}

// unshare makes the writer one with bytes of its own, the first size of the shared ones.
func (w *writer) unshare(size int64) error {
	if !w.shared {
		return nil
	}
	data, ok := w.b.disk.read(w.want)
	if !ok || size > int64(len(data)) {
		return errors.Wrapf(errdefs.ErrFailedPrecondition, "content %s is gone or short", w.want)
	}
	if err := w.b.disk.open(w.backendRef, 0, w.b.now()); err != nil {
		return err
	}
	w.shared = false
	w.b.disk.write(w.backendRef, data[:size], w.b.now())
	return nil
}

func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.open(); err != nil {
		return 0, err
	}
	if len(p) == 0 {
		return 0, nil
	}
	if err := w.unshare(w.size); err != nil {
		return 0, err
	}
	if !w.b.disk.write(w.backendRef, p, w.b.now()) {
		return 0, errors.Wrapf(errdefs.ErrNotFound, "ingest %q was aborted", w.ref)
	}
	return len(p), nil
}

func (w *writer) Truncate(size int64) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.open(); err != nil {
		return err
	}
	if w.shared {
		return w.unshare(size)
	}
	if size != 0 {
		return errors.Wrap(errdefs.ErrInvalidArgument, "a writer can only be truncated to nothing")
	}
	if !w.b.disk.truncate(w.backendRef, w.b.now()) {
		return errors.Wrapf(errdefs.ErrNotFound, "ingest %q was aborted", w.ref)
	}
	return nil
}

func (w *writer) Digest() digest.Digest {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.result != "":
		return w.result
	case w.shared:
		return w.want
	}
	return digest.FromBytes(w.b.disk.written(w.backendRef))
}

func (w *writer) Status() (content.Status, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.shared {
		return content.Status{Ref: w.ref, Offset: w.size, Total: w.size, Expected: w.want}, nil
	}
	st, ok := w.b.disk.status(w.backendRef)
	if !ok {
		return content.Status{}, notFound("ingest", w.ref)
	}
	st.Ref = w.ref
	return st, nil
}

// Close gives up the ref. Closing again, or after Commit, does nothing.
func (w *writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.close()
	return nil
}

func (w *writer) close() {
	if !w.closed && !w.shared {
		w.b.disk.unlock(w.backendRef)
	}
	w.closed = true
}

func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.open(); err != nil {
		return err
	}
	defer w.close()
	var base content.Info
	for _, opt := range opts {
		if err := opt(&base); err != nil {
			return err
		}
	}
	labels, err := cleanLabels(base.Labels)
	if err != nil {
		return err
	}
	w.b.contLock.RLock()
	defer w.b.contLock.RUnlock()

	exists := false
	err = w.b.update(ctx, func(tx *tx) error {
		dgst, n, err := w.store(size, expected)
		if err != nil {
			return err
		}
		w.result = dgst
		if _, exists = tx.blobs.get(dgst.String()); !exists {
			now := tx.b.now().UTC()
			tx.blobs.put(dgst.String(), blob{size: n, labels: labels, created: now, updated: now})
		}
		tx.ingests.del(w.ref)
		tx.unholdFor(ctx, typeIngests, w.ref)
		_, err = tx.holdFor(ctx, typeContent, dgst.String())
		return err
	})
	if err == nil && exists {
		return alreadyExists("content", w.result.String())
	}
	return err
}

// store checks what was written and moves it to the blobs.
func (w *writer) store(size int64, expected digest.Digest) (digest.Digest, int64, error) {
	dgst, n := w.want, w.size
	if !w.shared {
		data := w.b.disk.written(w.backendRef)
		dgst, n = digest.FromBytes(data), int64(len(data))
		if expected != "" && expected.Validate() == nil {
			dgst = expected.Algorithm().FromBytes(data)
		}
	}
	if size > 0 && size != n {
		return "", 0, errors.Wrapf(errdefs.ErrFailedPrecondition, "ingest %q has %d bytes, expected %d", w.ref, n, size)
	}
	if expected != "" && expected != dgst {
		return "", 0, errors.Wrapf(errdefs.ErrFailedPrecondition, "ingest %q has digest %s, expected %s", w.ref, dgst, expected)
	}
	if !w.shared && !w.b.disk.publish(w.backendRef, dgst) {
		return "", 0, notFound("ingest", w.ref)
	}
	return dgst, n, nil
}
