package codec_test

import (
	"io"
	"testing"

	digest "github.com/opencontainers/go-digest"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
)

// FuzzBlob: whatever a blob holds, looking at it and reading it ends, with content or an error.
func FuzzBlob(f *testing.F) {
	data := archive(f, 1, 1000)
	for _, of := range all {
		f.Add(compress(f, of, compression.Config{}, data, 1))
	}
	whole := compress(f, codec.EStargz, compression.Config{}, data, 1)
	f.Add(whole[:len(whole)-51])
	f.Add(whole[len(whole)-51:])
	f.Fuzz(func(t *testing.T, blob []byte) {
		store := &memory{data: blob}
		desc := ocispecs.Descriptor{MediaType: ocispecs.MediaTypeImageLayerGzip, Digest: digest.FromBytes(blob), Size: int64(len(blob))}
		is, err := codec.IsEStargz(ctx, store, desc.Digest)
		if err != nil {
			t.Fatal(err)
		}
		needs, err := codec.Gzip.NeedsConversion(ctx, store, desc)
		if err != nil || needs != is {
			t.Fatal(needs, err)
		}
		r, err := codec.Gzip.Decompress(ctx, store, desc)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20)) // an error is as good as any
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
