package snapshot

import (
	_ "crypto/sha256" // a digest algorithm exists only where its hash is linked in
	_ "crypto/sha512" // sha384 as well
	"strings"

	"github.com/opencontainers/go-digest"
)

// layerSnapshotPrefix sets the snapshots of layers that came as blobs apart from those that old releases
// named after the bare chain ID, without having verified their content.
const layerSnapshotPrefix = "buildkit-layer-snapshot-v1-"

// LayerSnapshotID returns the snapshot ID of the layer with this chain ID, or "" if it is not a valid digest
// of sha256, sha384 or sha512.
func LayerSnapshotID(chainID digest.Digest) string {
	if chainID.Validate() != nil {
		return ""
	}
	return layerSnapshotPrefix + chainID.Algorithm().String() + "-" + chainID.Encoded()
}

// ParseLayerSnapshotID returns the chain ID in a snapshot ID that LayerSnapshotID made. Anything else, an ID
// with something appended or with upper-case digits for instance, is not ok.
func ParseLayerSnapshotID(id string) (digest.Digest, bool) {
	rest, ok := strings.CutPrefix(id, layerSnapshotPrefix)
	if !ok {
		return "", false
	}
	algorithm, hex, ok := strings.Cut(rest, "-")
	if !ok {
		return "", false
	}
	chainID := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	// The way back is the definition; it also covers whatever the digest syntax may come to allow.
	if LayerSnapshotID(chainID) != id {
		return "", false
	}
	return chainID, true
}
