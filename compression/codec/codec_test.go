package codec_test

import (
	"testing"

	"github.com/containerd/errdefs"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/compression"
	"github.com/layercache/cache/compression/codec"
)

var all = []compression.Type{codec.Uncompressed, codec.Gzip, codec.EStargz, codec.Zstd}

func TestTypes(t *testing.T) { // spec COMP-1
	level := compression.Config{}.SetLevel(3)
	for _, c := range []struct {
		of                             compression.Type
		name, mediaType                string
		ownDiff, ownDiffLevel, onlyOCI bool
	}{
		{codec.Uncompressed, "uncompressed", ocispecs.MediaTypeImageLayer, false, false, false},
		{codec.Gzip, "gzip", ocispecs.MediaTypeImageLayerGzip, false, true, false},
		{codec.EStargz, "estargz", ocispecs.MediaTypeImageLayerGzip, true, true, true},
		{codec.Zstd, "zstd", ocispecs.MediaTypeImageLayerZstd, true, true, false},
	} {
		require.Equal(t, c.name, c.of.String())
		require.Equal(t, c.mediaType, c.of.MediaType(), c.name)
		require.Equal(t, c.ownDiff, c.of.NeedsComputeDiffBySelf(compression.Config{}), c.name)
		require.Equal(t, c.ownDiffLevel, c.of.NeedsComputeDiffBySelf(level), c.name)
		require.Equal(t, c.onlyOCI, c.of.OnlySupportOCITypes(), c.name)
		parsed, err := codec.Parse(c.name)
		require.NoError(t, err)
		require.Equal(t, c.of, parsed)
	}
	for _, name := range []string{"", "GZIP", "lz4"} {
		_, err := codec.Parse(name)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, name)
	}
}

func TestFromMediaType(t *testing.T) { // spec COMP-2, DESC-2
	for mediaType, want := range map[string]compression.Type{
		"application/vnd.oci.image.layer.v1.tar":                       codec.Uncompressed,
		"application/vnd.oci.image.layer.v1.tar+gzip":                  codec.Gzip,
		"application/vnd.oci.image.layer.v1.tar+zstd":                  codec.Zstd,
		"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": codec.Gzip,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            codec.Gzip,
		"application/vnd.docker.image.rootfs.foreign.diff.tar":         codec.Uncompressed,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":            codec.Zstd,
	} {
		got, err := codec.FromMediaType(mediaType)
		require.NoError(t, err)
		require.Equal(t, want, got, mediaType)
	}
	for _, mediaType := range []string{"", ocispecs.MediaTypeImageManifest, "application/vnd.oci.image.layer.v1.tar+br"} {
		_, err := codec.FromMediaType(mediaType)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, mediaType)
	}
}

func TestParseAttributes(t *testing.T) { // spec COMP-6
	nine, minus := 9, -1
	for _, c := range []struct {
		attrs map[string]string
		want  compression.Config
	}{
		{nil, compression.Config{Type: codec.Gzip}},
		{map[string]string{"compression": "zstd", "name": "x"}, compression.Config{Type: codec.Zstd}},
		{map[string]string{"force-compression": ""}, compression.Config{Type: codec.Gzip, Force: true}},
		{map[string]string{"force-compression": "false"}, compression.Config{Type: codec.Gzip}},
		{map[string]string{"force-compression": "1", "compression-level": "9"}, compression.Config{Type: codec.Gzip, Force: true, Level: &nine}},
		{map[string]string{"compression": "estargz", "compression-level": "-1"}, compression.Config{Type: codec.EStargz, Level: &minus}},
		{map[string]string{"compression": "uncompressed", "compression-level": "9"}, compression.Config{Type: codec.Uncompressed, Level: &nine}},
	} {
		got, err := codec.ParseAttributes(c.attrs)
		require.NoError(t, err, "%v", c.attrs)
		require.Equal(t, c.want, got, "%v", c.attrs)
	}
	for _, attrs := range []map[string]string{
		{"compression": "xz"},
		{"compression": ""},
		{"force-compression": "yes please"},
		{"compression-level": ""},
		{"compression-level": "9.5"},
		{"compression-level": "10"},
		{"compression-level": "-2"},
		{"compression": "zstd", "compression-level": "0"},
		{"compression": "zstd", "compression-level": "23"},
		{"compression": "estargz", "compression-level": "99999999999999999999"},
	} {
		_, err := codec.ParseAttributes(attrs)
		require.ErrorIs(t, err, errdefs.ErrInvalidArgument, "%v", attrs)
	}
}
