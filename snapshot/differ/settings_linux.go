package differ

import (
	"context"
	"crypto/rand"
	"io"
	"maps"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/pkg/epoch"
	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pkg/errors"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
)

// settings are what the options of a call come to.
type settings struct {
	mediaType string
	// ref names the upload; own says that nobody else knows it.
	ref    string
	own    bool
	labels map[string]string
	// compress is nil if the blob is the archive.
	compress func(dest io.Writer, mediaType string) (io.WriteCloser, error)
	// latest is the upper bound of modification times, nil if there is none.
	latest *time.Time
}

func newSettings(ctx context.Context, opts []diff.Opt) (*settings, error) {
	var c diff.Config
	for _, opt := range opts {
		if err := opt(&c); err != nil {
			return nil, errors.Wrap(err, "option for packing a layer")
		}
	}
	s := &settings{mediaType: c.MediaType, ref: c.Reference, labels: maps.Clone(c.Labels), compress: c.Compressor, latest: c.SourceDateEpoch}
	if s.latest == nil {
		s.latest = epoch.FromContext(ctx)
	}
	if s.labels == nil {
		s.labels = map[string]string{}
	}
	if s.ref == "" {
		s.ref, s.own = "layer-"+rand.Text(), true
	}
	if s.compress != nil {
		if s.mediaType == "" {
			return nil, errors.Wrap(errdefs.ErrInvalidArgument, "a compressor for layers without a media type")
		}
		return s, nil
	}
	if s.mediaType == "" {
		s.mediaType = ocispecs.MediaTypeImageLayerGzip
	}
	t, err := codec.FromMediaType(s.mediaType)
	if err != nil {
		return nil, err
	}
	if t != codec.Uncompressed {
		compress, _ := t.Compress(ctx, compression.Config{})
		s.compress = compress
	}
	return s, nil
}
