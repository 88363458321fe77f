package ingest

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/stretchr/testify/require"
)

// store answers Writer with the errors in turn, and then with a writer.
type store struct {
	errs   []error
	status error
	asked  []string
}

func (s *store) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	if len(s.errs) == 0 {
		return writer{}, nil
	}
	err := s.errs[0]
	s.errs = s.errs[1:]
	return nil, err
}

func (s *store) Status(_ context.Context, ref string) (content.Status, error) {
	s.asked = append(s.asked, ref)
	return content.Status{Ref: ref}, s.status
}

type writer struct{ content.Writer }

// TestBusyIsWaitedFor: a write of the same name is waited for, and a name that came free meanwhile is taken (spec BLOB-6, fault 13).
func TestBusyIsWaitedFor(t *testing.T) {
	for _, status := range []error{nil, errdefs.ErrNotFound} {
		s := &store{errs: []error{errdefs.ErrUnavailable, errdefs.ErrUnavailable}, status: status}
		w, err := OpenWriter(t.Context(), s, content.WithRef("ref"))
		require.NoError(t, err)
		require.Equal(t, writer{}, w)
		require.Equal(t, []string{"ref", "ref"}, s.asked)
	}
}

// TestGoneIsNotWaitedFor: a store that is not there is no store that is busy: the caller, who may have all the time of the world, is told
// (fault 11).
func TestGoneIsNotWaitedFor(t *testing.T) {
	s := &store{errs: []error{errdefs.ErrUnavailable, errdefs.ErrUnavailable}, status: errdefs.ErrUnavailable}
	_, err := OpenWriter(t.Context(), s, content.WithRef("ref"))
	require.True(t, errdefs.IsUnavailable(err), "%v", err)
	require.Len(t, s.errs, 1)
}

// TestOtherErrors: they are returned at once, and so is "unavailable" when the caller's context ends.
func TestOtherErrors(t *testing.T) {
	_, err := OpenWriter(t.Context(), &store{errs: []error{errdefs.ErrAlreadyExists}}, content.WithRef("ref"))
	require.True(t, errdefs.IsAlreadyExists(err))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = OpenWriter(ctx, &store{errs: []error{errdefs.ErrUnavailable, errdefs.ErrUnavailable, errdefs.ErrUnavailable}}, content.WithRef("ref"))
	require.True(t, err == nil || errdefs.IsUnavailable(err), "%v", err)
	bad := func(*content.WriterOpts) error { return errdefs.ErrInvalidArgument }
	_, err = OpenWriter(t.Context(), &store{}, bad)
	require.True(t, errdefs.IsInvalidArgument(err))
}
