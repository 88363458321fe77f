package winlayers

import (
	"context"
	"runtime"

	"github.com/containerd/containerd/v2/core/images"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
)

// LayerType is what a record says whose layer is one of Windows.
const LayerType = "windows"

type modeKey struct{}

// WithLayerMode returns a context in which layers are those of Windows.
func WithLayerMode(ctx context.Context) context.Context {
	return context.WithValue(ctx, modeKey{}, true)
}

// LayerContext returns WithLayerMode's context if layerType is LayerType, else ctx. It fits the hook of that name
// of the cache manager.
func LayerContext(ctx context.Context, layerType string) context.Context {
	if layerType == LayerType {
		return WithLayerMode(ctx)
	}
	return ctx
}

// layerMode tells whether layers are to be translated.
func layerMode(ctx context.Context) bool {
	return runtime.GOOS != "windows" && ctx.Value(modeKey{}) != nil
}

// presented is the media type that containerd's parts know a layer by: of the one that Docker calls its own for zstd, they know OCI's.
func presented(mediaType string) string {
	if mediaType == images.MediaTypeDockerSchema2LayerZstd {
		return ocispecs.MediaTypeImageLayerZstd
	}
	return mediaType
}
