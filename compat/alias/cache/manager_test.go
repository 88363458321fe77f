package cache

import (
	"bytes"
	"context"
	"io"
	"sync"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	contentlocal "github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/util/progress"
	"github.com/moby/buildkit/util/winlayers"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	lib "github.com/layercache/cache"
	"github.com/layercache/cache/local"
)

// flaky is a provider whose first answer is that the connection was reset.
type flaky struct {
	blob []byte
	mu   sync.Mutex
	asks int
}

func (f *flaky) ReaderAt(context.Context, ocispecs.Descriptor) (content.ReaderAt, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.asks++; f.asks == 1 {
		return nil, syscall.ECONNRESET
	}
	return memory{bytes.NewReader(f.blob)}, nil
}

type memory struct{ *bytes.Reader }

func (memory) Close() error { return nil }

// TestFetchBlob: a transfer is tried again, and who watches the build sees why, and how far it is.
func TestFetchBlob(t *testing.T) {
	cs, err := contentlocal.NewStore(t.TempDir())
	require.NoError(t, err)
	blob := bytes.Repeat([]byte("blob"), 1000)
	desc := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayer, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
	reader, ctx, done := progress.NewContext(context.Background())
	provider := &flaky{blob: blob}
	require.NoError(t, withDefaults(lib.Hooks{}).FetchBlob(ctx, cs, provider, desc, "registry.test/image"))
	done(nil)
	require.Equal(t, 2, provider.asks)
	got, err := content.ReadBlob(context.Background(), cs, desc)
	require.NoError(t, err)
	require.Equal(t, blob, got)

	var log []byte
	var shown progress.Status
	for {
		events, err := reader.Read(context.Background())
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		for _, event := range events {
			switch v := event.Sys.(type) {
			case client.VertexLog:
				log = append(log, v.Data...)
			case progress.Status:
				require.Equal(t, desc.Digest.String(), event.ID)
				shown = v
			}
		}
	}
	require.Contains(t, string(log), "retrying in")
	require.Equal(t, len(blob), shown.Total)
	require.NotNil(t, shown.Completed)
}

// TestLayerContext: layers of Windows, and no others, are told to BuildKit's differ.
// spec EXT-11
func TestLayerContext(t *testing.T) {
	hook := withDefaults(lib.Hooks{}).LayerContext
	ctx := context.Background()
	require.Equal(t, ctx, hook(ctx, ""))
	require.Equal(t, winlayers.UseWindowsLayerMode(ctx), hook(ctx, "windows"))
}

// TestHooksOfCaller: what the options set is not replaced.
func TestHooksOfCaller(t *testing.T) {
	var called []string
	h := withDefaults(lib.Hooks{
		FetchBlob: func(context.Context, content.Store, content.Provider, ocispecs.Descriptor, string) error {
			called = append(called, "fetch")
			return nil
		},
		LayerContext: func(ctx context.Context, _ string) context.Context {
			called = append(called, "context")
			return ctx
		},
		StartSpan: func(ctx context.Context, _ string, _ ocispecs.Descriptor) (context.Context, func()) {
			called = append(called, "span")
			return ctx, func() {}
		},
	})
	ctx := context.Background()
	require.NoError(t, h.FetchBlob(ctx, nil, nil, ocispecs.Descriptor{}, ""))
	h.LayerContext(ctx, "windows")
	_, end := h.StartSpan(ctx, "extract", ocispecs.Descriptor{})
	end()
	require.Equal(t, []string{"fetch", "context", "span"}, called)
}

// TestStartSpan: without a trace in the context nothing is recorded, and nothing fails.
func TestStartSpan(t *testing.T) {
	ctx, end := withDefaults(lib.Hooks{}).StartSpan(context.Background(), "extract", ocispecs.Descriptor{Digest: digest.FromString("x"), Size: 1})
	require.False(t, trace.SpanFromContext(ctx).IsRecording())
	end()
}

// TestNewManager: errors of the library come through, and no pointer hides in the interface.
func TestNewManager(t *testing.T) {
	m, err := NewManager(ManagerOpt{})
	require.Error(t, err)
	require.True(t, m == nil)
}

// TestUseAfterRelease: a ref that was released can be mounted, whether its record is there (retained) or went with it.
// spec REF-8
func TestUseAfterRelease(t *testing.T) {
	ctx := context.Background()
	parts, err := local.OpenParts(ctx, t.TempDir(), local.Options{Snapshotter: local.Native})
	require.NoError(t, err)
	m, err := NewManager(parts.ManagerOpt())
	require.NoError(t, err)
	for _, policy := range []RefOption{CachePolicyRetain, CachePolicyDefault} {
		mut, err := m.New(ctx, nil, nil, policy)
		require.NoError(t, err)
		ref, err := mut.Commit(ctx)
		require.NoError(t, err)
		require.NoError(t, ref.Release(ctx))
		mountable, err := ref.Mount(ctx, true, nil)
		require.NoError(t, err)
		mounts, release, err := mountable.Mount()
		require.NoError(t, err)
		require.DirExists(t, mounts[0].Source)
		if release != nil {
			require.NoError(t, release())
		}
	}
	require.NoError(t, m.Close())
	require.NoError(t, parts.Close())
}
