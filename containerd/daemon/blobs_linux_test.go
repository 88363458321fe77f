package daemon

import (
	"bytes"
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
	"github.com/layercache/cache/testutil/tree"
)

// origin is where layers are pulled from: a registry in memory.
type origin struct {
	blobs map[digest.Digest][]byte
	// read, if set, is called before something is read, with its offset.
	read func(off int64)
}

// layer makes an uncompressed layer of the entries, and returns its descriptor.
func (o *origin) layer(t testing.TB, entries ...tree.Entry) ocispecs.Descriptor {
	t.Helper()
	data, err := tree.Tar(entries...)
	require.NoError(t, err)
	d := digest.FromBytes(data)
	if o.blobs == nil {
		o.blobs = map[digest.Digest][]byte{}
	}
	o.blobs[d] = data
	return ocispecs.Descriptor{
		MediaType: ocispecs.MediaTypeImageLayer, Digest: d, Size: int64(len(data)),
		Annotations: map[string]string{"containerd.io/uncompressed": d.String()},
	}
}

func (o *origin) ReaderAt(_ context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	data, ok := o.blobs[desc.Digest]
	if !ok {
		return nil, errdefs.ErrNotFound
	}
	return blob{bytes.NewReader(data), o}, nil
}

type blob struct {
	*bytes.Reader
	o *origin
}

func (b blob) ReadAt(p []byte, off int64) (int, error) {
	if b.o.read != nil {
		b.o.read(off)
	}
	return b.Reader.ReadAt(p, off)
}

func (blob) Close() error { return nil }

// handlers says that all layers made so far are to be had here.
func (o *origin) handlers() cache.DescHandlers {
	dhs := cache.DescHandlers{}
	for d := range o.blobs {
		dhs[d] = &cache.DescHandler{Provider: func(session.Group) content.Provider { return o }, Ref: "origin"}
	}
	return dhs
}

// get returns a ref to the record of a layer.
func (o *origin) get(t testing.TB, m cache.Manager, desc ocispecs.Descriptor, parent cache.ImmutableRef) cache.ImmutableRef {
	t.Helper()
	ref, err := m.GetByBlob(t.Context(), desc, parent, o.handlers())
	require.NoError(t, err)
	return ref
}
