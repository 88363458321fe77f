package cache

// Keys of a record's row, as BuildKit's format names them (spec 1.2).
const (
	keyCreatedAt     = "cache.createdAt"
	keyLastUsedAt    = "cache.lastUsedAt"
	keyUsageCount    = "cache.usageCount"
	keyDescription   = "cache.description"
	keyRecordType    = "cache.recordType"
	keyLayerType     = "cache.layerType"
	keyCachePolicy   = "cache.cachePolicy"
	keySize          = "snapshot.size"
	keyCommitted     = "snapshot.committed"
	keyEqualMutable  = "cache.equalMutable"
	keySnapshot      = "cache.snapshot"
	keyParent        = "cache.parent"
	keyMergeParents  = "cache.mergeParents"
	keyLowerDiff     = "cache.lowerDiffParent"
	keyUpperDiff     = "cache.upperDiffParent"
	keyDiffID        = "cache.diffID"
	keyLayerIdentity = "cache.layerIdentity"
	keyChainID       = "cache.chainID"
	keyBlobChainID   = "cache.blobChainID"
	keyBlob          = "cache.blob"
	keyBlobOnly      = "cache.blobonly"
	keyBlobSize      = "cache.blobsize"
	keyMediaType     = "cache.mediatype"
	keyURLs          = "cache.layer.urls"
	keyImageRefs     = "cache.imageRefs"
	keyDeleted       = "cache.deleted"
)

// keyUnsynced is this library's own: its value is the ID of the boot under which the record's tree was written,
// and it is there while nothing says that the bytes are on disk (docs/adr/0030). BuildKit leaves it alone.
const keyUnsynced = "layercache.unsynced"

// keySquashed is this library's own, too: true if the tree was unpacked by a process that could not give files away, so
// that owners and what else takes a privilege are not those of the blob (design section 6b).
const keySquashed = "layercache.squashed"

// keyPinned is this library's own: true if the record must not be pruned.
const keyPinned = "layercache.pinned"

// Values of keyCachePolicy.
const (
	policyDefault = 0
	policyRetain  = 1
)

// sizeUnknown stands for a size that nobody measured yet.
const sizeUnknown int64 = -1

// ownKeys are the keys that only the cache itself writes.
var ownKeys = func() map[string]bool {
	own := map[string]bool{}
	for _, k := range []string{
		keyCreatedAt, keyLastUsedAt, keyUsageCount, keyCachePolicy, keySize, keyCommitted, keyEqualMutable,
		keySnapshot, keyParent, keyMergeParents, keyLowerDiff, keyUpperDiff, keyDiffID, keyLayerIdentity,
		keyChainID, keyBlobChainID, keyBlob, keyBlobOnly, keyBlobSize, keyMediaType, keyURLs, keyImageRefs, keyDeleted,
		keyUnsynced, keySquashed, keyPinned,
	} {
		own[k] = true
	}
	return own
}()
