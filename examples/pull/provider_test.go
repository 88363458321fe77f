package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/internal/console"
)

const blobText = "0123456789"

// stream is a source of one blob.
type stream struct {
	memory
	rc func() io.ReadCloser
}

func (s stream) open(context.Context, ocispecs.Descriptor) (io.ReadCloser, error) { return s.rc(), nil }

type seekable struct{ *strings.Reader }

func (seekable) Close() error { return nil }

func openBlob(ctx context.Context, t *testing.T, size int64, rc io.ReadCloser) (content.ReaderAt, *meter) {
	t.Helper()
	desc := ocispecs.Descriptor{Digest: digest.FromString(blobText), Size: size}
	m := newMeter(&image{layers: []ocispecs.Descriptor{desc}}, console.NewView(io.Discard, nil))
	t.Cleanup(m.close)
	ra, err := provider{stream{rc: func() io.ReadCloser { return rc }}, m}.ReaderAt(ctx, desc)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, ra.Close()) })
	return ra, m
}

// A stream serves reads at any place, if it can be moved there, and the meter sees how far it got.
func TestProviderReads(t *testing.T) {
	ra, m := openBlob(t.Context(), t, 10, seekable{strings.NewReader(blobText)})
	require.Equal(t, int64(10), ra.Size())
	buf := make([]byte, 4)
	n, err := ra.ReadAt(buf, 4)
	require.NoError(t, err)
	require.Equal(t, "4567", string(buf[:n]))
	require.Equal(t, int64(8), m.all()[0].read)
	n, err = ra.ReadAt(buf, 0)
	require.NoError(t, err)
	require.Equal(t, "0123", string(buf[:n]))
	require.Equal(t, int64(8), m.all()[0].read, "it does not go back")
	require.Equal(t, pulling, m.all()[0].phase)
	n, err = ra.ReadAt(buf, 8)
	require.ErrorIs(t, err, io.EOF)
	require.Equal(t, "89", string(buf[:n]))
	_, err = ra.ReadAt(buf, 10)
	require.ErrorIs(t, err, io.EOF)
	_, err = ra.ReadAt(buf, -1)
	require.True(t, errdefs.IsInvalidArgument(err))
	require.NoError(t, ra.Close())
	require.Equal(t, pulled, m.all()[0].phase)
	_, err = ra.ReadAt(buf, 0)
	require.True(t, errdefs.IsFailedPrecondition(err))
}

// A stream that cannot be moved is read in order only.
func TestProviderOfPlainStream(t *testing.T) {
	ra, _ := openBlob(t.Context(), t, 10, io.NopCloser(io.LimitReader(strings.NewReader(blobText), 10)))
	got, err := io.ReadAll(content.NewReader(ra))
	require.NoError(t, err)
	require.Equal(t, blobText, string(got))
	_, err = ra.ReadAt(make([]byte, 1), 3)
	require.True(t, errdefs.IsNotImplemented(err))
}

// A stream that ends early, one that is longer than it should be, and one nobody waits for any more.
func TestProviderOfBadStream(t *testing.T) { // fault 11
	ra, m := openBlob(t.Context(), t, 20, seekable{strings.NewReader(blobText)})
	_, err := io.ReadAll(content.NewReader(ra))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorContains(t, err, digest.FromString(blobText).String())
	require.Equal(t, pulling, m.all()[0].phase)

	ra, _ = openBlob(t.Context(), t, 5, seekable{strings.NewReader(blobText)})
	got, err := io.ReadAll(content.NewReader(ra))
	require.NoError(t, err)
	require.Equal(t, "01234", string(got), "the digest will tell")

	ctx, cancel := context.WithCancel(t.Context())
	ra, _ = openBlob(ctx, t, 10, seekable{strings.NewReader(blobText)})
	cancel()
	_, err = ra.ReadAt(make([]byte, 1), 0)
	require.ErrorIs(t, err, context.Canceled)
}
