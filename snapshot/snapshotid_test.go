package snapshot_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/layercache/cache/snapshot"
)

// TestLayerSnapshotID pins the form, and the way back (spec REC-8, REC-9).
func TestLayerSnapshotID(t *testing.T) {
	empty := digest.Digest("sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
	require.Equal(t, "buildkit-layer-snapshot-v1-sha256-e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		snapshot.LayerSnapshotID(empty))
	for _, alg := range []digest.Algorithm{digest.SHA256, digest.SHA384, digest.SHA512} {
		chainID := alg.FromString("layer")
		got, ok := snapshot.ParseLayerSnapshotID(snapshot.LayerSnapshotID(chainID))
		require.True(t, ok, alg)
		require.Equal(t, chainID, got)
	}
}

// TestLayerSnapshotIDOfNonsense: what is no digest has no ID, and nothing panics (spec REC-9).
func TestLayerSnapshotIDOfNonsense(t *testing.T) {
	hex := digest.FromString("layer").Encoded()
	for _, d := range []digest.Digest{
		"", ":", "sha256", "sha256:", digest.Digest(hex), digest.Digest("sha256:" + hex[1:]), digest.Digest("sha512:" + hex),
		digest.Digest("sha256:" + strings.ToUpper(hex)), "md5:d41d8cd98f00b204e9800998ecf8427e", digest.Digest("sha256:" + hex + "/.."),
		digest.Digest("SHA256:" + hex), digest.Digest("sha256:" + hex + "\n"), "sha256:../../../etc/passwd",
	} {
		require.Empty(t, snapshot.LayerSnapshotID(d), "%q", d)
	}
}

// hostileIDs are near misses; also the seeds of the fuzz test.
func hostileIDs() []string {
	const prefix = "buildkit-layer-snapshot-v1-"
	hex := digest.FromString("layer").Encoded()
	return []string{
		"", "-", prefix, prefix + "-", prefix + "sha256", prefix + "sha256-", prefix + "sha256-" + hex[:63],
		prefix + "sha256-" + hex + "0", prefix + "sha256-" + hex + "-view", prefix + "sha256-" + hex + "\n",
		prefix + "sha256-" + hex + "\x00", prefix + "sha256-" + strings.ToUpper(hex), prefix + "SHA256-" + hex,
		prefix + "sha256:" + hex, prefix + "sha384-" + hex, prefix + "md5-d41d8cd98f00b204e9800998ecf8427e",
		prefix + "blake3-" + hex, prefix + "-" + hex, prefix + "sha256--" + hex, " " + prefix + "sha256-" + hex,
		prefix + "sha256-" + hex[:62] + "..", prefix + "sha256-" + strings.Repeat("é", 32),
		"buildkit-layer-snapshot-v2-sha256-" + hex, "Buildkit-layer-snapshot-v1-sha256-" + hex,
		"sha256:" + hex, hex, prefix + prefix + "sha256-" + hex, prefix + "sha256:" + hex + "-" + hex,
		strings.Repeat("a", 1<<16),
	}
}

// TestParseLayerSnapshotIDRejects pins what is not ok (spec REC-9).
func TestParseLayerSnapshotIDRejects(t *testing.T) {
	for _, id := range hostileIDs() {
		got, ok := snapshot.ParseLayerSnapshotID(id)
		require.False(t, ok, "%q", id)
		require.Empty(t, got)
	}
}

// FuzzParseLayerSnapshotID: what parses is a valid digest whose ID it is (spec REC-9).
func FuzzParseLayerSnapshotID(f *testing.F) {
	for _, id := range hostileIDs() {
		f.Add(id)
	}
	f.Add(snapshot.LayerSnapshotID(digest.FromString("layer")))
	f.Fuzz(func(t *testing.T, id string) {
		chainID, ok := snapshot.ParseLayerSnapshotID(id)
		if !ok {
			require.Empty(t, chainID)
			return
		}
		require.NoError(t, chainID.Validate())
		require.Equal(t, id, snapshot.LayerSnapshotID(chainID))
	})
}
