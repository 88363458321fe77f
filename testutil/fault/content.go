package fault

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// Operations of a content store, its writers and readers. The key is the digest or the ref; those
// of a writer carry its ref, those of a reader its digest.
const (
	OpContentInfo         = "content.Info"
	OpContentUpdate       = "content.Update"
	OpContentWalk         = "content.Walk"
	OpContentDelete       = "content.Delete"
	OpContentReaderAt     = "content.ReaderAt"
	OpContentStatus       = "content.Status"
	OpContentListStatuses = "content.ListStatuses"
	OpContentAbort        = "content.Abort"
	OpContentWriter       = "content.Writer"
	OpReaderReadAt        = "content.ReaderAt.ReadAt"
	OpReaderClose         = "content.ReaderAt.Close"
	OpWriterWrite         = "content.Writer.Write"
	OpWriterCommit        = "content.Writer.Commit"
	OpWriterStatus        = "content.Writer.Status"
	OpWriterTruncate      = "content.Writer.Truncate"
	OpWriterSync          = "content.Writer.Sync"
	OpWriterClose         = "content.Writer.Close"
)

// Operations of a provider of blobs that are elsewhere, and of its readers. The key is the digest.
const (
	OpProviderReaderAt    = "provider.ReaderAt"
	OpProviderReaderRead  = "provider.ReaderAt.ReadAt"
	OpProviderReaderClose = "provider.ReaderAt.Close"
)

type provider struct {
	f *Faults
	p content.Provider
}

// Provider wraps what delivers blobs from elsewhere, with its readers.
func (f *Faults) Provider(p content.Provider) content.Provider { return &provider{f: f, p: p} }

func (w *provider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := w.f.openReader(ctx, w.p, desc, OpProviderReaderAt)
	if err != nil {
		return nil, err
	}
	ra.read, ra.close = OpProviderReaderRead, OpProviderReaderClose
	return ra, nil
}

// openReader opens a blob as the operation op.
func (f *Faults) openReader(ctx context.Context, p content.Provider, desc ocispecs.Descriptor, op string) (*readerAt, error) {
	key := desc.Digest.String()
	var ra content.ReaderAt
	err := f.Call(ctx, op, key, func() (err error) {
		ra, err = p.ReaderAt(ctx, desc)
		return err
	})
	if err != nil {
		if ra != nil {
			_ = ra.Close() // the caller will never see it; err is what counts
		}
		return nil, err
	}
	return &readerAt{f: f, ra: ra, key: key, ctx: ctx, read: OpReaderReadAt, close: OpReaderClose}, nil
}

type contentStore struct {
	f  *Faults
	cs content.Store
}

// ContentStore wraps a content store with its writers and readers.
func (f *Faults) ContentStore(cs content.Store) content.Store {
	return &contentStore{f: f, cs: cs}
}

func (w *contentStore) Info(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	return get(ctx, w.f, OpContentInfo, dgst.String(), func() (content.Info, error) { return w.cs.Info(ctx, dgst) })
}

func (w *contentStore) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	return get(ctx, w.f, OpContentUpdate, info.Digest.String(), func() (content.Info, error) { return w.cs.Update(ctx, info, fieldpaths...) })
}

func (w *contentStore) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	return w.f.Call(ctx, OpContentWalk, "", func() error { return w.cs.Walk(ctx, fn, filters...) })
}

func (w *contentStore) Delete(ctx context.Context, dgst digest.Digest) error {
	return w.f.Call(ctx, OpContentDelete, dgst.String(), func() error { return w.cs.Delete(ctx, dgst) })
}

func (w *contentStore) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	ra, err := w.f.openReader(ctx, w.cs, desc, OpContentReaderAt)
	if err != nil {
		return nil, err
	}
	return ra, nil
}

func (w *contentStore) Status(ctx context.Context, ref string) (content.Status, error) {
	return get(ctx, w.f, OpContentStatus, ref, func() (content.Status, error) { return w.cs.Status(ctx, ref) })
}

func (w *contentStore) ListStatuses(ctx context.Context, filters ...string) ([]content.Status, error) {
	return get(ctx, w.f, OpContentListStatuses, "", func() ([]content.Status, error) { return w.cs.ListStatuses(ctx, filters...) })
}

func (w *contentStore) Abort(ctx context.Context, ref string) error {
	return w.f.Call(ctx, OpContentAbort, ref, func() error { return w.cs.Abort(ctx, ref) })
}

func (w *contentStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var asked content.WriterOpts
	for _, opt := range opts {
		if err := opt(&asked); err != nil {
			return nil, err
		}
	}
	var cw content.Writer
	err := w.f.Call(ctx, OpContentWriter, asked.Ref, func() (err error) {
		cw, err = w.cs.Writer(ctx, content.WithRef(asked.Ref), content.WithDescriptor(asked.Desc))
		return err
	})
	if err != nil {
		if cw != nil {
			_ = cw.Close() // else its ref would stay locked with nobody to unlock it
		}
		return nil, err
	}
	wrapped := &writer{f: w.f, w: cw, ref: asked.Ref, ctx: ctx}
	if syncer, ok := cw.(content.Syncer); ok {
		return &syncWriter{writer: wrapped, syncer: syncer}, nil
	}
	return wrapped, nil
}

// readerAt keeps the context it was opened with, as the calls of io.ReaderAt carry none. Only its
// Quiet mark counts: a reader outlives the context, and nothing more may end it.
type readerAt struct {
	f   *Faults
	ra  content.ReaderAt
	key string
	ctx context.Context
	// read and close are the names of its operations.
	read, close string
}

func (r *readerAt) ReadAt(p []byte, off int64) (n int, err error) {
	err = r.f.Call(context.WithoutCancel(r.ctx), r.read, r.key, func() (err error) {
		n, err = r.ra.ReadAt(p, off)
		return err
	})
	return n, err
}

func (r *readerAt) Close() error {
	return r.f.Call(context.WithoutCancel(r.ctx), r.close, r.key, r.ra.Close)
}

func (r *readerAt) Size() int64 { return r.ra.Size() }

// writer keeps the context it was opened with for the same reason as readerAt.
type writer struct {
	f   *Faults
	w   content.Writer
	ref string
	ctx context.Context
}

func (w *writer) call(op string, call func() error) error {
	return w.f.Call(context.WithoutCancel(w.ctx), op, w.ref, call)
}

func (w *writer) Write(p []byte) (n int, err error) {
	err = w.call(OpWriterWrite, func() (err error) {
		n, err = w.w.Write(p)
		return err
	})
	return n, err
}

func (w *writer) Close() error { return w.call(OpWriterClose, w.w.Close) }

func (w *writer) Digest() digest.Digest { return w.w.Digest() }

func (w *writer) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	called := false
	err := w.f.Call(ctx, OpWriterCommit, w.ref, func() error {
		called = true
		return w.w.Commit(ctx, size, expected, opts...)
	})
	if !called {
		_ = w.w.Close() // Commit closes the writer also where it fails
	}
	return err
}

func (w *writer) Status() (st content.Status, err error) {
	err = w.call(OpWriterStatus, func() (err error) {
		st, err = w.w.Status()
		return err
	})
	if err != nil {
		return content.Status{}, err
	}
	return st, nil
}

func (w *writer) Truncate(size int64) error {
	return w.call(OpWriterTruncate, func() error { return w.w.Truncate(size) })
}

type syncWriter struct {
	*writer
	syncer content.Syncer
}

// Sync flushes the data written so far.
func (w *syncWriter) Sync() error { return w.call(OpWriterSync, w.syncer.Sync) }
