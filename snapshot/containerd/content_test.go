package containerd_test

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/containerd"
)

// recordingStore answers Info and ReaderAt with err.
type recordingStore struct {
	recorder
	err error
}

func (r *recordingStore) Info(ctx context.Context, _ digest.Digest) (content.Info, error) {
	r.note(ctx, "Info")
	return content.Info{}, r.err
}

func (r *recordingStore) Update(ctx context.Context, info content.Info, _ ...string) (content.Info, error) {
	r.note(ctx, "Update")
	return info, nil
}

func (r *recordingStore) Walk(ctx context.Context, _ content.WalkFunc, _ ...string) error {
	r.note(ctx, "Walk")
	return nil
}

func (r *recordingStore) Delete(ctx context.Context, _ digest.Digest) error {
	r.note(ctx, "Delete")
	return nil
}

func (r *recordingStore) Status(ctx context.Context, _ string) (content.Status, error) {
	r.note(ctx, "Status")
	return content.Status{}, nil
}

func (r *recordingStore) ListStatuses(ctx context.Context, _ ...string) ([]content.Status, error) {
	r.note(ctx, "ListStatuses")
	return nil, nil
}

func (r *recordingStore) Abort(ctx context.Context, _ string) error {
	r.note(ctx, "Abort")
	return nil
}

func (r *recordingStore) ReaderAt(ctx context.Context, _ ocispecs.Descriptor) (content.ReaderAt, error) {
	r.note(ctx, "ReaderAt")
	return nil, r.err
}

func (r *recordingStore) Writer(ctx context.Context, _ ...content.WriterOpt) (content.Writer, error) {
	r.note(ctx, "Writer")
	if r.err != nil {
		return nil, r.err
	}
	return &recordingWriter{r: &r.recorder}, nil
}

type recordingWriter struct {
	content.Writer
	r *recorder
}

func (w *recordingWriter) Commit(ctx context.Context, _ int64, _ digest.Digest, _ ...content.Opt) error {
	w.r.note(ctx, "Commit")
	return nil
}

// TestContentContexts: every call in the namespace, the writer's Commit too, and nothing else of the contexts
// changed (spec SNP-6).
func TestContentContexts(t *testing.T) {
	r := &recordingStore{}
	first := containerd.NewContentStore(r, "first")
	for _, s := range []*containerd.Store{first, first.WithNamespace("second"), first} {
		w, err := s.Writer(t.Context())
		require.NoError(t, err)
		checkContexts(t, &r.recorder, s.Namespace(), []method{
			{"Info", func(ctx context.Context) error { _, err := s.Info(ctx, "d"); return err }},
			{"Update", func(ctx context.Context) error { _, err := s.Update(ctx, content.Info{}); return err }},
			{"Walk", func(ctx context.Context) error { return s.Walk(ctx, nil) }},
			{"Status", func(ctx context.Context) error { _, err := s.Status(ctx, "r"); return err }},
			{"ListStatuses", func(ctx context.Context) error { _, err := s.ListStatuses(ctx); return err }},
			{"Abort", func(ctx context.Context) error { return s.Abort(ctx, "r") }},
			{"ReaderAt", func(ctx context.Context) error { _, err := s.ReaderAt(ctx, ocispecs.Descriptor{}); return err }},
			{"Writer", func(ctx context.Context) error { _, err := s.Writer(ctx); return err }},
			{"Commit", func(ctx context.Context) error { return w.Commit(ctx, 0, "") }},
		})
	}
	require.Equal(t, "first", first.Namespace())
	require.Equal(t, "second", first.WithNamespace("second").Namespace())
}

// TestContentDeleteForbidden: a typed error, with a fallback too, and the store is not asked (spec SNP-6).
func TestContentDeleteForbidden(t *testing.T) {
	r := &recordingStore{}
	s := containerd.NewContentStore(r, "ns")
	for _, store := range []content.Store{s, s.WithFallbackNS("other")} {
		err := store.Delete(t.Context(), "sha256:x")
		require.True(t, errdefs.IsPermissionDenied(err), "%v", err)
	}
	require.Empty(t, r.calls)
}

// TestFallbackOnNotFoundOnly: no other error makes the fallback answer (spec SNP-6).
func TestFallbackOnNotFoundOnly(t *testing.T) {
	for _, tc := range []struct {
		err   error
		calls int
	}{{nil, 1}, {errdefs.ErrUnavailable, 1}, {context.Canceled, 1}, {errdefs.ErrNotFound, 2}} {
		r := &recordingStore{err: tc.err}
		s := containerd.NewContentStore(r, "ns").WithFallbackNS("other")
		_, err := s.Info(t.Context(), "d")
		require.ErrorIs(t, err, tc.err)
		require.Len(t, r.calls, tc.calls)
		_, err = s.ReaderAt(t.Context(), ocispecs.Descriptor{})
		require.ErrorIs(t, err, tc.err)
		require.Len(t, r.calls, 2*tc.calls)
	}
}

// TestFallbackWritesGoToMain: everything but reading concerns the main namespace (spec SNP-6).
func TestFallbackWritesGoToMain(t *testing.T) {
	r := &recordingStore{}
	s := containerd.NewContentStore(r, "main").WithFallbackNS("other")
	w, err := s.Writer(t.Context())
	require.NoError(t, err)
	checkContexts(t, &r.recorder, "main", []method{
		{"Update", func(ctx context.Context) error { _, err := s.Update(ctx, content.Info{}); return err }},
		{"Status", func(ctx context.Context) error { _, err := s.Status(ctx, "r"); return err }},
		{"ListStatuses", func(ctx context.Context) error { _, err := s.ListStatuses(ctx); return err }},
		{"Abort", func(ctx context.Context) error { return s.Abort(ctx, "r") }},
		{"Writer", func(ctx context.Context) error { _, err := s.Writer(ctx); return err }},
		{"Commit", func(ctx context.Context) error { return w.Commit(ctx, 0, "") }},
	})
	r.err = errdefs.ErrUnavailable
	_, err = s.Writer(t.Context())
	require.True(t, errdefs.IsUnavailable(err))
}
