package apply_test

import (
	"bytes"
	"context"
	"os"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/testutil/tree"
)

// blobs is a content store in memory. It counts the readers that are open.
type blobs struct {
	data map[digest.Digest][]byte
	open int
}

// put stores a blob and returns its descriptor.
func (b *blobs) put(data []byte, mediaType string) ocispecs.Descriptor {
	if b.data == nil {
		b.data = map[digest.Digest][]byte{}
	}
	dgst := digest.FromBytes(data)
	b.data[dgst] = data
	return ocispecs.Descriptor{MediaType: mediaType, Digest: dgst, Size: int64(len(data))}
}

func (b *blobs) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	data, ok := b.data[desc.Digest]
	if !ok {
		return nil, errors.Wrapf(errdefs.ErrNotFound, "blob %s", desc.Digest)
	}
	b.open++
	return &blob{Reader: bytes.NewReader(data), blobs: b}, nil
}

type blob struct {
	*bytes.Reader
	blobs *blobs
}

func (b *blob) Close() error { b.blobs.open--; return nil }

func gz(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, err := w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

func zst(t testing.TB, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := zstd.NewWriter(&b)
	require.NoError(t, err)
	_, err = w.Write(data)
	require.NoError(t, err)
	require.NoError(t, w.Close())
	return b.Bytes()
}

// pack makes the archive of a layer. Its entries belong to whoever runs the test, unless they say otherwise.
func pack(t testing.TB, entries ...tree.Entry) []byte {
	t.Helper()
	for i := range entries {
		if entries[i].UID == 0 && entries[i].GID == 0 {
			entries[i].UID, entries[i].GID = os.Geteuid(), os.Getegid()
		}
		if entries[i].Kind == tree.KindHardlink {
			entries[i].Mode = 0o644 // of a file that is not in the archive; others have that of their file
		}
	}
	data, err := tree.Tar(entries...)
	require.NoError(t, err)
	return data
}

func bind(dir string) []mount.Mount {
	return []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}}
}

const layerType = ocispecs.MediaTypeImageLayer

func requireDiffID(t testing.TB, archive []byte, got ocispecs.Descriptor) {
	t.Helper()
	require.Equal(t, ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(archive), Size: int64(len(archive)),
	}, got)
}
