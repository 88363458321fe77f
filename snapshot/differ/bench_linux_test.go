package differ_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot/differ"
	"github.com/layercache/cache/testutil/need"
	"github.com/layercache/cache/testutil/tree"
)

// BenchmarkCompare packs a layer of 5000 files of 4 KiB in 100 directories, as a directory and as an overlay's topmost one, with this package and
// with containerd's walking differ (row 16 of the benchmarks has BuildKit's).
func BenchmarkCompare(b *testing.B) {
	need.Overlay(b)
	var entries []tree.Entry
	for d := range 100 {
		entries = append(entries, tree.Dir(fmt.Sprintf("d%d", d)))
		for f := range 50 {
			entries = append(entries, tree.File(fmt.Sprintf("d%d/f%d", d, f), text(4096, d*50+f)))
		}
	}
	base, layer := write(b, tree.File("base", "x")), write(b, entries...)
	overlay := []mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"index=off", "lowerdir=" + layer + ":" + base}}}
	type side struct {
		name         string
		compare      func(context.Context, []mount.Mount, []mount.Mount, ...diff.Opt) (ocispecs.Descriptor, error)
		lower, upper []mount.Mount
	}
	for _, mediaType := range []string{ocispecs.MediaTypeImageLayer, ocispecs.MediaTypeImageLayerGzip, ocispecs.MediaTypeImageLayerZstd} {
		cs := newStore(b)
		d, w := differ.New(cs), walking.NewWalkingDiff(cs)
		for _, s := range []side{
			{"bind/ours", d.Compare, nil, bind(layer)},
			{"bind/containerd", w.Compare, nil, bind(layer)},
			{"overlay/ours", d.CompareUpper, bind(base), overlay},
			{"overlay/containerd", w.Compare, bind(base), overlay},
		} {
			b.Run(strings.TrimPrefix(mediaType, "application/vnd.oci.image.layer.v1.")+"/"+s.name, func(b *testing.B) {
				b.ReportAllocs()
				var last digest.Digest
				for b.Loop() {
					desc, err := s.compare(b.Context(), s.lower, s.upper, diff.WithMediaType(mediaType))
					require.NoError(b, err)
					last = desc.Digest
					b.StopTimer() // the next one shall not find the blob
					require.NoError(b, cs.Delete(b.Context(), last))
					b.StartTimer()
				}
				b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/5000, "us/file")
			})
		}
	}
}

// text compresses about as well as programs do.
func text(n, seed int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d func %x(ctx context.Context) error { return nil }\n", seed, (seed+i)*2654435761)
	}
	return b.String()[:n]
}
