package codec_test

import (
	"bytes"
	"context"
	"maps"

	"github.com/containerd/containerd/v2/core/content"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// memory is a content store with one blob, by whatever digest.
type memory struct {
	content.Store
	data   []byte
	labels map[string]string
}

func (m *memory) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	return content.Info{Digest: d, Size: int64(len(m.data)), Labels: maps.Clone(m.labels)}, nil
}

func (m *memory) Update(_ context.Context, info content.Info, _ ...string) (content.Info, error) {
	m.labels = info.Labels
	return info, nil
}

func (m *memory) ReaderAt(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
	return memoryReader{bytes.NewReader(m.data)}, nil
}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }
