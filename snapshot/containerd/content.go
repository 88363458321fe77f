package containerd

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// NewContentStore returns store with every call made in namespace ns.
func NewContentStore(store content.Store, ns string) *Store {
	return &Store{ns: ns, Store: store}
}

// Store is a content store in one namespace. Delete fails with a permission denied error.
type Store struct {
	ns string
	// Store is what is wrapped. Calls made on it directly carry no namespace.
	content.Store
}

var _ content.Store = (*Store)(nil)

func (s *Store) in(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.ns)
}

// Namespace returns the namespace all calls are made in.
func (s *Store) Namespace() string { return s.ns }

// WithNamespace returns the same content store in another namespace; s stays as it is.
func (s *Store) WithNamespace(ns string) *Store { return NewContentStore(s.Store, ns) }

// WithFallbackNS returns a content store that reads what s does not find from namespace ns. Only Info and
// ReaderAt fall back, and only on not found; Walk visits what s has and then what only ns has. All else,
// writing above all, concerns s alone.
func (s *Store) WithFallbackNS(ns string) content.Store {
	return &fallbackStore{Store: s, fallback: s.WithNamespace(ns)}
}

// Info describes a blob.
func (s *Store) Info(ctx context.Context, dgst digest.Digest) (content.Info, error) {
	return s.Store.Info(s.in(ctx), dgst)
}

// Update changes the labels of a blob.
func (s *Store) Update(ctx context.Context, info content.Info, fieldpaths ...string) (content.Info, error) {
	return s.Store.Update(s.in(ctx), info, fieldpaths...)
}

// Walk calls fn for every blob that one of the filters matches.
func (s *Store) Walk(ctx context.Context, fn content.WalkFunc, filters ...string) error {
	return s.Store.Walk(s.in(ctx), fn, filters...)
}

// Delete is forbidden.
func (s *Store) Delete(_ context.Context, dgst digest.Digest) error {
	return errForbidden("content", dgst.String())
}

// Status describes the unfinished write called ref.
func (s *Store) Status(ctx context.Context, ref string) (content.Status, error) {
	return s.Store.Status(s.in(ctx), ref)
}

// ListStatuses describes the unfinished writes that one of the filters matches.
func (s *Store) ListStatuses(ctx context.Context, filters ...string) ([]content.Status, error) {
	return s.Store.ListStatuses(s.in(ctx), filters...)
}

// Abort gives up the unfinished write called ref.
func (s *Store) Abort(ctx context.Context, ref string) error {
	return s.Store.Abort(s.in(ctx), ref)
}

// ReaderAt opens a blob; the caller closes it.
func (s *Store) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	return s.Store.ReaderAt(s.in(ctx), desc)
}

// Writer begins or resumes a write; the caller closes it. The blob is committed in the store's namespace,
// whatever the context of Commit says.
func (s *Store) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(s.in(ctx), opts...)
	if err != nil {
		return nil, err
	}
	return &nsWriter{Writer: w, ns: s.ns}, nil
}

type nsWriter struct {
	content.Writer
	ns string
}

func (w *nsWriter) Commit(ctx context.Context, size int64, expected digest.Digest, opts ...content.Opt) error {
	return w.Writer.Commit(namespaces.WithNamespace(ctx, w.ns), size, expected, opts...)
}
