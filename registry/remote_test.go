package registry

import (
	"context"
	"encoding/json"
	"io"
	"sync"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/remotes"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache"
	"github.com/layercache/cache/session"
)

// uncompressedLabel is the annotation by which a layer's descriptor tells its diff ID.
const uncompressedLabel = "containerd.io/uncompressed"

// remoteImage is an image in the registry as an engine sees it that has read manifest and configuration and no layer.
type remoteImage struct {
	ref      string
	descs    []ocispecs.Descriptor // of the layers, bottom first, with their diff IDs
	provider content.Provider
}

// publish pushes an image and resolves it through the proxy.
func (f *front) publish(t testing.TB, img *image) *remoteImage {
	t.Helper()
	return f.publishAs(t, repoName(t), img)
}

func (f *front) publishAs(t testing.TB, repo string, img *image) *remoteImage {
	t.Helper()
	push(t, repo, img)
	return f.resolve(t, repo)
}

// resolve reads an image's documents through the proxy.
func (f *front) resolve(t testing.TB, repo string) *remoteImage {
	t.Helper()
	ctx := context.Background()
	resolver := newResolver(t)
	name, desc, err := resolver.Resolve(ctx, f.host+"/"+repo+":latest")
	require.NoError(t, err)
	fetcher, err := resolver.Fetcher(ctx, name)
	require.NoError(t, err)
	r := &remoteImage{ref: name, provider: fetchProvider{fetcher}}
	var manifest ocispecs.Manifest
	fetchJSON(t, fetcher, desc, &manifest)
	var config ocispecs.Image
	fetchJSON(t, fetcher, manifest.Config, &config)
	require.Len(t, config.RootFS.DiffIDs, len(manifest.Layers))
	for i, l := range manifest.Layers {
		l.Annotations = map[string]string{uncompressedLabel: config.RootFS.DiffIDs[i].String()}
		r.descs = append(r.descs, l)
	}
	f.forget()
	return r
}

func fetchJSON(t testing.TB, fetcher remotes.Fetcher, desc ocispecs.Descriptor, into any) {
	t.Helper()
	rc, err := fetcher.Fetch(context.Background(), desc)
	require.NoError(t, err)
	defer func() { require.NoError(t, rc.Close()) }()
	require.NoError(t, json.NewDecoder(rc).Decode(into))
}

// handlers returns a handler for every layer.
func (r *remoteImage) handlers() cache.DescHandlers {
	dhs := cache.DescHandlers{}
	for _, desc := range r.descs {
		dhs[desc.Digest] = &cache.DescHandler{
			Provider:    func(session.Group) content.Provider { return r.provider },
			Annotations: desc.Annotations,
			Ref:         r.ref,
		}
	}
	return dhs
}

// fetchProvider serves what a fetcher fetches.
type fetchProvider struct{ remotes.Fetcher }

func (p fetchProvider) ReaderAt(ctx context.Context, desc ocispecs.Descriptor) (content.ReaderAt, error) {
	rc, err := p.Fetch(ctx, desc)
	if err != nil {
		return nil, err
	}
	seeker, ok := rc.(io.ReadSeekCloser)
	if !ok {
		return nil, errors.Errorf("a fetcher's %T cannot seek", rc)
	}
	return &fetchReader{rc: seeker, size: desc.Size}, nil
}

// fetchReader reads from one response as long as it is read in order.
type fetchReader struct {
	mu   sync.Mutex
	rc   io.ReadSeekCloser
	size int64
}

func (r *fetchReader) Size() int64 { return r.size }

func (r *fetchReader) Close() error { return r.rc.Close() }

func (r *fetchReader) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := r.rc.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	n, err := io.ReadFull(r.rc, p)
	if errors.Is(err, io.ErrUnexpectedEOF) && off+int64(n) >= r.size {
		err = io.EOF
	}
	return n, err
}
