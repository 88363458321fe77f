// Package layertype knows the media types of layers.
package layertype

// Compression is how a media type says that a layer is compressed.
type Compression int

// The compressions that media types name. Unknown is what a media type says that is none of an ordinary layer.
const (
	Unknown Compression = iota
	None
	Gzip
	Zstd
)

// common are the media types of layers as they are, or as their first bytes tell.
var common = map[string]Compression{
	"application/vnd.oci.image.layer.v1.tar":                       None,
	"application/vnd.oci.image.layer.v1.tar+gzip":                  Gzip,
	"application/vnd.oci.image.layer.v1.tar+zstd":                  Zstd,
	"application/vnd.oci.image.layer.nondistributable.v1.tar":      None,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip": Gzip,
	"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": Zstd,
	"application/vnd.docker.image.rootfs.diff.tar":                 None,
	"application/vnd.docker.image.rootfs.diff.tar.gzip":            Gzip,
	"application/vnd.docker.image.rootfs.diff.tar.zstd":            Zstd,
	"application/vnd.docker.image.rootfs.diff.tar+zstd":            Zstd,
	"application/vnd.docker.image.rootfs.foreign.diff.tar":         None,
	"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    Gzip,
	"application/vnd.docker.image.rootfs.foreign.diff.tar.zstd":    Zstd,
	"application/vnd.docker.image.rootfs.foreign.diff.tar+zstd":    Zstd,
}

// Common reports whether a media type is one of an ordinary layer: an archive, compressed or not. Which of them makes no
// difference to who unpacks it, since a blob's first bytes tell the compression.
func Common(mediaType string) bool { return common[mediaType] != Unknown }

// CompressionOf returns the compression that a layer's media type names.
func CompressionOf(mediaType string) Compression { return common[mediaType] }

// restricted pairs the media types of layers with those that say that the layer must not be pushed to other registries.
var restricted = map[string]string{
	"application/vnd.oci.image.layer.v1.tar":            "application/vnd.oci.image.layer.nondistributable.v1.tar",
	"application/vnd.oci.image.layer.v1.tar+gzip":       "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
	"application/vnd.oci.image.layer.v1.tar+zstd":       "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
	"application/vnd.docker.image.rootfs.diff.tar":      "application/vnd.docker.image.rootfs.foreign.diff.tar",
	"application/vnd.docker.image.rootfs.diff.tar.gzip": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
}

var free = func() map[string]string {
	out := map[string]string{}
	for open, closed := range restricted {
		out[closed] = open
	}
	return out
}()

// NonDistributable returns the media type for a layer that has to be fetched from where its URLs say; one that has no such form is
// returned as it is (spec DESC-2).
func NonDistributable(mediaType string) string {
	if t, ok := restricted[mediaType]; ok {
		return t
	}
	return mediaType
}

// Distributable is the opposite of NonDistributable.
func Distributable(mediaType string) string {
	if t, ok := free[mediaType]; ok {
		return t
	}
	return mediaType
}
