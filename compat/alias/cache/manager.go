package cache

import (
	"context"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/util/contentutil"
	"github.com/moby/buildkit/util/progress/logs"
	"github.com/moby/buildkit/util/pull/pullprogress"
	"github.com/moby/buildkit/util/tracing"
	"github.com/moby/buildkit/util/winlayers"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	lib "github.com/layercache/cache"
)

// NewManager opens the cache. Of the library's hooks, those that the options leave open do what BuildKit's own cache does there, and refs
// that were released are as good as they are there.
func NewManager(opt ManagerOpt) (Manager, error) {
	opt.Hooks = withDefaults(opt.Hooks)
	opt.UseAfterRelease = true
	return lib.NewManager(opt)
}

func withDefaults(h lib.Hooks) lib.Hooks {
	if h.FetchBlob == nil {
		h.FetchBlob = fetchBlob
	}
	if h.LayerContext == nil {
		h.LayerContext = layerContext
	}
	if h.StartSpan == nil {
		h.StartSpan = startSpan
	}
	return h
}

// fetchBlob transfers a blob as every pull of BuildKit's: with its limit on connections, its retries, which it writes to the
// log of the build step, and its progress bars.
func fetchBlob(ctx context.Context, cs content.Store, provider content.Provider, desc ocispecs.Descriptor, ref string) error {
	shown := &pullprogress.ProviderWithProgress{Provider: provider, Manager: cs}
	return contentutil.Copy(ctx, cs, shown, desc, ref, logs.LoggerFromContext(ctx))
}

// layerContext tells the applier and the differ of BuildKit's workers, by the context alone, that a layer is one of Windows.
func layerContext(ctx context.Context, layerType string) context.Context {
	if layerType == "windows" {
		return winlayers.UseWindowsLayerMode(ctx)
	}
	return ctx
}

// startSpan shows the work on a layer in the trace of the build.
func startSpan(ctx context.Context, name string, desc ocispecs.Descriptor) (_ context.Context, end func()) {
	span, ctx := tracing.StartSpan(ctx, name, trace.WithAttributes(
		attribute.String("digest", desc.Digest.String()),
		attribute.Int64("size", desc.Size),
	))
	return ctx, func() { span.End() }
}
