// Package alias is what a BuildKit fork puts in place of its own cache. It has no code: what counts are the directories below it, which
// lie here as they lie in BuildKit's module.
//
// Five of them replace a package whole, its tests included:
//
//	cache, cache/metadata, cache/config, snapshot, snapshot/containerd
//
// Five are leaves: single types of packages that stay, and that both sides of the seam must agree on. Their declarations, with
// their methods, are cut out of BuildKit's files and the file of the leaf is added to the package:
//
//	session           Group, Iterator
//	client            UsageInfo, UsageRecordType, DiskUsageInfo, PruneInfo
//	solver            Remote
//	executor          MountableRef
//	util/compression  Type, Config, Compressor, Finalizer
//
// Everything is an alias of, or a call to, the library, and so is its documentation: what a name means is said there. Three functions
// do more. cache.NewManager gives the library BuildKit's own transfers, layer mode and tracing; cache/metadata.NewStore opens the
// database with BuildKit's own handle, which compacts it; and cache.MergeNydus, under the build tag nydus, merges the layers of an image of nydus.
//
// Here they are packages of this module, so that they are compiled, vetted and linted against BuildKit as it is. Package overlay
// puts them into BuildKit: into a build, by `go build -overlay`, or into the files of a fork. docs/buildkit.md is for its maintainer.
package alias
